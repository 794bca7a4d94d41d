//! What a test's own thread logs.

use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Level};

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

/// From now on, until the guard is dropped, everything at info and above.
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
    /// Level, message and fields of each event.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().clone()).expect("text");
        text.lines().map(|line| line.trim().to_owned()).collect()
    }
}

/// While one thread alone listens, what another logs for the first time is taken for something that nobody wants to hear, for
/// ever. With a second subscriber around, even one that is nobody's, all are asked.
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
