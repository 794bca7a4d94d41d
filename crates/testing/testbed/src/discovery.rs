//! `/api`, `/apis`, `/version` and health: enough for kubectl to find the resources. The only part of OpenAPI is the
//! `fieldValidation` parameter, from which kubectl concludes that the server validates fields. Without this parameter,
//! kubectl would need whole schemas to validate the fields itself.

use crate::{
    answer::{self, Body},
    kinds::{KINDS, Kind, Storage},
    status::ApiError,
};
use http::Response;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Whether a path requires no token. As with `--anonymous-auth=false`, which RKE2 and K3s set, health and version
/// require a token. The RKE2 supervisor answers `/ping` without a token.
#[must_use]
pub fn is_public(path: &str) -> bool {
    path == "/ping"
}

/// The response to a path that is not a resource. `has_grants` says whether ReferenceGrants are served.
pub(crate) fn answer(path: &str, has_grants: bool) -> Response<Body> {
    let kinds = || {
        let is_served = move |kind: &&Kind| has_grants || kind.storage != Storage::ReferenceGrant;
        KINDS.iter().filter(is_served)
    };
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let value = match segments[..] {
        ["healthz" | "livez" | "readyz"] => return answer::text(200, "ok"),
        ["ping"] => return answer::text(200, "pong"),
        ["version"] => version(),
        ["api"] => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}],
        }),
        ["apis"] => {
            let groups: BTreeSet<&str> = kinds().map(|k| k.group).filter(|g| !g.is_empty()).collect();
            let groups: Vec<Value> = groups.into_iter().map(group).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["api", "v1"] => resources(""),
        ["apis", name, "v1"] if kinds().any(|k| k.group == name) => resources(name),
        ["apis", name] if kinds().any(|k| k.group == name) => {
            let mut group = group(name);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }
        ["openapi", "v3"] => openapi_index(kinds()),
        ["openapi", "v3", "api", "v1"] => openapi(""),
        ["openapi", "v3", "apis", name, "v1"] => openapi(name),
        ["apis" | "api", ..] => return answer::error(&ApiError::no_such_resource()),
        _ => return answer::text(404, "404 page not found\n"),
    };
    answer::json(200, &value)
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": "v1.36.2", "gitCommit": "testbed", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "testbed",
    })
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resources(group: &str) -> Value {
    let mut resources = Vec::new();
    for kind in KINDS.iter().filter(|k| k.group == group) {
        resources.push(resource(kind));
        if kind.status {
            resources.push(json!({
                "name": format!("{}/status", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": kind.kind, "verbs": ["get", "patch", "update"],
            }));
        }
    }
    let version = if group.is_empty() {
        "v1".to_owned()
    } else {
        format!("{group}/v1")
    };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})
}

fn resource(kind: &Kind) -> Value {
    let verbs = [
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch",
    ];
    let verbs: Vec<&str> = verbs
        .into_iter()
        .filter(|v| kind.namespaced || *v != "deletecollection")
        .collect();
    let mut resource = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
        "verbs": verbs,
    });
    if !kind.short.is_empty() {
        resource["shortNames"] = json!(kind.short);
    }
    resource
}

fn openapi_index(kinds: impl Iterator<Item = &'static Kind>) -> Value {
    let mut paths = json!({});
    for kind in kinds {
        let path = if kind.group.is_empty() {
            "api/v1".to_owned()
        } else {
            format!("apis/{}/v1", kind.group)
        };
        paths[&path] = json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash=testbed")});
    }
    json!({"paths": paths})
}

fn openapi(group: &str) -> Value {
    let mut paths = json!({});
    for kind in KINDS.iter().filter(|k| k.group == group) {
        let patch = json!({
            "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
            "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
            "responses": {},
        });
        let root = if group.is_empty() {
            "/api/v1".to_owned()
        } else {
            format!("/apis/{group}/v1")
        };
        let within = if kind.namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        paths[format!("{root}{within}/{}/{{name}}", kind.plural)] = json!({"patch": patch});
    }
    json!({"openapi": "3.0.0", "info": {"title": "testbed", "version": "v1.36.2"}, "paths": paths})
}
