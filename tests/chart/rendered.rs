//! The rendered objects, value by value.

use serde_json::{Value, json};

use crate::helm::{NAMESPACE, cases, chart, file, find, helm, helms, objects};

/// The spec of the Pods.
fn pod(objects: &[Value]) -> &Value {
    &find(objects, "Deployment", "")["spec"]["template"]["spec"]
}

fn kinds(objects: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<_> = objects
        .iter()
        .filter_map(|object| object["kind"].as_str())
        .collect();
    kinds.sort_unstable();
    kinds
}

/// Rule: chart.valid
#[test]
fn lint_reports_nothing() {
    for helm in helms() {
        let chart = chart().display().to_string();
        for (_, case) in cases() {
            let output = helm.succeed([
                "lint",
                "--strict",
                &chart,
                "--values",
                &case.display().to_string(),
            ]);
            assert!(
                !output.contains("[INFO]") && !output.contains("[WARNING]"),
                "{output}"
            );
        }
    }
}

/// Rule: chart.valid
#[test]
fn every_case_renders_the_same_with_every_helm() {
    let helms = helms();
    for (name, case) in cases() {
        let case = format!("--values={}", case.display());
        let rendered: Vec<_> = helms.iter().map(|helm| helm.render(&[&case])).collect();
        assert!(rendered.iter().all(|objects| objects.len() > 6), "{name}");
        assert!(rendered.windows(2).all(|two| two[0] == two[1]), "{name}");
    }
}

#[test]
fn a_package_renders_the_same_and_contains_values_and_readme() {
    for helm in helms() {
        let folder = tempfile::tempdir().expect("a folder");
        let into = folder.path().display().to_string();
        helm.succeed(["package", &chart().display().to_string(), "--destination", &into]);
        let package = folder.path().join("endpoint-copier-operator-0.4.0.tgz");
        assert_eq!(helm.render_chart(&package, &[]), helm.render(&[]));
        let package = package.display().to_string();
        assert_eq!(
            helm.succeed(["show", "values", &package]).trim(),
            file("values.yaml").trim()
        );
        assert_eq!(
            helm.succeed(["show", "readme", &package]).trim(),
            file("README.md").trim()
        );
    }
}

/// Rule: chart.null
#[test]
fn every_section_can_be_null() {
    let values: Value = serde_saphyr::from_str(&file("values.yaml")).expect("values");
    for helm in helms() {
        let defaults = helm.render(&[]);
        for section in values.as_object().expect("a map").keys() {
            let rendered = helm.render(&["--set", &format!("{section}=null")]);
            assert_eq!(kinds(&rendered), kinds(&defaults), "{section}");
            let may_differ = [
                "replicaCount",
                "resources",
                "podSecurityContext",
                "securityContext",
                "priorityClassName",
                "nodeFailureTolerationSeconds",
                "logLevel",
                "fullnameOverride",
            ];
            let differs = rendered != defaults;
            assert!(!differs || may_differ.contains(&section.as_str()), "{section}");
        }
    }
}

/// Helm keeps the null of a value that has no default. Server-side apply would treat a null quantity as 0.
#[test]
fn null_removes_a_value_without_a_chart_default() {
    for helm in helms() {
        let defaults = helm.render(&[]);
        for value in [
            "resources.limits.cpu",
            "podSecurityContext.fsGroup",
            "podAnnotations.once",
            "nodeSelector.once",
            "global.once",
        ] {
            let rendered = helm.render(&["--set", &format!("{value}=null")]);
            assert_eq!(rendered, defaults, "{value}");
        }
    }
}

#[test]
fn a_named_service_account_gets_the_permissions() {
    let Some(helm) = helm() else { return };
    for (set, created, name) in [
        ("serviceAccount.name=mine", true, "mine"),
        ("serviceAccount.name=,fullnameOverride=whole", true, "whole"),
        (
            "serviceAccount.name=mine,serviceAccount.create=false",
            false,
            "mine",
        ),
        (
            "serviceAccount.name=,serviceAccount.create=false",
            false,
            "default",
        ),
    ] {
        let rendered = helm.render(&["--set", set, "--set", "namespaceOverride=elsewhere"]);
        assert_eq!(kinds(&rendered).contains(&"ServiceAccount"), created, "{set}");
        assert_eq!(pod(&rendered)["serviceAccountName"], name, "{set}");
        for binding in ["ClusterRoleBinding", "RoleBinding"] {
            let subjects = &find(&rendered, binding, "")["subjects"];
            let expected = json!([{"kind": "ServiceAccount", "name": name, "namespace": "elsewhere"}]);
            assert_eq!(*subjects, expected, "{set}");
        }
    }
}

#[test]
fn the_vip_service_equals_that_of_the_readme() {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let blocks = readme
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let service = blocks
        .map(objects)
        .map(|mut found| found.remove(0))
        .find(|object| object["kind"] == "Service");
    let service = service.expect("a Service in the README");
    let Some(helm) = helm() else { return };
    let rendered = helm.render(&["--set", "vip.create=true"]);
    let vip = find(&rendered, "Service", "kubernetes-vip");
    assert_eq!(vip["metadata"]["namespace"], "default");
    assert_eq!(vip["spec"]["ports"], service["spec"]["ports"]);
    assert_eq!(vip["spec"]["type"], "LoadBalancer");
    assert!(vip["spec"].get("selector").is_none());
    for (annotation, value) in service["metadata"]["annotations"].as_object().expect("a map") {
        assert_eq!(vip["metadata"]["annotations"][annotation], *value);
    }
    assert_eq!(vip["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    let k3s = helm.render(&["--set", "vip.create=true,vip.distribution=k3s,vip.keep=false"]);
    let vip = find(&k3s, "Service", "kubernetes-vip");
    assert_eq!(vip["spec"]["ports"].as_array().map(Vec::len), Some(1));
    assert!(
        vip["metadata"]["annotations"]
            .get("helm.sh/resource-policy")
            .is_none()
    );
}

#[test]
fn every_object_has_our_labels_and_its_namespace() {
    let Some(helm) = helm() else { return };
    let case = format!("--values={}", chart().join("ci/everything-values.yaml").display());
    for (args, namespace) in [(vec![], NAMESPACE), (vec![case.as_str()], "edge")] {
        for object in helm.render(&args) {
            let (kind, metadata) = (object["kind"].as_str().expect("a kind"), &object["metadata"]);
            // Objects of the user are rendered as given.
            if metadata["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("extra"))
            {
                continue;
            }
            let labels = &metadata["labels"];
            assert_eq!(labels["app.kubernetes.io/instance"], "copier", "{kind}");
            assert_eq!(labels["app.kubernetes.io/managed-by"], "Helm", "{kind}");
            assert_eq!(
                labels["helm.sh/chart"], "endpoint-copier-operator-0.4.0",
                "{kind}"
            );
            let longest = if kind == "Service" { 63 } else { 253 };
            assert!(
                metadata["name"]
                    .as_str()
                    .is_some_and(|name| name.len() <= longest),
                "{kind}"
            );
            let expected = match kind {
                "ClusterRole"
                | "ClusterRoleBinding"
                | "FlowSchema"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding" => json!(null),
                "Service" if metadata["name"] == "vip" => json!("vips"),
                "Role" | "RoleBinding" if namespace == "edge" => json!("leases"),
                "ConfigMap" | "GrafanaDashboard" | "ServiceMonitor" | "PrometheusRule" => json!("monitoring"),
                _ => json!(namespace),
            };
            let is_of_copies = metadata["name"]
                .as_str()
                .is_some_and(|name| name.ends_with("-copies"));
            if is_of_copies && kind.starts_with("Role") {
                // There is one in each of rbac.namespaces.
                assert!(
                    ["vips", "targets"]
                        .map(|it| json!(it))
                        .contains(&metadata["namespace"])
                );
                continue;
            }
            assert_eq!(metadata["namespace"], expected, "{kind}");
        }
    }
}

#[test]
fn metrics_cover_pods_that_are_not_ready() {
    let Some(helm) = helm() else { return };
    let rendered = helm.render(&[]);
    let service = &find(&rendered, "Service", "-metrics")["spec"];
    assert_eq!(service["publishNotReadyAddresses"], true);
    assert_eq!(service["ports"][0]["targetPort"], "metrics");
    let none = helm.render(&["--set", "metrics.service.enabled=false"]);
    assert!(!kinds(&none).contains(&"Service"));
}

#[test]
fn the_dashboard_is_shipped_unchanged_for_the_sidecar() {
    let Some(helm) = helm() else { return };
    assert!(!kinds(&helm.render(&[])).contains(&"ConfigMap"));
    let own = "grafanaDashboard.annotations.grafana_folder=Kubernetes";
    let rendered = helm.render(&["--set", "grafanaDashboard.enabled=true", "--set", own]);
    let map = find(&rendered, "ConfigMap", "-dashboard");
    assert_eq!(map["metadata"]["namespace"], NAMESPACE);
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(map["metadata"]["annotations"]["grafana_folder"], "Kubernetes");
    let dashboard = map["data"]["endpoint-copier-operator.json"]
        .as_str()
        .expect("a string");
    assert_eq!(dashboard.trim_end(), file("files/dashboard.json").trim_end());
    let elsewhere = [
        "--set",
        "grafanaDashboard.enabled=true",
        "--set",
        "grafanaDashboard.namespace=monitoring",
    ];
    let rendered = helm.render(&elsewhere);
    assert_eq!(
        find(&rendered, "ConfigMap", "-dashboard")["metadata"]["namespace"],
        "monitoring"
    );
}

#[test]
fn the_service_monitor_finds_the_metrics_service() {
    let Some(helm) = helm() else { return };
    let on = ["--set", "metrics.serviceMonitor.enabled=true"];
    assert!(!kinds(&helm.render(&[])).contains(&"ServiceMonitor"));
    for more in [
        "fullnameOverride=whole,nameOverride=other",
        "namespaceOverride=edge,metrics.serviceMonitor.namespace=monitoring",
    ] {
        let rendered = helm.render(&[&on[..], &["--set", more]].concat());
        let monitor = &find(&rendered, "ServiceMonitor", "")["spec"];
        let service = find(&rendered, "Service", "-metrics");
        for (label, value) in monitor["selector"]["matchLabels"].as_object().expect("labels") {
            assert_eq!(service["metadata"]["labels"][label], *value, "{more}: {label}");
        }
        assert_eq!(
            monitor["namespaceSelector"]["matchNames"],
            json!([service["metadata"]["namespace"]])
        );
        assert_eq!(
            monitor["endpoints"][0]["port"],
            service["spec"]["ports"][0]["name"]
        );
        // The VIP Service has our labels too, but nothing to scrape.
        let vip = helm.render(&[&on[..], &["--set", "vip.create=true"]].concat());
        let labels = &find(&vip, "Service", "kubernetes-vip")["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/component"], json!(null));
    }
    let refusal = helm.refusal(&[&on[..], &["--set", "metrics.service.enabled=false"]].concat());
    assert!(refusal.contains("needs metrics.service.enabled"), "{refusal}");
}

#[test]
fn the_prometheus_rule_holds_the_alerts_file_unchanged() {
    let schema: Value = serde_json::from_str(&file("values.schema.json")).expect("JSON");
    let section = &schema["properties"]["metrics"]["properties"]["prometheusRule"]["properties"];
    let file: Value = serde_saphyr::from_str(&file("files/alerts.yaml")).expect("YAML");
    let alerts = file["groups"][0]["rules"].as_array().expect("rules");
    let names: Vec<_> = alerts.iter().map(|rule| &rule["alert"]).collect();
    assert_eq!(section["disabledAlerts"]["items"]["enum"], json!(names));
    for helm in helms() {
        let on = ["--set", "metrics.prometheusRule.enabled=true"];
        assert!(!kinds(&helm.render(&[])).contains(&"PrometheusRule"));
        let rendered = helm.render(&on);
        assert_eq!(find(&rendered, "PrometheusRule", "")["spec"], file);
        let values = [
            "metrics.prometheusRule.disabledAlerts={EndpointCopierDown,EndpointCopierClockSkew}",
            "metrics.prometheusRule.alertLabels.team=edge",
            "metrics.prometheusRule.alertLabels.severity=not-this",
            "metrics.prometheusRule.runbookURL=https://runbooks.example.com/copier",
        ];
        let rendered = helm.render(&[&on[..], &["--set", &values.join(",")]].concat());
        let rules = find(&rendered, "PrometheusRule", "")["spec"]["groups"][0]["rules"].clone();
        let mut expected = file["groups"][0]["rules"].as_array().expect("rules").clone();
        expected.retain(|rule| {
            !["EndpointCopierDown", "EndpointCopierClockSkew"]
                .contains(&rule["alert"].as_str().expect("a name"))
        });
        assert_eq!(expected.len(), alerts.len() - 2);
        for rule in &mut expected {
            let anchor = rule["alert"].as_str().expect("a name").to_lowercase();
            rule["labels"]["team"] = json!("edge");
            rule["annotations"]["runbook_url"] =
                json!(format!("https://runbooks.example.com/copier#{anchor}"));
        }
        assert_eq!(rules, json!(expected));
        let none: Vec<_> = names.iter().map(|name| name.as_str().expect("a name")).collect();
        let none = format!("metrics.prometheusRule.disabledAlerts={{{}}}", none.join(","));
        let rendered = helm.render(&[&on[..], &["--set", &none]].concat());
        let groups = &find(&rendered, "PrometheusRule", "")["spec"]["groups"];
        assert_eq!(groups[0]["rules"], json!([]));
        let refusal = helm.refusal(
            &[
                &on[..],
                &["--set", "metrics.prometheusRule.disabledAlerts={Typo}"],
            ]
            .concat(),
        );
        assert!(refusal.contains("disabledAlerts"), "{refusal}");
    }
}

#[test]
fn network_policy_allows_every_api_server_port_in_values() {
    let ports = |objects: &[Value]| -> Vec<u64> {
        let egress = &find(objects, "NetworkPolicy", "")["spec"]["egress"];
        let ports = egress.as_array().into_iter().flatten();
        let ports = ports.flat_map(|rule| rule["ports"].as_array().expect("ports").clone());
        ports
            .map(|port| port["port"].as_u64().expect("a number"))
            .collect()
    };
    for helm in helms() {
        for (set, expected) in [
            ("apiServer.host=null", vec![443, 6443, 9345]),
            ("apiServer.port=6443", vec![443, 6443, 9345]),
            ("apiServer.port=6444", vec![443, 6443, 9345, 6444]),
            ("networkPolicy.apiServerPorts=[]", vec![]),
        ] {
            let rendered = helm.render(&["--set", "networkPolicy.enabled=true", "--set-json", set]);
            assert_eq!(ports(&rendered), expected, "{set}");
        }
    }
}

#[test]
fn an_old_kubernetes_is_refused() {
    for helm in helms() {
        assert!(helm.refusal(&["--kube-version", "1.29.9"]).contains(">=1.30.0-0"));
        for version in ["1.30.0", "v1.33.1+rke2r1", "v1.34.0-gke.1", "v1.32.5+k3s1"] {
            helm.render(&["--kube-version", version]);
        }
    }
}
