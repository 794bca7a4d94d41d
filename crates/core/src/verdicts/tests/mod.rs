//! The rules of the probes, as tables of cases and as laws that always hold.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::testing::facts::{down, well};

mod findings;
mod hearing;
mod judging;
mod laws;
mod memory;
mod states;
mod text;

/// The port of the API server.
const API: u16 = 6443;
/// The port of RKE2's supervisor.
const SUPERVISOR: u16 = 9345;

fn at(milliseconds: u64) -> Moment {
    Moment::new(Duration::from_millis(milliseconds))
}

fn address(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

fn target(n: u8) -> Target {
    Target::new(address(n), API)
}

/// The targets of one replica, and the attempts that it makes.
struct Probes {
    targets: Targets,
    hearing: Hearing,
}

impl Probes {
    /// `n` addresses on the port of the API server, listed at 0 ms.
    fn new(n: u8) -> Self {
        let mut targets = Targets::default();
        targets.list(&(1..=n).map(target).collect(), at(0));
        Self {
            targets,
            hearing: Hearing::default(),
        }
    }

    /// Makes an attempt that begins and ends at these times, in milliseconds.
    fn attempt(&mut self, n: u8, begun: u64, ended: u64, reply: Reply) -> bool {
        self.targets.begin(target(n), at(begun));
        self.targets.end(target(n), at(begun), at(ended), reply)
    }

    /// Makes an attempt that succeeds after 10 ms.
    fn well(&mut self, n: u8, begun: u64) {
        self.attempt(n, begun, begun + 10, Reply::Success);
    }

    /// Makes an attempt that is refused after 10 ms.
    fn refused(&mut self, n: u8, begun: u64) -> bool {
        self.attempt(n, begun, begun + 10, Reply::Failure(Failure::Refused))
    }

    /// Makes a target well at 0 s, and then down with three refused attempts, the first at 1 s.
    fn down(&mut self, n: u8) {
        self.well(n, 0);
        for begun in [1_000, 1_200, 1_400] {
            self.refused(n, begun);
        }
        assert_eq!(self.phase(n), Phase::Down);
    }

    fn phase(&self, n: u8) -> Phase {
        self.targets.get(target(n)).unwrap().phase
    }

    fn facts(&self, n: u8, now: u64) -> TargetFacts {
        let report = self.targets.report(at(now), &self.hearing, Leadership::default());
        report.targets[&target(n)].clone()
    }
}

/// A copy, and the facts that the leader has about its endpoints.
#[derive(Clone, Debug)]
struct Scene {
    candidates: Vec<Candidate>,
    ports: std::collections::BTreeSet<u16>,
    report: Report,
}

impl Scene {
    /// `n` endpoints with the port of the API server, all well.
    fn new(n: u8) -> Self {
        let candidates = (1..=n).map(|n| Candidate {
            address: address(n),
            was_out: false,
        });
        let mut scene = Self {
            candidates: candidates.collect(),
            ports: [].into(),
            report: Report::default(),
        };
        scene.report.leadership.may_take_out = true;
        scene.port(API)
    }

    /// Adds a port that is well on all endpoints.
    fn port(mut self, port: u16) -> Self {
        self.ports.insert(port);
        for candidate in &self.candidates {
            let target = Target::new(candidate.address, port);
            self.report.targets.insert(target, well());
        }
        self
    }

    /// Sets the facts of an endpoint on the port of the API server.
    fn set(self, n: u8, facts: TargetFacts) -> Self {
        self.set_on(API, n, facts)
    }

    fn set_on(mut self, port: u16, n: u8, mut facts: TargetFacts) -> Self {
        // An endpoint is not a contrast to itself.
        facts.contrasts.remove(&address(n));
        self.report.targets.insert(Target::new(address(n), port), facts);
        self
    }

    fn edit(mut self, n: u8, edit: impl FnOnce(&mut TargetFacts)) -> Self {
        edit(self.report.targets.get_mut(&target(n)).unwrap());
        self
    }

    /// Makes the copy remember that these endpoints were taken out.
    fn remembers(mut self, out: &[u8]) -> Self {
        for candidate in &mut self.candidates {
            candidate.was_out = out.iter().any(|n| address(*n) == candidate.address);
        }
        self
    }

    /// Makes the leader new: its term began less than 5 s ago.
    fn new_leader(mut self) -> Self {
        self.report.leadership.is_new = true;
        self
    }

    fn judge(&self) -> Judgment {
        judge(&self.candidates, &self.ports, &self.report)
    }

    /// The endpoints that are out.
    fn out(&self) -> Vec<u8> {
        let out = self.judge().out;
        let last = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        out.keys().map(last).collect()
    }
}

fn failing() -> TargetFacts {
    TargetFacts {
        phase: Phase::Failing,
        had_time_to_object: false,
        is_recent: true,
        ..down()
    }
}

fn rising() -> TargetFacts {
    TargetFacts {
        phase: Phase::Rising,
        since: Some(at(10_000)),
        ..well()
    }
}

/// The facts of a target that was listed some time ago, and whose attempts have all failed.
fn never_well() -> TargetFacts {
    TargetFacts {
        phase: Phase::New,
        last_success: None,
        ..down()
    }
}

/// The facts of a target that was just listed.
fn unknown() -> TargetFacts {
    TargetFacts::default()
}
