//! `doctor`, as a user sees it in a terminal.

use std::time::{Duration, Instant};

use harness::objects::{managed, node, slice, vip};
use harness::{Cluster, LEASE, Operator, Platform, Rights, command, until};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use testbed::{Effect, Fault, Match, Request};
use tokio::time::sleep;

use crate::inspect::{ended, run, text};
use crate::{PROGRAM, on_both};

const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// An address in the certificates of the servers.
const CERTIFIED: &str = "127.0.0.5";

/// Creates the VIP with the port of the API servers, and waits until it is in sync.
async fn create_vip(cluster: &Cluster) {
    let mut service = vip();
    service["spec"]["ports"][0]["targetPort"] = json!(cluster.address(0).port());
    cluster.create::<Service>(service).await;
    let mut addresses = [0, 1, 2].map(|server| cluster.ip(server));
    addresses.sort();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    cluster
        .until_addresses("default", "kubernetes-vip", &addresses)
        .await;
}

/// Sets the address of the VIP in its status, as a load balancer does.
async fn assign(cluster: &Cluster, address: &str) {
    let api: Api<Service> = Api::namespaced(cluster.client(), "default");
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
    api.patch_status("kubernetes-vip", &PatchParams::default(), &Patch::Merge(status))
        .await
        .expect("a status");
}

/// The result and the detail of a check.
fn check<'a>(json: &'a Value, name: &str) -> (&'a str, &'a str) {
    let checks = json["checks"].as_array().expect("checks").iter();
    let mut of_name = checks.filter(|check| check["check"] == name);
    let check = of_name.next().unwrap_or_else(|| panic!("no {name} in {json:#}"));
    let text = |field: &str| check[field].as_str().expect("a string");
    (text("result"), text("detail"))
}

/// The exit code and the output of `doctor -o json`.
async fn diagnosis(cluster: &Cluster) -> (Option<i32>, Value) {
    let output = run(cluster, &["doctor", "-o", "json"]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {error}"));
    (output.status.code(), json)
}

/// The result and the detail of the `rights` check with these flags, which must not fail.
async fn rights_with(cluster: &Cluster, flags: &[&str]) -> (String, String) {
    let args = [&["doctor", "-o", "json"], flags].concat();
    let output = run(cluster, &args).await;
    assert_eq!(output.status.code(), Some(0));
    let json = serde_json::from_slice(&output.stdout).expect("JSON");
    let (result, detail) = check(&json, "rights");
    (result.to_owned(), detail.to_owned())
}

on_both! {
    listed;
    async fn doctor_names_what_is_wrong_with_a_vip(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        operator.until_leads().await;
        create_vip(cluster).await;
        assign(cluster, CERTIFIED).await;
        cluster.put_node(node("a", &["192.0.2.1"])).await;
        let (code, right) = diagnosis(cluster).await;
        assert_eq!(code, Some(0), "{right:#}");
        assert_eq!(right["ok"], true);
        for (name, detail) in [
            ("copies", "in sync with default/kubernetes"),
            ("endpoints", "3 of 3 are ready"),
            ("address", CERTIFIED),
            ("foreign-slices", "all EndpointSlices of the Service are copies"),
            ("excluded-nodes", "1 of 1 Nodes may announce the address"),
            ("tls-san", "3 of 3 servers have a certificate for 127.0.0.5"),
            ("clocks", "the clocks of 3 API servers differ by less than 10 s"),
        ] {
            assert_eq!(check(&right, name), ("ok", detail));
        }
        assert_eq!(check(&right, "reachability").0, "ok");
        assert_eq!(check(&right, "installations").0, "ok");
        // This replica does not run in a Pod.
        assert_eq!(check(&right, "rights").0, "unknown", "{right:#}");

        assign(cluster, "192.0.2.100").await;
        let mut labeled = node("a", &["192.0.2.1"]);
        labeled["metadata"]["labels"][EXCLUDED] = json!("");
        cluster.put_node(labeled).await;
        cluster.create::<EndpointSlice>(slice("default", "kubernetes-vip", "theirs", &["192.0.2.9"])).await;
        let now = Timestamp::now();
        let fight = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "fight", "namespace": "default"},
            "involvedObject": {"apiVersion": "v1", "kind": "Service", "namespace": "default", "name": "kubernetes-vip"},
            "reason": "OtherInstallation", "message": "something else writes copies", "type": "Warning",
            "reportingComponent": "endpoint-copier-operator", "reportingInstance": "one", "action": "Sync",
            "eventTime": format!("{now:.6}"),
        });
        assert_eq!(cluster.post("/api/v1/namespaces/default/events", fight).await, 201);
        cluster.kill_server(1).await;
        let (code, wrong) = diagnosis(cluster).await;
        assert_eq!(code, Some(1), "{wrong:#}");
        assert_eq!(wrong["ok"], false);
        let fought = ("warning", "OtherInstallation: something else writes copies");
        assert_eq!(check(&wrong, "copies"), fought);
        for (name, detail) in [
            ("foreign-slices", "theirs"),
            ("excluded-nodes", "have the label node.kubernetes.io/exclude-from-external-load-balancers: a"),
            ("tls-san", "is not valid for 192.0.2.100, but for 127.0.0.1, "),
            ("reachability", "(connection refused)"),
        ] {
            let (result, found) = check(&wrong, name);
            assert_eq!(result, "failed", "{name}: {wrong:#}");
            assert!(found.contains(detail), "{name}: {found}");
        }
        let shown = text(&run(cluster, &["doctor"]).await);
        for part in [
            "default/kubernetes-vip\n",
            "\n           -> Add 192.0.2.100 to tls-san in the configuration",
            "\n           -> kubectl label nodes --selector node.kubernetes.io/",
            "\nCluster\n",
        ] {
            assert!(shown.contains(part), "{part}:\n{shown}");
        }
    }
}

on_both! {
    async fn two_installations_are_found_by_their_leases(cluster: &mut Cluster) {
        let first = Operator::start(cluster, "one", 0);
        first.until_leads().await;
        let (_, one) = diagnosis(cluster).await;
        assert_eq!(check(&one, "services").0, "warning");
        let holder = cluster.holder().await;
        assert_eq!(check(&one, "installations"), ("ok", &*format!("one, led by {holder} in namespace default")));
        let lease = |second: u32| json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": LEASE, "namespace": "kube-public"},
            "spec": {
                "holderIdentity": "other_1", "leaseDurationSeconds": 6,
                "renewTime": format!("2026-01-02T12:00:{second:02}.000000Z"),
            },
        });
        // The Lease of an installation that was uninstalled.
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-public/leases";
        assert_eq!(cluster.post(path, lease(0)).await, 201);
        let (_, left) = diagnosis(cluster).await;
        assert_eq!(check(&left, "installations").0, "ok", "{left:#}");
        // A replica that renews this Lease, and whose clock is behind.
        let leases: Api<Lease> = Api::namespaced(cluster.client(), "kube-public");
        let renewing = tokio::spawn(async move {
            for second in (1..60).cycle() {
                let renewal = Patch::Merge(lease(second));
                leases.patch(LEASE, &PatchParams::default(), &renewal).await.expect("a Lease");
                sleep(Duration::from_millis(500)).await;
            }
        });
        let (code, two) = diagnosis(cluster).await;
        renewing.abort();
        assert_eq!(code, Some(1), "{two:#}");
        let (result, detail) = check(&two, "installations");
        assert_eq!(result, "failed", "{two:#}");
        assert!(detail.contains("in 2 namespaces") && detail.contains("other_1 in namespace kube-public"), "{detail}");
        let (result, detail) = check(&two, "clocks");
        assert_eq!(result, "failed", "{two:#}");
        assert!(detail.starts_with("the clock of other_1 is ") && detail.contains("behind"), "{detail}");
        drop(first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_names_missing_rights_and_writes_nothing() {
    let cluster = Cluster::start_listed(Platform::Testbed, PROGRAM, None).await;
    let operator = Operator::start(&cluster, "one", 0);
    operator.until_leads().await;
    create_vip(&cluster).await;
    assign(&cluster, CERTIFIED).await;
    let (store, kubeconfig) = crate::reader(&cluster);
    let mut doctor = command(PROGRAM.as_ref());
    doctor
        .args(["doctor", "-o", "json"])
        .arg(format!("--kubeconfig={}", kubeconfig.display()));
    let output = ended(doctor).await;
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(0), "{json:#}");
    for (name, right) in [
        ("excluded-nodes", "needs permission to list nodes: 403"),
        (
            "installations",
            "needs permission to list leases.coordination.k8s.io in all namespaces: 403",
        ),
        ("rights", "no replica is known to lead"),
    ] {
        let (result, detail) = check(&json, name);
        assert_eq!(result, "unknown", "{json:#}");
        assert!(detail.contains(right), "{detail}");
    }
    assert_eq!(check(&json, "tls-san").0, "ok");
    let asked = store.requests().matching(|request| request.user == crate::READER);
    let is_read = |request: &Request| ["get", "list"].contains(&request.verb);
    assert!(!asked.is_empty() && asked.iter().all(is_read), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_servers_delay_doctor_by_less_than_20_seconds() {
    let cluster = Cluster::start_listed(Platform::Testbed, PROGRAM, None).await;
    let operator = Operator::start_with(&cluster, "one", 0, &["--probe=off"]);
    operator.until_leads().await;
    create_vip(&cluster).await;
    for server in [1, 2] {
        cluster.freeze_server(server);
    }
    let start = Instant::now();
    let (code, json) = diagnosis(&cluster).await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(code, Some(1), "{json:#}");
    let (result, detail) = check(&json, "reachability");
    assert_eq!(result, "failed", "{json:#}");
    assert!(
        detail.starts_with("requests to 2 of 3") && detail.contains("(timed out)"),
        "{detail}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_waits_10_s_for_its_second_list_of_leases() {
    let cluster = Cluster::start_listed(Platform::Testbed, PROGRAM, None).await;
    let (store, server) = cluster.testbed().expect("on the testbed");
    // The Lease of an installation that was uninstalled. `doctor` lists Leases again to find out whether it is renewed.
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": LEASE, "namespace": "kube-public"},
        "spec": {
            "holderIdentity": "other_1", "leaseDurationSeconds": 6, "renewTime": "2026-01-02T12:00:00.000000Z",
        },
    });
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-public/leases";
    assert_eq!(cluster.post(path, lease).await, 201);
    let is_list = |request: &Request| request.is("list", "leases");
    let hang = async {
        until("doctor has listed Leases", async || {
            store
                .requests()
                .matching(is_list)
                .iter()
                .any(|request| request.status == Some(200))
        })
        .await;
        server.faults().add(Fault::new(
            Match::any().verb("list").resource("leases"),
            Effect::Hang,
        ));
    };
    let ((_, json), ()) = tokio::join!(diagnosis(&cluster), hang);
    let lists = store.requests().matching(is_list);
    assert_eq!(lists.len(), 2);
    // Without a time limit for this request, `doctor` would wait for 13 s, the time limit of its client.
    let waited = lists[1].at.elapsed();
    assert!(waited < Duration::from_secs(12), "{waited:?}");
    let (result, detail) = check(&json, "installations");
    assert_eq!(result, "failed", "{detail}");
    assert!(detail.contains("other_1 in namespace kube-public"), "{detail}");
}

/// Runs only on a real API server, because the testbed has neither Pods nor access reviews for resources.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_are_named_on_a_real_api_server() {
    if !Platform::Real.is_here() {
        return println!("skipped: needs KUBEBUILDER_ASSETS");
    }
    let cluster = Cluster::start(Platform::Real, PROGRAM, 1).await;
    let operator = Operator::start(&cluster, "one", 0);
    operator.until_leads().await;
    cluster
        .create::<EndpointSlice>(slice("default", "app", "app-x", &["10.0.0.1"]))
        .await;
    cluster
        .create::<Service>(managed("default", "front", "default", "app"))
        .await;
    cluster.until_addresses("default", "front", &["10.0.0.1"]).await;
    let (_, before) = diagnosis(&cluster).await;
    let (result, detail) = check(&before, "rights");
    assert_eq!(result, "unknown", "{detail}");
    assert!(detail.contains("pods \"one\" not found"), "{detail}");

    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": "default"},
        "spec": {"serviceAccountName": "replica", "containers": [{"name": "operator", "image": "operator"}]},
    });
    assert_eq!(cluster.post("/api/v1/namespaces/default/pods", pod).await, 201);
    let (code, missing) = diagnosis(&cluster).await;
    assert_eq!(code, Some(1), "{missing:#}");
    let (result, detail) = check(&missing, "rights");
    assert_eq!(result, "failed", "{detail}");
    assert!(
        detail.starts_with("system:serviceaccount:default:replica is not allowed to get services, "),
        "{detail}"
    );

    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let account = json!([{"kind": "ServiceAccount", "name": "replica", "namespace": "default"}]);
    let bind = |kind: &str, name: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"),
            "metadata": {"name": "of-the-account", "namespace": (kind == "Role").then_some("default")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}, "subjects": account,
        })
    };
    let everywhere = bind("ClusterRole", "replicas");
    assert_eq!(
        cluster
            .post(&format!("{rbac}/clusterrolebindings"), everywhere)
            .await,
        201
    );
    let within = bind("Role", "replicas-leader-election");
    let path = format!("{rbac}/namespaces/default/rolebindings");
    assert_eq!(cluster.post(&path, within).await, 201);
    until("doctor reports all permissions", async || {
        let (code, json) = diagnosis(&cluster).await;
        code == Some(0)
            && check(&json, "rights").1
                == "system:serviceaccount:default:replica has all permissions that the operator needs"
    })
    .await;
    // The ClusterRole is the one that the chart renders with default values.
    let (result, detail) = rights_with(&cluster, &["--service-conditions", "--metrics-secure"]).await;
    assert_eq!(result, "warning", "{detail}");
    for right in [
        "create tokenreviews.authentication.k8s.io",
        "create subjectaccessreviews.authorization.k8s.io",
        "patch services/status in default",
    ] {
        assert!(detail.contains(right), "{right}: {detail}");
    }
    // The chart withholds what the operator does not need with these flags.
    cluster.give_rights(Rights::Least, "default").await;
    let (result, detail) = rights_with(&cluster, &["--probe=off", "--cross-namespace=deny"]).await;
    assert_eq!(result, "ok", "{detail}");
    let (result, detail) = rights_with(&cluster, &[]).await;
    assert_eq!(result, "warning", "{detail}");
    for right in [
        "watch referencegrants.gateway.networking.k8s.io",
        "get leases.coordination.k8s.io f668ae63.endpoint-copier-operator-probes in default",
    ] {
        assert!(detail.contains(right), "{right}: {detail}");
    }
    // The `holderIdentity` of a Lease can be any text.
    let leases: Api<Lease> = Api::namespaced(cluster.client(), "default");
    drop(operator);
    let path =
        json!({"spec": {"holderIdentity": "../secrets/x_1", "renewTime": "2999-01-01T00:00:00.000000Z"}});
    leases
        .patch(LEASE, &PatchParams::default(), &Patch::Merge(path))
        .await
        .expect("a Lease");
    let (_, hostile) = diagnosis(&cluster).await;
    let (result, detail) = check(&hostile, "rights");
    assert_eq!(result, "unknown", "{detail}");
    assert!(detail.contains("which is not a Pod"), "{detail}");
}
