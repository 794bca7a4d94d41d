//! The Nodes, and the managed Services that depend on them.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Dirty, Index};
use crate::model::{
    EndpointSlice, Family, KnownNodes, ManagedService, Node, Nodes, NodesUnknown, ServiceKey,
};

/// The Nodes that the watch has shown.
#[derive(Debug)]
pub(super) struct NodeIndex {
    /// The last known Nodes. They are kept even while Nodes are treated as unknown, so that the next list can be
    /// compared with them.
    nodes: Arc<Nodes>,
    /// Why Nodes are treated as unknown, if they are.
    unknown: Option<NodesUnknown>,
}

impl Default for NodeIndex {
    fn default() -> Self {
        Self {
            nodes: Arc::default(),
            unknown: Some(NodesUnknown::NotListed),
        }
    }
}

impl Index {
    /// Whether a managed Service needs Nodes. If so, the operator has to watch them. The result can change only when
    /// [`Index::api_servers_changed`] changes.
    #[must_use]
    pub fn needs_nodes(&self) -> bool {
        self.services_that_need_nodes().next().is_some()
    }

    /// Records a Node that was added or changed, or is on a list. A Node without a relevant change, for example after a
    /// heartbeat, affects no Service.
    pub fn apply_node(&mut self, node: Node) -> Dirty {
        self.change_nodes(|nodes| nodes.insert(node))
    }

    /// Records an undecodable Node that was added or changed, or is on a list.
    pub fn apply_unreadable_node(&mut self, name: &str) -> Dirty {
        self.change_nodes(|nodes| nodes.insert_unreadable(name))
    }

    /// Removes a Node that was deleted, or that the selector no longer selects.
    pub fn delete_node(&mut self, name: &str) -> Dirty {
        self.change_nodes(|nodes| nodes.remove(name))
    }

    /// Completes a list of Nodes. Nodes that are not on the list no longer exist. `listed` contains the names of all
    /// Nodes on the list, readable or not.
    pub fn nodes_listed(&mut self, listed: &HashSet<String>) -> Dirty {
        let names = self.nodes.nodes.names();
        let gone: Vec<_> = names.filter(|name| !listed.contains(&***name)).cloned().collect();
        let was_unknown = self.nodes.unknown.take().is_some();
        let mut dirty = Dirty::new();
        for name in gone {
            dirty.extend(self.delete_node(&name));
        }
        if was_unknown {
            dirty.extend(self.concerned_by_nodes());
        }
        dirty
    }

    /// Records that Nodes cannot be listed. Until the next complete list, copies keep the data that they have from
    /// Nodes.
    pub fn nodes_unknown(&mut self, why: NodesUnknown) -> Dirty {
        if self.nodes.unknown.replace(why) == Some(why) {
            return Dirty::new();
        }
        self.concerned_by_nodes()
    }

    /// Forgets all Nodes, because they are no longer watched. This affects no Service, because no Service needs Nodes.
    pub fn forget_nodes(&mut self) {
        self.nodes = NodeIndex::default();
        self.api_servers_changed += 1;
    }

    /// The known Nodes, or why they are unknown.
    #[must_use]
    pub fn known_nodes(&self) -> KnownNodes {
        match self.nodes.unknown {
            Some(why) => KnownNodes::Unknown(why),
            None => KnownNodes::Known(self.nodes.nodes.clone()),
        }
    }

    /// The slices of the API source, except our copies.
    pub(super) fn api_server_slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        let source = ServiceKey::api_source();
        let slices = self.others.of(&source);
        slices.filter(move |slice| slice.belongs_to(&source))
    }

    /// Whether the API source lists endpoints of a family, ready or not. Slices that cannot be decoded are ignored.
    pub(super) fn lists_api_servers(&self, family: Family) -> bool {
        let mut slices = self.api_server_slices();
        slices.any(|slice| slice.address_type == family.as_str() && !slice.is_empty())
    }

    fn services_that_need_nodes(&self) -> impl Iterator<Item = &ServiceKey> {
        let lacks = Family::ALL.map(|family| (family, !self.lists_api_servers(family)));
        let services = self.api_server_services();
        services.filter(move |key| {
            self.managed_service(key)
                .is_some_and(|service| service.needs_node_names() || needs_family(service, lacks))
        })
    }

    fn concerned_by_nodes(&mut self) -> Dirty {
        self.api_servers_changed += 1;
        self.services_that_need_nodes().cloned().collect()
    }

    fn change_nodes(&mut self, change: impl FnOnce(&mut Nodes) -> bool) -> Dirty {
        if !change(Arc::make_mut(&mut self.nodes.nodes)) || self.nodes.unknown.is_some() {
            return Dirty::new();
        }
        self.concerned_by_nodes()
    }
}

/// Whether a Service wants a family that the source lacks. A source that is empty, or not listed yet, lacks both
/// families, but in most clusters, it will have endpoints of one family later. Therefore, with such a source, only a
/// Service that wants both families needs one.
fn needs_family(service: &ManagedService, lacks: [(Family, bool); 2]) -> bool {
    let is_empty = lacks.iter().all(|(_, lacks)| *lacks);
    let missing = lacks.iter().filter(|(_, lacks)| *lacks).map(|(family, _)| family);
    let wanted = missing.filter(|family| service.families.contains(family)).count();
    if is_empty { wanted > 1 } else { wanted > 0 }
}
