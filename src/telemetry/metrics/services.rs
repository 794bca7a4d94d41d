//! The metrics of each managed Service. Only the leader has them, because only the leader syncs. The totals over all
//! Services are in [`super`].
//!
//! These metrics are written as text and not kept in the registry, because hundreds of Services have thousands of
//! lines, and each scrape computes how long a Service has been out of sync.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::iter;
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::page::{header, number, unix};
use endpoint_copier_core::model::{ServiceKey, SourceAndCopies};

/// The number of bytes after which a piece of the page ends, once it has all lines of the current Service. Rendering a
/// piece takes about 50 µs.
const SERVICES_PIECE: usize = 16 * 1024;

/// The metrics of all managed Services, while this replica leads.
#[derive(Default)]
pub struct Services(Mutex<BTreeMap<ServiceKey, ServiceMetrics>>);

#[derive(Default)]
struct ServiceMetrics {
    /// The time of the first change that no sync has seen yet.
    changed: Option<Instant>,
    /// The time since which the Service has been out of sync, according to the syncs that have begun.
    behind: Option<Instant>,
    last_success: Option<SystemTime>,
    endpoints: Option<SourceAndCopies>,
}

impl Services {
    /// Records that a managed Service may have been out of sync since this time.
    pub fn changed(&self, service: &ServiceKey, since: Instant) {
        let mut services = self.0.lock();
        let state = services.entry(service.clone()).or_default();
        state.changed.get_or_insert(since);
    }

    /// Records that a sync of the Service has begun. The sync sees all changes up to now.
    pub fn begun(&self, service: &ServiceKey) {
        if let Some(state) = self.0.lock().get_mut(service) {
            state.behind = state.since();
            state.changed = None;
        }
    }

    /// Records that a sync of the Service has ended. `in_sync` says whether the copies are in sync, or is `None` if the
    /// sync ended before this was known. `endpoints` has the counts that the watches show, or is `None` if the Service
    /// is no longer managed.
    pub fn ended(&self, service: &ServiceKey, in_sync: Option<bool>, endpoints: Option<SourceAndCopies>) {
        let mut services = self.0.lock();
        if endpoints.is_none() {
            services.remove(service);
            return;
        }
        let state = services.entry(service.clone()).or_default();
        state.endpoints = endpoints;
        match in_sync {
            Some(true) => {
                state.behind = None;
                state.last_success = Some(SystemTime::now());
            }
            Some(false) => _ = state.behind.get_or_insert_with(Instant::now),
            None => {}
        }
    }

    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }

    /// Renders the lines of all Services, in pieces of about [`SERVICES_PIECE`] bytes. Services may come and go between
    /// two pieces. If a watch is silent, `stale` says for how long the view of Services may have been out of date.
    pub(super) fn pieces(&self, stale: Option<Duration>) -> impl Iterator<Item = String> {
        FAMILIES.iter().flat_map(move |family| {
            let mut last: Option<ServiceKey> = None;
            iter::from_fn(move || {
                let services = self.0.lock();
                let after = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                let mut text = String::new();
                let mut reached = None;
                for (key, state) in services.range((after, Bound::Unbounded)) {
                    if reached.is_none() && last.is_none() {
                        header(&mut text, family.name, "gauge", family.help);
                    }
                    let labels = labels(key);
                    for (more, value) in (family.values)(state, stale) {
                        _ = writeln!(text, "{}{{{labels}{more}}} {value}", family.name);
                    }
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

/// Values, each with its labels.
type Values = Vec<(&'static str, f64)>;

/// A metric that each Service has.
struct ServiceFamily {
    name: &'static str,
    help: &'static str,
    /// Returns the values of one Service, each with its labels in addition to those of the Service. The second argument
    /// says for how long the state has been unknown.
    values: fn(&ServiceMetrics, Option<Duration>) -> Values,
}

const FAMILIES: [ServiceFamily; 3] = [
    ServiceFamily {
        name: "endpoint_copier_out_of_sync_seconds",
        help: "How long the copies of this Service have been out of sync, or in an unknown state because a watch that they \
               depend on is silent; 0 if they are in sync. For a pending change, the time is measured from its \
               arrival, or from the start of the term if that is later.",
        values: |state, stale| {
            let behind = state.since().map(|since| since.elapsed());
            vec![("", behind.max(stale).unwrap_or_default().as_secs_f64())]
        },
    },
    ServiceFamily {
        name: "endpoint_copier_last_success_timestamp_seconds",
        help: "When a sync of this Service last ended with all copies in sync, as Unix time. A Service without changes \
               is not synced, so an old value does not by itself indicate a problem.",
        values: |state, _| {
            let success = state.last_success.map(|moment| ("", unix(moment)));
            success.into_iter().collect()
        },
    },
    ServiceFamily {
        name: "endpoint_copier_endpoints",
        help: "Endpoints of this Service: in the source's slices (only the IP families that the Service wants), or in \
               the copies. ready: the endpoint gets traffic; terminating: it is shutting down; unready: neither.",
        values: |state, _| {
            let Some(SourceAndCopies { source, copies }) = state.endpoints else {
                return Vec::new();
            };
            let counts = [
                (r#",side="source",condition="ready""#, source.ready),
                (r#",side="source",condition="unready""#, source.unready),
                (r#",side="source",condition="terminating""#, source.terminating),
                (r#",side="copy",condition="ready""#, copies.ready),
                (r#",side="copy",condition="unready""#, copies.unready),
                (r#",side="copy",condition="terminating""#, copies.terminating),
            ];
            counts
                .map(|(labels, count)| (labels, number(count as u64)))
                .into()
        },
    },
];

impl ServiceMetrics {
    fn since(&self) -> Option<Instant> {
        [self.changed, self.behind].into_iter().flatten().min()
    }
}

/// Formats the labels of a Service. The namespace and the name are DNS labels if an API server has validated them. Any
/// other text is escaped, so that it cannot end the value of the label.
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
