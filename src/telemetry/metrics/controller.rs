//! The metrics of every controller that is made with controller-runtime, by its names and labels: dashboards made for
//! the Go operator go on.

use std::time::Duration;

use prometheus::Error;

use super::page::{MetricsPage, metrics};
use endpoint_copier_core::model::ReconcileResult;

/// What controller-runtime calls a controller of `EndpointSlices`, and its queue.
const CONTROLLER: &str = "endpointslice";

/// Those of controller-runtime.
const RECONCILE_BUCKETS: [f64; 40] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25,
    1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0,
    50.0, 60.0,
];

/// Those of its queues.
const QUEUE_BUCKETS: [f64; 12] = [
    1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0,
];

metrics! {
    /// What the queue and its worker do.
    pub struct Controller(page, queue) {
        reconciles: page.counters("controller_runtime_reconcile_total",
            "Syncs by how they ended. error: tried again after a pause that grows; requeue_after: waits for the watch \
             to show what was written, or for the end of a refusal; success: nothing left to do, or nothing that another try would change; requeue: \
             never.", &["result"]),
        errors: page.counter("controller_runtime_reconcile_errors_total",
            "Syncs that failed and are tried again: controller_runtime_reconcile_total with the result error."),
        time: page.histogram("controller_runtime_reconcile_time_seconds",
            "How long a sync took, with all its calls to the API server.", &RECONCILE_BUCKETS),
        active: page.gauge("controller_runtime_active_workers",
            "Services that are being synced; at most 10."),
        depth: queue.gauge("workqueue_depth",
            "Services that wait for their turn. Above 0 for long: calls to the API server are slow or hang."),
        adds: queue.counter("workqueue_adds_total",
            "How often a Service was put into the queue; several changes at once count as one."),
        retries: queue.counter("workqueue_retries_total",
            "How often a Service was to be tried again after a failure."),
        waited: queue.histogram("workqueue_queue_duration_seconds",
            "How long a Service waited in the queue for its turn.", &QUEUE_BUCKETS),
        worked: queue.histogram("workqueue_work_duration_seconds",
            "How long a Service was worked on once it had its turn.", &QUEUE_BUCKETS),
    }
}

impl Controller {
    /// Its metrics, on this page.
    pub(super) fn on(page: &MetricsPage) -> Result<Self, Error> {
        let queue = page.with_labels([("name", CONTROLLER), ("controller", CONTROLLER)]);
        let made = Self::new(&page.with_labels([("controller", CONTROLLER)]), &queue)?;
        for result in ReconcileResult::ALL {
            made.reconciles.with_label_values(&[result.as_str()]);
        }
        Ok(made)
    }

    /// A key waits for its turn.
    pub fn queued(&self) {
        self.adds.inc();
        self.depth.inc();
    }

    /// It has its turn, for which it waited so long.
    pub fn begun(&self, waited: Duration) {
        self.depth.dec();
        self.active.inc();
        self.waited.observe(waited.as_secs_f64());
    }

    /// Its turn has ended, and took so long.
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

    /// The queue is gone, and the work with it.
    pub fn stopped(&self) {
        self.depth.set(0.0);
        self.active.set(0.0);
    }
}
