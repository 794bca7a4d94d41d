//! Arguments in, exit code out.

use std::process::ExitCode;

use endpoint_copier_operator::{cli, run, telemetry};

fn main() -> ExitCode {
    let (config, warnings) = match cli::parse(std::env::args_os(), |name| std::env::var(name).ok()) {
        cli::Parsed::Run { config, warnings } => (*config, warnings),
        cli::Parsed::Exit { code: 0, text } => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        cli::Parsed::Exit { code, text } => {
            eprint!("{text}");
            return ExitCode::from(code);
        }
    };
    telemetry::init(&config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    // One thread serves hundreds of Services in a few milliseconds, and its memory is the smallest.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::from(1);
        }
    };
    let ended = runtime.block_on(run::run(config));
    // What still runs, a name look-up say, must not hold up the end.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
