//! The metrics of the process itself, read from `/proc` at each scrape. Without `/proc` there are none.
//!
//! The `process` feature of the prometheus crate counts CPU time in whole seconds. A quiet replica needs a quarter of
//! an hour for one, so its rate would be zero or a spike.

use procfs::process::{LimitValue, Process as Proc};
use procfs::{ProcResult, WithCurrentSystemInfo as _};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Error, Gauge};

/// Collects the metrics of this process.
pub(super) struct Process {
    cpu: Counter,
    threads: Gauge,
    start: Gauge,
    resident: Gauge,
    virtual_: Gauge,
    open_files: Gauge,
    most_files: Gauge,
}

impl Process {
    pub(super) fn new() -> Result<Self, Error> {
        let process = Self {
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "Time that the process spent on CPUs, user and system.",
            )?,
            threads: Gauge::new("process_threads", "Threads of the process.")?,
            start: Gauge::new(
                "process_start_time_seconds",
                "When the process began, as Unix time. A recent value: it was restarted.",
            )?,
            resident: Gauge::new("process_resident_memory_bytes", "Memory of the process in RAM.")?,
            virtual_: Gauge::new("process_virtual_memory_bytes", "Address space of the process.")?,
            open_files: Gauge::new(
                "process_open_fds",
                "File descriptors in use; must stay far below process_max_fds.",
            )?,
            most_files: Gauge::new(
                "process_max_fds",
                "File descriptors that the process may have open.",
            )?,
        };
        if let Ok(start) = start() {
            process.start.set(start);
        }
        Ok(process)
    }

    fn gauges(&self) -> [&Gauge; 6] {
        [
            &self.threads,
            &self.start,
            &self.resident,
            &self.virtual_,
            &self.open_files,
            &self.most_files,
        ]
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
    fn update(&self) -> ProcResult<()> {
        let process = Proc::myself()?;
        let stat = process.stat()?;
        let cpu = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
        self.threads.set(stat.num_threads as f64);
        self.resident.set(stat.rss_bytes().get() as f64);
        self.virtual_.set(stat.vsize as f64);
        // One of them is the folder that is being read.
        self.open_files.set(process.fd_count()?.saturating_sub(1) as f64);
        let most = match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(most) => most as f64,
            LimitValue::Unlimited => f64::INFINITY,
        };
        self.most_files.set(most);
        Ok(())
    }
}

/// The start of this process, as Unix time; read once, since it moves when somebody sets the clock.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn start() -> ProcResult<f64> {
    let since_boot = Proc::myself()?.stat()?.starttime as f64 / procfs::ticks_per_second() as f64;
    Ok(procfs::boot_time_secs()? as f64 + since_boot)
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = self.gauges().into_iter().flat_map(Collector::desc);
        self.cpu.desc().into_iter().chain(gauges).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if self.update().is_err() {
            return Vec::new();
        }
        let gauges = self.gauges().into_iter().flat_map(Collector::collect);
        self.cpu.collect().into_iter().chain(gauges).collect()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_plausible_values() {
        let process = Process::new().unwrap();
        assert_eq!(process.collect().len(), process.desc().len());
        let [threads, start, resident, virtual_, open, most] = process.gauges().map(Gauge::get);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((now - 86_400.0..=now + 5.0).contains(&start), "{start} {now}");
        assert!(threads >= 1.0 && resident > 100_000.0 && virtual_ >= resident);
        assert!(open >= 3.0 && most > open, "{open} {most}");
    }

    #[test]
    fn cpu_time_has_fractions_of_a_second_and_never_decreases() {
        let process = Process::new().unwrap();
        let mut last = 0.0;
        while process.cpu.get().fract() == 0.0 {
            process.update().unwrap();
            assert!(process.cpu.get() >= last);
            last = process.cpu.get();
        }
        assert!(last < 60.0, "{last}");
    }
}
