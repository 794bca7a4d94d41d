//! Facts about an API server, for tests.

use std::net::IpAddr;
use std::time::Duration;

use crate::verdicts::{Failure, Moment, Phase, TargetFacts};

/// The facts of a server that answers and was listed some time ago.
#[must_use]
pub fn well() -> TargetFacts {
    TargetFacts {
        phase: Phase::Well,
        is_known: true,
        answers: true,
        is_recent: true,
        had_time: true,
        ..TargetFacts::default()
    }
}

/// The facts of a server that can be taken out if one of 192.0.2.1 to 192.0.2.9 is another candidate. Its first failure
/// was 10 s after the start of the replica, and these nine addresses have answered since then.
#[must_use]
pub fn down() -> TargetFacts {
    let second = |n| Some(Moment::new(Duration::from_secs(n)));
    TargetFacts {
        phase: Phase::Down,
        is_known: true,
        had_time: true,
        since: second(10),
        last_success: second(9),
        contrasts: (1..=9).map(|n| IpAddr::from([192, 0, 2, n])).collect(),
        had_time_to_object: true,
        what: Some(Failure::TimedOut),
        failures: 3,
        ..TargetFacts::default()
    }
}
