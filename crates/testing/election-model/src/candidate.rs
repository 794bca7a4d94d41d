//! A candidate. Each of its steps stands for the code between two awaits in `src/leader_election/elector.rs` and
//! `src/leader_election/cas/`.

use std::time::Duration;

use endpoint_copier_operator::leader_election::known_version::KnownVersion;
use endpoint_copier_operator::leader_election::observed_lease::ObservedLease;
use endpoint_copier_operator::leader_election::presented_lease::{PresentedLease, ReadVersion};
use endpoint_copier_operator::leader_election::validity::{self, Validity};
use tokio::time::Instant;

use crate::server::{Request, Stored, Verb};
use crate::{Action, DEADLINE, DURATION, Election, Mutant, NAMES, SKEW, START, State};

/// The state of one candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Candidate {
    known: ObservedLease,
    /// The version that a renewal may build on.
    version: KnownVersion,
    attempt: Attempt,
    /// The term that the candidate believes it has.
    pub term: Option<Validity>,
    /// Whether the candidate had never seen a holder when it took a Lease that an administrator had deleted or emptied.
    pub is_uninformed: bool,
    /// While a write of a slice is in flight, the latest time for its response.
    pub write: Option<Instant>,
    /// The time until which the API server might still carry out a write that got no response.
    doubtful: Option<Instant>,
    life: Life,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Life {
    #[default]
    Runs,
    /// The candidate was asked to stop, and has not tried to release the Lease yet.
    Stops,
    /// The candidate has tried to release the Lease.
    Leaves,
}

/// An attempt to take, renew or release the Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Attempt {
    #[default]
    None,
    /// The API server has carried out the GET. The reply is on its way.
    Reads { sent: Instant, reply: Option<Stored> },
    /// A write is in flight, perhaps with repetitions. `tries` holds the send times of the tries that have no response
    /// yet.
    Writes {
        began: Instant,
        request: Request,
        tries: Vec<Instant>,
    },
    /// The response to a write is on its way. `answer` is `None` if the write was rejected.
    Waits { sent: Instant, answer: Option<Stored> },
}

impl Candidate {
    /// Handles the passage of time. If `fenced`, a term that is past its deadline is removed once no attempt is in
    /// progress.
    pub fn tick(&mut self, now: Instant, fenced: bool) {
        if self.attempt == Attempt::None && fenced {
            self.term = self.term.filter(|term| term.deadline(now).is_some());
        }
        if self.write.is_some_and(|deadline| deadline <= now) {
            self.write = None;
            self.doubtful = Some(now + Duration::from_secs(60));
        }
    }

    /// Whether the watch shows that this renewal was applied, whether or not the attempt began with a GET. If
    /// `named_is_applied`, a Lease that names this candidate is sufficient proof.
    fn sees(&self, i: usize, request: &Request, named_is_applied: bool) -> bool {
        let Verb::Renew(read_version) = &request.verb else {
            return false;
        };
        if named_is_applied {
            return self.known.holder() == Some(NAMES[i]);
        }
        let time = request.wall.to_string();
        self.version.is_applied(read_version, NAMES[i], Some(&time))
    }

    fn look(&mut self, lease: Option<&Stored>, now: Instant) {
        let lease = lease.map(Stored::lease);
        self.known.see(lease.as_ref(), now);
        self.version.watched(lease.as_ref());
    }
}

impl Election {
    /// Adds the possible next steps of one candidate.
    pub(crate) fn actions_of(&self, state: &State, i: usize, actions: &mut Vec<Action>) {
        let candidate = &state.candidates[i];
        match &candidate.attempt {
            Attempt::None if candidate.life == Life::Runs => {
                actions.push(Action::Look(i));
                // A leader renews at most once per tick. More renewals would only change the version.
                let renewed = candidate.term == Some(Validity::won(state.now, DEADLINE));
                let leads = self.is(Mutant::FormerLeaderWritesAgain);
                let may_race = candidate.known.may_race(NAMES[i], DURATION, leads, state.now);
                let mutant = self.is(Mutant::WallClock) || self.is(Mutant::DeletedIsFree);
                if !renewed && (may_race || candidate.term.is_some() || mutant) {
                    actions.push(Action::Get(i));
                }
            }
            Attempt::None if candidate.life == Life::Stops => actions.push(Action::Release(i)),
            Attempt::None => {}
            // The watch can show a change before the response arrives.
            Attempt::Reads { .. } => actions.extend([Action::Decide(i), Action::Look(i)]),
            Attempt::Writes { request, tries, .. } => {
                for k in 0..tries.len() {
                    actions.push(Action::Serve(i, k));
                    if state.losses > 0 {
                        actions.push(Action::LoseReply(i, k));
                    }
                }
                if self.may_write(state, candidate.term) {
                    if state.repeats > 0 && !tries.is_empty() {
                        actions.push(Action::Repeat(i));
                    }
                    // The watch can show that the write was applied before any response arrives.
                    actions.push(Action::Look(i));
                    if candidate.sees(i, request, self.is(Mutant::NamedIsApplied)) {
                        actions.push(Action::Confirm(i));
                    }
                }
            }
            Attempt::Waits { .. } => actions.push(Action::Answer(i)),
        }
        let is_over = matches!(&candidate.attempt, Attempt::Writes { tries, .. } if tries.is_empty());
        if is_over || state.losses > 0 && candidate.attempt != Attempt::None {
            actions.push(Action::GiveUp(i));
        }
        if candidate.write.is_some() {
            actions.push(Action::EndWrite(i));
        }
        if state.stops > 0 && candidate.life == Life::Runs && candidate.term.is_some() {
            actions.push(Action::Stop(i));
            if candidate.write.is_none() && self.may_write(state, candidate.term) {
                actions.push(Action::BeginWrite(i));
            }
        }
    }

    /// Carries out a step of one candidate. Returns `None` if nothing happens.
    pub(crate) fn step(&self, state: &mut State, i: usize, action: Action) -> Option<()> {
        let now = state.now;
        let candidate = &mut state.candidates[i];
        match (action, std::mem::take(&mut candidate.attempt)) {
            (Action::Look(_), attempt) => {
                candidate.attempt = attempt;
                candidate.look(state.server.lease.as_ref(), now);
            }
            (Action::Get(_), _) => {
                candidate.attempt = match candidate.version.version_to_renew(NAMES[i]) {
                    Some(read_version) => write(state.jumped[i], i, now, Verb::Renew(read_version)),
                    None => Attempt::Reads {
                        sent: now,
                        reply: state.server.lease,
                    },
                }
            }
            (Action::Decide(_), Attempt::Reads { sent, reply }) => {
                let verb = self.decide(state, i, sent, reply);
                let candidate = &mut state.candidates[i];
                match verb {
                    Some(verb) => candidate.attempt = write(state.jumped[i], i, now, verb),
                    // Nothing may be written, for example because the Lease names another holder, so any term ends.
                    None => candidate.term = None,
                }
            }
            (
                action @ (Action::Repeat(_) | Action::Serve(..) | Action::LoseReply(..) | Action::Confirm(_)),
                Attempt::Writes {
                    began,
                    request,
                    tries,
                },
            ) => self.step_of_write(state, i, action, began, request, tries),
            (Action::Answer(_), Attempt::Waits { sent, answer }) => {
                if let (Some(answer), Life::Runs) = (answer, candidate.life) {
                    self.take_answer(candidate, i, sent, &answer, now);
                }
            }
            (Action::GiveUp(_), attempt) => match attempt {
                Attempt::Writes { request, tries, .. } => {
                    state.losses -= u8::from(!tries.is_empty());
                    state.late.extend(tries.iter().map(|_| request.clone()));
                }
                _ => state.losses -= 1,
            },
            (Action::BeginWrite(_), attempt) => {
                candidate.attempt = attempt;
                candidate.write = Some(candidate.term?.deadline(now)?);
            }
            (Action::EndWrite(_), attempt) => {
                candidate.attempt = attempt;
                candidate.write = None;
            }
            (Action::Stop(_), attempt) => {
                candidate.term = None;
                candidate.life = Life::Stops;
                state.stops -= 1;
                // The attempt is dropped, but its requests might still be carried out.
                if let Attempt::Writes { request, tries, .. } = attempt {
                    state.late.extend(tries.iter().map(|_| request.clone()));
                }
            }
            (Action::Release(_), _) => {
                let in_flight = usize::from(candidate.write.is_some());
                if validity::may_release(in_flight, candidate.doubtful, now)
                    || self.is(Mutant::ReleaseInFlight)
                {
                    candidate.attempt = match candidate.version.version_to_renew(NAMES[i]) {
                        Some(read_version) => write(state.jumped[i], i, now, Verb::Release(read_version)),
                        None => Attempt::Reads {
                            sent: now,
                            reply: state.server.lease,
                        },
                    };
                }
                candidate.life = Life::Leaves;
            }
            (action, attempt) => unreachable!("{action:?} in {attempt:?}"),
        }
        let candidate = &mut state.candidates[i];
        candidate.tick(now, !self.is(Mutant::NoFence));
        Some(())
    }

    /// Carries out a step of a write or of one of its repetitions.
    fn step_of_write(
        &self,
        state: &mut State,
        i: usize,
        action: Action,
        began: Instant,
        request: Request,
        mut tries: Vec<Instant>,
    ) {
        let now = state.now;
        let candidate = &mut state.candidates[i];
        let mut answered = None;
        match action {
            Action::Repeat(_) => {
                state.repeats -= 1;
                tries.push(now);
            }
            Action::Serve(_, k) | Action::LoseReply(_, k) => {
                let answer = state.server.serve(&request, !self.is(Mutant::NoCas));
                let sent = tries.remove(k);
                if matches!(action, Action::LoseReply(..)) {
                    state.losses -= 1;
                } else if answer.is_some() || tries.is_empty() {
                    answered = Some(Attempt::Waits { sent, answer });
                }
                // After a rejection, the candidate waits for the other tries.
            }
            _ => {
                candidate.term = renewed(candidate.term, began, now);
                answered = Some(Attempt::None);
            }
        }
        candidate.attempt = match answered {
            Some(attempt) => {
                // The other tries are carried out later or never.
                state.late.extend(tries.iter().map(|_| request.clone()));
                attempt
            }
            None => Attempt::Writes {
                began,
                request,
                tries,
            },
        };
    }

    /// Handles the response to a GET as the compare-and-swap layer does, and returns the write that the lock then
    /// sends, if any.
    fn decide(&self, state: &mut State, i: usize, sent: Instant, reply: Option<Stored>) -> Option<Verb> {
        let wall = wall(state.jumped[i], i, state.now);
        let leads =
            self.may_write(state, state.candidates[i].term) || self.is(Mutant::FormerLeaderWritesAgain);
        let edited = state.edits < self.bound.edits;
        let candidate = &mut state.candidates[i];
        let lease = reply.as_ref().map(Stored::lease);
        candidate.version.read(lease.as_ref());
        let is_change = candidate
            .known
            .see_answer(lease.as_ref(), DURATION, sent, state.now);
        let shown = match (&reply, self.mutant) {
            (Some(lease), Some(Mutant::WallClock)) if lease.holder != Some(i) => {
                let seconds = i16::try_from(DURATION.as_secs()).unwrap_or_default();
                if wall > lease.renewed + seconds {
                    PresentedLease::Free
                } else {
                    PresentedLease::Held
                }
            }
            (None, Some(Mutant::DeletedIsFree)) => PresentedLease::Absent,
            _ => PresentedLease::of(
                lease.as_ref(),
                is_change.is_none(),
                &candidate.known,
                NAMES[i],
                DURATION,
                leads,
                state.now,
            ),
        };
        let read_version = || lease.as_ref().and_then(ReadVersion::of);
        let verb = match (shown, candidate.life) {
            (PresentedLease::Ours, Life::Runs) => Verb::Renew(read_version()?),
            (PresentedLease::Ours, _) => Verb::Release(read_version()?),
            (_, Life::Stops | Life::Leaves) | (PresentedLease::Held, _) => return None,
            (PresentedLease::Absent, _) => Verb::Make,
            (PresentedLease::Free, _) => Verb::Take(read_version()?),
        };
        if let Verb::Make | Verb::Take(_) = verb {
            candidate.is_uninformed = edited && candidate.known.holder().is_none();
        }
        Some(verb)
    }

    /// Handles the response to a write: a term begins or continues if the response names this candidate.
    fn take_answer(&self, candidate: &mut Candidate, i: usize, sent: Instant, answer: &Stored, now: Instant) {
        let lease = answer.lease();
        candidate.version.wrote(&lease);
        candidate.known.see(Some(&lease), now);
        let ours = validity::is_ours(lease.spec.holder_identity.as_deref(), NAMES[i]);
        let sent = if self.is(Mutant::FenceFromReply) {
            now
        } else {
            sent
        };
        let won = Validity::won(sent, DEADLINE);
        candidate.term = match candidate.term {
            _ if !ours => None,
            None => Some(won),
            term if !self.is(Mutant::NoFence) => renewed(term, sent, now),
            term => renewed(term, sent, now).or(Some(won)),
        };
    }
}

/// The term after a renewal that was sent at `sent`, or `None` if there is no term or the term ended before `now`.
fn renewed(term: Option<Validity>, sent: Instant, now: Instant) -> Option<Validity> {
    let mut term = term?;
    term.extend(Validity::won(sent, DEADLINE), now).ok()?;
    Some(term)
}

/// A write that is sent now.
fn write(jumped: bool, i: usize, now: Instant, verb: Verb) -> Attempt {
    Attempt::Writes {
        began: now,
        request: Request {
            from: i,
            verb,
            wall: wall(jumped, i, now),
        },
        tries: vec![now],
    }
}

/// The time on the wall clock of a candidate, in ticks.
fn wall(jumped: bool, i: usize, now: Instant) -> i16 {
    let skew = if jumped { -SKEW[i] } else { SKEW[i] };
    i16::try_from((now - *START).as_secs()).unwrap_or_default() + skew
}
