//! The manifests and versions in the VIP tutorial and in related guides.

use endpoint_copier_core::model::{ConsentPolicy, Defaults, ManagedService, Service, ServiceKey};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::{VERSION, documents, read};

const GUIDE: &str = "docs/tutorials/api-vip-rke2-k3s-metallb.md";
const AIR_GAPPED: &str = "docs/how-to/air-gapped.md";

/// The code blocks of a document that are in this language.
fn blocks(name: &str, language: &str) -> Vec<String> {
    let text = read(name);
    let begin = format!("```{language}\n");
    let blocks = text.split(&begin).skip(1);
    let blocks = blocks.map(|rest| rest.split("\n```").next().unwrap_or_default());
    blocks.map(str::to_owned).collect()
}

/// Every object in the YAML blocks of the guide.
fn objects_of_the_guide() -> Vec<Value> {
    let blocks = blocks(GUIDE, "yaml").into_iter();
    blocks.flat_map(|block| documents(GUIDE, &block)).collect()
}

/// The `HelmChart` with this name in the guide, and the values that it sets.
fn helm_chart(name: &str) -> (Value, Value) {
    let objects = objects_of_the_guide();
    let is_it = |object: &&Value| object["kind"] == "HelmChart" && object["metadata"]["name"] == name;
    let object = objects.iter().find(is_it).expect("the HelmChart");
    let values = object["spec"]["valuesContent"].as_str().expect("values");
    (object.clone(), documents(GUIDE, values).remove(0))
}

/// Every value in the form `a.b=c` that `--set` takes.
fn settings(path: &str, value: &Value) -> Vec<String> {
    let Some(section) = value.as_object() else {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return vec![format!("{path}={text}")];
    };
    let below = section.iter().flat_map(|(key, value)| {
        let path = [path, key].join(".");
        settings(path.trim_start_matches('.'), value)
    });
    below.collect()
}

#[test]
fn commands_and_manifests_of_the_guide_give_the_same_values() {
    let commands = blocks(GUIDE, "sh");
    let install = commands
        .iter()
        .find(|command| command.contains("--set vip.create=true"))
        .expect("the install");
    let mut given: Vec<_> = install.split("--set ").skip(1).collect();
    given = given
        .iter()
        .filter_map(|rest| rest.split_whitespace().next())
        .collect();
    given.sort_unstable();
    let (_, values) = helm_chart("endpoint-copier-operator");
    let mut stated = settings("", &values);
    stated.sort_unstable();
    assert_eq!(given, stated);
    // With the preset `soft`, both Pods could start on the first server, and would stay there when a second server
    // joins.
    assert!(given.contains(&"podAntiAffinityPreset=hard"));

    let (_, values) = helm_chart("metallb");
    let file = blocks(GUIDE, "yaml")
        .into_iter()
        .find(|block| block.starts_with("controller:"));
    let file = documents(GUIDE, &file.expect("metallb-values.yaml")).remove(0);
    assert_eq!(values, file);
}

/// Until the cluster has an agent, no node accepts a Pod that does not tolerate these taints.
#[test]
fn the_guide_installs_on_servers_with_taints() {
    let taints = [
        "node-role.kubernetes.io/control-plane",
        "node-role.kubernetes.io/etcd",
        "CriticalAddonsOnly",
    ];
    let (metallb, values) = helm_chart("metallb");
    for part in ["controller", "speaker"] {
        let tolerations = values[part]["tolerations"].as_array().expect("a list");
        let keys: Vec<_> = tolerations.iter().map(|toleration| &toleration["key"]).collect();
        assert_eq!(keys, taints, "{part}");
        assert!(
            tolerations
                .iter()
                .all(|toleration| toleration.get("effect").is_none())
        );
    }
    let (operator, _) = helm_chart("endpoint-copier-operator");
    for chart in [metallb, operator] {
        assert_eq!(chart["spec"]["bootstrap"], true, "{chart}");
    }
}

#[test]
fn the_guide_and_the_upgrade_install_this_version() {
    let upgrade = read("docs/how-to/upgrade-from-go.md");
    for rest in upgrade
        .split("/charts/endpoint-copier-operator --version ")
        .skip(1)
    {
        assert!(
            rest.starts_with(VERSION),
            "docs/how-to/upgrade-from-go.md: --version"
        );
    }
    let manifests = blocks("docs/how-to/upgrade-from-go.md", "yaml").into_iter();
    let manifests: Vec<_> = manifests
        .flat_map(|block| documents("docs/how-to/upgrade-from-go.md", &block))
        .collect();
    let stated = manifests.iter().flat_map(|manifest| {
        let spec = &manifest["spec"];
        [
            &spec["version"],
            &spec["chart"]["spec"]["version"],
            &spec["ref"]["tag"],
        ]
    });
    let stated: Vec<_> = stated.filter(|version| !version.is_null()).collect();
    // In a HelmChart, in Flux with a HelmRepository, and in Flux with an OCIRepository.
    assert_eq!(stated, [VERSION; 3]);
    assert!(upgrade.contains(&format!("`targetRevision: {VERSION}`")));
    let text = read(GUIDE) + &read(AIR_GAPPED);
    let image = "ghcr.io/endpoint-copier-operator/endpoint-copier-operator:";
    let stated = text.split(image).skip(1);
    let chart = "/endpoint-copier-operator --version ";
    let file = "./endpoint-copier-operator-";
    let stated = stated
        .chain(text.split(chart).skip(1))
        .chain(text.split(file).skip(1));
    let mut count = 0;
    for rest in stated {
        assert!(
            rest.starts_with(VERSION),
            "{GUIDE} or {AIR_GAPPED}: {}",
            rest.lines().next().unwrap_or_default()
        );
        count += 1;
    }
    assert_eq!(count, 9);
    let objects = objects_of_the_guide();
    let chart = objects
        .iter()
        .find(|object| object["kind"] == "HelmChart" && object["spec"]["chart"] == "endpoint-copier-operator")
        .expect("the chart");
    assert_eq!(chart["spec"]["version"], VERSION);
}

#[test]
fn the_services_of_the_guide_are_managed_and_announced() {
    let source = ServiceKey::new("default", "kubernetes");
    // These defaults name no managed Service, so the annotations must be enough.
    let defaults = Defaults {
        source: ServiceKey::new("nobody", "nothing"),
        managed: None,
        consent: ConsentPolicy::default(),
    };
    let services = objects_of_the_guide()
        .into_iter()
        .filter(|object| object["kind"] == "Service");
    let mut ports = Vec::new();
    for service in services {
        assert_eq!(service["spec"]["allocateLoadBalancerNodePorts"], false);
        let service: Service = serde_json::from_value(service).expect("a Service");
        let managed = ManagedService::read(&service, &defaults).expect("managed");
        assert_eq!(managed.source(), Some(&source));
        assert!(!managed.local_traffic && managed.remarks.is_empty());
        assert_eq!(
            service.spec.as_ref().and_then(|spec| spec.type_.as_deref()),
            Some("LoadBalancer")
        );
        for port in &managed.ports {
            assert_eq!(port.target_port, Some(IntOrString::Int(port.port)));
        }
        ports.push(managed.ports.iter().map(|port| port.port).collect::<Vec<_>>());
    }
    // The first Service is for RKE2, and the second one for K3s.
    assert_eq!(ports, [vec![6443, 9345], vec![6443]]);
}

/// The Service has no annotation, because its name is enough.
#[test]
fn the_service_of_edge_image_builder_is_managed() {
    const PAGE: &str = "docs/how-to/suse-edge.md";
    let defaults = Defaults {
        source: ServiceKey::new("default", "kubernetes"),
        managed: Some(ServiceKey::new("default", "kubernetes-vip")),
        consent: ConsentPolicy::default(),
    };
    let objects = blocks(PAGE, "yaml").into_iter();
    let objects: Vec<_> = objects.flat_map(|block| documents(PAGE, &block)).collect();
    let service = objects.iter().find(|object| object["kind"] == "Service");
    let service = service.expect("the Service").clone();
    // The address pool selects Services by this label.
    assert_eq!(service["metadata"]["labels"]["serviceType"], "kubernetes-vip");
    let service: Service = serde_json::from_value(service).expect("a Service");
    let managed = ManagedService::read(&service, &defaults).expect("managed");
    assert_eq!(managed.source(), Some(&defaults.source));
    assert!(managed.remarks.is_empty());
    let ports: Vec<_> = managed.ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [9345, 6443]);
    let of_fleet = objects.iter().find(|object| object["helm"].is_object());
    assert_eq!(of_fleet.expect("fleet.yaml")["helm"]["version"], VERSION);
}

/// A URL in `tls-san` never matches when a client verifies the certificate.
#[test]
fn tls_san_in_the_guide_is_bare_and_server_is_a_url() {
    let (mut names, mut servers) = (0, 0);
    for config in objects_of_the_guide() {
        for name in config["tls-san"].as_array().into_iter().flatten() {
            let name = name.as_str().expect("a string");
            assert!(!name.contains([':', '/']), "{name}");
            names += 1;
        }
        if let Some(server) = config["server"].as_str() {
            let has_port = server.ends_with(":9345") || server.ends_with(":6443");
            assert!(server.starts_with("https://") && has_port, "{server}");
            servers += 1;
        }
    }
    assert!(names >= 8 && servers == 2);
}

#[test]
fn every_node_of_the_guide_gets_the_named_version() {
    let commands = blocks(GUIDE, "sh").join("\n");
    let mut count = 0;
    for (address, version) in [
        ("https://get.rke2.io", "INSTALL_RKE2_VERSION=vX.Y.Z+rke2r1 "),
        ("https://get.k3s.io", "INSTALL_K3S_VERSION=vX.Y.Z+k3s1 "),
    ] {
        for line in commands.lines().filter(|line| line.contains(address)) {
            assert!(line.contains(version), "{line}");
            count += 1;
        }
    }
    // Each distribution has one server and one agent.
    assert_eq!(count, 4);
    assert_eq!(read(GUIDE).matches("https://get.").count(), count);
}

/// The guide must not apply a file that does not exist.
#[test]
fn a_file_that_the_guide_applies_is_created_first() {
    let text = read(GUIDE);
    let mut count = 0;
    for (at, command) in text.match_indices("kubectl apply -f ") {
        let name = text[at + command.len()..]
            .split_whitespace()
            .next()
            .expect("a name");
        if name != "-" {
            assert!(text[..at].contains(&format!("`{name}`")), "{name}");
            count += 1;
        }
    }
    // These are vip-address.yaml and vip-service.yaml.
    assert_eq!(count, 2);
}

/// With the default policy, a failed release is uninstalled. The uninstall deletes MetalLB's CRDs, and with them the
/// address pool.
#[test]
fn no_chart_in_the_guides_is_uninstalled_when_it_fails() {
    let of_the_upgrade = blocks("docs/how-to/upgrade-from-go.md", "yaml").into_iter();
    let of_the_upgrade = of_the_upgrade.flat_map(|block| documents("docs/how-to/upgrade-from-go.md", &block));
    let mut objects = objects_of_the_guide();
    objects.extend(of_the_upgrade);
    objects.retain(|object| object["kind"] == "HelmChart");
    assert_eq!(objects.len(), 3);
    for chart in objects {
        assert_eq!(chart["spec"]["failurePolicy"], "abort", "{chart}");
    }
}

#[test]
fn bgp_sessions_of_the_guide_are_on_announcing_nodes() {
    let objects = objects_of_the_guide();
    let nodes = |kind: &str| {
        let object = objects.iter().find(|object| object["kind"] == kind);
        object.expect("an object")["spec"]["nodeSelectors"].clone()
    };
    assert!(nodes("BGPPeer").is_array());
    assert_eq!(nodes("BGPPeer"), nodes("BGPAdvertisement"));
}
