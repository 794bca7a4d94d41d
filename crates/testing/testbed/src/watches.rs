//! WATCH: sends the changes after a resourceVersion as lines, until the timeout or a fault.

use crate::{
    answer::{self, Body, BoxError, Shape},
    events,
    faults::{Ending, Verdict},
    field::{Cause, FieldError},
    history::Change,
    kinds::Kind,
    object, reads,
    route::Route,
    selector::Selector,
    server::{ApiServer, Incoming, Shared},
    signal::Changes,
    state::select,
    status::ApiError,
    table,
};
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use std::{collections::VecDeque, io, sync::Arc, time::Duration};
use tokio::time::Instant;

/// The timeout of a watch without `timeoutSeconds`. On the real server, it is 30 to 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// The time between the last bookmark and the end of a watch.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// Opens a watch.
pub(crate) async fn watch(
    server: &ApiServer,
    kind: &'static Kind,
    incoming: Incoming,
) -> Result<Response<Body>, ApiError> {
    let Incoming {
        route, shape, user, ..
    } = incoming;
    check_options(&route)?;
    let selector = Selector::parse(kind, route.param("labelSelector"), route.param("fieldSelector"))?;
    let timeout = route.param("timeoutSeconds").parse().ok().filter(|s| *s > 0);
    let shared = Arc::clone(&server.shared);
    let mut watch = Watch {
        kind,
        selector,
        shape,
        namespace: (!route.namespace.is_empty()).then(|| route.namespace.clone()),
        cursor: 0,
        lines: VecDeque::new(),
        bookmarks: route.flag("allowWatchBookmarks"),
        bookmark_period: shared.bookmark_period(),
        next_bookmark: Instant::now(),
        deadline: Instant::now() + timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs),
        number: shared.faults.watch_number(),
        writes: shared.store.changes(),
        changes: shared.faults.changes(),
        header_sent: false,
        ended: None,
        user,
        route,
        shared,
    };
    let given = watch.route.param("resourceVersion").to_owned();
    let initial = watch.route.flag("sendInitialEvents");
    if initial || given.is_empty() || given == "0" {
        watch.begin_with_present(server, &given).await?;
    } else {
        watch.cursor = given.parse().map_err(|_| {
            // The real server sends a plain error: code 500 without a reason.
            ApiError::new(500, "", format!(
                "resourceVersion: Invalid value: {given:?}: strconv.ParseUint: parsing {given:?}: invalid syntax"
            ))
        })?;
    }
    watch.schedule_bookmark();
    Ok(answer::stream(futures::stream::unfold(
        watch,
        |mut watch| async {
            let line = watch.next().await?;
            Some((line, watch))
        },
    )))
}

fn check_options(route: &Route) -> Result<(), ApiError> {
    let initial = !route.param("sendInitialEvents").is_empty();
    let matching = route.param("resourceVersionMatch");
    let why = match (initial, matching) {
        (true, "NotOlderThan") | (false, "") => return Ok(()),
        (true, _) => "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        (false, _) => "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
    };
    let errors = [FieldError::bare(Cause::Forbidden, "resourceVersionMatch", why)];
    Err(ApiError::invalid_named("meta.k8s.io", "ListOptions", "", &errors))
}

struct Watch {
    shared: Arc<Shared>,
    kind: &'static Kind,
    route: Route,
    user: String,
    selector: Selector,
    shape: Shape,
    namespace: Option<String>,
    /// Everything up to this resourceVersion has been sent or is in `lines`.
    cursor: u64,
    lines: VecDeque<Bytes>,
    bookmarks: bool,
    bookmark_period: Duration,
    next_bookmark: Instant,
    deadline: Instant,
    number: u64,
    writes: Changes,
    changes: Changes,
    header_sent: bool,
    /// How the watch ends after `lines`, or `None` while it continues.
    ended: Option<Ending>,
}

impl Watch {
    async fn begin_with_present(&mut self, server: &ApiServer, revision: &str) -> Result<(), ApiError> {
        let snapshot = reads::snapshot(server, revision, false).await?;
        let namespace = self.namespace.clone();
        for (_, object) in select(&snapshot.objects, self.kind.storage, namespace.as_deref()) {
            if self.selector.matches(object) {
                let shown = events::view(self.kind, object);
                self.push("ADDED", shown);
            }
        }
        self.cursor = snapshot.revision;
        // The bookmark after the initial state is sent whether WatchList was requested or not.
        if self.bookmarks {
            self.push_bookmark(json!({"k8s.io/initial-events-end": "true"}));
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        loop {
            self.shared.faults.thawed().await;
            self.changes.catch_up();
            self.writes.catch_up();
            match self.shared.faults.verdict(self.number, &self.user, &self.route) {
                Verdict::Run => {}
                Verdict::End(ending) => {
                    self.lines.clear();
                    self.ended.get_or_insert(ending);
                }
                // A silent watch does not even reach its timeout.
                Verdict::Silent => {
                    self.changes.changed().await;
                    continue;
                }
            }
            if let Some(line) = self.lines.pop_front() {
                return Some(Ok(line));
            }
            match self.ended {
                Some(Ending::Clean) => return None,
                Some(Ending::Abrupt) => {
                    self.ended = Some(Ending::Clean);
                    return Some(Err(io::Error::from(io::ErrorKind::ConnectionReset).into()));
                }
                None => {}
            }
            if !self.read_on() {
                self.wait().await;
            }
        }
    }

    /// Waits for a write, a fault, a bookmark or the end.
    async fn wait(&mut self) {
        let bookmark = tokio::time::sleep_until(self.next_bookmark);
        tokio::select! {
            // A fixed order makes runs under paused time reproducible.
            biased;
            () = self.writes.changed() => {}
            () = self.changes.changed() => {}
            () = tokio::time::sleep_until(self.deadline) => self.ended = Some(Ending::Clean),
            () = bookmark, if self.bookmarks => {
                // No bookmark is sent before the requested version is reached.
                if self.cursor > 0 && self.cursor <= self.shared.visible() {
                    self.push_bookmark(Value::Null);
                }
                self.schedule_bookmark();
            }
        }
    }

    fn schedule_bookmark(&mut self) {
        let now = Instant::now();
        let regular = now + self.bookmark_period;
        self.next_bookmark = match self.deadline.checked_sub(LAST_BOOKMARK) {
            Some(last) if last > now => regular.min(last),
            _ => self.deadline + LAST_BOOKMARK,
        };
    }

    /// Converts changes since the cursor to lines. Returns false if there is no newer resourceVersion.
    fn read_on(&mut self) -> bool {
        let visible = self.shared.visible();
        if visible <= self.cursor {
            return false;
        }
        let store = self.shared.store.clone();
        let (kind, namespace) = (self.kind, self.namespace.clone());
        let changes = store.read(|state| {
            let of_this = |c: &&Change| {
                c.revision <= visible
                    && c.key.storage == kind.storage
                    && namespace.as_ref().is_none_or(|n| *n == c.key.namespace)
            };
            state
                .history
                .since(self.cursor)
                .map(|all| all.filter(of_this).cloned().collect::<Vec<_>>())
        });
        match changes {
            Ok(changes) => {
                for change in changes {
                    self.push_change(&change);
                }
                self.cursor = visible;
            }
            Err(compacted) => {
                let why = format!("too old resource version: {} ({})", self.cursor, compacted.oldest);
                let status = ApiError::expired(why).to_status();
                self.lines.push_back(line("ERROR", &status));
                self.ended = Some(Ending::Clean);
            }
        }
        true
    }

    /// Translates a change for a watch with a selector: an object that starts to match is ADDED, and an object that
    /// stops matching is DELETED, with its earlier state and the resourceVersion of the change.
    fn push_change(&mut self, change: &Change) {
        let wanted = |o: &Option<Arc<Value>>| o.as_ref().filter(|o| self.selector.matches(o)).cloned();
        let (event, mut shown) = match (wanted(&change.old), wanted(&change.new)) {
            (None, Some(new)) => ("ADDED", events::view(self.kind, &new)),
            (Some(_), Some(new)) => ("MODIFIED", events::view(self.kind, &new)),
            (Some(old), None) => ("DELETED", events::view(self.kind, &old)),
            (None, None) => return,
        };
        object::set_meta(
            &mut shown,
            "resourceVersion",
            Some(change.revision.to_string().into()),
        );
        self.push(event, shown);
    }

    fn push_bookmark(&mut self, annotations: Value) {
        let mut metadata = json!({"resourceVersion": self.cursor.to_string()});
        if !annotations.is_null() {
            metadata["annotations"] = annotations;
        }
        let mut bookmark =
            json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata});
        // The bookmark is an empty object of the type: fields that are never left out are present.
        if self.kind.kind == "EndpointSlice" {
            bookmark["addressType"] = "".into();
            bookmark["endpoints"] = Value::Null;
            bookmark["ports"] = Value::Null;
        } else if self.kind.kind == "Service" {
            bookmark["spec"] = json!({});
            bookmark["status"] = json!({"loadBalancer": {}});
        }
        self.push("BOOKMARK", bookmark);
    }

    fn push(&mut self, event: &str, object: Value) {
        let object = match self.shape {
            Shape::Table => {
                let first = !std::mem::replace(&mut self.header_sent, true);
                table::render(self.kind, &object, self.shared.store.now(), first)
            }
            Shape::Metadata => answer::metadata(&object),
            Shape::Plain | Shape::NotAcceptable => object,
        };
        self.lines.push_back(line(event, &object));
    }
}

/// One event. Its type comes first, as in an event from a real API server, so that a client that needs the type does
/// not have to buffer the object.
fn line(event: &str, object: &impl std::fmt::Display) -> Bytes {
    format!("{{\"type\":\"{event}\",\"object\":{object}}}\n").into()
}
