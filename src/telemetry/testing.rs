//! Captures what the thread of a test logs.

use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Level};

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

/// Captures everything at info and above, from now until the guard is dropped.
pub(crate) fn logged() -> (Log, DefaultGuard) {
    let log = Log::default();
    let made = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::INFO)
        .with_writer(move || made.clone())
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .finish();
    hear_all_threads();
    let guard = tracing::subscriber::set_default(subscriber);
    (log, guard)
}

impl Log {
    /// Returns the level, message and fields of the events, one line for each event.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().clone()).expect("text");
        text.lines().map(|line| line.trim().to_owned()).collect()
    }
}

/// While only one thread has a subscriber, tracing disables a log line forever if another thread is the first to reach
/// it. With a second subscriber, even an unused one, tracing asks all subscribers each time.
fn hear_all_threads() {
    static ANOTHER: OnceLock<Dispatch> = OnceLock::new();
    ANOTHER.get_or_init(|| {
        let silent = tracing_subscriber::fmt().with_max_level(Level::INFO);
        Dispatch::new(silent.with_writer(io::sink).finish())
    });
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
