//! Fields that the server sets in a write before validation: defaults, and fields that are derived from other fields.

use crate::{
    kinds::{Kind, Storage},
    object, services,
    state::{State, select},
};
use serde_json::{Value, json};

impl State {
    /// Sets defaults, and fields that are derived from other fields.
    pub(crate) fn fill_in(&self, kind: &Kind, new: &mut Value, old: Option<&Value>) {
        match kind.storage {
            Storage::Service => {
                // Most writes allocate nothing, and reading all Services for each write is slow if there are many.
                let spec = |o: &Value, field: &str| o["spec"][field].as_str().unwrap_or_default().to_owned();
                let outside = ["LoadBalancer", "NodePort"].contains(&spec(new, "type").as_str());
                let policy = spec(new, "ipFamilyPolicy");
                let has_addresses = |old: &Value| {
                    !spec(old, "clusterIP").is_empty()
                        && (policy.is_empty() || policy == spec(old, "ipFamilyPolicy"))
                };
                let taken = if outside || !old.is_some_and(has_addresses) {
                    let uid = object::uid(new).to_owned();
                    let others = select(&self.objects, Storage::Service, None).map(|(_, o)| &**o);
                    services::Taken::by(others.filter(|o| object::uid(o) != uid))
                } else {
                    services::Taken::default()
                };
                services::default(new, old, taken);
            }
            Storage::EndpointSlice => {
                let generation = match old {
                    None => 1,
                    Some(old) => {
                        let before = old["metadata"]["generation"].as_u64().unwrap_or(0);
                        before + u64::from(is_new_generation(new, old))
                    }
                };
                object::set_meta(new, "generation", Some(generation.into()));
            }
            Storage::Namespace => {
                let name = object::name(new).to_owned();
                let metadata = object::meta_mut(new);
                metadata.entry("labels").or_insert(json!({}))["kubernetes.io/metadata.name"] = name.into();
                if let Some(old) = old {
                    new["spec"] = old["spec"].clone();
                } else {
                    new["spec"] = json!({"finalizers": ["kubernetes"]});
                    new["status"] = json!({"phase": "Active"});
                }
            }
            Storage::Endpoints => {
                for subset in object::items_mut(new, "subsets") {
                    for port in object::items_mut(subset, "ports") {
                        if port["protocol"].is_null() {
                            port["protocol"] = "TCP".into();
                        }
                    }
                }
            }
            Storage::Event
            | Storage::Lease
            | Storage::ServiceAccount
            | Storage::Node
            | Storage::ReferenceGrant
            | Storage::Review => {}
        }
    }
}

/// Whether the generation of a slice increases: it counts changes of the content and of the labels.
fn is_new_generation(new: &Value, old: &Value) -> bool {
    let content = |o: &Value| {
        let mut o = o.clone();
        o.as_object_mut().map(|m| m.remove("metadata"));
        o
    };
    new["metadata"]["labels"] != old["metadata"]["labels"] || content(new) != content(old)
}
