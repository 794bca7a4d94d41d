//! Writes logs to standard error, one line for each event.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::ops::RangeInclusive;
use std::panic::{self, PanicHookInfo};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};

/// Directives that make libraries quieter, each with the range of requested levels to which it applies. A name stands
/// for all crates whose names begin with it.
const QUIET_LIBRARIES: [(&str, RangeInclusive<LevelFilter>); 4] = [
    // The crate for leader election logs, at info, each attempt that fails because another replica holds the Lease.
    (
        "kube_leader_election=warn",
        LevelFilter::INFO..=LevelFilter::TRACE,
    ),
    // The HTTP/2 crate logs every ping at debug, several times a second.
    ("h2=warn", LevelFilter::INFO..=LevelFilter::DEBUG),
    // These crates log internals at info.
    (
        "hyper=warn,kube=warn,rustls=warn,tower=warn",
        LevelFilter::INFO..=LevelFilter::INFO,
    ),
    // This crate logs each failed handshake as an error, in addition to our line.
    (
        "rustls_platform_verifier=off",
        LevelFilter::ERROR..=LevelFilter::INFO,
    ),
];

/// At warn, these crates log the whole body of a response that they cannot decode, with the annotations of all objects,
/// and each failed attempt of a watch. Our own log says what failed, in a limited number of lines per minute. If the
/// user's directives contain `kube`, these directives do not apply.
const WITHOUT_BODIES: &str = "kube_client=error,kube_runtime=error";

/// The maximum number of lines that wait to be written. Further lines are dropped, because they could take unlimited
/// memory.
const WAITING_LINES: usize = 1024;

/// Sends panic messages, and the logs of this process and its libraries, to standard error. Text is in color if
/// standard error is a terminal and `NO_COLOR` is unset or empty. Call this once. A separate thread writes the lines,
/// the last of them when the guard is dropped. If standard error is a pipe that nothing reads, lines are lost, but the
/// operator continues to work.
#[must_use = "the last lines are written when it is dropped"]
pub fn init(log: &LogConfig) -> WorkerGuard {
    let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let (writer, guard) = non_blocking(io::stderr());
    let _ = subscriber(log, color, writer).try_init();
    log_panics();
    guard
}

/// Creates a writer that never blocks.
fn non_blocking(writer: impl io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(writer)
}

fn subscriber<W>(log: &LogConfig, color: bool, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The flag parser has already accepted these directives.
    let filter: Targets = directives(&log.filter).parse().unwrap_or_default();
    // A failed write is dropped silently, because reporting it would panic if standard error is closed.
    let builder = tracing_subscriber::fmt()
        // Only the filter decides what is logged.
        .with_max_level(LevelFilter::TRACE)
        .with_writer(writer)
        .with_ansi(color && log.format == LogFormat::Text)
        .log_internal_errors(false);
    match log.format {
        LogFormat::Text => Box::new(builder.finish().with(filter)),
        LogFormat::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .finish()
                .with(filter),
        ),
    }
}

/// Returns the user's directives, after those that make libraries quieter. If there are two directives for one target,
/// the last one wins.
fn directives(asked: &str) -> String {
    let everywhere = asked.split(',').filter_map(|part| part.parse().ok()).next_back();
    let everywhere = everywhere.unwrap_or(LevelFilter::OFF);
    let quiet = QUIET_LIBRARIES
        .iter()
        .filter(|(_, while_asked)| while_asked.contains(&everywhere));
    let hides_bodies = everywhere >= LevelFilter::WARN && !asked.contains("kube");
    let quiet = quiet.map(|(directive, _)| *directive);
    let directives = quiet.chain(hides_bodies.then_some(WITHOUT_BODIES)).chain([asked]);
    directives.collect::<Vec<_>>().join(",")
}

/// Logs each panic as one line. The usual report is also printed if a backtrace is requested, and is the only output if
/// the filter hides errors.
fn log_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let logged = tracing::enabled!(Level::ERROR);
        if logged {
            log_panic(info);
        }
        if !logged || Backtrace::capture().status() == BacktraceStatus::Captured {
            usual(info);
        }
    }));
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let message = message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    tracing::error!(location, thread, "panic, which is a bug: {message}");
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, error, info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, format: LogFormat, color: bool, act: impl FnOnce()) -> String {
        let sink = Sink::default();
        let made = sink.clone();
        let filter = filter.to_owned();
        let subscriber = subscriber(&LogConfig { filter, format }, color, move || made.clone());
        tracing::subscriber::with_default(subscriber, act);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    const INFO: &str = "info";

    #[test]
    fn libraries_log_less_unless_more_is_requested() {
        let lock = "kube_leader_election=warn";
        let libraries = format!("{lock},h2=warn,hyper=warn,kube=warn,rustls=warn,tower=warn");
        let (bodies, verifier) = (
            "kube_client=error,kube_runtime=error",
            "rustls_platform_verifier=off",
        );
        for (asked, quiet) in [
            ("info", format!("{libraries},{verifier},{bodies},")),
            ("off", String::new()),
            ("error", format!("{verifier},")),
            ("warn", format!("{verifier},{bodies},")),
            ("debug", format!("{lock},h2=warn,{bodies},")),
            ("TRACE", format!("{lock},{bodies},")),
            ("info,kube=debug", format!("{libraries},{verifier},")),
            ("h2=trace", String::new()),
        ] {
            assert_eq!(directives(asked), format!("{quiet}{asked}"));
        }
    }

    #[test]
    fn directive_of_the_user_makes_a_library_log_more() {
        let act = || {
            info!(target: "kube_client::client", "of a library");
            info!(target: "kube_leader_election::lease", "of the lock");
            debug!(target: "kube_runtime::watcher", "in detail");
            warn!(target: "kube_leader_election::lease", "grave");
            warn!(target: "kube_client::client", "a whole body");
            info!("ours");
        };
        let text = logged(INFO, LogFormat::Text, false, act);
        assert_eq!(text.lines().count(), 2, "{text}");
        let text = logged("info,kube=debug", LogFormat::Text, false, act);
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(!text.contains("of the lock"), "{text}");
    }

    #[test]
    fn text_is_one_line_per_event_and_colored_only_on_request() {
        let act = || info!(service = "default/vip", endpoints = 3, "copied");
        let text = logged(INFO, LogFormat::Text, false, act);
        assert!(
            text.ends_with(" copied service=\"default/vip\" endpoints=3\n"),
            "{text}"
        );
        assert!(
            text.contains("Z  INFO endpoint_copier_operator::telemetry::logs::tests: "),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(logged(INFO, LogFormat::Text, true, act).contains('\u{1b}'));
        assert!(!logged(INFO, LogFormat::Json, true, act).contains('\u{1b}'));
    }

    /// Rule: 4.log-flags
    #[test]
    fn json_is_one_flat_object_per_line() {
        let text = logged(INFO, LogFormat::Json, false, || {
            let span = tracing::info_span!("sync", service = "in a span");
            let _entered = span.enter();
            info!(service = "default/vip", endpoints = 3, ok = true, "first\nline");
            error!(error = %io::Error::other("refused"), "second");
        });
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        let first = lines[0].as_object().unwrap();
        assert!(
            first
                .values()
                .all(|value| !value.is_object() && !value.is_array()),
            "{text}"
        );
        assert_eq!(
            first.keys().map(String::as_str).collect::<Vec<_>>(),
            [
                "endpoints",
                "level",
                "message",
                "ok",
                "service",
                "target",
                "timestamp"
            ]
        );
        assert_eq!(first["level"], "INFO");
        assert_eq!(first["message"], "first\nline");
        assert_eq!(first["endpoints"], 3);
        first["timestamp"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .expect("RFC 3339");
        assert_eq!(lines[1]["error"], "refused");
    }

    /// Blocks each write, like a full pipe, until the other end is dropped.
    struct Pipe(std::sync::mpsc::Receiver<()>);

    impl io::Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Rule: survive.blocked-log
    #[test]
    fn line_that_cannot_be_written_blocks_nothing() {
        let (reader, pipe) = std::sync::mpsc::channel();
        let (writer, guard) = non_blocking(Pipe(pipe));
        let log = LogConfig {
            filter: INFO.to_owned(),
            format: LogFormat::Text,
        };
        let lost = writer.error_counter();
        tracing::subscriber::with_default(subscriber(&log, false, writer), || {
            for number in 0..10 * WAITING_LINES {
                info!(number, "copied");
            }
        });
        assert!(
            lost.dropped_lines() >= 8 * WAITING_LINES,
            "{}",
            lost.dropped_lines()
        );
        drop(reader);
        drop(guard);
    }

    /// Rule: survive.blocked-log
    #[test]
    fn last_line_is_written_before_the_process_ends() {
        let sink = Sink::default();
        let (writer, guard) = non_blocking(sink.clone());
        let log = LogConfig {
            filter: INFO.to_owned(),
            format: LogFormat::Text,
        };
        tracing::subscriber::with_default(subscriber(&log, false, writer), || info!("stopping"));
        drop(guard);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with(" stopping\n"), "{text}");
    }

    /// The only test that changes global state of the process.
    #[test]
    fn a_panic_is_one_line() {
        let log = LogConfig {
            filter: "off".to_owned(),
            format: LogFormat::Text,
        };
        let _guard = init(&log);
        let text = logged(INFO, LogFormat::Text, false, || {
            let _ = panic::catch_unwind(|| panic!("first\n  second {}", 3));
            let _ = panic::catch_unwind(|| panic!("constant"));
        });
        let _ = panic::take_hook();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].contains("panic, which is a bug: first second 3 location="),
            "{text}"
        );
        assert!(lines[0].contains("src/telemetry/logs.rs:"), "{text}");
        assert!(lines[1].contains("constant"), "{text}");
    }
}
