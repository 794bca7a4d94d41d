//! The signals that end a program of this package.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

/// Runs a program until it ends, or until SIGTERM, SIGINT or SIGHUP. In each case, the handles of its child processes
/// and networks are dropped, which ends them. Exit code 1 means that the program failed.
pub async fn run_until_signal(name: &str, program: impl Future<Output = bool>) -> ExitCode {
    let signals = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ]
    .map(signal);
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = signals else {
        eprintln!("{name}: cannot wait for signals");
        return ExitCode::FAILURE;
    };
    tokio::select! {
        good = program => if good { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        _ = terminate.recv() => ExitCode::from(143),
        _ = interrupt.recv() => ExitCode::from(130),
        _ = hangup.recv() => ExitCode::from(129),
    }
}
