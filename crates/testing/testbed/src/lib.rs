//! A Kubernetes API server in memory, for tests.
//!
//! It behaves as a kube-apiserver 1.36 does wherever the operator or kubectl can notice. Each rule is a test on
//! requests and answers (`tests/rules`) that also runs on a real server; where the two differ, the testbed is wrong.
//!
//! # The pieces
//!
//! - [`Store`]: a cluster's state, as etcd is; its own calls ([`Store::put`], [`Store::get`], [`Store::patch`],
//!   [`Store::delete`], …) are those of an administrator and go through validation and events as requests do.
//!   [`Store::until`] waits for a state, [`RequestLog::until`] for a request: no test needs to sleep.
//! - [`ApiServer`]: one server on a store; several may share one. It is a `tower::Service`, so
//!   `kube::Client::new(server, "default")` works without a connection and under `tokio::time::pause()`.
//! - [`ApiServer::serve`]: the same over TCP with TLS, HTTP/1.1 and HTTP/2. The [`Serving`] handle is the process:
//!   drop it and the server is killed; serve the same store at the same address and it has restarted.
//! - [`Faults`]: what goes wrong at one server, by [`Match`] and [`Effect`], besides open watches that end or fall
//!   silent, a frozen server ([`Faults::freeze`]), and a stale watch cache ([`ApiServer::lag`]).
//! - [`Rule`]: RBAC as a filter for one user ([`Store::restrict`]), with a report of rules used and requests refused.
//! - [`builders`]: what API servers write about themselves, `default/kubernetes`.
//! - [`real`]: etcd and kube-apiservers as children of a test, when `KUBEBUILDER_ASSETS` names their folder.
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use testbed::{ApiServer, Effect, Fault, Match, Store, builders};
//!
//! let store = Store::new();
//! store.put(builders::kubernetes_service())?;
//! store.put(builders::kubernetes_slice(&["192.0.2.1", "192.0.2.2"]))?;
//! let server = ApiServer::new(&store);
//! // The first renewal of a lease happens, but its answer is lost.
//! server.faults().add(Fault::new(Match::any().verb("patch").resource("leases"), Effect::LostReply).times(1));
//! let serving = server.serve(([127, 0, 0, 1], 0).into()).await?;
//! serving.write_kubeconfig("kubeconfig".as_ref(), "operator", "kube-system")?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it has
//!
//! Services, Endpoints, EndpointSlices, Events (one storage, two API groups), Leases, Namespaces, ServiceAccounts.
//! GET, LIST with selectors and chunks of one snapshot, WATCH with bookmarks and 410, POST, PUT, PATCH (merge, JSON,
//! strategic as far as it is a merge), DELETE with preconditions and finalizers, of collections too, Tables and
//! discovery for kubectl. Also what a controller manager does to these: garbage collection by ownerReferences and the
//! end of namespaces ([`Store::collect_after`]); real clusters started here have no controller manager.
//!
//! # What it has not
//!
//! Server-side apply (415), dry runs (400), protobuf (415, so `kubectl create namespace` does not work and
//! `kubectl create -f` does), managedFields (kept as they are sent), warnings, OpenAPI schemas, strategic merging of lists by key,
//! allocation of IPv6 addresses, endpoints made from selectors. In validation, what cannot be reached by the
//! operator is left out. A continue token that is too old is 410 without a new token.

pub mod answer;
pub mod builders;
mod clock;
mod collect;
mod discovery;
mod events;
mod faults;
mod field;
mod fill;
mod gate;
mod history;
mod kinds;
mod kubeconfig;
mod names;
pub mod object;
mod patch;
mod pki;
mod rbac;
mod reads;
pub mod real;
mod requests;
mod route;
mod selector;
mod serve;
mod server;
mod services;
mod signal;
mod state;
mod status;
mod store;
mod table;
mod typed;
mod validate;
mod watches;
mod writes;
mod writing;
mod written;

pub use faults::{Effect, Ending, Fault, FaultId, Faults, Match};
pub use kubeconfig::render as kubeconfig;
pub use rbac::{RbacReport, Rule};
pub use requests::{Request, RequestLog};
pub use serve::Serving;
pub use server::ApiServer;
pub use signal::Changes;
pub use status::ApiError;
pub use store::{ADMIN_TOKEN, Store};
pub use written::Written;
