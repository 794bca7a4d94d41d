//! What the watches of the sources show, held against consistent reads.
//!
//! An API server whose watch cache stands still answers pings, renews watches and shows nothing new. A list
//! without a resourceVersion is answered from what etcd has.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::named::{SELECTOR_BYTES, split};
use super::{Watches, named_selector};
use crate::error::one_line;
use crate::index::Listing;
use crate::metrics::Watch;

/// The pause between two checks.
const PERIOD: Duration = Duration::from_secs(10);

/// A watch has caught up with a list by then.
const CATCH_UP: Duration = Duration::from_secs(1);

/// And is looked at this often meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Time limit of all lists of one check.
const READ: Duration = Duration::from_secs(5);

/// Up to so many namespaces are listed one by one. A list of all namespaces costs the API server more.
const NAMESPACES: usize = 8;

/// Slices in one page of a list.
const PAGE: u32 = 500;

impl Watches {
    /// Compares the sources in use with consistent lists, for ever. Where a watch is behind, it begins anew:
    /// with a list, and at another API server if there is one.
    pub async fn check_sources(self) {
        loop {
            sleep(PERIOD).await;
            let lists = self.wanted();
            let lists = join_all(lists.into_iter().map(|list| self.list(list)));
            let Ok(lists) = timeout(READ, lists).await else {
                // The watches notice this themselves.
                debug!("no answer to a consistent list of the sources within {READ:?}");
                continue;
            };
            self.compare(lists.into_iter().flatten().collect()).await;
        }
    }

    /// What to list: the sources in use.
    fn wanted(&self) -> Vec<Listing> {
        let sources = self.index.lock().sources();
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
            shards.map(move |names| Listing {
                namespace: namespace.clone(),
                names,
                ..Listing::default()
            })
        });
        lists.collect()
    }

    async fn list(&self, mut listing: Listing) -> Option<Listing> {
        let client = self.reader.client.clone();
        let api: Api<EndpointSlice> = match &listing.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        // Without a resourceVersion: consistent.
        let mut params = ListParams::default()
            .labels(&named_selector(&listing.names))
            .limit(PAGE);
        loop {
            let page = match api.list_metadata(&params).await {
                Ok(page) => page,
                Err(error) => {
                    debug!(error = one_line(&error), "cannot list the sources");
                    return None;
                }
            };
            for slice in &page.items {
                listing.add(&slice.metadata);
            }
            listing.version = page
                .metadata
                .resource_version
                .and_then(|version| version.parse().ok());
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Some(listing),
            }
        }
    }

    async fn compare(&self, mut behind: Vec<Listing>) {
        let start = Instant::now();
        loop {
            behind.retain(|listing| !self.index.lock().shows(listing));
            if behind.is_empty() {
                return;
            }
            if start.elapsed() >= CATCH_UP {
                break;
            }
            sleep(LOOK).await;
        }
        warn!("the watch of the sources is behind what the API shows: it begins anew");
        self.reader.pulses.restart(Watch::Sources.as_str());
    }
}
