//! Decides which EndpointSlices to write.
//!
//! ```text
//!     index ──> snapshot ──> plan
//! ```
//!
//! The [`index`] holds the state of the cluster that watches and GETs have shown. The [`plan`] is the specification of
//! the operator as code. The [`model`] contains the types that both use, and [`verdicts`] judges the results of probes.
//! All of this is pure: no client, no async, no clock, no environment, no logging.

pub mod index;
pub mod migration;
pub mod model;
pub mod plan;
#[cfg(any(test, feature = "testing"))]
#[expect(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::new_without_default,
    clippy::return_self_not_must_use,
    reason = "test builders, whose names say what they set"
)]
pub mod testing;
pub mod verdicts;
