//! Systematic schedules, in the style of Sieve (OSDI '22): a small scenario runs many times, each time with one fault,
//! after one call to the API or at one event of a watch. The end state must not depend on the fault.

use std::sync::Arc;
use std::time::Duration;

use testbed::ApiServer;
use tokio::time::sleep;

use crate::node_scenarios;
use crate::objects::Shape;
use crate::run::{self, Outcome};
use crate::schedule::{Edit, Schedule, Step};
use crate::world::World;

/// The fault of a schedule at one call or one event, and the numbers of calls and events so far.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Kills the replica that sends this call, counted from 1. The call is carried out and gets no response.
    pub kill_after_call: Option<usize>,
    /// Causes this fault at this event, counted from 1, before the event arrives.
    pub at_event: Option<(usize, Event)>,
    /// The number of calls so far.
    pub calls: usize,
    /// The number of events so far.
    pub events: usize,
}

/// A fault at an event of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The watch breaks, and the history is compacted, so the event never arrives.
    Drop,
    /// The watch is silent for this long.
    Freeze(Duration),
    /// The replica is killed, and its successor starts with a server whose watch cache does not have the event yet.
    Rewind,
}

/// The action of [`crate::stream::carry`] at an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEvent {
    /// Breaks the watch instead of sending the event.
    Drop,
    /// Waits this long before it sends the event.
    Freeze(Duration),
}

/// The time after which a replica that a script has killed starts again.
const RESTART_DELAY: Duration = Duration::from_millis(200);

/// How long the servers stay behind after the replica was killed.
const LAG: Duration = Duration::from_secs(5);

impl World {
    /// Counts a call to the API, and returns its number.
    pub fn next_call(&self) -> usize {
        let mut state = self.state();
        state.script.calls += 1;
        state.script.calls
    }

    /// Causes the fault of the script, if it has one for this call. The call was carried out, and its response is about
    /// to be sent.
    pub fn after_call(self: &Arc<Self>, call: usize, replica: usize) {
        if self.state().script.kill_after_call == Some(call) {
            self.kill_and_restart(replica, RESTART_DELAY);
        }
    }

    /// Counts an event that is about to arrive, and causes the fault of the script, if it has one for this event.
    pub fn at_event(self: &Arc<Self>, replica: usize) -> Option<AtEvent> {
        let fault = {
            let script = &mut self.state().script;
            script.events += 1;
            let (number, fault) = script.at_event?;
            (number == script.events).then_some(fault)?
        };
        match fault {
            Event::Drop => {
                self.administer(testbed::Store::compact);
                Some(AtEvent::Drop)
            }
            Event::Freeze(time) => Some(AtEvent::Freeze(time)),
            Event::Rewind => {
                // Both servers fall behind, because the successor may dial either of them.
                self.fall_behind(2);
                let world = self.clone();
                tokio::spawn(async move {
                    sleep(LAG).await;
                    world.catch_up();
                });
                self.kill_and_restart(replica, RESTART_DELAY);
                Some(AtEvent::Drop)
            }
        }
    }

    /// Makes the watch caches of both servers show the state of this many writes ago.
    fn fall_behind(&self, writes: u64) {
        let revision = self.store.revision().saturating_sub(writes);
        for server in &self.servers {
            server.lag_since(revision);
        }
    }

    /// Makes the watch caches of both servers catch up.
    fn catch_up(&self) {
        self.servers.iter().for_each(ApiServer::release);
    }

    fn kill_and_restart(self: &Arc<Self>, replica: usize, away: Duration) {
        self.kill(replica);
        let world = self.clone();
        tokio::spawn(async move {
            sleep(away).await;
            world.start_replica(replica);
        });
    }
}

/// The small scenarios, by name. The end state of each does not depend on when a change was noticed.
pub fn scenarios() -> Vec<(&'static str, Schedule)> {
    let api_servers = |addresses: &[u8]| source((0, 0), addresses);
    let web = |slice, addresses: &[u8]| source((1, slice), addresses);
    let stop = Step::Stop(0, Duration::from_secs(1));
    vec![
        ("the first copy", scenario(1, vec![])),
        (
            "an API server leaves and returns",
            scenario(1, vec![api_servers(&[1, 3]), api_servers(&[1, 2, 3])]),
        ),
        (
            "the list of API servers is empty for a while",
            scenario(1, vec![api_servers(&[]), api_servers(&[2, 3])]),
        ),
        (
            "one slice of a source replaces another",
            scenario(
                1,
                vec![copying(1), web(0, &[1, 2]), web(1, &[3]), Step::SourceGone(1, 0)],
            ),
        ),
        (
            "a Service names another source",
            scenario(1, vec![web(0, &[1, 2]), copying(1), copying(0)]),
        ),
        (
            "a Service is deleted and created again",
            scenario(1, vec![Step::ServiceGone(0), vip()]),
        ),
        (
            "a Service is deleted",
            scenario(1, vec![copying(0), Step::ServiceGone(1)]),
        ),
        (
            "copies are edited and deleted by hand",
            scenario(
                1,
                vec![
                    Step::Copy(0, Edit::Endpoints),
                    Step::Copy(0, Edit::Deleted),
                    Step::Copy(0, Edit::NewerSource),
                ],
            ),
        ),
        (
            "the Go operator has left objects",
            scenario(1, vec![Step::Leftovers(0)]),
        ),
        ("Nodes and API servers change", node_scenarios::changes()),
        (
            "the leader is stopped while an API server leaves",
            scenario(2, vec![stop, api_servers(&[1, 3])]),
        ),
    ]
}

/// A step after which a slice of a source lists these addresses.
pub(crate) fn source(place: (usize, usize), addresses: &[u8]) -> Step {
    Step::Source {
        place,
        addresses: addresses.to_vec(),
        unready: false,
    }
}

/// A step that creates the Service that the flags name.
pub(crate) fn vip() -> Step {
    Step::Service {
        number: 0,
        shape: Shape::Plain,
        source: 0,
        port: 6443,
    }
}

/// A step after which a Service copies this source.
pub(crate) fn copying(source: usize) -> Step {
    Step::Service {
        number: 1,
        shape: Shape::Plain,
        source,
        port: 6443,
    }
}

/// A schedule with two sources, a managed Service and these steps.
pub(crate) fn scenario(replicas: usize, steps: Vec<Step>) -> Schedule {
    let before = vec![
        Step::SourceService(0, true),
        source((0, 0), &[1, 2, 3]),
        source((1, 0), &[1]),
        vip(),
    ];
    let pause = Duration::from_millis(700);
    let steps = steps.into_iter().map(|step| (pause, step)).collect();
    Schedule {
        replicas,
        before,
        steps,
        nodes_fail: None,
        blind_leader: None,
        probes: None,
        calm: Vec::new(),
        conditions: false,
        consent: false,
    }
}

/// Runs a scenario without a fault, and then once with each fault at each call and each event. Returns the number of
/// runs.
///
/// # Errors
/// If an invariant does not hold, or an end state differs. The error has the trace.
pub fn explore(schedule: &Schedule) -> Result<usize, String> {
    let run = |script: Script| run::schedule(1, schedule.clone(), script);
    let plain = run(Script::default());
    judge("no fault", &plain, &plain)?;
    let kills = (1..=plain.script.calls).map(|call| Script {
        kill_after_call: Some(call),
        ..Script::default()
    });
    let faults = [Event::Drop, Event::Freeze(Duration::from_secs(3)), Event::Rewind];
    let events = (1..=plain.script.events).flat_map(|event| {
        faults.map(|fault| Script {
            at_event: Some((event, fault)),
            ..Script::default()
        })
    });
    let mut runs = 1;
    for script in kills.chain(events) {
        let what = format!("{script:?}");
        judge(&what, &run(script), &plain)?;
        runs += 1;
    }
    Ok(runs)
}

fn judge(what: &str, outcome: &Outcome, plain: &Outcome) -> Result<(), String> {
    if outcome.violations.is_empty() && outcome.end_state == plain.end_state {
        return Ok(());
    }
    Err(format!(
        "{}\n{what}: {:?}\nends in\n  {}\nand without a fault in\n  {}",
        outcome.story,
        outcome.violations,
        outcome.end_state.join("\n  "),
        plain.end_state.join("\n  ")
    ))
}
