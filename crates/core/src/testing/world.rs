//! A minimal API server with objects, versions and preconditions. It has no watches and no clock, and validates only
//! what a plan could get wrong.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::defaults;
use crate::index::{Index, Scope};
use crate::model::{
    Defaults, EndpointSlice, Finding, Grant, KnownNodes, Node, Nodes, Reason, ReferenceGrant, Service,
    ServiceKey, SliceKey, Snapshot,
};
use crate::plan::{Delete, Plan, Verdicts, plan};

/// A write that the API server accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Write {
    Create(SliceKey),
    Update(SliceKey),
    Delete(SliceKey),
}

/// All objects of a cluster.
#[derive(Clone, Debug)]
pub struct World {
    pub services: BTreeMap<ServiceKey, Service>,
    pub slices: BTreeMap<SliceKey, EndpointSlice>,
    /// The verdicts that plans use.
    pub probes: Verdicts,
    /// The flags.
    pub defaults: Defaults,
    /// All ReferenceGrants, as if they had been listed.
    pub grants: Vec<ReferenceGrant>,
    pub nodes: KnownNodes,
    version: u64,
}

impl World {
    pub fn new() -> Self {
        Self {
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            probes: Verdicts::Off,
            defaults: defaults(),
            grants: Vec::new(),
            nodes: KnownNodes::default(),
            version: 1000,
        }
    }

    /// Adds or changes a Service.
    pub fn service(mut self, service: Service) -> Self {
        self.put_service(service);
        self
    }

    /// Stores a slice as it is, including its version.
    pub fn slice(mut self, slice: EndpointSlice) -> Self {
        self.slices.insert(SliceKey::of(&slice.metadata), slice);
        self
    }

    /// Lists these Nodes.
    pub fn nodes(mut self, nodes: impl IntoIterator<Item = Node>) -> Self {
        self.list_nodes(nodes);
        self
    }

    pub fn list_nodes(&mut self, nodes: impl IntoIterator<Item = Node>) {
        let mut known = Nodes::default();
        for node in nodes {
            known.insert(node);
        }
        self.nodes = KnownNodes::Known(known.into());
    }

    pub fn put_service(&mut self, service: Service) {
        self.services.insert(ServiceKey::of(&service.metadata), service);
    }

    /// Adds or changes a slice. It gets a new version, and a UID if it is new.
    pub fn put(&mut self, mut slice: EndpointSlice) -> SliceKey {
        let key = SliceKey::of(&slice.metadata);
        self.version += 1;
        slice.metadata.resource_version = Some(self.version.to_string());
        slice.metadata.uid = Some(match self.slices.get(&key) {
            Some(known) => known.metadata.uid.clone().unwrap_or_default(),
            None => format!("uid-{}", self.version),
        });
        self.slices.insert(key.clone(), slice);
        key
    }

    /// Changes an existing slice.
    pub fn edit(&mut self, key: &SliceKey, change: impl FnOnce(&mut EndpointSlice)) {
        let mut slice = self.slices[key].clone();
        change(&mut slice);
        self.put(slice);
    }

    /// The slices that are copies for a Service in namespace `default`, sorted by key.
    pub fn copies(&self, service: &str) -> Vec<&EndpointSlice> {
        let key = ServiceKey::new("default", service);
        self.slices
            .values()
            .filter(|slice| slice.is_copy_for(&key))
            .collect()
    }

    /// The only copy of a Service in namespace `default`.
    pub fn copy(&self, service: &str) -> &EndpointSlice {
        let copies = self.copies(service);
        assert_eq!(copies.len(), 1, "copies of {service}: {copies:#?}");
        copies[0]
    }

    /// The index of a replica whose watches have shown everything.
    pub fn index(&self) -> Index {
        let mut index = Index::new(self.defaults.clone());
        for service in self.services.values() {
            index.apply_service(service);
        }
        index.services_listed(&self.services.keys().cloned().collect());
        let read = |grant: &ReferenceGrant| (grant.metadata.clone(), Some(Grant::read(grant)));
        index.grants_listed(self.grants.iter().map(read));
        let names = Scope::Named(Arc::new(index.names()));
        for scope in [Scope::Copies, names] {
            let shown: Vec<_> = self
                .slices
                .values()
                .filter(|slice| shows(&scope, slice))
                .collect();
            let listed: HashSet<_> = shown.iter().map(|slice| SliceKey::of(&slice.metadata)).collect();
            for slice in shown {
                index.list_slice(&scope, slice.clone());
            }
            index.slices_listed(&scope, &listed);
        }
        self.show_nodes(&mut index);
        index
    }

    fn show_nodes(&self, index: &mut Index) {
        match &self.nodes {
            KnownNodes::Unknown(why) => _ = index.nodes_unknown(*why),
            KnownNodes::Known(nodes) => {
                for node in nodes.readable() {
                    index.apply_node((**node).clone());
                }
                for name in nodes.unreadable() {
                    index.apply_unreadable_node(name);
                }
                index.nodes_listed(&nodes.names().map(ToString::to_string).collect());
            }
        }
    }

    pub fn snapshot(&self, key: &ServiceKey) -> Snapshot {
        self.index().snapshot(key).expect("everything is listed")
    }

    /// The plan for a Service in namespace `default`; see [`World::plan_for`].
    pub fn plan(&self, service: &str) -> Plan {
        self.plan_for(&ServiceKey::new("default", service))
    }

    /// The plan for a Service, after GETs have confirmed everything that the plan depends on.
    pub fn plan_for(&self, key: &ServiceKey) -> Plan {
        let mut snapshot = self.snapshot(key);
        let mut confirmed = BTreeSet::new();
        loop {
            snapshot.confirmed.clone_from(&confirmed);
            let plan = plan(&snapshot, &self.probes);
            if plan.confirm.is_empty() {
                return plan;
            }
            assert!(
                plan.confirm.is_disjoint(&confirmed),
                "confirmed before: {:?}",
                plan.confirm
            );
            confirmed.extend(plan.confirm);
        }
    }

    /// The findings of a Service in namespace `default`.
    pub fn findings(&self, service: &str) -> Vec<Finding> {
        self.plan(service).findings
    }

    /// The reasons of the findings of a Service in namespace `default`.
    pub fn reasons(&self, service: &str) -> Vec<Reason> {
        self.findings(service)
            .into_iter()
            .map(|finding| finding.reason)
            .collect()
    }

    /// Carries out a plan, checking preconditions as an API server does, and returns the writes.
    pub fn apply(&mut self, plan: Plan) -> Vec<Write> {
        assert!(plan.confirm.is_empty(), "not confirmed: {:?}", plan.confirm);
        let mut writes = Vec::new();
        self.delete(plan.withdrawn, &mut writes);
        for slice in plan.creates {
            let key = SliceKey::of(&slice.metadata);
            assert!(!self.slices.contains_key(&key), "POST {key}: it exists");
            assert_eq!(slice.metadata.uid, None, "POST {key} with a UID");
            assert_eq!(slice.metadata.resource_version, None, "POST {key} with a version");
            writes.push(Write::Create(self.put(slice)));
        }
        for slice in plan.updates {
            let key = SliceKey::of(&slice.metadata);
            let known = self
                .slices
                .get(&key)
                .unwrap_or_else(|| panic!("PUT {key}: it does not exist"));
            assert_eq!(slice.metadata.uid, known.metadata.uid, "PUT {key}: UID");
            let (seen, now) = (&slice.metadata.resource_version, &known.metadata.resource_version);
            assert_eq!(seen, now, "PUT {key}: resourceVersion");
            assert_eq!(
                slice.address_type, known.address_type,
                "PUT {key}: addressType is immutable"
            );
            writes.push(Write::Update(self.put(slice)));
        }
        self.delete(plan.deletes.into_iter().chain(plan.leftovers), &mut writes);
        writes
    }

    fn delete(&mut self, deletes: impl IntoIterator<Item = Delete>, writes: &mut Vec<Write>) {
        for delete in deletes {
            let known = self
                .slices
                .remove(&delete.key)
                .unwrap_or_else(|| panic!("DELETE {}: it does not exist", delete.key));
            assert_eq!(Some(delete.uid), known.metadata.uid, "DELETE {}: UID", delete.key);
            assert_eq!(
                Some(delete.resource_version),
                known.metadata.resource_version,
                "DELETE {}: version",
                delete.key
            );
            writes.push(Write::Delete(delete.key));
        }
    }

    /// Plans and applies once for a Service in namespace `default`, and checks that nothing is left to do.
    pub fn settle(&mut self, service: &str) -> Vec<Write> {
        let writes = self.apply(self.plan(service));
        let left = self.plan(service);
        assert!(
            left.is_done(),
            "the plan is not empty after it was applied: {left:#?}"
        );
        writes
    }

    /// Like [`World::settle`], but returns `self` for a chain of calls.
    pub fn settled(mut self, service: &str) -> Self {
        self.settle(service);
        self
    }
}

/// Whether the label selector of a watch of this scope selects a slice.
pub fn shows(scope: &Scope, slice: &EndpointSlice) -> bool {
    match scope {
        Scope::Copies => slice.is_labeled_as_copy(),
        Scope::Named(names) => {
            !slice.is_labeled_as_copy()
                && slice
                    .service()
                    .is_some_and(|service| names.contains(service.name()))
        }
    }
}
