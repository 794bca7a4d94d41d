//! Keeps the EndpointSlices of managed Services in step with those of their sources.

pub mod cli;
pub mod http;
pub mod metrics;
pub mod model;
pub mod telemetry;
