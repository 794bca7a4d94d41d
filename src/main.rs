//! Parses the arguments, runs the task that they name, and returns the exit code.

use std::process::ExitCode;

use endpoint_copier_operator::{cli, inspect, run, telemetry};

fn main() -> ExitCode {
    let cli::Invocation {
        task,
        config,
        warnings,
    } = match cli::parse(std::env::args_os(), |name| std::env::var(name).ok()) {
        Ok(invocation) => invocation,
        Err(cli::Exit { code: 0, text }) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(cli::Exit { code, text }) => {
            eprint!("{text}");
            return ExitCode::from(code);
        }
    };
    let _last_lines = telemetry::logs::init(&config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    // One thread serves hundreds of Services in a few milliseconds, and needs the least memory.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::from(1);
        }
    };
    let code = match task {
        cli::Task::Run => runtime.block_on(run::run(config)).map_or_else(
            |error| {
                tracing::error!("{error}");
                error.exit_code()
            },
            |()| 0,
        ),
        cli::Task::Inspect { what, format } => {
            exit_code(runtime.block_on(inspect::inspect(&config, what, format)))
        }
        cli::Task::Doctor { format } => exit_code(runtime.block_on(inspect::doctor(&config, format))),
        cli::Task::Wait { service, limit } => {
            exit_code(runtime.block_on(inspect::wait(&config, &service, limit)))
        }
    };
    // Work that is still running, such as a name lookup, must not delay the exit.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Returns the exit code of a command that only reads.
fn exit_code(result: Result<bool, inspect::Error>) -> u8 {
    match result {
        Ok(is_good) => u8::from(!is_good),
        Err(error) => {
            eprintln!("{}: {error}", env!("CARGO_PKG_NAME"));
            2
        }
    }
}
