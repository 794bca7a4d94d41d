//! API streams to index changes. One task a watch, each with a backoff of its own: one that cannot
//! be had never holds up another.
//!
//! A list is compared with the index when it is complete, since what was deleted while a watch was
//! down is on no stream.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use http_body_util::BodyExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::Resource;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::sync::watch as channel;
use tokio::time::Instant;
use tower::service_fn;
use tracing::{debug, info, warn};

use crate::election::Record;
use crate::index::{Dirty, Scope, SharedIndex};
use crate::metrics::{self, Metrics, Restart};
use crate::model::{MANAGED_BY, ServiceKey, SliceKey, label};
use crate::queue::Inbox;

mod backoff;
mod named;
mod pulse;

use self::backoff::ReadBackoff;
pub use named::named_slices;
pub use pulse::{Pulse, Pulses};

/// The server ends a watch after this many seconds, and a new one shows that it is alive.
const RENEW_SECONDS: u32 = 30;

/// What every watch needs.
#[derive(Clone)]
pub struct Watches {
    /// Client for lists and watches.
    pub client: Client,
    /// What the watches feed.
    pub index: SharedIndex,
    /// Where dirty keys go.
    pub inbox: Inbox,
    /// Signs of life.
    pub pulses: Pulses,
    /// Counts restarts.
    pub metrics: Metrics,
}

impl Watches {
    /// Watches all Services. `names` gets the names of the Services whose slices matter, whenever
    /// that set changes.
    pub async fn services(self, names: channel::Sender<BTreeSet<String>>) {
        let mut listed = HashSet::new();
        self.follow(
            metrics::Watch::Services,
            watcher::Config::default(),
            |event: Event<Service>| {
                let mut index = self.index.lock();
                let complete = !matches!(event, Event::Init | Event::InitApply(_));
                let dirty = match event {
                    Event::Init => {
                        listed.clear();
                        Dirty::new()
                    }
                    Event::InitApply(service) => {
                        listed.insert(ServiceKey::of(&service.metadata));
                        index.apply_service(&service)
                    }
                    Event::Apply(service) => index.apply_service(&service),
                    Event::Delete(service) => index.delete_service(&ServiceKey::of(&service.metadata)),
                    Event::InitDone => index.services_listed(&std::mem::take(&mut listed)),
                };
                if complete && !dirty.is_empty() {
                    let wanted = index.names();
                    names.send_if_modified(|names| {
                        *names != wanted && {
                            *names = wanted;
                            true
                        }
                    });
                }
                drop(index);
                self.inbox.mark(dirty);
            },
        )
        .await;
    }

    /// Watches the slices that bear our managed-by label.
    pub async fn copies(self) {
        let selector = format!("{}={MANAGED_BY}", label::MANAGED_BY);
        self.slices(metrics::Watch::Copies, &selector, &Scope::Copies)
            .await;
    }

    async fn slices(&self, watch: metrics::Watch, selector: &str, scope: &Scope) {
        let mut listed = HashSet::new();
        let config = watcher::Config::default().labels(selector);
        self.follow(watch, config, |event: Event<EndpointSlice>| {
            // Nobody here reads them, and they are half of a slice's size.
            let event = event.modify(|slice| slice.metadata.managed_fields = None);
            let mut index = self.index.lock();
            let dirty = match event {
                Event::Init => {
                    listed.clear();
                    Dirty::new()
                }
                Event::InitApply(slice) => {
                    listed.insert(SliceKey::of(&slice.metadata));
                    index.list_slice(scope, slice)
                }
                Event::Apply(slice) => index.apply_slice(scope, slice),
                Event::Delete(slice) => index.delete_slice(scope, &slice),
                Event::InitDone => index.slices_listed(scope, &std::mem::take(&mut listed)),
            };
            drop(index);
            self.inbox.mark(dirty);
        })
        .await;
    }

    /// Follows one watch for ever.
    async fn follow<K>(
        &self,
        watch: metrics::Watch,
        config: watcher::Config,
        mut handle: impl FnMut(Event<K>),
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let pulse = self
            .pulses
            .start(watch.as_str(), config.label_selector.as_deref());
        let api = Api::<K>::all(with_pulse(&self.client, pulse.pulse()));
        follow(watch, &api, config, &self.metrics, &mut handle).await;
    }
}

/// Watches one Lease, and tells the election what it sees.
pub async fn lease(client: &Client, namespace: &str, name: &str, record: Record, metrics: &Metrics) {
    let api = Api::<Lease>::namespaced(client.clone(), namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut found = false;
    follow(
        metrics::Watch::Lease,
        &api,
        config,
        metrics,
        &mut |event| match event {
            Event::Init => found = false,
            Event::InitApply(lease) => {
                found = true;
                record.see(Some(&lease));
            }
            Event::Apply(lease) => record.see(Some(&lease)),
            Event::Delete(_) => record.see(None),
            Event::InitDone if !found => record.see(None),
            Event::InitDone => {}
        },
    )
    .await;
}

async fn follow<K>(
    watch: metrics::Watch,
    api: &Api<K>,
    config: watcher::Config,
    metrics: &Metrics,
    handle: &mut impl FnMut(Event<K>),
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let resource = watch.as_str();
    let config = config.timeout(RENEW_SECONDS);
    let mut backoff = ReadBackoff::default();
    let mut failing: Option<Instant> = None;
    loop {
        let stream = watcher(api.clone(), config.clone());
        pin_mut!(stream);
        // A stream never ends; it is left for a new one, and so a new list, where going on would be wrong.
        while let Some(event) = stream.next().await {
            let error = match event {
                Ok(event) => {
                    if let Some(since) = failing.take_if(|_| !matches!(event, Event::Init)) {
                        info!(resource, seconds = since.elapsed().as_secs(), "watching again");
                    }
                    handle(event);
                    continue;
                }
                Err(error) => error,
            };
            let reason = if is_expired(&error) {
                Restart::Expired
            } else {
                Restart::Error
            };
            metrics.watch_restarted(watch, reason);
            let error_text = error.to_string();
            if failing.is_none() {
                warn!(resource, error = error_text, "watch failed; trying again");
            } else {
                debug!(resource, error = error_text, "watch failed again");
            }
            failing.get_or_insert_with(Instant::now);
            tokio::time::sleep(backoff.next()).await;
            if must_relist(&error) {
                break;
            }
        }
    }
}

/// The server no longer knows the resourceVersion.
fn is_expired(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

/// Whether going on from the last resourceVersion would fail for ever, or pass over an event that
/// could not be read.
fn must_relist(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 400 | 410),
        watcher::Error::WatchFailed(kube::Error::SerdeError(_)) | watcher::Error::WatchError(_) => true,
        watcher::Error::NoResourceVersion => true,
        _ => false,
    }
}

/// The same client, with each answer and each part of one as a sign of life.
fn with_pulse(client: &Client, pulse: Pulse) -> Client {
    let namespace = client.default_namespace().to_owned();
    let client = client.clone();
    let service = service_fn(move |request| {
        let (client, pulse) = (client.clone(), pulse.clone());
        async move {
            let response = client.send(request).await?;
            let ok = response.status().is_success();
            let beat = move || {
                if ok {
                    pulse.beat()
                }
            };
            beat();
            Ok::<_, kube::Error>(response.map(|body| {
                body.map_frame(move |frame| {
                    beat();
                    frame
                })
            }))
        }
    });
    Client::new(service, namespace)
}

/// Slices of these names that are not ours.
fn named_selector(names: &Arc<BTreeSet<String>>) -> String {
    let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    format!(
        "{} in ({names}),{}!={MANAGED_BY}",
        label::SERVICE_NAME,
        label::MANAGED_BY
    )
}

/// How long after its last sign of life a watch counts as dead.
pub const LIFE: Duration = Duration::from_secs(90);
