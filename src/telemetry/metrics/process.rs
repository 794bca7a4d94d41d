//! The metrics of the process itself, read from `/proc` at each scrape. A metric that cannot be read is absent.
//! The metrics of the Lease and of the leader are in [`super`].
//!
//! The `process` feature of the prometheus crate counts CPU time in whole seconds. An idle replica takes a quarter of
//! an hour to use one second, so the rate of the metric would be zero or a spike.

use std::fmt::Write as _;

use procfs::process::{LimitValue, Process, Stat};
use procfs::{ProcResult, WithCurrentSystemInfo as _};

use super::page::{header, number};

/// Returns the start of this process as Unix time in seconds. It is read once, because it changes when someone sets the
/// clock.
pub(super) fn start(process: ProcResult<Process>) -> Option<f64> {
    let since_boot = seconds(process.ok()?.stat().ok()?.starttime);
    Some(number(procfs::boot_time_secs().ok()?) + since_boot)
}

/// Appends the lines of these metrics.
pub(super) fn render(text: &mut String, process: ProcResult<Process>, began: Option<f64>) {
    let Ok(process) = process else { return };
    let stat = process.stat().ok();
    let of_stat = |value: fn(&Stat) -> f64| stat.as_ref().map(value);
    // One open file is the directory in /proc that procfs opened for this.
    let open_files = process
        .fd_count()
        .map(|count| number(count.saturating_sub(1) as u64));
    let most_files = process
        .limits()
        .map(|limits| match limits.max_open_files.soft_limit {
            LimitValue::Value(most) => number(most),
            LimitValue::Unlimited => f64::INFINITY,
        });
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "User and system CPU time of the process.",
            of_stat(|stat| seconds(stat.utime + stat.stime)),
        ),
        (
            "process_threads",
            "gauge",
            "Number of threads of the process.",
            of_stat(|stat| number(stat.num_threads.unsigned_abs())),
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "When the process started, as Unix time. A recent value means that the process was restarted.",
            began,
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Memory of the process in RAM.",
            of_stat(|stat| number(stat.rss_bytes().get())),
        ),
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Address space of the process.",
            of_stat(|stat| number(stat.vsize)),
        ),
        (
            "process_open_fds",
            "gauge",
            "File descriptors in use; must stay far below process_max_fds.",
            open_files.ok(),
        ),
        (
            "process_max_fds",
            "gauge",
            "File descriptors that the process may have open.",
            most_files.ok(),
        ),
    ] {
        if let Some(value) = value {
            header(text, name, kind, help);
            _ = writeln!(text, "{name} {value}");
        }
    }
}

fn seconds(ticks: u64) -> f64 {
    number(ticks) / number(procfs::ticks_per_second())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Returns the lines of a process, without help and type.
    fn lines(process: ProcResult<Process>, began: Option<f64>) -> Vec<(String, f64)> {
        let mut text = String::new();
        render(&mut text, process, began);
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    fn of_this_process() -> [f64; 7] {
        let lines = lines(Process::myself(), start(Process::myself()));
        let values: Vec<_> = lines.into_iter().map(|(_, value)| value).collect();
        values.try_into().unwrap()
    }

    #[test]
    fn this_process_has_plausible_values() {
        let [_, threads, start, resident, virtual_, open, most] = of_this_process();
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((now - 86_400.0..=now + 5.0).contains(&start), "{start} {now}");
        assert!(threads >= 1.0 && resident > 100_000.0 && virtual_ >= resident);
        assert!(open >= 3.0 && most > open, "{open} {most}");
    }

    #[test]
    fn cpu_time_has_fractions_of_a_second_and_never_decreases() {
        let mut last = 0.0;
        while f64::fract(last) == 0.0 {
            let [now, ..] = of_this_process();
            assert!(now >= last);
            last = now;
        }
        assert!(last < 60.0, "{last}");
    }

    /// Returns the sorted names of the metrics of a process for which only these files can be read.
    fn with_files(files: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("1");
        fs::create_dir(&root).unwrap();
        for file in files {
            fs::copy(format!("/proc/self/{file}"), root.join(file)).unwrap();
        }
        let process = || Process::new_with_root(root.clone());
        let mut names: Vec<_> = lines(process(), start(process()))
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        names.sort();
        names.join(" ")
    }

    #[test]
    fn an_unreadable_file_removes_only_its_own_metrics() {
        assert_eq!(with_files(&[]), "");
        assert_eq!(with_files(&["limits"]), "process_max_fds");
        assert_eq!(
            with_files(&["stat"]),
            "process_cpu_seconds_total process_resident_memory_bytes process_start_time_seconds process_threads \
             process_virtual_memory_bytes"
        );
    }
}
