//! The Helm chart: its objects, errors and notes, with real Helm binaries, and the operator as its Deployment starts
//! it.
//!
//! Helm comes from PATH and from `make tools`. Each test runs with every available version, and prints that it is
//! skipped if there is none. With `CI=true` that is a failure. Tests that end in `on_api_server` also need
//! `KUBEBUILDER_ASSETS`.

mod additions;
mod admission;
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
