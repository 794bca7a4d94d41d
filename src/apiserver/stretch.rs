//! Stretches the time limits for API servers, because a slow server is not a dead one.
//!
//! If a limit is shorter than the round trip to every server, the operator cannot work. If it suits the slowest
//! network, the operator is slow to leave a dead server. So the limits start short, and double while no server answers
//! within them. This module is pure: callers report what happened.

use std::collections::HashSet;
use std::time::Duration;

use crate::config::ServerAddress;
use crate::timing::{LARGEST_STRETCH, READ_SILENCE, STRETCHED_LIMIT};

/// If a timer is late by more than this, this process was suspended, and the timeout says nothing about a server.
const SUSPENSION: Duration = Duration::from_millis(250);

/// The factor by which limits are stretched: a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Factor(u32);

impl Factor {
    /// Limits are not stretched.
    pub const NONE: Self = Self(1);

    /// Stretches a limit, to at most 10 s.
    pub fn of(self, limit: Duration) -> Duration {
        limit.saturating_mul(self.0).min(STRETCHED_LIMIT)
    }
}

/// The current factor, and the failures since a server last answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Stretch {
    factor: Factor,
    /// The addresses that have failed in any way since a server last answered a request, or since the limits last
    /// doubled.
    failed: HashSet<ServerAddress>,
}

impl Default for Factor {
    fn default() -> Self {
        Self::NONE
    }
}

impl Stretch {
    /// Returns the factor for the limits of a dial or request that starts now.
    pub fn factor(&self) -> Factor {
        self.factor
    }

    /// Records that a server answered a request after `took`, with any status. Limits are halved as long as the
    /// response would have met the halved [`READ_SILENCE`].
    pub fn answered(&mut self, took: Duration) {
        self.failed.clear();
        while self.factor > Factor::NONE && took <= Factor(self.factor.0 / 2).of(READ_SILENCE) {
            self.factor = Factor(self.factor.0 / 2);
        }
    }

    /// Records that an address failed: for example, it refused a connection, broke off a response, or was silent.
    pub fn failed(&mut self, address: &ServerAddress) {
        self.failed.insert(address.clone());
    }

    /// Records that an address exceeded a limit that was stretched by `factor`; the timer fired `late` after that
    /// limit. When `all` addresses have failed, the limits double. Several clients may time out at the same time, so a
    /// timeout under a smaller factor than the current one does not count. A timeout that shows a suspension does not
    /// count either.
    pub fn timed_out<'a>(
        &mut self,
        address: &ServerAddress,
        factor: Factor,
        late: Duration,
        mut all: impl Iterator<Item = &'a ServerAddress>,
    ) {
        self.failed(address);
        let counts = factor >= self.factor && late <= SUSPENSION;
        if counts && all.all(|address| self.failed.contains(address)) {
            self.factor = Factor((self.factor.0 * 2).min(LARGEST_STRETCH));
            self.failed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Duration = Duration::from_secs(1);
    /// Within the current limits, but too late for shorter ones.
    const IN_TIME: Duration = Duration::from_millis(700);

    fn addresses() -> [ServerAddress; 2] {
        ["192.0.2.1", "192.0.2.2"].map(|host| ServerAddress::new(host, 6443))
    }

    /// Both servers exceed the current limits.
    fn silence(stretch: &mut Stretch) {
        let (all, factor) = (addresses(), stretch.factor());
        for address in &all {
            stretch.timed_out(address, factor, Duration::ZERO, all.iter());
        }
    }

    /// Rule: survive.api-servers-slow
    #[test]
    fn limits_double_up_to_ten_seconds_while_no_server_answers() {
        let mut stretch = Stretch::default();
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert_eq!(stretch.factor().of(PING), Duration::from_secs(seconds));
            silence(&mut stretch);
        }
        assert_eq!(stretch.factor().of(READ_SILENCE), Duration::from_millis(9_600));
    }

    /// Rule: survive.api-servers-slow
    #[test]
    fn limits_stay_while_another_server_answers() {
        let (mut stretch, [first, second]) = (Stretch::default(), addresses());
        for _ in 0..10 {
            for address in [&first, &second] {
                stretch.timed_out(address, stretch.factor(), Duration::ZERO, addresses().iter());
                stretch.answered(IN_TIME);
            }
        }
        assert_eq!(stretch.factor(), Factor::NONE);
    }

    #[test]
    fn limits_stay_while_servers_only_refuse() {
        let (mut stretch, [first, second]) = (Stretch::default(), addresses());
        stretch.failed(&first);
        stretch.failed(&second);
        assert_eq!(stretch.factor(), Factor::NONE);
        stretch.timed_out(&second, Factor::NONE, Duration::ZERO, addresses().iter());
        assert!(
            stretch.factor() > Factor::NONE,
            "the limits did not change although the only reachable server is slow"
        );
    }

    #[test]
    fn a_timeout_of_several_clients_doubles_the_limits_once() {
        let mut stretch = Stretch::default();
        silence(&mut stretch);
        for address in &addresses() {
            stretch.timed_out(address, Factor::NONE, Duration::ZERO, addresses().iter());
        }
        assert_eq!(stretch.factor().of(PING), Duration::from_secs(2));
    }

    #[test]
    fn a_timeout_during_a_suspension_stretches_nothing() {
        let (mut stretch, [first, _]) = (Stretch::default(), addresses());
        let late = Duration::from_secs(20);
        stretch.timed_out(&first, Factor::NONE, late, [&first].into_iter());
        assert_eq!(stretch.factor(), Factor::NONE);
    }

    /// Rule: survive.api-servers-slow
    #[test]
    fn answer_shrinks_limits_to_what_it_would_have_met() {
        for (took, seconds) in [(5, 1), (600, 1), (601, 2), (1_200, 2), (2_400, 4), (9_000, 8)] {
            let mut stretch = Stretch::default();
            for _ in 0..3 {
                silence(&mut stretch);
            }
            stretch.answered(Duration::from_millis(took));
            assert_eq!(
                stretch.factor().of(PING),
                Duration::from_secs(seconds),
                "{took} ms"
            );
        }
    }
}
