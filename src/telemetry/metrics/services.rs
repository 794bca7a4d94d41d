//! The metrics of each managed Service. Only the leader has them, because only the leader syncs.
//!
//! Written as text and not kept in the registry: hundreds of Services are thousands of lines, and the time for which
//! a Service has been out of sync is computed at each scrape.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::iter;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::page::{header, unix};
use endpoint_copier_core::model::{EndpointCounts, Endpoints, ServiceKey};

/// Bytes after which a piece ends, with the lines of the Service that it has reached. It takes some 50 µs.
const SERVICES_PIECE: usize = 16 * 1024;

/// All that are managed, while this replica leads.
#[derive(Default)]
pub(super) struct Services(Mutex<BTreeMap<ServiceKey, ServiceMetrics>>, AtomicUsize);

#[derive(Default)]
struct ServiceMetrics {
    /// Something has changed that no sync has looked at yet.
    changed: Option<Instant>,
    /// Out of step, as far as syncs know that have begun.
    behind: Option<Instant>,
    last_success: Option<SystemTime>,
    endpoints: Option<Endpoints>,
}

impl Services {
    pub fn changed(&self, service: &ServiceKey, since: Instant) {
        let mut services = self.0.lock();
        // A clone only of a key that is new.
        if let Some(state) = services.get_mut(service) {
            state.changed.get_or_insert(since);
        } else {
            let state = ServiceMetrics {
                changed: Some(since),
                ..ServiceMetrics::default()
            };
            services.insert(service.clone(), state);
        }
    }

    pub fn begun(&self, service: &ServiceKey) {
        if let Some(state) = self.0.lock().get_mut(service) {
            state.behind = state.since();
            state.changed = None;
        }
    }

    pub fn ended(&self, service: &ServiceKey, in_step: Option<bool>, endpoints: Option<Endpoints>) {
        let mut services = self.0.lock();
        if endpoints.is_none() {
            services.remove(service);
            return;
        }
        let state = services.entry(service.clone()).or_default();
        state.endpoints = endpoints;
        match in_step {
            Some(true) => {
                state.behind = None;
                state.last_success = Some(SystemTime::now());
            }
            Some(false) => _ = state.behind.get_or_insert_with(Instant::now),
            None => {}
        }
    }

    pub fn forget(&self) {
        self.0.lock().clear();
    }

    /// How many are in sync.
    pub fn set_in_sync(&self, count: usize) {
        self.1.store(count, Ordering::Relaxed);
    }

    /// Adds the number of Services in sync. `stale`: how long the view of them may have been out of date, if a watch is silent.
    pub fn render_sum(&self, text: &mut String, stale: Option<Duration>) {
        const IN_SYNC: &str = "endpoint_copier_services_in_sync";
        header(
            text,
            IN_SYNC,
            "Managed Services whose copies are as they should be; none while a watch shows no life, since nobody knows \
             then. Lower than endpoint_copier_managed_services for long: see the Events of the Service that is missing.",
        );
        let in_sync = stale.map_or_else(|| self.1.load(Ordering::Relaxed), |_| 0);
        _ = writeln!(text, "{IN_SYNC} {in_sync}");
    }

    /// Their lines, in pieces of about [`SERVICES_PIECE`] bytes. Services may come and go between two of them.
    pub fn pieces(&self, stale: Option<Duration>) -> impl Iterator<Item = String> {
        FAMILIES.iter().flat_map(move |family| {
            let mut last: Option<ServiceKey> = None;
            iter::from_fn(move || {
                let services = self.0.lock();
                let after = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                let mut text = String::new();
                let mut reached = None;
                for (key, state) in services.range((after, Bound::Unbounded)) {
                    if reached.is_none() && last.is_none() {
                        header(&mut text, family.name, family.help);
                    }
                    (family.lines)(&mut text, &labels(key), state, stale);
                    reached = Some(key);
                    if text.len() >= SERVICES_PIECE {
                        break;
                    }
                }
                last = Some(reached?.clone());
                Some(text)
            })
        })
    }
}

/// A metric that each Service has.
struct ServiceFamily {
    name: &'static str,
    help: &'static str,
    /// Adds the lines of one Service, given its labels and for how long nobody has known its state.
    lines: fn(&mut String, &str, &ServiceMetrics, Option<Duration>),
}

const FAMILIES: [ServiceFamily; 3] = [
    ServiceFamily {
        name: "endpoint_copier_out_of_sync_seconds",
        help: "How long the copies of this Service have been out of sync, or unknown because a watch is silent; 0 if in \
               sync. A change that waits for its turn counts from its arrival, or from the start of the term.",
        lines: |text, labels, state, stale| {
            let behind = state.since().map(|since| since.elapsed());
            let age = behind.max(stale).unwrap_or_default().as_secs_f64();
            _ = writeln!(text, "endpoint_copier_out_of_sync_seconds{{{labels}}} {age}");
        },
    },
    ServiceFamily {
        name: "endpoint_copier_last_success_timestamp_seconds",
        help: "When a sync of this Service last ended with all copies in sync, as Unix time. A Service without changes \
               is not synced, so an old value alone means nothing.",
        lines: |text, labels, state, _| {
            if let Some(moment) = state.last_success.map(unix) {
                _ = writeln!(
                    text,
                    "endpoint_copier_last_success_timestamp_seconds{{{labels}}} {moment}"
                );
            }
        },
    },
    ServiceFamily {
        name: "endpoint_copier_endpoints",
        help: "Endpoints of this Service: in the source's slices of the families that it wants, and in the copies. ready: \
               they get traffic; terminating: they are shutting down; unready: neither.",
        lines: |text, labels, state, _| {
            let Some(endpoints) = state.endpoints else {
                return;
            };
            for (side, counts) in [("source", endpoints.source), ("copy", endpoints.copies)] {
                let EndpointCounts {
                    ready,
                    unready,
                    terminating,
                } = counts;
                for (condition, count) in [
                    ("ready", ready),
                    ("unready", unready),
                    ("terminating", terminating),
                ] {
                    _ = writeln!(
                        text,
                        "endpoint_copier_endpoints{{{labels},side=\"{side}\",condition=\"{condition}\"}} {count}"
                    );
                }
            }
        },
    },
];

impl ServiceMetrics {
    fn since(&self) -> Option<Instant> {
        [self.changed, self.behind].into_iter().flatten().min()
    }
}

/// Names are DNS labels wherever an API server has looked at them; elsewhere nothing of them may end the label.
fn labels(key: &ServiceKey) -> String {
    let escaped = |name: &str| {
        name.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    format!(
        "service_namespace=\"{}\",service=\"{}\"",
        escaped(key.namespace()),
        escaped(key.name())
    )
}
