use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::{advance, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::controller::probe::tests::{Scene, ms, target};
use endpoint_copier_core::verdicts::Phase;

/// The reaction of a server to each attempt.
#[derive(Clone, Debug)]
pub(crate) enum Answers {
    /// A response after this time.
    After(Duration, Reply),
    /// A failed connection attempt, after this time.
    Refuses(Duration, Failure),
    /// A connection, but no response.
    Hangs,
    /// The percentage of lost responses. The other responses are successes that take up to this time.
    Lossy(u64, Duration),
    /// The responses of a kube-apiserver that checks its etcd.
    ChecksEtcd(Arc<EtcdCheck>),
}

/// The check of etcd in `/readyz`, as Kubernetes implements it: it begins at most once a second and takes up to 2 s. In
/// the meantime, other requests get the last result.
#[derive(Debug)]
pub(crate) struct EtcdCheck {
    stalled_until: Mutex<Instant>,
    begun: Mutex<Option<Instant>>,
    /// The newest result, and when its check began.
    last: Mutex<(Option<Instant>, Reply)>,
}

impl EtcdCheck {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            stalled_until: Mutex::new(Instant::now()),
            begun: Mutex::default(),
            last: Mutex::new((None, Reply::Success)),
        })
    }

    /// Makes etcd stall from now until this time.
    pub fn stall(&self, until: Instant) {
        *self.stalled_until.lock() = until;
    }

    async fn ask(self: Arc<Self>) -> Reply {
        let now = Instant::now();
        let is_due = self.begun.lock().is_none_or(|begun| now >= begun + ms(1_000));
        if !is_due {
            return self.last.lock().1.clone();
        }
        *self.begun.lock() = Some(now);
        // The check continues even when the client gives up.
        let check = tokio::spawn(async move {
            let (until, limit) = (*self.stalled_until.lock(), now + ms(2_000));
            sleep_until(until.clamp(now, limit) + ms(1)).await;
            let reply = if until <= limit {
                Reply::Success
            } else {
                Reply::Failure(Failure::Status(500))
            };
            let mut last = self.last.lock();
            if last.0 <= Some(now) {
                *last = (Some(now), reply.clone());
            }
            reply
        });
        check.await.unwrap()
    }
}

/// Servers that a test controls, with a record of their requests.
#[derive(Default)]
pub(crate) struct FakeServers {
    answers: Mutex<Vec<(Target, Answers)>>,
    log: Mutex<Vec<(Target, Instant, &'static str)>>,
    /// Canceled when all current connections break.
    breaks: Mutex<CancellationToken>,
    closes_after_each: Mutex<bool>,
    connections: AtomicU64,
    draws: Mutex<u64>,
}

impl FakeServers {
    /// Sets the seed of [`Answers::Lossy`].
    pub fn seed(&self, seed: u64) {
        *self.draws.lock() = seed;
    }

    /// Returns a pseudorandom number (Knuth's generator).
    fn draw(&self) -> u64 {
        let mut state = self.draws.lock();
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    pub fn set(&self, target: Target, answers: Answers) {
        let mut all = self.answers.lock();
        all.retain(|(other, _)| *other != target);
        all.push((target, answers));
    }

    fn answers(&self, target: Target) -> Answers {
        let all = self.answers.lock();
        let found = all.iter().find(|(other, _)| *other == target);
        found.map_or(Answers::After(ms(1), Reply::Success), |(_, answers)| {
            answers.clone()
        })
    }

    pub fn break_connections(&self) {
        std::mem::take(&mut *self.breaks.lock()).cancel();
    }

    fn note(&self, target: Target, what: &'static str) {
        self.log.lock().push((target, Instant::now(), what));
    }

    /// Returns the times, in milliseconds since `start`, at which a target got a request (`what` is "get") or was
    /// dialed ("dial").
    pub fn times(&self, target: Target, what: &str, start: Instant) -> Vec<u128> {
        let log = self.log.lock();
        log.iter()
            .filter(|(other, at, happened)| *other == target && *happened == what && *at >= start)
            .map(|(_, at, _)| (*at - start).as_millis())
            .collect()
    }

    pub fn dials(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

pub(crate) struct FakeClient(pub Arc<FakeServers>);

struct FakeConnection {
    servers: Arc<FakeServers>,
    target: Target,
    broken: CancellationToken,
    used: bool,
}

impl ProbeClient for FakeClient {
    fn connect(&self, target: Target) -> BoxFuture<'static, Result<Box<dyn ProbeConnection>, Failure>> {
        let servers = self.0.clone();
        async move {
            servers.note(target, "dial");
            servers.connections.fetch_add(1, Ordering::Relaxed);
            if let Answers::Refuses(after, failure) = servers.answers(target) {
                sleep(after).await;
                return Err(failure);
            }
            let broken = servers.breaks.lock().clone();
            let connection = FakeConnection {
                servers,
                target,
                broken,
                used: false,
            };
            Ok(Box::new(connection) as Box<dyn ProbeConnection>)
        }
        .boxed()
    }
}

impl ProbeConnection for FakeConnection {
    fn get(&mut self) -> BoxFuture<'_, Reply> {
        async {
            self.servers.note(self.target, "get");
            if self.broken.is_cancelled() {
                return Reply::Failure(Failure::Reset);
            }
            let (after, reply) = match self.servers.answers(self.target) {
                Answers::After(after, reply) => (after, reply),
                Answers::Lossy(lost, longest) if self.servers.draw() % 100 >= lost => {
                    let thousandth = u32::try_from(self.servers.draw() % 1_000).unwrap();
                    (longest * thousandth / 1_000, Reply::Success)
                }
                Answers::ChecksEtcd(check) => return check.ask().await,
                _ => return pending().await,
            };
            sleep(after).await;
            self.used = true;
            reply
        }
        .boxed()
    }

    fn is_closed(&self) -> bool {
        self.broken.is_cancelled()
    }

    fn closed(&mut self) -> BoxFuture<'_, ()> {
        async {
            if self.used && *self.servers.closes_after_each.lock() {
                return sleep(ms(1)).await;
            }
            self.broken.cancelled().await;
        }
        .boxed()
    }
}

/// Targets whose tasks run. The test observes the first one.
struct Running {
    scene: Scene,
    servers: Arc<FakeServers>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// The offset of the periods.
const PHASE: Duration = Duration::from_millis(300);

impl Running {
    fn start(addresses: &[u8]) -> Self {
        Self::start_with(addresses, ProbeConfig::default())
    }

    fn start_with(addresses: &[u8], config: ProbeConfig) -> Self {
        let scene = Scene::new(Some(ms(3_000)), config, 0);
        let targets: BTreeSet<_> = addresses.iter().map(|number| target(*number)).collect();
        scene.probes.list(&targets, BTreeSet::new());
        let anchor = Instant::now() + PHASE;
        let task = |target| {
            let task = TargetTask::new(target, &scene.probes, anchor);
            AbortOnDropHandle::new(tokio::spawn(task.run()))
        };
        Self {
            _tasks: targets.into_iter().map(task).collect(),
            servers: scene.servers.clone(),
            scene,
        }
    }

    fn phase(&self, number: u8) -> Phase {
        self.scene.phase(target(number))
    }

    /// Returns the number of attempts in a row that have failed, if the target is failing.
    fn failing(&self, number: u8) -> Option<u32> {
        let facts = self.scene.facts(target(number));
        (facts.phase == Phase::Failing).then_some(facts.failures)
    }

    /// Waits until just before the next regular attempt.
    async fn settle(&self) -> Instant {
        sleep(ms(2_250)).await;
        assert_eq!(self.phase(1), Phase::Well);
        Instant::now()
    }

    fn probed(&self, start: Instant) -> Vec<u128> {
        self.servers.times(target(1), "get", start)
    }

    fn dialed(&self, start: Instant) -> Vec<u128> {
        self.servers.times(target(1), "dial", start)
    }
}

fn answer(reply: Reply) -> Answers {
    Answers::After(ms(1), reply)
}

fn status(code: u16) -> Answers {
    answer(Reply::Failure(Failure::Status(code)))
}

/// Rule: 7.period
#[tokio::test(start_paused = true)]
async fn attempts_are_a_period_apart_on_one_connection() {
    let start = Instant::now();
    let running = Running::start(&[1]);
    sleep(ms(4_000)).await;
    assert_eq!(running.probed(start), [0, 300, 1_300, 2_300, 3_300]);
    assert_eq!(running.dialed(start), [0]);
}

/// Rule: 7.beside
#[tokio::test(start_paused = true)]
async fn attempt_after_unanswered_one_has_its_own_connection() {
    let running = Running::start(&[1]);
    let start = running.settle().await;
    running.servers.set(target(1), Answers::Hangs);
    sleep(ms(2_000)).await;
    // Each attempt times out after a second: at 1050, 1550 and 2050 ms.
    assert_eq!(running.probed(start)[..4], [50, 550, 1_050, 1_550]);
    assert_eq!(running.dialed(start)[..3], [550, 1_050, 1_550]);
    assert_eq!(running.failing(1), Some(2));
    sleep(ms(51)).await;
    assert_eq!(running.phase(1), Phase::Down);
}

/// Rule: 7.beside
#[tokio::test(start_paused = true)]
async fn at_most_three_attempts_are_in_flight() {
    let config = ProbeConfig {
        limit: ms(2_000),
        ..ProbeConfig::default()
    };
    let running = Running::start_with(&[1], config);
    let start = running.settle().await;
    running.servers.set(target(1), Answers::Hangs);
    sleep(ms(2_049)).await;
    assert_eq!(running.probed(start), [50, 550, 1_050]);
    sleep(ms(2)).await;
    assert_eq!(running.probed(start), [50, 550, 1_050, 2_050]);
}

/// Rule: 7.older-failure
#[tokio::test(start_paused = true)]
async fn an_answer_to_a_newer_attempt_makes_an_older_one_irrelevant() {
    let running = Running::start(&[1]);
    let start = running.settle().await;
    running.servers.set(target(1), Answers::Hangs);
    sleep(ms(100)).await;
    running.servers.set(target(1), answer(Reply::Success));
    sleep(ms(2_000)).await;
    assert_eq!(running.probed(start), [50, 550, 1_050, 2_050]);
    assert_eq!(running.phase(1), Phase::Well);
    assert!(running.scene.probes.is_clearly_well(target(1)));
}

/// Rule: 7.next-attempt, 7.period-again
#[tokio::test(start_paused = true)]
async fn after_a_failed_connect_the_next_attempt_follows_in_200_ms() {
    let running = Running::start(&[1]);
    let start = running.settle().await;
    running
        .servers
        .set(target(1), Answers::Refuses(ms(0), Failure::Refused));
    running.servers.break_connections();
    sleep(ms(399)).await;
    assert_eq!(running.failing(1), Some(2));
    sleep(ms(2)).await;
    assert_eq!(running.phase(1), Phase::Down);
    assert_eq!(running.dialed(start), [0, 200, 400]);
    sleep(ms(2_000)).await;
    // The target is down, so the normal period applies again.
    assert_eq!(running.dialed(start), [0, 200, 400, 1_050, 2_050]);
}

/// Rule: 7.period-again
#[tokio::test(start_paused = true)]
async fn after_failures_attempts_begin_with_the_periods_again() {
    for period in [500, 1_000, 2_000] {
        let config = ProbeConfig {
            period: ms(period),
            ..ProbeConfig::default()
        };
        let running = Running::start_with(&[1], config);
        let start = running.settle().await;
        let refuses = Answers::Refuses(ms(0), Failure::Refused);
        running.servers.set(target(1), refuses);
        running.servers.break_connections();
        sleep(ms(700)).await;
        assert_eq!(running.phase(1), Phase::Down);
        running.servers.set(target(1), answer(Reply::Success));
        sleep(ms(10_000)).await;
        assert_eq!(running.phase(1), Phase::Well);
        let times = running.probed(start + ms(2_050));
        let periods = (0..times.len()).map(|number| number as u128 * u128::from(period));
        assert_eq!(times, periods.collect::<Vec<_>>());
        assert!(times.len() >= 5, "{times:?}");
    }
}

/// Rule: 7.next-attempt
#[tokio::test(start_paused = true)]
async fn after_a_5xx_the_next_attempt_follows_in_300_ms() {
    let running = Running::start(&[1]);
    let start = running.settle().await;
    running.servers.set(target(1), status(500));
    sleep(ms(900)).await;
    assert_eq!(running.probed(start), [50, 351, 652]);
    assert_eq!(running.phase(1), Phase::Down);
    assert_eq!(running.dialed(start), [], "the connection is still usable");
}

/// Rule: 7.first-failure
#[tokio::test(start_paused = true)]
async fn the_first_failure_of_one_address_causes_probes_of_the_others() {
    let running = Running::start(&[1, 2]);
    let start = running.settle().await;
    running.servers.set(target(2), status(500));
    sleep(ms(1_700)).await;
    assert_eq!(
        running.servers.times(target(2), "get", start)[..3],
        [50, 351, 652]
    );
    // After the failure at 51 ms, an attempt that provides contrast begins. The one at 50 ms provides none.
    assert_eq!(running.probed(start), [50, 52, 1_050]);
}

/// Rule: 7.first-failure
#[tokio::test(start_paused = true)]
async fn failing_address_is_not_probed_when_another_one_fails() {
    let running = Running::start(&[1, 2]);
    running.settle().await;
    let start = Instant::now();
    for number in [1, 2] {
        let refuses = Answers::Refuses(ms(0), Failure::Refused);
        running.servers.set(target(number), refuses);
    }
    running.servers.break_connections();
    sleep(ms(399)).await;
    assert_eq!(running.dialed(start), [0, 200]);
}

/// Rule: 7.kept-connection
#[tokio::test(start_paused = true)]
async fn closed_idle_connection_is_noticed_but_is_no_failure() {
    let running = Running::start(&[1]);
    let start = running.settle().await;
    running.servers.break_connections();
    sleep(ms(500)).await;
    assert_eq!(running.dialed(start), [0]);
    assert_eq!(running.probed(start), [0, 50]);
    assert_eq!(running.phase(1), Phase::Well);
}

/// Rule: 7.kept-connection
#[tokio::test(start_paused = true)]
async fn request_on_a_broken_connection_is_sent_on_a_new_one() {
    let running = Running::start(&[1]);
    let start = running.settle().await;
    running
        .servers
        .set(target(1), answer(Reply::Failure(Failure::Reset)));
    sleep(ms(300)).await;
    // One request on the kept connection, and one on a new connection, which decides.
    assert_eq!(running.probed(start), [50, 51]);
    assert_eq!(running.failing(1), Some(1));
}

/// Rule: 7.kept-connection
#[tokio::test(start_paused = true)]
async fn a_server_that_closes_connections_is_probed_twice_a_period() {
    let running = Running::start(&[1]);
    *running.servers.closes_after_each.lock() = true;
    sleep(ms(300)).await;
    let before = running.servers.dials();
    sleep(ms(10_000)).await;
    let dials = running.servers.dials() - before;
    assert!((15..=21).contains(&dials), "{dials}");
}

/// Rule: 7.late
#[tokio::test(start_paused = true)]
async fn a_timeout_whose_timer_fires_late_is_discarded() {
    let running = Running::start(&[1]);
    running.settle().await;
    running.servers.set(target(1), Answers::Hangs);
    sleep(ms(60)).await;
    // The process is suspended, and its timers fire when it continues.
    advance(ms(3_000)).await;
    sleep(ms(1)).await;
    assert_eq!(running.phase(1), Phase::Well);
    running.servers.set(target(1), answer(Reply::Success));
    sleep(ms(1_500)).await;
    assert_eq!(running.phase(1), Phase::Well);
}

/// Rule: 7.new, 7.period-again
#[tokio::test(start_paused = true)]
async fn a_target_that_never_answers_is_probed_once_a_period() {
    let running = Running::start(&[1]);
    running
        .servers
        .set(target(1), Answers::Refuses(ms(0), Failure::Refused));
    sleep(ms(1_000)).await;
    let start = Instant::now();
    sleep(ms(10_000)).await;
    assert_eq!(running.dialed(start).len(), 10);
    assert_eq!(running.phase(1), Phase::New);
}

/// Rule: 7.next-attempt
#[tokio::test(start_paused = true)]
async fn a_certificate_error_is_no_failed_connect() {
    let running = Running::start(&[1]);
    let start = running.settle().await;
    let certificate = Failure::Certificate("expired".to_owned());
    running
        .servers
        .set(target(1), Answers::Refuses(ms(0), certificate));
    running.servers.break_connections();
    sleep(ms(1_010)).await;
    assert_eq!(running.dialed(start), [0, 300, 600]);
}

/// Rule: 7.period-again, 7.rise
#[tokio::test(start_paused = true)]
async fn a_target_that_was_down_is_well_again_after_3_to_6_s() {
    let running = Running::start(&[1]);
    running.settle().await;
    running.servers.set(target(1), status(500));
    sleep(ms(3_000)).await;
    assert_eq!(running.phase(1), Phase::Down);
    running.servers.set(target(1), answer(Reply::Success));
    let well = async {
        while running.phase(1) != Phase::Well {
            sleep(ms(10)).await;
        }
    };
    let start = Instant::now();
    timeout(ms(6_000), well)
        .await
        .expect("the target should be well again");
    assert!(start.elapsed() >= ms(3_000), "{:?}", start.elapsed());
}
