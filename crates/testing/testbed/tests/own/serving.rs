//! The server on TCP: connections that end, freeze and return.

use crate::{lease, slice};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::{coordination::v1::Lease, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use std::time::Duration;
use testbed::{ApiServer, Effect, Ending, Fault, Match, Serving, Store};
use tokio::time::timeout;

const SHORT: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

async fn start() -> (Serving, Client) {
    let serving = ApiServer::new(&Store::new())
        .serve(([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    let client = client(&serving.kubeconfig("operator", "default")).await;
    (serving, client)
}

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

fn leases(client: &Client) -> Api<Lease> {
    Api::default_namespaced(client.clone())
}

#[tokio::test]
async fn a_kubeconfig_file_connects_as_its_user() {
    let (serving, _) = start().await;
    let file = std::env::temp_dir().join(format!("testbed-{}.kubeconfig", std::process::id()));
    serving
        .write_kubeconfig(&file, "operator", "kube-system")
        .unwrap();
    let client = client(&std::fs::read_to_string(&file).unwrap()).await;
    std::fs::remove_file(&file).unwrap();
    leases(&client).list(&ListParams::default()).await.unwrap();
    let log = serving.server().requests();
    assert_eq!(
        (log[0].user.as_str(), log[0].namespace.as_str()),
        ("operator", "kube-system")
    );
}

#[tokio::test]
async fn a_killed_server_breaks_watches_and_can_reuse_its_port() {
    let (serving, client) = start().await;
    let (store, address) = (serving.server().store().clone(), serving.address());
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    let watch = slices.watch(&WatchParams::default(), "4").await.unwrap();
    pin_mut!(watch);
    store.put(slice("a")).unwrap();
    let first = timeout(PATIENCE, watch.next()).await.unwrap();
    assert!(matches!(first, Some(Ok(WatchEvent::Added(_)))));
    serving.shutdown().await;
    let end = timeout(PATIENCE, watch.next())
        .await
        .expect("the end of the connection");
    assert!(!matches!(end, Some(Ok(_))));
    assert!(leases(&client).list(&ListParams::default()).await.is_err());
    let serving = ApiServer::new(&store).serve(address).await.unwrap();
    assert_eq!(serving.address(), address);
    assert_eq!(slices.list(&ListParams::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_frozen_server_accepts_connections_and_answers_when_thawed() {
    let (serving, client) = start().await;
    leases(&client).list(&ListParams::default()).await.unwrap();
    serving.freeze();
    let list = leases(&client);
    let parameters = ListParams::default();
    let waiting = list.list(&parameters);
    pin_mut!(waiting);
    assert!(timeout(SHORT, &mut waiting).await.is_err());
    tokio::net::TcpStream::connect(serving.address())
        .await
        .expect("the kernel accepts the connection");
    serving.thaw();
    timeout(PATIENCE, waiting)
        .await
        .expect("an answer after the thaw")
        .unwrap();
}

#[tokio::test]
async fn a_lost_reply_breaks_the_connection_after_the_write() {
    let (serving, client) = start().await;
    let creates = Match::any().verb("create");
    serving
        .server()
        .faults()
        .add(Fault::new(creates, Effect::LostReply).times(1));
    let lease: Lease = serde_json::from_value(lease("a")).unwrap();
    let lost = timeout(PATIENCE, leases(&client).create(&PostParams::default(), &lease)).await;
    assert!(lost.expect("a broken connection, not silence").is_err());
    let again = leases(&client).create(&PostParams::default(), &lease).await;
    assert!(matches!(again, Err(kube::Error::Api(status)) if status.is_already_exists()));
}

#[tokio::test]
async fn watches_of_one_kind_can_be_broken() {
    let (serving, client) = start().await;
    let leases = leases(&client);
    let watch = leases.watch(&WatchParams::default(), "4").await.unwrap();
    pin_mut!(watch);
    serving
        .server()
        .faults()
        .end_watches(Match::any().resource("leases"), Ending::Abrupt);
    let end = timeout(PATIENCE, watch.next())
        .await
        .expect("the end of the stream");
    assert!(!matches!(end, Some(Ok(_))));
}

#[tokio::test]
async fn a_refusing_server_closes_connections_without_an_answer() {
    let (serving, client) = start().await;
    serving.server().faults().refuse(true);
    assert!(leases(&client).list(&ListParams::default()).await.is_err());
    serving.server().faults().refuse(false);
    leases(&client).list(&ListParams::default()).await.unwrap();
}

async fn text(client: &Client, path: &str) -> Result<String, u16> {
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    client.request_text(request).await.map_err(|error| match error {
        kube::Error::Api(status) => status.code,
        error => panic!("{error}"),
    })
}

#[tokio::test]
async fn readyz_needs_a_token_and_ping_does_not() {
    let (serving, client) = start().await;
    let mut anonymous: serde_json::Value =
        serde_json::from_str(&serving.kubeconfig("operator", "default")).unwrap();
    anonymous["users"][0]["user"] = serde_json::json!({});
    let anonymous = self::client(&anonymous.to_string()).await;
    assert_eq!(text(&client, "/readyz").await.as_deref(), Ok("ok"));
    assert_eq!(text(&anonymous, "/readyz").await, Err(401));
    assert_eq!(text(&anonymous, "/ping").await.as_deref(), Ok("pong"));
}

#[tokio::test]
async fn a_fault_for_a_path_affects_no_other_path() {
    let (serving, client) = start().await;
    let fault = Fault::status(Match::any().path("/readyz"), 503);
    let fault = serving.server().faults().add(fault);
    assert_eq!(text(&client, "/readyz").await, Err(503));
    assert_eq!(text(&client, "/livez").await.as_deref(), Ok("ok"));
    serving.server().faults().remove(fault);
    assert_eq!(text(&client, "/readyz").await.as_deref(), Ok("ok"));
}

#[test]
fn loopback_endpoints_are_refused_until_a_test_allows_them() {
    let store = Store::new();
    let slice = testbed::builders::kubernetes_slice(&["127.0.0.2"]);
    assert_eq!(store.put(slice.clone()).unwrap_err().code, 422);
    store.allow_loopback();
    store.put(slice).unwrap();
}
