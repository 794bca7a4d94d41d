//! Carries out the steps of a schedule.

use std::sync::Arc;
use std::time::Duration;

use testbed::Store;
use tokio::time::sleep;

use crate::cluster;
use crate::consent::INVENTED;
use crate::fault::{Armed, Effect, Harm};
use crate::nodes::NodeStep;
use crate::probe_steps::ProbeStep;
use crate::replica;
use crate::schedule::{Edit, LEADER, Step};
use crate::sight::Blinded;
use crate::stream::Ending;
use crate::unreadable;
use crate::world::{REPLICAS, World};

impl World {
    /// Carries out one step. A fault that ends on its own ends in parallel with later steps.
    pub fn carry_out(self: &Arc<Self>, step: &Step) {
        let step = &self.with_leader(step);
        self.note(format!("{step:?}"));
        match step {
            Step::Storm {
                number,
                invented,
                times,
                pause,
            } => self.storm(*number, *invented, *times, *pause),
            Step::LeftoversForbidden(number) => {
                self.forbid_endpoints();
                self.carry_out(&Step::Leftovers(*number));
            }
            Step::Kill(..) | Step::Stop(..) | Step::Pause(..) | Step::Skew(..) => self.of_replica(step),
            Step::Requests {
                replica,
                harm,
                effect,
                times,
            } => self.state().armed.push(Armed {
                replica: *replica,
                harm: *harm,
                effect: *effect,
                times: *times,
            }),
            Step::Blind {
                replica,
                sight,
                how,
                time,
            } => self.blind_for(*replica, *sight, *how, *time),
            Step::BlindFromTheStart { replica, how, time } => {
                self.blind_from_the_start(*replica, *how, *time);
            }
            Step::WatchesEnd(..)
            | Step::WatchesSilent(..)
            | Step::WatchesLate(..)
            | Step::Compacted(_)
            | Step::Moved(_) => self.of_watches(step),
            Step::Frozen(..)
            | Step::Down(..)
            | Step::Slow(..)
            | Step::Behind(..)
            | Step::Restored(..)
            | Step::Cut(..) => {
                self.of_network(step);
            }
            Step::Probe(step) => self.of_probes(*step),
            Step::Node(step) => self.of_nodes(*step),
            _ => {
                if matches!(step, Step::Copy(_, Edit::Memory)) {
                    self.disturbed_for(Duration::ZERO);
                }
                if let Some(what) = self.administer(|store| cluster::carry_out(store, step)) {
                    self.count(what);
                }
            }
        }
    }

    /// The step, with the number of the current leader in place of [`LEADER`].
    fn with_leader(&self, step: &Step) -> Step {
        let mut step = step.clone();
        if let Step::Kill(replica, _)
        | Step::Stop(replica, _)
        | Step::Pause(replica, _)
        | Step::Skew(replica, _)
        | Step::Requests { replica, .. }
        | Step::WatchesEnd(replica, _)
        | Step::WatchesSilent(replica, _)
        | Step::WatchesLate(replica, _)
        | Step::Compacted(replica)
        | Step::Moved(replica)
        | Step::Blind { replica, .. }
        | Step::BlindFromTheStart { replica, .. }
        | Step::Cut(replica, _)
        | Step::Probe(ProbeStep::Answers {
            replica: Some(replica),
            ..
        })
        | Step::Node(NodeStep::Fail {
            replica: Some(replica),
            ..
        }) = &mut step
            && *replica == LEADER
        {
            let lives = self.state().lives.clone();
            let leader = lives
                .iter()
                .position(|life| life.as_ref().is_some_and(|it| it.leads()));
            *replica = leader.unwrap_or(0);
        }
        step
    }

    /// Calls a function after a delay, in parallel with later steps.
    pub fn later(self: &Arc<Self>, after: Duration, what: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let world = self.clone();
        tokio::spawn(async move {
            sleep(after).await;
            what(&world);
        });
    }

    /// Changes a Service back and forth, if it exists.
    fn storm(self: &Arc<Self>, number: usize, invented: bool, times: usize, pause: Duration) {
        let world = self.clone();
        tokio::spawn(async move {
            let mut changes = 0;
            for round in 0..times {
                for there in [false, true] {
                    let source = (invented && !there).then(|| format!("{INVENTED}-{number}-{round}"));
                    let is_managed = invented || there;
                    changes += usize::from(
                        world.administer(|store| cluster::toggle(store, number, is_managed, source)),
                    );
                    sleep(pause).await;
                }
            }
            if changes > 2 {
                world.count("storm of toggles");
            }
        });
    }

    /// Starts a replica unless it is running.
    pub fn start_replica(self: &Arc<Self>, number: usize) {
        let (incarnation, servers) = {
            let mut state = self.state();
            if state.lives[number].as_ref().is_some_and(|life| life.is_alive()) {
                return;
            }
            state.coverage.add("replica started", 1);
            let incarnation = state.coverage.of("replica started");
            (incarnation, [state.chance.below(2), state.chance.below(2)])
        };
        let incarnation = usize::try_from(incarnation).unwrap_or(0);
        replica::start(self, number, incarnation, servers);
        self.note(format!("replica-{}_{incarnation} starts", number + 1));
    }

    /// Kills a replica.
    pub fn kill(&self, number: usize) {
        let Some(life) = self.state().lives[number].clone() else {
            return;
        };
        if !life.is_alive() {
            return;
        }
        self.note_end(number);
        self.count("replica killed");
        if life.leads() {
            self.count("leader killed");
        }
        life.kill();
        self.note(format!("{} is killed", life.identity));
        // Its machine might still work, so the requests that it has sent arrive. Nothing waits for the responses.
    }

    /// Counts the syncs in which a replica wrote nothing: at least its successful syncs minus its writes. Only the
    /// metrics of the replica have these numbers, so call this method before the replica ends.
    pub fn note_end(&self, number: usize) {
        let Some(life) = self.state().lives[number].clone() else {
            return;
        };
        let syncs = life.metric("endpoint_copier_syncs_total{result=\"success\"}");
        let operations = ["create", "update", "delete"];
        let changes = operations
            .map(|operation| {
                life.metric(&format!(
                    "endpoint_copier_slice_changes_total{{operation=\"{operation}\"}}"
                ))
            })
            .iter()
            .sum();
        self.state()
            .coverage
            .add("nothing to write", syncs.saturating_sub(changes));
    }

    fn of_replica(self: &Arc<Self>, step: &Step) {
        let (Step::Kill(number, time) | Step::Stop(number, time) | Step::Pause(number, time)) = step else {
            if let Step::Skew(number, seconds) = step {
                self.state().skew[*number] = seconds * 1_000_000_000;
            }
            return;
        };
        let (number, time) = (*number, *time);
        self.disturbed_for(time);
        let Some(life) = self.state().lives[number].clone() else {
            return;
        };
        if !life.is_alive() {
            return;
        }
        match step {
            Step::Kill(..) => {
                self.kill(number);
                self.later(time, move |world| world.start_replica(number));
            }
            Step::Stop(..) => {
                self.count("replica stopped");
                self.note_end(number);
                life.stop.cancel();
                let world = self.clone();
                tokio::spawn(async move {
                    sleep(time).await;
                    // The replica ends within 3 s, unless it is paused.
                    while life.is_alive() {
                        sleep(Duration::from_millis(500)).await;
                    }
                    world.start_replica(number);
                });
            }
            // A replica that is paused would not notice a restore; see docs/explanation/failure-model.md.
            _ if self.state().restoring => {}
            _ => {
                self.count("replica paused");
                if life.leads() {
                    self.count("leader paused");
                }
                life.pause(true, self.now());
                self.later(time, move |world| life.pause(false, world.now()));
            }
        }
    }

    /// Makes the next three requests of each replica for Endpoints fail with 403.
    fn forbid_endpoints(&self) {
        let forbidden = (0..REPLICAS).map(|replica| Armed {
            replica,
            harm: Harm::Endpoints,
            effect: Effect::Status(403),
            times: 3,
        });
        self.state().armed.extend(forbidden);
    }

    fn of_watches(self: &Arc<Self>, step: &Step) {
        let (Step::WatchesEnd(replica, _)
        | Step::WatchesSilent(replica, _)
        | Step::WatchesLate(replica, _)
        | Step::Compacted(replica)
        | Step::Moved(replica)) = *step
        else {
            return;
        };
        if let Step::Moved(_) = step {
            let life = self.state().lives[replica].clone();
            if let Some(life) = life.filter(|life| life.is_alive()) {
                life.go_away();
                self.count("connection moved");
            }
            return;
        }
        let mut state = self.state();
        let mut numbers = Vec::new();
        for (number, stream) in state.streams.iter_mut().filter(|(_, it)| it.replica == replica) {
            match step {
                Step::WatchesEnd(_, ending) => stream.ended = Some(*ending),
                Step::Compacted(_) => stream.ended = Some(Ending::Abrupt),
                Step::WatchesSilent(..) => stream.silent = true,
                Step::WatchesLate(_, delay) => stream.delay = *delay,
                _ => {}
            }
            stream.wake();
            numbers.push(*number);
        }
        drop(state);
        if numbers.is_empty() {
            return;
        }
        match step {
            Step::WatchesEnd(_, Ending::Clean) => self.count("watch ended"),
            Step::WatchesEnd(_, Ending::Abrupt) => self.count("watch broken"),
            Step::WatchesSilent(_, time) => {
                self.count("watch silent");
                self.later(*time, move |world| {
                    world.resume_watches(|number| numbers.contains(&number));
                });
            }
            Step::Compacted(_) => {
                self.count("history compacted under a watch");
                self.administer(|store| cluster::touch(store, (0, 0)));
                // This is a separate call, because otherwise the observer would not see the writes that are compacted.
                self.administer(Store::compact);
            }
            _ => {}
        }
    }

    /// Ends the open watches of a replica.
    pub fn end_watches(self: &Arc<Self>, replica: usize, ending: Ending) {
        self.of_watches(&Step::WatchesEnd(replica, ending));
    }

    fn resume_watches(&self, which: impl Fn(u64) -> bool) {
        for (number, stream) in &mut self.state().streams {
            if which(*number) {
                stream.silent = false;
                stream.delay = Duration::ZERO;
                stream.wake();
            }
        }
    }

    fn of_network(self: &Arc<Self>, step: &Step) {
        match *step {
            Step::Frozen(server, time) => {
                self.servers[server].faults().freeze();
                // A ping is sent once a second, and its response may take a second.
                let noticed = self.state().chance.millis(1000, 2000);
                self.later(noticed, move |world| {
                    if world.is_frozen(server) && world.break_connections(|it| it.server == server) > 0 {
                        world.count("server frozen with connections");
                    }
                });
                self.later(time, move |world| world.servers[server].faults().thaw());
            }
            Step::Down(server, time) => {
                self.state().down[server] = true;
                if self.break_connections(|it| it.server == server) > 0 {
                    self.count("server down with connections");
                }
                self.later(time, move |world| world.state().down[server] = false);
            }
            Step::Slow(server, delay, time) => {
                self.state().slow[server] = delay;
                self.later(time, move |world| world.state().slow[server] = Duration::ZERO);
            }
            Step::Behind(server, time) => {
                let before = self.store.revision();
                self.servers[server].lag();
                self.later(time, move |world| {
                    if world.store.revision() > before {
                        world.count("server behind while something was written");
                    }
                    world.servers[server].release();
                });
            }
            Step::Restored(time, writes) => {
                if std::mem::replace(&mut self.state().restoring, true) {
                    return;
                }
                self.state().restores += 1;
                for life in self.state().lives.clone().iter().flatten() {
                    life.pause(false, self.now());
                }
                self.break_connections(|_| true);
                self.later(time, move |world| {
                    // Nothing is restored if all faults have ended in the meantime.
                    if std::mem::take(&mut world.state().restoring) && world.restore(writes) {
                        world.note(format!("etcd is as it was {writes} writes ago"));
                        world.count("etcd restored from a backup");
                    }
                });
            }
            Step::Cut(replica, time) => {
                self.state().cut[replica] = true;
                self.disturbed_for(time);
                self.note_classes();
                let noticed = self.state().chance.millis(1000, 2000);
                self.later(noticed, move |world| {
                    let is_cut = world.state().cut[replica];
                    if is_cut && world.break_connections(|it| it.replica == replica) > 0 {
                        world.count("network cut with connections");
                    }
                });
                self.later(time, move |world| {
                    world.state().cut[replica] = false;
                    world.note_classes();
                    for stream in world.state().streams.values() {
                        stream.wake();
                    }
                });
            }
            _ => {}
        }
    }

    /// Ends all current faults except wrong wall clocks and Services, slices and Nodes that cannot be decoded. Makes
    /// all replicas run again.
    pub fn heal(self: &Arc<Self>, replicas: usize) {
        self.note("all faults end");
        for server in &self.servers {
            server.faults().thaw();
            server.release();
        }
        {
            let mut state = self.state();
            state.down = [false; 2];
            state.slow = [Duration::ZERO; 2];
            state.blind = Blinded::default();
            state.restoring = false;
            state.cut = [false; REPLICAS];
            state.armed.clear();
            state.probed.endpoints.heal();
        }
        // The restored state of etcd may contain an undecodable probe Lease.
        self.administer(unreadable::restore_probe_lease);
        self.heal_nodes();
        self.disturbed_for(Duration::ZERO);
        self.note_classes();
        self.resume_watches(|_| true);
        for number in 0..replicas {
            let life = self.state().lives[number].clone();
            if let Some(life) = life {
                life.pause(false, self.now());
            }
            self.start_replica(number);
        }
    }
}
