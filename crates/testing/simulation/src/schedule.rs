//! A schedule: what happens when, all of it from a seed.

use std::time::Duration;

use endpoint_copier_operator::config::ProbeMode;

use crate::chance::Chance;
use crate::draw::{blindness, service, sources, step};
use crate::fault::{Effect, Harm};
use crate::node_watch::FAILURES;
use crate::nodes::{self, NodeStep};
use crate::objects::{SERVICES, SLICES, SOURCES, Shape};
use crate::probe_steps::{self, ProbeStep};
use crate::sight::{Blindness, Sight};
use crate::stream::Ending;
use crate::unreadable::Flaw;
use crate::world::REPLICAS;

/// In place of a replica's number: whoever leads when it happens, or else the first.
pub const LEADER: usize = usize::MAX;

/// What somebody does to the Lease who is no candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseHarm {
    /// Deletes it.
    Deleted,
    /// Takes the holder out.
    Emptied,
    /// Takes out all that it says.
    Garbled,
}

/// How a copy is edited by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Other endpoints.
    Endpoints,
    /// The resourceVersion of its source is one that is still to come.
    NewerSource,
    /// It is deleted.
    Deleted,
    /// It remembers all endpoints as taken out.
    Memory,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A Service is made, or changed.
    Service {
        /// Which.
        number: usize,
        /// What it asks for.
        shape: Shape,
        /// Of which source, where the shape does not say.
        source: usize,
        /// The port.
        port: u16,
    },
    /// A Service is deleted.
    ServiceGone(usize),
    /// A Service is changed back and forth repeatedly.
    Storm {
        /// Which.
        number: usize,
        /// Each time another source that does not exist, instead of not being managed.
        invented: bool,
        /// How often it is changed back and forth.
        times: usize,
        /// The pause between two changes.
        pause: Duration,
    },
    /// A slice of a source is made, or lists these from now on.
    Source {
        /// Source and slice.
        place: (usize, usize),
        /// Last parts of the addresses.
        addresses: Vec<u8>,
        /// The last is not ready.
        unready: bool,
    },
    /// A slice of a source is deleted.
    SourceGone(usize, usize),
    /// A slice of a source is written without a change.
    SourceTouched(usize, usize),
    /// One of the Services and slices gets a time that no client can decode, though the API server stores it.
    Poisoned(usize),
    /// A Service, a slice of a source or a copy can no longer be decoded.
    Unreadable(usize, Flaw),
    /// One of these can be decoded again.
    Readable(usize),
    /// One of these is deleted.
    UnreadableGone(usize),
    /// The Service of a source comes or goes.
    SourceService(usize, bool),
    /// The Service of a source lets all namespaces copy it, or none from now on.
    Consent(usize, bool),
    /// One of the copies is edited by hand.
    Copy(usize, Edit),
    /// A slice of somebody else for a Service comes or goes.
    Foreign(usize, bool),
    /// A slice of somebody else has the name of the copy of a slice, or no longer.
    NameTaken(usize, (usize, usize), bool),
    /// The Go operator was here.
    Leftovers(usize),
    /// The same, and we may not remove its Endpoints for a while.
    LeftoversForbidden(usize),
    /// The Lease.
    Lease(LeaseHarm),
    /// A replica is killed and comes back after a while.
    Kill(usize, Duration),
    /// A replica is asked to stop and comes back after a while.
    Stop(usize, Duration),
    /// A replica stands still.
    Pause(usize, Duration),
    /// The wall clock of a replica jumps, and is so many seconds off from now on.
    Skew(usize, i64),
    /// Requests fail.
    Requests {
        /// Of whom.
        replica: usize,
        /// Which.
        harm: Harm,
        /// How.
        effect: Effect,
        /// How many.
        times: usize,
    },
    /// The open watches of a replica end.
    WatchesEnd(usize, Ending),
    /// The open watches of a replica say nothing for a while.
    WatchesSilent(usize, Duration),
    /// The open watches of a replica are late from now on.
    WatchesLate(usize, Duration),
    /// The watches of a replica break, and the past is compacted before they begin again.
    Compacted(usize),
    /// The next requests of a replica go to the other server.
    Moved(usize),
    /// A server stands still for a while.
    Frozen(usize, Duration),
    /// A server is down for a while.
    Down(usize, Duration),
    /// The answers of a server are delayed for a while.
    Slow(usize, Duration, Duration),
    /// The lists and watches of a replica fail for a while. Its access to the Lease still works.
    Blind {
        /// The replica that it happens to.
        replica: usize,
        /// Of one kind, or of all.
        sight: Option<Sight>,
        /// How.
        how: Blindness,
        /// For how long.
        time: Duration,
    },
    /// A replica is killed, and comes back with lists and watches that fail for a while.
    BlindFromTheStart {
        /// Which.
        replica: usize,
        /// How.
        how: Blindness,
        /// For how long.
        time: Duration,
    },
    /// What a server's watch cache shows stands still for a while.
    Behind(usize, Duration),
    /// Both servers are down for a while, and come back with what was there so many writes ago: etcd was restored
    /// from a backup.
    Restored(Duration, u64),
    /// A replica has no network for a while.
    Cut(usize, Duration),
    /// Something happens to the probes.
    Probe(ProbeStep),
    /// Something happens to Nodes.
    Node(NodeStep),
}

/// So many schedules of a hundred have probes, which take their time.
const PROBED: u64 = 60;

/// So many have Nodes.
const WITH_NODES: u64 = 75;

/// What the probes of each replica may do: mostly, all enforce.
fn modes(chance: &mut Chance) -> [ProbeMode; REPLICAS] {
    if chance.percent(80) {
        return [ProbeMode::Enforce; REPLICAS];
    }
    let all = [ProbeMode::Enforce, ProbeMode::Observe, ProbeMode::Off];
    std::array::from_fn(|_| *chance.one_of(&all))
}

/// All that happens in one run, in order.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// How many replicas.
    pub replicas: usize,
    /// What is there before they start.
    pub before: Vec<Step>,
    /// Each after a pause.
    pub steps: Vec<(Duration, Step)>,
    /// When all other faults have ended, the lists and watches of Nodes fail for a while.
    pub nodes_fail: Option<Blindness>,
    /// When all other faults have ended, the lists and watches of the leader fail.
    pub blind_leader: Option<(Option<Sight>, Blindness)>,
    /// What the probes of each replica may do; `None`: there are none.
    pub probes: Option<[ProbeMode; REPLICAS]>,
    /// What happens after that, while only probes and replicas fail.
    pub calm: Vec<(Duration, Step)>,
    /// Whether the replicas write conditions of Services.
    pub conditions: bool,
    /// Whether sources in other namespaces need consent.
    pub consent: bool,
}

impl Schedule {
    /// The schedule of a seed.
    pub fn of(seed: u64) -> Self {
        let chance = &mut Chance::new(seed, 2);
        let replicas = [1, 2, 2, 3, 3][chance.below(5)];
        let mut before = vec![Step::SourceService(0, true), sources(chance, 0, 0)];
        for source in 0..SOURCES.len() {
            for slice in 0..SLICES.len() {
                if (source, slice) != (0, 0) && chance.percent(30) {
                    before.push(sources(chance, source, slice));
                }
            }
            if source > 0 && chance.percent(70) {
                before.push(Step::SourceService(source, true));
            }
        }
        before.push(Step::Service {
            number: 0,
            shape: Shape::Plain,
            source: 0,
            port: 6443,
        });
        if chance.percent(40) {
            before.push(Step::Leftovers(0));
        }
        for number in 1..SERVICES.len() {
            if chance.percent(20) {
                continue;
            }
            let service = service(chance, number);
            if let Step::Service { source, .. } = service
                && chance.percent(20)
            {
                before.push(sources(chance, source, 0));
                before.push(Step::NameTaken(number, (source, 0), true));
            }
            before.push(service);
            if chance.percent(15) {
                before.push(Step::Leftovers(number));
            }
        }
        let probes = chance.percent(PROBED).then(|| modes(chance));
        let count = 22 + chance.below(20);
        let mut steps: Vec<_> = (0..count)
            .map(|_| {
                let pause = match chance.below(10) {
                    0..4 => chance.millis(0, 60),
                    4..8 => chance.millis(50, 1500),
                    _ => chance.millis(1000, 7000),
                };
                let is_probe = probes.is_some() && chance.percent(40);
                let step = if is_probe {
                    probe_steps::draw(chance, replicas, false)
                } else {
                    step(chance, replicas)
                };
                (pause, step)
            })
            .collect();
        if probes.is_some() && chance.percent(60) {
            // More than a minute before most schedules end.
            let left = Step::Probe(ProbeStep::Lease(probe_steps::Harm::Left));
            steps.insert(0, (chance.millis(10, 500), left));
        }
        let calm = match probes {
            Some(_) => probe_steps::calm(chance, replicas),
            None => Vec::new(),
        };
        let blind_leader = chance
            .percent(if replicas == 1 { 80 } else { 40 })
            .then(|| blindness(chance));
        let mut schedule = Self {
            replicas,
            before,
            steps,
            nodes_fail: None,
            blind_leader,
            probes,
            calm,
            conditions: false,
            consent: false,
        };
        schedule.add_nodes(&mut Chance::new(seed, 4));
        schedule
    }

    /// The schedule of a seed in which sources in other namespaces need consent, which comes and goes.
    pub fn with_consent(seed: u64) -> Self {
        let (mut schedule, chance) = (Self::of(seed), &mut Chance::new(seed, 5));
        schedule.consent = true;
        for source in 1..SOURCES.len() {
            schedule.before.push(Step::SourceService(source, true));
            schedule.before.push(Step::Consent(source, chance.percent(60)));
        }
        for _ in 0..8 + chance.below(8) {
            let source = 1 + chance.below(SOURCES.len() - 1);
            let step = Step::Consent(source, chance.percent(60));
            let at = chance.below(schedule.steps.len() + 1);
            schedule.steps.insert(at, (chance.millis(0, 3000), step));
        }
        schedule
    }

    fn add_nodes(&mut self, chance: &mut Chance) {
        if !chance.percent(WITH_NODES) {
            return;
        }
        self.before.extend(nodes::before(chance));
        for _ in 0..6 + chance.below(10) {
            let pause = if chance.percent(70) {
                chance.millis(0, 60)
            } else {
                chance.millis(50, 3000)
            };
            let at = chance.below(self.steps.len() + 1);
            self.steps.insert(at, (pause, nodes::draw(chance, self.replicas)));
        }
        self.nodes_fail = chance.percent(30).then(|| *chance.one_of(&FAILURES));
    }
}
