//! What the watches of the sources show, held against consistent reads.
//!
//! An API server whose watch cache stands still answers pings, renews watches and shows nothing new. A list
//! without a resourceVersion is answered from what etcd has.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource as _;
use kube::api::{ListParams, ObjectList};
use kube::core::Request;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tracing::warn;

use super::named::{SELECTOR_BYTES, split};
use super::{Watches, named_selector};
use crate::decode::{Guarded, SliceMetadata};
use crate::error::one_line;
use crate::index::Listing;
use crate::metrics::Watch;
use crate::model::version;
use crate::outage::Outage;
use crate::pulse::Cause;

/// Time between the beginnings of two checks.
const PERIOD: Duration = Duration::from_secs(10);

/// A watch has caught up with a list by then.
const CATCH_UP: Duration = Duration::from_secs(1);

/// And is looked at this often meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Time limit of one list.
const READ: Duration = Duration::from_secs(5);

/// Up to so many namespaces are listed one by one. A list of all namespaces costs the API server more.
const NAMESPACES: usize = 8;

/// Slices in one page of a list.
const PAGE: u32 = 500;

impl Watches {
    /// Compares the sources in use with consistent lists, for ever. Where a watch is behind, it begins anew:
    /// with a list, and at another API server if there is one. Where the API counts from an earlier
    /// resourceVersion than the watches have come to, all of them begin anew.
    pub async fn check_sources(self) {
        let outage = Outage::new("the check of the sources");
        let mut ticks = interval_at(Instant::now() + PERIOD, PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.check().await {
                Ok(None) => outage.over(),
                Ok(Some(Cause::Behind)) => {
                    warn!("the watch of the sources is behind what the API shows: it begins anew");
                    self.reader.pulses.restart(Watch::Sources.as_str(), Cause::Behind);
                }
                Ok(Some(Cause::Rewound)) => self.reader.pulses.rewound(),
                Err(error) => outage.failed(&error),
            }
        }
    }

    /// One check. A list that fails or is slow holds up no other.
    async fn check(&self) -> Result<Option<Cause>, String> {
        let mut checks: FuturesUnordered<_> =
            self.wanted().into_iter().map(|list| self.compare(list)).collect();
        let mut failed = None;
        while let Some(result) = checks.next().await {
            match result {
                Ok(None) => {}
                Ok(cause) => return Ok(cause),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// Why the watches have to begin anew, by one list.
    async fn compare(&self, mut listing: Listing) -> Result<Option<Cause>, String> {
        // A watch of slices, since versions of other resources need not be comparable.
        let slices = [Watch::Copies.as_str(), Watch::Sources.as_str()];
        let shown = self.reader.pulses.version(&slices);
        let list = timeout(READ, self.list(&mut listing)).await;
        list.unwrap_or_else(|_| Err(format!("no answer to a consistent list within {READ:?}")))?;
        if listing.version.is_some_and(|version| version < shown) {
            return Ok(Some(Cause::Rewound));
        }
        let start = Instant::now();
        while !self.index.lock().shows(&listing) {
            if start.elapsed() >= CATCH_UP {
                return Ok(Some(Cause::Behind));
            }
            sleep(LOOK).await;
        }
        Ok(None)
    }

    /// What to list: the sources in use.
    fn wanted(&self) -> Vec<Listing> {
        let index = self.index.lock();
        let mut sources = index.sources();
        if sources.is_empty() {
            // The version of any list shows whether the watches can go on.
            sources.insert("default".to_owned(), ["kubernetes".to_owned()].into());
        }
        let by_namespace: Vec<(Option<String>, BTreeSet<String>)> = if sources.len() > NAMESPACES {
            vec![(None, sources.into_values().flatten().collect())]
        } else {
            let sources = sources.into_iter();
            sources
                .map(|(namespace, names)| (Some(namespace), names))
                .collect()
        };
        let lists = by_namespace.into_iter().flat_map(|(namespace, names)| {
            let shards = split(&names, SELECTOR_BYTES).into_iter();
            shards.map(move |names| (namespace.clone(), names))
        });
        lists
            .map(|(namespace, names)| index.listing(namespace, names))
            .collect()
    }

    async fn list(&self, listing: &mut Listing) -> Result<(), String> {
        let client = &self.reader.client;
        let slices = Request::new(EndpointSlice::url_path(&(), listing.namespace.as_deref()));
        // Without a resourceVersion: consistent.
        let mut params = ListParams::default()
            .labels(&named_selector(&listing.names))
            .limit(PAGE);
        loop {
            let request = slices.list_metadata(&params).map_err(|error| one_line(&error))?;
            let page: ObjectList<Guarded<SliceMetadata>> =
                client.request(request).await.map_err(|error| one_line(&error))?;
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
