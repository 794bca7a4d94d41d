//! The real binary against a real API: what users see, from outside.
//!
//! Each test runs twice: `on_testbed` always, `on_api_server` when `KUBEBUILDER_ASSETS` names a folder
//! with `etcd` and `kube-apiserver`; without one it says by name that it was skipped.

mod clients;
mod disturbed;
mod election;
mod empty;
mod events;
mod failover;
mod hostile;
mod inspect;
mod managed;
mod memory;
mod outage;
mod probes;
mod runbook;
mod slow;
mod start;
mod supervisor;
mod sync;
mod upgrade;

/// The operator under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_endpoint-copier-operator");

/// Makes the two tests of one scenario, on two API servers if it says nothing else. `black_hole`: on three, of which
/// the operator reaches the first two from a network of its own; only root can make one. `listed`: on three that
/// `default/kubernetes` lists where they are; real ones need a network for it.
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
