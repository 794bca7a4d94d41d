//! A model of leader election with three candidates, one Lease and one API server, checked state by state.
//!
//! Each step of a candidate stands for the code between two awaits in `src/leader_election/elector.rs` and
//! `src/leader_election/cas/`. The step calls the same pure functions to decide what the candidate has seen of the
//! Lease (`ObservedLease`), on which version a renewal without a read builds (`KnownVersion`), which Lease the lock
//! gets and which version its PATCH names (`PresentedLease`, `ReadVersion`), how long the term lasts (`Validity`), and
//! whether the candidate may release the Lease. Time can pass between any two steps, so a candidate can pause anywhere
//! and continue later. Replies can be lost or late, requests can be carried out late or never, wall clocks differ and
//! jump, and an administrator can delete or empty the Lease. Each [`Mutant`] weakens one rule.

mod candidate;
mod check;
mod server;

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use endpoint_copier_operator::leader_election::validity::Validity;
use stateright::{Model, Property};
use tokio::time::Instant;

use candidate::Candidate;
pub use check::{Findings, check};
use server::{Request, Server};

/// The start of the monotonic clock that all candidates share. Each moment of the model is a whole number of ticks
/// after the start, so that states can be compared and hashed.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A tick of the clock.
const TICK: Duration = Duration::from_secs(1);

/// The names of the candidates.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// The lease duration. The ratio of the lease duration to the renew deadline is that of the defaults, 6 s and 4 s.
const DURATION: Duration = Duration::from_secs(3);
/// The renew deadline.
const DEADLINE: Duration = Duration::from_secs(2);

/// The errors of the wall clocks, in ticks. Errors of an hour would have the same effect.
const SKEW: [i16; 3] = [0, 9, -9];

/// A rule that the model breaks on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A PATCH is applied even if the Lease has changed since it was read.
    NoCas,
    /// A candidate uses its wall clock and the Lease's renewTime to decide whether the Lease has expired.
    WallClock,
    /// A term does not end at its deadline.
    NoFence,
    /// The deadline is counted from the arrival of the reply.
    FenceFromReply,
    /// A deleted Lease immediately counts as free.
    DeletedIsFree,
    /// If the last holder that a candidate saw was the candidate itself, it recreates a deleted Lease, or fills an
    /// emptied one, even without a term.
    FormerLeaderWritesAgain,
    /// A Lease that names a candidate confirms its renewal, regardless of the Lease's version and renewTime.
    NamedIsApplied,
    /// The Lease is released while a write is in flight.
    ReleaseInFlight,
}

/// The initial state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// There is no Lease, and no candidate knows anything.
    Nothing,
    /// The first candidate has just won its term, and all candidates have seen that.
    Led,
}

/// The bound of the exploration.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The initial state.
    pub begin: Begin,
    /// The number of ticks.
    pub horizon: u8,
    /// The number of replies that do not reach the candidate. The API server carries out the request in time, late or
    /// never.
    pub losses: u8,
    /// The number of wall-clock jumps.
    pub jumps: u8,
    /// The number of times that an administrator deletes or empties the Lease.
    pub edits: u8,
    /// The number of candidates that are asked to stop, perhaps with a write in flight.
    pub stops: u8,
    /// The number of times that a renewal is repeated in parallel.
    pub repeats: u8,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            begin,
            horizon,
            losses,
            jumps,
            edits,
            stops,
            repeats,
        } = self;
        write!(
            f,
            "{begin:?}, {horizon} ticks, {losses} losses, {jumps} jumps, {edits} edits, {stops} stops, {repeats} repeats"
        )
    }
}

/// The model.
#[derive(Debug)]
pub struct Election {
    /// The bound.
    pub bound: Bound,
    /// The rule that the model breaks, if any.
    pub mutant: Option<Mutant>,
}

/// The state of the model at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    now: Instant,
    server: Server,
    candidates: [Candidate; 3],
    /// Requests whose senders no longer wait for them.
    late: Vec<Request>,
    jumped: [bool; 3],
    /// The number of losses that the bound still allows. The next four fields count in the same way.
    losses: u8,
    jumps: u8,
    edits: u8,
    stops: u8,
    repeats: u8,
    /// The first leader, to detect whether another candidate followed.
    first: Option<usize>,
}

/// A possible step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes.
    Tick,
    /// The watch shows the Lease to a candidate.
    Look(usize),
    /// An attempt begins with a GET.
    Get(usize),
    /// The GET is answered, and the lock acts on it.
    Decide(usize),
    /// The API server carries out one of the tries of a write: the first request, or one that was sent again. The
    /// candidate still waits for the response.
    Serve(usize, usize),
    /// The API server carries out one of the tries of a write, and the reply is lost.
    LoseReply(usize, usize),
    /// A renewal is repeated in parallel.
    Repeat(usize),
    /// The watch has shown that a renewal was applied.
    Confirm(usize),
    /// The response to a write arrives.
    Answer(usize),
    /// The candidate stops waiting. Its request might be carried out later.
    GiveUp(usize),
    /// A write whose sender no longer waits is carried out.
    ServeLate(usize),
    /// A write of a slice begins, under a term.
    BeginWrite(usize),
    /// The API server answers the write of a slice.
    EndWrite(usize),
    /// A candidate is asked to stop.
    Stop(usize),
    /// A candidate that was asked to stop begins to release the Lease.
    Release(usize),
    /// The wall clock of a candidate jumps.
    Jump(usize),
    /// An administrator deletes the Lease.
    Delete,
    /// An administrator removes the holder of the Lease.
    Empty,
}

impl Election {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn may_write(&self, state: &State, validity: Option<Validity>) -> bool {
        validity.is_some_and(|validity| self.is(Mutant::NoFence) || validity.deadline(state.now).is_some())
    }

    /// The candidates whose term is valid.
    fn leaders<'a>(&'a self, state: &'a State) -> impl Iterator<Item = (usize, &'a Candidate)> {
        let candidates = state.candidates.iter().enumerate();
        candidates.filter(|(_, candidate)| self.may_write(state, candidate.term))
    }
}

impl Model for Election {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            now: *START,
            server: Server::default(),
            candidates: Default::default(),
            late: Vec::new(),
            jumped: [false; 3],
            losses: self.bound.losses,
            jumps: self.bound.jumps,
            edits: self.bound.edits,
            stops: self.bound.stops,
            repeats: self.bound.repeats,
            first: None,
        };
        if self.bound.begin == Begin::Led {
            let first = [
                Action::Get(0),
                Action::Decide(0),
                Action::Serve(0, 0),
                Action::Answer(0),
            ];
            for action in first.into_iter().chain([Action::Look(1), Action::Look(2)]) {
                state = self.next_state(&state, action).expect("a step toward a term");
            }
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < *START + TICK * u32::from(self.bound.horizon) {
            actions.push(Action::Tick);
        }
        for i in 0..NAMES.len() {
            self.actions_of(state, i, actions);
            if state.jumps > 0 {
                actions.push(Action::Jump(i));
            }
        }
        for i in 0..state.late.len() {
            // This step does not have to happen, because no other step depends on it.
            actions.push(Action::ServeLate(i));
        }
        if state.edits > 0 {
            actions.extend([Action::Delete, Action::Empty]);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => {
                state.now += TICK;
                for candidate in &mut state.candidates {
                    candidate.tick(state.now, !self.is(Mutant::NoFence));
                }
            }
            Action::Jump(i) => {
                state.jumped[i] = !state.jumped[i];
                state.jumps -= 1;
            }
            Action::ServeLate(i) => {
                let request = state.late.remove(i);
                state.server.serve(&request, !self.is(Mutant::NoCas))?;
            }
            Action::Delete => {
                state.server.delete()?;
                state.edits -= 1;
            }
            Action::Empty => {
                state.server.empty()?;
                state.edits -= 1;
            }
            Action::Look(i)
            | Action::Get(i)
            | Action::Decide(i)
            | Action::Serve(i, _)
            | Action::LoseReply(i, _)
            | Action::Repeat(i)
            | Action::Confirm(i)
            | Action::Answer(i)
            | Action::GiveUp(i)
            | Action::BeginWrite(i)
            | Action::EndWrite(i)
            | Action::Stop(i)
            | Action::Release(i) => self.step(&mut state, i, action)?,
        }
        let leader = self.leaders(&state).map(|(i, _)| i).next();
        state.first = state.first.or(leader);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            // Uninformed candidates are exempt: they have never seen a holder, and take a Lease that an administrator
            // has deleted or emptied.
            Property::always(ONE_TERM, |model, state| {
                model
                    .leaders(state)
                    .filter(|(_, leader)| !leader.is_uninformed)
                    .count()
                    <= 1
            }),
            Property::always(ONE_WRITER, |model, state| {
                model.leaders(state).all(|(leader, _)| {
                    let others = state.candidates.iter().enumerate().filter(|(i, _)| *i != leader);
                    others
                        .filter(|(_, other)| !other.is_uninformed)
                        .all(|(_, other)| other.write.is_none())
                        || state.candidates[leader].is_uninformed
                })
            }),
            // Without these properties, a model in which nothing happens would pass.
            Property::sometimes(LEADER_EXISTS, |model, state| {
                model.leaders(state).next().is_some()
            }),
            Property::sometimes(LEADER_CHANGES, |model, state| {
                model
                    .leaders(state)
                    .any(|(leader, candidate)| Some(leader) != state.first && !candidate.is_uninformed)
            }),
        ]
    }
}

/// At most one valid term at any instant, not counting the terms of uninformed candidates.
pub const ONE_TERM: &str = "at most one valid term at any instant";
/// No write of one candidate is in flight during the term of another candidate, unless one of them is uninformed.
pub const ONE_WRITER: &str = "no write in flight during the term of another candidate";
/// A candidate gets a term.
pub const LEADER_EXISTS: &str = "a candidate leads";
/// A candidate gets a term after another candidate had one.
pub const LEADER_CHANGES: &str = "another candidate leads afterwards";
