//! Calls with which tests read and write objects. They use the same code as HTTP requests for defaults, validation,
//! events and garbage collection.

use super::Store;
use crate::{
    events,
    kinds::{self, Kind},
    object,
    patch::Patch,
    state::{State, select},
    status::ApiError,
    writes::{DeleteOptions, Part},
};
use serde_json::Value;

impl Store {
    /// Creates or replaces an object, as an administrator does. The object must name its API version and kind. The
    /// default namespace is `default`.
    ///
    /// # Errors
    ///
    /// The errors of a POST or a PUT, and 404 for an unknown kind.
    pub fn put(&self, mut object: Value) -> Result<Value, ApiError> {
        let (kind, namespace, name) = address(&object)?;
        self.write(|state| {
            match state.get(&State::key(kind, &namespace, &name)).cloned() {
                Some(old) => {
                    if object::meta(&object, "resourceVersion").is_empty() {
                        let newest = object::meta(&old, "resourceVersion").into();
                        object::set_meta(&mut object, "resourceVersion", Some(newest));
                    }
                    state
                        .update(kind, &namespace, &name, Part::Main, object)
                        .map(|(o, _)| o)
                }
                None => state.create(kind, &namespace, object),
            }
            .map(|o| events::view(kind, &o))
        })
    }

    /// Creates an object.
    ///
    /// # Errors
    /// The errors of a POST.
    pub fn create(&self, object: Value) -> Result<Value, ApiError> {
        let (kind, namespace, _) = address(&object)?;
        self.write(|state| {
            state
                .create(kind, &namespace, object)
                .map(|o| events::view(kind, &o))
        })
    }

    /// Replaces an object. A resourceVersion or UID in it is a precondition.
    ///
    /// # Errors
    ///
    /// The errors of a PUT.
    pub fn update(&self, object: Value) -> Result<Value, ApiError> {
        let (kind, namespace, name) = address(&object)?;
        self.write(|state| {
            let (object, _) = state.update(kind, &namespace, &name, Part::Main, object)?;
            Ok(events::view(kind, &object))
        })
    }

    /// Merges a patch into an object.
    ///
    /// # Errors
    /// The errors of a PATCH.
    pub fn patch(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> Result<Value, ApiError> {
        self.patch_part(resource, namespace, name, Part::Main, patch)
    }

    /// Merges a patch into an object's status.
    ///
    /// # Errors
    /// The errors of a PATCH.
    pub fn patch_status(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> Result<Value, ApiError> {
        self.patch_part(resource, namespace, name, Part::Status, patch)
    }

    fn patch_part(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        part: Part,
        patch: Value,
    ) -> Result<Value, ApiError> {
        let kind = kind(resource)?;
        let patch = Patch::Merge(patch);
        self.write(|state| {
            let object = state.patch(kind, namespace, name, part, &patch)?;
            Ok(events::view(kind, &object))
        })
    }

    /// Merges a patch into an object, and neither decodes nor validates the result. To a client, the object looks as if
    /// an API server of another version, or a proxy, had damaged it.
    ///
    /// # Errors
    /// 404 if there is no such resource or object.
    pub fn spoil(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> Result<Value, ApiError> {
        let kind = kind(resource)?;
        self.write(|state| {
            let key = State::key(kind, namespace, name);
            let old = state.get(&key).cloned();
            let old = old.ok_or_else(|| ApiError::not_found(kind, name))?;
            let spoiled = Patch::Merge(patch).apply(&old)?;
            Ok(state.commit(key, Some(spoiled)).as_ref().clone())
        })
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// The errors of a DELETE.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> Result<(), ApiError> {
        let kind = kind(resource)?;
        let options = DeleteOptions::default();
        self.write(|state| state.delete(kind, namespace, name, &options).map(drop))
    }

    /// An object, or `None` if it does not exist. Resources are named by their plural (`endpointslices`).
    /// `events.events.k8s.io` is the newer view of Events.
    #[must_use]
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = kinds::by_name(resource)?;
        self.read(|state| {
            state
                .get(&State::key(kind, namespace, name))
                .map(|o| events::view(kind, o))
        })
    }

    /// All objects of a resource, in one namespace or in all namespaces.
    #[must_use]
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Value> {
        let Some(kind) = kinds::by_name(resource) else {
            return Vec::new();
        };
        self.read(|state| {
            select(&state.objects, kind.storage, namespace)
                .map(|(_, o)| events::view(kind, o))
                .collect()
        })
    }
}

fn kind(resource: &str) -> Result<&'static Kind, ApiError> {
    kinds::by_name(resource).ok_or_else(ApiError::no_such_resource)
}

fn address(object: &Value) -> Result<(&'static Kind, String, String), ApiError> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let kind = kinds::by_kind(text("apiVersion"), text("kind")).ok_or_else(ApiError::no_such_resource)?;
    let namespace = match object::namespace(object) {
        "" if kind.namespaced => "default",
        namespace => namespace,
    };
    Ok((kind, namespace.to_owned(), object::name(object).to_owned()))
}
