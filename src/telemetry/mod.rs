//! What people and probes see of the process: logs, metrics, and the health of watches and loops.

pub mod failure_log;
pub mod logs;
pub mod metrics;
#[cfg(test)]
pub mod testing;
pub mod watch_health;
pub mod watchdog;
