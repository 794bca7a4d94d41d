//! Follows one watch forever: handles its errors and pauses, and records its health.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, pin_mut, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Either, StreamBody};
use kube::client::Body;
use kube::core::Resource;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tower::{BoxError, service_fn};

use self::errors::{is_answer, is_expired, is_for_all, must_relist};
use super::TIME_TO_BE_CURRENT;
use super::backoff::{HEALTHY, Relists, WatchBackoff};
use crate::apiserver::error::one_line;
use crate::apiserver::http_status::{overload, status_of, throttled};
use crate::apiserver::{Avoid, Server, is_watch};
use crate::telemetry::failure_log::FailureLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::watch_health::{Cause, WatchHealth, WatchState};
use crate::timing::{MAX_WATCH, RENEW_WATCH_SECONDS, WATCH_PAUSE};
use endpoint_copier_core::model::{Restart, WatchKind, version};

pub(super) mod errors;

/// Lines other than decoded events count as activity of a watch only after the watch has lasted this long.
const MIN_WATCH_AGE: Duration = Duration::from_secs(1);

/// The minimum time from one watch request to the next one of the same watch.
const BETWEEN_WATCHES: Duration = Duration::from_millis(250);

/// After this many consecutive failures without a response, a watch restarts with a list. No API server was available
/// then: otherwise, the second attempt would have reached one. In the meantime, etcd may have been restored from a
/// backup, and a watch that continued from a reused version would miss the changes before it.
const OUTAGE_FAILURES: u32 = 2;

/// Reads the API with lists and watches.
#[derive(Clone)]
pub struct Reader {
    /// The client that makes the calls.
    pub client: Client,
    /// The health of each watch.
    pub watch_health: WatchHealth,
    /// Counts restarts.
    pub metrics: Metrics,
}

impl Reader {
    /// Follows one watch forever.
    pub(super) async fn follow<K>(
        &self,
        watch: WatchKind,
        api: impl FnOnce(Client) -> Api<K>,
        config: watcher::Config,
        mut handle: impl FnMut(Event<K>),
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let handle = |event: Result<Event<K>, &watcher::Error>| {
            event.map_or(None, |event| {
                handle(event);
                None
            })
        };
        self.follow_with_errors(watch, api, config, handle).await;
    }

    /// Follows one watch forever. `handle` also gets its errors. If it returns a pause for an error, the watch waits
    /// for that time and then relists, unless the API server is overloaded.
    pub(in crate::controller) async fn follow_with_errors<K>(
        &self,
        watch: WatchKind,
        api: impl FnOnce(Client) -> Api<K>,
        config: watcher::Config,
        mut handle: impl FnMut(Result<Event<K>, &watcher::Error>) -> Option<Duration>,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let running = self.watch_health.start(watch);
        let state = running.state();
        let calls = Arc::new(Calls {
            client: self.client.clone(),
            state: state.clone(),
            watch_health: self.watch_health.clone(),
            outage: FailureLog::new(format!("the watch of {watch}")),
            last: Mutex::default(),
            relists: Mutex::new(Relists::of(watch)),
        });
        let api = api(calls.as_client());
        let config = config.timeout(RENEW_WATCH_SECONDS);
        let mut failures = Failures::new(watch, calls.clone(), self.metrics.clone());
        loop {
            let stream = watcher(api.clone(), config.clone());
            pin_mut!(stream);
            state.list_begins();
            let mut pause = None;
            // The stream never ends by itself. If continuing would be wrong, a new stream replaces it and lists.
            loop {
                let event = tokio::select! {
                    biased;
                    cause = state.restart() => {
                        failures.restart(cause);
                        break;
                    }
                    Some(event) = async {
                        if let Some(pause) = pause {
                            sleep(pause).await;
                        }
                        stream.next().await
                    } => event,
                };
                pause = match event {
                    Ok(event) => {
                        record(&state, &event);
                        if matches!(event, Event::Apply(_) | Event::Delete(_)) {
                            calls.last.lock().has_worked = true;
                        }
                        handle(Ok(event));
                        None
                    }
                    Err(error) => {
                        failures.record(&error);
                        let requested_pause = handle(Err(&error));
                        match failures.pause(&error, requested_pause).await {
                            AfterError::Continue(pause) => pause,
                            AfterError::Relist => break,
                        }
                    }
                };
            }
        }
    }
}

/// How a watch continues after an error.
enum AfterError {
    /// With the next request of the stream, after this pause if there is one. A requested restart takes precedence.
    Continue(Option<Duration>),
    /// With a list.
    Relist,
}

/// Handles the failures of one watch.
struct Failures {
    watch: WatchKind,
    calls: Arc<Calls>,
    metrics: Metrics,
    backoff: WatchBackoff,
    overload_backoff: WatchBackoff,
    /// Whether the watch had no response when it was last restarted because it was late. The first such restart keeps
    /// the server.
    has_kept_server: bool,
}

impl Failures {
    fn new(watch: WatchKind, calls: Arc<Calls>, metrics: Metrics) -> Self {
        Self {
            watch,
            calls,
            metrics,
            backoff: WatchBackoff::failures(),
            overload_backoff: WatchBackoff::overload(),
            has_kept_server: false,
        }
    }

    /// Prepares the list with which the watch starts over, because a restart was requested.
    fn restart(&mut self, cause: Cause) {
        match cause {
            Cause::Behind => {
                // The first time that the watch has no response, the whole API may be down, and a list is enough. If
                // the same happens the next time, the server is probably at fault.
                let is_open = self.calls.state.is_open(TIME_TO_BE_CURRENT);
                if is_open || self.has_kept_server {
                    self.calls.change_server("its watch is behind");
                }
                self.has_kept_server = !is_open;
                self.metrics.watch_restarted(self.watch, Restart::Stale);
            }
            Cause::Rewound => self.metrics.watch_restarted(self.watch, Restart::Expired),
        }
    }

    /// Records an error in the metrics, the log and the health of the watch.
    fn record(&self, error: &watcher::Error) {
        let restart = if is_expired(error) {
            Restart::Expired
        } else {
            Restart::Error
        };
        self.metrics.watch_restarted(self.watch, restart);
        self.calls.outage.failed(&one_line(error));
        self.calls.state.record_failure(is_for_all(error));
    }

    /// Waits before the next request. Only the pause of an overloaded API server is returned, so that a restart can end
    /// it. If the caller requests a pause, and the API server is not overloaded, the watch relists after that pause.
    async fn pause(&mut self, error: &watcher::Error, requested: Option<Duration>) -> AfterError {
        let is_outage = self.calls.unanswered(error) >= OUTAGE_FAILURES;
        if let Some(retry_after) = errors::status_of(error).and_then(throttled) {
            let pause = self.overload_backoff.next(retry_after);
            self.calls.state.pause_until(Instant::now() + pause);
            // The resourceVersion is still valid, so a list would only add to the load.
            return AfterError::Continue(Some(pause));
        }
        let state = &self.calls.state;
        if let Some(pause) = requested {
            state.touch();
            sleep(pause).await;
            return AfterError::Relist;
        }
        let must_relist = must_relist(error);
        let mut pause = self.backoff.next(Duration::ZERO);
        if must_relist {
            pause = pause.max(self.calls.relist_pause());
        }
        let pause = self.calls.watch_health.pause(pause.min(WATCH_PAUSE), pause);
        if !must_relist && !is_outage {
            pause.await;
            return AfterError::Continue(None);
        }
        tokio::select! {
            () = pause => {}
            // A restart was requested during the pause.
            _ = state.restart() => {}
        }
        AfterError::Relist
    }
}

/// Records the progress that an event shows, and that the event was decoded: in a new watch, bytes alone do not count
/// as activity.
fn record<K: Resource>(state: &WatchState, event: &Event<K>) {
    match event {
        Event::Init => state.list_begins(),
        Event::InitApply(object) => {
            state.record_version(version(object.meta().resource_version.as_deref()));
            state.record_list_progress();
        }
        Event::InitDone => state.record_list(),
        Event::Apply(object) | Event::Delete(object) => {
            state.record_version(version(object.meta().resource_version.as_deref()));
            state.touch();
            state.record_success();
        }
    }
}

/// The client of one watch, and the state of its calls.
struct Calls {
    client: Client,
    state: WatchState,
    watch_health: WatchHealth,
    outage: FailureLog,
    last: Mutex<Last>,
    relists: Mutex<Relists>,
}

/// The state that is kept between two calls.
#[derive(Default)]
struct Last {
    watch_began: Option<Instant>,
    /// The server that responded last, on which the watch runs.
    server: Option<Server>,
    /// The server to avoid, if the next request must go to another one.
    avoid: Option<Avoid>,
    /// The number of failures without a response since the API server last responded.
    unanswered: u32,
    /// Whether a watch has lasted long enough, or has shown a change, since the last time that it had to relist.
    has_worked: bool,
}

impl Calls {
    fn as_client(self: &Arc<Self>) -> Client {
        let (namespace, calls) = (self.client.default_namespace().to_owned(), self.clone());
        let service = service_fn(move |request| calls.clone().call(request));
        Client::new(service, namespace)
    }

    async fn call(
        self: Arc<Self>,
        mut request: Request<Body>,
    ) -> kube::Result<Response<impl http_body::Body<Data = Bytes, Error = BoxError> + use<>>> {
        let watches = is_watch(&request);
        if watches {
            self.pace_requests().await;
            // Bookmarks are not shown to the caller, but the next request continues from them.
            self.state.record_version(requested_version(&request));
        }
        if let Some(avoid) = self.last.lock().avoid.take() {
            request.extensions_mut().insert(avoid);
        }
        let response = self.client.send(request).await;
        let is_available = match &response {
            Ok(_) => true,
            Err(error) => status_of(error).is_some_and(|status| overload(status).is_none()),
        };
        if is_available && std::mem::take(&mut self.last.lock().unanswered) > 0 {
            self.watch_health.answered();
        }
        let response = response?;
        self.last.lock().server = response.extensions().get().cloned();
        if !watches {
            return Ok(response.map(Either::Left));
        }
        self.outage.recovered();
        self.state.set_open(true);
        Ok(response.map(|body| Either::Right(StreamBody::new(frames(body, self)))))
    }

    /// Returns the number of consecutive failures without a response, including this one.
    fn unanswered(&self, error: &watcher::Error) -> u32 {
        let unanswered = &mut self.last.lock().unanswered;
        *unanswered = if is_answer(error) { 0 } else { *unanswered + 1 };
        *unanswered
    }

    /// Returns the pause before the list that follows a watch that could not continue. After several such lists without
    /// a working watch in between, the next request goes to another server.
    fn relist_pause(&self) -> Duration {
        let has_worked = std::mem::take(&mut self.last.lock().has_worked);
        let mut relists = self.relists.lock();
        let pause = relists.next(has_worked);
        if relists.are_many() {
            self.change_server("each of its watches fails immediately");
        }
        pause
    }

    fn change_server(&self, why: &'static str) {
        let mut last = self.last.lock();
        last.avoid = last.server.clone().map(|server| Avoid { server, why });
    }

    /// Waits before the next request of a watch that ended as soon as it began. The watcher of the `kube` crate does
    /// not pause after a clean end.
    async fn pace_requests(&self) {
        let last = self.last.lock().watch_began;
        if let Some(last) = last.filter(|last| last.elapsed() < BETWEEN_WATCHES) {
            sleep_until(last + BETWEEN_WATCHES).await;
        }
        self.last.lock().watch_began = Some(Instant::now());
    }
}

/// Returns the resourceVersion after which a watch begins.
fn requested_version(request: &Request<Body>) -> Option<u64> {
    let mut parts = request.uri().query()?.split('&');
    parts.find_map(|part| version(part.strip_prefix("resourceVersion=")))
}

/// Returns the frames of a watch. They end with an error if the server does not end the watch in time.
fn frames(body: Body, calls: Arc<Calls>) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> + Send {
    let began = Instant::now();
    stream::unfold(Some((body, OpenWatch(calls), true)), move |watch| async move {
        let (mut body, watch, mut is_line_complete) = watch?;
        let Ok(frame) = timeout_at(began + MAX_WATCH, body.frame()).await else {
            watch.0.change_server("it did not end a watch in time");
            return Some((Err("the server did not end the watch in time".into()), None));
        };
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            is_line_complete = data.last().map_or(is_line_complete, |last| *last == b'\n');
        }
        // Decoded events are recorded elsewhere. The `kube` crate hides bookmarks, so a quiet watch shows no events.
        // But neither a watch that ends as soon as it begins nor a line that never ends counts as activity, even if a
        // proxy responds for the API server.
        if is_line_complete && began.elapsed() >= MIN_WATCH_AGE {
            watch.0.state.touch();
        }
        if began.elapsed() >= HEALTHY {
            watch.0.last.lock().has_worked = true;
        }
        Some(match frame? {
            Ok(frame) => (Ok(frame), Some((body, watch, is_line_complete))),
            Err(error) => (Err(error.into()), None),
        })
    })
}

/// A watch that has received a response. It is dropped when no more events can arrive.
struct OpenWatch(Arc<Calls>);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.state.set_open(false);
    }
}

#[cfg(test)]
mod tests;
