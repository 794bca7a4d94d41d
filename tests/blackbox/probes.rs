//! API servers that stop responding while `default/kubernetes` still lists them. The leader *takes* such a server
//! *out*: the copies list the server as not ready.

use std::net::SocketAddr;
use std::slice;
use std::time::{Duration, Instant};

use harness::objects::vip;
use harness::{Cluster, Network, Operator, Place, Platform, SHORT_LEASE, leader, until, within};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use testbed::{Fault, Match};
use tokio::time::sleep;

use crate::events::events_on;
use crate::on_both;

pub const VIP: &str = "kubernetes-vip";

const UNREACHABLE: &str = "endpoint-copier/unreachable";

/// The metric for the number of endpoints that are out.
const ENDPOINTS: &str = "endpoint_copier_probe_unreachable_endpoints";

/// A server that hangs is taken out within this time: up to one period until the next probe, and three attempts that
/// time out.
const HANGS: Duration = Duration::from_secs(5);

/// A server that refuses connections is taken out within this time.
pub const REFUSES: Duration = Duration::from_secs(3);

/// A server that responds again is ready in the copy within this time. The rise takes at least 3 s and three successes.
pub const RETURNS: Duration = Duration::from_secs(10);

/// How long an objection is valid. With an objection, a replica keeps a server from being taken out.
const OBJECTION: Duration = Duration::from_secs(10);

/// A leader whose probes have not succeeded for 3 s is blind, so a suspension of this length makes a leader blind.
const SUSPENSION: Duration = Duration::from_millis(3_500);

/// Long enough for a server to be wrongly taken out and to return.
const LONG: Duration = Duration::from_secs(8);

/// Starts a replica that connects to this API server first. The replica knows all three servers, and leaves a server
/// that is lost.
pub fn replica(cluster: &Cluster, name: &str, server: usize, flags: &[&str]) -> Operator {
    let servers = [server, (server + 1) % 3, (server + 2) % 3];
    let place = Place {
        servers: &servers,
        network: None,
    };
    Operator::start_at(cluster, name, place, flags)
}

/// Creates a Service with the API servers' port, in the namespace `default`.
pub async fn create(cluster: &Cluster, name: &str, annotations: serde_json::Value) -> Service {
    let mut service = vip();
    service["metadata"]["name"] = json!(name);
    service["metadata"]["annotations"] = annotations;
    service["spec"]["ports"][0]["targetPort"] = json!(cluster.address(0).port());
    cluster.create(service).await
}

/// The slice of a Service that has exactly one slice.
pub async fn copy(cluster: &Cluster, service: &str) -> EndpointSlice {
    let mut slices = cluster.slices_of("default", service).await;
    assert_eq!(slices.len(), 1, "{slices:#?}");
    slices.remove(0)
}

async fn version(cluster: &Cluster, service: &str) -> Option<String> {
    copy(cluster, service).await.metadata.resource_version
}

/// The value of the annotation that lists the addresses of servers that are out.
fn named(copy: &EndpointSlice) -> Option<&str> {
    let annotations = copy.metadata.annotations.as_ref()?;
    annotations.get(UNREACHABLE).map(String::as_str)
}

/// The servers that a slice lists as not ready.
fn out(cluster: &Cluster, slice: &EndpointSlice) -> Vec<usize> {
    let is_out = |server: &usize| {
        let address = cluster.ip(*server);
        let endpoints = slice.endpoints.iter().flatten();
        let mut endpoints = endpoints.filter(|endpoint| endpoint.addresses.contains(&address));
        endpoints.any(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|conditions| conditions.ready) == Some(false)
        })
    };
    [0, 1, 2].into_iter().filter(is_out).collect()
}

/// Waits until exactly these servers are not ready in the copy of the VIP, and returns the copy.
pub async fn until_out(cluster: &Cluster, servers: &[usize], limit: Duration) -> EndpointSlice {
    until_out_of(cluster, VIP, servers, limit).await
}

/// Waits until exactly these servers are not ready in the copy of a Service, and returns the copy.
pub async fn until_out_of(
    cluster: &Cluster,
    service: &str,
    servers: &[usize],
    limit: Duration,
) -> EndpointSlice {
    let mut last = copy(cluster, service).await;
    let is_out = within(limit, async || {
        last = copy(cluster, service).await;
        out(cluster, &last) == servers
    });
    assert!(
        is_out.await,
        "expected exactly {servers:?} to be out within {limit:?}: {last:#?}"
    );
    last
}

/// Waits until a replica reports this state for a server.
pub async fn until_seen(cluster: &Cluster, operator: &Operator, server: usize, state: &str) {
    until_seen_at(operator, cluster.address(server), state).await;
}

/// Waits until a replica reports this state for an address and port.
pub async fn until_seen_at(operator: &Operator, address: SocketAddr, state: &str) {
    let series = format!(
        "endpoint_copier_probe_state{{address=\"{}\",port=\"{}\",state=\"{state}\"}}",
        address.ip(),
        address.port()
    );
    until(
        &format!("{} reports {address} as {state}", operator.name()),
        async || operator.metric(&series).await == Some(1),
    )
    .await;
}

/// Waits until the copies for a Service list exactly these servers.
async fn until_lists(cluster: &Cluster, service: &str, servers: &[usize]) {
    let mut wanted: Vec<_> = servers.iter().map(|server| cluster.ip(*server)).collect();
    wanted.sort();
    let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
    cluster.until_addresses("default", service, &wanted).await;
}

/// Waits until the copies for a Service list all servers, and these replicas report all servers as `well`.
pub async fn until_well(cluster: &Cluster, service: &str, replicas: &[Operator]) {
    until_lists(cluster, service, &[0, 1, 2]).await;
    for operator in replicas {
        for server in [0, 1, 2] {
            until_seen(cluster, operator, server, "well").await;
        }
    }
}

/// A copy without the fields that the API server adds, and without the trigger time.
fn as_sent(mut copy: EndpointSlice) -> EndpointSlice {
    let metadata = &mut copy.metadata;
    metadata.uid = None;
    metadata.resource_version = None;
    metadata.generation = None;
    metadata.creation_timestamp = None;
    metadata.managed_fields = None;
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.remove("endpoints.kubernetes.io/last-change-trigger-time");
    copy
}

/// The number of times that a replica has taken an endpoint out.
pub async fn removals(operator: &Operator) -> Option<u64> {
    operator.metric("endpoint_copier_probe_removals_total").await
}

/// The notes of the Events with this reason, oldest first.
async fn notes(cluster: &Cluster, service: &Service, reason: &str) -> Vec<String> {
    let events = events_on(cluster, service).await;
    let of_reason = events.into_iter().filter(|(_, other, _)| other == reason);
    of_reason.map(|(.., note)| note).collect()
}

/// Checks that the copy of the VIP, including its resourceVersion, does not change for this time.
pub async fn stays(cluster: &Cluster, time: Duration) {
    let before = copy(cluster, VIP).await;
    sleep(time).await;
    assert_eq!(copy(cluster, VIP).await, before);
}

/// Starts one replica and creates the VIP. Waits until the copy lists all servers, and the replica reports all of them
/// as `well`.
async fn one_replica(cluster: &Cluster, server: usize, flags: &[&str]) -> (Operator, Service) {
    let operator = replica(cluster, "one", server, flags);
    let service = create(cluster, VIP, json!({})).await;
    until_well(cluster, VIP, slice::from_ref(&operator)).await;
    (operator, service)
}

/// Checks that the annotation, an Event, the metrics and the log report the removal of the second server, and that the
/// source does not list any server as not ready.
async fn check_removal(cluster: &Cluster, operator: &Operator, service: &Service, copy: &EndpointSlice) {
    assert_eq!(named(copy), Some(&*cluster.ip(1)));
    let address = cluster.address(1).to_string();
    until("an Event names the server", async || {
        let notes = notes(cluster, service, "EndpointUnreachable").await;
        notes.iter().any(|note| note.contains(&address))
    })
    .await;
    until("the removal is counted", async || {
        removals(operator).await == Some(1) && operator.metric(ENDPOINTS).await == Some(1)
    })
    .await;
    let taken = format!("took {} out of default/{VIP}", cluster.ip(1));
    operator.until_logged(&taken).await;
    assert_eq!(operator.log().matches(&taken).count(), 1, "{}", operator.log());
    let source = self::copy(cluster, "kubernetes").await;
    assert_eq!(
        out(cluster, &source),
        [0; 0],
        "the source does not list all servers as ready"
    );
}

/// Checks that the second server is ready again, that this is reported, and that there was only one removal.
async fn check_return(cluster: &Cluster, operator: &Operator, service: &Service) {
    let copy = until_out(cluster, &[], RETURNS).await;
    assert_eq!(named(&copy), None);
    until("the return is reported", async || {
        let events = events_on(cluster, service).await;
        let is_last = events.last().is_some_and(|(kind, ..)| kind == "Normal");
        is_last && operator.metric(ENDPOINTS).await == Some(0)
    })
    .await;
    assert_eq!(removals(operator).await, Some(1), "{}", operator.log());
}

on_both! {
    listed;
    /// Rule: 7.conditions, 7.out, 7.rise, 7.log
    async fn frozen_server_is_taken_out_and_returns(cluster: &mut Cluster) {
        let (operator, service) = one_replica(cluster, 0, &SHORT_LEASE).await;
        cluster.freeze_server(1);
        let copy = until_out(cluster, &[1], HANGS).await;
        check_removal(cluster, &operator, &service, &copy).await;
        let line = format!(
            "took {} out of default/{VIP}: readyz timed out 3 times; the source still lists it",
            cluster.ip(1),
        );
        operator.until_logged(&line).await;
        cluster.thaw_server(1);
        check_return(cluster, &operator, &service).await;
    }

    /// Rule: 7.conditions, 7.out, 7.rise
    async fn killed_server_is_taken_out_and_returns(cluster: &mut Cluster) {
        let (operator, service) = one_replica(cluster, 0, &SHORT_LEASE).await;
        cluster.kill_server(1).await;
        let copy = until_out(cluster, &[1], REFUSES).await;
        check_removal(cluster, &operator, &service, &copy).await;
        cluster.start_server(1).await;
        check_return(cluster, &operator, &service).await;
    }

    /// The replica loses its connections, but keeps the lead. Its renewals are late, and a removal waits until one of
    /// them gets a response.
    /// Rule: 7.own-connections
    async fn frozen_server_of_the_leader_is_taken_out(cluster: &mut Cluster) {
        let (operator, _) = one_replica(cluster, 1, &[]).await;
        let holder = cluster.holder().await;
        cluster.freeze_server(1);
        until_out(cluster, &[1], LONG).await;
        assert_eq!(cluster.holder().await, holder, "{}", operator.log());
        // Changes of the source still arrive.
        cluster.list_servers(&[0, 2]).await;
        until_lists(cluster, VIP, &[0, 2]).await;
        cluster.thaw_server(1);
    }

    /// Rule: 7.observe
    async fn observing_replica_only_reports_a_frozen_server(cluster: &mut Cluster) {
        let flags = [&SHORT_LEASE[..], &["--probe=observe"]].concat();
        let (operator, service) = one_replica(cluster, 0, &flags).await;
        let before = copy(cluster, VIP).await;
        cluster.freeze_server(1);
        until_seen(cluster, &operator, 1, "down").await;
        until("the server is reported", async || !notes(cluster, &service, "EndpointUnreachable").await.is_empty()).await;
        sleep(HANGS).await;
        assert_eq!(copy(cluster, VIP).await, before);
        cluster.thaw_server(1);
        until_seen(cluster, &operator, 1, "well").await;
        assert_eq!(copy(cluster, VIP).await, before);
        assert_eq!(removals(&operator).await, Some(0));
    }

    /// The observing leader does not change the copy that a leader with `--probe=off` wrote, and creates an equal copy
    /// when that copy is deleted.
    /// Rule: 7.observe
    async fn observing_leader_writes_the_same_copy_as_without_probes(cluster: &mut Cluster) {
        let flags = |probe| [&SHORT_LEASE[..], &[probe]].concat();
        let without = replica(cluster, "one", 0, &flags("--probe=off"));
        without.until_leads().await;
        let with = replica(cluster, "two", 0, &flags("--probe=observe"));
        create(cluster, VIP, json!({})).await;
        until_well(cluster, VIP, slice::from_ref(&with)).await;
        let before = copy(cluster, VIP).await;
        cluster.freeze_server(1);
        until_seen(cluster, &with, 1, "down").await;
        without.signal("KILL");
        with.until_leads().await;
        sleep(HANGS).await;
        assert_eq!(copy(cluster, VIP).await, before, "{}", with.log());
        let name = before.metadata.name.as_deref().expect("a name");
        cluster.delete::<EndpointSlice>("default", name).await;
        until_lists(cluster, VIP, &[0, 1, 2]).await;
        let after = copy(cluster, VIP).await;
        assert_ne!(after.metadata.uid, before.metadata.uid);
        assert_eq!(as_sent(after), as_sent(before), "{}", with.log());
        cluster.thaw_server(1);
    }

    /// Rule: 7.half
    async fn at_most_one_of_two_frozen_servers_of_three_is_out(cluster: &mut Cluster) {
        let (operator, _) = one_replica(cluster, 2, &SHORT_LEASE).await;
        for server in [0, 1] {
            cluster.freeze_server(server);
        }
        let (start, mut ever_out) = (Instant::now(), None);
        while start.elapsed() < LONG {
            let copy = copy(cluster, VIP).await;
            let out = out(cluster, &copy);
            assert!(out.len() <= 1 && !out.contains(&2), "{out:?} are out: {}", operator.log());
            ever_out = ever_out.or(out.first().copied());
            sleep(Duration::from_millis(20)).await;
        }
        assert!(ever_out.is_some(), "{}", operator.log());
        for server in [0, 1] {
            until_seen(cluster, &operator, server, "down").await;
            cluster.thaw_server(server);
        }
        until_out(cluster, &[], RETURNS).await;
    }

    /// Rule: 7.exempt
    async fn frozen_server_stays_ready_for_an_exempt_service(cluster: &mut Cluster) {
        let operator = replica(cluster, "one", 0, &SHORT_LEASE);
        let exempt = json!({"endpoint-copier/enabled": "true", "endpoint-copier/probe": "off"});
        create(cluster, "exempt", exempt).await;
        create(cluster, VIP, json!({})).await;
        until_well(cluster, VIP, slice::from_ref(&operator)).await;
        until_well(cluster, "exempt", &[]).await;
        let before = version(cluster, "exempt").await;
        cluster.freeze_server(1);
        until_out(cluster, &[1], HANGS).await;
        sleep(Duration::from_secs(2)).await;
        assert_eq!(version(cluster, "exempt").await, before);
        cluster.thaw_server(1);
    }

    /// Rule: 7.stays-out, 7.new-leader
    async fn new_leader_keeps_a_frozen_server_out(cluster: &mut Cluster) {
        let replicas = [replica(cluster, "one", 0, &SHORT_LEASE), replica(cluster, "two", 2, &SHORT_LEASE)];
        create(cluster, VIP, json!({})).await;
        until_well(cluster, VIP, &replicas).await;
        let first = leader(&replicas).await;
        cluster.freeze_server(1);
        let copy = until_out(cluster, &[1], HANGS).await;
        replicas[first].signal("KILL");
        replicas[1 - first].until_leads().await;
        // `LONG` is more than the 5 s during which a term is new.
        stays(cluster, LONG).await;
        assert_eq!(version(cluster, VIP).await, copy.metadata.resource_version, "{}", replicas[1 - first].log());
        cluster.thaw_server(1);
        until_out(cluster, &[], RETURNS).await;
    }

    /// Rule: 7.stays-out, 7.new-leader
    async fn replica_that_starts_alone_keeps_a_frozen_server_out(cluster: &mut Cluster) {
        let (operator, _) = one_replica(cluster, 0, &SHORT_LEASE).await;
        cluster.freeze_server(1);
        let copy = until_out(cluster, &[1], HANGS).await;
        drop(operator);
        let operator = replica(cluster, "two", 0, &SHORT_LEASE);
        operator.until_leads().await;
        stays(cluster, LONG).await;
        assert_eq!(version(cluster, VIP).await, copy.metadata.resource_version, "{}", operator.log());
        cluster.thaw_server(1);
        until_out(cluster, &[], RETURNS).await;
    }

    /// The new replica leads as soon as its caches are filled, so it may plan before it has probed any server.
    /// Rule: 7.stays-out, 7.new-leader
    async fn replica_that_leads_at_once_keeps_a_frozen_server_out(cluster: &mut Cluster) {
        let (mut operator, _) = one_replica(cluster, 0, &SHORT_LEASE).await;
        cluster.freeze_server(1);
        let copy = until_out(cluster, &[1], HANGS).await;
        for flags in [&SHORT_LEASE[..], &["--leader-elect=false"]] {
            // The replica releases its Lease.
            operator.signal("TERM");
            operator.ended().await;
            operator = replica(cluster, "two", 0, flags);
            operator.until_leads().await;
            stays(cluster, LONG).await;
            assert_eq!(version(cluster, VIP).await, copy.metadata.resource_version, "{}", operator.log());
        }
        cluster.thaw_server(1);
        until_out(cluster, &[], RETURNS).await;
    }

    /// The former leader has reported the server, but its successor never sees the server fail.
    /// Rule: 3.synced
    async fn new_leader_reports_that_a_server_returned(cluster: &mut Cluster) {
        let (operator, service) = one_replica(cluster, 0, &SHORT_LEASE).await;
        cluster.freeze_server(1);
        until_out(cluster, &[1], HANGS).await;
        drop(operator);
        cluster.thaw_server(1);
        let before = notes(cluster, &service, "Synced").await.len();
        // The successor probes the server while it waits until the Lease expires.
        let _successor = replica(cluster, "two", 0, &SHORT_LEASE);
        until_out(cluster, &[], RETURNS).await;
        until("another Synced Event is sent", async || {
            notes(cluster, &service, "Synced").await.len() > before
        })
        .await;
    }

    /// While a leader is suspended, no probe succeeds, but the API servers are not the cause.
    /// Rule: 7.blind, 7.stays-out
    async fn suspended_leader_keeps_a_frozen_server_out(cluster: &mut Cluster) {
        // The term outlasts the suspension.
        let flags = ["--leader-election-lease-duration=20s", "--leader-election-renew-deadline=15s"];
        let (operator, _) = one_replica(cluster, 0, &flags).await;
        cluster.freeze_server(1);
        let copy = until_out(cluster, &[1], HANGS).await;
        operator.signal("STOP");
        sleep(SUSPENSION).await;
        operator.signal("CONT");
        stays(cluster, SUSPENSION).await;
        assert_eq!(version(cluster, VIP).await, copy.metadata.resource_version, "{}", operator.log());
        assert!(operator.leads().await, "without a term, this test proves nothing");
        cluster.thaw_server(1);
        until_out(cluster, &[], RETURNS).await;
    }

    /// Rule: 7.targets-kept
    async fn recreated_copy_keeps_the_frozen_server_out(cluster: &mut Cluster) {
        let (operator, _) = one_replica(cluster, 0, &SHORT_LEASE).await;
        cluster.freeze_server(1);
        let copy = until_out(cluster, &[1], HANGS).await;
        let name = copy.metadata.name.as_deref().expect("a name");
        cluster.delete::<EndpointSlice>("default", name).await;
        let is_new = |slice: &EndpointSlice| slice.metadata.uid != copy.metadata.uid;
        let slices = cluster.until_slices("default", VIP, "the copy is created again", |slices| {
            slices.len() == 1 && slices.iter().all(is_new)
        }).await;
        assert_eq!(out(cluster, &slices[0]), [1], "{}", operator.log());
        stays(cluster, LONG).await;
        cluster.thaw_server(1);
        until_out(cluster, &[], RETURNS).await;
    }

    /// Rule: 7.unopposed
    async fn replica_without_election_takes_a_frozen_server_out(cluster: &mut Cluster) {
        let (operator, service) = one_replica(cluster, 0, &["--leader-elect=false"]).await;
        cluster.freeze_server(1);
        let copy = until_out(cluster, &[1], HANGS).await;
        check_removal(cluster, &operator, &service, &copy).await;
        cluster.thaw_server(1);
        check_return(cluster, &operator, &service).await;
    }
}

/// The path from the leader to one server is cut. Another replica objects until that replica is stopped.
/// Rule: 7.objection, 7.objection-lasts
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_stays_while_another_replica_reaches_it() {
    let network = match Network::new() {
        Ok(network) => network,
        Err(reason) => return println!("skipped: needs network namespaces: {reason}"),
    };
    let cluster = Cluster::start_listed(Platform::Testbed, crate::PROGRAM, Some(&network)).await;
    let inside = Place {
        servers: &[1, 2, 0],
        network: Some(&network),
    };
    let leader = Operator::start_at(&cluster, "one", inside, &SHORT_LEASE);
    leader.until_leads().await;
    let peer = replica(&cluster, "two", 1, &SHORT_LEASE);
    create(&cluster, VIP, json!({})).await;
    until_well(&cluster, VIP, slice::from_ref(&leader)).await;
    until_well(&cluster, VIP, slice::from_ref(&peer)).await;
    network.cut(0);
    until_seen(&cluster, &leader, 0, "down").await;
    stays(&cluster, LONG).await;
    assert!(leader.leads().await, "{}", leader.log());
    let address = cluster.address(0);
    let (ip, port) = (address.ip(), address.port());
    let objected = format!("endpoint_copier_probe_objected{{address=\"{ip}\",port=\"{port}\"}}");
    assert_eq!(leader.metric(&objected).await, Some(1));
    drop(peer);
    // The last objection of the peer is valid for 10 s.
    until_out(&cluster, &[0], OBJECTION + HANGS).await;
    network.restore(0);
    until_out(&cluster, &[], RETURNS).await;
}

/// The number of requests for `/readyz` by the replica with this user.
fn asked(cluster: &Cluster, user: &str) -> usize {
    let (store, _) = cluster.testbed().expect("on the testbed");
    let is_probe = |request: &testbed::Request| request.user == user && request.uri == "/readyz";
    store.requests().matching(is_probe).len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_server_is_probed_with_probe_off() {
    let cluster = Cluster::start_listed(Platform::Testbed, crate::PROGRAM, None).await;
    let flags = [&SHORT_LEASE[..], &["--probe=off"]].concat();
    let without = replica(&cluster, "one", 0, &flags);
    without.until_leads().await;
    let with = replica(&cluster, "two", 0, &SHORT_LEASE);
    create(&cluster, VIP, json!({})).await;
    until_well(&cluster, VIP, slice::from_ref(&with)).await;
    cluster.freeze_server(1);
    until_seen(&cluster, &with, 1, "down").await;
    stays(&cluster, HANGS).await;
    cluster.thaw_server(1);
    assert!(asked(&cluster, "two") > 5);
    assert_eq!(asked(&cluster, "one"), 0);
}

/// Rule: 7.blind, 7.alive
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_stays_while_no_server_answers_readyz_with_200() {
    let cluster = Cluster::start_listed(Platform::Testbed, crate::PROGRAM, None).await;
    let (operator, service) = one_replica(&cluster, 0, &SHORT_LEASE).await;
    let before = version(&cluster, VIP).await;
    for code in [503, 429, 401] {
        for server in cluster.testbed_servers() {
            server
                .faults()
                .add(Fault::status(Match::any().path("/readyz"), code));
        }
        stays(&cluster, LONG).await;
        assert_eq!(version(&cluster, VIP).await, before, "{code}: {}", operator.log());
        for server in cluster.testbed_servers() {
            server.faults().clear();
        }
        for server in [0, 1, 2] {
            until_seen(&cluster, &operator, server, "well").await;
        }
    }
    assert_eq!(removals(&operator).await, Some(0));
    assert_eq!(notes(&cluster, &service, "EndpointUnreachable").await, [""; 0]);
    assert!(!notes(&cluster, &service, "ProbesBlind").await.is_empty());
}
