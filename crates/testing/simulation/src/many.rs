//! Runs many schedules in parallel, each in its own process, and reports their results.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::chance::Chance;
use crate::coverage::{Coverage, ENOUGH};
use crate::run::{self, Outcome};

/// The number of failed schedules whose steps are printed.
const PRINTED_FAILURES: usize = 2;

/// In runs of at least this many schedules, everything that the coverage requires must have happened often enough.
const WHOLE_RUN: u64 = 800;

/// A run of many schedules.
pub struct Many {
    /// The number of schedules.
    pub seeds: u64,
    /// The number from which the seeds of the schedules are derived.
    pub base: u64,
    /// The number of schedules that run in parallel.
    pub jobs: usize,
    /// The binary of this crate, which runs one schedule at a time.
    pub program: PathBuf,
}

#[derive(Default)]
struct Sum {
    coverage: Coverage,
    failed: Vec<(u64, Outcome)>,
    slowest: Duration,
}

impl Many {
    /// 800 schedules on all processors, with a random base.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            seeds: WHOLE_RUN,
            base: RandomState::new().hash_one(std::process::id()) >> 16,
            jobs: thread::available_parallelism().map_or(1, std::num::NonZero::get),
            program: program.into(),
        }
    }

    /// The seed of the schedule with this number.
    pub fn seed(&self, number: u64) -> u64 {
        // The seed is short enough to type.
        Chance::new(self.base, number).number() >> 24
    }

    /// Runs all schedules, and returns a report.
    ///
    /// # Errors
    /// Returns the report as an error if a schedule failed, or if something happened too rarely in a whole run.
    pub fn run(&self) -> Result<String, String> {
        println!("{} schedules from base {}", self.seeds, self.base);
        let began = Instant::now();
        let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
        thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| self.work(&next, &sum, began));
            }
        });
        let took = began.elapsed().as_secs_f64();
        let sum = sum.into_inner();
        let mut report = String::new();
        _ = write!(report, "{}", sum.coverage);
        _ = writeln!(
            report,
            "longest time from the last fault until the copies were right: {:.2} s",
            sum.slowest.as_secs_f64()
        );
        for (seed, outcome) in sum.failed.iter().take(PRINTED_FAILURES) {
            _ = writeln!(report, "\n{}\nschedule of seed {seed}, see above:", outcome.story);
            for violation in &outcome.violations {
                _ = writeln!(report, "  FAILED: {violation}");
            }
        }
        for (seed, outcome) in &sum.failed {
            let first = outcome.violations.first().map(String::as_str);
            _ = writeln!(
                report,
                "seed {seed} failed; repeat it with: make simulate SEED={seed}   ({})",
                first.unwrap_or_default()
            );
        }
        let rare = if self.seeds >= WHOLE_RUN {
            sum.coverage.rare()
        } else {
            Vec::new()
        };
        if !rare.is_empty() {
            _ = writeln!(report, "fewer than {ENOUGH} times: {}", rare.join("; "));
        }
        #[expect(clippy::cast_precision_loss, reason = "the rate is only printed")]
        let per_second = self.seeds as f64 / took;
        _ = write!(
            report,
            "{} schedules from base {}, {} failed, in {took:.1} s: {per_second:.1} a second",
            self.seeds,
            self.base,
            sum.failed.len()
        );
        if sum.failed.is_empty() && rare.is_empty() {
            Ok(report)
        } else {
            Err(report)
        }
    }

    fn work(&self, next: &AtomicU64, sum: &Mutex<Sum>, began: Instant) {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.seeds {
                return;
            }
            let seed = self.seed(number);
            let outcome = run::in_process(&self.program, seed)
                .unwrap_or_else(|error| Outcome::failed(error.to_string()));
            let mut sum = sum.lock();
            sum.coverage.merge(&outcome.coverage);
            sum.slowest = sum.slowest.max(outcome.settled);
            if !outcome.violations.is_empty() {
                println!(
                    "seed {seed} failed: {}",
                    outcome.violations.first().map_or("", |it| it)
                );
                sum.failed.push((seed, outcome));
            }
            let done = number + 1;
            if done.is_multiple_of((self.seeds / 10).max(1)) {
                println!(
                    "{done} schedules, {} failed, {} s",
                    sum.failed.len(),
                    began.elapsed().as_secs()
                );
            }
        }
    }
}
