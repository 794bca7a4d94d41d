//! The admission policies of the chart, on a real API server, because the testbed does not evaluate them.

use harness::{Cluster, until};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, Role, RoleBinding};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, chart, find, helm};
use crate::released::{clusters, release};

/// The user name of the operator. Tests give it more permissions than the chart does: the policies must also hold if an
/// attacker with the operator's token gains permissions in another way.
pub const OPERATOR: &str = "system:serviceaccount:copier:endpoint-copier-operator";

const SERVICES: &str = "/api/v1/namespaces/team-a/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/team-a/endpointslices";
const AUTHENTICATION: &str = "/apis/authentication.k8s.io/v1";
const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces";

/// Sends a request as a user. Returns the status code and the body of the response.
pub async fn send(cluster: &Cluster, user: &str, method: &str, path: &str, body: Value) -> (u16, String) {
    let merge = "application/merge-patch+json";
    let kind = if method == "PATCH" {
        merge
    } else {
        "application/json"
    };
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("Impersonate-User", user)
        .header(http::header::CONTENT_TYPE, kind)
        .body(body.into_bytes().into())
        .expect("a request");
    let (parts, body) = cluster
        .client()
        .send(request)
        .await
        .expect("an answer")
        .into_parts();
    let body = http_body_util::BodyExt::collect(body)
        .await
        .expect("a body")
        .to_bytes();
    (parts.status.as_u16(), String::from_utf8_lossy(&body).into_owned())
}

/// Sends a request as a user. Returns an error, with the body of the response, if an admission policy rejects it.
async fn admitted(
    cluster: &Cluster,
    user: &str,
    method: &str,
    path: &str,
    body: Value,
) -> Result<(), String> {
    match send(cluster, user, method, path, body).await {
        (200..=299, _) => Ok(()),
        (_, text) => {
            assert!(
                text.contains("ValidatingAdmissionPolicy"),
                "{method} {path}: {text}"
            );
            Err(text)
        }
    }
}

/// Grants a user verbs on the Service with this name, or, without a name, on all Services of a namespace.
async fn allow(cluster: &Cluster, namespace: &str, user: &str, verbs: &[&str], name: Option<&str>) {
    let role = format!("{user}-{}-{}", verbs.join("-"), name.unwrap_or("all"));
    let names: Vec<_> = name.into_iter().collect();
    cluster
        .create::<Role>(json!({
            "metadata": {"name": role, "namespace": namespace},
            "rules": [{"apiGroups": [""], "resources": ["services", "services/status"], "verbs": verbs, "resourceNames": names}],
        }))
        .await;
    cluster
        .create::<RoleBinding>(json!({
            "metadata": {"name": role, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }))
        .await;
}

fn service(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "team-a", "annotations": annotations},
        "spec": {"ports": [{"port": 80}]},
    })
}

/// Annotations of a managed Service whose source is `web/<name>`.
fn of_web(name: &str) -> Value {
    json!({
        "endpoint-copier/enabled": "true",
        "endpoint-copier/default-service-name": name,
        "endpoint-copier/default-service-namespace": "web",
    })
}

fn slice(name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
        "metadata": {"name": name, "namespace": "team-a", "labels": labels},
    })
}

fn lease(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": namespace},
    })
}

/// Rule: 9.admission-users
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_name_only_sources_that_they_may_get_on_api_server() {
    for pair in &clusters().await {
        let (release, cluster) = (release(pair), &pair.1);
        for namespace in ["web", "team-a"] {
            cluster.namespace(namespace).await;
        }
        let set = "admission.users.enabled=true,admission.users.verb=copy";
        release.apply("install", &chart(), &["--create-namespace", "--set", set]);
        allow(cluster, "team-a", "tom", &["create", "update", "patch"], None).await;
        let create = async |name: &str, annotations: Value| {
            admitted(cluster, "tom", "POST", SERVICES, service(name, &annotations)).await
        };
        let mut refusal = Ok(());
        until("the policy is in effect", async || {
            let dry_run = format!("{SERVICES}?dryRun=All");
            refusal = admitted(cluster, "tom", "POST", &dry_run, service("a", &of_web("app"))).await;
            refusal.is_err()
        })
        .await;
        let text = refusal.expect_err("a refusal");
        assert!(text.contains("you may not get the Service web/app"), "{text}");
        // The default source is a source like any other.
        let enabled = json!({"endpoint-copier/enabled": "true"});
        let text = create("a", enabled.clone()).await.expect_err("a refusal");
        assert!(
            text.contains("you may not get the Service default/kubernetes"),
            "{text}"
        );
        // A Service that is not managed may have any annotation. The policy checks the write that enables the Service,
        // even if it is a write of the status.
        let mut off = of_web("app");
        off["endpoint-copier/enabled"] = json!("false");
        create("off", off).await.expect("a disabled Service is admitted");
        let on = json!({"metadata": {"annotations": enabled}});
        for path in [format!("{SERVICES}/off"), format!("{SERVICES}/off/status")] {
            assert!(
                admitted(cluster, "tom", "PATCH", &path, on.clone())
                    .await
                    .is_err(),
                "{path}"
            );
        }
        create("plain", json!({"a": "b"}))
            .await
            .expect("a Service without our annotations is admitted");

        allow(cluster, "web", "tom", &["get"], Some("app")).await;
        let mut text = String::new();
        until("the permission to get is in effect", async || {
            text = create("b", of_web("app"))
                .await
                .expect_err("the user needs the other verb too");
            !text.contains("you may not get")
        })
        .await;
        assert!(text.contains("you may not copy the Service web/app"), "{text}");
        allow(cluster, "web", "tom", &["copy"], Some("app")).await;
        until("the permission to copy is in effect", async || {
            create("b", of_web("app")).await.is_ok()
        })
        .await;
        let other = json!({"metadata": {"annotations": of_web("database")}});
        let path = format!("{SERVICES}/b");
        assert!(admitted(cluster, "tom", "PATCH", &path, other).await.is_err());
        let unrelated = json!({"metadata": {"labels": {"a": "b"}}});
        admitted(cluster, "tom", "PATCH", &path, unrelated)
            .await
            .expect("a change to other fields is admitted");
    }
}

/// With an empty value, the operator uses the default of its flag.
/// Rule: 9.admission-users
#[test]
fn empty_default_source_is_that_of_the_flags_in_the_policy() {
    let Some(helm) = helm() else { return };
    let policy = |set: &str| {
        let set = format!("admission.users.enabled=true,{set}");
        find(
            &helm.render(&["--set", &set]),
            "ValidatingAdmissionPolicy",
            "-users",
        )["spec"]
            .clone()
    };
    assert_eq!(
        policy("defaultEndpoint.name=,defaultEndpoint.namespace="),
        policy("defaultEndpoint.name=kubernetes,defaultEndpoint.namespace=default")
    );
}

/// Grants the operator all permissions.
async fn bind_to_everything(cluster: &Cluster) {
    let bindings: Api<ClusterRoleBinding> = Api::all(cluster.client());
    let everything = json!({
        "metadata": {"name": "everything"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": OPERATOR}],
    });
    let everything = serde_json::from_value(everything).expect("a binding");
    bindings
        .create(&kube::api::PostParams::default(), &everything)
        .await
        .expect("the binding is created");
}

async fn until_policy_is_in_effect(cluster: &Cluster, namespace: &str) {
    let dry_run = format!("/api/v1/namespaces/{namespace}/secrets?dryRun=All");
    until("the policy is in effect", async || {
        let secret = json!({"metadata": {"name": "a"}});
        admitted(cluster, OPERATOR, "POST", &dry_run, secret)
            .await
            .is_err()
    })
    .await;
}

/// Rule: 9.admission-operator
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stolen_operator_token_writes_only_its_objects_on_api_server() {
    const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
    for pair in &clusters().await {
        let (release, cluster) = (release(pair), &pair.1);
        cluster.namespace("team-a").await;
        let set = "admission.operator.enabled=true";
        release.apply("install", &chart(), &["--create-namespace", "--set", set]);
        bind_to_everything(cluster).await;
        let ours = json!({MANAGED_BY: "endpoint-copier-operator"});
        let foreign = json!({MANAGED_BY: "endpointslice-controller.k8s.io"});
        let leftover = json!({"kubernetes.io/service-name": "vip", "endpoint-copier/source": "kubernetes"});
        for (name, labels) in [("foreign", &foreign), ("vip", &leftover), ("other", &leftover)] {
            let code = cluster.post(SLICES, slice(name, labels)).await;
            assert_eq!(code, 201, "{name}");
        }
        until_policy_is_in_effect(cluster, "team-a").await;
        let secrets = "/api/v1/namespaces/team-a/secrets";
        let one = |name: &str| format!("{SLICES}/{name}");
        let with_labels = |labels: &Value| json!({"metadata": {"labels": labels}});
        let leases = |namespace: &str| format!("{LEASES}/{namespace}/leases");
        let token = json!({"spec": {"token": "a"}});
        let access =
            json!({"spec": {"user": "tom", "nonResourceAttributes": {"path": "/metrics", "verb": "get"}}});
        for (method, path, body, is_admitted) in [
            ("POST", SLICES.to_owned(), slice("copy", &ours), true),
            ("PATCH", one("copy"), json!({"endpoints": []}), true),
            ("PATCH", one("copy"), with_labels(&foreign), false),
            ("POST", SLICES.to_owned(), slice("more", &json!({})), false),
            ("PATCH", one("foreign"), with_labels(&ours), false),
            ("PATCH", one("vip"), with_labels(&ours), false),
            ("DELETE", one("foreign"), Value::Null, false),
            ("DELETE", one("other"), Value::Null, false),
            ("DELETE", one("vip"), Value::Null, true),
            ("DELETE", one("copy"), Value::Null, true),
            (
                "POST",
                secrets.to_owned(),
                json!({"metadata": {"name": "a"}}),
                false,
            ),
            ("POST", SERVICES.to_owned(), service("a", &json!({})), false),
            (
                "DELETE",
                "/api/v1/namespaces/team-a".to_owned(),
                Value::Null,
                false,
            ),
            ("POST", leases(NAMESPACE), lease(NAMESPACE, harness::LEASE), true),
            (
                "POST",
                leases(NAMESPACE),
                lease(NAMESPACE, &format!("{}-probes", harness::LEASE)),
                true,
            ),
            ("POST", leases(NAMESPACE), lease(NAMESPACE, "other"), false),
            // Secure metrics need reviews, which do not write anything.
            ("POST", format!("{AUTHENTICATION}/tokenreviews"), token, true),
            (
                "POST",
                format!("{AUTHORIZATION}/subjectaccessreviews"),
                access,
                true,
            ),
            ("POST", leases("team-a"), lease("team-a", harness::LEASE), false),
            (
                "DELETE",
                format!("{}/{}", leases(NAMESPACE), harness::LEASE),
                Value::Null,
                false,
            ),
        ] {
            let answer = admitted(cluster, OPERATOR, method, &path, body.clone()).await;
            assert_eq!(answer.is_ok(), is_admitted, "{method} {path} {body}: {answer:?}");
        }
        // Other users are not restricted.
        let code = cluster.post(SERVICES, service("a", &json!({}))).await;
        assert_eq!(code, 201);
        assert!(cluster.try_get::<Service>("team-a", "a").await.is_some());
        let namespaces: Api<Namespace> = Api::all(cluster.client());
        assert!(namespaces.get_opt("team-a").await.expect("an answer").is_some());
    }
}

/// Rule: 9.admission-conditions
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_token_writes_only_its_condition_on_api_server() {
    const OURS: &str = "endpoint-copier/InSync";
    for pair in &clusters().await {
        let (release, cluster) = (release(pair), &pair.1);
        let set = "admission.operator.enabled=true,serviceConditions.enabled=true,replicaCount=1";
        release.apply("install", &chart(), &["--create-namespace", "--set", set]);
        let status = |conditions: &[&Value]| json!({"status": {"conditions": conditions, "loadBalancer": {"ingress": [{"ip": "192.0.2.100"}]}}});
        let condition = |type_: &str, status: &str| json!({"type": type_, "status": status, "reason": "A", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let ready = condition("Ready", "True");
        let services: Api<Service> = Api::namespaced(cluster.client(), "default");
        cluster.create::<Service>(harness::objects::vip()).await;
        let theirs = Patch::Merge(status(&[&ready]));
        let params = PatchParams::default();
        let patched = services.patch_status("kubernetes-vip", &params, &theirs).await;
        patched.expect("a status");
        // The operator runs with the permissions of the chart and the token of its ServiceAccount.
        let pods = release.start_pods("copier").await;
        let found = async || {
            let service = cluster.try_get::<Service>("default", "kubernetes-vip").await;
            serde_json::to_value(service.expect("the Service")).expect("JSON")
        };
        until("the condition of the Service is True", async || {
            let conditions = found().await["status"]["conditions"].clone();
            let conditions = conditions.as_array().expect("a list");
            let is_in_sync = |it: &Value| it["type"] == OURS && it["status"] == "True";
            conditions.len() == 2 && conditions.contains(&ready) && conditions.iter().any(is_in_sync)
        })
        .await;
        for mut pod in pods {
            pod.operator.signal("TERM");
            assert!(pod.operator.ended().await.0.success());
        }
        // From here on, a client acts as the operator, with more permissions.
        bind_to_everything(cluster).await;
        until_policy_is_in_effect(cluster, "default").await;
        let path = "/api/v1/namespaces/default/services/kubernetes-vip";
        let metadata = |field: &str, value: Value| json!({"metadata": {field: value}});
        let owner = json!([{"apiVersion": "v1", "kind": "Service", "name": "a", "uid": "b"}]);
        let (own, ours) = (condition(OURS, "False"), condition(OURS, "Unknown"));
        let [moved, gone] = [json!([{"ip": "192.0.2.101"}]), Value::Null];
        let balancer = |ingress: Value| json!({"status": {"loadBalancer": {"ingress": ingress}}});
        for (subresource, body, is_admitted) in [
            ("/status", status(&[&ready, &own]), true),
            ("/status", status(&[&ready, &ours]), true),
            ("/status", status(&[&ready]), true),
            ("/status", status(&[&own]), false),
            ("/status", status(&[&condition("Ready", "False"), &own]), false),
            ("/status", status(&[&ready, &condition("Other", "True")]), false),
            ("/status", json!({"status": null}), false),
            ("/status", balancer(moved), false),
            ("/status", balancer(gone), false),
            ("/status", metadata("labels", json!({"a": "b"})), false),
            ("/status", metadata("annotations", json!({"a": "b"})), false),
            ("/status", metadata("finalizers", json!(["a.example/b"])), false),
            ("/status", metadata("ownerReferences", owner), false),
            ("", status(&[&ready, &own]), false),
        ] {
            let path = format!("{path}{subresource}");
            let answer = admitted(cluster, OPERATOR, "PATCH", &path, body.clone()).await;
            assert_eq!(answer.is_ok(), is_admitted, "{path} {body}: {answer:?}");
        }
        let spec = found().await["spec"].clone();
        let body = json!({"spec": {"externalIPs": ["192.0.2.7"]}});
        admitted(cluster, OPERATOR, "PATCH", &format!("{path}/status"), body)
            .await
            .expect("the API server ignores the spec");
        assert_eq!(found().await["spec"], spec);
    }
}

/// Rule: 9.admission-conditions
#[test]
fn policy_admits_status_writes_only_with_service_conditions() {
    let Some(helm) = helm() else { return };
    for (set, admits) in [("false", false), ("true", true)] {
        let set = format!("admission.operator.enabled=true,serviceConditions.enabled={set}");
        let rendered = helm.render(&["--set", &set]);
        let policy = find(&rendered, "ValidatingAdmissionPolicy", "-operator").to_string();
        assert_eq!(policy.contains("'/services/status'"), admits, "{policy}");
    }
}

/// The Go operator's Pods write slices without our label, and the policy would reject those writes.
#[test]
fn operator_policy_is_refused_with_rbac_for_the_go_operator() {
    let Some(helm) = helm() else { return };
    let set = "admission.operator.enabled=true,rbac.goOperator=true";
    let refusal = helm.refusal(&["--set", set]);
    assert!(refusal.contains("rbac.goOperator=false"), "{refusal}");
}
