//! All metrics, on one page. The help text of each metric is next to its name: most are in this file, those of probes
//! in `probes`, those of each Service in `services`, and those that other programs also have under the same names in
//! `controller` and `process`. Help texts are for an engineer on call: they say what the number means, and when it
//! shows a problem.
//!
//! Callers use methods, and do not know the names of labels. Counters start at 0 for every label value that is known in
//! advance, so that the first error is an increase. No label holds the name of a slice, the text of an error
//! or the address of an endpoint, except for the addresses of probed API servers (`probes`).

mod controller;
mod page;
mod probes;
mod process;
mod services;

use std::collections::BTreeMap;
use std::iter;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use procfs::process::Process;
use prometheus::{Error, Registry, TextEncoder};

use crate::telemetry::watch_health::WatchHealth;
use crate::timing::WATCH_LIFE;
use endpoint_copier_core::model::{Operation, Reason, Restart, SYNCED, SyncResult, WatchKind};

pub use controller::Controller;
use page::{MetricsPage, metrics, number, unix};
pub use probes::ProbeMetrics;
pub use services::Services;

/// From the duration of a write on the same machine to more than twice the time limit of a write, in seconds.
const PROPAGATION_BUCKETS: [f64; 15] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Only a few short times, because a trigger time comes from the clock of another machine, often in whole seconds. The
/// longest ones cover the delay that a lost API server may cause.
const TRIGGER_BUCKETS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Up to the default renew deadline, with a bucket at half of that deadline.
const RENEWAL_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0,
];

/// The metrics of this process. Clones share the same metrics.
#[derive(Clone)]
pub struct Metrics(Arc<MetricsInner>);

metrics! {
    struct MetricsInner(page, lease) {
        leader: lease.gauge("leader_election_master_status",
            "1 if this replica leads and may write, else 0. The sum over all replicas must be 1, except for \
             a few seconds during a takeover."),
        leader_transitions: page.counter("endpoint_copier_leader_transitions_total",
            "Changes of the Lease holder that this replica has seen. If there are more than a few an hour without \
             an upgrade, the API server or the network has a problem."),
        lease_renewal: page.histogram("endpoint_copier_lease_renew_duration_seconds",
            "How long a successful renewal of the Lease took. A value near 2 seconds (with the default flags) means that \
             the leader may soon lose the Lease.", &RENEWAL_BUCKETS),
        // A vector without labels, so that there is no sample until a time is known.
        lease_last_renewal: page.gauges("endpoint_copier_lease_last_renew_timestamp_seconds",
            "When this replica last took or renewed the Lease, as Unix time; absent if it has never done so. If the \
             most recent time of all replicas is older than the lease duration, no replica leads.", &[]),
        lease_seen_renewed: page.gauge("endpoint_copier_lease_seen_renewed_timestamp_seconds",
            "When this replica last saw that any replica, including itself, took or renewed the Lease, as Unix time; 0 \
             if it has not seen this yet. If this time is older than the lease duration on every replica, no replica \
             leads."),
        managed_services: page.gauge("endpoint_copier_managed_services",
            "Services that are managed, by annotation or by flag."),
        services_in_sync: page.gauge("endpoint_copier_services_in_sync",
            "Managed Services whose copies are in sync; 0 while a watch that copies depend on is silent, because the \
             state is then unknown. If this stays below endpoint_copier_managed_services, see the Events of the \
             Services that are out of sync."),
        syncs: page.counters("endpoint_copier_syncs_total",
            "Syncs of a managed Service by result. error: the sync will be retried; refused: it usually needs manual \
             action (see the Service's Events); requeued: it waits for a list or a watch, for example until the watch \
             shows the previous write.", &["result"]),
        slice_changes: page.counters("endpoint_copier_slice_changes_total",
            "Writes of copies that the API server acknowledged, by operation.", &["operation"]),
        propagation: page.histogram("endpoint_copier_propagation_seconds",
            "Time from the arrival of a change (for example to the source, the Service or a copy) at this replica to the \
             last acknowledged write of the copies. It leaves out changes that arrived before this replica became the \
             leader, because the previous leader may have copied them.",
             &PROPAGATION_BUCKETS),
        trigger_propagation: page.histogram("endpoint_copier_trigger_propagation_seconds",
            "Time from the event that made Kubernetes change the source (the last-change-trigger-time annotation, by \
             the clock of the controller that wrote it) to the last acknowledged write of the copies, including time \
             without a leader. default/kubernetes has no such annotation.", &TRIGGER_BUCKETS),
        findings: page.gauges("endpoint_copier_findings",
            "Current problems with managed Services, by reason. The Events on the Service have the same reasons and \
             say what to do.", &["reason"]),
        events: page.counters("endpoint_copier_events_total",
            "Events about Services that the API server accepted, by type and reason; docs/reference/events.md explains \
             the reasons.",
            &["type", "reason"]),
        watch_last_event: page.gauges("endpoint_copier_watch_last_event_timestamp_seconds",
            "When a watch was last active, as Unix time. A watch is active when it delivers an event, or when the API \
             server responds to the new request that the watch sends every 25 s. If a resource has several watches, this is the time of the watch that \
             has been silent longest. If this time is older than 90 s, the view of the watch is stale and, unless the \
             resource is nodes, grants or probe_lease, the replica is not ready.",
             &["resource"]),
        watch_restarts: page.counters("endpoint_copier_watch_restarts_total",
            "Restarts of watches, by watched resource and reason. selector: expected when Services are created or deleted; error: the \
             API server or the network has a problem.", &["resource", "reason"]),
        api_requests: page.counters("rest_client_requests_total",
            "Requests to the API servers by method, host and status code. The host is that of the configured API URL, \
             whichever API server answers; the code <error> means that there was no response.",
            &["method", "code", "host"]),
        api_address_changes: page.counter("endpoint_copier_api_address_changes_total",
            "Switches from one API server address to another, by any API client in this replica; the log has both \
             addresses. If there are more than a few an hour, an API server or the network has a problem."),
        clock_skew: page.gauge("endpoint_copier_clock_skew_seconds",
            "The difference between the clocks of this replica and the API server, as the smallest value that is \
             consistent with the last response: positive if this replica is ahead, negative if it is behind. A \
             difference affects only the times in logs, Events, conditions, metrics, copies and the Lease."),
    }
    with {
        registry: Registry = page.registry.clone(),
        controller: Controller = Controller::on(page)?,
        services: Services = Services::default(),
        probes: ProbeMetrics = ProbeMetrics::new(page)?,
        /// How many Services are in sync, according to the syncs.
        in_sync: AtomicUsize = AtomicUsize::new(0),
        watch_health: OnceLock<WatchHealth> = OnceLock::new(),
        process_start: Option<f64> = process::start(Process::myself()),
    }
}

impl Metrics {
    /// Creates all metrics, in their own registry. `lease_name` is the value of the `name` label of
    /// `leader_election_master_status`.
    ///
    /// # Errors
    ///
    /// Returns an error if two metrics have the same name, which the tests of this module rule out.
    pub fn new(lease_name: &str) -> Result<Self, Error> {
        let page = MetricsPage::default();
        let commit = option_env!("GIT_COMMIT").unwrap_or("unknown");
        let build = page.with_labels([("version", env!("CARGO_PKG_VERSION")), ("commit", commit)]);
        let build_info = build.gauge(
            "endpoint_copier_build_info",
            "Always 1; the labels say which build runs.",
        )?;
        build_info.set(1.0);
        let inner = MetricsInner::new(&page, &page.with_labels([("name", lease_name)]))?;
        inner.start_at_zero();
        Ok(Self(Arc::new(inner)))
    }

    /// Sets whether this replica leads.
    pub fn set_leader(&self, leads: bool) {
        self.0.leader.set(if leads { 1.0 } else { 0.0 });
    }

    /// Counts a change of the Lease's holder.
    pub fn leader_changed(&self) {
        self.0.leader_transitions.inc();
    }

    /// Records that this replica has just taken or renewed the Lease, and that the attempt took `took`.
    pub fn observe_renewal(&self, took: Duration) {
        self.0.lease_renewal.observe(took.as_secs_f64());
        let last = self.0.lease_last_renewal.with_label_values::<&str>(&[]);
        last.set(unix(SystemTime::now()));
    }

    /// Records that a replica, this one or another, has just taken or renewed the Lease.
    pub fn lease_seen_renewed(&self) {
        self.0.lease_seen_renewed.set(unix(SystemTime::now()));
    }

    /// Returns the metrics of the queue and its worker.
    pub fn controller(&self) -> &Controller {
        &self.0.controller
    }

    /// Returns the metrics of probes of API servers.
    pub fn probes(&self) -> &ProbeMetrics {
        &self.0.probes
    }

    /// Returns the metrics of each managed Service.
    pub fn services(&self) -> &Services {
        &self.0.services
    }

    /// Drops the metrics of Services, because the term is over and the next leader reports them.
    pub fn forget_services(&self) {
        self.0.services.forget();
        self.set_services(0, 0);
        self.set_findings(&BTreeMap::new());
    }

    /// Sets how many Services are managed, and how many of them are in sync.
    pub fn set_services(&self, managed: usize, in_sync: usize) {
        self.0.managed_services.set(number(managed as u64));
        self.0.in_sync.store(in_sync, Ordering::Relaxed);
    }

    /// Counts a sync of one Service when it has ended.
    pub fn sync_finished(&self, result: SyncResult) {
        self.0.syncs.with_label_values(&[result.as_str()]).inc();
    }

    /// Counts a write of a copy that the API server acknowledged.
    pub fn slice_changed(&self, operation: Operation) {
        self.0
            .slice_changes
            .with_label_values(&[operation.as_str()])
            .inc();
    }

    /// Records that a change was copied `took` after it had arrived at this replica.
    pub fn observe_propagation(&self, took: Duration) {
        self.0.propagation.observe(took.as_secs_f64());
    }

    /// Records that a change of a source was copied `took` after the event that made Kubernetes change the source.
    pub fn observe_trigger_propagation(&self, took: Duration) {
        self.0.trigger_propagation.observe(took.as_secs_f64());
    }

    /// Sets the number of current findings by reason. The number is 0 for each reason that `counts` does not have.
    pub fn set_findings(&self, counts: &BTreeMap<Reason, usize>) {
        for reason in Reason::ALL {
            let count = counts.get(&reason).copied().unwrap_or(0);
            self.0
                .findings
                .with_label_values(&[reason.as_str()])
                .set(number(count as u64));
        }
    }

    /// Counts an Event that the API server accepted.
    pub fn event_written(&self, kind: &str, reason: &str) {
        self.0.events.with_label_values(&[kind, reason]).inc();
    }

    /// Counts a restart of a watch.
    pub fn watch_restarted(&self, watch: WatchKind, reason: Restart) {
        self.0
            .watch_restarts
            .with_label_values(&[watch.as_str(), reason.as_str()])
            .inc();
    }

    /// Sets the health of the watches, from which the times of their last activity are read. Only the first call has an
    /// effect.
    pub fn read_watch_life(&self, watch_health: WatchHealth) {
        _ = self.0.watch_health.set(watch_health);
    }

    /// Counts a request to an API server. `host` is that of the configured URL, whichever server answers. `status` is
    /// `None` if there was no response.
    pub fn api_request(&self, method: &Method, status: Option<StatusCode>, host: &str) {
        let code = status.as_ref().map_or("<error>", StatusCode::as_str);
        self.0
            .api_requests
            .with_label_values(&[method.as_str(), code, host])
            .inc();
    }

    /// Counts a switch of a client to another address.
    pub fn api_address_changed(&self) {
        self.0.api_address_changes.inc();
    }

    /// Sets the minimum number of seconds by which the clock of this replica is ahead of the API server's; negative if
    /// it is behind.
    pub fn set_clock_skew(&self, seconds: f64) {
        self.0.clock_skew.set(seconds);
    }

    /// Returns the clock skew in seconds, or NaN until it is known.
    #[must_use]
    pub fn clock_skew(&self) -> f64 {
        self.0.clock_skew.get()
    }

    /// Renders all metrics in the Prometheus text exposition format.
    #[must_use]
    pub fn render(&self) -> String {
        self.pieces().collect()
    }

    /// Renders the page in pieces of whole lines. Each piece takes less than a millisecond, however many Services there
    /// are.
    pub fn pieces(&self) -> impl Iterator<Item = String> {
        let blind = self.0.update_from_watches();
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.0.registry.gather(), &mut text) {
            tracing::error!(%error, "some metrics could not be rendered");
        }
        process::render(&mut text, Process::myself(), self.0.process_start);
        iter::once(text).chain(self.0.services.pieces(blind))
    }
}

impl MetricsInner {
    /// Updates the metrics that depend on the health of the watches. The sync state is unknown while a watch that
    /// copies depend on is silent. Returns for how long such a watch has been silent, if there is one.
    fn update_from_watches(&self) -> Option<Duration> {
        let life = self.watch_health.get().map(WatchHealth::last).unwrap_or_default();
        self.watch_last_event.reset();
        for (watch, moment) in &life {
            self.watch_last_event
                .with_label_values(&[watch.as_str()])
                .set(unix(*moment));
        }
        let view = WatchKind::VIEW.iter().filter_map(|watch| life.get(watch));
        let silence = view.min().map(|moment| moment.elapsed().unwrap_or_default());
        let blind = silence.filter(|silence| *silence > WATCH_LIFE);
        let in_sync = blind.map_or_else(|| self.in_sync.load(Ordering::Relaxed), |_| 0);
        self.services_in_sync.set(number(in_sync as u64));
        blind
    }

    fn start_at_zero(&self) {
        // The skew is not known yet, and 0 would say that the clocks agree.
        self.clock_skew.set(f64::NAN);
        for result in SyncResult::ALL {
            self.syncs.with_label_values(&[result.as_str()]);
        }
        for operation in Operation::ALL {
            self.slice_changes.with_label_values(&[operation.as_str()]);
        }
        for reason in Reason::ALL {
            self.findings.with_label_values(&[reason.as_str()]);
            self.events.with_label_values(&["Warning", reason.as_str()]);
        }
        self.events.with_label_values(&["Normal", SYNCED]);
        for watch in WatchKind::ALL {
            for reason in Restart::ALL {
                self.watch_restarts
                    .with_label_values(&[watch.as_str(), reason.as_str()]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
