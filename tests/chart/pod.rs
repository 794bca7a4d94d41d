//! A Pod of the Deployment as a kubelet starts it, without a container. Command, flags, environment and probes come
//! from the Deployment. This module supplies the values that a kubelet adds: a name, an address and a token.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};

use harness::{Cluster, Operator, command, objects, until};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use crate::PROGRAM;

/// A running Pod.
pub struct Pod {
    pub operator: Operator,
    container: Value,
    /// The environment of a command that `kubectl exec` runs in the container.
    env: Vec<(OsString, OsString)>,
}

/// Properties of the node.
pub struct Node<'a> {
    /// Replaces the mounted token and the cluster IP.
    pub kubeconfig: &'a Path,
    /// `status.hostIP`
    pub address: IpAddr,
}

impl Pod {
    /// Starts one Pod of a Deployment.
    pub fn start(cluster: &Cluster, deployment: &Value, name: &str, node: &Node<'_>) -> Self {
        let container = deployment["spec"]["template"]["spec"]["containers"][0].clone();
        let mut command = start_command(deployment, &container, name, node.address);
        // Each Pod has its own address, and listens there on the ports that the Deployment names.
        let ip = pod_ip();
        let [metrics, health] =
            ["metrics", "health"].map(|port| SocketAddr::from((ip, port_of(&container, port))));
        command
            .env("ENDPOINT_COPIER_KUBECONFIG", node.kubeconfig)
            .env("ENDPOINT_COPIER_METRICS_BIND_ADDRESS", metrics.to_string())
            .env("ENDPOINT_COPIER_HEALTH_PROBE_BIND_ADDRESS", health.to_string());
        let env = command.get_envs();
        let env = env.filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        let env = env.collect();
        let operator = Operator::spawn(cluster, name, command, metrics, health);
        Self {
            operator,
            container,
            env,
        }
    }

    /// Runs the program with these arguments as `kubectl exec … -- /endpoint-copier-operator` does: with the
    /// environment of the Pod, but without its flags.
    pub fn exec(&self, words: &[&str]) -> std::process::Output {
        let mut command = command(Path::new(PROGRAM));
        command.args(words).envs(self.env.iter().cloned());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.output().expect("the program starts")
    }

    /// Waits until a probe of the Deployment succeeds.
    pub async fn until_probe(&self, probe: &str) {
        let get = &self.container[probe]["httpGet"];
        assert_eq!(get["port"], "health", "{probe}");
        let path = get["path"].as_str().expect("a path");
        until(&format!("{probe} of {}", self.operator.name()), async || {
            self.operator.get(path).await.0 == 200
        })
        .await;
    }

    /// Waits until a kubelet would consider the Pod ready.
    pub async fn until_ready(&self) {
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            self.until_probe(probe).await;
        }
    }

    /// The lines of `/metrics` about requests that the API server rejected with 403.
    pub async fn refusals(&self) -> Vec<String> {
        let (code, text) = self.operator.get("/metrics").await;
        assert_eq!(code, 200);
        let lines = text.lines().filter(|line| line.contains("code=\"403\""));
        lines.map(str::to_owned).collect()
    }
}

/// The command, the flags and the environment of the only container.
pub fn start_command(
    deployment: &Value,
    container: &Value,
    name: &str,
    node: IpAddr,
) -> std::process::Command {
    let texts = |list: &Value| -> Vec<String> {
        let list = list.as_array().expect("a list").iter();
        list.map(|text| text.as_str().expect("a string").to_owned())
            .collect()
    };
    assert_eq!(texts(&container["command"]), ["/endpoint-copier-operator"]);
    let mut command = command(Path::new(PROGRAM));
    command.args(texts(&container["args"]));
    for variable in container["env"].as_array().expect("a list") {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            None => variable["value"].as_str().expect("a string").to_owned(),
            Some("metadata.name") => name.to_owned(),
            Some("metadata.namespace") => deployment["metadata"]["namespace"]
                .as_str()
                .expect("a namespace")
                .to_owned(),
            Some("status.hostIP" | "status.hostIPs") => node.to_string(),
            Some("spec.nodeName") => "node".to_owned(),
            Some(other) => panic!("{other}: this test has no value for this field"),
        };
        command.env(variable["name"].as_str().expect("a name"), value);
    }
    command
}

fn port_of(container: &Value, name: &str) -> u16 {
    let ports = container["ports"].as_array().expect("ports");
    let port = ports
        .iter()
        .find(|port| port["name"] == name)
        .expect("a port of this name");
    u16::try_from(port["containerPort"].as_u64().expect("a number")).expect("a port")
}

/// A loopback address that nothing else uses: all of 127.0.0.0/8 belongs to this machine.
fn pod_ip() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(64);
    let [_, _, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, NEXT.fetch_add(1, Ordering::Relaxed), middle, low)
}

/// Lists these API servers in `default/kubernetes` from now on. The port has a different name than in real clusters, so
/// that the operator does not dial these addresses, where nothing listens.
pub async fn list_api_servers(cluster: &Cluster, addresses: &[&str]) {
    let mut slice = objects::api_servers(addresses);
    slice["ports"][0]["name"] = "not-to-be-dialed".into();
    cluster.put::<EndpointSlice>(slice).await;
}
