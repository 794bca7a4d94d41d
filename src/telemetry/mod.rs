//! What people and probes see of the process: logs, metrics, and the health of its watches and loops.

pub mod logs;
pub mod metrics;
pub mod outage;
pub mod progress;
pub mod pulse;
#[cfg(test)]
pub mod testing;
