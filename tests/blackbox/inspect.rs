//! `status`, `plan` and `wait`, as a user sees them in a terminal.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use harness::objects::{api_servers, managed, slice, vip};
use harness::{Cluster, Operator, command, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use testbed::{Effect, Fault, Match, Request};

use crate::{PROGRAM, on_both};

/// Runs the program with these arguments and with a kubeconfig for the cluster.
pub async fn run(cluster: &Cluster, words: &[&str]) -> Output {
    let kubeconfig = cluster.kubeconfig_with(0, None);
    let mut command = command(PROGRAM.as_ref());
    command
        .args(words)
        .arg(format!("--kubeconfig={}", kubeconfig.display()));
    ended(command).await
}

/// Runs a command until it ends, and returns its output.
pub async fn ended(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.expect("no panic").expect("the command starts")
}

/// The standard output of a command.
pub fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// The cells in the row of a Service.
fn line<'a>(text: &'a str, service: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.starts_with(service));
    line.unwrap_or_else(|| panic!("no {service} in\n{text}"))
        .split_whitespace()
        .collect()
}

on_both! {
    async fn status_shows_the_leader_and_that_all_is_in_sync(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        operator.until_leads().await;
        cluster.create::<Service>(vip()).await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.1", "192.0.2.2"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.2"]).await;
        let output = run(cluster, &["status"]).await;
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(0), "{shown}");
        let cells = line(&shown, "default/kubernetes-vip");
        assert_eq!(cells[1..7], ["default/kubernetes", "IPv4", "2/2", "2/2", "-", "yes"], "{shown}");
        assert_eq!(cells[8], "-", "{shown}");
        let holder = cluster.holder().await;
        assert!(shown.contains(&format!("Leader: {holder} (namespace ")), "{shown}");
        assert!(!shown.contains("has expired"), "{shown}");

        let json: Value = serde_json::from_slice(&run(cluster, &["status", "-o", "json"]).await.stdout).expect("JSON");
        assert_eq!(json["inSync"], true);
        assert_eq!(json["services"][0]["sourceEndpoints"], json!({"ready": 2, "total": 2}));
        assert_eq!(json["leaders"][0]["holder"], holder);
        assert_eq!(text(&run(cluster, &["plan"]).await), "Nothing to write.\n");
    }

    async fn wait_ends_when_the_copies_are_in_sync(cluster: &mut Cluster) {
        let vip_name = "default/kubernetes-vip";
        // Neither the Service nor an operator exists yet.
        let before = run(cluster, &["wait", vip_name, "--timeout=0"]).await;
        assert_eq!(before.status.code(), Some(1), "{}", text(&before));
        assert!(text(&before).starts_with("default/kubernetes-vip is not managed: "), "{}", text(&before));
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.1", "192.0.2.2"])).await;
        cluster.create::<Service>(vip()).await;
        let alone = run(cluster, &["wait", vip_name, "--timeout=2s"]).await;
        assert_eq!(alone.status.code(), Some(1), "{}", text(&alone));
        assert!(text(&alone).contains("Leader: none, there is no Lease"), "{}", text(&alone));

        let words = ["wait", vip_name, "--timeout=60s"];
        let waiting = run(cluster, &words);
        let started = async {
            tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
            Operator::start(cluster, "one", 0)
        };
        let (waited, _operator) = tokio::join!(waiting, started);
        assert_eq!(waited.status.code(), Some(0), "{}", text(&waited));
        assert_eq!(text(&waited), "default/kubernetes-vip is in sync\n");
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.2"]).await;
    }

    async fn a_refused_service_is_out_of_sync_with_its_reason(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        operator.until_leads().await;
        let mut refused = managed("default", "web", "default", "source");
        refused["spec"]["selector"] = json!({"app": "web"});
        cluster.create::<Service>(refused).await;
        let output = run(cluster, &["status"]).await;
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(1), "{shown}");
        let cells = line(&shown, "default/web");
        assert_eq!((cells[6], cells[8]), ("NO", "HasSelector"), "{shown}");
        assert!(shown.contains("default/web HasSelector: "), "{shown}");
        // No write would fix this Service.
        let plan = run(cluster, &["plan"]).await;
        assert_eq!((plan.status.code(), text(&plan).as_str()), (Some(0), "Nothing to write.\n"));
    }

    async fn plan_shows_what_an_operator_would_write_and_writes_nothing(cluster: &mut Cluster) {
        cluster.create::<Service>(managed("default", "front", "default", "app")).await;
        cluster.create::<EndpointSlice>(slice("default", "app", "app-x", &["10.0.0.1"])).await;
        let output = run(cluster, &["plan"]).await;
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(1), "{shown}");
        for wanted in [
            "default/front (from default/app)\n  create front-",
            "\n  + endpoint 10.0.0.1 ready",
            "\n  + label kubernetes.io/service-name=front\n",
        ] {
            assert!(shown.contains(wanted), "{wanted:?} in\n{shown}");
        }
        let status = run(cluster, &["status"]).await;
        assert_eq!(status.status.code(), Some(1));
        assert!(text(&status).ends_with("Leader: none, there is no Lease\n"), "{}", text(&status));
        assert_eq!(text(&run(cluster, &["plan"]).await), shown, "something was written");

        // An operator writes what `plan` showed.
        let operator = Operator::start(cluster, "one", 0);
        cluster.until_addresses("default", "front", &["10.0.0.1"]).await;
        drop(operator);
        cluster.put::<EndpointSlice>(slice("default", "app", "app-x", &["10.0.0.2"])).await;
        let shown = text(&run(cluster, &["plan"]).await);
        assert!(shown.contains("  update front-"), "{shown}");
        assert!(shown.contains("\n  - endpoint 10.0.0.1 ready") && shown.contains("\n  + endpoint 10.0.0.2 ready"), "{shown}");
        assert!(!shown.contains("label"), "the plan shows more than the changes: {shown}");
    }

}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_the_event_about_a_refused_write() {
    let cluster = Cluster::start(harness::Platform::Testbed, PROGRAM, 1).await;
    let operator = Operator::start(&cluster, "one", 0);
    operator.until_leads().await;
    let (_, server) = cluster.testbed().expect("on the testbed");
    let creates = Match::any().verb("create").resource("endpointslices");
    server.faults().add(Fault::status(creates, 422));
    cluster.create::<Service>(vip()).await;
    until("status shows the finding", async || {
        let output = run(&cluster, &["status"]).await;
        let shown = text(&output);
        output.status.code() == Some(1)
            && line(&shown, "default/kubernetes-vip").last() == Some(&"WriteRefused")
            && shown.contains("default/kubernetes-vip WriteRefused: cannot create EndpointSlice")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_plan_only_read_and_need_no_lease_rights() {
    let cluster = Cluster::start(harness::Platform::Testbed, PROGRAM, 1).await;
    cluster.create::<Service>(vip()).await;
    let (store, kubeconfig) = crate::reader(&cluster);
    for (word, wanted) in [
        ("status", "Leader: unknown, the Lease cannot be read: 403"),
        (
            "status",
            "\nEvents cannot be read, so findings that only Events show may be missing or out of date: 403",
        ),
        ("plan", "  create kubernetes-vip-"),
    ] {
        let mut program = command(PROGRAM.as_ref());
        program
            .arg(word)
            .arg(format!("--kubeconfig={}", kubeconfig.display()));
        let output = ended(program).await;
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(wanted), "{}", text(&output));
    }
    let asked = store.requests().matching(|request| request.user == crate::READER);
    let is_read = |request: &Request| ["get", "list"].contains(&request.verb);
    assert!(!asked.is_empty() && asked.iter().all(is_read), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_with_bad_arguments_exits_with_one_line_and_code_2() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("none");
    for flags in [
        vec![format!("--kubeconfig={}", missing.display())],
        vec!["--unknown".to_owned()],
        vec!["-o=yaml".to_owned()],
        vec!["unexpected".to_owned()],
    ] {
        let mut program = command(PROGRAM.as_ref());
        program.arg("status").args(&flags);
        let output = ended(program).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_ends_in_time_if_a_read_after_the_first_hangs() {
    let cluster = Cluster::start(harness::Platform::Testbed, PROGRAM, 1).await;
    let (store, server) = cluster.testbed().expect("on the testbed");
    let lists = || {
        store
            .requests()
            .all()
            .iter()
            .filter(|request| request.verb == "list")
            .count()
    };
    let start = std::time::Instant::now();
    let hang = async {
        until("the first read begins", async || lists() > 0).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.faults().add(Fault::new(Match::any(), Effect::Hang));
    };
    let (output, ()) = tokio::join!(
        run(&cluster, &["wait", "default/kubernetes-vip", "--timeout=3s"]),
        hang
    );
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        start.elapsed() < Duration::from_millis(4_500),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_without_an_api_server_ends_in_time_with_code_2() {
    let mut cluster = Cluster::start(harness::Platform::Testbed, PROGRAM, 1).await;
    cluster.kill_server(0).await;
    let start = std::time::Instant::now();
    let output = run(&cluster, &["wait", "default/kubernetes-vip", "--timeout=6s"]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(start.elapsed().as_secs() < 12, "{:?}", start.elapsed());
}
