//! Facts that a replica may know about an API server.

use std::net::IpAddr;
use std::time::Duration;

use crate::verdicts::{Failure, Moment, Phase, TargetFacts};

/// A server that answers, and was listed some time ago.
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

/// A server that meets all conditions to be taken out. It has failed for 10 s, and 192.0.2.1 to 192.0.2.9 have answered
/// since.
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
        is_heard: true,
        what: Some(Failure::TimedOut),
        failures: 3,
        ..TargetFacts::default()
    }
}
