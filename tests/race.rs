//! Candidates compete 2,000 times for an expired Lease and 2,000 times for a released one. In each race, one candidate
//! wins, and no two lead at the same time. With paused time, a race also results in exactly one term.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use endpoint_copier_operator::config::ElectionConfig;
use endpoint_copier_operator::controller::watch::{self, Reader};
use endpoint_copier_operator::leader_election::term::Term;
use endpoint_copier_operator::leader_election::{LeaderElector, LeaseObserver, View};
use endpoint_copier_operator::telemetry::metrics::Metrics;
use endpoint_copier_operator::telemetry::watch_health::WatchHealth;
use futures::future::join_all;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use testbed::real::{self, RealCluster};
use testbed::{ApiServer, Effect, Fault, Match, Store};
use tokio::sync::watch::Receiver;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

const RACES: usize = 2000;

/// The number of Leases for which candidates compete at the same time.
const LANES: usize = 100;

/// The time in which a second term would appear. Attempts take milliseconds.
const GRACE: Duration = Duration::from_millis(100);

/// A running candidate.
struct Runner {
    terms: Receiver<Option<Term>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    watch: AbortHandle,
}

impl Runner {
    fn start(client: &Client, lease: &str, name: String, duration: Duration) -> Self {
        let config = ElectionConfig {
            lease_duration: duration,
            renew_deadline: duration * 3 / 4,
            retry_period: duration / 5,
            namespace: None,
            lease_name: lease.to_owned(),
        };
        let metrics = Metrics::new(lease).expect("metrics");
        let observer = LeaseObserver::new(&name, duration, metrics.clone());
        let (candidate, terms) = LeaderElector::new(
            client.clone(),
            "default",
            config,
            observer.clone(),
            View::new(|| true, WatchHealth::default()),
            metrics.clone(),
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(candidate.run(stop.clone()));
        let reader = Reader {
            client: client.clone(),
            watch_health: WatchHealth::default(),
            metrics,
        };
        let lease = lease.to_owned();
        let watch = tokio::spawn(async move { watch::lease(reader, "default", &lease, observer).await })
            .abort_handle();
        Self {
            terms,
            stop,
            task,
            watch,
        }
    }

    fn leads(&self) -> bool {
        self.terms.borrow().as_ref().is_some_and(|term| !term.is_over())
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic");
        self.watch.abort();
    }
}

/// Waits for a leader, and asserts that there is only one. Returns the index of the leader.
async fn until_one_leads(runners: &mut [Runner], what: &str) -> usize {
    loop {
        let leads = runners
            .iter_mut()
            .map(|runner| Box::pin(runner.terms.wait_for(Option::is_some)));
        let first = timeout(Duration::from_secs(60), futures::future::select_all(leads)).await;
        assert!(
            first.is_ok_and(|(won, ..)| won.is_ok()),
            "{what}: no candidate leads"
        );
        tokio::time::sleep(GRACE).await;
        let leaders: Vec<_> = (0..runners.len())
            .filter(|number| runners[*number].leads())
            .collect();
        assert!(leaders.len() <= 1, "{what}: {leaders:?} lead at the same time");
        // If there is no leader, the term has ended, because an overloaded API server delayed a renewal. Wait for the
        // next leader.
        if let Some(leader) = leaders.first() {
            return *leader;
        }
    }
}

/// Creates or replaces a Lease, so that its holder is a replica that no longer runs.
async fn put_expired_lease(client: &Client, name: &str, duration: Duration) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    loop {
        let known = leases.get_opt(name).await.expect("an API server");
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                resource_version: known
                    .as_ref()
                    .and_then(|lease| lease.metadata.resource_version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some("dead".to_owned()),
                lease_duration_seconds: Some(
                    i32::try_from(duration.as_secs()).expect("a short lease duration"),
                ),
                ..LeaseSpec::default()
            }),
        };
        let written = match known {
            None => leases.create(&PostParams::default(), &lease).await,
            Some(_) => leases.replace(name, &PostParams::default(), &lease).await,
        };
        match written {
            Ok(_) => return,
            // The API server carried out a release after its sender had stopped waiting.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("cannot write a Lease: {error}"),
        }
    }
}

/// The number of holder changes since the Lease was created.
async fn transitions(client: &Client, lease: &str) -> i32 {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    let lease = leases.get(lease).await.expect("the Lease");
    lease.spec.and_then(|spec| spec.lease_transitions).unwrap_or(0)
}

/// Runs the races for one Lease. `client` creates the client of a candidate in a round. With `paused`, time does not
/// pass while any task works. Then nothing is late, and the winner of a race is the only candidate that leads in it.
async fn lane(
    client: Arc<dyn Fn(usize, usize) -> Client + Send + Sync>,
    lease: String,
    candidates: usize,
    duration: Duration,
    rounds: usize,
    paused: bool,
) {
    for round in 0..rounds {
        put_expired_lease(&client(round, 0), &lease, duration).await;
        // There is one extra candidate, because the winner of the first race stops before the others compete again.
        let mut runners: Vec<_> = (0..=candidates)
            .map(|number| {
                Runner::start(
                    &client(round, number),
                    &lease,
                    format!("{round}-{number}"),
                    duration,
                )
            })
            .collect();
        let what = format!("{lease}, round {round}");
        let winner = until_one_leads(&mut runners, &format!("{what}, expired Lease")).await;
        if paused {
            assert_eq!(
                transitions(&client(round, 0), &lease).await,
                1,
                "{what}, expired Lease"
            );
        }
        runners.swap_remove(winner).stop().await;
        let released = Instant::now();
        let winner = until_one_leads(&mut runners, &format!("{what}, released Lease")).await;
        if paused {
            let took = released.elapsed();
            assert!(
                took < duration / 4,
                "{what}: {took:?} from the release to the next leader, so the Lease expired instead"
            );
            assert_eq!(
                transitions(&client(round, 0), &lease).await,
                2,
                "{what}, released Lease"
            );
        }
        // The losers stop first, because otherwise one of them would lead next.
        let winner = runners.swap_remove(winner);
        join_all(runners.into_iter().map(Runner::stop)).await;
        winner.stop().await;
    }
}

async fn all_lanes(lanes: impl IntoIterator<Item = impl Future<Output = ()> + Send + 'static>) {
    for ended in join_all(lanes.into_iter().map(tokio::spawn)).await {
        ended.expect("no panic");
    }
}

/// Each candidate has its own API server on one store, with random delays, so that reads and writes of candidates
/// interleave in many orders.
async fn on_testbed(candidates: usize) {
    let store = Store::new();
    let lanes = (0..LANES).map(|number| {
        let store = store.clone();
        let client = move |round: usize, candidate: usize| {
            let server = ApiServer::new(&store);
            for verb in ["get", "patch", "watch"] {
                let mut hasher = DefaultHasher::new();
                (candidates, number, round, candidate, verb).hash(&mut hasher);
                let latency = Duration::from_millis(hasher.finish() % 20);
                server
                    .faults()
                    .add(Fault::new(Match::any().verb(verb), Effect::Latency(latency)));
            }
            Client::new(server, "default")
        };
        lane(
            Arc::new(client),
            format!("lane-{number}"),
            candidates,
            Duration::from_secs(6),
            RACES / LANES,
            true,
        )
    });
    all_lanes(lanes).await;
}

/// Rule: 5.one-leader
#[tokio::test(start_paused = true)]
async fn one_of_two_candidates_wins_each_of_2000_races() {
    on_testbed(2).await;
}

/// Rule: 5.one-leader
#[tokio::test(start_paused = true)]
async fn one_of_three_candidates_wins_each_of_2000_races() {
    on_testbed(3).await;
}

/// This test runs in real time on all available threads. With a hundred Leases at the same time, a renewal can take a
/// second.
/// Rule: 5.one-leader
#[tokio::test(flavor = "multi_thread")]
async fn one_candidate_wins_each_of_2000_races_on_api_server() {
    if real::assets().is_none() {
        println!("skipped: needs KUBEBUILDER_ASSETS");
        return;
    }
    let cluster = RealCluster::start(2).await.expect("etcd and two API servers");
    let mut clients = Vec::new();
    for server in 0..2 {
        let kubeconfig = Kubeconfig::from_yaml(&cluster.kubeconfig(server, "default")).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        clients.push(Client::try_from(config.expect("a configuration")).expect("a client"));
    }
    for candidates in [2, 3] {
        let lanes = (0..LANES).map(|number| {
            let clients = clients.clone();
            let client = move |_, candidate: usize| clients[candidate % 2].clone();
            lane(
                Arc::new(client),
                format!("lane-{candidates}-{number}"),
                candidates,
                Duration::from_secs(2),
                RACES / LANES,
                false,
            )
        });
        all_lanes(lanes).await;
    }
}
