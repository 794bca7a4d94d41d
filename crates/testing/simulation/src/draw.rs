//! Draws the steps of a schedule. Steps that test more are drawn more often.

use crate::chance::Chance;
use crate::fault::{Effect, Harm};
use crate::objects::{SERVICES, SHAPES, SLICES, SOURCES, Shape};
use crate::schedule::{Edit, LEADER, LeaseHarm, Step};
use crate::sight::{Blindness, Sight};
use crate::stream::Ending;
use crate::unreadable::Flaw;

/// Draws the kind of lists and watches that fail (`None` means all kinds), and how they fail.
pub fn blindness(chance: &mut Chance) -> (Option<Sight>, Blindness) {
    let sight = *chance.one_of(&[
        None,
        Some(Sight::Services),
        Some(Sight::Copies),
        Some(Sight::Sources),
    ]);
    (sight, *chance.one_of(&Blindness::ALL))
}

/// Draws a step that creates or changes a slice of a source.
pub fn sources(chance: &mut Chance, source: usize, slice: usize) -> Step {
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

/// Draws a slice of a source. More than half of the time, it is the first slice of the API source.
fn place(chance: &mut Chance) -> (usize, usize) {
    if chance.percent(50) {
        return (0, 0);
    }
    (chance.below(SOURCES.len()), chance.below(SLICES.len()))
}

/// Draws a step that creates or changes a Service.
pub fn service(chance: &mut Chance, number: usize) -> Step {
    let shape = match chance.below(10) {
        0..3 => Shape::Plain,
        // The effects of these shapes are rarer than those of other shapes.
        3 => *chance.one_of(&[Shape::Local, Shape::CopyOfCopy]),
        _ => *chance.one_of(&SHAPES),
    };
    let source = match shape {
        // This source nearly always has endpoints, and none of them is on a node.
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

/// Draws any step.
pub fn step(chance: &mut Chance, replicas: usize) -> Step {
    // Faults of the leader have the greatest effect.
    let replica = if chance.percent(60) {
        LEADER
    } else {
        chance.below(replicas)
    };
    let server = chance.below(2);
    // The first Service is nearly always left alone, so that the strictest rules apply to its copies.
    let number = if chance.percent(5) {
        0
    } else {
        1 + chance.below(SERVICES.len() - 1)
    };
    match chance.below(194) {
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
        // Before the restore, the servers are down for longer than a term lasts.
        141..144 => Step::Restored(chance.millis(6000, 9000), chance.below(40) as u64 + 1),
        144..147 => Step::Storm {
            // The first Service must keep its copies of the API source, so it is left alone.
            number: 1 + chance.below(SERVICES.len() - 1),
            invented: chance.percent(50),
            times: 2 + chance.below(8),
            pause: chance.millis(5, 200),
        },
        147..150 => Step::Cut(replica, chance.millis(500, 9000)),
        150..154 => {
            let (sight, how) = blindness(chance);
            Step::Blind {
                replica,
                sight: sight.filter(|_| chance.percent(60)),
                how,
                time: chance.millis(3000, 45_000),
            }
        }
        154..158 => Step::BlindFromTheStart {
            replica,
            how: blindness(chance).1,
            time: chance.millis(8000, 30_000),
        },
        158..167 => Step::Unreadable(
            chance.below(64),
            *chance.one_of(&[
                Flaw::Fields,
                Flaw::Entries,
                Flaw::Labels,
                Flaw::Annotations,
                Flaw::Harmless,
            ]),
        ),
        167..175 => Step::Readable(chance.below(64)),
        175..183 => Step::UnreadableGone(chance.below(64)),
        183..185 => expired_watches(chance, replica),
        _ => Step::Slow(server, chance.millis(100, 1500), chance.millis(2000, 15_000)),
    }
}

/// Draws a step in which several watches of a replica expire as soon as they begin.
fn expired_watches(chance: &mut Chance, replica: usize) -> Step {
    Step::Requests {
        replica,
        harm: Harm::Watch,
        effect: Effect::Status(410),
        times: 2 + chance.below(4),
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
        _ => Effect::Status(*chance.one_of(&[403, 404, 404, 409, 410, 422, 429, 500, 503, 504])),
    };
    Step::Requests {
        replica,
        harm,
        effect,
        times: 1 + chance.below(4),
    }
}
