//! Objects and fields that few clusters need: monitors, a dashboard, `FlowSchemas`, the Pod of `helm test`, and extra
//! objects.

use std::io::Write as _;
use std::process::{Command, Stdio};

use harness::{Cluster, Platform, skipped};
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, chart, container, find, helm, helms, tools};
use crate::kubernetes::is_custom;
use crate::released::{clusters, release};

fn pod(objects: &[Value]) -> &Value {
    &find(objects, "Deployment", "")["spec"]["template"]["spec"]
}

fn count(objects: &[Value], kind: &str) -> usize {
    objects.iter().filter(|object| object["kind"] == kind).count()
}

#[test]
fn pod_fields_appear_in_the_deployment_and_the_test_pod() {
    let Some(helm) = helm() else { return };
    let defaults = helm.render(&[]);
    let fields = [
        "hostNetwork",
        "dnsPolicy",
        "dnsConfig",
        "hostAliases",
        "schedulerName",
        "runtimeClassName",
    ];
    for field in fields {
        assert!(pod(&defaults).get(field).is_none(), "{field}");
    }
    let everything = format!("--values={}", chart().join("ci/everything-values.yaml").display());
    let rendered = helm.render(&[&everything]);
    let of_test = &find(&rendered, "Pod", "-test-status")["spec"];
    for (field, value) in fields.into_iter().zip([
        json!(true),
        json!("ClusterFirstWithHostNet"),
        json!({"options": [{"name": "ndots", "value": "1"}]}),
        json!([{"ip": "192.0.2.1", "hostnames": ["api.example.com"]}]),
        json!("other-scheduler"),
        json!("kata"),
    ]) {
        assert_eq!(pod(&rendered)[field], value, "{field}");
        assert_eq!(of_test[field], value, "{field} of helm test");
    }
    let annotations = &find(&rendered, "Deployment", "")["metadata"]["annotations"];
    assert_eq!(annotations["example.com/deployment"], "annotation");
    assert_eq!(annotations["example.com/contact"], "edge");
}

/// Rule: chart.roll
#[test]
fn pods_with_host_network_are_replaced_one_by_one() {
    let Some(helm) = helm() else { return };
    let rendered = helm.render(&["--set", "hostNetwork=true"]);
    let rolling = &find(&rendered, "Deployment", "")["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(*rolling, json!({"maxSurge": 0, "maxUnavailable": 1}));
}

#[test]
fn the_test_pod_runs_status_with_settings_of_the_operator() {
    for helm in helms() {
        let rendered = helm.render(&[
            "--set",
            "networkPolicy.enabled=true,metrics.podMonitor.enabled=true",
        ]);
        let test = find(&rendered, "Pod", "-test-status");
        let annotations = &test["metadata"]["annotations"];
        assert_eq!(annotations["helm.sh/hook"], "test");
        // With `hook-succeeded`, Helm 3 deletes the Pod before `helm test --logs` reads its log, and then fails.
        assert_eq!(annotations["helm.sh/hook-delete-policy"], "before-hook-creation");
        let (status, manager) = (&test["spec"]["containers"][0], container(&rendered));
        assert_eq!(status["command"], json!(["/endpoint-copier-operator", "status"]));
        for same in ["image", "env", "resources", "securityContext"] {
            assert_eq!(status[same], manager[same], "{same}");
        }
        for same in [
            "serviceAccountName",
            "securityContext",
            "tolerations",
            "automountServiceAccountToken",
        ] {
            assert_eq!(test["spec"][same], pod(&rendered)[same], "{same}");
        }
        // A PodDisruptionBudget that selects a Pod without a controller blocks drains.
        let labels = &test["metadata"]["labels"];
        for (kind, selector) in [
            ("Deployment", "/spec/selector/matchLabels"),
            ("PodDisruptionBudget", "/spec/selector/matchLabels"),
            ("NetworkPolicy", "/spec/podSelector/matchLabels"),
            ("PodMonitor", "/spec/selector/matchLabels"),
            ("Service", "/spec/selector"),
        ] {
            let selector = find(&rendered, kind, "").pointer(selector);
            let selector = selector.and_then(Value::as_object).expect("labels");
            let selects = selector.iter().all(|(label, value)| labels[label] == *value);
            assert!(!selects, "{kind} selects the Pod of helm test");
        }
    }
}

#[test]
fn a_pod_monitor_selects_the_pods_instead_of_a_service() {
    let Some(helm) = helm() else { return };
    assert_eq!(count(&helm.render(&[]), "PodMonitor"), 0);
    let on = "metrics.podMonitor.enabled=true,metrics.service.enabled=false";
    let more =
        "namespaceOverride=edge,metrics.podMonitor.namespace=monitoring,metrics.podMonitor.interval=15s";
    let rendered = helm.render(&["--set", on, "--set", more]);
    let monitor = find(&rendered, "PodMonitor", "");
    assert_eq!(monitor["metadata"]["namespace"], "monitoring");
    let spec = &monitor["spec"];
    let pods = &find(&rendered, "Deployment", "")["spec"]["template"]["metadata"]["labels"];
    for (label, value) in spec["selector"]["matchLabels"].as_object().expect("labels") {
        assert_eq!(pods[label], *value, "{label}");
    }
    assert_eq!(spec["namespaceSelector"]["matchNames"], json!(["edge"]));
    let endpoint = &spec["podMetricsEndpoints"][0];
    assert_eq!(endpoint["port"], container(&rendered)["ports"][0]["name"]);
    assert_eq!(endpoint["interval"], "15s");
    let job = json!({"targetLabel": "job", "replacement": "endpoint-copier-operator"});
    assert_eq!(endpoint["relabelings"], json!([job]));
    let both = "metrics.podMonitor.enabled=true,metrics.serviceMonitor.enabled=true";
    let refusal = helm.refusal(&["--set", both]);
    assert!(refusal.contains("would scrape each Pod twice"), "{refusal}");
}

#[test]
fn render_mode_applies_when_the_kind_of_a_monitor_is_missing() {
    for helm in helms() {
        for (section, kind) in [("serviceMonitor", "ServiceMonitor"), ("podMonitor", "PodMonitor")] {
            let on =
                |mode: &str| format!("metrics.{section}.enabled=true,metrics.{section}.renderMode={mode}");
            let known = format!("--api-versions=monitoring.coreos.com/v1/{kind}");
            for (mode, without) in [("alwaysRender", 1), ("skipIfMissing", 0)] {
                let set = on(mode);
                assert_eq!(count(&helm.render(&["--set", &set]), kind), without, "{set}");
                assert_eq!(count(&helm.render(&["--set", &set, &known]), kind), 1, "{set}");
            }
            let set = on("failIfMissing");
            let refusal = helm.refusal(&["--set", &set]);
            assert!(refusal.contains("the cluster does not have"), "{refusal}");
            assert_eq!(count(&helm.render(&["--set", &set, &known]), kind), 1, "{set}");
        }
    }
}

#[test]
fn a_grafana_dashboard_object_has_the_dashboard_of_the_chart() {
    let Some(helm) = helm() else { return };
    assert_eq!(count(&helm.render(&[]), "GrafanaDashboard"), 0);
    let on = "grafanaDashboard.grafanaOperator.enabled=true";
    let rendered = helm.render(&["--set", on]);
    let spec = &find(&rendered, "GrafanaDashboard", "")["spec"];
    assert_eq!(
        spec["json"].as_str().map(str::trim_end),
        Some(crate::helm::file("files/dashboard.json").trim_end())
    );
    assert_eq!(
        spec["instanceSelector"],
        json!({"matchLabels": {"dashboards": "grafana"}})
    );
    assert_eq!(spec["allowCrossNamespaceImport"], true);
    assert_eq!(count(&rendered, "ConfigMap"), 0);
    let own = "grafanaDashboard.grafanaOperator.matchLabels.grafana=main";
    let rendered = helm.render(&["--set", on, "--set", own]);
    let spec = &find(&rendered, "GrafanaDashboard", "")["spec"];
    assert_eq!(
        spec["instanceSelector"],
        json!({"matchLabels": {"grafana": "main"}})
    );
}

#[test]
fn extra_objects_are_rendered_as_templates() {
    for helm in helms() {
        let extra = json!([
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "{{ .Release.Name }}-one"}},
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {{ .Release.Namespace }}-two\n",
        ]);
        let rendered = helm.render(&["--set-json", &format!("extraObjects={extra}")]);
        assert_eq!(count(&rendered, "Secret"), 2);
        find(&rendered, "Secret", "copier-one");
        find(&rendered, "Secret", &format!("{NAMESPACE}-two"));
    }
}

#[test]
fn flow_schemas_match_requests_of_the_service_account() {
    let Some(helm) = helm() else { return };
    assert_eq!(count(&helm.render(&[]), "FlowSchema"), 0);
    let set = "apiPriority.enabled=true,namespaceOverride=edge,serviceAccount.name=mine,leaderElection.namespace=leases";
    let rendered = helm.render(&["--set", set]);
    let account =
        json!([{"kind": "ServiceAccount", "serviceAccount": {"name": "mine", "namespace": "edge"}}]);
    for (ending, level) in [("-leases", "leader-election"), ("-copies", "workload-high")] {
        let spec = &find(&rendered, "FlowSchema", ending)["spec"];
        assert_eq!(spec["priorityLevelConfiguration"]["name"], level);
        assert_eq!(spec["rules"][0]["subjects"], account);
        // This schema must precede the one for all ServiceAccounts.
        assert!(
            spec["matchingPrecedence"]
                .as_u64()
                .is_some_and(|place| place < 9000)
        );
    }
    let rules = |ending| find(&rendered, "FlowSchema", ending)["spec"]["rules"][0]["resourceRules"].clone();
    assert_eq!(rules("-leases")[0]["namespaces"], json!(["leases"]));
    for rule in rules("-copies").as_array().expect("rules") {
        assert_eq!(
            rule["clusterScope"], true,
            "{rule} excludes lists of all namespaces"
        );
    }
}

/// Asserts that the API server accepts each object with `--dry-run=server`.
fn assert_accepted(cluster: &Cluster, kubectl: &std::path::Path, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut child = Command::new(kubectl)
        .args(["apply", "--dry-run=server", "--filename=-", "--kubeconfig"])
        .arg(cluster.kubeconfig_with(0, None))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin
        .write_all(list.to_string().as_bytes())
        .expect("kubectl reads");
    drop(stdin);
    let output = child.wait_with_output().expect("kubectl ends");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let accepted = String::from_utf8_lossy(&output.stdout).lines().count();
    assert_eq!(accepted, objects.len(), "{error}");
}

/// Rule: chart.valid
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_is_accepted_in_a_dry_run_on_api_server() {
    let kubectl = tools().join("kubectl");
    if !kubectl.is_file() {
        return skipped("kubectl");
    }
    for pair in &clusters().await {
        let (release, cluster) = (release(pair), &pair.1);
        for namespace in ["edge", "leases", "monitoring", "targets", "vips"] {
            cluster.namespace(namespace).await;
        }
        let set = "apiPriority.enabled=true,resourceQuota.enabled=true";
        release.apply("install", &chart(), &["--create-namespace", "--set", set]);
        // The ServiceAccount exists now, so the Pod of helm test is admitted too.
        let rendered = release.helm.render(&["--set", set]);
        let test = find(&rendered, "Pod", "").clone();
        assert_accepted(cluster, &kubectl, &[test]);
        let everything = format!("--values={}", chart().join("ci/everything-values.yaml").display());
        let mut rendered = release.helm.render(&[&everything]);
        rendered.retain(|object| !is_custom(object) && object["kind"] != "Pod");
        assert!(count(&rendered, "FlowSchema") == 2 && count(&rendered, "ConfigMap") == 3);
        assert_accepted(cluster, &kubectl, &rendered);
        assert!(Platform::Real.is_here());
    }
}
