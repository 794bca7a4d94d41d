//! Explores all states within a bound.

use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker as _, HasDiscoveries, Model as _};

use crate::{Action, Bound, Election, LEADER_CHANGES, LEADER_EXISTS, Mutant, ONE_TERM, ONE_WRITER};

/// The result of a check within a bound.
#[derive(Debug)]
pub struct Findings {
    /// The number of distinct states.
    pub states: usize,
    /// The duration of the check.
    pub took: Duration,
    /// The rule that was broken, and a sequence of steps that breaks it. For a mutant, this is the shortest sequence.
    pub counterexample: Option<(&'static str, Vec<Action>)>,
    /// Whether a candidate led, and whether another candidate led after it.
    pub reached: [bool; 2],
}

/// Checks the election, or a mutant of it.
#[must_use]
pub fn check(bound: Bound, mutant: Option<Mutant>) -> Findings {
    let began = Instant::now();
    // Only a single-threaded search is certain to find the shortest sequence.
    let threads = if mutant.is_some() { 1 } else { 2 };
    let checker = Election { bound, mutant }
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut discoveries = checker.discoveries();
    let reached = [LEADER_EXISTS, LEADER_CHANGES].map(|name| discoveries.contains_key(name));
    let counterexample = [ONE_TERM, ONE_WRITER]
        .into_iter()
        .find_map(|name| Some((name, discoveries.remove(name)?.into_actions())));
    Findings {
        states: checker.unique_state_count(),
        took: began.elapsed(),
        counterexample,
        reached,
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, took, .. } = self;
        write!(f, "{states} states in {:.1} s: ", took.as_secs_f32())?;
        match &self.counterexample {
            None => write!(f, "holds"),
            Some((rule, steps)) => write!(f, "not \"{rule}\" after {} steps: {steps:?}", steps.len()),
        }
    }
}
