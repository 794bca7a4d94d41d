//! The checks that decide whether this process is alive and ready.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use tower::BoxError;

/// The kind of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether Services and rollouts may rely on this replica. A failure does not restart the process.
    Readiness,
    /// Whether the process works at all. After repeated failures, the kubelet restarts the container, so only problems
    /// that a restart fixes belong here. A process that is not alive is not ready either.
    Liveness,
}

/// The checks of this process. Clones share the checks. Without checks, the process is alive and ready.
#[derive(Clone, Default)]
pub struct Health {
    checks: Arc<RwLock<Vec<HealthCheck>>>,
    shutting_down: Arc<AtomicBool>,
}

struct HealthCheck {
    name: &'static str,
    probe: Probe,
    run: Box<dyn Fn() -> Result<(), BoxError> + Send + Sync>,
}

impl Health {
    /// Adds a check. A check for readiness runs at each readiness probe, and a check for liveness at each probe of
    /// either kind. A check must not block, and must not add another check. Its error describes the problem on one
    /// line.
    pub fn check<E: Into<BoxError>>(
        &self,
        name: &'static str,
        probe: Probe,
        run: impl Fn() -> Result<(), E> + Send + Sync + 'static,
    ) {
        let run = Box::new(move || run().map_err(Into::into));
        self.checks.write().push(HealthCheck { name, probe, run });
    }

    /// Marks the process as not ready, because it is about to end.
    pub fn shutting_down(&self) {
        self.shutting_down.store(true, Ordering::Relaxed);
    }

    /// Runs the checks. Returns whether they pass, and the list of results in the format that the Kubernetes API server
    /// uses. If all checks pass and `verbose` was not requested, the text is only `ok`.
    pub(super) fn report(&self, probe: Probe, endpoint: &str, verbose: bool) -> (bool, String) {
        let mut results = vec![("ping", Ok(()))];
        let checks = self.checks.read();
        let meant = checks
            .iter()
            .filter(|check| check.probe == Probe::Liveness || check.probe == probe);
        results.extend(meant.map(|check| (check.name, (check.run)())));
        if probe == Probe::Readiness {
            let shutting_down = self.shutting_down.load(Ordering::Relaxed);
            let end = || Err("the process is shutting down".into());
            results.push(("shutdown", if shutting_down { end() } else { Ok(()) }));
        }
        let passed = results.iter().all(|(_, result)| result.is_ok());
        if passed && !verbose {
            return (passed, "ok".to_owned());
        }
        let mut text = String::new();
        for (name, result) in results {
            _ = match result {
                Ok(()) => writeln!(text, "[+]{name} ok"),
                Err(reason) => writeln!(text, "[-]{name} failed: {reason}"),
            };
        }
        let outcome = if passed { "passed" } else { "failed" };
        _ = writeln!(text, "{endpoint} check {outcome}");
        (passed, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(health: &Health, probe: Probe) -> bool {
        health.report(probe, "readyz", false).0
    }

    fn text(health: &Health, probe: Probe) -> String {
        health.report(probe, "readyz", true).1
    }

    #[test]
    fn a_process_without_checks_is_alive_and_ready() {
        assert!(passes(&Health::default(), Probe::Readiness));
        assert!(passes(&Health::default(), Probe::Liveness));
    }

    #[test]
    fn a_process_that_is_not_alive_is_not_ready() {
        let health = Health::default();
        health.check("caches", Probe::Readiness, || Err("not filled"));
        assert!(!passes(&health, Probe::Readiness));
        assert!(passes(&health, Probe::Liveness));

        let health = Health::default();
        health.check("worker", Probe::Liveness, || Err("stuck"));
        assert!(!passes(&health, Probe::Readiness));
        assert!(!passes(&health, Probe::Liveness));
    }

    #[test]
    fn a_process_that_shuts_down_is_alive_but_not_ready() {
        let health = Health::default();
        health.clone().shutting_down();
        assert!(passes(&health, Probe::Liveness));
        assert_eq!(
            text(&health, Probe::Readiness),
            "[+]ping ok\n[-]shutdown failed: the process is shutting down\nreadyz check failed\n"
        );
    }
}
