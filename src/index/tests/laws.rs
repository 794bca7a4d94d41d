//! The index fed by watches of a cluster that changes at random, in any order between the watches.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::model::{MANAGED_BY, Reason, label};
use crate::plan::{Plan, plan};
use crate::testing::world::shows;

const SERVICES: [(&str, &str); 5] = [
    ("default", "kubernetes"),
    ("default", "vip"),
    ("default", "second"),
    ("web", "app"),
    ("web", "vip"),
];

/// The watches of slices: ours, and two that share the names.
fn scopes() -> [Scope; 3] {
    [
        Scope::Copies,
        named(&["app", "kubernetes"]),
        named(&["second", "vip"]),
    ]
}

/// Names of slices that matter: a source's, a copy's, another's.
fn slice_names() -> Vec<String> {
    let copy_of = |service| copy::name(service, &slice("kubernetes"));
    ["kubernetes", "other"]
        .map(str::to_owned)
        .into_iter()
        .chain(["vip", "second"].map(copy_of))
        .collect()
}

/// What happens in the cluster, in a watch, or between the two.
#[derive(Clone, Debug)]
enum Step {
    /// A Service is changed (or made), and the index told.
    Service(usize, Option<(&'static str, &'static str)>, u8),
    DeleteService(usize),
    /// Services are listed anew, some of them gone meanwhile.
    ListServices(usize),
    /// A slice is changed (or made); its watches have yet to say so.
    Slice(Change),
    DeleteSlice(&'static str, usize),
    /// A watch delivers its next event.
    Deliver(usize),
    /// A watch delivers an event once more.
    Repeat(usize),
    /// A watch starts again with a list.
    Relist(usize),
    /// A slice is read by a GET.
    Read(&'static str, usize),
    /// Names that are not in use are dropped.
    Forget,
}

#[derive(Clone, Debug)]
struct Change {
    namespace: &'static str,
    name: usize,
    of: Option<&'static str>,
    /// None, the label alone, or all that makes a slice ours.
    ours: u8,
    endpoints: u8,
}

fn step() -> impl Strategy<Value = Step> {
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
    ]
}

#[derive(Clone, Debug)]
enum Event {
    Apply(EndpointSlice),
    Delete(EndpointSlice),
}

#[derive(Debug, Default)]
struct Watch {
    pending: VecDeque<Event>,
    last: Option<Event>,
}

/// An API server, its watches, and the index at their end.
struct Cluster {
    services: BTreeMap<ServiceKey, Service>,
    slices: BTreeMap<SliceKey, EndpointSlice>,
    version: u64,
    watches: [Watch; 3],
    names: Vec<String>,
    index: Index,
}

impl Cluster {
    fn new() -> Self {
        let mut index = Index::new(defaults());
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
            index,
        }
    }

    /// The slice changes in the store, and each watch hears what its selector makes of it.
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

    fn deliver(&mut self, watch: usize, event: Event) -> Dirty {
        let scope = &scopes()[watch];
        self.watches[watch].last = Some(event.clone());
        match event {
            Event::Apply(slice) => self.index.apply_slice(scope, slice),
            Event::Delete(slice) => self.index.delete_slice(scope, &slice),
        }
    }

    fn relist(&mut self, watch: usize) -> Dirty {
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
        SliceKey::new(namespace, &self.names[name])
    }

    fn take(&mut self, step: Step) -> Dirty {
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
                self.index.observe(&key, self.slices.get(&key).cloned())
            }
            Step::Forget => {
                // With a copy's watch behind, the other watch alone knows that a slice is ours no longer.
                let mut dirty = Dirty::new();
                while let Some(event) = self.watches[0].pending.pop_front() {
                    dirty.extend(self.deliver(0, event));
                }
                self.index.retain_names(&self.index.names());
                dirty
            }
        }
    }

    /// All plans that could be made, with nothing left to ask.
    fn plans(&self) -> Vec<(ServiceKey, Option<Plan>)> {
        let plan_for = |key: &ServiceKey| {
            let mut snapshot = self.index.snapshot(key)?;
            snapshot.seen = u64::MAX;
            snapshot.confirmed = self
                .names
                .iter()
                .flat_map(|name| ["default", "web"].map(|ns| SliceKey::new(ns, name)))
                .collect();
            Some(plan(&snapshot))
        };
        SERVICES
            .iter()
            .map(|(namespace, name)| ServiceKey::new(*namespace, *name))
            .map(|key| (key.clone(), plan_for(&key)))
            .collect()
    }
}

fn some_service((namespace, name): (&str, &str), source: Option<(&str, &str)>, kind: u8) -> Service {
    let mut built = match kind {
        0 => plain_service(name),
        1 => service(name).headless(),
        2 => service(name).deleting(),
        _ => service(name),
    };
    if let Some((namespace, name)) = source {
        built = built.source(namespace, name);
    }
    built.namespace(namespace)
}

fn some_slice(key: &SliceKey, change: &Change) -> EndpointSlice {
    let mut built = slice(key.name())
        .namespace(key.namespace())
        .without_label(label::SERVICE_NAME);
    if change.ours == 1 {
        built = built.label(label::MANAGED_BY, MANAGED_BY);
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

fn has_name_taken(plan: &Plan) -> bool {
    plan.findings
        .iter()
        .any(|finding| finding.reason == Reason::NameTaken)
}

/// All that a snapshot says, in a form that can be compared.
fn shown(index: &Index) -> Vec<String> {
    let view = |key: &(&str, &str)| {
        let snapshot = index.snapshot(&ServiceKey::new(key.0, key.1));
        format!("{:#?}", snapshot.map(|snapshot| Snapshot { seen: 0, ..snapshot }))
    };
    SERVICES.iter().map(view).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_change_that_alters_a_plan_has_its_key_among_the_dirty_ones(steps in vec(step(), 1..40)) {
        let mut cluster = Cluster::new();
        let mut before = cluster.plans();
        for step in steps {
            let dirty = cluster.take(step.clone());
            let after = cluster.plans();
            for ((key, old), (_, new)) in before.iter().zip(&after) {
                // A POST meets what stands in the way of a copy, when it was forgotten with its name.
                let forgotten = matches!(step, Step::Forget) && old.as_ref().is_some_and(has_name_taken);
                prop_assert!(
                    old == new || dirty.contains(key) || forgotten,
                    "{step:?} altered the plan of {key} and marked {dirty:?}:\nbefore {old:#?}\nafter {new:#?}"
                );
            }
            before = after;
        }
    }

    #[test]
    fn watches_that_have_caught_up_show_what_a_fresh_list_shows(steps in vec(step(), 1..40)) {
        let mut cluster = Cluster::new();
        let forgot = steps.iter().any(|step| matches!(step, Step::Forget));
        for step in steps {
            cluster.take(step);
        }
        for watch in 0..3 {
            while let Some(event) = cluster.watches[watch].pending.pop_front() {
                cluster.deliver(watch, event);
            }
        }
        // What was dropped is watched again when it is named again, from a list.
        for watch in if forgot { 1..3 } else { 0..0 } {
            cluster.relist(watch);
        }
        let mut fresh = Cluster { services: cluster.services.clone(), slices: cluster.slices.clone(), ..Cluster::new() };
        fresh.take(Step::ListServices(SERVICES.len()));
        for watch in 0..3 {
            fresh.relist(watch);
        }
        for (caught_up, listed) in shown(&cluster.index).into_iter().zip(shown(&fresh.index)) {
            prop_assert_eq!(caught_up, listed);
        }
    }

    #[test]
    fn the_order_in_which_states_arrive_does_not_matter(
        changes in vec((0..3usize, 0..3u8), 1..12).prop_shuffle(),
        order in vec(any::<prop::sample::Index>(), 0..40),
    ) {
        // States of source slices, each with a version of its own; the newest of each must win.
        let scope = &scopes()[1];
        let states: Vec<_> = changes.iter().zip(200..).map(|(&(name, endpoints), version)| {
            let change = Change { namespace: "default", name, of: Some("kubernetes"), ours: 0, endpoints };
            let key = SliceKey::new("default", slice_names()[name].clone());
            some_slice(&key, &change).version(version)
        }).collect();
        let index_of = |events: Vec<&EndpointSlice>| {
            let mut cluster = Cluster::new();
            cluster.take(Step::Service(1, None, 3));
            for slice in events {
                cluster.index.apply_slice(scope, slice.clone());
            }
            cluster.index
        };
        let in_order = index_of(states.iter().collect());
        let mixed = order.iter().map(|index| index.get(&states)).chain(states.iter().rev());
        prop_assert_eq!(shown(&in_order), shown(&index_of(mixed.collect())));
    }
}
