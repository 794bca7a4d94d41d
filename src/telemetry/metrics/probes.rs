//! The metrics of the probes, the only ones with the address of an endpoint in a label. When an address and port are no
//! longer probed, their series end.

use std::time::Duration;

use super::page::{metrics, number};
use endpoint_copier_core::verdicts::{Failure, Phase, Reply, Target};

/// From the usual response time of a healthy server to the longest time limit.
const PROBE_BUCKETS: [f64; 7] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0];

metrics! {
    /// The results of the probes, and their effects.
    pub struct ProbeMetrics(page) {
        state: page.gauges("endpoint_copier_probe_state",
            "1 for the state of an API server according to this replica's probes, else 0. new: not seen healthy since \
             it was listed; well: healthy; failing: it was healthy, and the last probes failed; down: it was healthy, \
             and too many probes in a row failed, or one failed while it was rising; rising: it was down and answers \
             again, but not yet often or long enough.",
             &["address", "port", "state"]),
        listed: page.gauges("endpoint_copier_probe_listed",
            "1 while default/kubernetes lists an API server as ready, else 0, for example because the list is empty \
             and the copies are held, or because the address comes from a Node.", &["address", "port"]),
        objected: page.gauges("endpoint_copier_probe_objected",
            "1 while another replica objects to the removal of an API server, because the server answers the probes of that \
             replica; else 0.",
            &["address", "port"]),
        attempts: page.counters("endpoint_copier_probe_attempts_total",
            "Probes of an API server by result. alive: it answers, but does not say whether it is ready (401, 403 or \
             429); status: any other status except 2xx.", &["address", "port", "result"]),
        duration: page.histograms("endpoint_copier_probe_duration_seconds",
            "How long answered probes of an API server took, including the dial of a new connection. If they take almost as \
             long as the time limit (1 second by default), the API server may soon be marked as not ready in the \
             copies.", &["address", "port"], &PROBE_BUCKETS),
        unreachable: page.gauge("endpoint_copier_probe_unreachable_endpoints",
            "Number of endpoints, in all copies, that the probes of this leader find unreachable, at most half of the \
             endpoints of each Service. Unless the probe mode is observe, these endpoints are not ready in the copies. See \
             the Event EndpointUnreachable on the Service."),
        removals: page.counter("endpoint_copier_probe_removals_total",
            "Number of times that this replica has marked an endpoint of a copy as not ready because probes failed."),
    }
}

impl ProbeMetrics {
    /// Records an attempt that ended with `reply`.
    pub fn attempt(&self, target: Target, reply: &Reply, took: Duration) {
        let (address, port) = labels(target);
        let result = result(reply);
        self.attempts.with_label_values(&[&address, &port, result]).inc();
        if matches!(
            reply,
            Reply::Success | Reply::Alive(_) | Reply::Failure(Failure::Status(_))
        ) {
            self.duration
                .with_label_values(&[&address, &port])
                .observe(took.as_secs_f64());
        }
    }

    /// Records the current phase of a target.
    pub fn set_state(&self, target: Target, phase: Phase) {
        let (address, port) = labels(target);
        for other in Phase::ALL {
            self.state
                .with_label_values(&[&address, &port, other.as_str()])
                .set(f64::from(u8::from(other == phase)));
        }
    }

    /// Records whether the API source lists a target as ready.
    pub fn set_listed(&self, target: Target, is_listed: bool) {
        let (address, port) = labels(target);
        self.listed
            .with_label_values(&[&address, &port])
            .set(f64::from(u8::from(is_listed)));
    }

    /// Records whether another replica objects to the removal of a target.
    pub fn set_objected(&self, target: Target, is_objected: bool) {
        let (address, port) = labels(target);
        self.objected
            .with_label_values(&[&address, &port])
            .set(f64::from(u8::from(is_objected)));
    }

    /// Removes the series of a target that is no longer probed.
    pub fn forget(&self, target: Target) {
        let (address, port) = labels(target);
        // Removing a series fails if its labels were never used, which is fine.
        _ = self.duration.remove_label_values(&[&address, &port]);
        _ = self.listed.remove_label_values(&[&address, &port]);
        _ = self.objected.remove_label_values(&[&address, &port]);
        for phase in Phase::ALL {
            _ = self.state.remove_label_values(&[&address, &port, phase.as_str()]);
        }
        for result in RESULTS {
            _ = self.attempts.remove_label_values(&[&address, &port, result]);
        }
    }

    /// Sets the number of endpoints, in all copies, that probes find unreachable.
    pub fn set_unreachable(&self, endpoints: usize) {
        self.unreachable.set(number(endpoints as u64));
    }

    /// Counts an endpoint that a write took out of a copy.
    pub fn endpoint_removed(&self) {
        self.removals.inc();
    }
}

/// The values of the `result` label.
const RESULTS: [&str; 8] = [
    "success",
    "alive",
    "refused",
    "reset",
    "timeout",
    "certificate",
    "status",
    "other",
];

fn result(reply: &Reply) -> &'static str {
    match reply {
        Reply::Success => "success",
        Reply::Alive(_) => "alive",
        Reply::Failure(Failure::Refused) => "refused",
        Reply::Failure(Failure::Reset) => "reset",
        Reply::Failure(Failure::TimedOut) => "timeout",
        Reply::Failure(Failure::Certificate(_)) => "certificate",
        Reply::Failure(Failure::Status(_)) => "status",
        Reply::Failure(Failure::Other(_)) => "other",
    }
}

fn labels(target: Target) -> (String, String) {
    (target.address().to_string(), target.port().to_string())
}
