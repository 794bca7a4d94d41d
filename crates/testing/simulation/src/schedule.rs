//! A schedule: steps and their times, all of which follow from a seed.

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

/// Used in place of the number of a replica: the leader at the time of the step, or the first replica if there is none.
pub const LEADER: usize = usize::MAX;

/// A change to the Lease by something other than a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseHarm {
    /// Deletes the Lease.
    Deleted,
    /// Empties the holder of the Lease.
    Emptied,
    /// Empties the whole spec of the Lease.
    Garbled,
}

/// An edit of a copy by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// The copy gets other endpoints.
    Endpoints,
    /// The copy is annotated with a future resourceVersion of its source slice, and loses its endpoints.
    NewerSource,
    /// The copy is deleted.
    Deleted,
    /// All endpoints of the copy become not ready, and the copy lists them as taken out.
    Memory,
}

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// A Service is created or changed.
    Service {
        /// The Service.
        number: usize,
        /// Its spec and annotations.
        shape: Shape,
        /// The source, if the shape does not name one.
        source: usize,
        /// The port.
        port: u16,
    },
    /// A Service is deleted.
    ServiceGone(usize),
    /// A Service is repeatedly changed back and forth.
    Storm {
        /// The Service.
        number: usize,
        /// Whether each change names another source that does not exist, instead of disabling the Service.
        invented: bool,
        /// The number of changes back and forth.
        times: usize,
        /// The pause between two changes.
        pause: Duration,
    },
    /// A slice of a source is created, or lists these addresses from now on.
    Source {
        /// The source and the slice.
        place: (usize, usize),
        /// The last parts of the addresses.
        addresses: Vec<u8>,
        /// Whether the last address is not ready.
        unready: bool,
    },
    /// A slice of a source is deleted.
    SourceGone(usize, usize),
    /// A slice of a source is written, but its endpoints do not change.
    SourceTouched(usize, usize),
    /// A Service or slice gets a time in its `managedFields` that the API server stores but jiff cannot represent.
    Poisoned(usize),
    /// A Service, a slice of a source or a copy can no longer be decoded.
    Unreadable(usize, Flaw),
    /// A Service, a slice of a source or a copy can be decoded again.
    Readable(usize),
    /// A Service, a slice of a source or a copy that cannot be decoded is deleted.
    UnreadableGone(usize),
    /// The Service of a source is created or deleted.
    SourceService(usize, bool),
    /// From now on, the Service of a source lets all namespaces copy it, or none.
    Consent(usize, bool),
    /// One of the copies is edited by hand.
    Copy(usize, Edit),
    /// A foreign slice of a Service is created or deleted.
    Foreign(usize, bool),
    /// A foreign slice takes the name of the copy of a slice, or frees it.
    NameTaken(usize, (usize, usize), bool),
    /// Objects that the Go operator left behind for a Service appear.
    Leftovers(usize),
    /// Objects that the Go operator left behind for a Service appear, and the next requests of all replicas for
    /// Endpoints are refused.
    LeftoversForbidden(usize),
    /// The Lease is changed.
    Lease(LeaseHarm),
    /// A replica is killed, and starts again after a while.
    Kill(usize, Duration),
    /// A replica is asked to stop, and starts again after a while.
    Stop(usize, Duration),
    /// A replica is paused.
    Pause(usize, Duration),
    /// The wall clock of a replica jumps, and is off by this many seconds from now on.
    Skew(usize, i64),
    /// Requests fail.
    Requests {
        /// The replica that sends the requests.
        replica: usize,
        /// The kind of requests.
        harm: Harm,
        /// The effect on each request.
        effect: Effect,
        /// The number of requests.
        times: usize,
    },
    /// The open watches of a replica end.
    WatchesEnd(usize, Ending),
    /// The open watches of a replica are silent for a time.
    WatchesSilent(usize, Duration),
    /// The open watches of a replica are late from now on.
    WatchesLate(usize, Duration),
    /// The watches of a replica break, and the history is compacted before they begin again.
    Compacted(usize),
    /// The next requests of a replica go to the other server.
    Moved(usize),
    /// A server is frozen for a time.
    Frozen(usize, Duration),
    /// A server is down for a while.
    Down(usize, Duration),
    /// The responses of a server are delayed for a time.
    Slow(usize, Duration, Duration),
    /// The lists and watches of a replica fail for a time, while its access to the Lease still works.
    Blind {
        /// The replica.
        replica: usize,
        /// The kind of lists and watches. `None` means all kinds.
        sight: Option<Sight>,
        /// The failure.
        how: Blindness,
        /// The duration.
        time: Duration,
    },
    /// A replica is killed, and starts again with lists and watches that fail for a time.
    BlindFromTheStart {
        /// The replica.
        replica: usize,
        /// The failure.
        how: Blindness,
        /// The duration.
        time: Duration,
    },
    /// The watch cache of a server stops for a time.
    Behind(usize, Duration),
    /// Both servers are down for a time, and then have the state from this many writes ago, because etcd was restored
    /// from a backup.
    Restored(Duration, u64),
    /// A replica has no network for a while.
    Cut(usize, Duration),
    /// A fault that affects probes.
    Probe(ProbeStep),
    /// A change to Nodes.
    Node(NodeStep),
}

/// The percentage of schedules with probes, which take longer.
const PROBED: u64 = 60;

/// The percentage of schedules with Nodes.
const WITH_NODES: u64 = 75;

/// Draws the probe mode of each replica. In most schedules, all replicas enforce.
fn modes(chance: &mut Chance) -> [ProbeMode; REPLICAS] {
    if chance.percent(80) {
        return [ProbeMode::Enforce; REPLICAS];
    }
    let all = [ProbeMode::Enforce, ProbeMode::Observe, ProbeMode::Off];
    std::array::from_fn(|_| *chance.one_of(&all))
}

/// Everything that happens in one run, in order.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The number of replicas.
    pub replicas: usize,
    /// The steps before the replicas start.
    pub before: Vec<Step>,
    /// The later steps, each after a pause.
    pub steps: Vec<(Duration, Step)>,
    /// After all other faults have ended, the lists and watches of Nodes fail like this for a time.
    pub nodes_fail: Option<Blindness>,
    /// After all other faults have ended, the lists and watches of the leader fail like this.
    pub blind_leader: Option<(Option<Sight>, Blindness)>,
    /// The probe mode of each replica. `None` means that there are no probes.
    pub probes: Option<[ProbeMode; REPLICAS]>,
    /// The steps after all other faults have ended, while only probes and replicas fail.
    pub calm: Vec<(Duration, Step)>,
    /// Whether the replicas write conditions of Services.
    pub conditions: bool,
    /// Whether sources in other namespaces require consent.
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
            // In most schedules, this is more than a minute before the end.
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

    /// A seed's schedule in which sources in other namespaces require consent, which is given and withdrawn.
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
        for _ in 0..3 {
            schedule.add_withdrawal(chance);
        }
        schedule
    }

    /// Adds a withdrawal of consent while the slices of the Service's next source might not be listed yet. The sources
    /// of another Service in the namespace keep changing, which delays the lists of new sources.
    fn add_withdrawal(&mut self, chance: &mut Chance) {
        let (others, number, source) = *chance.one_of(&[(5, 3, 1), (3, 4, 1), (1, 2, 2), (2, 1, 2)]);
        let storm = |number, times, pause| Step::Storm {
            number,
            invented: true,
            times,
            pause,
        };
        let steps = [
            (chance.millis(0, 500), Step::Consent(source, true)),
            (
                chance.millis(0, 60),
                Step::Service {
                    number,
                    shape: Shape::Plain,
                    source,
                    port: 6443,
                },
            ),
            (
                chance.millis(200, 1500),
                storm(others, 10, chance.millis(50, 200)),
            ),
            (
                chance.millis(500, 2500),
                storm(number, 1, chance.millis(1000, 4000)),
            ),
            (chance.millis(50, 900), Step::Consent(source, false)),
        ];
        let at = chance.below(self.steps.len() + 1);
        self.steps.splice(at..at, steps);
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
