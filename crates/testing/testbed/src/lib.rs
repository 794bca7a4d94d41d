//! An in-memory Kubernetes API server for tests.
//!
//! It behaves like kube-apiserver 1.36 wherever the operator or kubectl can notice a difference, except for what is
//! listed below under "Not supported". Tests of requests and responses (`tests/rules`) also run on a real server. If
//! the two servers differ, the testbed is wrong.
//!
//! # Components
//!
//! - [`Store`]: the state of a cluster, like etcd. Its own calls ([`Store::put`], [`Store::get`], [`Store::patch`],
//!   [`Store::delete`], …) act as an administrator, with the same validation and events as requests. [`Store::until`]
//!   waits for a state and [`RequestLog::until`] for a request, so no test needs to sleep.
//! - [`ApiServer`]: one server on a store. Several servers can share a store. An `ApiServer` is a `tower::Service`, so
//!   `kube::Client::new(server, "default")` works without a connection and under `tokio::time::pause()`.
//! - [`ApiServer::serve`]: serves the same API over TCP with TLS, HTTP/1.1 and HTTP/2. The [`Serving`] handle
//!   represents the process: dropping it kills the server, and serving the same store at the same address restarts it.
//! - [`Faults`]: faults of one server: requests ([`Match`]) that fail ([`Effect`]), open watches that end or fall
//!   silent, a frozen server ([`Faults::freeze`]), and a stale watch cache ([`ApiServer::lag`]).
//! - [`Rule`]: RBAC as a filter for one user ([`Store::restrict`]), with a report of rules used and requests refused.
//! - [`builders`]: objects of every cluster, such as `default/kubernetes`.
//! - [`real`]: etcd and kube-apiservers as child processes of a test, if `KUBEBUILDER_ASSETS` names their folder.
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use testbed::{ApiServer, Effect, Fault, Match, Store, builders};
//!
//! let store = Store::new();
//! store.put(builders::kubernetes_service())?;
//! store.put(builders::kubernetes_slice(&["192.0.2.1", "192.0.2.2"]))?;
//! let server = ApiServer::new(&store);
//! // The first renewal of a lease is carried out, but its response is lost.
//! server.faults().add(Fault::new(Match::any().verb("patch").resource("leases"), Effect::LostReply).times(1));
//! let serving = server.serve(([127, 0, 0, 1], 0).into()).await?;
//! serving.write_kubeconfig("kubeconfig".as_ref(), "operator", "kube-system")?;
//! # Ok(())
//! # }
//! ```
//!
//! # Supported
//!
//! - Services, Endpoints, EndpointSlices, Events (one storage, two API groups), Leases, Namespaces, ServiceAccounts,
//!   Nodes, and ReferenceGrants on request
//! - GET, LIST with selectors and chunks of one snapshot, WATCH with bookmarks and 410, POST, PUT, PATCH (merge, JSON,
//!   and the part of strategic that equals a merge), DELETE of objects and collections with preconditions and
//!   finalizers
//! - Tables and discovery for kubectl
//! - TokenReviews, and SubjectAccessReviews of paths
//! - The work of a controller manager: garbage collection by ownerReferences, and the deletion of namespaces
//!   ([`Store::collect_after`]). Real clusters have a controller manager only if a test starts one.
//!
//! # Not supported
//!
//! - Server-side apply (415) and dry runs (400)
//! - Protobuf (415). `kubectl create namespace` does not work, but `kubectl create -f` does.
//! - managedFields (kept as they are sent), warnings and OpenAPI schemas
//! - Strategic merging of lists other than conditions
//! - Endpoints made from selectors
//! - Validation rules that no request from the operator can violate
//! - A new continue token in the 410 for a token that is too old

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
mod reviews;
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
