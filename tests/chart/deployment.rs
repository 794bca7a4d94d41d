//! The Deployment: its image, the replacement and placement of its Pods, and their permissions.

use serde_json::{Value, json};

use crate::helm::{args, container, find, helm};

/// The spec of the Pods.
fn pod(objects: &[Value]) -> &Value {
    &find(objects, "Deployment", "")["spec"]["template"]["spec"]
}

/// Rule: chart.null
#[test]
fn null_omits_defaults_of_the_old_chart() {
    let Some(helm) = helm() else { return };
    let nothing = "replicaCount=null,resources=null,podSecurityContext=null,securityContext=null,priorityClassName=null,nodeFailureTolerationSeconds=null";
    let rendered = helm.render(&["--set", nothing]);
    let deployment = find(&rendered, "Deployment", "");
    assert!(deployment["spec"].get("replicas").is_none());
    for left_out in ["securityContext", "priorityClassName"] {
        assert!(pod(&rendered).get(left_out).is_none(), "{left_out}");
    }
    for left_out in ["securityContext", "resources"] {
        assert!(container(&rendered).get(left_out).is_none(), "{left_out}");
    }
    assert!(
        !pod(&rendered)["tolerations"]
            .to_string()
            .contains("tolerationSeconds")
    );
}

/// Rule: chart.kept
#[test]
fn defaults_of_the_old_chart_are_kept() {
    let Some(helm) = helm() else { return };
    let rendered = helm.render(&[]);
    let deployment = find(&rendered, "Deployment", "");
    assert_eq!(deployment["metadata"]["name"], "endpoint-copier-operator");
    assert_eq!(deployment["spec"]["replicas"], 2);
    let selector = json!({
        "app.kubernetes.io/name": "endpoint-copier-operator", "app.kubernetes.io/instance": "copier",
    });
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], selector);
    let manager = container(&rendered);
    assert_eq!(manager["name"], "manager");
    assert_eq!(
        args(&rendered),
        ["--leader-elect", "--log-level=info", "--log-format=text"]
    );
    assert_eq!(manager["livenessProbe"]["httpGet"]["path"], "/healthz");
    assert_eq!(manager["readinessProbe"]["httpGet"]["path"], "/readyz");
    let ports: Vec<_> = manager["ports"]
        .as_array()
        .expect("ports")
        .iter()
        .map(|port| &port["containerPort"])
        .collect();
    assert_eq!(ports, [8080, 8081]);
    let resources = json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}});
    assert_eq!(manager["resources"], resources);
    assert_eq!(pod(&rendered)["serviceAccountName"], "endpoint-copier-operator");
    assert_eq!(pod(&rendered)["priorityClassName"], "system-cluster-critical");
    let budget = &find(&rendered, "PodDisruptionBudget", "")["spec"];
    assert_eq!(
        (&budget["maxUnavailable"], &budget["unhealthyPodEvictionPolicy"]),
        (&json!(1), &json!("AlwaysAllow"))
    );
    assert_eq!(budget["selector"]["matchLabels"], selector);
}

/// Rule: chart.restricted
#[test]
fn pods_are_restricted() {
    let Some(helm) = helm() else { return };
    let rendered = helm.render(&[]);
    let context = &pod(&rendered)["securityContext"];
    assert_eq!(
        *context,
        json!({
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    let context = &container(&rendered)["securityContext"];
    assert_eq!(
        *context,
        json!({
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
        })
    );
    assert_eq!(
        find(&rendered, "ServiceAccount", "")["automountServiceAccountToken"],
        false
    );
    assert_eq!(pod(&rendered)["automountServiceAccountToken"], true);
    assert_eq!(pod(&rendered)["enableServiceLinks"], false);
}

/// Rule: chart.kept
#[test]
fn the_image_is_the_one_that_values_name() {
    const OURS: &str = "ghcr.io/endpoint-copier-operator/endpoint-copier-operator";
    const OLD: &str = "registry.opensuse.org/isv/suse/edge/containers/images/endpoint-copier-operator";
    const OLDER: &str = "registry.opensuse.org/isv/suse/edge/metallb/images/endpoint-copier-operator";
    let (_, path) = OURS.split_once('/').expect("a registry");
    let digest = format!("sha256:{}", "0".repeat(64));
    let Some(helm) = helm() else { return };
    for (set, image) in [
        ("image.tag=".to_owned(), format!("{OURS}:0.4.0")),
        ("image.tag=0.4.1".to_owned(), format!("{OURS}:0.4.1")),
        (
            format!("image.tag=0.4.1,image.digest={digest}"),
            format!("{OURS}@{digest}"),
        ),
        (
            "image.registry=mirror:5000".to_owned(),
            format!("mirror:5000/{path}:0.4.0"),
        ),
        (
            "image.registry=a,global.imageRegistry=mirror.local/proxy/".to_owned(),
            format!("mirror.local/proxy/{path}:0.4.0"),
        ),
        (
            "image.repository=team/copier".to_owned(),
            "team/copier:0.4.0".to_owned(),
        ),
        (
            "image.repository=team/copier,global.imageRegistry=mirror.local".to_owned(),
            "mirror.local/team/copier:0.4.0".to_owned(),
        ),
        (
            "image.repository=localhost/copier,image.registry=mirror.local".to_owned(),
            "mirror.local/copier:0.4.0".to_owned(),
        ),
        // Repositories of the old chart.
        (format!("image.repository={OLD}"), format!("{OURS}:0.4.0")),
        (
            format!("image.repository={OLDER},image.tag=v0.2.0"),
            format!("{OURS}:0.4.0"),
        ),
        (
            format!("image.repository={OLD},image.tag=0.3.0"),
            format!("{OURS}:0.4.0"),
        ),
        (
            format!("image.repository={OLD},image.tag=0.4.1"),
            format!("{OURS}:0.4.1"),
        ),
        (
            format!("image.repository={OLD},global.imageRegistry=mirror.local"),
            format!("mirror.local/{path}:0.4.0"),
        ),
        // Any other repository is used as given.
        (
            format!("image.repository={OLD}-2,image.tag=v0.3.0"),
            format!("{OLD}-2:v0.3.0"),
        ),
    ] {
        let rendered = helm.render(&["--set", &set, "--set", "image.pullPolicy=Always"]);
        assert_eq!(container(&rendered)["image"], image, "{set}");
        assert_eq!(container(&rendered)["imagePullPolicy"], "Always");
    }
}

/// Rule: chart.roll
#[test]
fn a_rollout_never_waits_for_a_free_node() {
    let Some(helm) = helm() else { return };
    for (set, surge, unavailable) in [
        ("podAntiAffinityPreset=soft", json!(1), json!(0)),
        ("podAntiAffinityPreset=none", json!(1), json!(0)),
        ("podAntiAffinityPreset=hard", json!(0), json!(1)),
        // An affinity that a user of the old chart may have set.
        (
            "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=node",
            json!(0),
            json!(1),
        ),
        (
            "podAntiAffinityPreset=hard,affinity.podAntiAffinity.own=1",
            json!(1),
            json!(0),
        ),
        (
            "updateStrategy.type=RollingUpdate,updateStrategy.rollingUpdate.maxSurge=2,updateStrategy.rollingUpdate.maxUnavailable=50%",
            json!(2),
            json!("50%"),
        ),
    ] {
        let rendered = helm.render(&["--set", set]);
        let strategy = &find(&rendered, "Deployment", "")["spec"]["strategy"];
        let expected = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        assert_eq!(*strategy, expected, "{set}");
    }
}

/// If there are more replicas than nodes, an old Pod stays on each node until a new Pod is available, so a new Pod must be
/// able to share a node with an old one.
/// Rule: chart.roll
#[test]
fn hard_anti_affinity_lets_new_pods_join_old_ones() {
    let Some(helm) = helm() else { return };
    let rendered = helm.render(&["--set", "podAntiAffinityPreset=hard"]);
    let terms =
        &pod(&rendered)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(terms[0]["matchLabelKeys"], json!(["pod-template-hash"]));
    assert_eq!(terms[0]["topologyKey"], "kubernetes.io/hostname");
}

#[test]
fn affinity_of_the_user_replaces_the_preset_part_by_part() {
    let Some(helm) = helm() else { return };
    let affinity = |set: &str| pod(&helm.render(&["--set", set]))["affinity"].clone();
    let presets = affinity("replicaCount=2");
    assert!(
        presets["nodeAffinity"]
            .get("preferredDuringSchedulingIgnoredDuringExecution")
            .is_some()
    );
    let pods =
        &presets["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"];
    assert_eq!(pods["topologyKey"], "kubernetes.io/hostname");
    let hard = affinity("podAntiAffinityPreset=hard");
    let of_hard = &hard["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(of_hard["labelSelector"], pods["labelSelector"]);
    let own = affinity("affinity.podAntiAffinity.own=1");
    assert_eq!(own["podAntiAffinity"], json!({"own": 1}));
    assert_eq!(own["nodeAffinity"], presets["nodeAffinity"]);
    assert!(affinity("podAntiAffinityPreset=none,controlPlane.preferNodes=false").is_null());
}

#[test]
fn tolerations_are_added_to_those_of_the_chart() {
    let Some(helm) = helm() else { return };
    let rendered = helm.render(&[
        "--set",
        "tolerations[0].key=example.com/edge,tolerations[0].operator=Exists",
    ]);
    let tolerations = pod(&rendered)["tolerations"].as_array().expect("a list");
    let keys: Vec<_> = tolerations
        .iter()
        .map(|toleration| toleration["key"].as_str().expect("a key"))
        .collect();
    assert_eq!(
        keys,
        [
            "node-role.kubernetes.io/control-plane",
            "node-role.kubernetes.io/master",
            "node-role.kubernetes.io/etcd",
            "CriticalAddonsOnly",
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
            "example.com/edge",
        ]
    );
    assert_eq!(tolerations[4]["tolerationSeconds"], 30);
    let none = helm.render(&[
        "--set",
        "controlPlane.tolerateTaints=false,nodeFailureTolerationSeconds=null",
    ]);
    assert!(pod(&none).get("tolerations").is_none());
}

#[test]
fn addresses_of_the_node_come_from_the_kubelet() {
    let Some(helm) = helm() else { return };
    let rendered = helm.render(&[]);
    let env = container(&rendered)["env"].as_array().expect("env");
    let from_kubelet = env.iter().find(|variable| variable["name"] == "HOST_IPS");
    let from_kubelet = from_kubelet.expect("a variable");
    assert_eq!(
        from_kubelet["valueFrom"]["fieldRef"]["fieldPath"],
        "status.hostIPs"
    );
}

#[test]
fn probe_mode_off_works_without_quotes() {
    let Some(helm) = helm() else { return };
    for (mode, expected) in [("false", "off"), ("\"off\"", "off"), ("\"observe\"", "observe")] {
        let rendered = helm.render(&["--set-json", &format!("probe.mode={mode}")]);
        let env = container(&rendered)["env"].as_array().expect("env");
        let probe = env
            .iter()
            .find(|variable| variable["name"] == "ENDPOINT_COPIER_PROBE");
        assert_eq!(probe.expect("a variable")["value"], expected, "{mode}");
    }
}

#[test]
fn the_nodes_selector_is_passed_on_even_if_empty() {
    let Some(helm) = helm() else { return };
    for selector in ["node-role.kubernetes.io/control-plane", "", "a=b"] {
        let rendered = helm.render(&["--set", &format!("nodes.selector={selector}")]);
        let env = container(&rendered)["env"].as_array().expect("env");
        let variable = env
            .iter()
            .find(|variable| variable["name"] == "ENDPOINT_COPIER_NODES_SELECTOR");
        assert_eq!(variable.expect("a variable")["value"], selector);
    }
}

#[test]
fn in_local_mode_the_nodes_address_comes_from_the_kubelet() {
    let Some(helm) = helm() else { return };
    let host = |set: &str| {
        let rendered = helm.render(&["--set", set]);
        let env = container(&rendered)["env"].as_array().expect("env").clone();
        env.into_iter()
            .find(|variable| variable["name"] == "ENDPOINT_COPIER_API_SERVER_HOST")
    };
    let from_kubelet = host("apiServer.mode=local").expect("a variable");
    assert_eq!(
        from_kubelet["valueFrom"]["fieldRef"]["fieldPath"],
        "status.hostIP"
    );
    let given = host("apiServer.mode=local,apiServer.host=192.0.2.1").expect("a variable");
    assert_eq!(given["value"], "192.0.2.1");
    assert_eq!(host("apiServer.mode=auto"), None);
}
