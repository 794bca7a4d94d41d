//! The Helm chart: what it renders, refuses and says, with real Helms, and the operator as its Deployment starts it.
//!
//! Helm comes from PATH and from `make tools`; each test runs with every one that is there, and says that it is
//! skipped where there is none. With `CI=true` that is a failure. Tests that end in `on_api_server` need
//! `KUBEBUILDER_ASSETS` too.

mod commands;
mod contradictions;
mod deployment;
mod documents;
mod failed;
mod going_back;
mod helm;
mod kubernetes;
mod notes;
mod pod;
mod refused;
mod released;
mod rendered;
mod rights;
mod slips;
mod started;
mod upgraded;

/// The operator.
const PROGRAM: &str = env!("CARGO_BIN_EXE_endpoint-copier-operator");
