//! Runs the operator as a process on a cluster with several API servers, and injects faults into the servers and the
//! network.
//!
//! - [`Cluster`]: API servers on one store, either those of the testbed or real ones; calls that read and write
//!   objects; calls that kill, freeze and restart servers. The test's own client initially uses the last server, so
//!   cause no faults there.
//! - [`Operator`]: a replica, which runs the real binary.
//! - [`Network`]: a network namespace whose paths to the API servers can be cut without a reset or an ICMP error.
//! - [`Nodes`]: three network namespaces, each of which is a node with its own etcd, API server and replica.
//! - [`delay`]: a slow path to an API server. [`Listening`]: a test's own server.
//! - [`Rights`]: the permissions that the chart grants the replicas.
//! - [`https_get`]: a scraper for secure metrics.
//! - [`objects`]: objects as users write them.
//! - [`tool`]: external programs.
//!
//! `Drop` stops everything that was started, even after a panic.

#![allow(
    clippy::missing_panics_doc,
    reason = "after a failure here, there is nothing to test, so every failure panics"
)]

mod api;
mod cluster;
mod delay;
mod grants;
mod history;
mod https;
mod listening;
mod namespace;
mod network;
mod node_objects;
mod nodes;
pub mod objects;
mod operator;
mod rights;
mod servers;
mod sockets;
mod tools;
mod wait;

pub use api::Object;
pub use cluster::{Cluster, LEASE};
pub use delay::delay;
pub use history::History;
pub use https::{HttpsAnswer, https_get, request, tls};
pub use listening::Listening;
pub use network::Network;
pub use nodes::Nodes;
pub use operator::{Operator, Place, SHORT_LEASE, command, leader, own_address};
pub use rights::{Rights, rules};
pub use servers::{Platform, USERS};
pub use tools::{brought, skipped, tool};
pub use wait::{PATIENCE, until, within};
