//! What is checked before this process is called alive, or ready.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

/// The question that a check answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// May traffic and upgrades count on this replica? A failure takes it out, nothing more.
    Readiness,
    /// Does the process work at all? A failure makes the kubelet restart it, so only what a restart cures
    /// belongs here. What is not alive is not ready either.
    Liveness,
}

/// The checks of this process; clones share them.
#[derive(Clone, Default)]
pub struct Health(Arc<HealthChecks>);

#[derive(Default)]
struct HealthChecks {
    checks: RwLock<Vec<Arc<Check>>>,
    shutting_down: AtomicBool,
}

/// Why a check failed.
type Failure = Box<dyn Error + Send + Sync>;

/// The process is about to end.
#[derive(Debug, thiserror::Error)]
#[error("the process is shutting down")]
struct ShuttingDown;

struct Check {
    name: Cow<'static, str>,
    probe: Probe,
    run: Box<dyn Fn() -> Result<(), Failure> + Send + Sync>,
}

impl Health {
    /// Without checks: alive and ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, or replaces the one of that name. It runs at each probe and must not block; its error says
    /// in one line what is wrong.
    pub fn check<E: Into<Failure>>(
        &self,
        name: impl Into<Cow<'static, str>>,
        probe: Probe,
        run: impl Fn() -> Result<(), E> + Send + Sync + 'static,
    ) {
        let check = Arc::new(Check {
            name: name.into(),
            probe,
            run: Box::new(move || run().map_err(Into::into)),
        });
        let mut checks = self.0.checks.write();
        match checks.iter_mut().find(|other| other.name == check.name) {
            Some(other) => *other = check,
            None => checks.push(check),
        }
    }

    /// From now on the process is not ready, for it is about to end.
    pub fn shutting_down(&self) {
        self.0.shutting_down.store(true, Ordering::Relaxed);
    }

    pub(super) fn report(&self, probe: Probe) -> HealthReport {
        // A copy of the list, so that no check runs under the lock.
        let checks = self.0.checks.read().clone();
        let mut results = vec![(Cow::Borrowed("ping"), Ok(()))];
        for check in checks
            .iter()
            .filter(|c| c.probe == Probe::Liveness || c.probe == probe)
        {
            results.push((check.name.clone(), (check.run)()));
        }
        if probe == Probe::Readiness {
            let shutting_down = self.0.shutting_down.load(Ordering::Relaxed);
            let result = if shutting_down {
                Err(ShuttingDown.into())
            } else {
                Ok(())
            };
            results.push((Cow::Borrowed("shutdown"), result));
        }
        HealthReport(results)
    }
}

/// What the checks said.
pub(super) struct HealthReport(Vec<(Cow<'static, str>, Result<(), Failure>)>);

impl HealthReport {
    pub(super) fn passed(&self) -> bool {
        self.0.iter().all(|(_, result)| result.is_ok())
    }

    /// The list as the API server of Kubernetes writes it; short when all is well and nobody asked.
    pub(super) fn text(&self, endpoint: &str, verbose: bool) -> String {
        if self.passed() && !verbose {
            return "ok".to_owned();
        }
        let mut text = String::new();
        for (name, result) in &self.0 {
            let _ = match result {
                Ok(()) => writeln!(text, "[+]{name} ok"),
                Err(reason) => writeln!(text, "[-]{name} failed: {reason}"),
            };
        }
        let outcome = if self.passed() { "passed" } else { "failed" };
        let _ = writeln!(text, "{endpoint} check {outcome}");
        text
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn text(health: &Health, probe: Probe) -> String {
        health.report(probe).text("readyz", true)
    }

    #[test]
    fn a_process_without_checks_is_alive_and_ready() {
        assert!(Health::new().report(Probe::Readiness).passed());
        assert!(Health::new().report(Probe::Liveness).passed());
    }

    #[test]
    fn what_is_not_ready_may_be_alive_but_what_is_not_alive_is_not_ready() {
        let health = Health::new();
        health.check("caches", Probe::Readiness, || Err("not filled"));
        assert!(!health.report(Probe::Readiness).passed());
        assert!(health.report(Probe::Liveness).passed());

        let health = Health::new();
        health.check("worker", Probe::Liveness, || Err("stuck"));
        assert!(!health.report(Probe::Readiness).passed());
        assert!(!health.report(Probe::Liveness).passed());
    }

    #[test]
    fn a_check_of_the_same_name_replaces_the_other() {
        let health = Health::new();
        health.check("watch/services", Probe::Readiness, || Err("silent"));
        health
            .clone()
            .check(format!("watch/{}", "services"), Probe::Readiness, || {
                Ok::<_, Infallible>(())
            });
        assert_eq!(
            text(&health, Probe::Readiness),
            "[+]ping ok\n[+]watch/services ok\n[+]shutdown ok\nreadyz check passed\n"
        );
    }

    #[test]
    fn a_process_that_shuts_down_is_alive_but_not_ready() {
        let health = Health::new();
        health.clone().shutting_down();
        assert!(health.report(Probe::Liveness).passed());
        assert_eq!(
            text(&health, Probe::Readiness),
            "[+]ping ok\n[-]shutdown failed: the process is shutting down\nreadyz check failed\n"
        );
    }

    #[test]
    fn a_check_may_use_the_handle_that_it_belongs_to() {
        let health = Health::new();
        let handle = health.clone();
        health.check("nested", Probe::Readiness, move || {
            handle.check("late", Probe::Readiness, || Ok::<_, Infallible>(()));
            Ok::<_, Infallible>(())
        });
        assert!(health.report(Probe::Readiness).passed());
        assert!(text(&health, Probe::Readiness).contains("[+]late ok"));
    }
}
