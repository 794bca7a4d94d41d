//! Decodes objects one by one, so that an object that cannot be decoded does not break the rest of a list or a watch.
//!
//! The `DeserializeGuard` of the `kube` crate buffers each object as a tree of values, which takes several times the
//! size of the object. It also fails on objects that are nested more than 128 levels deep, and on objects whose
//! metadata cannot be decoded. A user who may write objects in a single namespace can cause each of these problems.

use std::fmt::Debug;
use std::marker::PhantomData;

use k8s_openapi::Resource;
use k8s_openapi::api::{coordination, core, discovery};
use kube::core::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use endpoint_copier_core::model::{self, EndpointSlice, NodeObject, Service, Unreadable};

/// A type of this crate that holds part of an API resource.
pub trait Slim: Clone + Debug + DeserializeOwned + Send + 'static {
    /// The API resource of which the type holds a part.
    type Resource: Resource;

    /// Returns the metadata of the object.
    fn metadata(&self) -> &model::ObjectMeta;
}

impl Slim for Service {
    type Resource = core::v1::Service;

    fn metadata(&self) -> &model::ObjectMeta {
        &self.metadata
    }
}

impl Slim for EndpointSlice {
    type Resource = discovery::v1::EndpointSlice;

    fn metadata(&self) -> &model::ObjectMeta {
        &self.metadata
    }
}

impl Slim for NodeObject {
    type Resource = core::v1::Node;

    fn metadata(&self) -> &model::ObjectMeta {
        &self.metadata
    }
}

/// The metadata of an object of the API resource `R`, read from the object or from its `PartialObjectMetadata`.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "")]
pub struct Metadata<R> {
    /// The fields of the metadata that the operator uses.
    pub metadata: model::ObjectMeta,
    #[serde(skip)]
    resource: PhantomData<R>,
}

/// The metadata of an EndpointSlice.
pub type SliceMetadata = Metadata<discovery::v1::EndpointSlice>;

/// The metadata of an `Endpoints` object.
pub type EndpointsMetadata = Metadata<core::v1::Endpoints>;

/// The metadata of a Node.
pub type NodeMetadata = Metadata<core::v1::Node>;

/// The metadata of a Lease.
pub type LeaseMetadata = Metadata<coordination::v1::Lease>;

impl<R: Resource + Clone + Debug + Send + 'static> Slim for Metadata<R> {
    type Resource = R;

    fn metadata(&self) -> &model::ObjectMeta {
        &self.metadata
    }
}

/// An object that always decodes: as itself, or as the parts that can be read.
#[derive(Clone, Debug)]
pub struct Guarded<K> {
    /// The object, or the parts of it that can be read.
    pub object: Result<K, Box<Unreadable>>,
    /// Needed by the `kube` crate, which reads the resourceVersion here.
    metadata: ObjectMeta,
}

impl<K: Slim> Guarded<K> {
    /// Returns the metadata of the object, or the readable part of that metadata.
    pub fn slim_metadata(&self) -> &model::ObjectMeta {
        match &self.object {
            Ok(object) => object.metadata(),
            Err(unreadable) => &unreadable.metadata,
        }
    }
}

impl<'de, K: Slim> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let object = serde_json::from_str::<K>(raw.get());
        let object = object.map_err(|error| Box::new(Unreadable::read(&raw, error)));
        let mut guarded = Self {
            object,
            metadata: ObjectMeta::default(),
        };
        let metadata = guarded.slim_metadata();
        guarded.metadata = ObjectMeta {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            resource_version: metadata.resource_version.clone(),
            ..ObjectMeta::default()
        };
        Ok(guarded)
    }
}

impl<K: Slim> Resource for Guarded<K> {
    const API_VERSION: &'static str = K::Resource::API_VERSION;
    const GROUP: &'static str = K::Resource::GROUP;
    const KIND: &'static str = K::Resource::KIND;
    const VERSION: &'static str = K::Resource::VERSION;
    const URL_PATH_SEGMENT: &'static str = K::Resource::URL_PATH_SEGMENT;
    type Scope = <K::Resource as Resource>::Scope;
}

impl<K: Slim> k8s_openapi::Metadata for Guarded<K> {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use kube::Resource as _;
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::json;

    use super::*;

    #[test]
    fn an_undecodable_object_does_not_affect_others() {
        let list = json!({
            "apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "9"},
            "items": [
                {"metadata": {"name": "a", "namespace": "x"}},
                {"metadata": {"name": "b", "namespace": "x", "resourceVersion": "7"}, "spec": {"ports": {}}},
                {"metadata": {"name": "c", "namespace": "x"}, "spec": {}},
            ],
        });
        let list: ObjectList<Guarded<Service>> = serde_json::from_str(&list.to_string()).unwrap();
        let readable = list.items.iter().map(|item| item.object.is_ok());
        assert_eq!(readable.collect::<Vec<_>>(), [true, false, true]);
        let names = list.items.iter().map(|item| item.slim_metadata().name.as_deref());
        assert_eq!(names.collect::<Vec<_>>(), [Some("a"), Some("b"), Some("c")]);
        assert_eq!(list.items[1].meta().resource_version.as_deref(), Some("7"));
    }

    #[test]
    fn an_event_about_an_undecodable_object_is_decoded() {
        let line = r#"{"type":"DELETED","object":{"metadata":{"name":"a"},"addressType":7}}"#;
        let event: WatchEvent<Guarded<EndpointSlice>> = serde_json::from_str(line).unwrap();
        let WatchEvent::Deleted(slice) = event else {
            panic!("{event:?}")
        };
        assert_eq!(slice.object.unwrap_err().metadata.name.as_deref(), Some("a"));
    }
}
