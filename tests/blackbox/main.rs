//! The real binary against a real API: what users see, from outside.
//!
//! Each test runs twice: `on_testbed` always, `on_api_server` when `KUBEBUILDER_ASSETS` names a folder
//! with `etcd` and `kube-apiserver`; without one it says by name that it was skipped.

mod cluster;
mod election;
mod empty;
mod events;
mod hostile;
mod managed;
mod objects;
mod operator;
mod outage;
mod start;
mod sync;
mod upgrade;

/// Makes the two tests of one scenario.
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($cluster:ident: &mut Cluster) $body:block)+) => {
        $(
            mod $name {
                use super::*;

                $(#[$doc])*
                async fn scenario($cluster: &mut Cluster) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_testbed() {
                    scenario(&mut Cluster::on_testbed().await).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_api_server() {
                    match Cluster::on_api_server().await {
                        Some(mut cluster) => scenario(&mut cluster).await,
                        None => println!("skipped: needs KUBEBUILDER_ASSETS"),
                    }
                }
            }
        )+
    };
}
use on_both;
