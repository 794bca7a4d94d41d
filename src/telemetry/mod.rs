//! Telemetry of the process for people and health probes: logs, metrics, and the health of watches and loops.

pub mod failure_log;
pub mod logs;
pub mod metrics;
#[cfg(test)]
pub mod testing;
pub mod watch_health;
pub mod watchdog;
