//! Fills an IP family that the API source lacks with addresses from Nodes.
//!
//! `default/kubernetes` lists each API server in one family. The address in the other family comes from the server's
//! Node:
//!
//! ```text
//!   listed 192.0.2.1 ──> the one Node that has it ──> its IPv6 address of the same kind ──> additional copy
//! ```
//!
//! There is at most one additional copy for each source slice. An uncertain address is not added. An address that a
//! copy already shows can stay even if it is in doubt (`Filler::endpoints`, `Filler::keep_the_last`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointPort;

use super::{Verdicts, copy, last_ports};
use crate::model::{
    Endpoint, EndpointSlice, Family, KnownNodes, ManagedService, NoCounterpart, Nodes, NodesUnknown,
    SliceKey, Snapshot, Source, ports::LeftOut,
};
use crate::verdicts::{Phase, Report, Target, TargetFacts};

/// The additional copies of one family.
#[derive(Debug, Default)]
pub(super) struct SecondFamily {
    /// The copies that should exist. They have no endpoints while the source has none.
    pub copies: Vec<EndpointSlice>,
    /// The keys that the additional copies of all source slices would have, whether or not these copies should exist.
    keys: BTreeSet<SliceKey>,
    /// Whether the source has endpoints in the other family. If so, no held copy may show an address that these copies
    /// lack.
    has_source: bool,
    /// The listed addresses of API servers that are missing in this family or do not answer in it, and why.
    pub missing: BTreeMap<IpAddr, Missing>,
    /// Why Nodes are unknown. `None` if they are known, not listed yet, or not needed.
    pub unknown: Option<NodesUnknown>,
}

/// The problem with an API server in the second family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Nodes provide no address for it.
    Nodes(NoCounterpart),
    /// Its Node might be one of these undecodable Nodes.
    Unreadable(Vec<Arc<str>>),
    /// This address of the server does not answer probes.
    Silent(IpAddr),
    /// No copy has this address of the server, and a plan without probes does not add it.
    Unprobed(IpAddr),
}

impl SecondFamily {
    /// Whether one of these copies has a ready endpoint, not considering probes.
    pub(super) fn is_filled(&self) -> bool {
        let mut endpoints = self
            .copies
            .iter()
            .flat_map(|copy| copy.endpoints.iter().flatten());
        endpoints.any(Endpoint::is_ready)
    }

    /// Whether these copies decide what the copy with this key shows. Such a copy is not held.
    pub(super) fn decides(&self, slice: &SliceKey) -> bool {
        self.has_source && self.keys.contains(slice)
    }
}

/// The additional copies for a family in which the source has no readable endpoint.
pub(super) fn copies(
    service: &ManagedService,
    source: &Source,
    family: Family,
    snapshot: &Snapshot,
    verdicts: &Verdicts,
    left_out: &mut LeftOut,
) -> SecondFamily {
    if !source.key.is_api_source() {
        return SecondFamily::default();
    }
    let of_family = |copy: &&Arc<EndpointSlice>| copy.address_type == family.as_str();
    let shown = snapshot.copies.values().filter(of_family);
    let filler = Filler {
        service,
        source,
        family,
        snapshot,
        shown: shown.flat_map(|copy| copy.addresses()).collect(),
        probed_ports: source.probed_ports(),
    };
    filler.fill(verdicts, left_out)
}

/// The data that determines the copies of one family, except for the results of probes.
struct Filler<'a> {
    service: &'a ManagedService,
    source: &'a Source,
    family: Family,
    snapshot: &'a Snapshot,
    /// The addresses that existing copies show in this family.
    shown: BTreeSet<IpAddr>,
    /// The TCP ports on which copies of the source are probed.
    probed_ports: BTreeSet<u16>,
}

/// The addresses that may enter a copy although no existing copy shows them yet.
enum Entrance<'a> {
    /// All addresses.
    Open,
    /// No address, because this plan has no probe results, and the operator might be waiting for them.
    Closed,
    /// The addresses whose phase in this report is `Well` on all of these ports. If there are no ports, no address may
    /// enter.
    SeenWell(&'a Report, BTreeSet<u16>),
}

impl Filler<'_> {
    fn fill(&self, verdicts: &Verdicts, left_out: &mut LeftOut) -> SecondFamily {
        let mut second = SecondFamily::default();
        let answering = self.ports_that_answer(verdicts);
        // While the source has endpoints of this family in a slice that cannot be decoded, no copy is created.
        let has_unreadable = self.source.has_unreadable(self.family, &self.snapshot.copies);
        for slice in self.source.slices_of(self.family.other()) {
            second.has_source |= !slice.is_empty();
            let mut shown = EndpointSlice {
                metadata: slice.metadata.clone(),
                address_type: self.family.as_str().to_owned(),
                ..EndpointSlice::default()
            };
            let key = copy::key(self.service, &shown);
            let current = self.current(&key);
            second.keys.insert(key);
            let Some(ports) = self.ports(slice, current, left_out) else {
                continue;
            };
            let empty = copy::fresh(self.service, &shown, ports);
            shown.endpoints = Some(match &self.snapshot.nodes {
                _ if slice.is_empty() => Vec::new(),
                KnownNodes::Known(nodes) => {
                    let entrance = self.entrance(verdicts, &empty, &answering);
                    self.endpoints(slice, current, nodes, &entrance, &mut second.missing)
                }
                KnownNodes::Unknown(why) => {
                    second.unknown = Some(*why).filter(|why| *why != NodesUnknown::NotListed);
                    self.kept(current, |_| true)
                }
            });
            let ports = empty.ports.unwrap_or_default();
            let may_create = !shown.is_empty() && !has_unreadable;
            if current.is_some() || may_create {
                second.copies.push(copy::fresh(self.service, &shown, ports));
            }
        }
        self.keep_the_last(&mut second);
        second
    }

    /// The ports of the copy of one slice. `None` if the slice gets no copy.
    fn ports(
        &self,
        slice: &EndpointSlice,
        current: Option<&EndpointSlice>,
        left_out: &mut LeftOut,
    ) -> Option<Vec<EndpointPort>> {
        if slice.is_empty() {
            let left_out = &mut LeftOut::default();
            last_ports::of_copy(self.service, self.source, Some(slice), current?, left_out)
        } else {
            self.source.ports_of_copy(&self.service.ports, slice, left_out)
        }
    }

    /// The endpoints of one slice in this family.
    fn endpoints(
        &self,
        slice: &EndpointSlice,
        current: Option<&EndpointSlice>,
        nodes: &Nodes,
        entrance: &Entrance<'_>,
        missing: &mut BTreeMap<IpAddr, Missing>,
    ) -> Vec<Endpoint> {
        let (mut endpoints, mut unclear) = (Vec::<Endpoint>::new(), Vec::new());
        for (endpoint, listed) in slice.endpoints.iter().flatten().filter_map(with_address) {
            match self.counterpart(nodes, listed) {
                Ok(address) => {
                    let is_shown = self.shown.contains(&address);
                    if is_shown || entrance.admits(address) {
                        add(&mut endpoints, endpoint, address);
                    }
                    let doubts = entrance.doubts(address, is_shown, self.snapshot.reports_probes);
                    missing.extend(doubts.map(|why| (listed, why)));
                }
                Err(NoCounterpart::NoNode) if nodes.may_be_of_unreadable(listed) => unclear.push(listed),
                Err(why) => _ = missing.insert(listed, Missing::Nodes(why)),
            }
        }
        if !unclear.is_empty() {
            // It is also unknown which addresses of the copy belong to these servers.
            let kept = self.kept(current, |address| nodes.may_be_of_unreadable(address));
            if kept.len() < unclear.len() {
                let why = Missing::Unreadable(nodes.unreadable().cloned().collect());
                missing.extend(unclear.into_iter().map(|listed| (listed, why.clone())));
            }
            endpoints.extend(kept);
        }
        endpoints
    }

    fn counterpart(&self, nodes: &Nodes, listed: IpAddr) -> Result<IpAddr, NoCounterpart> {
        nodes.counterpart(listed, self.family, &self.service.own_addresses, &self.shown)
    }

    /// Endpoints of the current copy whose addresses satisfy `is_kept` and are not the Service's own. They have no node
    /// names, zones or hints, and their conditions are as they would be if probes had taken nothing out.
    fn kept(&self, current: Option<&EndpointSlice>, is_kept: impl Fn(IpAddr) -> bool) -> Vec<Endpoint> {
        let restored = current.map(EndpointSlice::restored);
        let endpoints = restored.iter().flat_map(|copy| copy.endpoints.iter().flatten());
        let endpoints = endpoints.filter_map(with_address);
        let kept = endpoints
            .filter(|(_, address)| is_kept(*address) && !self.service.own_addresses.contains(address));
        kept.map(|(endpoint, _)| without_topology(endpoint)).collect()
    }

    /// If no endpoint of the family would be ready, keeps one endpoint that would be removed only because of doubt
    /// about Nodes. It is the one with the lowest address, and it stays until another endpoint is ready.
    fn keep_the_last(&self, second: &mut SecondFamily) {
        let KnownNodes::Known(nodes) = &self.snapshot.nodes else {
            return;
        };
        let first = || self.source.slices_of(self.family.other());
        let mut servers = first().flat_map(|slice| slice.endpoints.iter().flatten());
        if second.is_filled() || !servers.any(Endpoint::is_ready) {
            return;
        }
        let listed: BTreeSet<_> = first().flat_map(EndpointSlice::addresses).collect();
        // A server that has left the source is not in doubt.
        let has_left = |address: IpAddr| {
            let node = nodes.only_with(address);
            node.is_some_and(|node| !node.addresses.iter().any(|known| listed.contains(&known.address)))
        };
        // A server that the source lists as not ready is not in doubt either.
        let decided: BTreeSet<_> = second.copies.iter().flat_map(EndpointSlice::addresses).collect();
        let is_doubtful = |address: &IpAddr| !decided.contains(address) && !has_left(*address);
        let may_stay =
            |address: &IpAddr| !self.service.own_addresses.contains(address) && is_doubtful(address);
        let ready = |copy: &EndpointSlice| {
            let current = self.current(&copy.key())?;
            let ready = current
                .endpoints
                .iter()
                .flatten()
                .filter(|endpoint| endpoint.is_ready());
            ready.filter_map(Endpoint::address).filter(may_stay).min()
        };
        let copies = second.copies.iter_mut();
        let last = copies
            .filter_map(|copy| Some((ready(&*copy)?, copy)))
            .min_by_key(|(address, _)| *address);
        if let Some((last, copy)) = last {
            let kept = self.kept(self.current(&copy.key()), |address| address == last);
            copy.endpoints.get_or_insert_default().extend(kept);
        }
    }

    /// The existing copy with this key. A copy that was restored from a backup is ignored, because its addresses are as
    /// old as the backup.
    fn current(&self, copy: &SliceKey) -> Option<&EndpointSlice> {
        let current = self.snapshot.copy(copy);
        current.filter(|current| !current.has_no_controller())
    }

    /// Which addresses may enter a copy. `answering` is the result of [`Self::ports_that_answer`].
    fn entrance<'v>(
        &self,
        verdicts: &'v Verdicts,
        copy: &EndpointSlice,
        answering: &BTreeSet<u16>,
    ) -> Entrance<'v> {
        let ports: BTreeSet<_> = copy.tcp_ports(|_| true).collect();
        let probed = &ports & &self.probed_ports;
        if !self.service.probed || probed.is_empty() {
            return Entrance::Open;
        }
        match verdicts {
            Verdicts::Judged(judged) if judged.enforced => {
                Entrance::SeenWell(&judged.report, probed.intersection(answering).copied().collect())
            }
            Verdicts::AsCopied => Entrance::Closed,
            Verdicts::Judged(_) | Verdicts::Off => Entrance::Open,
        }
    }

    /// The ports that work on at least one candidate: the address of a listed server in this family. Other ports are
    /// ignored, as in a judgment.
    fn ports_that_answer(&self, verdicts: &Verdicts) -> BTreeSet<u16> {
        let (Verdicts::Judged(judged), KnownNodes::Known(nodes)) = (verdicts, &self.snapshot.nodes) else {
            return BTreeSet::new();
        };
        let slices = self.source.slices_of(self.family.other());
        let listed = slices.flat_map(EndpointSlice::addresses);
        let candidates: BTreeSet<_> = listed
            .filter_map(|listed| self.counterpart(nodes, listed).ok())
            .collect();
        let works = |(target, facts): &(&Target, &TargetFacts)| {
            candidates.contains(&target.address()) && !matches!(facts.phase, Phase::New | Phase::Down)
        };
        let working = judged.report.targets.iter().filter(works);
        working.map(|(target, _)| target.port()).collect()
    }
}

impl Entrance<'_> {
    fn admits(&self, address: IpAddr) -> bool {
        match self {
            Self::Open => true,
            Self::Closed => false,
            Self::SeenWell(report, ports) => {
                let facts = |port: &u16| report.targets.get(&Target::new(address, *port));
                let is_well = |facts: &TargetFacts| facts.phase == Phase::Well;
                !ports.is_empty() && ports.iter().all(|port| facts(port).is_some_and(is_well))
            }
        }
    }

    /// Why an address is reported, if it is. If probes decide:
    ///
    /// - An address that no copy shows has 3 s to answer. Once it has answered, it is reported only if
    ///   `reports_probes`.
    /// - An address that a copy shows has a minute to answer, because the fault might be in the path to it. Once it has
    ///   answered, it is not reported.
    fn doubts(&self, address: IpAddr, is_shown: bool, reports_probes: bool) -> Option<Missing> {
        match self {
            Self::Open => None,
            Self::Closed => (!is_shown).then_some(Missing::Unprobed(address)),
            Self::SeenWell(..) if self.admits(address) => None,
            Self::SeenWell(report, ports) => {
                let known = report.targets.iter();
                let mut facts = known.filter(|(target, _)| target.address() == address);
                let is_silent = if is_shown {
                    let mut all = facts.clone();
                    all.next().is_some() && facts.all(|(_, facts)| facts.is_silent)
                } else {
                    let counts = |port| ports.is_empty() || ports.contains(&port);
                    facts.any(|(target, facts)| {
                        let has_never_answered = facts.phase == Phase::New && counts(target.port());
                        facts.had_time && (reports_probes || has_never_answered)
                    })
                };
                is_silent.then_some(Missing::Silent(address))
            }
        }
    }
}

/// Adds an endpoint with `address` in place of its own addresses. If two endpoints get the same address because they
/// belong to one Node, a ready one is kept.
fn add(endpoints: &mut Vec<Endpoint>, endpoint: &Endpoint, address: IpAddr) {
    let endpoint = Endpoint {
        addresses: vec![address.to_string()],
        ..endpoint.clone()
    };
    match endpoints
        .iter_mut()
        .find(|known| known.address() == Some(address))
    {
        Some(known) if known.is_ready() => {}
        Some(known) => *known = endpoint,
        None => endpoints.push(endpoint),
    }
}

fn with_address(endpoint: &Endpoint) -> Option<(&Endpoint, IpAddr)> {
    Some((endpoint, endpoint.address()?))
}

fn without_topology(endpoint: &Endpoint) -> Endpoint {
    Endpoint {
        node_name: None,
        zone: None,
        hints: None,
        ..endpoint.clone()
    }
}
