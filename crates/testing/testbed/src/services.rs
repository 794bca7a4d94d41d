//! Fields of a Service that the API server sets: defaults, cluster IPs and node ports (`SetDefaults_Service` and the
//! allocators of pkg/registry/core/service).

use crate::object::{self, array};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// First two octets of the Service network. The cluster is dual-stack, with IPv4 first.
const NETWORK: (u8, u8) = (10, 96);
/// The beginning of the IPv6 Service network.
const NETWORK_6: &str = "fd00:10:96::";
/// The first node port and the number of node ports: the default of `--service-node-port-range`.
const NODE_PORTS: (u32, u32) = (30_000, 2_768);

/// Addresses and ports that are allocated to other Services.
#[derive(Debug, Default)]
pub struct Taken {
    ips: BTreeSet<String>,
    ports: BTreeSet<u32>,
}

impl Taken {
    /// The allocations of these Services.
    pub fn by<'a>(others: impl Iterator<Item = &'a Value>) -> Self {
        let mut taken = Self::default();
        for service in others {
            let ips = array(&service["spec"]["clusterIPs"])
                .iter()
                .filter_map(Value::as_str);
            taken.ips.extend(ips.map(str::to_owned));
            let ports = array(&service["spec"]["ports"])
                .iter()
                .filter_map(|p| p["nodePort"].as_u64());
            taken.ports.extend(ports.filter_map(|p| u32::try_from(p).ok()));
        }
        taken
    }

    fn free_ip(&self, family: &Value) -> String {
        if family == "IPv6" {
            let mut free = (0x100..0x1_0000).map(|number| format!("{NETWORK_6}{number:x}"));
            return free.find(|ip| !self.ips.contains(ip)).unwrap_or_default();
        }
        // 10.96.0.1 belongs to the Service `default/kubernetes`, and 10.96.0.0/24 is for static addresses.
        let mut free = (1..=255u8).flat_map(|c| (1..=254u8).map(move |d| (c, d)));
        let ip = |(c, d): (u8, u8)| format!("{}.{}.{c}.{d}", NETWORK.0, NETWORK.1);
        free.find_map(|n| (!self.ips.contains(&ip(n))).then(|| ip(n)))
            .unwrap_or_default()
    }

    fn free_port(&mut self) -> u32 {
        let port = (NODE_PORTS.0..NODE_PORTS.0 + NODE_PORTS.1)
            .find(|p| !self.ports.contains(p))
            .unwrap_or(0);
        self.ports.insert(port);
        port
    }
}

/// Sets missing fields, and removes some fields that a Service of this type cannot have. `old` is the Service that is
/// replaced. A PUT that leaves out allocated values keeps them.
pub fn default(service: &mut Value, old: Option<&Value>, mut taken: Taken) {
    if service["status"]["loadBalancer"].is_null() {
        service["status"] = json!({"loadBalancer": {}});
    }
    let spec = &mut service["spec"];
    set_if_missing(spec, "sessionAffinity", "None".into());
    if spec["sessionAffinity"] == "ClientIP" {
        set_if_missing(
            spec,
            "sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": 10800}}),
        );
    }
    set_if_missing(spec, "type", "ClusterIP".into());
    let service_type = spec["type"].as_str().unwrap_or_default().to_owned();
    for port in object::items_mut(spec, "ports") {
        set_if_missing(port, "protocol", "TCP".into());
        if port["targetPort"] == 0 || port["targetPort"] == "" || port["targetPort"].is_null() {
            port["targetPort"] = port["port"].clone();
        }
    }
    if service_type == "ExternalName" {
        for field in [
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ] {
            remove(spec, field);
        }
        return;
    }
    let outside = service_type == "LoadBalancer" || service_type == "NodePort";
    set_if_missing(spec, "internalTrafficPolicy", "Cluster".into());
    if outside {
        set_if_missing(spec, "externalTrafficPolicy", "Cluster".into());
    } else {
        remove(spec, "externalTrafficPolicy");
    }
    if service_type == "LoadBalancer" {
        set_if_missing(spec, "allocateLoadBalancerNodePorts", true.into());
    } else {
        remove(spec, "allocateLoadBalancerNodePorts");
    }
    families(spec, old);
    cluster_ips(spec, old, &taken);
    let wanted = service_type == "NodePort" || spec["allocateLoadBalancerNodePorts"] == true;
    node_ports(spec, old, outside, wanted, &mut taken);
}

/// Sets one address of each family, unless the Service is headless. A PUT that leaves out the addresses keeps the
/// allocated ones.
fn cluster_ips(spec: &mut Value, old: Option<&Value>, taken: &Taken) {
    // `clusterIP` takes precedence over the first item of the list.
    let known = [
        &spec["clusterIP"],
        &spec["clusterIPs"][0],
        old.map_or(&Value::Null, |old| &old["spec"]["clusterIP"]),
    ];
    let first = match known.into_iter().find(|ip| ip.is_string()) {
        Some(ip) => ip.clone(),
        None => taken.free_ip(&spec["ipFamilies"][0]).into(),
    };
    let mut ips = vec![first.clone()];
    if first != "None" && array(&spec["ipFamilies"]).len() == 2 {
        let known = [
            &spec["clusterIPs"][1],
            old.map_or(&Value::Null, |old| &old["spec"]["clusterIPs"][1]),
        ];
        ips.push(match known.into_iter().find(|ip| ip.is_string()) {
            Some(ip) => ip.clone(),
            None => taken.free_ip(&spec["ipFamilies"][1]).into(),
        });
    }
    spec["clusterIP"] = first;
    spec["clusterIPs"] = ips.into();
}

/// Sets the IP families. Without a policy, a headless Service without a selector is dual-stack, and any other Service
/// is single-stack.
fn families(spec: &mut Value, old: Option<&Value>) {
    for field in ["ipFamilyPolicy", "ipFamilies"] {
        if let Some(kept) = old.map(|old| &old["spec"][field]).filter(|kept| !kept.is_null()) {
            set_if_missing(spec, field, kept.clone());
        }
    }
    let is_open = spec["clusterIP"] == "None" && spec["selector"].is_null();
    let policy = if is_open {
        "RequireDualStack"
    } else {
        "SingleStack"
    };
    set_if_missing(spec, "ipFamilyPolicy", policy.into());
    set_if_missing(spec, "ipFamilies", json!(["IPv4"]));
    let first = spec["ipFamilies"][0].clone();
    if spec["ipFamilyPolicy"] != "SingleStack" {
        let second = if first == "IPv6" { "IPv4" } else { "IPv6" };
        spec["ipFamilies"] = json!([first, second]);
    } else if old.is_some() {
        spec["ipFamilies"] = json!([first]);
    }
}

fn node_ports(spec: &mut Value, old: Option<&Value>, permitted: bool, wanted: bool, taken: &mut Taken) {
    let before = old
        .map(|o| array(&o["spec"]["ports"]).to_vec())
        .unwrap_or_default();
    let was_outside =
        old.is_some_and(|o| o["spec"]["type"] == "LoadBalancer" || o["spec"]["type"] == "NodePort");
    for port in object::items_mut(spec, "ports") {
        let had = before
            .iter()
            .find(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"]);
        if !permitted {
            // Node ports are released when a Service changes to a type without node ports. In other cases, a node port
            // in the request would be a user error, which no test makes.
            if was_outside {
                remove(port, "nodePort");
            }
        } else if port["nodePort"].is_null() {
            match had.map(|p| &p["nodePort"]).filter(|p| p.is_number()) {
                Some(kept) => port["nodePort"] = kept.clone(),
                None if wanted => port["nodePort"] = taken.free_port().into(),
                None => {}
            }
        }
    }
}

fn set_if_missing(map: &mut Value, field: &str, value: Value) {
    if map[field].is_null() {
        map[field] = value;
    }
}

fn remove(map: &mut Value, field: &str) {
    if let Some(map) = map.as_object_mut() {
        map.remove(field);
    }
}
