//! Disturbances between live servers and three replicas, most of them for ten minutes of simulated time.

use std::net::IpAddr;

use testbed::{ApiServer, Effect, Fault, Match, Store};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::controller::probe::objections::{Objections, ProbeLease};
use crate::controller::watch::Reader;
use crate::telemetry::watch_health::WatchHealth;
use endpoint_copier_core::verdicts::{Candidate, Reply, Unreachable, judge};

/// The length of a disturbance that does not end by itself.
const DISTURBANCE: Duration = Duration::from_secs(600);

type Removed = Arc<Mutex<BTreeMap<IpAddr, Unreachable>>>;

struct Replica {
    scene: Scene,
    server: ApiServer,
    /// The endpoints that the replica would have taken out as the leader.
    removed: Removed,
    _tasks: [AbortOnDropHandle<()>; 3],
}

impl Replica {
    fn start(store: &Store, name: &str, seed: u64) -> Self {
        let scene = Scene::of_replica(seed);
        scene.servers.seed(seed);
        scene.copies(&[1, 2, 3]);
        let server = ApiServer::named(store, name);
        let client = crate::apiserver::over(server.as_user(name), "default", &scene.metrics);
        let reader = Reader {
            client,
            watch_health: WatchHealth::default(),
            metrics: scene.metrics.clone(),
        };
        let lease = ProbeLease::new(reader, "default", "lease");
        let objections = Objections::new(lease, scene.probes.clone(), name, BTreeSet::new());
        let removed = Removed::default();
        let judging = judge_each(scene.probes.reports(), removed.clone());
        Self {
            _tasks: [
                scene.run(),
                AbortOnDropHandle::new(tokio::spawn(objections.run())),
                AbortOnDropHandle::new(tokio::spawn(judging)),
            ],
            scene,
            server,
            removed,
        }
    }

    fn answer(&self, number: u8, answers: Answers) {
        self.scene.servers.set(target(number), answers);
    }

    fn writes(&self) -> usize {
        let requests = self.server.requests();
        requests.iter().filter(|request| request.is_write()).count()
    }
}

async fn judge_each(mut reports: watch::Receiver<Arc<Report>>, removed: Removed) {
    let candidates = [1, 2, 3].map(|number| Candidate {
        address: target(number).address(),
        was_out: false,
    });
    while reports.changed().await.is_ok() {
        let report = reports.borrow_and_update().clone();
        removed
            .lock()
            .extend(judge(&candidates, &[6443].into(), &report).out);
    }
}

struct Replicas {
    all: [Replica; 3],
    term: Term,
}

impl Replicas {
    /// Starts three replicas, and waits until three servers are *well*. The first replica leads.
    async fn well() -> Self {
        let store = Store::new();
        let mut seed = 0;
        let all = ["leader", "second", "third"].map(|name| {
            seed += 1;
            Replica::start(&store, name, seed)
        });
        let replicas = Self {
            all,
            term: Term::for_tests(ms(60_000)),
        };
        let leader = &replicas.all[0].scene;
        leader.terms.send_replace(Some(replicas.term.clone()));
        replicas.pass(ms(10_000)).await;
        for number in [1, 2, 3] {
            assert_eq!(leader.phase(target(number)), Phase::Well);
        }
        replicas
    }

    /// Makes a server respond to all replicas in this way.
    fn answer(&self, number: u8, answers: &Answers) {
        for replica in &self.all {
            replica.answer(number, answers.clone());
        }
    }

    async fn pass(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.term.renew_for_tests(ms(60_000));
            sleep(ms(1_000)).await;
        }
    }

    fn removed(&self) -> BTreeMap<IpAddr, Unreachable> {
        self.all[0].removed.lock().clone()
    }
}

/// Rule: 7.conditions
#[tokio::test(start_paused = true)]
async fn server_that_is_dead_for_all_replicas_is_taken_out() {
    let replicas = Replicas::well().await;
    replicas.answer(1, &Answers::Hangs);
    replicas.pass(ms(5_000)).await;
    assert!(replicas.removed().contains_key(&target(1).address()));
    assert_eq!(replicas.removed().len(), 1);
}

/// Rule: 7.conditions
#[tokio::test(start_paused = true)]
async fn servers_stay_if_the_same_disturbance_affects_all() {
    let after = |time, reply| Answers::After(ms(time), reply);
    let lossy = |percent, jitter| Answers::Lossy(percent, ms(jitter));
    for (what, answers) in [
        ("5 % of the answers are lost", lossy(5, 1)),
        ("answers take up to 200 ms", lossy(0, 200)),
        ("both", lossy(5, 200)),
        ("slow", after(900, Reply::Success)),
        ("overloaded", after(1, Reply::Alive(429))),
        ("our token is refused", after(1, Reply::Alive(401))),
        ("not ready", after(1, Reply::Failure(Failure::Status(503)))),
        ("gone", refuses()),
    ] {
        let replicas = Replicas::well().await;
        for number in [1, 2, 3] {
            replicas.answer(number, &answers);
        }
        replicas.pass(DISTURBANCE).await;
        assert_eq!(replicas.removed(), BTreeMap::new(), "{what}");
    }
}

/// Rule: 7.conditions
#[tokio::test(start_paused = true)]
async fn one_slow_server_stays() {
    let replicas = Replicas::well().await;
    replicas.answer(1, &Answers::After(ms(900), Reply::Success));
    replicas.pass(DISTURBANCE).await;
    assert_eq!(replicas.removed(), BTreeMap::new());
}

/// Rule: 7.clearly-well
#[tokio::test(start_paused = true)]
async fn slow_server_that_the_leader_does_not_reach_stays() {
    let replicas = Replicas::well().await;
    replicas.answer(1, &Answers::After(ms(900), Reply::Success));
    replicas.pass(ms(10_000)).await;
    replicas.all[0].answer(1, Answers::Hangs);
    replicas.pass(DISTURBANCE).await;
    assert_eq!(replicas.removed(), BTreeMap::new());
    for replica in &replicas.all[1..] {
        let writes = replica.writes();
        assert!(
            (115..=125).contains(&writes),
            "{writes} writes, but there should be an objection every 5 s"
        );
    }
}

/// Stalls etcd repeatedly. The servers notice the beginning and the end of a stall at different times, and nothing can
/// be written until the end.
async fn etcd_stalls(replicas: &mut Replicas, keeps_term: bool) {
    let checks = [1, 2, 3].map(|number| (number, EtcdCheck::new()));
    for (number, check) in &checks {
        replicas.answer(*number, &Answers::ChecksEtcd(check.clone()));
    }
    for round in 0..200 {
        replicas.pass(ms(9_000)).await;
        sleep(ms(round * 73 % 1_000)).await;
        let end = Instant::now() + ms(2_500 + round * 41 % 3_000);
        for (number, check) in &checks {
            check.stall(end + ms(u64::from(*number) * round * 37 % 200));
        }
        if !keeps_term {
            replicas.all[0].scene.terms.send_replace(None);
        }
        while Instant::now() < end {
            for replica in &replicas.all {
                replica.server.faults().clear();
                let latency = Effect::Latency(end - Instant::now());
                replica.server.faults().add(Fault::new(Match::any(), latency));
            }
            sleep(ms(50)).await;
        }
        for replica in &replicas.all {
            replica.server.faults().clear();
        }
        if !keeps_term {
            replicas.term = Term::for_tests(ms(60_000));
            let leader = &replicas.all[0].scene;
            leader.terms.send_replace(Some(replicas.term.clone()));
        }
        replicas.term.renew_for_tests(ms(60_000));
        sleep(ms(3_000)).await;
        assert_eq!(replicas.removed(), BTreeMap::new(), "round {round}, {keeps_term}");
    }
}

/// Rule: 7.contrast, 7.stall
#[tokio::test(start_paused = true)]
async fn servers_stay_while_etcd_stalls() {
    etcd_stalls(&mut Replicas::well().await, true).await;
}

/// Rule: 7.contrast, 7.stall
#[tokio::test(start_paused = true)]
async fn servers_stay_while_an_etcd_stall_ends_the_leaders_term() {
    etcd_stalls(&mut Replicas::well().await, false).await;
}

/// Rule: 7.late
#[tokio::test(start_paused = true)]
async fn suspended_replicas_take_nothing_out() {
    let replicas = Replicas::well().await;
    for pause in (2_000..5_000).step_by(100) {
        // Attempts are in flight when the replicas are suspended.
        replicas.answer(
            1 + u8::try_from(pause / 100 % 3).unwrap(),
            &Answers::After(ms(200), Reply::Success),
        );
        replicas.pass(ms(10_000)).await;
        tokio::time::advance(ms(pause)).await;
    }
    replicas.pass(ms(10_000)).await;
    assert_eq!(replicas.removed(), BTreeMap::new());
}
