//! One watch, followed for ever: errors, pauses and signs of life.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use http::Request;
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::core::Resource;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};
use tower::service_fn;

use super::backoff::ReadBackoff;
use super::outage::Outage;
use super::pulse::{Pulse, Pulses};
use crate::client::is_watch;
use crate::error::one_line;
use crate::metrics::{self, Metrics, Restart};

/// The server ends a watch after this many seconds, and a new one shows that it is alive.
const RENEW_SECONDS: u32 = 30;

/// Time between the beginnings of two requests of one watch, at least.
const BETWEEN_WATCHES: Duration = Duration::from_millis(250);

/// Reads the API by lists and watches.
#[derive(Clone)]
pub struct Reader {
    /// Makes the calls.
    pub client: Client,
    /// Signs of life of each watch.
    pub pulses: Pulses,
    /// Counts restarts.
    pub metrics: Metrics,
}

impl Reader {
    /// Follows one watch for ever.
    pub(super) async fn follow<K>(
        &self,
        watch: metrics::Watch,
        api: impl FnOnce(Client) -> Api<K>,
        config: watcher::Config,
        mut handle: impl FnMut(Event<K>),
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let resource = watch.as_str();
        let running = self.pulses.start(resource, config.label_selector.as_deref());
        let outage = Outage::default();
        let api = api(with_pulse(
            &self.client,
            running.pulse(),
            resource,
            outage.clone(),
        ));
        let config = config.timeout(RENEW_SECONDS);
        let mut backoff = ReadBackoff::default();
        loop {
            let stream = watcher(api.clone(), config.clone());
            pin_mut!(stream);
            // It never ends by itself; it is left for a new one, and so a new list, where going on would be wrong.
            while let Some(event) = stream.next().await {
                let error = match event {
                    Ok(event) => {
                        handle(event);
                        continue;
                    }
                    Err(error) => error,
                };
                let expired = is_expired(&error);
                self.metrics
                    .watch_restarted(watch, if expired { Restart::Expired } else { Restart::Error });
                outage.failed(resource, &one_line(&error));
                tokio::time::sleep(backoff.next()).await;
                if must_relist(&error) {
                    break;
                }
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

/// The same client, with each answer and each part of one as a sign of life. Watches that end as soon
/// as they have begun begin again after a pause: kube's watcher makes none after a clean end.
fn with_pulse(client: &Client, pulse: Pulse, resource: &'static str, outage: Outage) -> Client {
    let namespace = client.default_namespace().to_owned();
    let client = client.clone();
    let last_watch: Arc<Mutex<Option<Instant>>> = Arc::default();
    let service = service_fn(move |request: Request<Body>| {
        let (client, pulse, last_watch) = (client.clone(), pulse.clone(), last_watch.clone());
        let outage = outage.clone();
        async move {
            let watches = is_watch(&request);
            if watches {
                let last = last_watch.lock().replace(Instant::now());
                if let Some(last) = last.filter(|last| last.elapsed() < BETWEEN_WATCHES) {
                    sleep_until(last + BETWEEN_WATCHES).await;
                    *last_watch.lock() = Some(Instant::now());
                }
            }
            let response = client.send(request).await?;
            let ok = response.status().is_success();
            let beat = move || {
                if ok {
                    pulse.beat();
                }
            };
            beat();
            if ok && watches {
                outage.over(resource);
            }
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
