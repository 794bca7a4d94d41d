use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::shared::Wiring;
use super::target_task::tests::{Answers, EtcdCheck, FakeClient, FakeServers};
use super::*;
use crate::config::{ProbeConfig, ServerAddress};
use crate::controller::workqueue::DirtySet;
use crate::leader_election::term::Term;
use crate::telemetry::metrics::Metrics;
use endpoint_copier_core::index::{Index, Scope, SharedIndex};
use endpoint_copier_core::model::{ConsentPolicy, Defaults, EndpointSlice, Service};
use endpoint_copier_core::verdicts::{Failure, Phase, Report, TargetFacts, Unhealthy};
use serde_json::json;
use tokio::time::sleep;

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn target(number: u8) -> Target {
    Target::new([192, 0, 2, number].into(), 6443)
}

mod disturbed;

type UnhealthyCalls = Arc<Mutex<Vec<BTreeMap<ServerAddress, Unhealthy>>>>;

/// Probes of fake servers, and their inputs and outputs.
pub(super) struct Scene {
    pub probes: Probes,
    pub index: SharedIndex,
    pub dirty: DirtySet,
    pub metrics: Metrics,
    pub unhealthy_calls: UnhealthyCalls,
    pub servers: Arc<FakeServers>,
    pub terms: watch::Sender<Option<Term>>,
}

impl Default for Scene {
    fn default() -> Self {
        Self::of_replica(0)
    }
}

impl Scene {
    /// Creates a scene. Without `renewal_limit`, there is no leader election.
    pub fn new(renewal_limit: Option<Duration>, config: ProbeConfig, seed: u64) -> Self {
        let defaults = Defaults {
            source: ServiceKey::api_source(),
            managed: Some(ServiceKey::new("default", "vip")),
            consent: ConsentPolicy::default(),
        };
        let index: SharedIndex = Arc::new(Mutex::new(Index::new(defaults)));
        let (dirty, metrics) = (DirtySet::default(), Metrics::new("lease").unwrap());
        let (terms, receiver) = watch::channel(None);
        let (unhealthy_calls, servers) = (UnhealthyCalls::default(), Arc::<FakeServers>::default());
        let calls = unhealthy_calls.clone();
        let wiring = Wiring {
            terms: receiver,
            renewal_limit,
            index: index.clone(),
            dirty: dirty.clone(),
            metrics: metrics.clone(),
            on_unhealthy: Box::new(move |servers| calls.lock().push(servers)),
            client: Arc::new(FakeClient(servers.clone())),
            config,
            seed,
        };
        Self {
            probes: Probes::new(wiring),
            index,
            dirty,
            metrics,
            unhealthy_calls,
            servers,
            terms,
        }
    }

    pub fn facts(&self, target: Target) -> TargetFacts {
        self.probes.report().targets[&target].clone()
    }

    pub fn phase(&self, target: Target) -> Phase {
        self.facts(target).phase
    }

    /// Puts these addresses into the copy of the VIP.
    fn copies(&self, numbers: &[u8]) {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "vip", "uid": "u"},
            "spec": {"ipFamilies": ["IPv4"]},
        }))
        .unwrap();
        let source: EndpointSlice = serde_json::from_value(json!({
            "metadata": {
                "namespace": "default", "name": "kubernetes",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": 6443}],
        }))
        .unwrap();
        let addresses = numbers.iter().map(|number| format!("192.0.2.{number}"));
        let copy: EndpointSlice = serde_json::from_value(json!({
            "metadata": {
                "namespace": "default", "name": "vip-x",
                "labels": {
                    "kubernetes.io/service-name": "vip",
                    "endpointslice.kubernetes.io/managed-by": "endpoint-copier-operator",
                },
                "annotations": {
                    "endpoint-copier/source-namespace": "default", "endpoint-copier/source-slice": "kubernetes",
                    "endpoint-copier/source-uid": "s", "endpoint-copier/source-resource-version": "1",
                },
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Service", "name": "vip", "uid": "u", "controller": true},
                ],
            },
            "addressType": "IPv4",
            "endpoints": addresses.map(|address| json!({"addresses": [address]})).collect::<Vec<_>>(),
            "ports": [{"name": "a", "port": 6443}, {"name": "ssh", "port": 22}],
        }))
        .unwrap();
        let mut index = self.index.lock();
        let named = Scope::Named(Arc::new(["kubernetes".to_owned()].into()));
        let mut dirty = index.apply_service(&service);
        dirty.extend(index.apply_slice(&named, source));
        dirty.extend(index.apply_slice(&Scope::Copies, copy));
        drop(index);
        self.dirty.mark(dirty);
    }

    /// Creates the scene of the replica with this seed.
    pub fn of_replica(seed: u64) -> Self {
        Self::new(Some(ms(3_000)), ProbeConfig::default(), seed)
    }

    fn run(&self) -> tokio_util::task::AbortOnDropHandle<()> {
        tokio_util::task::AbortOnDropHandle::new(tokio::spawn(self.probes.clone().run()))
    }

    fn listed(&self) -> Vec<Target> {
        self.probes.report().targets.keys().copied().collect()
    }

    async fn is_dirty(&self) -> bool {
        tokio::time::timeout(ms(1), self.dirty.take()).await.is_ok()
    }
}

fn refuses() -> Answers {
    Answers::Refuses(ms(0), Failure::Refused)
}

/// Rule: 7.targets, 7.forgotten
#[tokio::test(start_paused = true)]
async fn the_addresses_of_copies_are_probed_while_they_are_listed() {
    let scene = Scene::default();
    let _running = scene.run();
    sleep(ms(1)).await;
    scene.copies(&[1, 2]);
    sleep(ms(200)).await;
    assert_eq!(scene.listed(), [target(1), target(2)]);
    assert_eq!(scene.phase(target(1)), Phase::Well);
    let page = scene.metrics.render();
    let unlisted = "endpoint_copier_probe_listed{address=\"192.0.2.1\",port=\"6443\"} 0";
    assert!(page.contains(unlisted), "an empty source lists it: {page}");
    scene.copies(&[2]);
    sleep(ms(200)).await;
    assert_eq!(scene.listed(), [target(2)]);
    let gone = Instant::now();
    sleep(ms(5_000)).await;
    assert_eq!(scene.servers.times(target(1), "get", gone), []);
    assert!(!scene.metrics.render().contains("192.0.2.1\""));
}

/// Rule: 7.report
#[tokio::test(start_paused = true)]
async fn services_are_dirty_only_when_the_facts_change() {
    let scene = Scene::default();
    let _running = scene.run();
    scene.copies(&[1, 2]);
    sleep(ms(5_000)).await;
    assert!(scene.is_dirty().await);
    sleep(ms(60_000)).await;
    assert!(!scene.is_dirty().await, "dirty although all servers are well");
    scene.servers.set(target(1), refuses());
    scene.servers.break_connections();
    sleep(ms(500)).await;
    let dirty = scene.dirty.take().await;
    let since = dirty[&ServiceKey::new("default", "vip")].since;
    assert!(since.elapsed() >= ms(400), "dirty only since a later failure");
    // Wait until the last response of the server is no longer recent. A removal may have waited for that, so the change
    // still counts from the first failure.
    sleep(ms(4_000)).await;
    let dirty = scene.dirty.take().await;
    assert_eq!(dirty[&ServiceKey::new("default", "vip")].since, since);
    sleep(ms(60_000)).await;
    assert!(
        !scene.is_dirty().await,
        "a Service is dirty although the server only stays down"
    );
}

/// Rule: 7.own-connections
#[tokio::test(start_paused = true)]
async fn own_connections_avoid_an_unhealthy_server_if_another_is_well() {
    let scene = Scene::default();
    let _running = scene.run();
    scene.copies(&[1, 2]);
    sleep(ms(3_000)).await;
    scene.servers.set(target(1), refuses());
    scene.servers.break_connections();
    let first = |why| BTreeMap::from([(ServerAddress::new("192.0.2.1", 6443), why)]);
    let (suspected, down) = (first(Unhealthy::Suspected), first(Unhealthy::Down));
    // The server has failed twice.
    sleep(ms(300)).await;
    assert_eq!(*scene.unhealthy_calls.lock(), std::slice::from_ref(&suspected));
    sleep(ms(200)).await;
    assert_eq!(*scene.unhealthy_calls.lock(), [suspected.clone(), down.clone()]);
    scene.servers.set(target(2), refuses());
    scene.servers.break_connections();
    sleep(ms(500)).await;
    let calls = [suspected, down, BTreeMap::new()];
    assert_eq!(*scene.unhealthy_calls.lock(), calls);
}

/// Rule: 7.fresh-term
#[tokio::test(start_paused = true)]
async fn only_a_fresh_term_may_take_endpoints_out() {
    let scene = Scene::default();
    let _running = scene.run();
    scene.copies(&[1]);
    sleep(ms(2_000)).await;
    let leadership = |scene: &Scene| {
        let leadership = scene.probes.report().leadership;
        (leadership.may_take_out, leadership.is_new)
    };
    assert_eq!(leadership(&scene), (false, false));
    let term = Term::for_tests(ms(60_000));
    scene.terms.send_replace(Some(term.clone()));
    sleep(ms(1)).await;
    assert_eq!(leadership(&scene), (true, true));
    sleep(ms(4_500)).await;
    assert_eq!(leadership(&scene), (false, true), "the renewals fail");
    term.renew_for_tests(ms(60_000));
    sleep(ms(1_500)).await;
    assert_eq!(leadership(&scene), (true, false));
    scene.terms.send_replace(None);
    sleep(ms(1)).await;
    assert_eq!(leadership(&scene), (false, false));
}

/// The worker may plan before the task of the probes notices that a term began.
/// Rule: 7.new-leader
#[tokio::test(start_paused = true)]
async fn first_plan_of_a_term_knows_that_the_leader_is_new() {
    let scene = Scene::default();
    let _running = scene.run();
    scene.copies(&[1]);
    sleep(ms(2_000)).await;
    scene.terms.send_replace(Some(Term::for_tests(ms(60_000))));
    assert!(scene.probes.current_report().leadership.is_new);
}

/// Rule: 7.new-leader
#[tokio::test(start_paused = true)]
async fn a_leader_is_new_for_5_s_after_it_lists_its_first_targets() {
    let scene = Scene::default();
    let _running = scene.run();
    scene.terms.send_replace(Some(Term::for_tests(ms(60_000))));
    let is_new = || scene.probes.current_report().leadership.is_new;
    sleep(ms(8_000)).await;
    assert!(is_new(), "the caches are empty");
    scene.copies(&[1]);
    sleep(ms(4_900)).await;
    assert!(is_new());
    sleep(ms(300)).await;
    assert!(!is_new());
}

/// Rule: 7.period
#[tokio::test(start_paused = true)]
async fn two_replicas_probe_at_different_moments() {
    let scenes = [1_u64, 2].map(|seed| {
        let scene = Scene::of_replica(seed);
        scene.copies(&[1]);
        scene
    });
    let start = Instant::now();
    let times = scenes.map(|scene| {
        let servers = scene.servers.clone();
        (scene.run(), scene, servers)
    });
    sleep(ms(3_000)).await;
    let [first, second] = times
        .each_ref()
        .map(|(_, _, servers)| servers.times(target(1), "get", start));
    assert_ne!(first[1..], second[1..]);
}

/// Rule: 7.period
#[tokio::test(start_paused = true)]
async fn a_replica_probes_all_servers_at_the_same_moments() {
    let scene = Scene::default();
    let _running = scene.run();
    scene.copies(&[1]);
    sleep(ms(2_345)).await;
    scene.copies(&[1, 2]);
    sleep(ms(1_500)).await;
    let start = Instant::now();
    sleep(ms(3_000)).await;
    let times = |number| scene.servers.times(target(number), "get", start);
    assert_eq!(times(1).len(), 3);
    assert_eq!(times(1), times(2));
}
