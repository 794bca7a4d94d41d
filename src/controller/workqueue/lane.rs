//! The lanes of the queue.

use endpoint_copier_core::model::Priority;

/// The lane of a key. It decides when the key is served, and how many keys of the lane are in progress at the same
/// time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Flagged,
    ApiServers,
    Normal,
    /// Keys whose last sync failed because the API server was unavailable.
    Failing,
}

impl Lane {
    /// All lanes, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Flagged, Self::ApiServers, Self::Normal, Self::Failing];

    /// Returns all lanes in the order in which they are served while this many failing keys are in progress. One
    /// failing key comes before the normal keys. Otherwise, failing keys would never get a turn while there are enough
    /// normal keys.
    pub fn in_order(failing: usize) -> [Self; 4] {
        if failing == 0 {
            [Self::Flagged, Self::ApiServers, Self::Failing, Self::Normal]
        } else {
            Self::ALL
        }
    }

    /// Whether the lane has slots that no other lane gets.
    pub fn is_reserved(self) -> bool {
        matches!(self, Self::Flagged | Self::ApiServers)
    }

    /// Returns the lane of a key. `failed` says whether its last sync failed because the API server was unavailable.
    /// Keys with reserved slots keep their lane even then.
    pub fn of(priority: Priority, failed: bool) -> Self {
        match priority {
            Priority::Flagged => Self::Flagged,
            Priority::ApiServers => Self::ApiServers,
            Priority::Other if failed => Self::Failing,
            Priority::Other => Self::Normal,
        }
    }
}
