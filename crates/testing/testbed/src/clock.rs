//! The clock of the server: wall time that advances with Tokio's clock, so it stops while that clock is paused.

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A wall time and the instant at which it was current. All other times are relative to these two.
#[derive(Clone, Debug)]
pub struct Clock {
    wall: Timestamp,
    started: Instant,
}

impl Clock {
    /// A clock that starts at the current time.
    #[must_use]
    pub fn new() -> Self {
        Self {
            wall: Timestamp::now(),
            started: Instant::now(),
        }
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX);
        self.wall.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
    }

    /// The current time in the format of `metav1.Time`: whole seconds.
    #[must_use]
    pub fn seconds(&self) -> String {
        self.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a text is a `metav1.MicroTime`: RFC 3339 with exactly six digits after the point. The real server rejects
/// anything else with 400, even a time without a fraction.
#[must_use]
pub fn is_micro_time(text: &str) -> bool {
    let fraction = text.split_once('.').map_or("", |(_, rest)| rest);
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    digits == 6
        && text.as_bytes().get(10) == Some(&b'T')
        && (text.parse::<Timestamp>().is_ok() || is_beyond_jiff(text))
}

/// Whether a text is a time that Go can parse but jiff cannot, in the last hours of the year 9999.
#[must_use]
pub fn is_beyond_jiff(text: &str) -> bool {
    let civil = text
        .strip_suffix('Z')
        .and_then(|time| time.parse::<DateTime>().ok());
    civil.is_some() && text.parse::<Timestamp>().is_err()
}

#[cfg(test)]
mod tests {
    use super::is_micro_time;

    #[test]
    fn a_micro_time_has_six_digits() {
        assert!(is_micro_time("2020-01-01T00:00:00.000000Z"));
        assert!(is_micro_time("2020-01-01T00:00:00.123456+01:00"));
        assert!(is_micro_time("9999-12-31T23:59:59.999999Z"));
        for bad in [
            "2020-01-01T00:00:00Z",
            "2020-01-01T00:00:00.123Z",
            "2020-01-01 00:00",
            "",
            "x",
        ] {
            assert!(!is_micro_time(bad), "{bad}");
        }
    }
}
