//! Metrics that every controller built with controller-runtime has, with the same names and labels, so that dashboards
//! for the Go operator keep working.

use std::time::Duration;

use prometheus::Error;

use super::page::{MetricsPage, metrics};
use endpoint_copier_core::model::ReconcileResult;

/// The name that controller-runtime gives to a controller of `EndpointSlices` and to its queue.
const CONTROLLER: &str = "endpointslice";

/// The buckets of controller-runtime.
const RECONCILE_BUCKETS: [f64; 40] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25,
    1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0,
    50.0, 60.0,
];

/// The buckets of the queues of controller-runtime.
const QUEUE_BUCKETS: [f64; 12] = [
    1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0,
];

metrics! {
    /// The metrics of the queue and its worker.
    pub struct Controller(page, queue) {
        reconciles: page.counters("controller_runtime_reconcile_total",
            "Syncs by result. error: retried after a growing pause; requeue_after: waits for the watch (for example, \
             until it shows the previous write) or for the end of the pause after a refusal; success: nothing left \
             to do, or nothing that a retry would change; requeue: not used.", &["result"]),
        errors: page.counter("controller_runtime_reconcile_errors_total",
            "Syncs that failed and will be retried: controller_runtime_reconcile_total with the result error."),
        time: page.histogram("controller_runtime_reconcile_time_seconds",
            "How long a sync took, including all its calls to the API server.", &RECONCILE_BUCKETS),
        active: page.gauge("controller_runtime_active_workers",
            "Services that are being synced; at most 10."),
        depth: queue.gauge("workqueue_depth",
            "Services that wait in the queue. If this stays above 0, calls to the API server are slow or hang."),
        adds: queue.counter("workqueue_adds_total",
            "Number of times that a Service was put into the queue; several changes at once count as one."),
        retries: queue.counter("workqueue_retries_total",
            "Number of times that a Service was queued again after a failure."),
        waited: queue.histogram("workqueue_queue_duration_seconds",
            "How long a Service waited in the queue.", &QUEUE_BUCKETS),
        worked: queue.histogram("workqueue_work_duration_seconds",
            "How long a worker took to process a Service.", &QUEUE_BUCKETS),
    }
}

impl Controller {
    /// Creates the metrics on this page.
    pub(super) fn on(page: &MetricsPage) -> Result<Self, Error> {
        let queue = page.with_labels([("name", CONTROLLER), ("controller", CONTROLLER)]);
        let made = Self::new(&page.with_labels([("controller", CONTROLLER)]), &queue)?;
        for result in ReconcileResult::ALL {
            made.reconciles.with_label_values(&[result.as_str()]);
        }
        Ok(made)
    }

    /// Records that a key was added to the queue.
    pub fn queued(&self) {
        self.adds.inc();
        self.depth.inc();
    }

    /// Records that the worker has taken a key, which had waited in the queue for `waited`.
    pub fn begun(&self, waited: Duration) {
        self.depth.dec();
        self.active.inc();
        self.waited.observe(waited.as_secs_f64());
    }

    /// Records that the worker has finished a key, which took `took`.
    pub fn ended(&self, took: Duration, ending: ReconcileResult) {
        self.active.dec();
        self.time.observe(took.as_secs_f64());
        self.worked.observe(took.as_secs_f64());
        self.reconciles.with_label_values(&[ending.as_str()]).inc();
        if ending == ReconcileResult::Error {
            self.errors.inc();
            self.retries.inc();
        }
    }

    /// Records that the queue has ended, and the work with it.
    pub fn stopped(&self) {
        self.depth.set(0.0);
        self.active.set(0.0);
    }
}
