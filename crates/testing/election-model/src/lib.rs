//! A model of the election, to be checked state by state: three candidates, one Lease, one API server.
//!
//! A candidate is the code of `src/leader_election/mod.rs` between two awaits, and decides by the same pure functions:
//! what it has seen of the Lease (`ObservedLease`), which version a renewal builds on without a read (`KnownVersion`),
//! what the lock sees and puts into its PATCH (`PresentedLease`, `ReadVersion`), how long its term lasts (`Validity`),
//! and whether it may release. Time passes between any two steps, so a candidate may pause anywhere and continue later.
//! Replies are lost or late, requests are carried out late or never, wall clocks differ and jump, and an administrator
//! deletes and empties the Lease. [`Mutant`] weakens one rule at a time.

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
/// later, so that states can be compared and hashed.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A tick of the clock.
const TICK: Duration = Duration::from_secs(1);

/// The candidates.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Lease duration and renew deadline, in the same proportion as 6 s and 4 s.
const DURATION: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(2);

/// The errors of the wall clocks, in ticks. Errors of an hour would have the same effect.
const SKEW: [i16; 3] = [0, 9, -9];

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The PATCH is not bound to the version that was read.
    NoCas,
    /// Expiry is judged by the wall clock and the stated renewTime.
    WallClock,
    /// A term does not end by itself.
    NoFence,
    /// The deadline is counted from the reply.
    FenceFromReply,
    /// A deleted Lease counts as free at once.
    DeletedIsFree,
    /// A candidate that was the last holder it saw recreates or fills a deleted or emptied Lease, whether it has a term
    /// or not.
    FormerLeaderWritesAnew,
    /// A Lease that names a candidate confirms its renewal, whatever version and time it states.
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
    /// The number of lost replies. The request itself is carried out late or never.
    pub losses: u8,
    /// The number of jumps of wall clocks.
    pub jumps: u8,
    /// The number of times that an administrator deletes or empties the Lease.
    pub edits: u8,
    /// The number of candidates that are asked to stop, perhaps with a write in flight.
    pub stops: u8,
    /// The number of renewals that are sent a second time, in parallel.
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

/// The whole election.
#[derive(Debug)]
pub struct Election {
    /// The bound.
    pub bound: Bound,
    /// The broken rule, if any.
    pub mutant: Option<Mutant>,
}

/// The whole state at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    now: Instant,
    server: Server,
    candidates: [Candidate; 3],
    /// Requests whose senders no longer wait for them.
    late: Vec<Request>,
    jumped: [bool; 3],
    /// The remainder of the bound.
    losses: u8,
    jumps: u8,
    edits: u8,
    stops: u8,
    repeats: u8,
    /// The first leader, to detect whether another one followed.
    first: Option<usize>,
}

/// A step that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes.
    Tick,
    /// The watch shows the Lease.
    Look(usize),
    /// An attempt begins with a GET.
    Get(usize),
    /// The GET is answered, and the lock acts on it.
    Decide(usize),
    /// The API server carries out one of the tries of a write, for a candidate that waits for the response.
    Serve(usize, usize),
    /// The same, and the reply is lost.
    LoseReply(usize, usize),
    /// A renewal is sent again, in parallel.
    Repeat(usize),
    /// The watch has shown that a renewal was applied.
    Confirm(usize),
    /// The response arrives.
    Answer(usize),
    /// The candidate stops waiting. Its request may be carried out later.
    GiveUp(usize),
    /// A write whose sender no longer waits is carried out.
    ServeLate(usize),
    /// A write of a slice begins, under a term.
    BeginWrite(usize),
    /// The API server answers the write.
    EndWrite(usize),
    /// A candidate is asked to stop.
    Stop(usize),
    /// Its release begins.
    Release(usize),
    /// Its wall clock jumps.
    Jump(usize),
    /// An administrator deletes the Lease.
    Delete,
    /// An administrator empties it.
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
                state = self.next_state(&state, action).expect("the way to a term");
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
            // This step may never happen: nothing else waits for it.
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
            // The exception is a candidate that never saw a holder, on a Lease that an administrator deleted or
            // emptied.
            Property::always(ONE_TERM, |model, state| {
                model
                    .leaders(state)
                    .filter(|(_, leader)| !leader.is_unknowing)
                    .count()
                    <= 1
            }),
            Property::always(ONE_WRITER, |model, state| {
                model.leaders(state).all(|(leader, _)| {
                    let others = state.candidates.iter().enumerate().filter(|(i, _)| *i != leader);
                    others
                        .filter(|(_, other)| !other.is_unknowing)
                        .all(|(_, other)| other.write.is_none())
                        || state.candidates[leader].is_unknowing
                })
            }),
            // Without these, the other properties would hold in an empty model.
            Property::sometimes(LEADS, |model, state| model.leaders(state).next().is_some()),
            Property::sometimes(HANDED_ON, |model, state| {
                model
                    .leaders(state)
                    .any(|(leader, candidate)| Some(leader) != state.first && !candidate.is_unknowing)
            }),
        ]
    }
}

/// At most one valid term at any instant.
pub const ONE_TERM: &str = "at most one valid term at any instant";
/// No write is in flight under one term while another term is valid.
pub const ONE_WRITER: &str = "no write in flight during the term of another";
/// A candidate gets a term.
pub const LEADS: &str = "a candidate leads";
/// A candidate gets a term after another one had one.
pub const HANDED_ON: &str = "another candidate leads afterwards";
