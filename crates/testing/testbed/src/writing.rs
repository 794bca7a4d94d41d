//! The HTTP side of writes: bodies and responses. The effects of writes are in `writes`.

use crate::{
    answer::{self, Body},
    events,
    field::{Cause, FieldError},
    kinds::Kind,
    object,
    patch::Patch,
    reads,
    route::Route,
    selector::Selector,
    server::Incoming,
    state::select,
    status::ApiError,
    store::Store,
    writes::{DeleteOptions, Part},
};
use http::Response;
use serde_json::{Value, json};

/// Handles POST, PUT, PATCH and DELETE.
pub(crate) fn write(
    store: &Store,
    kind: &'static Kind,
    incoming: &Incoming,
) -> Result<Response<Body>, ApiError> {
    let route = &incoming.route;
    check_options(route)?;
    if !route.param("dryRun").is_empty() {
        return Err(ApiError::bad_request("the testbed does not support dryRun"));
    }
    let (namespace, name) = (route.namespace.as_str(), route.name.as_str());
    let part = if route.status { Part::Status } else { Part::Main };
    let (code, shown) = match route.verb {
        "create" => {
            let body = read_object(kind, incoming)?;
            (
                201,
                store.write(|s| s.create(kind, namespace, body).map(|o| events::view(kind, &o)))?,
            )
        }
        "update" => {
            let body = read_object(kind, incoming)?;
            let (object, created) = store.write(|s| s.update(kind, namespace, name, part, body))?;
            (if created { 201 } else { 200 }, events::view(kind, &object))
        }
        "patch" => {
            let patch = Patch::read(&incoming.content_type, &incoming.body)?;
            let object = store.write(|s| s.patch(kind, namespace, name, part, &patch))?;
            (200, events::view(kind, &object))
        }
        "delete" => {
            let options = read_delete_options(incoming)?;
            (200, store.write(|s| s.delete(kind, namespace, name, &options))?)
        }
        _ => (200, delete_collection(store, kind, incoming)?),
    };
    let is_object = shown["kind"] != "Status";
    let shown = if is_object {
        incoming.shape.render(kind, shown, store.now())
    } else {
        shown
    };
    Ok(answer::json(code, &shown))
}

/// Validates `fieldManager` of a POST, PUT or PATCH. More than 128 bytes cause a 422.
fn check_options(route: &Route) -> Result<(), ApiError> {
    const LIMIT: usize = 128;
    if route.param("fieldManager").len() <= LIMIT {
        return Ok(());
    }
    let options = match route.verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        _ => return Ok(()),
    };
    let why = format!("may not be more than {LIMIT} bytes");
    let errors = [FieldError::bare(Cause::TooLong, "fieldManager", why)];
    Err(ApiError::invalid_named("meta.k8s.io", options, "", &errors))
}

/// The object in the body of a request.
pub(crate) fn read_object(kind: &Kind, incoming: &Incoming) -> Result<Value, ApiError> {
    let media = incoming.content_type.split(';').next().unwrap_or_default().trim();
    // The real server treats a body without a content type as JSON.
    if !matches!(media, "" | "application/json") {
        return Err(ApiError::unsupported_media_type());
    }
    serde_json::from_slice(&incoming.body).map_err(|e| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {e}",
            kind.kind
        ))
    })
}

fn read_delete_options(incoming: &Incoming) -> Result<DeleteOptions, ApiError> {
    let mut options = if incoming.body.is_empty() {
        DeleteOptions::default()
    } else {
        let body: Value =
            serde_json::from_slice(&incoming.body).map_err(|e| ApiError::bad_request(e.to_string()))?;
        DeleteOptions::read(&body)
    };
    let policy = incoming.route.param("propagationPolicy");
    if !policy.is_empty() {
        options.propagation = Some(policy.to_owned());
    }
    Ok(options)
}

/// Deletes the objects that match a selector, and lists them.
fn delete_collection(store: &Store, kind: &'static Kind, incoming: &Incoming) -> Result<Value, ApiError> {
    let route = &incoming.route;
    let selector = Selector::parse(kind, route.param("labelSelector"), route.param("fieldSelector"))?;
    let options = read_delete_options(incoming)?;
    store.write(|state| {
        let found: Vec<_> = select(&state.objects, kind.storage, Some(&route.namespace))
            .filter(|(_, o)| selector.matches(o))
            .map(|(_, o)| o.clone())
            .collect();
        let revision = state.revision.to_string();
        for object in &found {
            state.delete(kind, &route.namespace, object::name(object), &options)?;
        }
        let items: Vec<Value> = found.iter().map(|o| reads::item(kind, o)).collect();
        Ok(json!({
            "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
            "metadata": {"resourceVersion": revision}, "items": items,
        }))
    })
}
