//! Small schedules, each with one idea: objects that cannot be decoded, consent, failing lists and watches, and probes.

use std::time::Duration;

use endpoint_copier_operator::config::ProbeMode;

use crate::endpoints::Answer;
use crate::probe_steps::ProbeStep;
use crate::schedule::{Edit, LEADER, Schedule, Step};
use crate::sight::{Blindness, Sight};
use crate::systematic::{copying, scenario, source};
use crate::unreadable::Flaw;
use crate::world::REPLICAS;

/// Decisions made before a step are carried out within this time.
const LATER: Duration = Duration::from_secs(20);

/// The numbers that select a Service, a source slice and a copy, if there are objects of each kind.
pub const KINDS: [usize; 3] = [0, 4, 2];

/// An object becomes unreadable, its source changes, the only replica starts again, and the source changes again. If
/// `is_restored`, the object becomes readable again at the end.
#[must_use]
pub fn unreadable(kind: usize, flaw: Flaw, is_restored: bool) -> Schedule {
    let mut schedule = scenario(1, vec![source((1, 0), &[1, 2, 3]), copying(1)]);
    let web = |addresses: &[u8]| (LATER, source((1, 1), addresses));
    schedule.steps.extend([
        (Duration::from_secs(2), Step::Unreadable(kind, flaw)),
        web(&[4]),
        (LATER, Step::Kill(0, Duration::from_millis(500))),
        web(&[4, 5]),
    ]);
    if is_restored {
        schedule.steps.push((LATER, Step::Readable(0)));
    } else {
        schedule.steps.push((LATER, Step::SourceTouched(1, 1)));
    }
    schedule
}

/// A replica no longer sees Services when a source consents, and later succeeds the leader that created the copies. If
/// `withdrawn`, the consent is withdrawn at the end.
#[must_use]
pub fn consent_unseen(how: Blindness, withdrawn: bool) -> Schedule {
    let blind = Step::Blind {
        replica: 0,
        sight: Some(Sight::Services),
        how,
        time: Duration::from_secs(300),
    };
    let app = vec![
        Step::SourceService(2, true),
        source((2, 0), &[1]),
        copying(2),
        blind,
    ];
    let mut schedule = scenario(2, app);
    schedule.consent = true;
    schedule.steps.extend([
        // By then, the other replica leads and has updated the copies.
        (Duration::from_secs(50), Step::Consent(2, true)),
        (LATER, Step::Kill(1, Duration::from_secs(40))),
        (Duration::from_secs(30), Step::SourceTouched(2, 0)),
    ]);
    if withdrawn {
        schedule.steps.push((LATER, Step::Consent(2, false)));
    }
    schedule
}

/// The lists and watches of sources fail, a source slice is deleted, and copies are deleted by hand.
#[must_use]
pub fn doubt(how: Blindness) -> Schedule {
    let blind = Step::Blind {
        replica: 0,
        sight: Some(Sight::Sources),
        how,
        time: Duration::from_secs(300),
    };
    let mut schedule = scenario(1, vec![copying(1), blind, Step::SourceGone(1, 0)]);
    let deleted = || Step::Copy(0, Edit::Deleted);
    schedule
        .steps
        .extend([(LATER, deleted()), (Duration::ZERO, deleted())]);
    schedule
}

/// The leader's lists and watches fail while another replica works, and an API server leaves the source. Before the
/// faults end, the other replica leads and updates the copies.
#[must_use]
pub fn blind_leader(sight: Option<Sight>, how: Blindness) -> Schedule {
    let mut schedule = scenario(2, vec![blind(LEADER, sight, how), source((0, 0), &[1, 3])]);
    schedule
        .steps
        .push((Duration::from_secs(45), source((0, 0), &[1, 2, 3])));
    schedule
}

/// The lists and watches of all replicas fail for two minutes.
#[must_use]
pub fn nobody_sees(how: Blindness) -> Schedule {
    let all = [0, 1].map(|replica| blind(replica, None, how));
    let mut schedule = scenario(2, all.into());
    schedule
        .steps
        .push((Duration::from_secs(120), source((0, 0), &[1, 3])));
    schedule
}

/// The leader is killed, and returns with lists that fail for 25 s.
#[must_use]
pub fn without_lists(replicas: usize, how: Blindness) -> Schedule {
    let start = Step::BlindFromTheStart {
        replica: LEADER,
        how,
        time: Duration::from_secs(25),
    };
    let mut schedule = scenario(replicas, vec![start]);
    schedule
        .steps
        .push((Duration::from_secs(30), source((0, 0), &[1, 3])));
    schedule
}

/// A schedule in which all replicas probe three API servers while these steps happen.
#[must_use]
pub fn probed(replicas: usize, steps: Vec<(Duration, Step)>) -> Schedule {
    let mut schedule = scenario(replicas, Vec::new());
    schedule.probes = Some([ProbeMode::Enforce; REPLICAS]);
    schedule
        .steps
        .push((Duration::from_secs(5), source((0, 0), &[1, 2, 3])));
    schedule.steps.extend(steps);
    schedule.steps.push((LATER, Step::SourceTouched(0, 0)));
    schedule
}

/// A step after which the third API server behaves like this for a time, toward one replica or, if `replica` is `None`,
/// toward all.
#[must_use]
pub fn third_answers(replica: Option<usize>, answer: Answer, time: Duration) -> Step {
    Step::Probe(ProbeStep::Answers {
        replica,
        pick: Some(2),
        port: None,
        answer,
        time,
    })
}

/// A step after which all API servers behave like this for a time, toward all replicas.
#[must_use]
pub fn all_answer(answer: Answer, time: Duration) -> Step {
    Step::Probe(ProbeStep::Answers {
        replica: None,
        pick: None,
        port: None,
        answer,
        time,
    })
}

/// The leader is paused while the third API server hangs, at ten different moments of the probe period.
#[must_use]
pub fn paused_while_it_hangs() -> Schedule {
    let hangs = || third_answers(None, Answer::Hangs, Duration::from_secs(5));
    let pause = || Step::Pause(LEADER, Duration::from_millis(2900));
    let moments = (0..10).flat_map(|moment| {
        let offset = Duration::from_millis(moment * 97);
        [
            (Duration::from_secs(30) + offset, hangs()),
            (Duration::from_millis(900), pause()),
        ]
    });
    probed(2, moments.collect())
}

/// The third API server is down for minutes, the others take 300 ms to answer, and the leader is paused at ten
/// different moments of the probe period.
#[must_use]
pub fn paused_while_it_is_out() -> Schedule {
    let time = Duration::from_secs(300);
    let slow = all_answer(Answer::Slow(Duration::from_millis(300)), time);
    let dead = third_answers(None, Answer::Refused, time);
    let mut steps = vec![(Duration::ZERO, slow), (LATER, dead)];
    steps.extend((0..10).map(|moment| {
        let offset = Duration::from_millis(moment * 97);
        (LATER + offset, Step::Pause(LEADER, Duration::from_millis(3100)))
    }));
    probed(2, steps)
}

fn blind(replica: usize, sight: Option<Sight>, how: Blindness) -> Step {
    Step::Blind {
        replica,
        sight,
        how,
        time: Duration::from_secs(300),
    }
}
