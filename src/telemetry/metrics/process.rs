//! The metrics of the process itself, read from `/proc` at each scrape. Without `/proc` there are none.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

/// Ticks in which Linux tells times of processes to programs; part of its ABI on the platforms of Kubernetes.
const TICKS_PER_SECOND: f64 = 100.0;

/// Name, help and type of what [`read`] gives, in its order.
const FAMILIES: [(&str, &str, MetricType); 7] = [
    (
        "process_cpu_seconds_total",
        "Time that the process spent on CPUs, user and system.",
        MetricType::COUNTER,
    ),
    ("process_threads", "Threads of the process.", MetricType::GAUGE),
    (
        "process_start_time_seconds",
        "When the process began, as Unix time. A recent value: it was restarted.",
        MetricType::GAUGE,
    ),
    (
        "process_resident_memory_bytes",
        "Memory of the process in RAM.",
        MetricType::GAUGE,
    ),
    (
        "process_virtual_memory_bytes",
        "Address space of the process.",
        MetricType::GAUGE,
    ),
    (
        "process_open_fds",
        "File descriptors in use; must stay far below process_max_fds.",
        MetricType::GAUGE,
    ),
    (
        "process_max_fds",
        "File descriptors that the process may have open.",
        MetricType::GAUGE,
    ),
];

/// Collects the metrics of this process.
pub(super) struct Process {
    descs: Vec<Desc>,
    /// When the machine began, as Unix time; read once, since it moves when somebody sets the clock.
    boot_time: Option<f64>,
}

impl Process {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let desc = |(name, help, _): (&str, &str, _)| {
            Desc::new(
                name.to_owned(),
                help.to_owned(),
                Vec::new(),
                std::collections::HashMap::new(),
            )
        };
        Ok(Self {
            descs: FAMILIES.into_iter().map(desc).collect::<Result<_, _>>()?,
            boot_time: fs::read_to_string("/proc/stat")
                .ok()
                .and_then(|stat| number_after(&stat, "btime")),
        })
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        FAMILIES
            .into_iter()
            .zip(read(self.boot_time))
            .filter_map(|((name, help, kind), value)| Some(family(name, help, kind, value?)))
            .collect()
    }
}

fn family(name: &str, help: &str, kind: MetricType, value: f64) -> MetricFamily {
    let mut metric = Metric::default();
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(vec![metric]);
    family
}

fn read(boot_time: Option<f64>) -> [Option<f64>; FAMILIES.len()] {
    let file = |name| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let (stat, status, limits) = (file("stat"), file("status"), file("limits"));
    let [cpu, threads, began] = parse_stat(&stat).map_or([None; 3], |values| values.map(Some));
    let began = boot_time.zip(began).map(|(boot, began)| boot + began);
    let kilobytes = |key| number_after(&status, key).map(|kilobytes| kilobytes * 1024.0);
    [
        cpu,
        threads,
        began,
        kilobytes("VmRSS:"),
        kilobytes("VmSize:"),
        open_files(),
        number_after(&limits, "Max open files"),
    ]
}

/// CPU seconds, threads, and the start in seconds since the machine's, of `/proc/self/stat`.
fn parse_stat(stat: &str) -> Option<[f64; 3]> {
    // The second field is the program's name in parentheses; it may itself hold spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    // Counted from 1 as in proc_pid_stat(5), of which two are before `fields`.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let (user, system, threads, began) = (field(14)?, field(15)?, field(20)?, field(22)?);
    Some([
        (user + system) / TICKS_PER_SECOND,
        threads,
        began / TICKS_PER_SECOND,
    ])
}

/// The number after `key` on the line that begins with it; none if it is `unlimited`.
fn number_after(text: &str, key: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    #[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
    Some(number as f64)
}

fn open_files() -> Option<f64> {
    // One of them is the folder that is being read.
    let count = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u32::try_from(count).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_with_spaces_and_parentheses_does_no_harm() {
        for name in ["(copier)", "(a b)", "(a) S 1 (b)", "())"] {
            let stat = format!(
                "77 {name} S 1 77 77 0 -1 4194560 945 0 0 0 250 50 0 0 20 0 9 0 12345 2703360 412 \
                 18446744073709551615 1 1 0 0 0 0 0 4096 17642 0 0 0 17 1 0 0 0 0 0"
            );
            assert_eq!(parse_stat(&stat), Some([3.0, 9.0, 123.45]), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        for stat in [
            "",
            "77 (copier) S",
            "77 (copier",
            "77 (c) S 1 77 77 0 -1 4194560 945 0 0 0 x 50 0 0 20 0 9 0 12345",
        ] {
            assert_eq!(parse_stat(stat), None, "{stat}");
        }
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1048576              524288               files\n";
        assert_eq!(number_after(limits, "Max open files"), Some(1_048_576.0));
        assert_eq!(
            number_after(&limits.replace("1048576", "unlimited"), "Max open files"),
            None
        );
        assert_eq!(number_after("VmRSS:\t    1648 kB\n", "VmRSS:"), Some(1648.0));
        assert_eq!(number_after("VmRSS:", "VmRSS:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_plausible_values() {
        let values = read(number_after(&fs::read_to_string("/proc/stat").unwrap(), "btime"));
        let [cpu, threads, start, resident, virtual_, open, max] = values.map(|v| v.unwrap_or(f64::NAN));
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!(cpu >= 0.0 && threads >= 1.0, "{values:?}");
        assert!((now - 86_400.0..=now + 5.0).contains(&start), "{values:?} {now}");
        assert!(resident > 100_000.0 && virtual_ >= resident, "{values:?}");
        assert!(open >= 3.0, "{values:?}");
        assert!(max.is_nan() || max > open, "{values:?}");
    }
}
