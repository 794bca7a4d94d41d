//! Random changes to a cluster.

use k8s_openapi::api::discovery::v1::EndpointConditions;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::model::{EndpointSlice, OwnerReference, Service};
use crate::model::{annotation, label, provenance};
use crate::testing::{Build, BuildService, BuildSlice, endpoint, plain_service, slice, slice_port};

/// Source slices of two Services, with all address types: namespace, name, Service and address type.
pub(super) const SOURCES: [(&str, &str, &str, &str); 5] = [
    ("default", "kubernetes", "kubernetes", "IPv4"),
    ("default", "kubernetes-6", "kubernetes", "IPv6"),
    ("default", "kubernetes-more", "kubernetes", "IPv4"),
    ("web", "app-x7k2p", "app", "IPv4"),
    ("web", "app-name", "app", "FQDN"),
];

#[derive(Clone, Debug)]
pub(super) enum Change {
    Source(usize, Vec<u8>, u8),
    SourceGone(usize),
    Touch(usize),
    Service(Settings),
    ServiceGone,
    Edit(usize, ManualEdit),
    DeleteCopy(usize),
    Foreign(u8, Vec<u8>),
    Leftover,
}

/// The settings of a Service.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) enabled: Option<&'static str>,
    pub(super) source: Option<(&'static str, &'static str)>,
    pub(super) families: &'static [&'static str],
    pub(super) ports: Vec<Option<&'static str>>,
    pub(super) when_empty: Option<&'static str>,
    pub(super) headless: bool,
    pub(super) selector: bool,
    pub(super) deleting: bool,
    pub(super) uid: u8,
}

/// Manual edits of a copy.
#[derive(Clone, Copy, Debug)]
pub(super) enum ManualEdit {
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

pub(super) fn settings() -> impl Strategy<Value = Settings> {
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
            |((enabled, source, families), ports, when_empty, (headless, selector, deleting, uid))| {
                Settings {
                    enabled,
                    source,
                    families,
                    ports,
                    when_empty,
                    headless,
                    selector,
                    deleting,
                    uid,
                }
            },
        )
}

impl Settings {
    pub(super) fn service(&self) -> Service {
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

pub(super) fn manual_edit() -> impl Strategy<Value = ManualEdit> {
    let annotations = [
        provenance::SLICE,
        provenance::UID,
        provenance::NAMESPACE,
        provenance::RESOURCE_VERSION,
        provenance::TRIGGER_TIME,
    ];
    prop_oneof![
        select(vec![label::SERVICE_NAME, label::SOURCE, label::HEADLESS, "app"]).prop_map(ManualEdit::Label),
        select([&annotations[..], &["note"]].concat()).prop_map(ManualEdit::Annotation),
        select(annotations.to_vec()).prop_map(ManualEdit::NoAnnotation),
        select(vec!["uid", "name", "kind"]).prop_map(ManualEdit::Owner),
        Just(ManualEdit::NoOwner),
        Just(ManualEdit::NoManager),
        Just(ManualEdit::Endpoints),
        Just(ManualEdit::NoEndpoints),
        Just(ManualEdit::Ports),
        Just(ManualEdit::Finalizer),
    ]
}

impl ManualEdit {
    pub(super) fn edit(self, copy: &mut EndpointSlice) {
        let built = copy.clone();
        let owner = |change: &dyn Fn(&mut OwnerReference)| {
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

pub(super) fn change() -> impl Strategy<Value = Change> {
    let source = || 0..SOURCES.len();
    prop_oneof![
        4 => (source(), vec(0..6u8, 0..4), 0..3u8).prop_map(|(n, ends, port)| Change::Source(n, ends, port)),
        2 => source().prop_map(Change::SourceGone),
        1 => source().prop_map(Change::Touch),
        4 => settings().prop_map(Change::Service),
        1 => Just(Change::ServiceGone),
        4 => (any::<usize>(), manual_edit()).prop_map(|(n, edit)| Change::Edit(n, edit)),
        1 => any::<usize>().prop_map(Change::DeleteCopy),
        1 => (0..3u8, vec(0..6u8, 0..2)).prop_map(|(n, ends)| Change::Foreign(n, ends)),
        1 => Just(Change::Leftover),
    ]
}

pub(super) fn source_slice(n: usize, ends: &[u8], port: u8) -> EndpointSlice {
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
