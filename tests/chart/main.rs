//! The Helm chart, rendered by real Helm binaries: its objects, errors and notes, and the operator as the Deployment
//! starts it.
//!
//! Helm comes from PATH and from `make tools`. Tests run with every available version, or with the newest one if the
//! version does not matter. Without Helm, a test prints that it is skipped, or fails if `CI=true`. Tests that end in
//! `on_api_server` also need `KUBEBUILDER_ASSETS`.

mod additions;
mod admission;
mod commands;
mod contradictions;
mod deployment;
mod documents;
mod failed;
mod flood;
mod going_back;
mod helm;
mod kubernetes;
mod notes;
mod pod;
mod rancher;
mod refused;
mod released;
mod rendered;
mod rights;
mod secure;
mod slips;
mod started;
mod upgraded;

/// The binary of the operator.
const PROGRAM: &str = env!("CARGO_BIN_EXE_endpoint-copier-operator");
