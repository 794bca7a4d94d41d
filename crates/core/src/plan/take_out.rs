//! Takes API servers that fail probes out of the wanted copies: marks their endpoints as not ready, and records their
//! addresses. `verdicts::judge` decides which servers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointConditions;
use k8s_openapi::jiff::Timestamp;

use super::{Plan, report};
use crate::model::{Endpoint, EndpointSlice, Family, ManagedService, SliceKey, Snapshot, Source, provenance};
use crate::verdicts::{Candidate, Report, SUPERVISOR_PORT, Target, judge};

/// The results of probes that a plan uses.
#[derive(Clone, Debug, Default)]
pub enum Verdicts {
    /// Probes are off. Endpoints that were taken out return.
    #[default]
    Off,
    /// There are no results, so endpoints that the copies record as taken out stay out. Commands that only show a plan
    /// use this variant.
    AsCopied,
    /// The results of this replica's probes.
    Judged(Judged),
}

/// The report of the probes, and what to do with it.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The facts that the probes established.
    pub report: Arc<Report>,
    /// The wall-clock time of [`Moment::default`](crate::verdicts::Moment).
    pub started: Timestamp,
    /// Whether the judgment changes the copies. If not, it is only reported, and endpoints that were taken out return.
    pub enforced: bool,
}

/// Adds the copies of undecodable slices of the API source. An undecodable slice is treated as unchanged, so the
/// endpoints of its copy are still judged. Otherwise, an endpoint would stay out only because the slice cannot be
/// decoded.
pub(super) fn add_unchanged(
    source: &Source,
    snapshot: &Snapshot,
    wanted: &mut BTreeMap<SliceKey, EndpointSlice>,
) {
    let copies = snapshot.copies.values().filter(|_| source.key.is_api_source());
    for copy in copies.filter(|copy| source.has_unreadable_source_of(copy)) {
        let key = copy.key();
        if snapshot.without_consent.contains(&key) || copy.metadata.deletion_timestamp.is_some() {
            continue;
        }
        wanted.entry(key).or_insert_with(|| {
            let mut copy = copy.restored();
            let metadata = &mut copy.metadata;
            metadata
                .annotations
                .get_or_insert_default()
                .remove(provenance::UNREACHABLE);
            // The wanted copy does not list the owners that others added, because a write keeps them anyway.
            let owners = metadata.owner_references.get_or_insert_default();
            owners.retain(|owner| owner.controller == Some(true));
            copy
        });
    }
}

/// Judges the endpoints of each family, and changes the wanted copies.
pub(super) fn apply(
    service: &ManagedService,
    source: &Source,
    snapshot: &Snapshot,
    verdicts: &Verdicts,
    wanted: &mut BTreeMap<SliceKey, EndpointSlice>,
    plan: &mut Plan,
) {
    let is_judged = service.probed && source.key.is_api_source();
    for &family in &service.families {
        let of_family = |copy: &&EndpointSlice| copy.address_type == family.as_str();
        let candidates = candidates(snapshot, wanted.values().filter(of_family));
        let remembered: BTreeSet<_> = candidates
            .iter()
            .filter(|candidate| candidate.was_out)
            .map(|candidate| candidate.address)
            .collect();
        let out = match verdicts {
            Verdicts::AsCopied if is_judged => remembered,
            Verdicts::Judged(judged) if is_judged => {
                let ports = judged.ports(source, wanted.values().filter(of_family), &candidates);
                let mut out = judged.judge(family, &candidates, &ports, snapshot, plan);
                let beside = shown_beside_missing(snapshot, wanted.values().filter(of_family));
                out.retain(|address| remembered.contains(address) || !beside.contains(address));
                plan.returned
                    .extend(remembered.iter().filter(|address| !out.contains(address)));
                plan.taken_out
                    .retain(|address, _| !remembered.contains(address) && !beside.contains(address));
                out
            }
            _ => {
                plan.returned.extend(remembered);
                continue;
            }
        };
        for copy in wanted
            .values_mut()
            .filter(|copy| copy.address_type == family.as_str())
        {
            take_out(copy, &out);
        }
    }
}

impl Judged {
    /// The ports of the copies on which candidates are probed. They include ports on which no candidate is a target
    /// yet, because a new leader waits for their results. While the source is empty, it names no port, but the replica
    /// still probes the last known one.
    fn ports<'a>(
        &self,
        source: &Source,
        copies: impl Iterator<Item = &'a EndpointSlice>,
        candidates: &[Candidate],
    ) -> BTreeSet<u16> {
        let probed = source.probed_ports();
        let is_target = |port| {
            let mut targets = candidates.iter().map(|it| Target::new(it.address, port));
            targets.any(|target| self.report.targets.contains_key(&target))
        };
        let ports = copies.flat_map(|copy| copy.tcp_ports(|_| true));
        ports
            .filter(|port| probed.contains(port) || is_target(*port))
            .collect()
    }

    /// Reports the judgment if users may see it, and returns the addresses to take out. If the judgment is not
    /// enforced, there are no such addresses.
    fn judge(
        &self,
        family: Family,
        candidates: &[Candidate],
        ports: &BTreeSet<u16>,
        snapshot: &Snapshot,
        plan: &mut Plan,
    ) -> BTreeSet<IpAddr> {
        let judgment = judge(candidates, ports, &self.report);
        if snapshot.reports_probes {
            report::judgment(family, &judgment, self.started, plan);
        }
        plan.unreachable.extend(judgment.out.keys());
        if !self.enforced {
            return BTreeSet::new();
        }
        for (address, unreachable) in &judgment.out {
            plan.taken_out.insert(*address, unreachable.to_string());
        }
        judgment.out.into_keys().collect()
    }
}

/// The distinct addresses that would be ready without probes, and whether the existing copies record them as taken out.
fn candidates<'a>(snapshot: &Snapshot, wanted: impl Iterator<Item = &'a EndpointSlice>) -> Vec<Candidate> {
    let mut was_out: BTreeMap<IpAddr, bool> = BTreeMap::new();
    for copy in wanted.filter(|copy| !snapshot.is_name_taken(&copy.key())) {
        let key = copy.key();
        // The last readable state of an unreadable copy may be long outdated, so it is ignored.
        let current = snapshot
            .copy(&key)
            .filter(|_| !snapshot.unreadable.contains(&key));
        let remembered = current.map(EndpointSlice::unreachable).unwrap_or_default();
        for endpoint in copy
            .endpoints
            .iter()
            .flatten()
            .filter(|endpoint| is_judged(endpoint))
        {
            if let Some(address) = endpoint.address() {
                *was_out.entry(address).or_default() |= remembered.contains(&address);
            }
        }
    }
    let candidate = |(address, was_out)| Candidate { address, was_out };
    was_out.into_iter().map(candidate).collect()
}

/// The addresses that the existing copies show while another copy is missing. No such address is newly taken out: the
/// endpoints of the missing copy count toward the limit of `7.half`, but the API server may refuse to create the copy.
fn shown_beside_missing<'a>(
    snapshot: &Snapshot,
    wanted: impl Iterator<Item = &'a EndpointSlice>,
) -> BTreeSet<IpAddr> {
    let (mut shown, mut is_missing) = (BTreeSet::new(), false);
    for key in wanted.map(EndpointSlice::key) {
        match snapshot.slice(&key) {
            Some(current) => shown.extend(current.addresses()),
            None => is_missing |= !snapshot.unreadable.contains(&key),
        }
    }
    if is_missing { shown } else { BTreeSet::new() }
}

/// Whether probes can take an endpoint out. A terminating endpoint can also be ready.
fn is_judged(endpoint: &Endpoint) -> bool {
    endpoint.is_ready() && !endpoint.is_terminating()
}

/// Marks the endpoints with these addresses as not ready, and records them in an annotation. They stay in the copy, so
/// that users can see that they exist and get no traffic.
fn take_out(copy: &mut EndpointSlice, out: &BTreeSet<IpAddr>) {
    let mut taken_out = BTreeSet::new();
    for endpoint in copy.endpoints.iter_mut().flatten() {
        let address = endpoint.address().filter(|address| out.contains(address));
        if let Some(address) = address.filter(|_| is_judged(endpoint)) {
            endpoint.conditions = Some(conditions(false));
            taken_out.insert(address.to_string());
        }
    }
    if !taken_out.is_empty() {
        let list = taken_out.into_iter().collect::<Vec<_>>().join(",");
        let annotations = copy.metadata.annotations.get_or_insert_default();
        annotations.insert(provenance::UNREACHABLE.into(), list.into());
    }
}

/// The conditions of an endpoint. It gets traffic only if `ready` is true.
fn conditions(ready: bool) -> EndpointConditions {
    EndpointConditions {
        ready: Some(ready),
        serving: Some(ready),
        terminating: Some(false),
    }
}

impl Source {
    /// The TCP ports on which copies of this source, which is the API source, are probed.
    pub(super) fn probed_ports(&self) -> BTreeSet<u16> {
        let slices = self.slices.values();
        let https = slices.flat_map(|slice| slice.tcp_ports(|name| name == Some("https")));
        https.chain([SUPERVISOR_PORT]).collect()
    }
}

impl EndpointSlice {
    /// The addresses that this copy records as taken out. The annotation alone is not enough: the endpoint must also be
    /// marked as not ready.
    #[must_use]
    pub fn unreachable(&self) -> BTreeSet<IpAddr> {
        let Some(list) = crate::model::annotation_of(&self.metadata, provenance::UNREACHABLE) else {
            return BTreeSet::new();
        };
        let addresses = list.split(',').filter_map(|address| address.parse().ok());
        let remembered: BTreeSet<_> = addresses.map(|address: IpAddr| address.to_canonical()).collect();
        let unready = self
            .endpoints
            .iter()
            .flatten()
            .filter(|endpoint| !endpoint.is_ready());
        unready
            .filter_map(Endpoint::address)
            .filter(|address| remembered.contains(address))
            .collect()
    }

    /// The copy with its endpoints as they would be if nothing had been taken out. The annotation stays.
    pub(super) fn restored(&self) -> Self {
        let (mut copy, unreachable) = (self.clone(), self.unreachable());
        for endpoint in copy.endpoints.iter_mut().flatten() {
            if endpoint
                .address()
                .is_some_and(|address| unreachable.contains(&address))
            {
                endpoint.conditions = Some(conditions(true));
            }
        }
        copy
    }
}
