//! Compares the watches of the sources with consistent reads.
//!
//! An API server whose watch cache is frozen still answers pings and renews watches, but shows nothing new. A list
//! without a resourceVersion is consistent with etcd, so it shows what the watches of such a server miss.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource as _;
use kube::api::{ListParams, ObjectList};
use kube::core::Request;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};
use tracing::warn;

use self::turns::{Part, Turns};
use super::{SELECTOR_BYTES, Watches, named_selector, split};
use crate::apiserver::decode::{Guarded, SliceMetadata};
use crate::apiserver::error::{one_line, within};
use crate::apiserver::http_status::{overload, status_of};
use crate::telemetry::failure_log::FailureLog;
use crate::telemetry::watch_health::Cause;
use crate::timing::{CATCH_UP, CHECK_LIMIT, CHECK_PERIOD};
use endpoint_copier_core::index::Listing;
use endpoint_copier_core::model::{ServiceKey, WatchKind, version};

mod turns;

/// The pause between two polls while a watch catches up.
const CATCH_UP_POLL: Duration = Duration::from_millis(50);

/// The maximum number of slices on one page of a list.
const CHECK_PAGE: u32 = 500;

impl Watches {
    /// Compares the sources in use with consistent lists, until the process ends. If a watch of sources is behind,
    /// restarts all watches of sources, which then relist. If the resourceVersions of the API server went backward,
    /// restarts all watches.
    pub async fn check_sources(self) {
        tokio::join!(self.check_api_source(), self.check_others());
    }

    /// Compares the API source in each check, even if other lists fail, and even if no Service copies it: the version
    /// of any list shows whether the watches can continue.
    async fn check_api_source(&self) {
        let source = ServiceKey::api_source();
        let outage = FailureLog::new(format!("the check of {source}"));
        let mut ticks = ticks();
        loop {
            ticks.tick().await;
            let names = [source.name().to_owned()].into();
            match self.compare(source.namespace(), names).await.1 {
                Ok(cause) => {
                    outage.recovered();
                    self.restart(cause);
                }
                Err(error) => {
                    outage.failed(&one_line(&error));
                    delay(&mut ticks, &error);
                }
            }
        }
    }

    /// Compares some of the other sources in each check, one list after the other.
    async fn check_others(&self) {
        let outage = FailureLog::new("the check of the sources");
        let (mut ticks, mut turns, mut failing) = (ticks(), Turns::default(), BTreeSet::new());
        loop {
            ticks.tick().await;
            let (began, parts) = (Instant::now(), self.others());
            failing.retain(|part| parts.contains_key(part));
            for part in turns.next(&parts, began) {
                let names = parts.get(&part).cloned().unwrap_or_default();
                let (took, result) = self.compare(&part.0, names).await;
                turns.took(&part, took, began);
                match result {
                    Ok(cause) => {
                        failing.remove(&part);
                        self.restart(cause);
                    }
                    Err(error) => {
                        failing.insert(part);
                        outage.failed(&one_line(&error));
                        if delay(&mut ticks, &error) {
                            break;
                        }
                    }
                }
            }
            if failing.is_empty() {
                outage.recovered();
            }
        }
    }

    /// Returns the sources in use except the API source, in parts that each fit into one selector.
    fn others(&self) -> BTreeMap<Part, BTreeSet<String>> {
        let mut sources = self.index.lock().sources();
        let api_source = ServiceKey::api_source();
        if let Some(names) = sources.get_mut(api_source.namespace()) {
            names.remove(api_source.name());
        }
        let parts = sources.into_iter().flat_map(|(namespace, names)| {
            let shards = split(&names, SELECTOR_BYTES).into_iter().enumerate();
            shards.map(move |(number, names)| ((namespace.clone(), number), names))
        });
        parts.collect()
    }

    /// Restarts the watches that `cause` affects, if any.
    fn restart(&self, cause: Option<Cause>) {
        match cause {
            None => {}
            Some(Cause::Behind) => {
                warn!(
                    "a watch of the sources is behind the API server; restarting the watches of the sources"
                );
                self.reader
                    .watch_health
                    .restart(WatchKind::Sources, Cause::Behind);
            }
            Some(Cause::Rewound) => self.reader.watch_health.rewound(),
        }
    }

    /// Compares the watches with one list. Returns how long the list took, and the cause for a restart of the watches
    /// if there is one.
    async fn compare(
        &self,
        namespace: &str,
        names: BTreeSet<String>,
    ) -> (Duration, kube::Result<Option<Cause>>) {
        // Only watches of slices count, because versions of other resources may not be comparable.
        let slices = [WatchKind::Copies, WatchKind::Sources];
        let shown = self.reader.watch_health.version(&slices);
        let mut listing = self.index.lock().listing(namespace.to_owned(), names);
        let began = Instant::now();
        let list = within(CHECK_LIMIT, self.list(&mut listing)).await;
        let took = began.elapsed();
        let result = match list {
            Ok(()) if listing.version.is_some_and(|version| version < shown) => Ok(Some(Cause::Rewound)),
            Ok(()) => Ok(self.is_behind(&listing).await.then_some(Cause::Behind)),
            Err(error) => Err(error),
        };
        (took, result)
    }

    /// Whether the watches do not show what a list shows, even after some time to catch up.
    async fn is_behind(&self, listing: &Listing) -> bool {
        let began = Instant::now();
        while !self.index.lock().shows(listing) {
            if began.elapsed() >= CATCH_UP {
                return true;
            }
            sleep(CATCH_UP_POLL).await;
        }
        false
    }

    async fn list(&self, listing: &mut Listing) -> kube::Result<()> {
        let client = &self.reader.client;
        let slices = Request::new(EndpointSlice::url_path(&(), Some(listing.namespace.as_str())));
        // A list without a resourceVersion is consistent.
        let mut params = ListParams::default()
            .labels(&named_selector(&listing.names))
            .limit(CHECK_PAGE);
        loop {
            let request = slices.list_metadata(&params).map_err(kube::Error::BuildRequest)?;
            let page: ObjectList<Guarded<SliceMetadata>> = client.request(request).await?;
            for slice in &page.items {
                listing.add(slice.slim_metadata());
            }
            listing.version = version(page.metadata.resource_version.as_deref());
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(()),
            }
        }
    }
}

/// Delays the next check if the API server is overloaded. Returns whether it is.
fn delay(ticks: &mut Interval, error: &kube::Error) -> bool {
    let overload = status_of(error).and_then(overload);
    if let Some(retry_after) = overload {
        ticks.reset_after(retry_after.max(CHECK_PERIOD));
    }
    overload.is_some()
}

/// Ticks every [`CHECK_PERIOD`], first after one period. A late tick delays the next ones.
fn ticks() -> Interval {
    let mut ticks = interval_at(Instant::now() + CHECK_PERIOD, CHECK_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
