use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use http_body_util::Full;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;
use tower::BoxError;

use super::*;
use crate::controller::watch::Reader;
use crate::controller::workqueue::DirtySet;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::watch_health::WatchHealth;
use endpoint_copier_core::index::{Scope, SharedIndex};
use endpoint_copier_core::model::{ConsentPolicy, Defaults, ServiceKey};
use endpoint_copier_core::testing::{Build as _, BuildService as _, defaults, plain_service, service};

/// The state of the API of ReferenceGrants.
#[derive(Clone, Copy, Debug)]
enum GrantApi {
    /// The API in this version, with one grant.
    Grant(&'static str),
    /// The API in this version, without a grant.
    Nothing(&'static str),
    /// No version of the API.
    NoVersion,
    /// 503 for every request.
    Unavailable,
    /// 429 for discovery, with `Retry-After: 60`.
    Overloaded,
    /// The API in `v1`, with 403 for lists.
    Forbidden,
    /// 403 for every request.
    AllForbidden,
}

fn forbidden() -> (u16, Option<Value>) {
    let status = json!({"code": 403, "status": "Failure", "message": "", "reason": "Forbidden"});
    (403, Some(status))
}

fn answer(state: GrantApi, path: &str, query: &str) -> (u16, Option<Value>) {
    let version = match state {
        GrantApi::Grant(version) | GrantApi::Nothing(version) => version,
        GrantApi::Forbidden => "v1",
        GrantApi::NoVersion => "",
        GrantApi::Unavailable => return (503, Some(json!({}))),
        GrantApi::AllForbidden => return forbidden(),
        GrantApi::Overloaded => {
            let details = json!({"retryAfterSeconds": 60});
            return (
                429,
                Some(json!({"code": 429, "status": "Failure", "details": details})),
            );
        }
    };
    let group = format!("/apis/{GROUP}/{version}");
    if path == group {
        let resource = json!({"name": "referencegrants", "namespaced": true, "kind": "ReferenceGrant", "singularName": "", "verbs": ["list"]});
        return (
            200,
            Some(json!({"groupVersion": format!("{GROUP}/{version}"), "resources": [resource]})),
        );
    }
    if path != format!("{group}/referencegrants") {
        return (
            404,
            Some(json!({"code": 404, "status": "Failure", "message": "", "reason": "NotFound"})),
        );
    }
    if query.contains("watch=true") {
        return (200, None);
    }
    let grant = json!({
        "metadata": {"namespace": "web", "name": "grant"},
        "spec": {
            "from": [{"group": "", "kind": "Service", "namespace": "default"}],
            "to": [{"group": "", "kind": "Service"}],
        },
    });
    let items = match state {
        GrantApi::Grant(_) => vec![grant],
        GrantApi::Forbidden => return forbidden(),
        _ => Vec::new(),
    };
    (
        200,
        Some(json!({"metadata": {"resourceVersion": "7"}, "items": items})),
    )
}

/// An index that is fed by a watch of grants, and in which `default/vip` names `web/app` as its source.
struct Scene {
    state: Arc<Mutex<GrantApi>>,
    index: SharedIndex,
    /// The number of requests.
    requests: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Scene {
    fn new(state: GrantApi) -> Self {
        let state = Arc::new(Mutex::new(state));
        let requests = Arc::<AtomicUsize>::default();
        let (current, count) = (state.clone(), requests.clone());
        let api = tower::service_fn(move |request: Request<Body>| {
            let (path, query) = (
                request.uri().path().to_owned(),
                request.uri().query().unwrap_or_default().to_owned(),
            );
            count.fetch_add(1, Ordering::Relaxed);
            let (code, body) = answer(*current.lock(), &path, &query);
            async move {
                let Some(body) = body else {
                    // A watch without an event.
                    return std::future::pending::<Result<Response<Full<bytes::Bytes>>, BoxError>>().await;
                };
                let response = Response::builder()
                    .status(code)
                    .header("content-type", "application/json");
                Ok(response
                    .body(Full::new(body.to_string().into()))
                    .expect("a response"))
            }
        });
        let metrics = Metrics::new("lease").expect("metrics");
        let index: SharedIndex = Arc::new(Mutex::new(Index::new(Defaults {
            consent: ConsentPolicy::default(),
            ..defaults()
        })));
        {
            let mut index = index.lock();
            index.apply_service(&service("vip").source("web", "app"));
            index.apply_service(&plain_service("app").namespace("web"));
            index.services_listed(&[vip(), ServiceKey::new("web", "app")].into());
            index.slices_listed(&Scope::Copies, &[].into());
            index.slices_listed(&Scope::Named(Arc::new(["app".to_owned()].into())), &[].into());
        }
        let watches = Watches {
            reader: Reader {
                client: crate::apiserver::over(api, "default", &metrics),
                watch_health: WatchHealth::default(),
                metrics,
            },
            index: index.clone(),
            dirty: DirtySet::default(),
        };
        Self {
            state,
            index,
            requests,
            _task: AbortOnDropHandle::new(tokio::spawn(grants(watches))),
        }
    }

    /// Waits, and returns what the index then says about permission for `default/vip` to copy its source.
    async fn after(&self, seconds: u64) -> &'static str {
        sleep(Duration::from_secs(seconds)).await;
        match self.index.lock().snapshot(&vip()) {
            None => "unknown",
            Some(snapshot) if snapshot.source.is_some() => "permitted",
            Some(snapshot) if snapshot.refusal.as_ref().is_some_and(|refusal| refusal.is_final) => "refused",
            Some(_) => "refused for now",
        }
    }
}

fn vip() -> ServiceKey {
    ServiceKey::new("default", "vip")
}

/// Rule: 9.discovery, 9.reference-grant
#[tokio::test(start_paused = true)]
async fn grants_are_read_in_the_version_that_is_served() {
    for version in ["v1", "v1beta1"] {
        let scene = Scene::new(GrantApi::Grant(version));
        assert_eq!(scene.after(1).await, "permitted", "{version}");
        assert!(
            scene.index.lock().names().contains("app"),
            "the source is not watched"
        );
        let none = Scene::new(GrantApi::Nothing(version));
        assert_eq!(none.after(1).await, "refused", "{version}");
    }
}

/// Rule: 9.discovery
#[tokio::test(start_paused = true)]
async fn absence_of_grants_is_final_after_five_minutes() {
    let scene = Scene::new(GrantApi::NoVersion);
    assert_eq!(scene.after(1).await, "refused for now");
    assert_eq!(scene.after(290).await, "refused for now");
    assert_eq!(scene.after(120).await, "refused");
    *scene.state.lock() = GrantApi::Grant("v1");
    assert_eq!(scene.after(61).await, "permitted");
}

/// Rule: 9.discovery
#[tokio::test(start_paused = true)]
async fn consent_ends_five_minutes_after_grant_api_answers_403_or_404() {
    for end in [GrantApi::NoVersion, GrantApi::Forbidden] {
        let scene = Scene::new(GrantApi::Grant("v1"));
        assert_eq!(scene.after(1).await, "permitted");
        *scene.state.lock() = end;
        assert_eq!(scene.after(300).await, "permitted", "{end:?}");
        assert_eq!(scene.after(600).await, "refused", "{end:?}");
    }
}

/// Rule: 9.discovery
#[tokio::test(start_paused = true)]
async fn a_failing_api_server_withdraws_no_consent() {
    let scene = Scene::new(GrantApi::Unavailable);
    assert_eq!(scene.after(3600).await, "unknown");
    *scene.state.lock() = GrantApi::Grant("v1");
    assert_eq!(scene.after(120).await, "permitted");
    *scene.state.lock() = GrantApi::Unavailable;
    assert_eq!(scene.after(3600).await, "permitted");
}

/// Rule: survive.overload-discovery
#[tokio::test(start_paused = true)]
async fn discovery_waits_as_long_as_retry_after_asks() {
    let scene = Scene::new(GrantApi::Overloaded);
    for (seconds, requests) in [(59, 1), (60, 2), (600, 12)] {
        assert_eq!(scene.after(seconds).await, "unknown");
        assert_eq!(scene.requests.load(Ordering::Relaxed), requests);
    }
    *scene.state.lock() = GrantApi::Grant("v1");
    assert_eq!(scene.after(61).await, "permitted");
}

/// Rule: 9.discovery
#[tokio::test(start_paused = true)]
async fn source_is_refused_after_five_minutes_without_rights() {
    for state in [GrantApi::Forbidden, GrantApi::AllForbidden] {
        let scene = Scene::new(state);
        assert_eq!(scene.after(290).await, "unknown", "{state:?}");
        assert_eq!(scene.after(120).await, "refused", "{state:?}");
    }
}

/// An API server that has just started can return 403 until it has loaded its roles.
/// Rule: 9.discovery
#[tokio::test(start_paused = true)]
async fn brief_403_before_and_after_an_outage_withdraws_nothing() {
    let scene = Scene::new(GrantApi::Grant("v1"));
    assert_eq!(scene.after(1).await, "permitted");
    for state in [GrantApi::Forbidden, GrantApi::AllForbidden] {
        *scene.state.lock() = state;
        assert_eq!(scene.after(100).await, "permitted", "{state:?}");
        *scene.state.lock() = GrantApi::Unavailable;
        assert_eq!(scene.after(400).await, "permitted", "{state:?}");
        *scene.state.lock() = state;
        assert_eq!(scene.after(100).await, "permitted", "{state:?}");
        *scene.state.lock() = GrantApi::Grant("v1");
        assert_eq!(scene.after(100).await, "permitted", "{state:?}");
    }
}
