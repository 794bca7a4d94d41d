//! The Helm chart: what it renders, refuses and says, with real Helms, and the operator as its Deployment starts it.
//!
//! Helm comes from PATH and from `make tools`; each test runs with every one that is there, and says that it is
//! skipped where there is none. With `CI=true` that is a failure.

mod deployment;
mod documents;
mod helm;
mod kubernetes;
mod refused;
mod rendered;
mod upgraded;
