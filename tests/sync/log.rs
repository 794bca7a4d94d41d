//! The log of the operator on the thread of a test.

use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Level};

#[derive(Clone)]
pub struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: Arc<DefaultGuard>,
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Records everything at info and above from now on.
    pub fn begin() -> Self {
        let text = Arc::default();
        let sink = Sink(Arc::clone(&text));
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::INFO)
            .with_writer(move || sink.clone())
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .finish();
        keep_callsites_enabled();
        let guard = Arc::new(tracing::subscriber::set_default(subscriber));
        Self { text, _guard: guard }
    }

    /// The logged lines that contain this text. A line has a level, a message and fields.
    pub fn lines(&self, words: &str) -> Vec<String> {
        let text = String::from_utf8(self.text.lock().clone()).expect("UTF-8");
        let lines = text.lines().filter(|line| line.contains(words));
        lines.map(|line| line.trim().to_owned()).collect()
    }
}

/// While only one subscriber exists, tracing permanently disables each callsite that a thread without a subscriber
/// reaches first. With a second subscriber, even an unused one, tracing asks all subscribers.
fn keep_callsites_enabled() {
    static ANOTHER: OnceLock<Dispatch> = OnceLock::new();
    ANOTHER.get_or_init(|| {
        let silent = tracing_subscriber::fmt().with_max_level(Level::INFO);
        Dispatch::new(silent.with_writer(io::sink).finish())
    });
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
