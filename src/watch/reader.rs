//! One watch, followed for ever: errors, pauses and signs of life.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, pin_mut};
use http::{Request, Response};
use http_body::Frame;
use kube::client::Body;
use kube::core::Resource;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tower::{BoxError, service_fn};

use super::HEARD;
use super::backoff::{OverloadBackoff, ReadBackoff, SHORTEST};
use crate::client::{Elsewhere, Server, is_watch, overload};
use crate::error::one_line;
use crate::metrics::{self, Metrics, Restart};
use crate::model::version;
use crate::outage::Outage;
use crate::pulse::{Cause, Pulse, Pulses};

/// The server ends a watch after this many seconds, and a new one shows that it is alive.
const RENEW_SECONDS: u32 = 25;

/// A watch that the server has not ended by then is ended here: it may be silent because it is dead.
const LONGEST: Duration = Duration::from_secs(30);

/// Time between the beginnings of two requests of one watch, at least.
const BETWEEN_WATCHES: Duration = Duration::from_millis(250);

/// After so many failures without an answer, one after the other, no API server was there, and a watch begins anew
/// with a list: etcd may have been restored from a backup meanwhile, and going on from a version that is given a second
/// time would pass over what it stood for. Where another server lives, the second attempt finds it.
const AWAY: u32 = 2;

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
        let outage = Outage::new(format!("the watch of {resource}"));
        let pulse = running.pulse();
        let calls = Calls {
            client: self.client.clone(),
            pulse: pulse.clone(),
            pulses: self.pulses.clone(),
            outage: outage.clone(),
            last_watch: Arc::default(),
            server: Arc::default(),
            elsewhere: Arc::default(),
            unanswered: Arc::default(),
        };
        let follower = calls.clone();
        let api = api(calls.into_client());
        let config = config.timeout(RENEW_SECONDS);
        let (mut backoff, mut overload_backoff) = (ReadBackoff::default(), OverloadBackoff::default());
        let mut excused = false;
        loop {
            let stream = watcher(api.clone(), config.clone());
            pin_mut!(stream);
            pulse.list_begins();
            // Waits before the next request to an overloaded API server, unless the watch is known to be
            // behind.
            let mut resume = Instant::now();
            // It never ends by itself; it is left for a new one, and so a new list, where going on would be wrong.
            loop {
                let event = tokio::select! {
                    biased;
                    cause = pulse.restart() => Err(cause),
                    Some(event) = async { sleep_until(resume).await; stream.next().await } => Ok(event),
                };
                let error = match event {
                    Ok(Ok(event)) => {
                        feel(&pulse, &event);
                        handle(event);
                        continue;
                    }
                    Ok(Err(error)) => error,
                    Err(Cause::Behind) => {
                        // Without an answer it may be an outage of all, which a list goes round; time after time it is
                        // that of a server.
                        let is_open = pulse.is_open(HEARD);
                        if is_open || excused {
                            follower.go_elsewhere("its watch is behind");
                        }
                        excused = !is_open;
                        self.metrics.watch_restarted(watch, Restart::Stale);
                        break;
                    }
                    Err(Cause::Rewound) => {
                        self.metrics.watch_restarted(watch, Restart::Expired);
                        break;
                    }
                };
                let expired = is_expired(&error);
                self.metrics
                    .watch_restarted(watch, if expired { Restart::Expired } else { Restart::Error });
                outage.failed(&one_line(&error));
                pulse.failed(is_for_all(&error));
                let away = follower.unanswered(&error) >= AWAY;
                if let Some(retry_after) = overloaded(&error) {
                    // The resourceVersion is still valid, so a list would only add to the load.
                    resume = Instant::now() + overload_backoff.next(retry_after);
                    continue;
                }
                let pause = backoff.next();
                self.pulses.pause(pause.min(SHORTEST), pause).await;
                if must_relist(&error) || away {
                    break;
                }
            }
        }
    }
}

/// Records the progress that an event shows, and that it was decoded: bytes alone are not a sign of life.
fn feel<K: Resource>(pulse: &Pulse, event: &Event<K>) {
    if !matches!(event, Event::Init) {
        pulse.beat();
    }
    match event {
        Event::Init => pulse.list_begins(),
        Event::InitApply(object) | Event::Apply(object) | Event::Delete(object) => {
            pulse.works();
            pulse.reached(version(object.meta().resource_version.as_deref()));
        }
        Event::InitDone => {
            pulse.works();
            pulse.listed();
        }
    }
}

/// Whether every replica gets this answer, because a right is missing or the server is overloaded.
fn is_for_all(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => matches!(status.code, 401 | 403 | 429),
        _ => false,
    }
}

/// The `Retry-After` of an overloaded API server; `None` if the error is another one.
fn overloaded(error: &watcher::Error) -> Option<Duration> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => overload(error),
        watcher::Error::WatchError(status) => overload(&kube::Error::Api(status.clone())),
        watcher::Error::NoResourceVersion => None,
    }
}

/// The server no longer knows the resourceVersion.
fn is_expired(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

/// Whether going on from the last resourceVersion would fail for ever, or pass over an event that
/// could not be read.
fn must_relist(error: &watcher::Error) -> bool {
    match error {
        // kube reads a line that it cannot decode as a Status without a code, whatever the line says.
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => matches!(status.code, 0 | 400 | 410),
        watcher::Error::WatchFailed(kube::Error::SerdeError(_)) | watcher::Error::WatchError(_) => true,
        watcher::Error::NoResourceVersion => true,
        _ => false,
    }
}

/// Whether it is an API server that says what is wrong.
fn is_answer(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => {
            matches!(error, kube::Error::Api(_) | kube::Error::SerdeError(_))
        }
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => true,
    }
}

/// A client's calls for one watch.
#[derive(Clone)]
struct Calls {
    client: Client,
    pulse: Pulse,
    pulses: Pulses,
    outage: Outage,
    last_watch: Arc<Mutex<Option<Instant>>>,
    /// The server that answered last, and so the one that the watch runs on.
    server: Arc<Mutex<Option<Server>>>,
    /// The next request is to go to another server.
    elsewhere: Arc<Mutex<Option<Elsewhere>>>,
    /// Failures without an answer since the API server last answered.
    unanswered: Arc<Mutex<u32>>,
}

impl Calls {
    fn into_client(self) -> Client {
        let namespace = self.client.default_namespace().to_owned();
        let service = service_fn(move |request| {
            let calls = self.clone();
            async move { calls.call(request).await }
        });
        Client::new(service, namespace)
    }

    async fn call(
        self,
        mut request: Request<Body>,
    ) -> kube::Result<Response<impl http_body::Body<Data = Bytes, Error = BoxError> + use<>>> {
        let watches = is_watch(&request);
        if watches {
            self.keep_distance().await;
            // Bookmarks are shown to nobody, but go on from there.
            self.pulse.reached(asked_version(&request));
        }
        if let Some(elsewhere) = self.elsewhere.lock().take() {
            request.extensions_mut().insert(elsewhere);
        }
        let response = self.client.send(request).await;
        if matches!(response, Ok(_) | Err(kube::Error::Api(_)))
            && std::mem::take(&mut *self.unanswered.lock()) > 0
        {
            self.pulses.answered();
        }
        let response = response?;
        *self.server.lock() = response.extensions().get().cloned();
        if watches {
            self.pulse.beat();
            self.outage.over();
            self.pulse.open(true);
        }
        let end = Box::pin(sleep(LONGEST));
        Ok(response.map(|body| Followed {
            body,
            end: watches.then_some(end),
            calls: self,
        }))
    }

    /// How many failures without an answer there were in a row, with this one.
    fn unanswered(&self, error: &watcher::Error) -> u32 {
        let mut unanswered = self.unanswered.lock();
        *unanswered = if is_answer(error) { 0 } else { *unanswered + 1 };
        *unanswered
    }

    fn go_elsewhere(&self, why: &'static str) {
        let server = self.server.lock().clone();
        *self.elsewhere.lock() = server.map(|server| Elsewhere { server, why });
    }

    /// Watches that end as soon as they have begun begin again after a pause: kube's watcher makes none
    /// after a clean end.
    async fn keep_distance(&self) {
        let last = self.last_watch.lock().replace(Instant::now());
        if let Some(last) = last.filter(|last| last.elapsed() < BETWEEN_WATCHES) {
            sleep_until(last + BETWEEN_WATCHES).await;
            *self.last_watch.lock() = Some(Instant::now());
        }
    }
}

/// The resourceVersion after which a watch is to begin.
fn asked_version(request: &Request<Body>) -> Option<u64> {
    let mut parts = request.uri().query()?.split('&');
    parts.find_map(|part| version(part.strip_prefix("resourceVersion=")))
}

/// The body of an answer. One of a watch breaks if it does not end.
struct Followed {
    body: Body,
    end: Option<Pin<Box<Sleep>>>,
    calls: Calls,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            // A watch follows a list that was decoded. A list counts once it is decoded.
            if self.end.is_some() {
                self.calls.pulse.beat();
            }
            if !matches!(frame, Some(Ok(_))) {
                self.closed();
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let late = self
            .end
            .as_mut()
            .is_some_and(|end| end.as_mut().poll(context).is_ready());
        if !late {
            return Poll::Pending;
        }
        self.closed();
        self.calls.go_elsewhere("it does not end a watch");
        Poll::Ready(Some(Err("a watch that does not end".into())))
    }
}

impl Followed {
    /// Nothing more will come.
    fn closed(&self) {
        if self.end.is_some() {
            self.calls.pulse.open(false);
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.closed();
    }
}

#[cfg(test)]
mod tests;
