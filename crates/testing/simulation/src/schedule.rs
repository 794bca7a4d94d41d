//! A schedule: what happens when, all of it from a seed.

use std::time::Duration;

use crate::chance::Chance;
use crate::fault::{Effect, Harm};
use crate::objects::{SERVICES, SHAPES, SLICES, SOURCES, Shape};
use crate::stream::Ending;

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
    /// The Service of a source comes or goes.
    SourceService(usize, bool),
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
    /// The lists and watches of a replica fail until all faults end. Its access to the Lease still works.
    Blind(usize),
    /// What a server's watch cache shows stands still for a while.
    Behind(usize, Duration),
    /// Both servers are down for a while, and come back with what was there so many writes ago: etcd was restored
    /// from a backup.
    Restored(Duration, u64),
    /// A replica has no network for a while.
    Cut(usize, Duration),
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
        let count = 22 + chance.below(20);
        let steps = (0..count)
            .map(|_| {
                let pause = match chance.below(10) {
                    0..4 => chance.millis(0, 60),
                    4..8 => chance.millis(50, 1500),
                    _ => chance.millis(1000, 7000),
                };
                (pause, step(chance, replicas))
            })
            .collect();
        Self {
            replicas,
            before,
            steps,
        }
    }
}

fn sources(chance: &mut Chance, source: usize, slice: usize) -> Step {
    let mut addresses: Vec<u8> = (1..=6).filter(|_| chance.percent(50)).collect();
    if chance.percent(18) {
        addresses.clear();
    } else if addresses.is_empty() {
        addresses.push(9);
    }
    Step::Source {
        place: (source, slice),
        addresses,
        unready: chance.percent(15),
    }
}

/// A place that has a slice more often than not, and half of the time the API servers' own.
fn place(chance: &mut Chance) -> (usize, usize) {
    if chance.percent(50) {
        return (0, 0);
    }
    (chance.below(SOURCES.len()), chance.below(SLICES.len()))
}

fn service(chance: &mut Chance, number: usize) -> Step {
    let shape = match chance.below(10) {
        0..3 => Shape::Plain,
        // What they lead to is rarer than the rest.
        3 => *chance.one_of(&[Shape::Local, Shape::CopyOfCopy]),
        _ => *chance.one_of(&SHAPES),
    };
    let source = match shape {
        // The one that nearly always has endpoints, and none of them on a node.
        Shape::Local => 0,
        _ => chance.below(SOURCES.len()),
    };
    Step::Service {
        number,
        shape,
        source,
        port: *chance.one_of(&[6443, 9345]),
    }
}

fn step(chance: &mut Chance, replicas: usize) -> Step {
    // Whoever leads has most to lose.
    let replica = if chance.percent(60) {
        LEADER
    } else {
        chance.below(replicas)
    };
    let server = chance.below(2);
    // The first Service is nearly always left alone, so that much is demanded of it.
    let number = if chance.percent(5) {
        0
    } else {
        1 + chance.below(SERVICES.len() - 1)
    };
    match chance.below(154) {
        0..18 => {
            let (source, slice) = place(chance);
            sources(chance, source, slice)
        }
        18..22 => {
            let (source, slice) = place(chance);
            Step::SourceGone(source, slice)
        }
        22..24 => {
            let (source, slice) = place(chance);
            Step::SourceTouched(source, slice)
        }
        24..26 => Step::Poisoned(chance.below(64)),
        26..27 => Step::SourceService(1 + chance.below(SOURCES.len() - 1), chance.percent(50)),
        27..40 => match service(chance, number) {
            Step::Service { source, port, .. } if number == 0 => Step::Service {
                number,
                shape: Shape::Plain,
                source: source * usize::from(chance.percent(20)),
                port,
            },
            step => step,
        },
        40..48 => Step::ServiceGone(number),
        48..51 => Step::Copy(chance.below(8), Edit::Endpoints),
        51..54 => Step::Copy(chance.below(8), Edit::NewerSource),
        54..57 => Step::Copy(chance.below(8), Edit::Deleted),
        57..59 => Step::Foreign(number, chance.percent(60)),
        59..61 => Step::NameTaken(number, place(chance), chance.percent(50)),
        61..63 => Step::Leftovers(number),
        63..69 => Step::Lease(*chance.one_of(&[LeaseHarm::Deleted, LeaseHarm::Emptied, LeaseHarm::Garbled])),
        69..74 => Step::Kill(replica, chance.millis(20, 9000)),
        74..78 => Step::Stop(replica, chance.millis(20, 9000)),
        78..83 => Step::Pause(replica, chance.millis(100, 12_000)),
        83..85 => Step::Skew(replica, [-3600, -7, 7, 3600][chance.below(4)]),
        85..110 => requests(chance, replica),
        110..112 => Step::Requests {
            replica,
            harm: Harm::SliceWrite,
            effect: Effect::Status(*chance.one_of(&[403, 422])),
            times: 1 + chance.below(4),
        },
        112..118 => Step::WatchesEnd(replica, *chance.one_of(&[Ending::Clean, Ending::Abrupt])),
        118..123 => Step::WatchesSilent(replica, chance.millis(500, 12_000)),
        123..124 => Step::WatchesLate(replica, chance.millis(5, 1500)),
        124..127 => Step::Compacted(replica),
        127..129 => Step::Moved(replica),
        129..132 => Step::Frozen(server, chance.millis(500, 9000)),
        132..135 => Step::Down(server, chance.millis(200, 5000)),
        135..138 => Step::Behind(server, chance.millis(500, 9000)),
        138..141 => Step::LeftoversForbidden(number),
        // Longer than a term reaches, as a restore is.
        141..144 => Step::Restored(chance.millis(6000, 9000), chance.below(40) as u64 + 1),
        144..147 => Step::Storm {
            // One that is to keep the list of the API servers is left alone.
            number: 1 + chance.below(SERVICES.len() - 1),
            invented: chance.percent(50),
            times: 2 + chance.below(8),
            pause: chance.millis(5, 200),
        },
        147..150 => Step::Cut(replica, chance.millis(500, 9000)),
        _ => Step::Slow(server, chance.millis(100, 1500), chance.millis(2000, 15_000)),
    }
}

fn requests(chance: &mut Chance, replica: usize) -> Step {
    let harm = *chance.one_of(&[
        Harm::LeaseWrite,
        Harm::LeaseWrite,
        Harm::LeaseRead,
        Harm::SliceWrite,
        Harm::SliceWrite,
        Harm::SliceWrite,
        Harm::Read,
        Harm::Watch,
        Harm::Event,
        Harm::Endpoints,
    ]);
    let effect = match chance.below(20) {
        0 => Effect::LostReply,
        1..3 => Effect::Unanswered,
        3 => Effect::Broken,
        4..6 => Effect::Hangs,
        6..8 => Effect::Late(chance.millis(5, 8000)),
        8 => Effect::Truncated,
        9 => Effect::Nonsense,
        _ => Effect::Status(*chance.one_of(&[403, 404, 409, 410, 422, 429, 500, 503, 504])),
    };
    Step::Requests {
        replica,
        harm,
        effect,
        times: 1 + chance.below(4),
    }
}
