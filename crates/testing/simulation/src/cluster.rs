//! The steps of all writers except replicas: users, controllers and API servers.

use serde_json::{Value, json};
use testbed::Store;

use crate::consent::ALLOW_FROM;
use crate::objects::{self, SERVICES, SOURCES};
use crate::oracle;
use crate::replica::LEASE;
use crate::schedule::{Edit, LeaseHarm, Step};
use crate::slices::{MANAGED_BY, UNREACHABLE, US, is_ours, key, label, text, version};
use crate::unreadable;

/// Carries out a step of a writer that is not a replica. Returns the name under which the step is counted, if it is
/// counted.
///
/// # Panics
/// If the API server does not accept the object that the step creates.
pub fn carry_out(store: &Store, step: &Step) -> Option<&'static str> {
    match step {
        Step::Service {
            number,
            shape,
            source,
            port,
        } => {
            let (namespace, name) = SERVICES[*number];
            let is_new = store.get("services", namespace, name).is_none();
            let service = objects::service(*number, *shape, *source, *port);
            if store.put(service.clone()).is_err() {
                // Some fields are immutable.
                _ = store.delete("services", namespace, name);
                store.put(service).expect("a valid Service");
            }
            Some(if is_new {
                "Service added"
            } else {
                "Service changed"
            })
        }
        Step::ServiceGone(number) => {
            let (namespace, name) = SERVICES[*number];
            store
                .delete("services", namespace, name)
                .ok()
                .map(|()| "Service removed")
        }
        Step::Source {
            place: (source, slice),
            addresses,
            unready,
        } => {
            let made = objects::slice(*source, *slice, addresses, *unready);
            store.put(made).expect("a valid slice");
            Some(if addresses.is_empty() {
                "source emptied"
            } else {
                "source changed"
            })
        }
        Step::SourceGone(source, slice) => {
            let (namespace, _) = SOURCES[*source];
            let name = objects::slice_name(*source, *slice);
            let gone = store.delete("endpointslices", namespace, &name);
            gone.ok().map(|()| "source slice removed")
        }
        Step::SourceTouched(source, slice) => touch(store, (*source, *slice)).then_some("source touched"),
        Step::Poisoned(pick) => poison(store, *pick),
        Step::Unreadable(pick, flaw) => unreadable::spoil(store, *pick, *flaw),
        Step::Readable(pick) => unreadable::restore(store, *pick),
        Step::UnreadableGone(pick) => unreadable::delete(store, *pick),
        Step::SourceService(source, there) => {
            let (namespace, name) = SOURCES[*source];
            if *there {
                store
                    .put(objects::source_service(*source))
                    .expect("a valid Service");
            } else {
                _ = store.delete("services", namespace, name);
            }
            None
        }
        Step::Consent(source, given) => {
            let (namespace, name) = SOURCES[*source];
            let value = given.then_some("*");
            let patch = json!({"metadata": {"annotations": {ALLOW_FROM: value}}});
            store.patch("services", namespace, name, patch).ok()?;
            Some(if *given {
                "consent given"
            } else {
                "consent withdrawn"
            })
        }
        Step::Copy(pick, edit) => edit_copy(store, *pick, *edit),
        Step::Foreign(number, there) => {
            let foreign = objects::foreign(*number, "made-by-hand");
            put_or_delete(store, foreign, *there);
            None
        }
        Step::NameTaken(number, (source, slice), there) => {
            let of = objects::slice(*source, *slice, &[], false);
            let name = oracle::name_of_copy(SERVICES[*number].1, &of);
            put_or_delete(store, objects::foreign(*number, &name), *there);
            None
        }
        Step::Leftovers(number) => {
            _ = store.create(objects::leftover_slice(*number));
            for object in objects::leftover_endpoints(*number) {
                _ = store.put(object);
            }
            None
        }
        Step::Lease(harm) => harm_lease(store, *harm),
        _ => None,
    }
}

/// Writes a slice of a source without changing its endpoints. Returns whether the slice exists.
pub fn touch(store: &Store, (source, slice): (usize, usize)) -> bool {
    let (namespace, _) = SOURCES[source];
    let name = objects::slice_name(source, slice);
    let version = store.revision().to_string();
    let patch = json!({"metadata": {"annotations": {"touched": version}}});
    store.patch("endpointslices", namespace, &name, patch).is_ok()
}

/// Replaces the `managedFields` of a Service or slice with an entry whose time is in the year 9999.
fn poison(store: &Store, pick: usize) -> Option<&'static str> {
    let all = ["services", "endpointslices"].map(|resource| {
        store
            .list(resource, None)
            .into_iter()
            .map(move |it| (resource, it))
    });
    let mut all: Vec<_> = all.into_iter().flatten().collect();
    if all.is_empty() {
        return None;
    }
    let (resource, object) = all.swap_remove(pick % all.len());
    let (namespace, name) = key(&object);
    let entry = json!({"manager": "x", "operation": "Update", "time": "9999-12-31T23:59:59Z", "fieldsType": "FieldsV1"});
    let patch =
        json!({"metadata": {"managedFields": [entry], "annotations": {"poisoned": pick.to_string()}}});
    let poisoned = store.patch(resource, &namespace, &name, patch);
    poisoned.ok().map(|_| "time out of range")
}

/// Enables or disables a Service, and sets the annotations that name its source, or removes them if `source` is `None`.
/// Returns whether the Service exists.
pub fn toggle(store: &Store, number: usize, is_managed: bool, source: Option<String>) -> bool {
    let (namespace, name) = SERVICES[number];
    // Anyone may name a nonexistent source in their own namespace.
    let patch = json!({"metadata": {"annotations": {
        "endpoint-copier/enabled": is_managed.to_string(), "endpoint-copier/default-service-name": source,
        "endpoint-copier/default-service-namespace": source.as_ref().map(|_| namespace),
    }}});
    store.patch("services", namespace, name, patch).is_ok()
}

fn put_or_delete(store: &Store, slice: Value, there: bool) {
    let (namespace, name) = key(&slice);
    let now = store.get("endpointslices", &namespace, &name);
    let is_ours = now.is_some_and(|now| label(&now, MANAGED_BY) == Some(US));
    if is_ours {
        // A copy already has the name, so no other writer can take it.
    } else if there {
        store.put(slice).expect("a valid slice");
    } else {
        _ = store.delete("endpointslices", &namespace, &name);
    }
}

fn edit_copy(store: &Store, pick: usize, edit: Edit) -> Option<&'static str> {
    let mut copies = store.list("endpointslices", None);
    copies.retain(is_ours);
    if copies.is_empty() {
        return None;
    }
    let copy = copies.swap_remove(pick % copies.len());
    let (namespace, name) = key(&copy);
    let (patch, what) = match edit {
        Edit::Deleted => {
            store.delete("endpointslices", &namespace, &name).ok()?;
            return Some("copy deleted by hand");
        }
        Edit::Endpoints if copy["addressType"] == "IPv6" => (
            json!({"endpoints": [{"addresses": ["2001:db8::9"]}]}),
            "copy edited by hand",
        ),
        Edit::Endpoints => (
            json!({"endpoints": [{"addresses": ["203.0.113.9"]}]}),
            "copy edited by hand",
        ),
        Edit::Memory => {
            let mut endpoints = copy["endpoints"].as_array().cloned().unwrap_or_default();
            for endpoint in &mut endpoints {
                endpoint["conditions"] = json!({"ready": false, "serving": false, "terminating": false});
            }
            let all: Vec<_> = endpoints
                .iter()
                .map(|endpoint| text(&endpoint["addresses"][0]))
                .collect();
            let memory = json!({UNREACHABLE: all.join(",")});
            (
                json!({"metadata": {"annotations": memory}, "endpoints": endpoints}),
                "memory of a copy forged",
            )
        }
        Edit::NewerSource => {
            let newer = (version(&copy) + 1000).to_string();
            let claim = json!({"endpoint-copier/source-resource-version": newer});
            // Unless the endpoints differ, no replica would read the source.
            let patch = json!({"metadata": {"annotations": claim}, "endpoints": []});
            (patch, "copy claims a newer source")
        }
    };
    store.patch("endpointslices", &namespace, &name, patch).ok()?;
    Some(what)
}

fn harm_lease(store: &Store, harm: LeaseHarm) -> Option<&'static str> {
    let (namespace, name) = LEASE;
    let (patch, what) = match harm {
        LeaseHarm::Deleted => {
            store.delete("leases", namespace, name).ok()?;
            return Some("Lease deleted");
        }
        LeaseHarm::Emptied => (json!({"spec": {"holderIdentity": ""}}), "Lease emptied"),
        LeaseHarm::Garbled => (json!({"spec": null}), "Lease garbled"),
    };
    store.patch("leases", namespace, name, patch).ok()?;
    Some(what)
}
