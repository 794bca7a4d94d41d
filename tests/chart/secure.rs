//! Secure metrics: permissions, the mounted certificate, and how Prometheus scrapes them.

use harness::{https_get, until};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::admission::{OPERATOR, send};
use crate::helm::{Helm, chart, container, find, helm, helms};
use crate::released::{clusters, release};

const SECURE: &str = "metrics.secure.enabled=true";

/// The endpoint of the monitor that is rendered with these values.
fn endpoint(helm: &Helm, kind: &str, values: &str) -> Value {
    let rendered = helm.render(&["--set", values]);
    let spec = &find(&rendered, kind, "")["spec"];
    let list = ["endpoints", "podMetricsEndpoints"].map(|list| spec[list][0].clone());
    list.into_iter().find(Value::is_object).expect("an endpoint")
}

/// Rule: chart.secure-metrics
#[test]
fn prometheus_scrapes_secure_metrics_as_they_are_served() {
    const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let secret = "metrics.secure.authorization.credentials.name=scraper,metrics.secure.authorization.credentials.key=token";
    let credentials = json!({"credentials": {"name": "scraper", "key": "token"}});
    let by_ca = json!({
        "ca": {"secret": {"name": "certificate", "key": "ca.crt"}},
        "serverName": "endpoint-copier-operator-metrics.edge.svc",
    });
    let unverified = json!({"insecureSkipVerify": true});
    for helm in helms() {
        let service = "namespaceOverride=edge,metrics.serviceMonitor.enabled=true";
        let pod = "namespaceOverride=edge,metrics.podMonitor.enabled=true";
        let plain = endpoint(&helm, "ServiceMonitor", service);
        for field in ["scheme", "bearerTokenFile", "authorization", "tlsConfig"] {
            assert_eq!(plain.get(field), None, "{field}");
        }
        let certificate = "metrics.secure.secretName=certificate";
        let config = "metrics.serviceMonitor.namespace=monitoring,metrics.secure.tlsConfig.serverName=a";
        for (kind, values, token, authorization, tls) in [
            (
                "ServiceMonitor",
                service.to_owned(),
                json!(TOKEN),
                Value::Null,
                &unverified,
            ),
            (
                "ServiceMonitor",
                format!("{service},{certificate}"),
                json!(TOKEN),
                Value::Null,
                &by_ca,
            ),
            (
                "ServiceMonitor",
                format!("{service},{certificate},{config},{secret}"),
                Value::Null,
                credentials.clone(),
                &json!({"serverName": "a"}),
            ),
            (
                "PodMonitor",
                format!("{pod},{certificate},{secret}"),
                Value::Null,
                credentials.clone(),
                &by_ca,
            ),
        ] {
            let endpoint = endpoint(&helm, kind, &format!("{SECURE},{values}"));
            assert_eq!(endpoint["scheme"], "https", "{values}");
            assert_eq!(endpoint["port"], "metrics", "{values}");
            assert_eq!(endpoint["bearerTokenFile"], token, "{values}");
            assert_eq!(endpoint["authorization"], authorization, "{values}");
            assert_eq!(endpoint["tlsConfig"], *tls, "{values}");
        }
        let refusal = helm.refusal(&["--set", &format!("{SECURE},{pod}")]);
        assert!(
            refusal.contains("needs metrics.secure.authorization"),
            "{refusal}"
        );
        let elsewhere =
            format!("{SECURE},{service},{certificate},metrics.serviceMonitor.namespace=monitoring");
        let refusal = helm.refusal(&["--set", &elsewhere]);
        assert!(refusal.contains("set metrics.secure.tlsConfig"), "{refusal}");
    }
}

/// Rule: chart.secure-metrics
#[test]
fn certificate_is_mounted_where_the_operator_looks() {
    let Some(helm) = helm() else { return };
    let variable = |rendered: &[Value], name: &str| {
        let env = container(rendered)["env"].as_array().expect("a list");
        let variable = env.iter().find(|variable| variable["name"] == name);
        variable.map(|variable| variable["value"].as_str().expect("a string").to_owned())
    };
    let path = "ENDPOINT_COPIER_METRICS_CERT_PATH";
    for values in ["replicaCount=2", "metrics.secure.secretName=certificate", SECURE] {
        let rendered = helm.render(&["--set", values]);
        assert_eq!(variable(&rendered, path), None, "{values}");
        let secure = variable(&rendered, "ENDPOINT_COPIER_METRICS_SECURE");
        assert_eq!(
            secure.as_deref(),
            (values == SECURE).then_some("true"),
            "{values}"
        );
        assert_eq!(container(&rendered).get("volumeMounts"), None, "{values}");
    }
    let set = format!("{SECURE},metrics.secure.secretName=certificate");
    let more = "extraVolumes=[{\"name\":\"a\",\"emptyDir\":{}}]";
    let rendered = helm.render(&["--set", &set, "--set-json", more]);
    let mount = &container(&rendered)["volumeMounts"][0];
    assert_eq!(mount["mountPath"].as_str(), variable(&rendered, path).as_deref());
    assert_eq!(mount["readOnly"], true);
    let volumes = &find(&rendered, "Deployment", "")["spec"]["template"]["spec"]["volumes"];
    assert_eq!(volumes.as_array().map(Vec::len), Some(2));
    assert_eq!(volumes[0]["name"], mount["name"]);
    assert_eq!(volumes[0]["secret"]["secretName"], "certificate");
    assert_eq!(
        volumes[0]["secret"]["optional"], true,
        "Pods do not start without the Secret"
    );
    let service = &find(&rendered, "Service", "-metrics")["spec"];
    assert_eq!(service["ports"][0]["appProtocol"], "https");
}

/// Rule: chart.secure-metrics
#[test]
fn scrapers_have_a_cluster_role_while_metrics_are_secure() {
    let Some(helm) = helm() else { return };
    let readers = |values: &str| -> Vec<Value> {
        let rendered = helm.render(&["--set", values]);
        let is_reader = |object: &&Value| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            object["kind"] == "ClusterRole" && name.ends_with("-metrics-reader")
        };
        let readers = rendered.iter().filter(is_reader);
        readers.map(|role| role["rules"].clone()).collect()
    };
    let rule = json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]);
    assert_eq!(readers(SECURE), [rule]);
    for values in ["replicaCount=2", "metrics.secure.enabled=true,rbac.create=false"] {
        assert_eq!(readers(values), Vec::<Value>::new(), "{values}");
    }
}

/// The operator has the permissions of the chart and the token of its ServiceAccount.
/// Rule: 9.admission-operator
/// Rule: chart.secure-metrics
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_policy_admits_reviews_of_scrapers_on_api_server() {
    const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?dryRun=All";
    for pair in &clusters().await {
        let (release, cluster) = (release(pair), &pair.1);
        let set = format!("{SECURE},admission.operator.enabled=true,replicaCount=1");
        release.apply("install", &chart(), &["--create-namespace", "--set", &set]);
        let foreign = harness::objects::slice("default", "app", "app-x", &["10.0.0.1"]);
        until("the policy is in effect", async || {
            let (_, text) = send(cluster, OPERATOR, "POST", SLICES, foreign.clone()).await;
            text.contains("ValidatingAdmissionPolicy")
        })
        .await;
        let pods = release.start_pods("copier").await;
        let scrape = async |token: &str| {
            let stream = TcpStream::connect(pods[0].operator.metrics_address()).await;
            let answer = https_get(stream.expect("a listening operator"), "/metrics", Some(token)).await;
            answer.expect("an answer").code
        };
        assert_eq!(scrape(&cluster.token("admin")).await, 200);
        assert_eq!(scrape("unknown").await, 401);
    }
}
