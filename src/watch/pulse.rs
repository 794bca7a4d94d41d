//! Signs of life of watches: a watch that shows none is a stale view, however quiet the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// When one watch last showed life, and whether it is to begin anew.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    last: Mutex<Instant>,
    restart: Notify,
}

impl Pulse {
    fn new() -> Self {
        Self(Arc::new(Inner {
            // Its first sign of life is due like any other.
            last: Mutex::new(Instant::now()),
            restart: Notify::new(),
        }))
    }

    /// A sign of life.
    pub fn beat(&self) {
        *self.0.last.lock() = Instant::now();
    }

    fn age(&self) -> Duration {
        self.0.last.lock().elapsed()
    }

    /// Waits until this watch is to begin anew.
    pub async fn restart(&self) {
        self.0.restart.notified().await;
    }
}

/// The pulses of all watches that run.
#[derive(Clone, Debug, Default)]
pub struct Pulses(Arc<Mutex<BTreeMap<(&'static str, String), Pulse>>>);

/// A watch that runs; it is no longer expected to show life when this is dropped.
pub struct Running {
    pulses: Pulses,
    key: (&'static str, String),
    pulse: Pulse,
}

impl Pulses {
    pub(super) fn start(&self, watch: &'static str, selector: Option<&str>) -> Running {
        let key = (watch, selector.unwrap_or_default().to_owned());
        let pulse = Pulse::new();
        self.0.lock().insert(key.clone(), pulse.clone());
        Running {
            pulses: self.clone(),
            key,
            pulse,
        }
    }

    /// Watches of this name are behind the API: they begin anew.
    pub fn restart(&self, watch: &str) {
        let pulses = self.0.lock();
        for (_, pulse) in pulses.iter().filter(|((name, _), _)| *name == watch) {
            pulse.0.restart.notify_one();
        }
    }

    /// Whether every watch has shown life within `limit`.
    ///
    /// # Errors
    /// Those that have not.
    pub fn check(&self, limit: Duration) -> Result<(), String> {
        let pulses = self.0.lock();
        let dead: Vec<_> = pulses
            .iter()
            .map(|((watch, _), pulse)| (watch, pulse.age()))
            .filter(|(_, age)| *age > limit)
            .map(|(watch, age)| format!("{watch}: no sign of life for {} s", age.as_secs()))
            .collect();
        if dead.is_empty() {
            Ok(())
        } else {
            Err(dead.join(", "))
        }
    }
}

impl Running {
    pub(super) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut pulses = self.pulses.0.lock();
        // A successor with the same selector may have begun already.
        if pulses
            .get(&self.key)
            .is_some_and(|current| Arc::ptr_eq(&current.0, &self.pulse.0))
        {
            pulses.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_watch_without_life_is_named_and_one_that_ended_is_not() {
        let pulses = Pulses::default();
        let services = pulses.start("services", None);
        let copies = pulses.start("copies", Some("a=b"));
        tokio::time::advance(Duration::from_secs(80)).await;
        services.pulse().beat();
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(
            pulses.check(Duration::from_secs(90)).unwrap_err(),
            "copies: no sign of life for 100 s"
        );
        drop(copies);
        assert_eq!(pulses.check(Duration::from_secs(90)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_watch_does_not_hide_its_successor() {
        let pulses = Pulses::default();
        let first = pulses.start("sources", Some("x"));
        let _second = pulses.start("sources", Some("x"));
        drop(first);
        tokio::time::advance(Duration::from_secs(100)).await;
        assert!(pulses.check(Duration::from_secs(90)).is_err());
    }
}
