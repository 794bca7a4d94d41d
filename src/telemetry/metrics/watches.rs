//! How old the view of the cluster is, by the signs of life of the watches.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use super::page::{header, unix};
use endpoint_copier_core::model::WatchKind;

/// When each watch that runs showed life last.
type Life = dyn Fn() -> BTreeMap<&'static str, SystemTime> + Send + Sync;

/// The watches, once somebody has said where to ask about them.
#[derive(Default)]
pub(super) struct WatchMetrics(OnceLock<(Duration, Box<Life>)>);

impl WatchMetrics {
    /// Where to ask, and how old a sign of life may be. The first one counts.
    pub fn read(&self, limit: Duration, life: Box<Life>) {
        _ = self.0.set((limit, life));
    }

    /// Adds their lines. Answers for how long nobody has known whether anything is in sync: a watch that copies are made
    /// from has shown no life since then.
    pub fn render(&self, text: &mut String) -> Option<Duration> {
        const LAST_EVENT: &str = "endpoint_copier_watch_last_event_timestamp_seconds";
        let (limit, life) = self.0.get()?;
        let life = life();
        if !life.is_empty() {
            header(
                text,
                LAST_EVENT,
                "When a watch last showed life, as Unix time: an event, or the answer to its renewal, which is due \
                 every 25 s. Of several for one resource, the one that is silent longest. Older than 90 s: what it \
                 shows is stale, and the replica is not ready.",
            );
        }
        for (resource, moment) in &life {
            _ = writeln!(text, "{LAST_EVENT}{{resource=\"{resource}\"}} {}", unix(*moment));
        }
        let view = WatchKind::VIEW.iter().filter_map(|watch| life.get(watch));
        let silence = view.min()?.elapsed().unwrap_or_default();
        (silence > *limit).then_some(silence)
    }
}
