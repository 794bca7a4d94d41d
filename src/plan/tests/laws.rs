//! What holds whatever happens: a cluster goes through random changes, and after each one the
//! operator plans, writes and plans again.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::model::{
    Reason, ServiceKey, SliceKey, annotation, annotation_of, label, label_of, ours, provenance,
};
use crate::plan::Plan;
use crate::testing::world::{World, Write};
use crate::testing::{
    Build, BuildService, BuildSlice, endpoint, owner, plain_service, service, slice, slice_port,
};

/// Source slices, some of one Service, some of another, of all address types.
const SOURCES: [(&str, &str, &str, &str); 5] = [
    ("default", "kubernetes", "kubernetes", "IPv4"),
    ("default", "kubernetes-6", "kubernetes", "IPv6"),
    ("default", "kubernetes-more", "kubernetes", "IPv4"),
    ("web", "app-x7k2p", "app", "IPv4"),
    ("web", "app-name", "app", "FQDN"),
];

#[derive(Clone, Debug)]
enum Change {
    Source(usize, Vec<u8>, u8),
    SourceGone(usize),
    Touch(usize),
    Service(Ask),
    ServiceGone,
    Edit(usize, Hand),
    DeleteCopy(usize),
    Foreign(u8, Vec<u8>),
    Leftover,
}

/// What a Service may ask for.
#[derive(Clone, Debug)]
struct Ask {
    enabled: Option<&'static str>,
    source: Option<(&'static str, &'static str)>,
    families: &'static [&'static str],
    ports: Vec<Option<&'static str>>,
    when_empty: Option<&'static str>,
    headless: bool,
    selector: bool,
    deleting: bool,
    uid: u8,
}

/// What a hand can do to a copy.
#[derive(Clone, Copy, Debug)]
enum Hand {
    Label(&'static str),
    Annotation(&'static str),
    NoAnnotation(&'static str),
    Owner(&'static str),
    NoOwner,
    NoManager,
    Endpoints,
    NoEndpoints,
    Ports,
    Finalizer,
}

fn ask() -> impl Strategy<Value = Ask> {
    let often = |value: &'static str| prop_oneof![8 => Just(Some(value)), 1 => Just(None)];
    let enabled = prop_oneof![6 => often("true"), 1 => select(vec![Some("false"), Some("ture"), Some("")])];
    let source = select(vec![
        None,
        None,
        Some(("default", "kubernetes")),
        Some(("web", "app")),
        Some(("web", "nothing")),
        Some(("default", "vip")),
        Some(("web", "no name")),
    ]);
    let families: [&'static [&'static str]; 4] = [&["IPv4"], &["IPv4"], &["IPv6"], &["IPv4", "IPv6"]];
    (
        (enabled, source, select(families.to_vec())),
        vec(select(vec![None, None, Some("https"), Some("gone")]), 0..4),
        select(vec![None, None, Some("hold"), Some("follow"), Some("what")]),
        (
            any::<bool>(),
            prop::bool::weighted(0.1),
            prop::bool::weighted(0.15),
            0..2u8,
        ),
    )
        .prop_map(
            |((enabled, source, families), ports, when_empty, (headless, selector, deleting, uid))| Ask {
                enabled,
                source,
                families,
                ports,
                when_empty,
                headless,
                selector,
                deleting,
                uid,
            },
        )
}

impl Ask {
    fn service(&self) -> Service {
        let mut service = plain_service("vip")
            .families(self.families)
            .uid(&format!("uid-{}", self.uid));
        if let Some(enabled) = self.enabled {
            service = service.annotate(annotation::ENABLED, enabled);
        }
        if let Some((namespace, name)) = self.source {
            service = service.source(namespace, name);
        }
        if let Some(value) = self.when_empty {
            service = service.annotate(annotation::WHEN_SOURCE_EMPTY, value);
        }
        for (n, target) in self.ports.iter().enumerate() {
            service = match target {
                None => service.number(&format!("p{n}"), 8000),
                Some(target) => service.port(&format!("p{n}"), target),
            };
        }
        if self.headless {
            service = service.headless();
        }
        if self.deleting {
            service = service.deleting();
        }
        let selector = [("app".to_owned(), "x".to_owned())];
        service.edit(|service| {
            service.spec_mut().selector = self.selector.then(|| selector.into());
        })
    }
}

fn hand() -> impl Strategy<Value = Hand> {
    let annotations = [
        provenance::SLICE,
        provenance::UID,
        provenance::NAMESPACE,
        provenance::RESOURCE_VERSION,
        provenance::TRIGGER_TIME,
    ];
    prop_oneof![
        select(vec![label::SERVICE_NAME, label::SOURCE, label::HEADLESS, "app"]).prop_map(Hand::Label),
        select([&annotations[..], &["note"]].concat()).prop_map(Hand::Annotation),
        select(annotations.to_vec()).prop_map(Hand::NoAnnotation),
        select(vec!["uid", "name", "kind"]).prop_map(Hand::Owner),
        Just(Hand::NoOwner),
        Just(Hand::NoManager),
        Just(Hand::Endpoints),
        Just(Hand::NoEndpoints),
        Just(Hand::Ports),
        Just(Hand::Finalizer),
    ]
}

impl Hand {
    fn edit(self, copy: &mut EndpointSlice) {
        let built = copy.clone();
        let owner = |change: &dyn Fn(&mut k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference)| {
            built.clone().edit(|copy| {
                for owner in copy.metadata.owner_references.iter_mut().flatten() {
                    change(owner);
                }
            })
        };
        *copy = match self {
            Self::Label(key) => built.label(key, "by-hand"),
            Self::Annotation(key) => built.annotate(key, "999999").label("edited", ""),
            Self::NoAnnotation(key) => built.without_annotation(key),
            Self::Owner("uid") => owner(&|owner| owner.uid = "by-hand".to_owned()),
            Self::Owner("name") => owner(&|owner| owner.name = "second".to_owned()),
            Self::Owner(_) => owner(&|owner| owner.kind = "ConfigMap".to_owned()),
            Self::NoOwner => built.edit(|copy| copy.metadata.owner_references = None),
            Self::NoManager => built.without_label(label::MANAGED_BY),
            Self::Endpoints => built.endpoints(["203.0.113.99"]).label("edited", ""),
            Self::NoEndpoints => built.edit(|copy| copy.endpoints = None).label("edited", ""),
            Self::Ports => built.ports(&[slice_port("by-hand", 1)]),
            Self::Finalizer => built.deleting(),
        };
    }
}

fn change() -> impl Strategy<Value = Change> {
    let source = || 0..SOURCES.len();
    prop_oneof![
        4 => (source(), vec(0..6u8, 0..4), 0..3u8).prop_map(|(n, ends, port)| Change::Source(n, ends, port)),
        2 => source().prop_map(Change::SourceGone),
        1 => source().prop_map(Change::Touch),
        4 => ask().prop_map(Change::Service),
        1 => Just(Change::ServiceGone),
        4 => (any::<usize>(), hand()).prop_map(|(n, hand)| Change::Edit(n, hand)),
        1 => any::<usize>().prop_map(Change::DeleteCopy),
        1 => (0..3u8, vec(0..6u8, 0..2)).prop_map(|(n, ends)| Change::Foreign(n, ends)),
        1 => Just(Change::Leftover),
    ]
}

fn source_slice(n: usize, ends: &[u8], port: u8) -> EndpointSlice {
    let (namespace, name, of, family) = SOURCES[n];
    let ports = match port {
        0 => vec![slice_port("https", 6443)],
        1 => vec![slice_port("https", 7443)],
        _ => vec![],
    };
    let endpoints = ends.iter().map(|end| {
        let mut endpoint = endpoint(&format!("192.0.2.{end}"));
        endpoint.conditions = (end % 2 == 0).then(|| EndpointConditions {
            ready: Some(end % 4 == 0),
            ..EndpointConditions::default()
        });
        endpoint
    });
    slice(name)
        .namespace(namespace)
        .of(of)
        .family(family)
        .ports(&ports)
        .edit(|slice| slice.endpoints = Some(endpoints.collect()))
}

/// Source slice by namespace, name and address type: what its copy's name is made of.
type Origin = (String, String, String);

/// The cluster and all that sources ever showed.
struct History {
    world: World,
    shown: BTreeMap<Origin, Vec<BTreeSet<Vec<String>>>>,
}

fn shown_by(slice: &EndpointSlice) -> BTreeSet<Vec<String>> {
    slice
        .endpoints
        .iter()
        .flatten()
        .map(|endpoint| endpoint.addresses.clone())
        .collect()
}

impl History {
    fn new() -> Self {
        let world = World::new()
            .service(service("vip"))
            .service(service("second").edit(|service| {
                service.metadata.annotations = None;
            }));
        let mut history = Self {
            world,
            shown: BTreeMap::new(),
        };
        history.make(&Change::Source(0, vec![1, 2], 0));
        history
    }

    /// Changes the cluster as others do.
    fn make(&mut self, change: &Change) {
        let copies: Vec<_> = self
            .world
            .copies("vip")
            .iter()
            .map(|copy| SliceKey::of(&copy.metadata))
            .collect();
        let nth = |n: usize| copies.get(n % copies.len().max(1));
        let source = |n: usize| SliceKey::new(SOURCES[n].0, SOURCES[n].1);
        match change {
            Change::Source(n, ends, port) => {
                let slice = source_slice(*n, ends, *port);
                let (namespace, name, _, family) = SOURCES[*n];
                let origin = (namespace.to_owned(), name.to_owned(), family.to_owned());
                self.shown.entry(origin).or_default().push(shown_by(&slice));
                self.world.put(slice);
            }
            Change::SourceGone(n) => _ = self.world.slices.remove(&source(*n)),
            Change::Touch(n) => {
                if self.world.slices.contains_key(&source(*n)) {
                    self.world.edit(&source(*n), |slice| {
                        *slice = slice.clone().annotate("touched", "x").label("a", "b")
                    });
                }
            }
            Change::Service(ask) => self.world.put_service(ask.service()),
            Change::ServiceGone => _ = self.world.services.remove(&ServiceKey::new("default", "vip")),
            Change::Edit(n, hand) => {
                if let Some(key) = nth(*n) {
                    self.world.edit(key, |copy| hand.edit(copy));
                }
            }
            Change::DeleteCopy(n) => {
                if let Some(key) = nth(*n) {
                    self.world.slices.remove(key);
                }
            }
            Change::Foreign(n, ends) => {
                let slice = source_slice(0, ends, 0).of("vip").edit(|slice| {
                    slice.metadata.name = Some(match n {
                        0 => "theirs".to_owned(),
                        1 => crate::plan::copy::name("vip", &source_slice(0, &[], 0)),
                        _ => "vip-x7k2p".to_owned(),
                    });
                });
                let key = SliceKey::of(&slice.metadata);
                if self
                    .world
                    .slices
                    .get(&key)
                    .is_none_or(|known| ours(known).is_none())
                {
                    self.world.put(slice);
                }
            }
            Change::Leftover => {
                let leftover = source_slice(0, &[1], 0)
                    .of("vip")
                    .label(label::SOURCE, "kubernetes");
                let leftover = leftover.edit(|slice| slice.metadata.name = Some("vip".to_owned()));
                self.world.put(leftover);
            }
        }
    }
}

/// What somebody wrote by hand into a copy: held as they are if their source is empty, and
/// left as they are while an annotation cannot be understood.
fn was_edited(copy: &EndpointSlice) -> bool {
    label_of(&copy.metadata, "edited").is_some()
}

fn check_ownership(world: &World, key: &ServiceKey, plan: &Plan) {
    for update in &plan.updates {
        let name = SliceKey::of(&update.metadata);
        let there = &world.slices[&name];
        assert_eq!(
            ours(there).as_ref(),
            Some(key),
            "an update of {name}, which is not ours"
        );
    }
    for delete in &plan.deletes {
        let there = &world.slices[&delete.key];
        assert_eq!(
            ours(there).as_ref(),
            Some(key),
            "a deletion of {}, which is not ours",
            delete.key
        );
    }
    for written in plan.creates.iter().chain(&plan.updates) {
        assert_eq!(ours(written).as_ref(), Some(key), "what we write is ours");
        assert_eq!(label_of(&written.metadata, label::SERVICE_NAME), Some(key.name()));
    }
}

fn check_order(plan: &Plan) {
    let written: Vec<_> = plan
        .creates
        .iter()
        .chain(&plan.updates)
        .map(|slice| SliceKey::of(&slice.metadata))
        .collect();
    let names: BTreeSet<_> = written
        .iter()
        .chain(plan.deletes.iter().map(|delete| &delete.key))
        .collect();
    assert_eq!(
        names.len(),
        written.len() + plan.deletes.len(),
        "one write a slice: {plan:#?}"
    );
}

/// With one of these a copy may show what its source no longer shows.
const STAYS: [Reason; 2] = [Reason::SourceEmptyHeld, Reason::InvalidAnnotation];

/// A copy shows what its source showed at some time, and what it shows now unless it is held.
fn check_contents(history: &History, findings: &[Reason]) {
    let as_they_are = findings.iter().any(|finding| STAYS.contains(finding));
    for copy in history.world.copies("vip") {
        // Nor is a copy written that is being deleted and not wanted.
        if as_they_are && was_edited(copy) || copy.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let read = |key| annotation_of(&copy.metadata, key).unwrap_or_default().to_owned();
        let origin = (
            read(provenance::NAMESPACE),
            read(provenance::SLICE),
            copy.address_type.clone(),
        );
        let source = SliceKey::new(&origin.0, &origin.1);
        let now = history.world.slices.get(&source).map(shown_by);
        if now == Some(shown_by(copy)) {
            continue;
        }
        assert!(
            history
                .shown
                .get(&origin)
                .is_some_and(|shown| shown.contains(&shown_by(copy))),
            "{origin:?} never showed {:?}",
            shown_by(copy)
        );
        assert!(
            as_they_are,
            "{origin:?} shows {now:?}, its copy {:?}: {findings:?}",
            shown_by(copy)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_one_plan_makes_copies_right_and_touches_nothing_else(changes in vec(change(), 1..16)) {
        let key = ServiceKey::new("default", "vip");
        let mut history = History::new();
        history.world.settle("vip");
        for change in &changes {
            let before = history.world.clone();
            history.make(change);
            let plan = history.world.plan("vip");
            check_ownership(&history.world, &key, &plan);
            check_order(&plan);
            if matches!(change, Change::Touch(_)) {
                prop_assert!(plan.is_done(), "a touched source plans a write: {plan:#?}");
            }
            let others: BTreeMap<_, _> = history.world.slices.clone().into_iter().filter(|(_, slice)| ours(slice).as_ref() != Some(&key)).collect();
            let writes = history.world.apply(plan);
            for (name, slice) in &others {
                prop_assert_eq!(history.world.slices.get(name), Some(slice), "not ours, and written");
            }
            if let Change::Source(n, ..) | Change::SourceGone(n) = change {
                // With the family no longer empty, or no longer held, its other slices are followed again.
                let was_held = before.reasons("vip").contains(&Reason::SourceEmptyHeld);
                let taken = before.reasons("vip").contains(&Reason::NameTaken);
                let copied = before.copies("vip").len();
                let missing = before.slices.values().filter(|slice| ours(slice).is_none()).count() > copied;
                prop_assert!(writes.len() <= 1 || was_held || taken || missing, "{writes:?} for slice {n}");
            }
            let left = history.world.plan("vip");
            prop_assert!(left.is_done(), "after {change:?} and {writes:?} there is still to do {left:#?}");
            let findings: Vec<_> = left.findings.iter().map(|finding| finding.reason).collect();
            check_contents(&history, &findings);
        }
    }

    #[test]
    fn a_copy_is_the_same_however_it_came_about(
        changes in vec(change(), 1..12),
        ask in ask(),
        ends in vec(0..6u8, 1..4),
    ) {
        let source = ask.source.filter(|(_, name)| *name != "no name");
        let follows = Ask { when_empty: Some("follow"), enabled: Some("true"), deleting: false, source, ..ask };
        let mut history = History::new();
        history.world.settle("vip");
        for change in changes.iter().chain(&[Change::Service(follows), Change::Source(0, ends, 0)]) {
            // What only a new Service or a person can undo is left out here.
            if matches!(change, Change::Foreign(..) | Change::Edit(_, Hand::NoOwner | Hand::NoManager | Hand::Owner(_) | Hand::NoAnnotation(_) | Hand::Finalizer)) {
                continue;
            }
            history.make(change);
            history.world.settle("vip");
        }
        let mut anew = history.world.clone();
        anew.slices.retain(|_, slice| ours(slice).is_none());
        anew.settle("vip");
        let content = |world: &World| -> BTreeMap<_, _> {
            world.copies("vip").into_iter().map(|copy| {
                let mut copy = copy.clone();
                (copy.metadata.uid, copy.metadata.resource_version) = (None, None);
                // Not written for its own sake; what others add stays.
                copy = copy.without_annotation(provenance::RESOURCE_VERSION).without_annotation("note").without_label("app").without_label("edited");
                if let Some(endpoints) = &mut copy.endpoints {
                    endpoints.sort_by_key(|endpoint| endpoint.addresses.clone());
                }
                (SliceKey::of(&copy.metadata), copy)
            }).collect()
        };
        prop_assert_eq!(content(&history.world), content(&anew));
    }

    #[test]
    fn a_held_source_changes_nothing_but_ports(ends in vec(0..6u8, 1..4), gone in any::<bool>(), port in 0..3u8) {
        let mut history = History::new();
        history.make(&Change::Source(0, ends, 0));
        history.world.settle("vip");
        let before = shown_by(history.world.copy("vip"));
        history.make(&if gone { Change::SourceGone(0) } else { Change::Source(0, vec![], port) });
        history.world.put_service(service("vip").number("more", 9000));
        let writes = history.world.settle("vip");
        prop_assert!(matches!(writes[..], [Write::Update(_)]), "{writes:?}");
        prop_assert_eq!(shown_by(history.world.copy("vip")), before);
        prop_assert_eq!(history.world.copy("vip").metadata.owner_references.clone(), Some(vec![owner("vip")]));
    }
}
