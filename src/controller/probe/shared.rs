//! The state that the probes of this replica share: the targets, the exchange with the other replicas, and the report.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::apiserver::probe_client::ProbeClient;
use crate::config::{ProbeConfig, ServerAddress};
use crate::controller::workqueue::DirtySet;
use crate::leader_election::term::Term;
use crate::telemetry::metrics::Metrics;
use endpoint_copier_core::index::SharedIndex;
use endpoint_copier_core::verdicts::{
    Hearing, Leadership, Moment, Phase, Reply, Report, Target, Targets, Unhealthy,
};

/// The interval at which a new report is created while time alone may change its facts.
const REPORT_TICK: Duration = Duration::from_millis(100);

/// A leader counts as new for this long after its term began and its first targets were listed, because it may not have
/// probed all servers yet.
const NEW_TERM: Duration = Duration::from_secs(5);

/// A target whose first failure was longer ago than this does not count as the cause of a new report. This is longer
/// than the 10 s for which an objection delays a removal, because a new term may delay the removal too.
const RECENT_FAILURE: Duration = Duration::from_secs(20);

/// Called with the addresses of API servers that are unhealthy while another one is healthy, whenever they change.
pub type OnUnhealthy = Box<dyn Fn(BTreeMap<ServerAddress, Unhealthy>) + Send + Sync>;

/// The probes of this replica. Clones share them.
#[derive(Clone)]
pub struct Probes(Arc<Inner>);

/// The inputs and outputs of the probes.
pub(super) struct Wiring {
    /// The current term, if there is one.
    pub terms: watch::Receiver<Option<Term>>,
    /// A term may take endpoints out only if its last renewal was confirmed at most this long ago. `None` without
    /// leader election, because there are then no renewals and no other replica to ask.
    pub renewal_limit: Option<Duration>,
    /// The index, which has the addresses that copies list.
    pub index: SharedIndex,
    /// The set in which the Services that copy the API source are marked whenever the report changes.
    pub dirty: DirtySet,
    /// Counts the attempts.
    pub metrics: Metrics,
    /// Called with the API servers that are unhealthy while another one is healthy, whenever they change.
    pub on_unhealthy: OnUnhealthy,
    /// The client that sends the probes.
    pub client: Arc<dyn ProbeClient>,
    /// The schedule of the probes.
    pub config: ProbeConfig,
    /// Spreads the attempts of several replicas over the period.
    pub seed: u64,
}

struct Inner {
    wiring: Wiring,
    /// The instant from which all moments are measured.
    start: Instant,
    targets: Mutex<Targets>,
    /// When targets were first listed. Before that, the caches may be empty.
    first_listed: OnceLock<Instant>,
    hearing: Mutex<Hearing>,
    report: watch::Sender<Arc<Report>>,
    /// The target whose first failure causes an early probe of all other targets that have no failures.
    rounds: watch::Sender<Option<Target>>,
    /// The last argument of [`Wiring::on_unhealthy`].
    unhealthy: Mutex<BTreeMap<ServerAddress, Unhealthy>>,
}

impl Probes {
    /// Creates probes without targets.
    pub(super) fn new(wiring: Wiring) -> Self {
        let hearing = match wiring.renewal_limit {
            Some(_) => Hearing::default(),
            None => Hearing::without_peers(),
        };
        Self(Arc::new(Inner {
            targets: Mutex::new(Targets::new(wiring.config.thresholds)),
            wiring,
            start: Instant::now(),
            first_listed: OnceLock::new(),
            hearing: Mutex::new(hearing),
            report: watch::Sender::default(),
            rounds: watch::Sender::default(),
            unhealthy: Mutex::default(),
        }))
    }

    pub(super) fn wiring(&self) -> &Wiring {
        &self.0.wiring
    }

    /// Returns the current time, as reports measure it.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    fn moment(&self, at: Instant) -> Moment {
        Moment::new(at.saturating_duration_since(self.0.start))
    }

    fn instant(&self, at: Moment) -> Instant {
        self.0.start + at.since(Moment::default())
    }

    /// Returns the start of the periods in which this replica probes: a moment that depends on its seed, so that
    /// replicas rarely probe a server at the same time. All targets share this moment, so that the process wakes up
    /// less often.
    pub(super) fn anchor(&self) -> Instant {
        let mut hasher = DefaultHasher::new();
        self.0.wiring.seed.hash(&mut hasher);
        let period = u64::try_from(self.0.wiring.config.period.as_nanos()).unwrap_or(u64::MAX);
        self.0.start + Duration::from_nanos(hasher.finish() % period.max(1))
    }

    /// Returns the latest report.
    #[must_use]
    pub fn report(&self) -> Arc<Report> {
        self.0.report.borrow().clone()
    }

    /// Returns the latest report, with the current leadership. The first plan of a term may be made before
    /// [`Probes::follow_terms_and_time`] notices that the term began.
    #[must_use]
    pub fn current_report(&self) -> Arc<Report> {
        if self.report().leadership != self.leadership() {
            self.refresh();
        }
        self.report()
    }

    /// Returns a receiver that is notified of each report that differs from the last one.
    #[must_use]
    pub fn reports(&self) -> watch::Receiver<Arc<Report>> {
        self.0.report.subscribe()
    }

    /// Returns the targets that a leader suspects and asks the other replicas about.
    pub(super) fn suspects(&self) -> BTreeSet<Target> {
        self.0.targets.lock().suspects()
    }

    /// Whether this replica may object to a suspicion of this target, provided that the target is on another node.
    pub(super) fn is_clearly_well(&self, target: Target) -> bool {
        let now = self.now();
        self.0.targets.lock().is_clearly_well(target, now)
    }

    /// Returns the exchange with the other replicas. After you change it, call [`Probes::refresh`].
    pub(super) fn hearing(&self) -> &Mutex<Hearing> {
        &self.0.hearing
    }

    pub(super) fn rounds(&self) -> watch::Receiver<Option<Target>> {
        self.0.rounds.subscribe()
    }

    /// Replaces the targets, and the addresses that copies show as taken out.
    pub(super) fn list(&self, listed: &BTreeSet<Target>, taken_out: BTreeSet<IpAddr>) {
        let now = self.now();
        let mut targets = self.0.targets.lock();
        targets.list(listed, now);
        targets.set_taken_out(taken_out);
        drop(targets);
        if !listed.is_empty() {
            self.0.first_listed.get_or_init(Instant::now);
        }
        self.refresh();
    }

    pub(super) fn begin(&self, target: Target, begun: Instant) {
        let begun = self.moment(begun);
        self.0.targets.lock().begin(target, begun);
    }

    /// Records that an attempt has ended now.
    pub(super) fn end(&self, target: Target, begun: Instant, reply: Reply) {
        let took = begun.elapsed();
        self.0.wiring.metrics.probes().attempt(target, &reply, took);
        if let Reply::Failure(failure) = &reply {
            debug!(%target, %failure, "a probe failed");
        }
        let (begun, now) = (self.moment(begun), self.now());
        let is_first = self.0.targets.lock().end(target, begun, now, reply);
        if is_first {
            self.0.rounds.send_replace(Some(target));
        }
        self.refresh();
    }

    pub(super) fn discard(&self, target: Target, begun: Instant) {
        let begun = self.moment(begun);
        self.0.targets.lock().discard(target, begun);
    }

    /// Creates a new report. If it differs from the last one, marks the Services that copy the API source as dirty.
    pub fn refresh(&self) {
        let (now, leadership) = (self.now(), self.leadership());
        self.report_unhealthy();
        let report = {
            let targets = self.0.targets.lock();
            targets.report(now, &self.0.hearing.lock(), leadership)
        };
        let old = self.report();
        if *old == report {
            return;
        }
        let report = Arc::new(report);
        self.0.report.send_replace(report.clone());
        self.note(&old, &report);
        let since = self.began(&old, &report);
        let services: Vec<_> = self
            .0
            .wiring
            .index
            .lock()
            .api_server_services()
            .cloned()
            .collect();
        self.0.wiring.dirty.mark_since(services, since);
    }

    fn leadership(&self) -> Leadership {
        let term = self.0.wiring.terms.borrow();
        let Some(term) = term.as_ref().filter(|term| !term.is_over()) else {
            return Leadership::default();
        };
        let is_fresh = |limit| term.renewed().elapsed() <= limit;
        let listed = self.0.first_listed.get();
        Leadership {
            may_take_out: self.0.wiring.renewal_limit.is_none_or(is_fresh),
            is_new: listed.is_none_or(|listed| term.began().max(*listed).elapsed() < NEW_TERM),
        }
    }

    /// Logs the changes to the states of targets, and updates the metrics.
    fn note(&self, old: &Report, new: &Report) {
        let probes = self.0.wiring.metrics.probes();
        let is_gone = |target: &&Target| !new.targets.contains_key(target);
        for target in old.targets.keys().filter(is_gone) {
            probes.forget(*target);
        }
        for (target, facts) in &new.targets {
            let before = old.targets.get(target);
            if before.map(|before| before.has_objection) != Some(facts.has_objection) {
                probes.set_objected(*target, facts.has_objection);
            }
            let before = before.map(|before| before.phase);
            if before == Some(facts.phase) {
                continue;
            }
            probes.set_state(*target, facts.phase);
            match facts.phase {
                // A target that fails while it is rising is not logged again.
                Phase::Down if before != Some(Phase::Rising) => {
                    let what = facts.what.as_ref().map(tracing::field::display);
                    warn!(%target, what, "the API server is down");
                }
                Phase::Well if before != Some(Phase::Failing) => {
                    info!(%target, "the API server is well");
                }
                _ => {}
            }
        }
    }

    /// Returns when the cause of a new report began: at the first failure of a target that is down, or now. After such
    /// a failure, a removal may have waited for responses of other servers, for objections or for a renewal.
    fn began(&self, old: &Report, new: &Report) -> Instant {
        let is_same_term = old.leadership == new.leadership;
        let down = new.targets.iter().filter(|(target, facts)| {
            facts.phase == Phase::Down && !(is_same_term && old.targets.get(target) == Some(facts))
        });
        let failed = down.filter_map(|(_, facts)| Some(self.instant(facts.since?)));
        let recent = failed.filter(|failed| failed.elapsed() < RECENT_FAILURE);
        recent.min().unwrap_or_else(Instant::now)
    }

    /// Makes our own requests avoid unhealthy servers.
    fn report_unhealthy(&self) {
        let mut known = self.0.unhealthy.lock();
        let address = |target: &Target| ServerAddress::new(&target.address().to_string(), target.port());
        let targets = self.0.targets.lock().unhealthy();
        let servers = targets
            .iter()
            .map(|(target, why)| (address(target), *why))
            .collect();
        if *known != servers {
            known.clone_from(&servers);
            (self.0.wiring.on_unhealthy)(servers);
        }
    }

    /// Creates a new report whenever a term begins or ends, and periodically while the passing of time may change the
    /// facts.
    pub(super) async fn follow_terms_and_time(&self) {
        let (mut terms, mut reports) = (self.0.wiring.terms.clone(), self.reports());
        let is_unhealthy = |report: &Arc<Report>| {
            let mut facts = report.targets.values();
            facts.any(|facts| !matches!(facts.phase, Phase::New | Phase::Well))
        };
        loop {
            tokio::select! {
                biased;
                Ok(()) = terms.changed() => {}
                is_watched = async { reports.wait_for(is_unhealthy).await.is_ok() } => {
                    if !is_watched {
                        return;
                    }
                    sleep(REPORT_TICK).await;
                }
            }
            self.refresh();
        }
    }
}
