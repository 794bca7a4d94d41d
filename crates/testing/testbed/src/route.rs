//! Parses a URL and a method: verb, kind, namespace, name and query.

use crate::{
    kinds::{self, Kind, Storage},
    selector::Selector,
    status::ApiError,
};
use http::Method;
use std::collections::BTreeMap;

/// A parsed request.
#[derive(Clone, Debug)]
pub struct Route {
    /// The verb, as in RBAC.
    pub verb: &'static str,
    /// The kind, or `None` for discovery, health and version.
    pub kind: Option<&'static Kind>,
    /// The namespace, or empty for all namespaces and for a cluster-scoped kind.
    pub namespace: String,
    /// The name, or empty for a collection.
    pub name: String,
    /// Whether the path ends in `/status`.
    pub status: bool,
    /// The path without the query.
    pub path: String,
    query: BTreeMap<String, String>,
    selected_name: Option<String>,
}

impl Route {
    /// Parses a request line.
    ///
    /// # Errors
    ///
    /// 404 for a path in an API group that is not a known resource, 405 for a method that the path does not support.
    pub fn parse(method: &Method, path: &str, query: &str) -> Result<Self, ApiError> {
        let query = parse_query(query);
        let mut route = Self {
            verb: "get",
            kind: None,
            namespace: String::new(),
            name: String::new(),
            status: false,
            path: path.to_owned(),
            query,
            selected_name: None,
        };
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let (group, rest) = match segments[..] {
            ["api", "v1", ref rest @ ..] if !rest.is_empty() => ("", rest),
            ["apis", group, "v1", ref rest @ ..] if !rest.is_empty() => (group, rest),
            _ if *method == Method::GET || *method == Method::HEAD => return Ok(route),
            _ => return Err(ApiError::method_not_allowed()),
        };
        route.resolve(group, rest)?;
        route.verb = route.verb_of(method)?;
        route.selected_name = route.kind.and_then(|kind| {
            Selector::parse(kind, "", route.param("fieldSelector"))
                .ok()?
                .name()
                .map(str::to_owned)
        });
        Ok(route)
    }

    fn resolve(&mut self, group: &str, rest: &[&str]) -> Result<(), ApiError> {
        let find = |plural: &str, namespaced: Option<bool>| {
            kinds::by_resource(group, "v1", plural)
                .filter(|k| namespaced.is_none_or(|n| k.namespaced == n))
                .ok_or_else(ApiError::no_such_resource)
        };
        // The path of a namespace looks like the beginning of a namespaced path.
        let (kind, namespace, rest) = match rest {
            ["namespaces"] => (find("namespaces", None)?, "", &rest[1..]),
            ["namespaces", _] | ["namespaces", _, "status"] if group.is_empty() => {
                (find("namespaces", None)?, "", &rest[1..])
            }
            ["namespaces", namespace, plural, ..] => (find(plural, Some(true))?, *namespace, &rest[3..]),
            [plural, ..] => (find(plural, None)?, "", &rest[1..]),
            [] => return Err(ApiError::no_such_resource()),
        };
        match rest {
            [] => {}
            [name] => (*name).clone_into(&mut self.name),
            [name, "status"] if kind.status => {
                (*name).clone_into(&mut self.name);
                self.status = true;
            }
            _ => return Err(ApiError::no_such_resource()),
        }
        if kind.namespaced && namespace.is_empty() && !self.name.is_empty() {
            return Err(ApiError::no_such_resource());
        }
        self.kind = Some(kind);
        namespace.clone_into(&mut self.namespace);
        Ok(())
    }

    fn verb_of(&self, method: &Method) -> Result<&'static str, ApiError> {
        let one = !self.name.is_empty();
        let everywhere = self.namespace.is_empty() && self.kind.is_some_and(|k| k.namespaced);
        let verb = match *method {
            Method::POST if !one && self.is_review() => "create",
            _ if self.is_review() => return Err(ApiError::method_not_allowed()),
            Method::GET if self.flag("watch") && !one => "watch",
            Method::GET if one => "get",
            Method::GET => "list",
            Method::POST if !one && !everywhere => "create",
            Method::PUT if one => "update",
            Method::PATCH if one => "patch",
            Method::DELETE if one && !self.status => "delete",
            Method::DELETE if !one && !everywhere && self.namespaced() => "deletecollection",
            _ => return Err(ApiError::method_not_allowed()),
        };
        Ok(verb)
    }

    /// Whether this is a review, which can only be created.
    pub(crate) fn is_review(&self) -> bool {
        self.kind.is_some_and(|kind| kind.storage == Storage::Review)
    }

    fn namespaced(&self) -> bool {
        self.kind.is_some_and(|k| k.namespaced)
    }

    /// The API group, or empty for the core group or if there is no kind.
    #[must_use]
    pub fn group(&self) -> &'static str {
        self.kind.map_or("", |k| k.group)
    }

    /// The resource, such as `services` or `services/status`, or empty.
    #[must_use]
    pub fn resource(&self) -> String {
        let plural = self.kind.map_or("", |k| k.plural);
        if self.status {
            format!("{plural}/status")
        } else {
            plural.to_owned()
        }
    }

    /// The name that is compared with the resourceNames of RBAC rules: the name in the path, or in the field selector
    /// of a collection.
    #[must_use]
    pub fn rbac_name(&self) -> &str {
        if self.name.is_empty() {
            self.selected_name.as_deref().unwrap_or_default()
        } else {
            &self.name
        }
    }

    /// A query parameter, or empty if it is absent.
    #[must_use]
    pub fn param(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// Whether a query parameter is true.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.param(name), "1" | "true" | "True")
    }
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .map(|(k, v)| (percent_decode(k), percent_decode(v)))
        .collect()
}

fn percent_decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).unwrap_or(0);
                u8::try_from(digit() * 16 + digit()).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &Method, path: &str, query: &str) -> Result<(String, String), u16> {
        Route::parse(method, path, query)
            .map(|r| {
                (
                    format!("{} {}", r.verb, r.resource()),
                    format!("{}/{}", r.namespace, r.rbac_name()),
                )
            })
            .map_err(|e| e.code)
    }

    #[test]
    fn paths_and_methods_are_routed() {
        let ok = |what: &str, place: &str| Ok((what.to_owned(), place.to_owned()));
        let slices = "/apis/discovery.k8s.io/v1/namespaces/d/endpointslices";
        assert_eq!(parse(&Method::GET, slices, ""), ok("list endpointslices", "d/"));
        assert_eq!(
            parse(&Method::GET, slices, "watch=1"),
            ok("watch endpointslices", "d/")
        );
        let selected = "fieldSelector=metadata.name%3Dx";
        assert_eq!(
            parse(&Method::GET, slices, selected),
            ok("list endpointslices", "d/x")
        );
        assert_eq!(
            parse(&Method::PUT, "/api/v1/namespaces/d/services/s/status", ""),
            ok("update services/status", "d/s")
        );
        assert_eq!(
            parse(&Method::DELETE, "/api/v1/namespaces/d", ""),
            ok("delete namespaces", "/d")
        );
        assert_eq!(
            parse(&Method::GET, "/api/v1/services", ""),
            ok("list services", "/")
        );
        assert_eq!(parse(&Method::POST, "/api/v1/services", ""), Err(405));
        assert_eq!(parse(&Method::POST, &format!("{slices}/x"), ""), Err(405));
        assert_eq!(parse(&Method::GET, "/api/v1/namespaces/d/pods", ""), Err(404));
        assert_eq!(parse(&Method::GET, "/apis/apps/v1/deployments", ""), Err(404));
    }
}
