//! Runs one schedule, from its first object to the verdict of the oracle.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use endpoint_copier_core::model::CrossNamespace;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::conditions;
use crate::coverage::Coverage;
use crate::deterministic;
use crate::node_oracle;
use crate::node_watch::{FOR_GOOD, Part};
use crate::oracle;
use crate::schedule::{Edit, Schedule, Step};
use crate::sight::Blinded;
use crate::systematic::Script;
use crate::world::World;

/// The copies must be right within this time after the end of all faults. By then, the Lease has expired, and hanging
/// requests have been abandoned.
const BOUND: Duration = Duration::from_secs(25);

/// The bound if a write that was refused with 403 or 422 must be retried before the copies can be right, or if the only
/// replica has given up the Lease and competes again after 30 s.
const LONGER_BOUND: Duration = Duration::from_secs(50);

/// An API server that probes took out of the copies must be ready in them again within this time.
const RISE: Duration = Duration::from_secs(66);

/// A list of ReferenceGrants that was refused or not served is repeated within this time.
const DISCOVERY: Duration = Duration::from_secs(62);

/// A watch that fails although its list succeeds lists again after a pause of at most 30 s, with jitter.
const RELIST: Duration = Duration::from_secs(40);

/// A list of Nodes that was refused is repeated within this time.
const REFUSED: Duration = Duration::from_secs(62);

/// Once everything is right, it must stay right for at least this long.
const QUIET: Duration = Duration::from_secs(3);

/// A list without a response has failed after this time.
const LIST_LIMIT: Duration = Duration::from_secs(15);

/// How long the checks in `calm.rs` need to observe the effects of a probe step.
const LAST_STEP: Duration = Duration::from_secs(12);

/// The result of one schedule.
#[derive(Serialize, Deserialize)]
pub struct Outcome {
    /// The violations. Empty if all checks passed.
    pub violations: Vec<String>,
    /// What happened, and how often.
    pub coverage: Coverage,
    /// A hash of all requests. The same seed gives the same hash if its schedule is the first in the process.
    pub fingerprint: u64,
    /// The trace, with times.
    pub story: String,
    /// The time from the last fault until the copies were right.
    pub settled: Duration,
    /// The copies at the end.
    #[serde(skip)]
    pub end_state: Vec<String>,
    /// Calls and events, for systematic schedules.
    #[serde(skip)]
    pub script: Script,
}

impl Outcome {
    /// The outcome of a schedule that did not run to its end.
    pub fn failed(why: String) -> Self {
        Self {
            violations: vec![why],
            coverage: Coverage::default(),
            fingerprint: 0,
            story: String::new(),
            settled: Duration::ZERO,
            end_state: Vec::new(),
            script: Script::default(),
        }
    }
}

/// Runs the schedule of a seed.
pub fn seed(seed: u64) -> Outcome {
    schedule(seed, Schedule::of(seed), Script::default())
}

/// Runs the schedule of a seed in its own process. `program` is the binary of this crate. A `watch` channel wakes its
/// receivers in a random order, and Tokio derives the seed for that order from the number of runtimes created in the
/// process, so only the first schedule of a process is reproducible from its seed.
///
/// # Errors
/// If the program cannot be started, or its output is not an outcome.
pub fn in_process(program: &Path, seed: u64) -> io::Result<Outcome> {
    let mut command = Command::new(program);
    let output = command.args(["--json", &seed.to_string()]).output()?;
    serde_json::from_slice(&output.stdout).map_err(|error| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        io::Error::other(format!("{error}, {}: {stderr}", output.status))
    })
}

/// Plays a schedule without a script.
///
/// # Panics
/// If there is a violation.
pub fn held(seed: u64, of: Schedule) -> Outcome {
    let outcome = schedule(seed, of, Script::default());
    let Outcome {
        violations, story, ..
    } = &outcome;
    assert!(violations.is_empty(), "{seed}: {violations:?}\n{story}");
    outcome
}

/// Runs a schedule, with randomness from a seed, on its own thread, because the standard library asks for random bytes
/// once per thread.
///
/// # Panics
/// If the thread cannot be created.
pub fn schedule(seed: u64, schedule: Schedule, script: Script) -> Outcome {
    let run = move || {
        deterministic::begin(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(play(seed, schedule, script))
    };
    let thread = std::thread::Builder::new()
        .name(format!("seed {seed}"))
        .spawn(run);
    match thread.expect("a thread").join() {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Outcome::failed(format!("panic: {}", text.unwrap_or("?")))
        }
    }
}

async fn play(seed: u64, schedule: Schedule, script: Script) -> Outcome {
    let world = World::new(seed, script);
    let replicas = schedule.replicas;
    if schedule.consent {
        world.state().cross_namespace = CrossNamespace::Consent;
        world.store.serve_reference_grants();
    }
    for step in &schedule.before {
        world.carry_out(step);
    }
    world.state().probed.modes = schedule.probes;
    world.state().conditions = schedule.conditions;
    world.state().founded = world.store.revision();
    let garbage = tokio::spawn({
        let world = world.clone();
        async move { world.collect_garbage().await }
    });
    for number in 0..replicas {
        world.start_replica(number);
    }
    for (pause, step) in &schedule.steps {
        sleep(*pause).await;
        world.carry_out(step);
    }
    sleep(Duration::from_millis(300)).await;
    world.heal(replicas);
    if let Some(how) = schedule.nodes_fail {
        world.fail_nodes(None, Part::All, how, FOR_GOOD);
    }
    if let Some((sight, how)) = schedule.blind_leader {
        world.blind_leader(replicas, sight, how).await;
        // The current leader sees these changes.
        world.carry_out(&Step::SourceTouched(0, 0));
        world.carry_out(&Step::Copy(0, Edit::Deleted));
    }
    let is_blinded = |(_, step): &(Duration, Step)| matches!(step, Step::Blind { .. });
    let may_stand_aside = replicas == 1 && schedule.steps.iter().any(is_blinded);
    let mut settled = settle(&world, may_stand_aside, schedule.nodes_fail.is_none()).await;
    if schedule.nodes_fail.is_some() {
        // Copies were right anyway, except for what comes from Nodes.
        world.count("copies right while Nodes cannot be listed");
        world.heal_nodes();
        settled = settled.max(settle(&world, may_stand_aside, true).await);
    }
    node_oracle::count_end(&world.store, &mut world.state().coverage);
    if !schedule.calm.is_empty() {
        // A leader that saw nothing sees everything again once its lists have timed out.
        world.state().blind = Blinded::default();
        world.disturbed_for(LIST_LIMIT);
        let laws = tokio::spawn(world.clone().keep_calm());
        for (pause, step) in &schedule.calm {
            sleep(*pause).await;
            world.carry_out(step);
        }
        // Gives the checks time to observe the effects of the last step.
        sleep(LAST_STEP).await;
        laws.abort();
        world.heal(replicas);
        settled = settled.max(settle(&world, may_stand_aside, true).await);
    }
    if schedule.conditions {
        conditions::settle(&world).await;
    }
    for number in 0..replicas {
        world.note_end(number);
    }
    garbage.abort();
    let outcome = conclude(&world, settled);
    // The world and its replicas refer to each other. Unless the replicas are buried, a process that runs many
    // schedules keeps every world in memory.
    let lives = std::mem::take(&mut world.state().lives);
    lives.iter().flatten().for_each(|life| life.bury());
    outcome
}

/// Waits until all copies are right, and checks that they stay right. Returns how long the copies took to become right.
/// This excludes the time until API servers that probes took out are ready again and, if `with_nodes`, the time until
/// Nodes are listed.
async fn settle(world: &Arc<World>, may_stand_aside: bool, with_nodes: bool) -> Duration {
    let mut from = world.now();
    let refusals = ["answer 403", "answer 422"];
    let (was_refused, has_probes) = {
        let state = world.state();
        let was_refused = refusals.iter().any(|refusal| state.coverage.of(refusal) > 0);
        (was_refused, state.probed.modes.is_some())
    };
    let consent = world.state().cross_namespace == CrossNamespace::Consent;
    let mut bound = if was_refused || may_stand_aside {
        LONGER_BOUND
    } else {
        BOUND
    };
    if consent {
        bound += DISCOVERY;
    }
    let mut later = if has_probes { RISE } else { Duration::ZERO };
    let of_nodes = |fault| with_nodes && world.state().coverage.of(fault) > 0;
    if of_nodes("Nodes forbidden") || with_nodes && was_refused {
        later += REFUSED;
    }
    if of_nodes("watch of Nodes fails") {
        later += RELIST;
    }
    let forbidden = world.state().endpoints_forbidden;
    let (mut right_since, mut back_since) = (None, None);
    let wrong = loop {
        sleep(Duration::from_millis(250)).await;
        let now = world.now();
        // A node that was off can be removed from the source, or return to it, long after the last fault.
        from = from.max(world.state().probed.relisted);
        let (differences, mut out) = (
            oracle::differences(&world.store, forbidden, consent),
            oracle::out(&world.store),
        );
        if with_nodes {
            out.extend(node_oracle::differences(&world.store));
        }
        if !differences.is_empty() {
            right_since = None;
        }
        if !out.is_empty() {
            back_since = None;
        }
        let right = *right_since.get_or_insert(now);
        let back = *back_since.get_or_insert(now);
        if !differences.is_empty() && now >= from + bound + QUIET {
            break differences;
        }
        if !out.is_empty() && now >= from + bound + QUIET + later {
            break out;
        }
        if differences.is_empty() && out.is_empty() && now >= right.max(back) + QUIET {
            return right.saturating_sub(from);
        }
    };
    let (now, after) = (world.now(), world.now().saturating_sub(from));
    let mut state = world.state();
    for difference in wrong {
        let text = format!("{} s after the last fault: {difference}", after.as_secs());
        state.trace.push((now, format!("VIOLATION: {text}")));
        state.observer.violations.push(text);
    }
    after
}

fn conclude(world: &World, settled: Duration) -> Outcome {
    let requests = world.store.requests().all();
    let mut hasher = DefaultHasher::new();
    let mut lines = Vec::new();
    for request in &requests {
        let at = request.at - world.moment(Duration::ZERO);
        let line = format!(
            "{} {} {} {} {}/{} -> {:?}",
            request.server,
            request.user,
            request.verb,
            request.resource,
            request.namespace,
            request.name,
            request.status
        );
        (at, &line).hash(&mut hasher);
        lines.push((at, line));
    }
    let mut state = world.state();
    lines.extend(state.trace.drain(..).map(|(at, what)| (at, format!("-- {what}"))));
    lines.sort_by_key(|(at, _)| *at);
    let mut story = String::new();
    for (at, line) in lines {
        _ = writeln!(story, "{:>9.3} s  {line}", at.as_secs_f64());
    }
    if state.skew.iter().any(|skew| *skew != 0) {
        state
            .coverage
            .add("read of a wall clock that is off", deterministic::looks());
    }
    Outcome {
        violations: std::mem::take(&mut state.observer.violations),
        coverage: std::mem::take(&mut state.coverage),
        fingerprint: hasher.finish(),
        story,
        settled,
        end_state: oracle::end_state(&world.store),
        script: state.script.clone(),
    }
}
