//! Checks that probes take effect in time while only probes and replicas fail.
//!
//! The laws of `verdicts.rs` say what a replica must not do. The laws here say what it must do. Each law applies once
//! everything that it depends on has been unchanged for a while. An endpoint is *out* while probes have taken it out of
//! the copies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use endpoint_copier_core::verdicts::Target;
use endpoint_copier_operator::config::ProbeMode;
use serde_json::Value;
use tokio::time::sleep;

use crate::attempts::Track;
use crate::endpoints::{Class, NODES, PORTS, node_of, own_addresses};
use crate::oracle;
use crate::replica::Life;
use crate::slices::{Key, SERVICE_NAME, annotation, is_ours, key, label, unreachable};
use crate::topology::listed_by_source;
use crate::unreadable::is_unreadable;
use crate::verdicts::{Group, Probed, is_of_api_servers, service_of};
use crate::world::{State, World};

/// The time between two checks of the laws.
const CHECK_PERIOD: Duration = Duration::from_millis(250);

/// A dead API server must be out within this time, and each effect that has no bound of its own must be complete.
const BOUND: Duration = Duration::from_secs(8);

/// An endpoint that must return immediately must be back within this time.
const PROMPT_BOUND: Duration = Duration::from_secs(2);

/// A replica that reaches a suspected API server must object within this time.
const OBJECTION_BOUND: Duration = Duration::from_secs(4);

/// Probes are blind once no endpoint has had a success for this long.
const BLIND_AFTER: Duration = Duration::from_secs(3);

/// An objection younger than this still counts, with a margin.
const OBJECTION_LIFETIME: Duration = Duration::from_millis(8500);

/// A copy that was edited or deleted by hand must be repaired within this time if there is a leader.
const REPAIRED: Duration = Duration::from_secs(5);

/// State that is kept between two checks.
#[derive(Debug, Default)]
pub struct Calm {
    /// When copies and the source began to list each address. In a family in which the source lists no addresses, only
    /// the copies count.
    listed: BTreeMap<IpAddr, Duration>,
    /// Endpoints that were out while they were dead for all replicas, and the leader at that time.
    settled: BTreeMap<(Key, IpAddr), String>,
    /// Endpoints whose withheld removal has been counted.
    withheld: BTreeSet<(Key, IpAddr)>,
    /// When more than half of these endpoints were first out. A group can briefly be in this state, because several
    /// copies are written one after the other.
    too_many: BTreeMap<(Key, Vec<IpAddr>), Duration>,
}

/// The leader, all live replicas and one group of copies, to which the laws are applied.
struct View<'a> {
    now: Duration,
    leader: &'a Life,
    alive: &'a [Arc<Life>],
    listed: &'a BTreeMap<IpAddr, Duration>,
    service: &'a Key,
    group: &'a Group,
}

impl World {
    /// Checks the laws until it is aborted.
    pub async fn keep_calm(self: Arc<Self>) {
        let mut calm = Calm::default();
        loop {
            sleep(CHECK_PERIOD).await;
            self.check(&mut calm);
        }
    }

    /// The probed copies of the API source, by Service and family, except groups in which a copy cannot be decoded.
    /// Empty while the source has no slice, or a slice in its namespace cannot be decoded.
    fn groups(&self) -> Vec<(Key, Group)> {
        let slices = self.store.list("endpointslices", None);
        // While the source has no slice, a replica that has just started does not know which port to probe.
        let is_source = |slice: &Value| {
            key(slice).0 == "default" && label(slice, SERVICE_NAME) == Some("kubernetes") && !is_ours(slice)
        };
        if !slices.iter().any(is_source) {
            return Vec::new();
        }
        if slices
            .iter()
            .any(|slice| key(slice).0 == "default" && is_unreadable(slice))
        {
            return Vec::new();
        }
        let mut copies: BTreeMap<(Key, String), Vec<&Value>> = BTreeMap::new();
        for copy in slices
            .iter()
            .filter(|slice| is_ours(slice) && is_of_api_servers(slice))
        {
            let place = (service_of(copy), copy["addressType"].to_string());
            copies.entry(place).or_default().push(copy);
        }
        let is_probed = |service: &Key| {
            let service = self.store.get("services", &service.0, &service.1);
            service.is_some_and(|service| {
                oracle::source(&service) == Some(("default".to_owned(), "kubernetes".to_owned()))
                    && annotation(&service, "endpoint-copier/probe").is_none()
            })
        };
        copies
            .into_iter()
            .filter(|((service, _), copies)| {
                is_probed(service) && !copies.iter().any(|copy| is_unreadable(copy))
            })
            .map(|((service, _), copies)| (service, Group::of(copies.into_iter())))
            .filter(|(_, group)| !group.ports.is_empty())
            .collect()
    }

    fn check(&self, calm: &mut Calm) {
        let now = self.now();
        let groups = self.groups();
        let source = listed_by_source(&self.store);
        let families: BTreeSet<_> = source.iter().map(IpAddr::is_ipv4).collect();
        let addresses: BTreeSet<_> = groups
            .iter()
            .flat_map(|(_, group)| group.candidates.iter().copied())
            .filter(|address| source.contains(address) || !families.contains(&address.is_ipv4()))
            .collect();
        let edited = self.state().probed.edited.clone();
        let is_repaired_soon = |address: &IpAddr| edited.get(address).is_some_and(|at| now <= *at + REPAIRED);
        calm.listed
            .retain(|address, _| addresses.contains(address) || is_repaired_soon(address));
        for address in addresses {
            let since = calm.listed.entry(address).or_insert(now);
            if let Some(lost) = self.state().probed.lost.get(&address) {
                *since = (*lost).max(*since);
            }
        }
        let lives: Vec<_> = self.state().lives.iter().flatten().cloned().collect();
        let alive: Vec<_> = lives.into_iter().filter(|life| life.is_alive()).collect();
        let leaders: Vec<_> = alive.iter().filter(|life| life.leads()).collect();
        let [leader] = leaders[..] else {
            // If a copy is deleted while no replica leads, its record of the endpoints that are out is lost.
            let slices = self.store.list("endpointslices", None);
            calm.settled.retain(|(service, address), _| {
                let mut copies = slices
                    .iter()
                    .filter(|slice| is_ours(slice) && service_of(slice) == *service);
                copies.any(|copy| unreachable(copy).contains(address))
            });
            return;
        };
        if alive.iter().any(|life| life.is_paused()) {
            self.disturbed_for(Duration::ZERO);
        }
        let (mut wrong, mut judged) = (Vec::new(), BTreeSet::new());
        let listed = calm.listed.clone();
        for (service, group) in &groups {
            let view = View {
                now,
                leader,
                alive: &alive,
                listed: &listed,
                service,
                group,
            };
            let state = &mut *self.state();
            let mode = state.probed.modes.map(|modes| modes[leader.replica]);
            if mode != Some(ProbeMode::Enforce) {
                if state.is_steady(&view, BOUND) && !group.out.is_empty() {
                    wrong.push(format!(
                        "{:?} are out, although the leader does not enforce",
                        group.out
                    ));
                }
                continue;
            }
            judged.extend(group.candidates.iter().map(|address| (service.clone(), *address)));
            let found = state.wrong_group(&view, calm);
            wrong.extend(found.into_iter().map(|what| format!("{what}, of {}", service.1)));
        }
        // A leader that does not enforce the results of probes puts endpoints back.
        calm.settled.retain(|place, _| judged.contains(place));
        wrong.extend(
            self.state()
                .wrong_replicas(now, leader, &alive, (&groups, &listed)),
        );
        for what in wrong {
            let State { observer, trace, .. } = &mut *self.state();
            observer.violate_once(now, what, trace);
        }
    }
}

impl Probed {
    /// The time of the last change of an endpoint's class for a replica on any of these ports. `None` unless the class
    /// satisfies `is_it` on every port.
    fn all_are(
        &self,
        replica: usize,
        address: IpAddr,
        ports: &[u16],
        is_it: impl Fn(Class) -> bool,
    ) -> Option<Duration> {
        let classes = ports
            .iter()
            .map(|port| self.endpoints.class(replica, node_of(address), *port));
        let mut since = Duration::ZERO;
        for (class, from) in classes {
            if !is_it(class) {
                return None;
            }
            since = since.max(from);
        }
        Some(since)
    }

    /// The violations by replicas that do not probe endpoints that copies have listed for a long time.
    fn unprobed(
        &self,
        now: Duration,
        (groups, listed): (&[(Key, Group)], &BTreeMap<IpAddr, Duration>),
        alive: &[Arc<Life>],
    ) -> Vec<String> {
        let until = now.saturating_sub(BOUND);
        let mut unprobed = Vec::new();
        let modes = self.modes.unwrap_or([ProbeMode::Off; crate::world::REPLICAS]);
        let replicas = alive
            .iter()
            .filter(|life| modes[life.replica] != ProbeMode::Off && life.resumed_at() < until);
        for life in replicas {
            let targets = groups.iter().flat_map(|(_, group)| {
                let old = group
                    .candidates
                    .iter()
                    .filter(|it| listed.get(*it).is_some_and(|since| *since < until));
                old.flat_map(|address| group.ports.iter().map(|port| Target::new(*address, *port)))
            });
            for target in targets {
                let track = self.attempts.of(&life.identity, target);
                let last = track.map(|track| track.last_begun).unwrap_or_default();
                if now > last + BOUND {
                    unprobed.push(format!(
                        "{} has not probed {target} since {last:?}",
                        life.identity
                    ));
                }
            }
        }
        unprobed
    }

    fn is_dead(&self, replica: usize, address: IpAddr, port: u16, until: Duration) -> bool {
        let (class, since) = self.endpoints.class(replica, node_of(address), port);
        class == Class::Dead && since <= until
    }
}

fn is_quick(class: Class) -> bool {
    class == Class::Well
}

fn answers(class: Class) -> bool {
    matches!(class, Class::Well | Class::Slow)
}

impl State {
    /// Whether the leader has led without a pause or disturbance for all of this time.
    fn is_steady(&self, view: &View<'_>, time: Duration) -> bool {
        let since = self.observer.leads_since(&view.leader.identity);
        let since = since.unwrap_or(view.now).max(self.probed.disturbed);
        view.now >= since.max(view.leader.resumed_at()) + time
    }

    fn wrong_group(&mut self, view: &View<'_>, calm: &mut Calm) -> Vec<String> {
        let Calm {
            settled,
            withheld,
            too_many,
            ..
        } = calm;
        let mut wrong = Vec::new();
        let View {
            now, leader, group, ..
        } = *view;
        if self.is_steady(view, BOUND) && self.is_blind(view) {
            if group.out.is_empty() {
                self.coverage.add("blind while nothing is out", 1);
            } else {
                wrong.push(format!("{:?} are out, although no endpoint answers", group.out));
            }
        }
        let place = (view.service.clone(), group.candidates.iter().copied().collect());
        if group.out.len() <= group.candidates.len() / 2 {
            too_many.remove(&place);
        } else if self.is_steady(view, PROMPT_BOUND)
            && now > *too_many.entry(place).or_insert(now) + PROMPT_BOUND
        {
            wrong.push(format!("{:?} are out of {:?}", group.out, group.candidates));
        }
        for &address in &group.candidates {
            let is_out = group.out.contains(&address);
            let place = (view.service.clone(), address);
            let is_dead = self.is_dead_for_all(view, address);
            if is_dead && self.is_steady(view, BOUND) {
                if is_out {
                    settled.insert(place.clone(), leader.identity.clone());
                } else {
                    wrong.push(format!("{address} is dead for all replicas, but not out"));
                }
            }
            if !is_dead || self.probed.disturbed_by_lies > now {
                settled.remove(&place);
            }
            if let Some(then) = settled.get(&place) {
                if !is_out {
                    wrong.push(format!("{address} is dead for all replicas, but returned"));
                } else if *then != leader.identity && self.is_steady(view, Duration::from_secs(6)) {
                    settled.insert(place.clone(), leader.identity.clone());
                    self.coverage.add("kept out by memory across terms", 1);
                }
            }
            if self.is_cut_for_leader_only(view, address) && self.is_steady(view, OBJECTION_BOUND) {
                if is_out {
                    wrong.push(format!(
                        "{address} is out, although another replica finds it well"
                    ));
                } else if withheld.insert(place.clone()) {
                    self.coverage.add("removal withheld by an objection", 1);
                }
            } else {
                withheld.remove(&place);
            }
            if is_out {
                wrong.extend(self.must_return(view, address));
            }
        }
        wrong
    }

    /// Whether the leader has had no 2xx from any endpoint of the group for a long time.
    fn is_blind(&self, view: &View<'_>) -> bool {
        view.group.candidates.iter().all(|address| {
            let is_old = view
                .listed
                .get(address)
                .is_some_and(|since| view.now > *since + BLIND_AFTER + PROMPT_BOUND);
            is_old
                && !view
                    .group
                    .ports
                    .iter()
                    .any(|port| self.answered(view, *address, *port, BLIND_AFTER + PROMPT_BOUND))
        })
    }

    fn answered(&self, view: &View<'_>, address: IpAddr, port: u16, time: Duration) -> bool {
        let track = self
            .probed
            .attempts
            .of(&view.leader.identity, Target::new(address, port));
        track.is_some_and(|track| track.answered_within(time, view.now))
    }

    /// Whether an endpoint has been dead for all replicas on one port, another endpoint is well on all ports, and the
    /// limit permits one more endpoint to be out.
    fn is_dead_for_all(&self, view: &View<'_>, address: IpAddr) -> bool {
        let Probed { attempts, .. } = &self.probed;
        let ports = &view.group.ports;
        let until = view.now.saturating_sub(BOUND);
        let leader = view.leader;
        let was_well = |port: u16| {
            let track = attempts.of(&leader.identity, Target::new(address, port));
            let listed = view.listed.get(&address).copied().unwrap_or(view.now);
            // A new leader knows from the copy that the endpoint was well, because the copy records the endpoints that
            // are out.
            view.group.out.contains(&address)
                || track.is_some_and(|track| track.last_answer.is_some_and(|last| last > listed))
        };
        let is_dead = ports.iter().any(|port| {
            let mut alive = view.alive.iter();
            alive.all(|life| self.probed.is_dead(life.replica, address, *port, until)) && was_well(*port)
        });
        let others = || view.group.candidates.iter().filter(|other| **other != address);
        let is_well = |other: &IpAddr| {
            let mut alive = view.alive.iter();
            alive.all(|life| {
                let since = self.probed.all_are(life.replica, *other, ports, is_quick);
                since.is_some_and(|since| since <= until)
            }) && view.listed.get(other).is_some_and(|since| *since <= until)
        };
        // Another endpoint that is dead, or was dead recently, might use up the limit.
        let uses_limit = |other: &&IpAddr| {
            view.group.out.contains(*other)
                || self
                    .probed
                    .all_are(leader.replica, **other, ports, answers)
                    .is_none_or(|since| since > until)
        };
        is_dead
            && others().any(is_well)
            && others().filter(uses_limit).count() < view.group.candidates.len() / 2
    }

    /// Whether the leader has not reached an endpoint for a long time, while another replica that is permitted to
    /// object gets quick responses from it.
    fn is_cut_for_leader_only(&self, view: &View<'_>, address: IpAddr) -> bool {
        let ports = &view.group.ports;
        let until = view.now.saturating_sub(OBJECTION_BOUND);
        let probed = &self.probed;
        if !ports
            .iter()
            .any(|port| probed.is_dead(view.leader.replica, address, *port, until))
        {
            return false;
        }
        let modes = probed.modes.unwrap_or([ProbeMode::Off; crate::world::REPLICAS]);
        view.alive.iter().any(|life| {
            let since = probed.all_are(life.replica, address, ports, is_quick);
            // A replica that was paused cannot object before it resumes.
            let since = since.map(|since| since.max(life.resumed_at()));
            life.identity != view.leader.identity
                && modes[life.replica] != ProbeMode::Off
                && !own_addresses(life.replica).contains(&address)
                && since.is_some_and(|since| since <= until)
                && ports.iter().all(|port| {
                    let track = probed.attempts.of(&life.identity, Target::new(address, *port));
                    track.is_some_and(|track| {
                        let has_risen = track.has_risen_for(OBJECTION_BOUND, view.now);
                        track.was_well && has_risen && track.runs[0].failures.is_empty()
                    })
                })
        })
    }

    /// The violation if an endpoint that is out must be back by now.
    fn must_return(&mut self, view: &View<'_>, address: IpAddr) -> Option<String> {
        let View {
            now, leader, group, ..
        } = *view;
        if !self.is_steady(view, BLIND_AFTER + PROMPT_BOUND) {
            return None;
        }
        let ports = &group.ports;
        let since = self.probed.all_are(leader.replica, address, ports, answers);
        let led = self.observer.leads_since(&leader.identity).unwrap_or(now);
        let rises = ports.iter().filter_map(|port| {
            let track = self
                .probed
                .attempts
                .of(&leader.identity, Target::new(address, *port));
            track.map(|track| track.rise(now))
        });
        let rise = rises.max().unwrap_or_default();
        let from = since.map(|since| since.max(led).max(self.probed.disturbed).max(leader.resumed_at()));
        if from.is_some_and(|from| now > from + rise + Duration::from_secs(6)) {
            return Some(format!("{address} has been well since {since:?}, but is out"));
        }
        let needed = ports.iter().find(|port| {
            let (class, since) = self
                .probed
                .endpoints
                .class(leader.replica, node_of(address), **port);
            let mut others = group
                .candidates
                .iter()
                .filter(|other| !group.out.contains(*other));
            answers(class)
                && now > since + BLIND_AFTER + PROMPT_BOUND
                && !others.any(|other| self.answered(view, *other, **port, BLIND_AFTER + PROMPT_BOUND))
        });
        if let Some(port) = needed {
            return Some(format!(
                "{address} is out, although it answers on {port} and no endpoint that gets traffic does"
            ));
        }
        let has_objection = |port: &u16| {
            let target = Target::new(address, *port);
            let stored = &self.probed.hearing.stored;
            let shown = self.probed.hearing.of(&leader.identity);
            let counts = shown.and_then(|shown| shown.objected(target, now));
            let is_long = stored
                .objected(target, now)
                .is_some_and(|since| now > since + PROMPT_BOUND && now < since + OBJECTION_LIFETIME);
            is_long && counts.is_some()
        };
        let never_fell = |port: &u16| {
            let track = self
                .probed
                .attempts
                .of(&leader.identity, Target::new(address, *port));
            track.is_some_and(|track| {
                track.was_well && track.falls.is_empty() && track.runs[0].failures.is_empty()
            })
        };
        let all = ports.iter().all(|port| has_objection(port) || never_fell(port));
        (all && ports.iter().any(has_objection)).then(|| format!("{address} is out despite an objection"))
    }

    /// The violations that are visible in the probes and connections of replicas, not in copies.
    fn wrong_replicas(
        &mut self,
        now: Duration,
        leader: &Life,
        alive: &[Arc<Life>],
        (groups, listed): (&[(Key, Group)], &BTreeMap<IpAddr, Duration>),
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let until = now.saturating_sub(BOUND);
        let modes = self
            .probed
            .modes
            .unwrap_or([ProbeMode::Off; crate::world::REPLICAS]);
        let led = self.observer.leads_since(&leader.identity).unwrap_or(now);
        if self.probed.disturbed.max(led).max(leader.resumed_at()) > until {
            return wrong;
        }
        let probed = &self.probed;
        let is_well = |life: &Life, address: &IpAddr| {
            let since = probed.all_are(life.replica, *address, &PORTS, is_quick);
            since.is_some_and(|since| since <= until)
        };
        let is_well_to = |life: &Arc<Life>| {
            let all = NODES.into_iter();
            let mut all =
                all.flat_map(|node| PORTS.map(|port| probed.endpoints.class(life.replica, node, port)));
            all.all(|(class, since)| is_quick(class) && since <= until)
        };
        if modes[leader.replica] != ProbeMode::Off && alive.iter().all(is_well_to) {
            if !probed.hearing.stored.suspected.is_empty() {
                wrong.push(format!(
                    "{:?} are suspected, although all are well",
                    probed.hearing.stored.suspected
                ));
            } else if probed.hearing.written > now.saturating_sub(Duration::from_secs(2)) {
                wrong.push("the probe Lease is written, although all are well".to_owned());
            }
        }
        wrong.extend(probed.unprobed(now, (groups, listed), alive));
        for life in alive.iter().filter(|life| modes[life.replica] != ProbeMode::Off) {
            let dead = listed.iter().filter(|(address, since)| {
                let track = probed.attempts.of(&life.identity, Target::new(**address, 6443));
                // A replica forgets a port that it no longer probes.
                let is_known = |track: &Track| {
                    track.last_begun > until && track.last_answer.is_some_and(|last| last > **since)
                };
                probed.is_dead(life.replica, **address, 6443, until) && track.is_some_and(is_known)
            });
            // A replica forgets an address that leaves the copies, even if it soon returns.
            let is_another_well = listed.iter().any(|(address, since)| {
                let track = probed.attempts.of(&life.identity, Target::new(*address, 6443));
                let is_asked = |track: &Track| track.last_answer.is_some_and(|last| last > until);
                *since <= until
                    && is_well(life, address)
                    && track.is_some_and(|track| track.was_well && track.falls.is_empty() && is_asked(track))
            });
            let left = probed.down.get(&life.identity);
            for (address, _) in dead.filter(|_| is_another_well && life.resumed_at() <= until) {
                if left.is_none_or(|left| !left.contains(address)) {
                    wrong.push(format!(
                        "{} finds {address} down, but stays connected to it",
                        life.identity
                    ));
                }
            }
        }
        wrong
    }
}
