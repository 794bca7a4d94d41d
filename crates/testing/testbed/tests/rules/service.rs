//! Services: default values, and requests that are refused.

use crate::target::{Target, service};
use serde_json::{Value, json};

fn with(name: &str, spec: Value) -> Value {
    let mut object = service(name);
    object["spec"] = spec;
    object
}

pub async fn a_cluster_ip_service_gets_defaults(t: Target) {
    let made = t.made("services", &service("a")).await;
    let spec = &made["spec"];
    assert_eq!(spec["type"], "ClusterIP");
    assert!(spec["clusterIP"].as_str().unwrap().starts_with("10."));
    assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
    assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
    assert_eq!(spec["ipFamilyPolicy"], "SingleStack");
    assert_eq!(spec["sessionAffinity"], "None");
    assert_eq!(spec["internalTrafficPolicy"], "Cluster");
    assert_eq!(spec["externalTrafficPolicy"], Value::Null);
    assert_eq!(
        spec["ports"],
        json!([{"port": 6443, "protocol": "TCP", "targetPort": 6443}])
    );
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
}

/// Because a Service has no generation, its conditions cannot name the generation that they describe.
pub async fn a_service_has_no_generation(t: Target) {
    let made = t.made("services", &service("a")).await;
    let patch = json!({"spec": {"sessionAffinity": "ClientIP"}});
    let changed = t.merge(&t.one("services", "a"), &patch).await.expect(200);
    for service in [made, changed] {
        assert_eq!(service["metadata"]["generation"], json!(null));
    }
}

pub async fn a_load_balancer_gets_defaults(t: Target) {
    let object = with(
        "a",
        json!({"type": "LoadBalancer", "ports": [{"port": 6443, "targetPort": "api"}]}),
    );
    let spec = &t.made("services", &object).await["spec"];
    assert_eq!(spec["allocateLoadBalancerNodePorts"], true);
    assert_eq!(spec["externalTrafficPolicy"], "Cluster");
    assert_eq!(spec["ports"][0]["targetPort"], "api");
    assert!((30000..32768).contains(&spec["ports"][0]["nodePort"].as_u64().unwrap()));
    let spec =
        json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 1}]});
    let spec = &t.made("services", &with("b", spec)).await["spec"];
    assert_eq!(spec["ports"][0]["nodePort"], Value::Null);
}

pub async fn node_ports_are_unique_and_kept(t: Target) {
    let object = |name: &str| with(name, json!({"type": "NodePort", "ports": [{"port": 1}]}));
    let first = t.made("services", &object("a")).await;
    let second = t.made("services", &object("b")).await;
    let port = |service: &Value| service["spec"]["ports"][0]["nodePort"].clone();
    assert_ne!(port(&first), port(&second));
    assert_ne!(first["spec"]["clusterIP"], second["spec"]["clusterIP"]);
    // A PUT that leaves out allocated values keeps them, and writes nothing.
    let put = t.put(&t.one("services", "a"), &object("a")).await.expect(200);
    assert_eq!(port(&put), port(&first));
    assert_eq!(put["spec"]["clusterIP"], first["spec"]["clusterIP"]);
    assert_eq!(
        put["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
}

pub async fn a_headless_service_without_selector_is_dual_stack(t: Target) {
    let spec = &t.made("services", &with("a", json!({"clusterIP": "None"}))).await["spec"];
    assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(spec["ipFamilyPolicy"], "RequireDualStack");
    assert_eq!(spec["clusterIPs"], json!(["None"]));
    let single = json!({"clusterIP": "None", "ipFamilyPolicy": "SingleStack"});
    let spec = &t.made("services", &with("b", single)).await["spec"];
    assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
    let selecting = json!({"clusterIP": "None", "selector": {"a": "b"}});
    let spec = &t.made("services", &with("c", selecting)).await["spec"];
    assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
}

pub async fn an_external_name_has_no_ip(t: Target) {
    let object = with(
        "a",
        json!({"type": "ExternalName", "externalName": "example.com"}),
    );
    let made = t.made("services", &object).await;
    let spec = json!({"type": "ExternalName", "externalName": "example.com", "sessionAffinity": "None"});
    assert_eq!(made["spec"], spec);
}

pub async fn ports_are_required(t: Target) {
    t.post(&t.all("services"), &with("a", json!({})))
        .await
        .invalid(&["spec.ports"]);
}

pub async fn several_ports_need_names(t: Target) {
    let spec = json!({"ports": [{"port": 1}, {"port": 2}]});
    let fields = ["spec.ports[0].name", "spec.ports[1].name"];
    t.post(&t.all("services"), &with("a", spec))
        .await
        .invalid(&fields);
    let spec = json!({"ports": [
        {"port": 0, "name": "A"}, {"port": 2, "name": "b", "protocol": "x"}, {"port": 3, "name": "b"},
    ]});
    let fields = [
        "spec.ports[0].name",
        "spec.ports[0].port",
        "spec.ports[1].protocol",
        "spec.ports[2].name",
    ];
    t.post(&t.all("services"), &with("a", spec))
        .await
        .invalid(&fields);
}

pub async fn the_name_is_a_dns_label(t: Target) {
    for bad in ["a.b", "A", &"a".repeat(64)] {
        t.post(&t.all("services"), &service(bad))
            .await
            .invalid(&["metadata.name"]);
    }
    t.made("services", &service(&"a".repeat(63))).await;
}

pub async fn the_cluster_ip_cannot_change(t: Target) {
    t.made("services", &service("a")).await;
    let patch = json!({"spec": {"clusterIP": "10.96.250.250"}});
    t.merge(&t.one("services", "a"), &patch)
        .await
        .invalid(&["spec.clusterIPs[0]"]);
}

pub async fn node_ports_are_released_when_the_type_changes(t: Target) {
    let object = with("a", json!({"type": "LoadBalancer", "ports": [{"port": 1}]}));
    let made = t.made("services", &object).await;
    let patch = json!({"spec": {"type": "ClusterIP"}});
    let patched = t.merge(&t.one("services", "a"), &patch).await.expect(200);
    assert_eq!(patched["spec"]["ports"][0]["nodePort"], Value::Null);
    assert_eq!(patched["spec"]["allocateLoadBalancerNodePorts"], Value::Null);
    assert_eq!(patched["spec"]["externalTrafficPolicy"], Value::Null);
    assert_eq!(patched["spec"]["clusterIP"], made["spec"]["clusterIP"]);
}

pub async fn unknown_values_are_refused(t: Target) {
    for (field, value) in [
        ("type", json!("Foo")),
        ("sessionAffinity", json!("Foo")),
        ("internalTrafficPolicy", json!("Foo")),
        ("selector", json!({"-": "x"})),
    ] {
        let mut object = service("a");
        object["spec"][field] = value;
        t.post(&t.all("services"), &object)
            .await
            .invalid(&[&format!("spec.{field}")]);
    }
}

pub async fn families_follow_the_policy(t: Target) {
    let (v4, v6, both) = (json!(["IPv4"]), json!(["IPv6"]), json!(["IPv4", "IPv6"]));
    for (number, (families, policy, got)) in [
        (Value::Null, "PreferDualStack", &both),
        (Value::Null, "RequireDualStack", &both),
        (v4.clone(), "RequireDualStack", &both),
        (v6.clone(), "RequireDualStack", &json!(["IPv6", "IPv4"])),
        (both.clone(), "PreferDualStack", &both),
        (v6.clone(), "", &v6),
        (v6.clone(), "SingleStack", &v6),
    ]
    .into_iter()
    .enumerate()
    {
        let mut spec = json!({"ports": [{"port": 1}]});
        if !families.is_null() {
            spec["ipFamilies"] = families;
        }
        if !policy.is_empty() {
            spec["ipFamilyPolicy"] = policy.into();
        }
        let spec = &t.made("services", &with(&format!("a{number}"), spec)).await["spec"];
        assert_eq!(spec["ipFamilies"], *got);
        let ips = spec["clusterIPs"].as_array().unwrap();
        assert_eq!(spec["clusterIP"], ips[0]);
        let families: Vec<_> = ips
            .iter()
            .map(|ip| {
                if ip.as_str().unwrap().contains(':') {
                    "IPv6"
                } else {
                    "IPv4"
                }
            })
            .collect();
        assert_eq!(json!(families), *got);
    }
    for policy in [json!({}), json!({"ipFamilyPolicy": "SingleStack"})] {
        let mut spec = json!({"ports": [{"port": 1}], "ipFamilies": both});
        spec.as_object_mut()
            .unwrap()
            .extend(policy.as_object().unwrap().clone());
        t.post(&t.all("services"), &with("b", spec))
            .await
            .invalid(&["spec.ipFamilyPolicy"]);
    }
}

pub async fn a_second_family_is_added_and_removed(t: Target) {
    let made = t.made("services", &service("a")).await;
    let path = t.one("services", "a");
    let policy = |policy: &str| json!({"spec": {"ipFamilyPolicy": policy}});
    let dual = t.merge(&path, &policy("RequireDualStack")).await.expect(200);
    assert_eq!(dual["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(dual["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert!(
        dual["spec"]["clusterIPs"][1]
            .as_str()
            .unwrap()
            .starts_with("fd00:")
    );
    let single = t.merge(&path, &policy("SingleStack")).await.expect(200);
    assert_eq!(single["spec"]["clusterIPs"], made["spec"]["clusterIPs"]);
    assert_eq!(single["spec"]["ipFamilies"], json!(["IPv4"]));
}
