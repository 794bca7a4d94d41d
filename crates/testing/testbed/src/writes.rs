//! Create, update, patch and delete. The order of the checks is that of the real server
//! (registry/generic/registry/store.go), because clients can see which of several errors is reported.

use crate::{
    events,
    field::FieldError,
    history::Key,
    kinds::{Kind, Storage},
    object::{self, meta},
    patch::Patch,
    state::State,
    status::{ApiError, details},
    typed, validate,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// The part of an object that a write changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status.
    Main,
    /// The status, and metadata.
    Status,
}

/// The fields of `DeleteOptions` that the testbed supports.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
    /// `propagationPolicy`.
    pub propagation: Option<String>,
}

impl DeleteOptions {
    /// Parses the body of a DELETE.
    #[must_use]
    pub fn read(body: &Value) -> Self {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let orphan = (body["orphanDependents"] == true).then(|| "Orphan".to_owned());
        Self {
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            propagation: text(&body["propagationPolicy"]).or(orphan),
        }
    }
}

impl State {
    /// POST.
    ///
    /// # Errors
    /// 400, 403, 404, 409, 422, or 500 if the object has a resourceVersion.
    pub fn create(&mut self, kind: &Kind, namespace: &str, body: Value) -> Result<Arc<Value>, ApiError> {
        let mut new = Self::decode(kind, namespace, body)?;
        self.namespace_lifecycle(kind, namespace, object::name(&new))?;
        let prefix = meta(&new, "generateName").to_owned();
        if object::name(&new).is_empty() && !prefix.is_empty() {
            let room = prefix.chars().take(58).collect::<String>();
            let name = format!("{room}{}", self.name_suffix());
            object::set_meta(&mut new, "name", Some(name.into()));
        }
        object::set_meta(&mut new, "uid", Some(self.new_uid().into()));
        object::set_meta(&mut new, "creationTimestamp", Some(self.clock.seconds().into()));
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
            object::set_meta(&mut new, field, None);
        }
        self.fill_in(kind, &mut new, None);
        let name = object::name(&new).to_owned();
        let errors = validate::object(kind, &new, None, self.loopback);
        if !errors.is_empty() {
            return Err(ApiError::invalid(kind, &name, &errors));
        }
        if !meta(&new, "resourceVersion").is_empty() {
            return Err(ApiError::new(
                500,
                "",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let key = Self::key(kind, namespace, &name);
        if self.get(&key).is_some() {
            return Err(ApiError::already_exists(kind, &name));
        }
        Ok(self.commit(key, Some(new)))
    }

    /// PUT. Returns the object, and whether it was created.
    ///
    /// # Errors
    ///
    /// 400, 403, 404, 409, 422.
    pub fn update(
        &mut self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        body: Value,
    ) -> Result<(Arc<Value>, bool), ApiError> {
        let mut new = Self::decode(kind, namespace, body)?;
        check_name(&new, name)?;
        let key = Self::key(kind, namespace, name);
        let old = self.get(&key).cloned();
        let uid_there = old.as_ref().map_or("", |old| object::uid(old)).to_owned();
        let uid_given = object::uid(&new).to_owned();
        if old.is_none() && !kind.create_on_update {
            return Err(ApiError::not_found(kind, name));
        }
        if !uid_given.is_empty() && uid_given != uid_there {
            let path = if kind.namespaced {
                format!("/{namespace}/{name}")
            } else {
                format!("/{name}")
            };
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {}{path}, ResourceVersion: 0, AdditionalErrorMsg: \
                 Precondition failed: UID in precondition: {uid_given}, UID in object meta: {uid_there}",
                kind.registry
            );
            return Err(ApiError::conflict(kind, name, &why));
        }
        let Some(old) = old else {
            object::set_meta(&mut new, "resourceVersion", None);
            return Ok((self.create(kind, namespace, events::view(kind, &new))?, true));
        };
        Ok((self.replace(kind, &key, &old, new, part)?, false))
    }

    /// PATCH.
    ///
    /// # Errors
    /// 400, 403, 404, 409, 422.
    pub fn patch(
        &mut self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        patch: &Patch,
    ) -> Result<Arc<Value>, ApiError> {
        let key = Self::key(kind, namespace, name);
        let old = self
            .get(&key)
            .cloned()
            .ok_or_else(|| ApiError::not_found(kind, name))?;
        let patched = patch.apply(&events::view(kind, &old))?;
        let new = Self::decode(kind, namespace, patched)?;
        check_name(&new, name)?;
        self.replace(kind, &key, &old, new, part)
    }

    fn replace(
        &mut self,
        kind: &Kind,
        key: &Key,
        old: &Arc<Value>,
        mut new: Value,
        part: Part,
    ) -> Result<Arc<Value>, ApiError> {
        match (meta(&new, "resourceVersion"), meta(old, "resourceVersion")) {
            // 0 counts as absent: the versioner parses both to the same number.
            ("" | "0", _) if kind.unconditional_update => {}
            ("" | "0", _) => {
                let (field, why) = ("metadata.resourceVersion", "must be specified for an update");
                let errors = [FieldError::invalid(field, &json!(0), why)];
                return Err(ApiError::invalid_named(
                    kind.group,
                    kind.plural,
                    &key.name,
                    &errors,
                ));
            }
            (given, there) if given != there => return Err(ApiError::stale(kind, &key.name)),
            _ => {}
        }
        if object::uid(&new).is_empty() {
            object::set_meta(&mut new, "uid", Some(object::uid(old).into()));
        }
        let kept: &[&str] = if object::is_terminating(old) {
            &[
                "creationTimestamp",
                "resourceVersion",
                "generation",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
            ]
        } else {
            &["creationTimestamp", "resourceVersion", "generation"]
        };
        for field in kept {
            object::set_meta(&mut new, field, old["metadata"].get(field).cloned());
        }
        if new["metadata"]["managedFields"].is_null() {
            object::set_meta(
                &mut new,
                "managedFields",
                old["metadata"].get("managedFields").cloned(),
            );
        }
        let untouched = if part == Part::Status { "spec" } else { "status" };
        if kind.status {
            new[untouched] = old[untouched].clone();
        }
        self.fill_in(kind, &mut new, Some(old));
        let errors = validate::object(kind, &new, Some(old), self.loopback);
        if !errors.is_empty() {
            return Err(ApiError::invalid(kind, &key.name, &errors));
        }
        if object::is_terminating(old) && is_free(kind, &new) {
            self.commit(key.clone(), None);
            return Ok(Arc::new(new));
        }
        if new == **old {
            return Ok(Arc::clone(old));
        }
        Ok(self.commit(key.clone(), Some(new)))
    }

    /// DELETE. Returns the object or a `Status`.
    ///
    /// # Errors
    ///
    /// 403 for a namespace that a cluster needs, 404, 409.
    pub fn delete(
        &mut self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value, ApiError> {
        let key = Self::key(kind, namespace, name);
        if kind.storage == Storage::Namespace && ["default", "kube-system", "kube-public"].contains(&name) {
            return Err(ApiError::forbidden(
                kind,
                name,
                "this namespace may not be deleted",
            ));
        }
        let old = self
            .get(&key)
            .cloned()
            .ok_or_else(|| ApiError::not_found(kind, name))?;
        preconditions(kind, &old, options)?;
        let mut new = (*old).clone();
        let finalizer = match options.propagation.as_deref() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        let mut finalizers: Vec<&str> = object::finalizers(&old);
        if let Some(finalizer) = finalizer.filter(|f| !finalizers.contains(f)) {
            finalizers.push(finalizer);
            object::set_meta(&mut new, "finalizers", Some(json!(finalizers)));
        }
        if is_free(kind, &new) {
            let gone = self.commit(key, None);
            return Ok(if kind.returns_deleted {
                events::view(kind, &gone)
            } else {
                success(kind, &old)
            });
        }
        if object::is_terminating(&old) {
            return Ok(events::view(kind, &old));
        }
        object::set_meta(&mut new, "deletionTimestamp", Some(self.clock.seconds().into()));
        if kind.storage == Storage::Namespace {
            new["status"]["phase"] = "Terminating".into();
        } else {
            object::set_meta(&mut new, "deletionGracePeriodSeconds", Some(0.into()));
            if let Some(generation) = old["metadata"]["generation"].as_u64() {
                object::set_meta(&mut new, "generation", Some((generation + 1).into()));
            }
        }
        Ok(events::view(kind, &self.commit(key, Some(new))))
    }

    /// The body of a request as a stored object of this kind and namespace.
    fn decode(kind: &Kind, namespace: &str, body: Value) -> Result<Value, ApiError> {
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        let (version, name) = (text("apiVersion"), text("kind"));
        if (!version.is_empty() && version != kind.api_version()) || (!name.is_empty() && name != kind.kind) {
            return Err(ApiError::bad_request(format!(
                "{name} in version {version:?} cannot be handled as a {}",
                kind.kind
            )));
        }
        let mut new = typed::round_trip(kind, events::to_stored(kind, body))?;
        if kind.namespaced {
            if object::namespace(&new).is_empty() {
                object::set_meta(&mut new, "namespace", Some(namespace.into()));
            } else if object::namespace(&new) != namespace {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
        Ok(new)
    }

    /// The `NamespaceLifecycle` admission plugin: nothing is created in a namespace that is missing or terminating.
    fn namespace_lifecycle(&self, kind: &Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
        if !kind.namespaced {
            return Ok(());
        }
        let namespaces = crate::kinds::by_resource("", "v1", "namespaces").unwrap_or(kind);
        let found = self.get(&Self::key(namespaces, "", namespace));
        let Some(found) = found else {
            return Err(ApiError::not_found(namespaces, namespace));
        };
        if !object::is_terminating(found) {
            return Ok(());
        }
        Err(namespace_terminating(kind, namespace, name))
    }
}

/// The error of a create in a terminating namespace.
pub(crate) fn namespace_terminating(kind: &Kind, namespace: &str, name: &str) -> ApiError {
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut error = ApiError::forbidden(kind, name, &why);
    let cause = json!({
        "reason": "NamespaceTerminating",
        "message": format!("namespace {namespace} is being terminated"),
        "field": "metadata.namespace",
    });
    if let Some(details) = &mut error.details {
        details["causes"] = json!([cause]);
    }
    error
}

/// Whether nothing delays the removal of the object. A Namespace also has finalizers in `spec`.
fn is_free(kind: &Kind, object: &Value) -> bool {
    object::finalizers(object).is_empty()
        && (kind.storage != Storage::Namespace || object::array(&object["spec"]["finalizers"]).is_empty())
}

fn check_name(new: &Value, name: &str) -> Result<(), ApiError> {
    match object::name(new) {
        "" => Err(ApiError::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given if given != name => Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
        _ => Ok(()),
    }
}

fn preconditions(kind: &Kind, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let name = object::name(old);
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != object::uid(old)) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            object::uid(old)
        );
        return Err(ApiError::delete_conflict(kind, name, &why));
    }
    let there = meta(old, "resourceVersion");
    if let Some(given) = options
        .resource_version
        .as_deref()
        .filter(|given| *given != there)
    {
        let why = format!(
            "the ResourceVersion in the precondition ({given}) does not match the ResourceVersion in record \
             ({there}). The object might have been modified"
        );
        return Err(ApiError::delete_conflict(kind, name, &why));
    }
    Ok(())
}

fn success(kind: &Kind, gone: &Value) -> Value {
    let mut details = details(object::name(gone), kind.group, kind.plural);
    details["uid"] = object::uid(gone).into();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
