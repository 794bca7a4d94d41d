//! Keeps the EndpointSlices of managed Services in step with those of their sources.
//!
//! [`run`] is the table of contents, [`plan`] the specification.

pub mod apply;
pub mod budget;
pub mod cli;
pub mod client;
pub mod decode;
pub mod election;
pub mod error;
pub mod events;
pub mod http;
pub mod index;
pub mod inspect;
pub mod metrics;
pub mod model;
pub mod outage;
pub mod plan;
pub mod progress;
pub mod pulse;
pub mod queue;
pub mod reconcile;
pub mod run;
pub mod telemetry;
#[cfg(test)]
pub(crate) mod testing;
pub mod watch;
pub mod worker;
