//! Tests of the real binary against API servers.
//!
//! Most scenarios have two tests: `on_testbed`, and `on_api_server`, which needs `KUBEBUILDER_ASSETS`, a folder with
//! `etcd` and `kube-apiserver`. A test whose requirements are missing, such as permission to create network namespaces,
//! prints that it is skipped.

mod attacks;
mod clients;
mod conditions;
mod consent;
mod contests;
mod disturbed;
mod doctor;
mod election;
mod empty;
mod events;
mod failover;
mod families;
mod foreign;
mod hostile;
mod inspect;
mod limits;
mod managed;
mod memory;
mod namespaces;
mod nodes;
mod outage;
mod probes;
mod restored;
mod rights;
mod runbook;
mod secure_metrics;
mod slow;
mod start;
mod supervisor;
mod sync;
mod upgrade;

/// The operator under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_endpoint-copier-operator");

/// Creates the two tests of a scenario, by default on two API servers. With `black_hole`, there are three API servers,
/// and the operator reaches the first two over a separate network. With `listed`, there are three API servers at the
/// addresses that `default/kubernetes` lists. Real API servers need a separate network for that. Only root can create
/// such a network.
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($cluster:ident: &mut Cluster) $body:block)+) => {
        on_both! { servers: 2; $($(#[$doc])* async fn $name($cluster: &mut Cluster) $body)+ }
    };
    (servers: $servers:literal; $($(#[$doc:meta])* async fn $name:ident($cluster:ident: &mut Cluster) $body:block)+) => {
        $(
            mod $name {
                use super::*;

                $(#[$doc])*
                async fn scenario($cluster: &mut Cluster) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_testbed() {
                    scenario(&mut Cluster::start(harness::Platform::Testbed, crate::PROGRAM, $servers).await).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_api_server() {
                    let real = harness::Platform::Real;
                    if real.is_here() {
                        scenario(&mut Cluster::start(real, crate::PROGRAM, $servers).await).await;
                    } else {
                        println!("skipped: needs KUBEBUILDER_ASSETS");
                    }
                }
            }
        )+
    };
    (listed; $($(#[$doc:meta])* async fn $name:ident($cluster:ident: &mut Cluster) $body:block)+) => {
        $(
            mod $name {
                use super::*;

                $(#[$doc])*
                async fn scenario($cluster: &mut Cluster) $body

                async fn on(platform: harness::Platform, network: Option<&harness::Network>) {
                    scenario(&mut Cluster::start_listed(platform, crate::PROGRAM, network).await).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_testbed() {
                    on(harness::Platform::Testbed, None).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_api_server() {
                    if !harness::Platform::Real.is_here() {
                        return println!("skipped: needs KUBEBUILDER_ASSETS");
                    }
                    match harness::Network::new() {
                        Ok(network) => on(harness::Platform::Real, Some(&network)).await,
                        Err(reason) => println!("skipped: needs network namespaces: {reason}"),
                    }
                }
            }
        )+
    };
    (black_hole; $($(#[$doc:meta])* async fn $name:ident($cluster:ident: &mut Cluster, $network:ident: &Network) $body:block)+) => {
        $(
            mod $name {
                use super::*;

                $(#[$doc])*
                async fn scenario($cluster: &mut Cluster, $network: &Network) $body

                async fn on(platform: harness::Platform) {
                    if !platform.is_here() {
                        return println!("skipped: needs KUBEBUILDER_ASSETS");
                    }
                    match Network::new() {
                        Ok(network) => {
                            let mut cluster = Cluster::start_behind(platform, crate::PROGRAM, &network).await;
                            scenario(&mut cluster, &network).await;
                        }
                        Err(reason) => println!("skipped: needs network namespaces: {reason}"),
                    }
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_testbed() {
                    on(harness::Platform::Testbed).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_api_server() {
                    on(harness::Platform::Real).await;
                }
            }
        )+
    };
}
use on_both;

/// A user of the testbed who is permitted only to read Services and EndpointSlices.
const READER: &str = "reader";

/// Adds [`READER`] to the testbed. Returns the store of the testbed, and a kubeconfig with the credentials of the user.
fn reader(cluster: &harness::Cluster) -> (&testbed::Store, std::path::PathBuf) {
    let (store, _) = cluster.testbed().expect("on the testbed");
    let read = &["get", "list"];
    store.restrict(
        READER,
        vec![
            testbed::Rule::new(&[""], &["services"], read),
            testbed::Rule::new(&["discovery.k8s.io"], &["endpointslices"], read),
        ],
    );
    store.add_token("reads-only", READER);
    (store, cluster.kubeconfig_with(0, Some("reads-only")))
}
