//! All known Nodes, which provide the address of an API server in the IP family that the API source lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Family, Node, NodeAddressKind};

/// The known Nodes, or why they are unknown. While they are unknown, copies keep the data that they have from Nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownNodes {
    /// Nodes are unknown, for this reason.
    Unknown(NodesUnknown),
    /// Nodes were listed.
    Known(Arc<Nodes>),
}

/// Why Nodes are unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodesUnknown {
    /// Nodes are not watched, or their first list is not complete. This is not an error.
    NotListed,
    /// The API server refuses the list with 403.
    Forbidden,
    /// The list fails in another way.
    Failing,
}

impl Default for KnownNodes {
    fn default() -> Self {
        Self::Unknown(NodesUnknown::NotListed)
    }
}

/// Nodes by name and by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    readable: BTreeMap<Arc<str>, Arc<Node>>,
    /// This is one set, because a set for each address would take several times the memory.
    by_address: BTreeSet<(IpAddr, Arc<str>)>,
    unreadable: BTreeSet<Arc<str>>,
}

/// Why an API server has no usable address in the other family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCounterpart {
    /// No Node has the listed address.
    NoNode,
    /// Several Nodes have the listed address.
    Several(Vec<Arc<str>>),
    /// The Node has no usable address of the same kind in the other family.
    NoAddress(Arc<str>, NodeAddressKind),
}

impl Nodes {
    /// Adds or replaces a Node. Returns `false` if nothing changed.
    pub fn insert(&mut self, node: Node) -> bool {
        if self.readable.get(&node.name).is_some_and(|known| **known == node) {
            return false;
        }
        self.remove(&node.name.clone());
        let name = node.name.clone();
        let addresses = node.addresses.iter().map(|known| known.address);
        self.by_address
            .extend(addresses.map(|address| (address, name.clone())));
        self.readable.insert(name, Arc::new(node));
        true
    }

    /// Adds or replaces a Node that cannot be decoded. Returns `false` if that was already known.
    pub fn insert_unreadable(&mut self, name: &str) -> bool {
        if self.unreadable.contains(name) {
            return false;
        }
        self.remove(name);
        self.unreadable.insert(name.into())
    }

    /// Forgets a Node. Returns `false` if it was not known.
    pub fn remove(&mut self, name: &str) -> bool {
        let known = self.readable.remove(name);
        for address in known.iter().flat_map(|node| node.addresses.iter()) {
            self.by_address.remove(&(address.address, name.into()));
        }
        let was_unreadable = self.unreadable.remove(name);
        known.is_some() || was_unreadable
    }

    /// The names of all Nodes, including unreadable ones.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.readable.keys().chain(&self.unreadable)
    }

    /// The Nodes that can be decoded.
    pub fn readable(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.readable.values()
    }

    /// The names of the Nodes that cannot be decoded.
    pub fn unreadable(&self) -> impl Iterator<Item = &Arc<str>> {
        self.unreadable.iter()
    }

    /// Whether there is a Node that cannot be decoded and might have this address, because no readable Node has it.
    #[must_use]
    pub fn may_be_of_unreadable(&self, address: IpAddr) -> bool {
        !self.unreadable.is_empty() && self.with(address).next().is_none()
    }

    /// The readable Nodes that have this address.
    pub fn with(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Node>> {
        // The empty name sorts first.
        let from = (address, Arc::from(""));
        let names = self.by_address.range(from..);
        let names = names.take_while(move |(known, _)| *known == address);
        names.filter_map(|(_, name)| self.readable.get(name))
    }

    /// The only readable Node that has this address. `None` if no such Node has it, or several do.
    #[must_use]
    pub fn only_with(&self, address: IpAddr) -> Option<&Arc<Node>> {
        let mut nodes = self.with(address);
        nodes.next().filter(|_| nodes.next().is_none())
    }

    /// Given the listed address of an API server, returns the server's address in `family`.
    ///
    /// - The candidates are the addresses of the only Node that has `listed`, if they are of the same kind as `listed`
    ///   and not in `own`, the addresses of the managed Service itself.
    /// - Candidates that other Nodes share are excluded unless all are shared, because they might belong to other
    ///   servers.
    /// - The result is the lowest candidate in `shown`, the addresses that copies show, because the order of a Node's
    ///   addresses can change. If no candidate is in `shown`, the result is the first candidate.
    ///
    /// # Errors
    /// Returns the reason if there is no such address.
    pub fn counterpart(
        &self,
        listed: IpAddr,
        family: Family,
        own: &[IpAddr],
        shown: &BTreeSet<IpAddr>,
    ) -> Result<IpAddr, NoCounterpart> {
        let nodes: Vec<_> = self.with(listed).collect();
        let node = match nodes.as_slice() {
            [] => return Err(NoCounterpart::NoNode),
            [node] => node,
            several => {
                let names = several.iter().map(|node| node.name.clone());
                return Err(NoCounterpart::Several(names.collect()));
            }
        };
        // This is always `Some`, because `by_address` says that this Node has the address.
        let kind = node.kind_of(listed).ok_or(NoCounterpart::NoNode)?;
        let usable = |address: &IpAddr| !own.contains(address);
        let is_shared = |address: &IpAddr| self.only_with(*address).is_none();
        let usable = node.addresses_of(kind, family).filter(usable);
        let (shared, unshared): (Vec<_>, Vec<_>) = usable.partition(is_shared);
        let addresses = if unshared.is_empty() { shared } else { unshared };
        let kept = addresses.iter().filter(|address| shown.contains(*address)).min();
        kept.or(addresses.first())
            .copied()
            .ok_or_else(|| NoCounterpart::NoAddress(node.name.clone(), kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node;

    fn ip(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    fn nodes(given: impl IntoIterator<Item = Node>) -> Nodes {
        let mut nodes = Nodes::default();
        for node in given {
            nodes.insert(node);
        }
        nodes
    }

    fn counterpart(nodes: &Nodes, own: &[&str], shown: &[&str]) -> Result<String, NoCounterpart> {
        let own: Vec<_> = own.iter().map(|address| ip(address)).collect();
        let shown = shown.iter().map(|address| ip(address)).collect();
        let found = nodes.counterpart(ip("192.0.2.1"), Family::V6, &own, &shown);
        found.map(|address| address.to_string())
    }

    /// Rule: 8.counterpart, 8.several-nodes
    #[test]
    fn the_counterpart_is_on_the_only_node_and_of_the_same_kind() {
        let a = || node("a").internal("192.0.2.1");
        let no_address = || Err(NoCounterpart::NoAddress("a".into(), NodeAddressKind::Internal));
        for (what, given, expected) in [
            (
                "same kind",
                vec![a().external("2001:db8::e").internal("2001:db8::1")],
                Ok("2001:db8::1".to_owned()),
            ),
            ("other kind", vec![a().external("2001:db8::e")], no_address()),
            ("no IPv6", vec![a().internal("192.0.2.9")], no_address()),
            (
                "external",
                vec![
                    node("a")
                        .external("192.0.2.1")
                        .internal("2001:db8::1")
                        .external("2001:db8::e"),
                ],
                Ok("2001:db8::e".to_owned()),
            ),
            (
                "both kinds",
                vec![
                    node("a")
                        .external("192.0.2.1")
                        .internal("192.0.2.1")
                        .internal("2001:db8::1"),
                ],
                Ok("2001:db8::1".to_owned()),
            ),
            (
                "no Node",
                vec![node("a").internal("192.0.2.10").internal("2001:db8::1")],
                Err(NoCounterpart::NoNode),
            ),
            (
                "two Nodes",
                vec![a().internal("2001:db8::1"), node("b").internal("192.0.2.1")],
                Err(NoCounterpart::Several(vec!["a".into(), "b".into()])),
            ),
        ] {
            assert_eq!(counterpart(&nodes(given), &[], &[]), expected, "{what}");
        }
    }

    /// Rule: 8.address-kept, 8.never-vip
    #[test]
    fn a_shown_counterpart_is_kept_and_the_vip_never_chosen() {
        let nodes = nodes([node("a")
            .internal("192.0.2.1")
            .internal("2001:db8::2")
            .internal("2001:db8::1")]);
        for (own, shown, expected) in [
            (&[][..], &[][..], "2001:db8::2"),
            (&[], &["2001:db8::1"], "2001:db8::1"),
            (&[], &["2001:db8::1", "2001:db8::2"], "2001:db8::1"),
            (&[], &["2001:db8::9"], "2001:db8::2"),
            (&["2001:db8::2"], &[], "2001:db8::1"),
            (&["2001:db8::2"], &["2001:db8::2"], "2001:db8::1"),
        ] {
            assert_eq!(
                counterpart(&nodes, own, shown).as_deref(),
                Ok(expected),
                "{own:?}, {shown:?}"
            );
        }
        let all = ["2001:db8::1", "2001:db8::2"];
        assert!(counterpart(&nodes, &all, &all).is_err());
    }

    /// Rule: 8.address-kept
    #[test]
    fn an_address_shared_with_another_node_comes_last() {
        let a = || node("a").internal("192.0.2.1").internal("2001:db8::2");
        let b = || node("b").internal("192.0.2.2").internal("2001:db8::2");
        // The copy shows the shared address for the other server.
        let shown = &["2001:db8::2"][..];
        for (given, expected) in [
            ([a().internal("2001:db8::1"), b()], "2001:db8::1"),
            ([a(), b()], "2001:db8::2"),
        ] {
            assert_eq!(counterpart(&nodes(given), &[], shown).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_node_that_is_replaced_or_gone_leaves_no_address_behind() {
        let mut nodes = nodes([node("a").internal("192.0.2.1"), node("b").internal("192.0.2.2")]);
        assert!(!nodes.insert(node("a").internal("192.0.2.1")), "nothing changed");
        assert!(nodes.insert(node("a").internal("192.0.2.3")));
        assert_eq!(nodes.with(ip("192.0.2.1")).count(), 0);
        assert!(nodes.only_with(ip("192.0.2.3")).is_some());
        assert!(nodes.insert_unreadable("a") && !nodes.insert_unreadable("a"));
        assert_eq!(nodes.with(ip("192.0.2.3")).count(), 0);
        assert!(nodes.insert(node("a").internal("192.0.2.3")), "readable again");
        assert_eq!(nodes.unreadable().count(), 0);
        assert!(nodes.remove("a") && nodes.remove("b") && !nodes.remove("b"));
        assert_eq!(nodes, Nodes::default());
    }
}
