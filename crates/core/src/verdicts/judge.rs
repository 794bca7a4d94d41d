//! The verdict on the endpoints of one managed Service and family: which of them are taken out. `verdicts::state`
//! decides when a target is down. Comments name rules by their IDs in `docs/contributing/rules.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::LazyLock;

use super::{Failure, Leadership, Moment, Phase, Report, SUPERVISOR_PORT, Target, TargetFacts};

/// An address that would be ready without probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The address.
    pub address: IpAddr,
    /// Whether the copy remembers that the address was taken out.
    pub was_out: bool,
}

/// Why an address is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// The port that failed.
    pub port: u16,
    /// The failure; `None` while a new leader waits for the first result.
    pub what: Option<Failure>,
    /// How many attempts in a row had failed when `what` was recorded.
    pub failures: u32,
    /// When the port first failed; `None` while a new leader waits for the first result.
    pub since: Option<Moment>,
}

/// For example, `readyz timed out 3 times`. The first word is the request that is sent to the port.
impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = if self.port == SUPERVISOR_PORT {
            "ping"
        } else {
            "readyz"
        };
        let (times, why) = match &self.what {
            None => return write!(f, "{request} has no response yet"),
            Some(Failure::TimedOut) => ("timed out", String::new()),
            Some(what) => ("failed", format!(": {what}")),
        };
        match self.failures {
            0 | 1 => write!(f, "{request} {times}{why}"),
            failures => write!(f, "{request} {times} {failures} times{why}"),
        }
    }
}

/// The result of [`judge`] for one managed Service and family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgment {
    /// The addresses that must not get traffic.
    pub out: BTreeMap<IpAddr, Unreachable>,
    /// Whether no endpoint has returned 2xx on any port for 3 s. If so, no endpoint is out.
    pub blind: bool,
    /// Targets that return 401 or 403.
    pub unauthorized: Vec<Target>,
    /// Targets that were listed at least a minute ago and have never answered, while another port of the address
    /// answers. If no port of the address has ever answered, it is enough that another address answers.
    pub not_answering: Vec<Target>,
}

/// Judges the endpoints of one family of a managed Service on the Service's probed ports.
#[must_use]
pub fn judge(candidates: &[Candidate], ports: &BTreeSet<u16>, report: &Report) -> Judgment {
    let evidence = Evidence::new(candidates, ports, report);
    let blind = evidence.is_blind();
    Judgment {
        out: if blind {
            BTreeMap::new()
        } else {
            evidence.out(candidates)
        },
        blind,
        unauthorized: evidence.targets(|_, facts| facts.is_unauthorized),
        not_answering: evidence
            .targets(|target, facts| facts.is_silent && evidence.others_answer(target.address())),
    }
}

/// The facts of an address that is not probed yet, which are the same as for a target that was just listed.
static UNLISTED: LazyLock<TargetFacts> = LazyLock::new(TargetFacts::default);

/// Everything that a judgment of the candidates depends on.
struct Evidence<'a> {
    addresses: BTreeSet<IpAddr>,
    ports: Vec<Port<'a>>,
    leadership: Leadership,
}

/// One port of the candidates.
struct Port<'a> {
    number: u16,
    /// The facts of each candidate.
    facts: BTreeMap<IpAddr, &'a TargetFacts>,
}

/// Decides which addresses are out if more addresses fail than may be out. The address with the lowest rank is taken
/// out first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RemovalRank {
    class: Class,
    /// Among addresses that are out and down, the one that answered most recently returns first (`7.return-order`).
    last_success: Option<Moment>,
    /// An address that has failed is taken out before one that has no result yet.
    is_unknown: bool,
    since: Option<Moment>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    StaysDown,
    Failing,
    Rising,
}

impl<'a> Evidence<'a> {
    fn new(candidates: &[Candidate], ports: &BTreeSet<u16>, report: &'a Report) -> Self {
        let addresses: BTreeSet<_> = candidates.iter().map(|candidate| candidate.address).collect();
        let facts = |number, address| report.targets.get(&Target::new(address, number));
        let port = |number: &u16| Port {
            number: *number,
            facts: addresses
                .iter()
                .map(|address| (*address, facts(*number, *address).unwrap_or(&UNLISTED)))
                .collect(),
        };
        Self {
            ports: ports.iter().map(port).collect(),
            addresses,
            leadership: report.leadership,
        }
    }

    /// The addresses that are out. A judgment depends on which addresses were out before. To avoid several writes, it
    /// is repeated with its own result as the memory until the result stays the same. The repetition ends, because an
    /// address that returns is taken out again only if it is down, and an address that is out and down stays out.
    fn out(&self, candidates: &[Candidate]) -> BTreeMap<IpAddr, Unreachable> {
        let remembered = candidates.iter().filter(|candidate| candidate.was_out);
        let mut memory: BTreeSet<_> = remembered.map(|candidate| candidate.address).collect();
        let mut out = self.pass(&memory);
        for _ in 0..2 * self.addresses.len() {
            let next = out.keys().copied().collect();
            if next == memory {
                break;
            }
            memory = next;
            out = self.pass(&memory);
        }
        out
    }

    fn pass(&self, memory: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Unreachable> {
        let wanted = self.wanted(memory);
        let mut ranked: Vec<_> = wanted
            .iter()
            .filter(|(address, _)| !self.is_needed(**address, &wanted))
            .map(|(address, (rank, port))| (*rank, *address, *port))
            .collect();
        ranked.sort_by_key(|(rank, address, _)| (*rank, *address));
        // `7.half`: at least half of the addresses stay in, so a single address always stays in.
        ranked.truncate(self.addresses.len() / 2);
        ranked
            .into_iter()
            .map(|(_, address, port)| (address, port.unreachable(address)))
            .collect()
    }

    /// `7.conditions` and `7.stays-out`: the addresses that should be taken out or kept out, regardless of the limit in
    /// `7.half`, each with the port that decides.
    fn wanted(&self, memory: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, (RemovalRank, &Port<'a>)> {
        let worst = |address: IpAddr| {
            let was_out = memory.contains(&address);
            let is_decisive = |port: &&Port| {
                if was_out {
                    port.keeps_out(address, self.leadership)
                } else {
                    port.takes_out(address, self.leadership)
                }
            };
            let decisive = self.ports.iter().filter(is_decisive);
            let ranked = decisive.map(|port| (port.rank(address, was_out), port));
            ranked.min_by_key(|(rank, port)| (*rank, port.number))
        };
        let addresses = self.addresses.iter();
        addresses
            .filter_map(|address| Some((*address, worst(*address)?)))
            .collect()
    }

    /// `7.only-one-that-answers`: whether an address answers on one of its ports, while no address that certainly stays
    /// in has answered on that port recently. An address in `wanted` is not certain to stay in, even if `7.half` keeps
    /// it in.
    fn is_needed(&self, address: IpAddr, wanted: &BTreeMap<IpAddr, (RemovalRank, &Port<'a>)>) -> bool {
        self.ports.iter().any(|port| {
            let mut listed = port
                .facts
                .iter()
                .filter(|(other, _)| !wanted.contains_key(*other));
            port.fact(address).answers && !listed.any(|(_, facts)| facts.is_recent)
        })
    }

    /// `7.blind`: whether no endpoint has returned 2xx for 3 s. If so, the fault might be on this replica's side. A
    /// family that was just listed is not blind yet.
    fn is_blind(&self) -> bool {
        let mut all = self.ports.iter().flat_map(|port| port.facts.values());
        let had_time = all.clone().any(|facts| facts.had_time);
        had_time && !all.any(|facts| facts.is_recent)
    }

    /// `7.not-answering`: whether another port of the address answers or, if no port of the address ever did, whether
    /// another address answers.
    fn others_answer(&self, address: IpAddr) -> bool {
        // The latest result does not matter here, so that one lost response does not end the finding.
        let answers = |facts: &TargetFacts| matches!(facts.phase, Phase::Well | Phase::Failing);
        let mut all = self.all();
        let mut same = self.ports.iter().map(|port| port.fact(address));
        if same.clone().all(|facts| facts.phase == Phase::New) {
            all.any(|(_, facts)| answers(facts))
        } else {
            same.any(answers)
        }
    }

    fn targets(&self, is_reported: impl Fn(Target, &TargetFacts) -> bool) -> Vec<Target> {
        let found = self.all().filter(|(target, facts)| is_reported(*target, facts));
        let mut targets: Vec<_> = found.map(|(target, _)| target).collect();
        targets.sort_unstable();
        targets
    }

    fn all(&self) -> impl Iterator<Item = (Target, &TargetFacts)> {
        self.ports.iter().flat_map(|port| {
            let facts = port.facts.iter();
            facts.map(|(address, facts)| (Target::new(*address, port.number), *facts))
        })
    }
}

impl Port<'_> {
    fn fact(&self, address: IpAddr) -> &TargetFacts {
        self.facts.get(&address).copied().unwrap_or(&UNLISTED)
    }

    /// `7.ignored`: whether the port works on no address. If so, it says nothing about any single address.
    fn is_ignored(&self) -> bool {
        let mut all = self.facts.values();
        all.all(|facts| matches!(facts.phase, Phase::Down | Phase::New))
    }

    /// `7.conditions`: whether to take out an address that gets traffic: it was well and is down, this replica has just
    /// renewed its Lease, no replica objects although each had time to object, and another address answered after this
    /// one failed.
    fn takes_out(&self, address: IpAddr, leadership: Leadership) -> bool {
        let facts = self.fact(address);
        // A target is down only after it was well.
        let is_down = facts.phase == Phase::Down && !self.is_ignored();
        let has_contrast = || facts.contrasts.iter().any(|other| self.facts.contains_key(other));
        is_down
            && leadership.may_take_out
            && facts.had_time_to_object
            && !facts.has_objection
            && has_contrast()
    }

    /// `7.stays-out`: whether an address that was taken out stays out. A late objection puts it back.
    fn keeps_out(&self, address: IpAddr, leadership: Leadership) -> bool {
        let facts = self.fact(address);
        let another_answers = || {
            let mut others = self.facts.iter().filter(|(other, _)| **other != address);
            others.any(|(_, facts)| facts.answers)
        };
        // Until each address has answered or failed once, a new leader knows less than the previous leader did. Without
        // this condition, the quick refusal by a dead server would put that server back while the handshakes with the
        // other servers are still in progress.
        let waits = leadership.is_new && self.facts.values().any(|facts| !facts.is_known);
        let stays = match facts.phase {
            Phase::Well => false,
            Phase::Down | Phase::Rising => !self.is_ignored() || waits,
            Phase::New | Phase::Failing => (facts.is_known && another_answers()) || waits,
        };
        stays && !facts.has_objection
    }

    fn rank(&self, address: IpAddr, was_out: bool) -> RemovalRank {
        let facts = self.fact(address);
        let class = match facts.phase {
            Phase::Down if was_out => Class::StaysDown,
            Phase::Rising => Class::Rising,
            _ => Class::Failing,
        };
        RemovalRank {
            class,
            last_success: facts.last_success.filter(|_| class == Class::StaysDown),
            is_unknown: facts.since.is_none(),
            since: facts.since,
        }
    }

    fn unreachable(&self, address: IpAddr) -> Unreachable {
        let facts = self.fact(address);
        Unreachable {
            port: self.number,
            what: facts.what.clone(),
            failures: facts.failures,
            since: facts.since,
        }
    }
}
