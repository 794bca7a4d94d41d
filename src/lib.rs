//! Keeps the EndpointSlices of managed Services in sync with those of their sources.
//!
//! [`replica`] is the table of contents, and [`endpoint_copier_core::plan`] is the specification.

pub mod admin;
pub mod apiserver;
pub mod cli;
pub mod config;
pub mod controller;
pub mod inspect;
pub mod leader_election;
pub mod pauses;
pub mod replica;
pub mod run;
pub mod telemetry;
pub mod timing;
