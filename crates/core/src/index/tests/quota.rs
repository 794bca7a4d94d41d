//! More managed Services than the limits allow.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::model::{Reason, annotation};

/// An index with these limits that has listed everything in an empty cluster.
fn limited(per_namespace: usize, total: usize) -> Index {
    let mut index = Index::new(defaults());
    index.set_limits(ServiceLimits { per_namespace, total });
    index.services_listed(&HashSet::new());
    index.slices_listed(&Scope::Copies, &HashSet::new());
    index.slices_listed(&named(&["app"]), &HashSet::new());
    index
}

fn tenant(namespace: &str, name: &str, created: i64) -> Service {
    let service = service(name).source(namespace, "app");
    service.namespace(namespace).created(created)
}

fn copy_of(service: &ServiceKey) -> EndpointSlice {
    let copy = slice(&copy_name(service.name(), &slice("app-x7k2p")));
    copy.copied(service.name(), "app-x7k2p")
        .namespace(service.namespace())
}

fn shown(keys: &Dirty) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

/// The Services that get copies.
fn admitted(index: &Index) -> Vec<String> {
    let keys = index.admitted().map(|service| service.key.clone());
    shown(&keys.collect())
}

/// The note of the finding about a limit, if there is one.
fn note(index: &Index, namespace: &str, name: &str) -> Option<String> {
    let snapshot = index.snapshot(&ServiceKey::new(namespace, name))?;
    let refusal = snapshot.refusal?;
    assert!(refusal.is_final && snapshot.source.is_none());
    assert_eq!(refusal.finding.reason, Reason::LimitReached);
    Some(refusal.finding.note)
}

/// Rule: 10.limits
#[test]
fn services_beyond_a_limit_wait_and_the_note_names_it() {
    let mut index = limited(1, 2);
    for namespace in ["a", "b", "c"] {
        index.apply_service(&tenant(namespace, "one", 1));
    }
    index.apply_service(&tenant("a", "two", 2));
    assert_eq!(admitted(&index), ["a/one", "b/one"]);
    assert_eq!(note(&index, "a", "one"), None);
    assert_eq!(
        note(&index, "a", "two").as_deref(),
        Some(
            "namespace a has more than 1 managed Services, so this one gets no copies; remove endpoint-copier/enabled from \
             Services that need no copies, or ask an admin to raise --max-services-per-namespace"
        )
    );
    assert_eq!(
        note(&index, "c", "one").as_deref(),
        Some(
            "the cluster has more than 2 managed Services, so this one gets no copies; remove endpoint-copier/enabled from \
             Services that need no copies, or ask an admin to raise --max-services"
        )
    );
}

/// Rule: 10.limits
#[test]
fn disabled_services_take_no_places_from_managed_ones() {
    let mut index = limited(2, 10);
    let disabled = |name, created| tenant("web", name, created).annotate(annotation::ENABLED, "false");
    for service in [disabled("a", 1), disabled("b", 2), disabled("c", 3)] {
        index.apply_service(&service);
    }
    assert_eq!(
        admitted(&index),
        ["web/a", "web/b"],
        "their names are limited too"
    );
    assert_eq!(note(&index, "web", "c"), None);
    index.apply_service(&tenant("web", "d", 4));
    assert_eq!(admitted(&index), ["web/a", "web/d"]);
}

/// Rule: 10.limits
#[test]
fn services_rank_by_copies_then_by_age_then_by_name() {
    let mut index = limited(2, 10);
    for (name, created) in [("b", 20), ("c", 20), ("a", 30)] {
        index.apply_service(&tenant("web", name, created));
    }
    assert_eq!(admitted(&index), ["web/b", "web/c"]);
    let older = index.apply_service(&tenant("web", "z", 10));
    assert_eq!(shown(&older), ["web/c", "web/z"]);
    assert_eq!(admitted(&index), ["web/b", "web/z"]);
    let youngest = ServiceKey::new("web", "a");
    let written = index.apply_slice(&Scope::Copies, copy_of(&youngest));
    assert_eq!(shown(&written), ["web/a", "web/b"]);
    assert_eq!(admitted(&index), ["web/a", "web/z"]);
}

/// Rule: 10.limits
#[test]
fn a_service_of_unknown_age_counts_as_the_youngest() {
    let mut index = limited(1, 10);
    index.apply_service(&tenant("web", "a", 0).edit(|service| service.metadata.created = None));
    index.apply_service(&tenant("web", "b", 10));
    assert_eq!(admitted(&index), ["web/b"]);
}

/// Rule: 10.limits
#[test]
fn the_next_service_gets_a_place_that_becomes_free() {
    let mut index = limited(1, 1);
    index.apply_service(&tenant("web", "a", 1));
    index.apply_service(&tenant("web", "b", 2));
    index.apply_service(&tenant("team", "c", 3));
    let freed = index.delete_service(&ServiceKey::new("web", "a"));
    assert_eq!(shown(&freed), ["web/a", "web/b"]);
    assert_eq!(admitted(&index), ["web/b"]);
    let plain = plain_service("b").namespace("web");
    assert_eq!(shown(&index.apply_service(&plain)), ["team/c", "web/b"]);
    assert_eq!(admitted(&index), ["team/c"]);
    assert!(
        index
            .snapshot(&ServiceKey::new("team", "c"))
            .unwrap()
            .source
            .is_some()
    );
}

/// Rule: 10.limits
#[test]
fn a_service_is_dirty_when_another_limit_refuses_it() {
    let mut index = limited(1, 1);
    index.apply_service(&tenant("a", "first", 1));
    index.apply_service(&tenant("web", "a", 2));
    index.apply_service(&tenant("web", "b", 3));
    let before = note(&index, "web", "b");
    let dirty = index.delete_service(&ServiceKey::new("web", "a"));
    assert_eq!(shown(&dirty), ["web/a", "web/b"]);
    assert_ne!(note(&index, "web", "b"), before);
}

/// Rule: 10.limits
#[test]
fn services_that_lead_to_the_api_servers_are_exempt() {
    let mut index = limited(1, 1);
    index.apply_service(&tenant("web", "a", 1));
    for name in ["kubernetes-vip", "second", "third"] {
        index.apply_service(&service(name).created(9));
    }
    // A tenant's Service that copies the API source counts, and so does a Service in namespace `default` that copies
    // another source.
    let tenants = service("vip").namespace("web").source("default", "kubernetes");
    index.apply_service(&tenants.created(0));
    index.apply_service(&service("fourth").source("default", "app").created(9));
    assert_eq!(
        admitted(&index),
        [
            "default/kubernetes-vip",
            "default/second",
            "default/third",
            "web/vip"
        ]
    );
    // `third` stays managed, but loses its exemption. It is older than `fourth`, so it takes the only place in the
    // namespace.
    let changed = index.apply_service(&service("third").source("default", "app").created(5));
    assert_eq!(shown(&changed), ["default/fourth", "default/third"]);
    assert_eq!(
        admitted(&index),
        ["default/kubernetes-vip", "default/second", "web/vip"]
    );
}

/// A Service that waits must cost neither a watch nor memory for its source.
#[test]
fn names_of_a_waiting_service_are_not_watched() {
    let mut index = limited(1, 10);
    index.apply_service(&service("a").source("web", "app").namespace("web").created(1));
    let waits = service("b").source("web", "other").namespace("web");
    let before = index.names_changed();
    index.apply_service(&waits.created(2));
    let names = ["a", "app"].map(str::to_owned);
    assert_eq!(index.names(), names.into());
    assert!(index.names_by_requester().values().all(|of| of.len() == 2));
    index.delete_service(&ServiceKey::new("web", "a"));
    let names = ["b", "other"].map(str::to_owned);
    assert_eq!(index.names(), names.into());
    assert_ne!(index.names_changed(), before);
}

/// The admitted Services, computed from the rule in the documentation.
fn expected(services: &BTreeSet<ServiceKey>, copies: &BTreeSet<ServiceKey>, limits: (usize, usize)) -> Dirty {
    let rank = |key: &ServiceKey| (!copies.contains(key), age(key), key.clone());
    let mut by_rank: Vec<_> = services.iter().collect();
    by_rank.sort_by_key(|key| rank(key));
    let mut places = HashMap::<_, usize>::new();
    by_rank.retain(|key| {
        let taken = places.entry(key.namespace().to_owned()).or_default();
        *taken += 1;
        *taken <= limits.0
    });
    by_rank.into_iter().take(limits.1).cloned().collect()
}

fn age(key: &ServiceKey) -> i64 {
    i64::from(key.name().as_bytes()[0] % 3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rule: 10.limits
    #[test]
    fn admitted_services_rank_first_in_namespace_and_cluster(
        steps in vec((0..3usize, 0..6usize, 0..4u8), 0..60),
        limits in (1..4usize, 1..7usize),
    ) {
        let mut index = limited(limits.0, limits.1);
        let (mut services, mut copies) = (BTreeSet::new(), BTreeSet::new());
        for (namespace, name, action) in steps {
            let key = ServiceKey::new(["x", "y", "z"][namespace], ["a", "b", "c", "d", "e", "f"][name]);
            let before = expected(&services, &copies, limits);
            let copy = copy_of(&key);
            let dirty = match action {
                0 => {
                    services.insert(key.clone());
                    index.apply_service(&tenant(key.namespace(), key.name(), age(&key)))
                }
                1 => {
                    services.remove(&key);
                    index.delete_service(&key)
                }
                2 => {
                    copies.insert(key.clone());
                    index.apply_slice(&Scope::Copies, copy)
                }
                _ => {
                    copies.remove(&key);
                    index.delete_slice(&Scope::Copies, &copy.metadata)
                }
            };
            let after = expected(&services, &copies, limits);
            prop_assert_eq!(admitted(&index), shown(&after));
            let moved: Vec<_> = before.symmetric_difference(&after).filter(|key| !dirty.contains(*key)).collect();
            prop_assert!(moved.is_empty(), "{:?} is not dirty", moved);
        }
    }
}
