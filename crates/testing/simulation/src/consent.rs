//! Whether a source in another namespace may be copied, computed from the store.

use std::time::Duration;

use endpoint_copier_core::model::CrossNamespace;
use serde_json::Value;
use testbed::Store;

use crate::fault::Verb;
use crate::objects::{self, SOURCES};
use crate::oracle;
use crate::sent::Sent;
use crate::slices::{
    Key, SERVICE_NAME, annotation, endpoints, is_ours, key, label, owner, provenance, version,
};
use crate::unreadable::is_unreadable;
use crate::world::World;

/// The annotation of a source that says who may copy it.
pub const ALLOW_FROM: &str = "endpoint-copier/allow-from";

/// The prefix of the names of sources that [`Step::Storm`](crate::schedule::Step::Storm) invents.
pub const INVENTED: &str = "invented";

/// Whether a Service in this namespace may copy a source. `None` if this is unknown because the source cannot be
/// decoded, and a replica might not have seen it before.
pub fn is_given(store: &Store, namespace: &str, source: &Key) -> Option<bool> {
    let (of, name) = (source.0.as_str(), source.1.as_str());
    if of == namespace || (of, name) == SOURCES[0] {
        return Some(true);
    }
    match store.get("services", of, name) {
        None => Some(false),
        Some(service) if is_unreadable(&service) => None,
        Some(service) => Some(annotation(&service, ALLOW_FROM) == Some("*")),
    }
}

/// The source of a copy, if copying it needs consent.
pub fn source_elsewhere(copy: &Value) -> Option<Key> {
    let (namespace, slice) = (provenance(copy, "namespace")?, provenance(copy, "slice")?);
    let source = objects::source_of(namespace, slice)?;
    let needs_consent = namespace != key(copy).0 && (namespace, source) != SOURCES[0];
    needs_consent.then(|| (namespace.to_owned(), source.to_owned()))
}

impl World {
    fn needs_consent(&self) -> bool {
        self.state().cross_namespace == CrossNamespace::Consent
    }

    /// Whether a replica may delete a copy because consent is missing: the source does not give consent, or the Service
    /// of the source changed recently.
    pub fn is_withdrawn(&self, copy: &Value, verb: Verb, is_long: impl Fn(Duration) -> bool) -> bool {
        let Some(source) = source_elsewhere(copy).filter(|_| verb == Verb::Delete) else {
            return false;
        };
        let changed = self.state().observer.episodes.changed(&source);
        self.needs_consent()
            && (is_given(&self.store, &key(copy).0, &source) != Some(true) || !is_long(changed))
    }

    /// Whether a copy without consent is deleted while its Service asks for a nonexistent source whose slices might not
    /// be listed yet.
    pub fn is_withdrawn_beside(&self, sent: &Sent) -> bool {
        let get = |resource, name: &str| self.store.get(resource, &sent.namespace, name);
        let Some(copy) = get("endpointslices", &sent.name).filter(is_ours) else {
            return false;
        };
        let service = owner(&copy).and_then(|(name, _)| get("services", name));
        let source = service.as_ref().and_then(oracle::source);
        let is_refused = |source: Key| is_given(&self.store, &sent.namespace, &source) == Some(false);
        source.is_some_and(|source| source.1.starts_with(INVENTED))
            && source_elsewhere(&copy).is_some_and(is_refused)
    }

    /// The violation if a replica deletes a copy and no earlier decision explains the delete: the copy has matched its
    /// source for a long time, its Service wants it, and its source consents.
    pub fn wants_to_keep(
        &self,
        copy: &Value,
        sent: &Sent,
        is_long: impl Fn(Duration) -> bool,
    ) -> Option<String> {
        let source = source_elsewhere(copy).filter(|_| sent.verb == Verb::Delete && self.needs_consent())?;
        let (namespace, _) = key(copy);
        let service = self.store.get("services", &namespace, owner(copy)?.0)?;
        let slice = provenance(copy, "slice")?;
        let slice = self.store.get("endpointslices", &source.0, slice)?;
        let changed = |key: &Key| self.state().observer.episodes.changed(key);
        let families = service["spec"]["ipFamilies"].as_array().cloned();
        let is_current = provenance(copy, "resource-version") == Some(version(&slice).to_string().as_str())
            && label(&slice, SERVICE_NAME) == Some(source.1.as_str())
            && !endpoints(&slice).is_empty()
            && families.is_some_and(|families| families.contains(&slice["addressType"]))
            && oracle::wanted_ports(&service, &slice).is_some();
        let is_steady = is_long(changed(&source)) && is_long(changed(&key(&service)));
        let is_wanted = oracle::source(&service).as_ref() == Some(&source)
            && is_given(&self.store, &namespace, &source) == Some(true);
        (is_current && is_steady && is_wanted).then(|| {
            format!(
                "deletes a copy although {}/{} lets it be copied",
                source.0, source.1
            )
        })
    }
}
