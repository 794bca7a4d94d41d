//! An API server, its watches, and the index that they feed.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use proptest::sample::select;

use super::super::*;
use crate::model::{MANAGED_BY_US, NodesUnknown, copy_name, label};
use crate::plan::{Plan, plan};
use crate::testing::node;
use crate::testing::world::shows;

pub(super) const SERVICES: [(&str, &str); 5] = [
    ("default", "kubernetes"),
    ("default", "vip"),
    ("default", "second"),
    ("web", "app"),
    ("web", "vip"),
];

/// Nodes `a` and `b` have the addresses that source slices show.
const NODES: [(&str, &str); 2] = [("a", "192.0.2.0"), ("b", "192.0.2.1")];

/// The watches of slices: one of copies, and two that each cover some of the names.
pub(super) fn scopes() -> [Scope; 3] {
    [
        Scope::Copies,
        named(&["app", "kubernetes"]),
        named(&["second", "vip"]),
    ]
}

/// Names of slices: the source, another slice, and two copies.
pub(super) fn slice_names() -> Vec<String> {
    let copy_of = |service| copy_name(service, &slice("kubernetes"));
    ["kubernetes", "other"]
        .map(str::to_owned)
        .into_iter()
        .chain(["vip", "second"].map(copy_of))
        .collect()
}

/// A change in the cluster, a watch event, or a request.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A Service is created or changed, and the index is updated.
    Service(usize, Option<(&'static str, &'static str)>, u8),
    DeleteService(usize),
    /// Services are listed again, and at most one of them no longer exists.
    ListServices(usize),
    /// A slice is created or changed. Its watches have not shown it yet.
    Slice(Change),
    DeleteSlice(&'static str, usize),
    /// A watch delivers its next event.
    Deliver(usize),
    /// A watch delivers an event a second time.
    Repeat(usize),
    /// A watch restarts with a list.
    Relist(usize),
    /// A slice is read by a GET.
    Read(&'static str, usize),
    /// Names that are not in use are dropped.
    Forget,
    /// A Node is changed, becomes undecodable, or is deleted.
    Node(usize, u8),
    /// Nodes are listed, or the list fails.
    Nodes(u8),
}

#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) namespace: &'static str,
    pub(super) name: usize,
    pub(super) of: Option<&'static str>,
    /// 0: none of our marks; 1: only our managed-by label; 2: the label, the annotations that name a source slice, and
    /// the owner.
    pub(super) ours: u8,
    pub(super) endpoints: u8,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let namespace = || select(vec!["default", "web"]);
    let sources = vec![
        None,
        Some(("default", "kubernetes")),
        Some(("default", "vip")),
        Some(("web", "app")),
        Some(("web", "no name")),
    ];
    let change = (
        namespace(),
        0..4usize,
        select(vec![
            None,
            Some("kubernetes"),
            Some("vip"),
            Some("second"),
            Some("app"),
        ]),
        0..3u8,
        0..3u8,
    );
    prop_oneof![
        3 => (0..SERVICES.len(), select(sources), 0..5u8).prop_map(|(n, source, kind)| Step::Service(n, source, kind)),
        1 => (0..SERVICES.len()).prop_map(Step::DeleteService),
        1 => (0..=SERVICES.len()).prop_map(Step::ListServices),
        6 => change.prop_map(|(namespace, name, of, ours, endpoints)| Step::Slice(Change { namespace, name, of, ours, endpoints })),
        2 => (namespace(), 0..4usize).prop_map(|(namespace, name)| Step::DeleteSlice(namespace, name)),
        8 => (0..3usize).prop_map(Step::Deliver),
        1 => (0..3usize).prop_map(Step::Repeat),
        1 => (0..3usize).prop_map(Step::Relist),
        1 => (namespace(), 0..4usize).prop_map(|(namespace, name)| Step::Read(namespace, name)),
        1 => Just(Step::Forget),
        3 => (0..NODES.len(), 0..5u8).prop_map(|(n, kind)| Step::Node(n, kind)),
        2 => (0..3u8).prop_map(Step::Nodes),
    ]
}

#[derive(Clone, Debug)]
pub(super) enum Event {
    Apply(EndpointSlice),
    Delete(EndpointSlice),
}

#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) pending: VecDeque<Event>,
    last: Option<Event>,
}

/// An API server, its watches, and the index that they feed.
pub(super) struct Cluster {
    services: BTreeMap<ServiceKey, Service>,
    slices: BTreeMap<SliceKey, EndpointSlice>,
    version: u64,
    pub(super) watches: [Watch; 3],
    names: Vec<String>,
    limits: ServiceLimits,
    pub(super) index: Index,
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self::with_limits(ServiceLimits::default())
    }

    pub(super) fn with_limits(limits: ServiceLimits) -> Self {
        let mut index = Index::new(defaults());
        index.set_limits(limits);
        index.services_listed(&HashSet::new());
        for scope in scopes() {
            index.slices_listed(&scope, &HashSet::new());
        }
        Self {
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            version: 100,
            watches: Default::default(),
            names: slice_names(),
            limits,
            index,
        }
    }

    /// Changes the slice in the store, and queues the event that each watch shows according to its selector.
    fn write(&mut self, key: &SliceKey, new: Option<EndpointSlice>) {
        self.version += 1;
        let old = self.slices.remove(key);
        let new = new.map(|new| {
            let uid = old.as_ref().and_then(|old| old.metadata.uid.clone());
            new.uid(&uid.unwrap_or_else(|| format!("uid-{}", self.version)))
                .version(self.version)
        });
        for (watch, scope) in self.watches.iter_mut().zip(scopes()) {
            let shown = |slice: &Option<EndpointSlice>| slice.clone().filter(|slice| shows(&scope, slice));
            match (shown(&old), shown(&new)) {
                (_, Some(new)) => watch.pending.push_back(Event::Apply(new)),
                (Some(old), None) => watch.pending.push_back(Event::Delete(old.version(self.version))),
                (None, None) => {}
            }
        }
        self.slices.extend(new.map(|new| (key.clone(), new)));
    }

    pub(super) fn deliver(&mut self, watch: usize, event: Event) -> Dirty {
        let scope = &scopes()[watch];
        self.watches[watch].last = Some(event.clone());
        match event {
            Event::Apply(slice) => self.index.apply_slice(scope, slice),
            Event::Delete(slice) => self.index.delete_slice(scope, &slice.metadata),
        }
    }

    pub(super) fn relist(&mut self, watch: usize) -> Dirty {
        let scope = &scopes()[watch];
        self.watches[watch] = Watch::default();
        let shown: Vec<_> = self
            .slices
            .values()
            .filter(|slice| shows(scope, slice))
            .cloned()
            .collect();
        let listed = shown.iter().map(|slice| SliceKey::of(&slice.metadata)).collect();
        let mut dirty: Dirty = shown
            .into_iter()
            .flat_map(|slice| self.index.list_slice(scope, slice))
            .collect();
        dirty.extend(self.index.slices_listed(scope, &listed));
        dirty
    }

    fn key(&self, namespace: &str, name: usize) -> SliceKey {
        SliceKey::new(namespace, self.names[name].as_str())
    }

    /// A new index, filled only from lists of this cluster.
    pub(super) fn listed_again(&self) -> Index {
        let (services, slices) = (self.services.clone(), self.slices.clone());
        let mut fresh = Self {
            services,
            slices,
            ..Self::with_limits(self.limits)
        };
        fresh.take(Step::ListServices(SERVICES.len()));
        for watch in 0..3 {
            fresh.relist(watch);
        }
        fresh.index
    }

    pub(super) fn take(&mut self, step: Step) -> Dirty {
        match step {
            Step::Service(n, source, kind) => {
                let service = some_service(SERVICES[n], source, kind);
                self.services
                    .insert(ServiceKey::of(&service.metadata), service.clone());
                self.index.apply_service(&service)
            }
            Step::DeleteService(n) => {
                let key = ServiceKey::new(SERVICES[n].0, SERVICES[n].1);
                self.services.remove(&key);
                self.index.delete_service(&key)
            }
            Step::ListServices(gone) => {
                self.services.retain(|key, _| {
                    SERVICES
                        .get(gone)
                        .is_none_or(|gone| (key.namespace(), key.name()) != *gone)
                });
                let listed: HashSet<_> = self.services.keys().cloned().collect();
                let mut dirty: Dirty = self
                    .services
                    .values()
                    .flat_map(|service| self.index.apply_service(service))
                    .collect();
                dirty.extend(self.index.services_listed(&listed));
                dirty
            }
            Step::Slice(change) => {
                let key = self.key(change.namespace, change.name);
                self.write(&key, Some(some_slice(&key, &change)));
                Dirty::new()
            }
            Step::DeleteSlice(namespace, name) => {
                let key = self.key(namespace, name);
                if self.slices.contains_key(&key) {
                    self.write(&key, None);
                }
                Dirty::new()
            }
            Step::Deliver(watch) => match self.watches[watch].pending.pop_front() {
                Some(event) => self.deliver(watch, event),
                None => Dirty::new(),
            },
            Step::Repeat(watch) => match self.watches[watch].last.clone() {
                Some(event) => self.deliver(watch, event),
                None => Dirty::new(),
            },
            Step::Relist(watch) => self.relist(watch),
            Step::Read(namespace, name) => {
                let key = self.key(namespace, name);
                look(&mut self.index, &key, self.slices.get(&key).cloned())
            }
            Step::Node(n, kind) => {
                let (name, address) = NODES[n];
                match kind {
                    0 => self.index.delete_node(name),
                    1 => self.index.apply_unreadable_node(name),
                    kind => {
                        let six = format!("2001:db8::{kind}{n}");
                        self.index.apply_node(node(name).internal(address).internal(&six))
                    }
                }
            }
            Step::Nodes(0) => self.index.nodes_unknown(NodesUnknown::Forbidden),
            Step::Nodes(gone) => {
                let listed = NODES.iter().skip(usize::from(gone) - 1);
                self.index
                    .nodes_listed(&listed.map(|(name, _)| (*name).to_owned()).collect())
            }
            Step::Forget => {
                // Delivers all events of the watch of copies first, because otherwise only the other watch might have
                // shown that a slice is no longer ours.
                let mut dirty = Dirty::new();
                while let Some(event) = self.watches[0].pending.pop_front() {
                    dirty.extend(self.deliver(0, event));
                }
                let names = shards(self.index.names());
                self.index.retain_names(&names);
                dirty
            }
        }
    }

    /// The plan for each Service, as if GETs had confirmed everything; `None` while the index knows too little.
    pub(super) fn plans(&self) -> Vec<(ServiceKey, Option<Plan>)> {
        let plan_for = |key: &ServiceKey| {
            let mut snapshot = self.index.snapshot(key)?;
            snapshot.seen = u64::MAX;
            snapshot.confirmed = self
                .names
                .iter()
                .flat_map(|name| ["default", "web"].map(|ns| SliceKey::new(ns, name.as_str())))
                .collect();
            Some(plan(&snapshot, &crate::plan::Verdicts::Off))
        };
        SERVICES
            .iter()
            .map(|(namespace, name)| ServiceKey::new(*namespace, *name))
            .map(|key| (key.clone(), plan_for(&key)))
            .collect()
    }
}

pub(super) fn some_service(
    (namespace, name): (&str, &str),
    source: Option<(&str, &str)>,
    kind: u8,
) -> Service {
    let mut built = match kind {
        0 => plain_service(name),
        1 => service(name).headless(),
        2 => service(name).deleting(),
        3 => service(name).families(&["IPv4", "IPv6"]).edit(|service| {
            service.spec_mut().external_traffic_policy = Some("Local".to_owned());
        }),
        _ => service(name),
    };
    if let Some((namespace, name)) = source {
        built = built.source(namespace, name);
    }
    built.namespace(namespace).created(kind.into())
}

pub(super) fn some_slice(key: &SliceKey, change: &Change) -> EndpointSlice {
    let mut built = slice(key.name())
        .namespace(key.namespace())
        .without_label(label::SERVICE_NAME);
    if change.ours == 1 {
        built = built.label(label::MANAGED_BY, MANAGED_BY_US);
    }
    if change.ours == 2 {
        let owner = if change.name == 3 { "second" } else { "vip" };
        built = built
            .copied(owner, "kubernetes")
            .without_label(label::SERVICE_NAME);
    }
    if let Some(of) = change.of {
        built = built.of(of);
    }
    let addresses: Vec<_> = (0..change.endpoints).map(|n| format!("192.0.2.{n}")).collect();
    built.endpoints(addresses.iter().map(String::as_str))
}
