//! Deterministic simulation: replicas of the operator, complete except for their sockets, run through schedules of
//! changes and faults on the in-memory API server, under paused time. In a process that runs only one schedule, all
//! randomness follows from a seed, so that a failing schedule can be repeated.
//!
//! ```text
//!   seed ──> schedule ──> world { store, two servers, wires, replicas } ──> observer: at every write
//!                                                                       └─> oracle: after the faults have ended
//! ```

pub mod attempts;
pub mod calm;
pub mod chance;
pub mod cluster;
pub mod conditions;
pub mod conduct;
pub mod consent;
pub mod coverage;
pub mod deterministic;
mod draw;
pub mod endpoints;
pub mod fault;
pub mod hearing;
pub mod many;
pub mod node_oracle;
pub mod node_scenarios;
pub mod node_watch;
pub mod nodes;
pub mod objects;
pub mod observer;
pub mod oracle;
pub mod probe_steps;
pub mod replica;
pub mod reply;
pub mod run;
pub mod scenarios;
pub mod schedule;
pub mod sent;
pub mod sight;
pub mod slices;
mod steps;
pub mod stream;
pub mod systematic;
pub mod topology;
pub mod unreadable;
pub mod verdicts;
pub mod views;
pub mod wire;
pub mod world;
