//! Calls that read and write objects, as an administrator does with kubectl.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::Resource;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::objects::{self, typed};
use crate::wait::{PATIENCE, until, within};

/// A kind of namespaced objects that tests read and write.
pub trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + Serialize
    + DeserializeOwned
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned
{
}

impl Cluster {
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A client with the permissions of an administrator.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Sends an object unchanged in a POST, and returns the status code.
    pub async fn post(&self, path: &str, object: Value) -> u16 {
        self.send(http::Method::POST, path, object).await
    }

    /// Sends an object unchanged with this method, and returns the status code.
    pub async fn send(&self, method: http::Method, path: &str, object: Value) -> u16 {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(object.to_string().into_bytes().into())
            .expect("a request");
        let answer = self.client.send(request).await.expect("an API server");
        answer.status().as_u16()
    }

    /// The object at a path, exactly as the API server sends it.
    pub async fn get(&self, path: &str) -> Value {
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        self.client.request(request).await.expect("an object")
    }

    /// Creates a Namespace.
    pub async fn namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = typed(testbed::builders::namespace(name));
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .expect("a namespace");
    }

    /// Creates an object.
    pub async fn create<K: Object>(&self, object: Value) -> K {
        let object: K = typed(object);
        let namespace = object.meta().namespace.clone().unwrap_or_default();
        self.api(&namespace)
            .create(&PostParams::default(), &object)
            .await
            .expect("a valid object")
    }

    /// Creates the object, or replaces the existing one.
    pub async fn put<K: Object>(&self, object: Value) -> K {
        let mut object: K = typed(object);
        let meta = object.meta().clone();
        let (namespace, name) = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
        let api = self.api::<K>(&namespace);
        loop {
            let result = match api.get_opt(&name).await.expect("an API server") {
                None => api.create(&PostParams::default(), &object).await,
                Some(known) => {
                    object
                        .meta_mut()
                        .resource_version
                        .clone_from(&known.meta().resource_version);
                    api.replace(&name, &PostParams::default(), &object).await
                }
            };
            match result {
                Ok(object) => return object,
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => panic!("cannot write {namespace}/{name}: {error}"),
            }
        }
    }

    /// Changes an object with a merge patch.
    pub async fn patch<K: Object>(&self, namespace: &str, name: &str, patch: Value) -> K {
        let patch = Patch::Merge(patch);
        self.api(namespace)
            .patch(name, &PatchParams::default(), &patch)
            .await
            .expect("a valid patch")
    }

    /// Waits until an object no longer exists.
    pub async fn gone<K: Object>(&self, namespace: &str, name: &str) {
        let what = format!("{namespace}/{name} is gone");
        until(&what, async || self.try_get::<K>(namespace, name).await.is_none()).await;
    }

    /// Deletes an object.
    pub async fn delete<K: Object>(&self, namespace: &str, name: &str) {
        self.api::<K>(namespace)
            .delete(name, &DeleteParams::default())
            .await
            .expect("an object to delete");
    }

    /// An object, or `None` if it does not exist.
    pub async fn try_get<K: Object>(&self, namespace: &str, name: &str) -> Option<K> {
        self.api(namespace).get_opt(name).await.expect("an API server")
    }

    /// All objects of a kind in a namespace.
    pub async fn list<K: Object>(&self, namespace: &str) -> Vec<K> {
        self.api(namespace)
            .list(&ListParams::default())
            .await
            .expect("a list")
            .items
    }

    /// The slices of a Service.
    pub async fn slices_of(&self, namespace: &str, service: &str) -> Vec<EndpointSlice> {
        let of = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        self.api(namespace).list(&of).await.expect("a list").items
    }

    /// The addresses in the slices of a Service, sorted.
    pub async fn addresses_of(&self, namespace: &str, service: &str) -> Vec<String> {
        objects::addresses(&self.slices_of(namespace, service).await)
    }

    /// Waits until the slices of a Service have exactly these addresses. `wanted` must be sorted.
    pub async fn until_addresses(&self, namespace: &str, service: &str, wanted: &[&str]) {
        let mut shown = Vec::new();
        let met = within(PATIENCE, async || {
            shown = self.addresses_of(namespace, service).await;
            shown == wanted
        });
        assert!(met.await, "{namespace}/{service} shows {shown:?}, not {wanted:?}");
    }

    /// Waits until the slices of a Service meet a condition, and returns them.
    pub async fn until_slices(
        &self,
        namespace: &str,
        service: &str,
        what: &str,
        condition: impl Fn(&[EndpointSlice]) -> bool,
    ) -> Vec<EndpointSlice> {
        let mut slices = Vec::new();
        let met = within(PATIENCE, async || {
            slices = self.slices_of(namespace, service).await;
            condition(&slices)
        });
        assert!(met.await, "{what}: {slices:#?}");
        slices
    }
}
