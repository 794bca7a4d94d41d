//! How far the time limits for API servers are stretched: slow is not dead.
//!
//! A limit that is shorter than the way to every server makes the operator useless, and one that suits the slowest
//! network makes it slow to leave a dead server. So the limits begin short, and double while no server answers within
//! them. Pure: what happened goes in.

use std::collections::HashSet;
use std::time::Duration;

use crate::cli::ServerAddress;

/// No limit is stretched beyond this.
const LONGEST: Duration = Duration::from_secs(10);

/// With this factor the shortest limit, [`ONE`], comes close to [`LONGEST`].
const LARGEST: u32 = 16;

/// One object takes an API server milliseconds: silence for so long counts against it, whoever gives up and why. Less
/// than the time limit of any call but a release, which is the last that a process sends.
///
/// An answer within this limit shrinks all of them. It takes one round trip and a dial takes two, so what suits this
/// limit suits that of a dial, which is more than twice as long, and that of a ping.
pub(super) const ONE: Duration = Duration::from_millis(600);

/// A timer that fires so late says that this process stood still, and nothing about a server.
const STOOD_STILL: Duration = Duration::from_millis(250);

/// How many times longer than usual a limit is: a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Factor(u32);

impl Factor {
    /// Limits as they are.
    pub const NONE: Self = Self(1);

    /// A limit, stretched to 10 s at most.
    pub fn of(self, limit: Duration) -> Duration {
        limit.saturating_mul(self.0).min(LONGEST)
    }
}

/// How far the limits are stretched now, and what was seen of the servers since one of them answered.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    factor: Factor,
    /// The addresses that have failed, in whatever way, since a server last answered a request.
    failed: HashSet<ServerAddress>,
}

impl Default for Stretch {
    fn default() -> Self {
        Self {
            factor: Factor::NONE,
            failed: HashSet::new(),
        }
    }
}

impl Stretch {
    /// What a dial or request that begins now multiplies its limits by.
    pub fn factor(&self) -> Factor {
        self.factor
    }

    /// A server answered a request after so long, whatever it said.
    pub fn answered(&mut self, took: Duration) {
        self.failed.clear();
        while self.factor > Factor::NONE && took <= Factor(self.factor.0 / 2).of(ONE) {
            self.factor = Factor(self.factor.0 / 2);
        }
    }

    /// An address failed: it refused, broke off, or was silent.
    pub fn failed(&mut self, address: &ServerAddress) {
        self.failed.insert(address.clone());
    }

    /// An address was silent for a limit that was stretched by `factor`; the timer fired so late. When `all` addresses
    /// have failed, the limits double. Several clients time out at one moment: a timeout under shorter limits than
    /// those of now does not count.
    pub fn timed_out<'a>(
        &mut self,
        address: &ServerAddress,
        factor: Factor,
        late: Duration,
        mut all: impl Iterator<Item = &'a ServerAddress>,
    ) {
        self.failed(address);
        let counts = factor >= self.factor && late <= STOOD_STILL;
        if counts && all.all(|address| self.failed.contains(address)) {
            self.factor = Factor((self.factor.0 * 2).min(LARGEST));
            self.failed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Duration = Duration::from_secs(1);
    /// In time, and too late for shorter limits.
    const IN_TIME: Duration = Duration::from_millis(700);

    fn addresses() -> [ServerAddress; 2] {
        ["192.0.2.1", "192.0.2.2"].map(|host| ServerAddress::new(host, 6443))
    }

    /// Both servers are silent for the limits of now.
    fn silence(stretch: &mut Stretch) {
        let (all, factor) = (addresses(), stretch.factor());
        for address in &all {
            stretch.timed_out(address, factor, Duration::ZERO, all.iter());
        }
    }

    #[test]
    fn limits_double_up_to_ten_seconds_while_no_server_answers() {
        let mut stretch = Stretch::default();
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert_eq!(stretch.factor().of(PING), Duration::from_secs(seconds));
            silence(&mut stretch);
        }
        assert_eq!(stretch.factor().of(ONE), Duration::from_millis(9_600));
    }

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
            "the only one that is there is slow"
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
    fn a_timeout_while_this_process_stood_still_stretches_nothing() {
        let (mut stretch, [first, _]) = (Stretch::default(), addresses());
        let late = Duration::from_secs(20);
        stretch.timed_out(&first, Factor::NONE, late, [&first].into_iter());
        assert_eq!(stretch.factor(), Factor::NONE);
    }

    #[test]
    fn an_answer_shrinks_the_limits_as_far_as_it_would_have_met_them() {
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
