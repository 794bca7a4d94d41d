//! GET and LIST: consistent, from the watch cache, at an exact resourceVersion, or in chunks of one snapshot.

use crate::{
    answer::{self, Body},
    events,
    field::{Cause, FieldError},
    history::{Key, Objects},
    kinds::Kind,
    selector::Selector,
    server::{ApiServer, Incoming},
    state::{State, select},
    status::ApiError,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::Response;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// The longest time that a request waits until the cache reaches its resourceVersion, as on the real server.
const CATCH_UP: Duration = Duration::from_secs(3);

/// Objects at a resourceVersion.
pub(crate) struct Snapshot {
    pub revision: u64,
    pub objects: Objects,
}

/// GET of one object.
pub(crate) async fn get(
    server: &ApiServer,
    kind: &'static Kind,
    incoming: &Incoming,
) -> Result<Response<Body>, ApiError> {
    let route = &incoming.route;
    let key = State::key(kind, &route.namespace, &route.name);
    let found = match route.param("resourceVersion") {
        "" => server.store().read(|state| state.get(&key).cloned()),
        given => cached(server, parse_revision(given)?)
            .await?
            .objects
            .get(&key)
            .cloned(),
    };
    let found = found.ok_or_else(|| ApiError::not_found(kind, &route.name))?;
    let shown = incoming
        .shape
        .render(kind, events::view(kind, &found), server.store().now());
    Ok(answer::json(200, &shown))
}

/// LIST.
pub(crate) async fn list(
    server: &ApiServer,
    kind: &'static Kind,
    incoming: &Incoming,
) -> Result<Response<Body>, ApiError> {
    let list = list_value(server, kind, incoming).await?;
    Ok(answer::json(
        200,
        &incoming.shape.render(kind, list, server.store().now()),
    ))
}

async fn list_value(server: &ApiServer, kind: &'static Kind, incoming: &Incoming) -> Result<Value, ApiError> {
    let route = &incoming.route;
    check_match(
        route.param("resourceVersion"),
        route.param("resourceVersionMatch"),
        route.param("continue"),
    )?;
    let selector = Selector::parse(kind, route.param("labelSelector"), route.param("fieldSelector"))?;
    let (snapshot, after) = match route.param("continue") {
        "" => {
            let exact = route.param("resourceVersionMatch") == "Exact";
            (
                snapshot(server, route.param("resourceVersion"), exact).await?,
                None,
            )
        }
        token => {
            let (revision, after) = read_token(token)?;
            let objects = server.store().read(|state| state.at(revision)).map_err(|_| {
                ApiError::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start \
                     a new list without the continue parameter.",
                )
            })?;
            (Snapshot { revision, objects }, Some(after))
        }
    };
    // A list at version 0 is always complete, regardless of its limit.
    let limit = if route.param("resourceVersion") == "0" {
        0
    } else {
        route.param("limit").parse().unwrap_or(0)
    };
    Ok(chunk(
        kind,
        &snapshot,
        &route.namespace,
        &selector,
        after.as_ref(),
        limit,
    ))
}

/// A list of at most `limit` objects, which begins after a namespace and name. 0 means no limit.
fn chunk(
    kind: &Kind,
    snapshot: &Snapshot,
    namespace: &str,
    selector: &Selector,
    after: Option<&(String, String)>,
    limit: usize,
) -> Value {
    let namespace = (!namespace.is_empty()).then_some(namespace);
    let is_after = |key: &Key| {
        after.is_none_or(|(ns, name)| {
            (key.namespace.as_str(), key.name.as_str()) > (ns.as_str(), name.as_str())
        })
    };
    let mut rest = select(&snapshot.objects, kind.storage, namespace)
        .filter(|(key, object)| is_after(key) && selector.matches(object));
    let mut items: Vec<(&Key, &Arc<Value>)> = Vec::new();
    let mut metadata = json!({"resourceVersion": snapshot.revision.to_string()});
    while let Some(item) = rest.next() {
        if limit > 0 && items.len() == limit {
            let last = items[limit - 1].0;
            metadata["continue"] = write_token(snapshot.revision, last).into();
            if selector.is_empty() {
                metadata["remainingItemCount"] = (rest.count() + 1).into();
            }
            break;
        }
        items.push(item);
    }
    let items: Vec<Value> = items.iter().map(|(_, object)| item(kind, object)).collect();
    json!({
        "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": metadata,
        "items": items,
    })
}

/// A stored object as an item of a list, without `kind` and `apiVersion`.
pub(crate) fn item(kind: &Kind, stored: &Value) -> Value {
    let mut item = events::view(kind, stored);
    if let Some(members) = item.as_object_mut() {
        members.remove("kind");
        members.remove("apiVersion");
    }
    item
}

/// The objects that a read with these parameters returns.
pub(crate) async fn snapshot(server: &ApiServer, revision: &str, exact: bool) -> Result<Snapshot, ApiError> {
    let store = server.store();
    match revision {
        "" => Ok(store.read(|s| Snapshot {
            revision: s.revision,
            objects: s.objects.clone(),
        })),
        given if exact => {
            let revision = parse_revision(given)?;
            let current = store.revision();
            if revision > current {
                return Err(ApiError::too_large_resource_version(revision, current));
            }
            let too_old = "The resourceVersion for the provided list is too old.";
            let objects = store
                .read(|s| s.at(revision))
                .map_err(|_| ApiError::expired(too_old))?;
            Ok(Snapshot { revision, objects })
        }
        given => cached(server, parse_revision(given)?).await,
    }
}

/// The content of the watch cache, once it has reached a resourceVersion.
async fn cached(server: &ApiServer, at_least: u64) -> Result<Snapshot, ApiError> {
    let shared = &server.shared;
    let (mut writes, mut releases) = (shared.store.changes(), shared.faults.changes());
    let reached = async {
        while shared.visible() < at_least {
            tokio::select! {
                biased;
                () = writes.changed() => {}
                () = releases.changed() => {}
            }
        }
    };
    if tokio::time::timeout(CATCH_UP, reached).await.is_err() {
        return Err(ApiError::too_large_resource_version(at_least, shared.visible()));
    }
    Ok(match shared.lag() {
        Some(lag) => Snapshot {
            revision: lag.revision,
            objects: lag.objects,
        },
        None => shared.store.read(|s| Snapshot {
            revision: s.revision,
            objects: s.objects.clone(),
        }),
    })
}

pub(crate) fn parse_revision(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: \
             invalid syntax"
        ))
    })
}

fn check_match(revision: &str, matching: &str, token: &str) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let mut forbid = |why: &str| errors.push(FieldError::bare(Cause::Forbidden, "resourceVersionMatch", why));
    if matching.is_empty() {
        return Ok(());
    }
    if revision.is_empty() {
        forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    if !token.is_empty() {
        forbid("resourceVersionMatch is forbidden when continue is provided");
    }
    if matching == "Exact" && revision == "0" {
        forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
    }
    if matching != "Exact" && matching != "NotOlderThan" {
        let known = ["Exact", "NotOlderThan", ""];
        errors.push(FieldError::not_supported(
            "resourceVersionMatch",
            &json!(matching),
            &known,
        ));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid_named("meta.k8s.io", "ListOptions", "", &errors))
    }
}

/// The continue token for the next chunk, which begins after this key, at this resourceVersion.
fn write_token(revision: u64, last: &Key) -> String {
    let start = format!("{}/{}\0", last.namespace, last.name);
    BASE64_URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string())
}

fn read_token(token: &str) -> Result<(u64, (String, String)), ApiError> {
    let bad = |why: &str| {
        ApiError::bad_request(format!(
            "invalid continue token: continue key is not valid: {why}"
        ))
    };
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|e| bad(&e.to_string()))?;
    let token: Value = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
    let start = token["start"]
        .as_str()
        .ok_or_else(|| bad("start"))?
        .trim_end_matches('\0');
    let (namespace, name) = start.split_once('/').ok_or_else(|| bad("start"))?;
    let revision = token["rv"].as_u64().ok_or_else(|| bad("rv"))?;
    Ok((revision, (namespace.to_owned(), name.to_owned())))
}
