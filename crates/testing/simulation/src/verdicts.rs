//! Limits on the endpoints that a replica takes out of a copy (marks as not ready), and counts of endpoints that
//! return. Each write is checked as it leaves the replica.
//!
//! The laws here follow the rules for probes, not the operator's code. If the time of a decision is unknown, the laws
//! assume the time that permits the most.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use endpoint_copier_core::verdicts::Target;
use endpoint_copier_operator::config::ProbeMode;
use serde_json::Value;

use crate::attempts::{Attempts, Track};
use crate::coverage::Coverage;
use crate::endpoints::{Endpoints, PORTS};
use crate::fault::Verb;
use crate::hearing::Hearing;
use crate::observer::By;
use crate::replica::Life;
use crate::sent::Sent;
use crate::slices::{
    Key, UNREACHABLE, addresses, annotation, endpoint_list, is_ours, key, owner, provenance, restored_ready,
    unreachable, version,
};
use crate::topology::is_api_source;
use crate::world::{REPLICAS, State, World};

/// How long a leader may take endpoints out after the response to its last renewal. This includes the time until its
/// next check.
const RENEWED: Duration = Duration::from_millis(3250);

/// How long a replica may lead after its last renewal was stored. This includes the time until its next check.
const DEADLINE: Duration = Duration::from_millis(4250);

/// A suspicion without an objection within this time is unopposed.
const HEARD: Duration = Duration::from_millis(300);

/// A replica might still remember an endpoint that was out this recently.
const REMEMBERED: Duration = Duration::from_secs(15);

/// A leader whose lists fail releases the Lease after 30 s. Until the release, it acts on the Services that it has
/// seen.
const UNSEEN: Duration = Duration::from_secs(40);

/// Probes are blind once no endpoint has had a success for this long.
const BLIND: Duration = Duration::from_secs(3);

/// The time from an event to the report that includes it.
const NOTICED: Duration = Duration::from_millis(60);

/// Everything about probes in a schedule.
#[derive(Debug, Default)]
pub struct Probed {
    /// The probe mode of each replica. `None` means that there are no probes.
    pub modes: Option<[ProbeMode; REPLICAS]>,
    /// The current behavior of the API servers.
    pub endpoints: Endpoints,
    /// The results of the attempts of replicas.
    pub attempts: Attempts,
    /// The communication between replicas.
    pub hearing: Hearing,
    /// The last write of each identity to the Lease of the election.
    pub renewals: BTreeMap<String, Renewal>,
    /// When an address was last out in a copy of a Service.
    pub out: BTreeMap<(Key, IpAddr), Duration>,
    /// When the source or a copy last lost an address. Replicas might then forget the state of that address.
    pub lost: BTreeMap<IpAddr, Duration>,
    /// When an address was last removed by hand from a copy, although the source lists it. Replicas keep its state.
    pub edited: BTreeMap<IpAddr, Duration>,
    /// The API servers that the connections of each replica must leave, according to that replica.
    pub down: BTreeMap<String, BTreeSet<IpAddr>>,
    /// The nodes whose servers each replica suspects or finds down while it finds another server well.
    pub suspected: BTreeMap<String, BTreeSet<u8>>,
    /// The time until which replicas or their requests might fail.
    pub disturbed: Duration,
    /// The time until which a client's lies might keep endpoints in the copies.
    pub disturbed_by_lies: Duration,
    /// When a slice of the API source last got its first endpoint or lost its last one.
    pub sources_changed: Duration,
    /// When a node that was off was last removed from the source or returned to it.
    pub relisted: Duration,
}

/// A write of the Lease of the election.
#[derive(Clone, Copy, Debug, Default)]
pub struct Renewal {
    /// When it was stored.
    pub stored: Duration,
    /// When its writer received the response. Even without a response, the writer can see in its watch that the write
    /// succeeded.
    pub answered: Option<Duration>,
}

impl Renewal {
    /// The time until which the writer of this renewal may take endpoints out.
    fn lasts(&self) -> Duration {
        self.answered.map_or(self.stored + DEADLINE, |at| at + RENEWED)
    }
}

impl Probed {
    /// Records that a replica received the response to its renewal.
    pub fn answered_renewal(&mut self, identity: &str, now: Duration) {
        if let Some(renewal) = self.renewals.get_mut(identity) {
            renewal.answered = Some(now);
        }
    }
}

/// Whether a slice is a copy of the API source.
pub fn is_of_api_servers(copy: &Value) -> bool {
    is_ours(copy)
        && provenance(copy, "namespace") == Some("default")
        && provenance(copy, "slice").is_some_and(|slice| slice.starts_with("kubernetes"))
}

/// The Service of a copy.
pub fn service_of(copy: &Value) -> Key {
    let (namespace, _) = key(copy);
    (
        namespace,
        owner(copy).map(|it| it.0.to_owned()).unwrap_or_default(),
    )
}

/// The ports of a copy that are probed.
pub fn probed_ports(copy: &Value) -> Vec<u16> {
    let ports = copy["ports"].as_array().into_iter().flatten();
    let tcp = ports.filter(|port| port["protocol"].as_str().unwrap_or("TCP") == "TCP");
    let numbers = tcp.filter_map(|port| u16::try_from(port["port"].as_u64()?).ok());
    numbers.filter(|number| PORTS.contains(number)).collect()
}

/// The copies of one Service and family.
pub struct Group {
    /// The addresses that would get traffic without probes.
    pub candidates: BTreeSet<IpAddr>,
    /// The candidates that are out of the copies.
    pub out: BTreeSet<IpAddr>,
    /// The ports that are probed.
    pub ports: Vec<u16>,
}

impl Group {
    /// Reads the group from its copies.
    pub fn of<'a>(copies: impl Iterator<Item = &'a Value>) -> Self {
        let (mut candidates, mut out, mut ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for copy in copies {
            candidates.extend(restored_ready(copy));
            out.extend(unreachable(copy));
            ports.extend(probed_ports(copy));
        }
        out.retain(|address| candidates.contains(address));
        Self {
            candidates,
            out,
            ports: ports.into_iter().collect(),
        }
    }
}

impl Probed {
    /// Records that a slice was written. `listed` returns the addresses that the source lists.
    pub fn slice_written(
        &mut self,
        now: Duration,
        by: By,
        (old, new): (Option<&Value>, Option<&Value>),
        coverage: &mut Coverage,
        listed: impl FnOnce() -> BTreeSet<IpAddr>,
    ) {
        let is_filled = |slice: Option<&Value>| slice.is_some_and(|it| endpoint_list(it).next().is_some());
        let is_source = old.or(new).is_some_and(is_api_source);
        if is_source {
            self.edited.clear();
            if is_filled(old) != is_filled(new) {
                self.sources_changed = now;
            }
        }
        for copy in old.into_iter().chain(new).filter(|copy| is_of_api_servers(copy)) {
            for address in unreachable(copy) {
                self.out.insert((service_of(copy), address), now);
            }
        }
        let shows = |old: &&Value| is_source || is_of_api_servers(old);
        let addresses = |slice: Option<&Value>| slice.map(addresses).unwrap_or_default();
        let (before, after) = (addresses(old.filter(shows)), addresses(new));
        let lost: Vec<_> = before.difference(&after).copied().collect();
        if lost.is_empty() {
            return;
        }
        let listed = listed();
        for address in lost {
            if !is_source && by == By::Others && listed.contains(&address) {
                self.edited.insert(address, now);
                let was_out = old.is_some_and(|old| unreachable(old).contains(&address));
                coverage.add("endpoint that is out removed by hand", u64::from(was_out));
            } else {
                self.lost.insert(address, now);
            }
        }
    }

    /// Records that etcd was restored from a backup.
    pub fn restored(&mut self, now: Duration, lost: &[Value], lease: Option<&Value>) {
        for slice in lost {
            let written = (Some(slice), None);
            self.slice_written(
                now,
                By::Replicas,
                written,
                &mut Coverage::default(),
                BTreeSet::new,
            );
        }
        self.edited.clear();
        self.hearing.stored(now, lease, false);
        self.hearing.restored();
    }

    /// Counts the reasons why endpoints that were out have returned.
    pub fn count_returns(
        &self,
        now: Duration,
        copies: (Option<&Value>, Option<&Value>),
        leader: &str,
        coverage: &mut Coverage,
    ) {
        let (Some(old), Some(new)) = copies else { return };
        let (out, ready) = (unreachable(new), restored_ready(new));
        let before = unreachable(old);
        let back: Vec<_> = before
            .iter()
            .filter(|it| !out.contains(*it) && ready.contains(*it))
            .collect();
        if back.is_empty() {
            return;
        }
        coverage.add("endpoint back", 1);
        if out.iter().any(|address| !before.contains(address)) {
            coverage.add("endpoint gave its place to another", 1);
        }
        let ports = probed_ports(new);
        let tracks = |address: IpAddr| {
            let targets = ports.iter().map(move |port| Target::new(address, *port));
            targets.filter_map(|target| self.attempts.of(leader, target))
        };
        let answers = |address: &IpAddr| tracks(*address).any(|track| track.answered_within(BLIND, now));
        if !ready.iter().any(answers) {
            coverage.add("endpoint back because no endpoint answers", 1);
        }
        for address in back {
            let has_objection = |port: &u16| {
                self.hearing
                    .stored
                    .objected(Target::new(*address, *port), now)
                    .is_some()
            };
            if ports.iter().any(has_objection) {
                coverage.add("endpoint back by an objection", 1);
            }
            if tracks(*address).any(|track| track.falls.len() > 1 && track.answered_within(BLIND, now)) {
                coverage.add("endpoint back after a relapse", 1);
            }
        }
    }
}

impl World {
    /// Checks the endpoints that a write of a copy takes out.
    pub fn judge_verdict(&self, life: &Life, sent: &Sent) {
        let Some(modes) = self.state().probed.modes else {
            return;
        };
        if !matches!(sent.verb, Verb::Create | Verb::Update) || !is_ours(&sent.body) {
            return;
        }
        let copy = &sent.body;
        let wrong = if annotation(copy, UNREACHABLE).is_none() {
            Vec::new()
        } else if !is_of_api_servers(copy) {
            vec!["takes endpoints out of a copy of another source".to_owned()]
        } else if modes[life.replica] != ProbeMode::Enforce {
            vec![format!("takes endpoints out in mode {:?}", modes[life.replica])]
        } else if self.is_exempt(&service_of(copy)) {
            vec!["takes out endpoints of an exempt Service".to_owned()]
        } else {
            self.wrong_verdicts(life, copy)
        };
        for what in wrong {
            let ports = probed_ports(copy);
            self.complain(&format!(
                "{} {what}: {}/{} {ports:?}",
                life.identity, sent.namespace, sent.name
            ));
        }
    }

    /// Whether the API source has no other slice that leads to a copy of this family. If the source has no endpoints of
    /// the family, each slice of the other family leads to such a copy.
    fn is_only_source(&self, copy: &Value) -> bool {
        let slices = self.store.list("endpointslices", Some("default"));
        let (of_family, others): (Vec<_>, Vec<_>) = slices
            .iter()
            .filter(|slice| is_api_source(slice))
            .partition(|slice| slice["addressType"] == copy["addressType"]);
        let is_empty = |slice: &&Value| endpoint_list(slice).next().is_none();
        let leading = if of_family.iter().all(is_empty) {
            others
        } else {
            of_family
        };
        // A leader whose watches are silent does not know yet that another slice has gone.
        leading.len() < 2 && self.now() > self.state().probed.sources_changed + UNSEEN
    }

    /// Whether a Service has been exempt from probes for so long that each leader knows about it.
    fn is_exempt(&self, service: &Key) -> bool {
        let now = self.now();
        let changed = self.state().observer.episodes.changed(service);
        let there = self.store.get("services", &service.0, &service.1);
        let is_off = |service: &Value| annotation(service, "endpoint-copier/probe") == Some("off");
        there.is_some_and(|there| is_off(&there)) && now > changed + UNSEEN
    }

    fn wrong_verdicts(&self, life: &Life, copy: &Value) -> Vec<String> {
        let (namespace, name) = key(copy);
        let there = self.store.get("endpointslices", &namespace, &name);
        // The API server refuses this write.
        if version(copy) != 0 && there.as_ref().map(version) != Some(version(copy)) {
            return Vec::new();
        }
        let service = service_of(copy);
        let all = self.store.list("endpointslices", Some(&namespace));
        let others: Vec<_> = all
            .iter()
            .filter(|it| is_ours(it) && service_of(it) == service && key(it).1 != name)
            .filter(|it| it["addressType"] == copy["addressType"])
            .collect();
        let group = Group::of(others.iter().copied().chain([copy]));
        let before: BTreeSet<_> = there
            .iter()
            .chain(others.iter().copied())
            .flat_map(unreachable)
            .collect();
        let is_only_source = self.is_only_source(copy);
        let now = self.now();
        let decided = life.decided(now);
        let state = &mut *self.state();
        let is_new = |address: &&IpAddr| {
            let last = state.probed.out.get(&(service.clone(), **address));
            let is_known = state
                .views
                .get(&life.identity)
                .is_some_and(|shown| shown.remembers_out(&service, address));
            !before.contains(*address) && !is_known && last.is_none_or(|last| now > *last + REMEMBERED)
        };
        let out = unreachable(copy);
        let new: Vec<_> = out.iter().filter(is_new).copied().collect();
        let mut wrong = Vec::new();
        if new.is_empty() {
            return wrong;
        }
        // The limit is checked only for a single copy, because several copies are written one after the other.
        let is_alone = others.is_empty() && is_only_source;
        if is_alone && group.out.len() > group.candidates.len() / 2 {
            wrong.push(format!("takes {:?} out of {:?}", group.out, group.candidates));
        }
        // If there are several copies, the next write of another copy might add a port.
        let ports = if is_alone { group.ports } else { PORTS.to_vec() };
        for address in new {
            let why_not = |port: &u16| state.why_not_out(life, Target::new(address, *port), decided, now);
            let reasons: Vec<_> = ports.iter().filter_map(why_not).collect();
            if reasons.len() < ports.len() {
                state.coverage.add("endpoint taken out", 1);
            } else {
                wrong.push(format!("takes {address} out ({})", reasons.join("; ")));
            }
        }
        wrong
    }
}

impl State {
    /// The reason why the results on a port do not justify taking an endpoint out, if there is one.
    fn why_not_out(&self, life: &Life, target: Target, decided: Duration, now: Duration) -> Option<String> {
        let Probed {
            attempts,
            hearing,
            renewals,
            ..
        } = &self.probed;
        let port = target.port();
        let Some(track) = attempts.of(&life.identity, target) else {
            return Some(format!("it never asked {target}"));
        };
        if !track.was_well {
            return Some(format!("it never saw {target} well"));
        }
        let runs: Vec<_> = track
            .runs_since(decided)
            .filter(|run| track.is_down_by(run))
            .collect();
        if runs.is_empty() {
            return Some(format!(
                "{port} has failed {} times",
                track.runs[0].failures.len()
            ));
        }
        // The copy of another slice might not exist yet.
        let is_other = |other: &Target| {
            other.port() == port && other.family() == target.family() && other.address() != target.address()
        };
        let others: Vec<&Track> = attempts
            .all(&life.identity)
            .filter(|(other, _)| is_other(other))
            .map(|(_, track)| track)
            .collect();
        if !runs
            .iter()
            .any(|run| others.iter().any(|other| other.contrasts_with(run)))
        {
            return Some(format!("no other answered on {port} meanwhile"));
        }
        let renewal = renewals.get(&life.identity).copied().unwrap_or_default();
        if decided > renewal.lasts() {
            return Some(format!("its last renewal: {renewal:?}"));
        }
        let shown = hearing.of(&life.identity);
        let asked = shown.and_then(|shown| shown.asked(target, decided));
        if asked.is_none_or(|since| now < since + HEARD) {
            return Some(format!("the other replicas had no time to object on {port}"));
        }
        let objected = shown.and_then(|shown| shown.objected(target, now));
        if let Some(since) = objected.filter(|since| *since + NOTICED < decided) {
            return Some(format!("there has been an objection since {since:?}"));
        }
        None
    }
}
