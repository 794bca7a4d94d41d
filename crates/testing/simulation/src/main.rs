//! `simulation --seeds 800 [--base SEED] [--jobs N]` runs many schedules. `simulation --seed SEED` runs one and prints
//! everything that happened. `simulation --json SEED` runs one schedule on behalf of the process that runs many.

use std::process::ExitCode;

use simulation::many::Many;
use simulation::run;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("the path of this program is unknown: {error}");
            return ExitCode::from(1);
        }
    };
    let mut many = Many::new(program);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
        let Some(value) = value else {
            eprintln!("{flag} needs a number");
            return ExitCode::from(2);
        };
        match flag.as_str() {
            "--seeds" => many.seeds = value,
            "--base" => many.base = value,
            "--jobs" => many.jobs = usize::try_from(value).unwrap_or(1).max(1),
            "--seed" => return one(value),
            "--json" => return json(value),
            _ => {
                eprintln!("unknown flag {flag}; the flags are --seeds, --base, --jobs and --seed");
                return ExitCode::from(2);
            }
        }
    }
    match many.run() {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(report) => {
            println!("{report}");
            ExitCode::from(1)
        }
    }
}

/// Runs one schedule and prints everything that happened.
fn one(seed: u64) -> ExitCode {
    let outcome = run::seed(seed);
    print!("{}", outcome.story);
    println!("requests: {:016x}", outcome.fingerprint);
    for violation in &outcome.violations {
        println!("FAILED: {violation}");
    }
    ExitCode::from(u8::from(!outcome.violations.is_empty()))
}

/// Runs one schedule and prints the outcome as JSON.
fn json(seed: u64) -> ExitCode {
    match serde_json::to_writer(std::io::stdout().lock(), &run::seed(seed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(1)
        }
    }
}
