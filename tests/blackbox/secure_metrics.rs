//! `/metrics` over TLS, served only to clients whose tokens permit them to get it.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::objects::{managed, slice};
use harness::{
    Cluster, HttpsAnswer, LEASE, Operator, Rights, SHORT_LEASE, https_get, request, tls, until, within,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use testbed::{Effect, Fault, Match, Rule};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::on_both;

/// Starts a replica with secure metrics.
fn start(cluster: &Cluster, more: &[&str]) -> Operator {
    let flags = [&SHORT_LEASE[..], &["--metrics-secure"], more].concat();
    Operator::start_with(cluster, "one", 0, &flags)
}

/// Allows a user to get metrics, with the ClusterRole of the chart.
async fn allow(cluster: &Cluster, user: &str) {
    if let Some((store, _)) = cluster.testbed() {
        return store.restrict(user, vec![Rule::path("/metrics", "get")]);
    }
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": format!("metrics-{user}")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "replicas-metrics-reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(cluster.post(path, binding).await, 201);
}

/// Connects from the address 127.0.1.`from`. All addresses in 127.0.0.0/8 belong to this machine.
async fn connect(operator: &Operator, from: u8) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // With a small buffer, the kernel reads little for a client that does not read.
    socket.set_recv_buffer_size(4096)?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, from), 0)))?;
    socket.connect(operator.metrics_address()).await
}

/// The response that a scraper gets, or `None` if nothing listens yet.
async fn scrape(operator: &Operator, token: Option<&str>) -> Option<HttpsAnswer> {
    // The operator accepts at most 16 handshakes per second from a peer.
    sleep(Duration::from_millis(100)).await;
    let stream = connect(operator, 1).await.ok()?;
    let answer = timeout(Duration::from_secs(10), https_get(stream, "/metrics", token)).await;
    Some(answer.expect("an answer in time").expect("a whole answer"))
}

/// The status code that a scraper gets, or 0 if nothing listens yet.
async fn code(operator: &Operator, token: Option<&str>) -> u16 {
    scrape(operator, token).await.map_or(0, |answer| answer.code)
}

/// The `leaseTransitions` and the holder of the Lease.
async fn term(cluster: &Cluster) -> (i32, String) {
    let lease: Lease = cluster.try_get("default", LEASE).await.expect("a Lease");
    let spec = lease.spec.expect("a spec");
    (
        spec.lease_transitions.unwrap_or(0),
        spec.holder_identity.unwrap_or_default(),
    )
}

/// Writes a new certificate as the kubelet does: into a new directory, to which a symlink then points. Returns the
/// certificate in DER.
fn mount(volume: &Path, version: &str) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = made.signing_key.serialize_pem();
    mount_files(volume, version, &made.cert.pem(), &key);
    made.cert.der().to_vec()
}

fn mount_files(volume: &Path, version: &str, certificate: &str, key: &str) {
    let directory = volume.join(format!("..{version}"));
    std::fs::create_dir(&directory).expect("a directory");
    std::fs::write(directory.join("tls.crt"), certificate).expect("a file");
    std::fs::write(directory.join("tls.key"), key).expect("a file");
    symlink(&directory, volume.join("..data_tmp")).expect("a symlink");
    std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).expect("renamed");
    for file in ["tls.crt", "tls.key"] {
        let link = volume.join(file);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(file), link).expect("a symlink");
        }
    }
}

on_both! {
    /// Rule: survive.metrics-authorized
    async fn metrics_need_a_token_with_permission(cluster: &mut Cluster) {
        cluster.give_rights(Rights::SecureMetrics, "default").await;
        allow(cluster, "two").await;
        let operator = start(cluster, &[]);
        operator.until_ready().await;
        let [admin, two, three] = ["admin", "two", "three"].map(|user| cluster.token(user));
        until("the user two has permission to get metrics", async || code(&operator, Some(&two)).await == 200).await;
        for (token, expected) in [
            (None, 401),
            (Some("nonsense"), 401),
            (Some(&three[..]), 403),
            (Some(&admin), 200),
        ] {
            // At most three unknown tokens per second from a peer are reviewed.
            sleep(Duration::from_millis(300)).await;
            assert_eq!(code(&operator, token).await, expected, "{token:?}");
        }
        let answer = scrape(&operator, Some(&two)).await.expect("an answer");
        assert!(answer.body.contains("\nleader_election_master_status{"), "{}", answer.body);
        let (plain, _) = operator.get("/metrics").await;
        assert_eq!(plain, 0, "a response without TLS");
        let log = operator.log();
        assert!([admin, two, three].iter().all(|token| !log.contains(token)), "{log}");
    }

    /// Rule: survive.metrics-certificate
    async fn a_renewed_certificate_is_served_without_a_restart(cluster: &mut Cluster) {
        let volume = cluster.directory().join("certificate");
        std::fs::create_dir(&volume).expect("a directory");
        let first = mount(&volume, "1");
        let mut operator = start(cluster, &[&format!("--metrics-cert-path={}", volume.display())]);
        operator.until_ready().await;
        let certificate = async || scrape(&operator, None).await.expect("an answer").certificate;
        assert_eq!(certificate().await, first);
        let second = mount(&volume, "2");
        until("the new certificate is served", async || certificate().await == second).await;
        mount_files(&volume, "3", "nonsense", "nonsense");
        let kept = "keeps its old certificate";
        operator.until_logged(kept).await;
        assert_eq!(certificate().await, second);
        let third = mount(&volume, "4");
        until("a good certificate is served again", async || certificate().await == third).await;
        assert_eq!(operator.log().matches(kept).count(), 1);
        assert!(operator.runs());
    }

    /// Rule: survive.metrics-certificate
    async fn a_missing_certificate_does_not_stop_the_operator(cluster: &mut Cluster) {
        cluster.give_rights(Rights::SecureMetrics, "default").await;
        let volume = cluster.directory().join("certificate");
        let mut operator = start(cluster, &[&format!("--metrics-cert-path={}", volume.display())]);
        operator.until_ready().await;
        until("the operator leads", async || cluster.holder().await.starts_with("one_")).await;
        assert_eq!(operator.log().matches("served with a self-signed certificate").count(), 1);
        assert_eq!(code(&operator, None).await, 401, "without a token");
        let admin = cluster.token("admin");
        until("the metrics are served", async || code(&operator, Some(&admin)).await == 200).await;
        std::fs::create_dir(&volume).expect("a directory");
        let first = mount(&volume, "1");
        let certificate = async || scrape(&operator, None).await.expect("an answer").certificate;
        until("the mounted certificate is served", async || certificate().await == first).await;
        assert!(operator.runs());
    }

    /// Rule: survive.metrics-authorized
    async fn metrics_are_refused_while_tokens_cannot_be_reviewed(cluster: &mut Cluster) {
        let operator = start(cluster, &[]);
        until("the operator leads", async || cluster.holder().await.starts_with("one_")).await;
        let admin = cluster.token("admin");
        until("the review is refused", async || code(&operator, Some(&admin)).await == 503).await;
        let line = operator.until_logged("reviewing a client of /metrics failed").await;
        assert!(line.contains("tokenreviews"), "{line}");
        cluster.give_rights(Rights::SecureMetrics, "default").await;
        until("tokens are reviewed", async || code(&operator, Some(&admin)).await == 200).await;

        let Some((store, server)) = cluster.testbed() else { return };
        let before = term(cluster).await;
        server.faults().add(Fault::new(Match::any().resource("subjectaccessreviews"), Effect::Hang));
        store.add_token("another", "admin");
        let began = Instant::now();
        assert_eq!(code(&operator, Some("another")).await, 503);
        let took = began.elapsed();
        assert!((4..8).contains(&took.as_secs()), "{took:?}");
        assert_eq!(code(&operator, Some(&admin)).await, 200, "the review of this token is not cached");
        assert_eq!(term(cluster).await, before);
    }

    /// Rule: survive.metrics-reviews
    async fn invalid_tokens_cause_few_reviews_and_end_no_term(cluster: &mut Cluster) {
        cluster.give_rights(Rights::SecureMetrics, "default").await;
        let operator = start(cluster, &[]);
        until("the operator leads", async || cluster.holder().await.starts_with("one_")).await;
        let admin = cluster.token("admin");
        until("the token of the scraper is reviewed", async || code(&operator, Some(&admin)).await == 200).await;
        let before = term(cluster).await;
        let began = Instant::now();
        let mut attackers = JoinSet::new();
        for from in 2..6 {
            for connection in 0..4 {
                let stream = connect(&operator, from).await.expect("a listening operator");
                attackers.spawn(async move {
                    let mut stream = tls(stream).await.expect("TLS");
                    let mut buffer = vec![0; 4096];
                    for number in 0.. {
                        let token = format!("invalid-{from}-{connection}-{number}");
                        let request = request("/metrics", Some(&token));
                        if stream.write_all(request.as_bytes()).await.is_err() {
                            break;
                        }
                        if !matches!(stream.read(&mut buffer).await, Ok(1..)) {
                            break;
                        }
                    }
                });
            }
        }
        while began.elapsed() < Duration::from_secs(5) {
            assert_eq!(code(&operator, Some(&admin)).await, 200);
            sleep(Duration::from_millis(200)).await;
        }
        attackers.abort_all();
        let (seconds, log) = (began.elapsed().as_secs(), operator.log());
        assert_eq!(term(cluster).await, before, "{log}");
        if let Some((store, _)) = cluster.testbed() {
            let reviews = store.requests().matching(|request| request.is("create", "tokenreviews"));
            let limit = 12 * (usize::try_from(seconds).expect("a number") + 2);
            assert!((20..=limit).contains(&reviews.len()), "{} in {seconds} s", reviews.len());
        }
    }

    /// Rule: survive.unread
    async fn clients_that_do_not_read_over_tls_cost_three_mib_at_most(cluster: &mut Cluster) {
        cluster.give_rights(Rights::SecureMetrics, "default").await;
        cluster.create::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.1"])).await;
        for number in 0..200 {
            let service = managed("default", &format!("a-service-of-a-usual-length-{number}"), "default", "source");
            cluster.create::<Service>(service).await;
        }
        let operator = start(cluster, &[]);
        let admin = cluster.token("admin");
        until("all Services are in sync", async || {
            let answer = scrape(&operator, Some(&admin)).await;
            answer.is_some_and(|answer| answer.body.contains("\nendpoint_copier_services_in_sync 200\n"))
        })
        .await;
        // The baseline includes the memory for rendering, and for a client that reads its page.
        for _ in 0..3 {
            sleep(Duration::from_millis(1100)).await;
            assert_eq!(code(&operator, Some(&admin)).await, 200);
        }
        let memory = || operator.memory() + operator.unsent_bytes();
        let before = memory();
        let mut unread = Vec::new();
        for from in 2..10 {
            for _ in 0..8 {
                let stream = connect(&operator, from).await.expect("a listening operator");
                let mut stream = tls(stream).await.expect("TLS");
                let request = request("/metrics", Some(&admin)).repeat(10);
                stream.write_all(request.as_bytes()).await.expect("sent");
                stream.get_ref().0.readable().await.expect("the beginning of an answer");
                unread.push(stream);
            }
            sleep(Duration::from_millis(1100)).await;
        }
        let after = memory();
        println!("64 clients that do not read: {} KiB, without them {} KiB", after / 1024, before / 1024);
        assert!(after <= before + (3 << 20), "{before} bytes before, {after} after");
        assert_eq!(code(&operator, Some(&admin)).await, 200);
    }

    /// Rule: survive.metrics-handshakes
    async fn an_unfinished_handshake_blocks_no_scraper(cluster: &mut Cluster) {
        let operator = start(cluster, &[]);
        operator.until_ready().await;
        let mut slow = Vec::new();
        for from in 2..22 {
            for _ in 0..2 {
                slow.push(connect(&operator, from).await.expect("a listening operator"));
            }
        }
        let began = Instant::now();
        assert_eq!(code(&operator, None).await, 401);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        for mut stream in slow {
            let mut rest = Vec::new();
            let cut = within(Duration::from_secs(8), async || {
                let read = timeout(Duration::from_secs(1), stream.read_to_end(&mut rest)).await;
                read.is_ok()
            });
            assert!(cut.await, "the connection is still open");
        }
    }
}
