//! The launcher of real servers: one of two servers is stopped, continued, killed and restarted.

use k8s_openapi::api::{coordination::v1::Lease, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use std::time::Duration;
use testbed::real::{RealCluster, assets};
use tokio::time::timeout;

const SHORT: Duration = Duration::from_millis(500);

async fn client(cluster: &RealCluster, server: usize) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&cluster.kubeconfig(server, "default")).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn servers_of_one_store_stop_and_restart_on_api_server() {
    if assets().is_none() {
        println!("skipped: needs KUBEBUILDER_ASSETS (a folder with etcd and kube-apiserver)");
        return;
    }
    let mut cluster = RealCluster::start(2).await.expect("two real API servers");
    let one: Api<Lease> = Api::default_namespaced(client(&cluster, 0).await);
    let two: Api<Lease> = Api::default_namespaced(client(&cluster, 1).await);
    let lease: Lease = serde_json::from_value(crate::lease("a")).unwrap();
    one.create(&PostParams::default(), &lease).await.unwrap();
    two.get("a").await.unwrap();
    cluster.servers()[0].stop().unwrap();
    let answer = timeout(SHORT, one.get("a")).await;
    assert!(answer.is_err(), "a stopped server answered: {answer:?}");
    two.get("a").await.unwrap();
    cluster.servers()[0].cont().unwrap();
    one.get("a").await.unwrap();
    cluster.server(0).kill();
    assert!(one.get("a").await.is_err());
    cluster.server(0).restart().await.unwrap();
    one.get("a").await.unwrap();
    let slices: Api<EndpointSlice> = Api::default_namespaced(client(&cluster, 1).await);
    let kubernetes = slices.list(&ListParams::default()).await.unwrap();
    assert_eq!(kubernetes.items[0].metadata.name.as_deref(), Some("kubernetes"));
}
