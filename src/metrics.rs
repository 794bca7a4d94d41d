//! Every metric, on one page. Help texts are for an operator on call: what the number says, and when to worry.
//!
//! Callers use the typed methods and never a label's text. Counters stand at 0 from the start for every label
//! value that is known beforehand, so that a first error is an increase. No label holds an address of an
//! endpoint, a slice's name or an error's text.

mod labels;
mod process;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

pub use labels::{Operation, Restart, SyncResult, Watch};
use process::Process;

/// From a write on the same machine to the worst that the timeouts allow.
const PROPAGATION_BUCKETS: [f64; 15] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Up to the default renew deadline, with a step at half of it.
const RENEWAL_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0,
];

/// The metrics of this process; clones are the same metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    leader: Gauge,
    leader_transitions: IntCounter,
    lease_renewal: Histogram,
    managed_services: IntGauge,
    services_in_sync: IntGauge,
    syncs: IntCounterVec,
    slice_changes: IntCounterVec,
    propagation: Histogram,
    findings: IntGaugeVec,
    findings_shown: Mutex<Vec<&'static str>>,
    watch_restarts: IntCounterVec,
    api_requests: IntCounterVec,
    api_address_changes: IntCounter,
    clock_skew: Gauge,
}

impl Metrics {
    /// All metrics, in a registry of their own. `lease_name` is the label of the leader's status.
    ///
    /// # Errors
    ///
    /// Two metrics of one name, which the tests of this file exclude.
    pub fn new(lease_name: &str) -> Result<Self, prometheus::Error> {
        let page = Page(Registry::new());
        let build_info = page.gauges(
            "endpoint_copier_build_info",
            "Always 1; the labels say which build runs.",
            &["version", "commit"],
        )?;
        let commit = option_env!("GIT_COMMIT").unwrap_or("unknown");
        build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION"), commit])
            .set(1.0);

        let leader = page.gauges(
            "leader_election_master_status",
            "1 if this replica leads and may write, else 0. The sum over all replicas must be 1, save for the \
             seconds of a takeover.",
            &["name"],
        )?;
        let inner = Inner {
            leader: leader.with_label_values(&[lease_name]),
            leader_transitions: page.counter(
                "endpoint_copier_leader_transitions_total",
                "Changes of the Lease's holder that this replica has seen. More than a few an hour outside of \
                 an upgrade: the API server or the network is in trouble.",
            )?,
            lease_renewal: page.histogram(
                "endpoint_copier_lease_renew_duration_seconds",
                "How long a successful renewal of the Lease took. Close to the renew deadline (4 by default): \
                 the leader is about to lose it.",
                &RENEWAL_BUCKETS,
            )?,
            managed_services: page.gauge(
                "endpoint_copier_managed_services",
                "Services that are managed, by annotation or by flag.",
            )?,
            services_in_sync: page.gauge(
                "endpoint_copier_services_in_sync",
                "Managed Services whose copies are as they should be. Lower than \
                 endpoint_copier_managed_services for long: see the Events of the Service that is missing.",
            )?,
            syncs: page.counters(
                "endpoint_copier_syncs_total",
                "Syncs of a managed Service by result. error: will be tried again; refused: a person has to act, \
                 see the Service's Events; requeued: waits for the watch to show what was written.",
                &["result"],
            )?,
            slice_changes: page.counters(
                "endpoint_copier_slice_changes_total",
                "Writes of copies that the API server acknowledged, by operation.",
                &["operation"],
            )?,
            propagation: page.histogram(
                "endpoint_copier_propagation_seconds",
                "Time from the source's change arriving here to the last acknowledged write of the copies.",
                &PROPAGATION_BUCKETS,
            )?,
            findings: page.int_gauges(
                "endpoint_copier_findings",
                "Things wrong with managed Services right now, by reason. The reasons are those of the Events \
                 on the Service, which say what to do.",
                &["reason"],
            )?,
            findings_shown: Mutex::default(),
            watch_restarts: page.counters(
                "endpoint_copier_watch_restarts_total",
                "Watches that began anew, by what they watch and why. selector is normal when Services come or \
                 go; error: the API server or the way to it is in trouble.",
                &["resource", "reason"],
            )?,
            api_requests: page.counters(
                "rest_client_requests_total",
                "Requests to the API server by method, host and status code; code <error>: no answer.",
                &["method", "code", "host"],
            )?,
            api_address_changes: page.counter(
                "endpoint_copier_api_address_changes_total",
                "Changes from one API server's address to another, by any client of this replica; the log has \
                 both addresses. More than a few an hour: an API server or the way to it is in trouble.",
            )?,
            clock_skew: page.float_gauge(
                "endpoint_copier_clock_skew_seconds",
                "By how much the clock here is ahead of the API server's, as far as is certain; negative: behind. \
                 Nothing depends on it but the times in logs, Events and the Lease.",
            )?,
            registry: page.finish()?,
        };
        inner.start_at_zero();
        Ok(Self(Arc::new(inner)))
    }

    /// This replica leads, or no longer.
    pub fn set_leader(&self, leads: bool) {
        self.0.leader.set(if leads { 1.0 } else { 0.0 });
    }

    /// The Lease has another holder than before.
    pub fn leader_changed(&self) {
        self.0.leader_transitions.inc();
    }

    /// The Lease was renewed, which took so long.
    pub fn observe_renewal(&self, took: Duration) {
        self.0.lease_renewal.observe(took.as_secs_f64());
    }

    /// How many Services are managed, and how many of them are in step.
    pub fn set_services(&self, managed: usize, in_sync: usize) {
        self.0.managed_services.set(gauge_value(managed));
        self.0.services_in_sync.set(gauge_value(in_sync));
    }

    /// A sync of one Service ended.
    pub fn sync_finished(&self, result: SyncResult) {
        self.0.syncs.with_label_values(&[result.as_str()]).inc();
    }

    /// The API server acknowledged a write of a copy.
    pub fn slice_changed(&self, operation: Operation) {
        self.0
            .slice_changes
            .with_label_values(&[operation.as_str()])
            .inc();
    }

    /// A change of a source was carried over, so long after it had arrived.
    pub fn observe_propagation(&self, took: Duration) {
        self.0.propagation.observe(took.as_secs_f64());
    }

    /// All findings of now, by reason. A reason shown before and now absent goes to 0.
    pub fn set_findings(&self, counts: &BTreeMap<&'static str, usize>) {
        let mut shown = self.0.findings_shown.lock();
        for reason in shown.iter().filter(|reason| !counts.contains_key(*reason)) {
            self.0.findings.with_label_values(&[reason]).set(0);
        }
        for (reason, count) in counts {
            self.0
                .findings
                .with_label_values(&[reason])
                .set(gauge_value(*count));
            if !shown.contains(reason) {
                shown.push(reason);
            }
        }
    }

    /// A watch began anew.
    pub fn watch_restarted(&self, watch: Watch, reason: Restart) {
        self.0
            .watch_restarts
            .with_label_values(&[watch.as_str(), reason.as_str()])
            .inc();
    }

    /// A request to the API server at `host` was answered with `status`, or not at all.
    pub fn api_request(&self, method: &Method, status: Option<StatusCode>, host: &str) {
        let code = status.as_ref().map_or("<error>", StatusCode::as_str);
        self.0
            .api_requests
            .with_label_values(&[method.as_str(), code, host])
            .inc();
    }

    /// A client has connected to another address than before.
    pub fn api_address_changed(&self) {
        self.0.api_address_changes.inc();
    }

    /// The clock here is so many seconds ahead of the API server's.
    pub fn set_clock_skew(&self, seconds: f64) {
        self.0.clock_skew.set(seconds);
    }

    /// All metrics in Prometheus' text exposition format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.0.registry.gather(), &mut text) {
            tracing::error!(%error, "some metrics could not be rendered");
        }
        text
    }
}

impl Inner {
    fn start_at_zero(&self) {
        // Nobody has looked yet; 0 would say that all is well.
        self.clock_skew.set(f64::NAN);
        for result in SyncResult::ALL {
            self.syncs.with_label_values(&[result.as_str()]);
        }
        for operation in Operation::ALL {
            self.slice_changes.with_label_values(&[operation.as_str()]);
        }
        for watch in Watch::ALL {
            for reason in Restart::ALL {
                self.watch_restarts
                    .with_label_values(&[watch.as_str(), reason.as_str()]);
            }
        }
    }
}

fn gauge_value(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Makes metrics and registers them.
struct Page(Registry);

impl Page {
    fn add<C: Collector + Clone + 'static>(
        &self,
        made: Result<C, prometheus::Error>,
    ) -> Result<C, prometheus::Error> {
        let metric = made?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help))
    }

    fn float_gauge(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.add(Gauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
        self.add(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        ))
    }

    /// The registry, with the metrics of the process itself.
    fn finish(self) -> Result<Registry, prometheus::Error> {
        self.0.register(Box::new(Process::new()?))?;
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests;
