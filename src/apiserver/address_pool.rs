//! The addresses that lead to the API, and the order in which to try them.
//!
//! This module is pure: the current time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::stretch::{Factor, Stretch};
use crate::config::ServerAddress;
use crate::timing::{BEHIND_EJECTION, EJECTION, MAX_EJECTION};
use endpoint_copier_core::verdicts::Unhealthy;

/// The maximum number of learned addresses. A cluster usually has fewer API servers. A longer list is probably a
/// mistake or an attack, and the rest of it is not learned.
const MAX_LEARNED: usize = 16;

/// The known addresses of the API servers of one cluster, their recent failures, and which of them are unhealthy.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressPool {
    /// The configured addresses, in the preferred order.
    fixed: Vec<ServerAddress>,
    /// The number of configured addresses that come before the learned ones. The other configured addresses come after
    /// the learned ones.
    pub first: usize,
    /// The addresses that the cluster lists: the more trusted group, and the others.
    learned: [Vec<ServerAddress>; 2],
    ejections: HashMap<ServerAddress, Ejection>,
    /// The addresses that probes find unhealthy.
    unhealthy: watch::Sender<BTreeMap<ServerAddress, Unhealthy>>,
    pub stretch: Stretch,
    /// The position at which this process starts in each learned group, so that replicas spread over the servers.
    turn: usize,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    until: Instant,
    failures: u32,
}

impl AddressPool {
    pub fn new(fixed: Vec<ServerAddress>, turn: usize) -> Self {
        let mut pool = Self {
            turn,
            ..Self::default()
        };
        for address in fixed {
            if !pool.fixed.contains(&address) {
                pool.fixed.push(address);
            }
        }
        pool.first = pool.fixed.len();
        pool
    }

    /// Replaces the addresses that probes find unhealthy. They are tried last. While some learned addresses are
    /// unhealthy and others are not, the configured addresses that come after the learned ones count as unhealthy too,
    /// unless they are learned themselves: a cluster IP may lead to an unhealthy server.
    pub fn set_unhealthy(&self, mut unhealthy: BTreeMap<ServerAddress, Unhealthy>) {
        let learned: BTreeSet<_> = self.learned.iter().flatten().collect();
        let affected: Vec<_> = learned
            .iter()
            .filter_map(|it| unhealthy.get(*it).copied())
            .collect();
        if affected.len() < learned.len()
            && let Some(worst) = affected.into_iter().max()
        {
            let last = self.last();
            unhealthy.extend(last.map(|address| (address.clone(), worst)));
        }
        self.unhealthy.send_replace(unhealthy);
    }

    /// Returns a receiver of the addresses that probes find unhealthy. Clones of a pool share these addresses.
    pub fn unhealthy(&self) -> watch::Receiver<BTreeMap<ServerAddress, Unhealthy>> {
        self.unhealthy.subscribe()
    }

    /// Whether this address was configured, not only learned.
    pub fn is_fixed(&self, address: &ServerAddress) -> bool {
        self.fixed.contains(address)
    }

    /// Replaces the learned addresses; the more trusted group comes first. If both groups are empty, nothing changes:
    /// either nothing has been listed yet, or a server has sent an empty list, and at least that server exists.
    pub fn learn(&mut self, [mut trusted, mut others]: [Vec<ServerAddress>; 2]) {
        others.retain(|address| !trusted.contains(address));
        trusted.truncate(MAX_LEARNED);
        others.truncate(MAX_LEARNED - trusted.len());
        if trusted.is_empty() && others.is_empty() {
            return;
        }
        self.learned = [trusted, others];
        let (fixed, [trusted, others]) = (&self.fixed, &self.learned);
        let known = fixed.iter().chain(trusted).chain(others);
        self.ejections
            .retain(|address, _| known.clone().any(|known| known == address));
    }

    /// Returns all addresses, in the order in which to try them. Those that failed recently, or that probes find
    /// unhealthy, come last.
    pub fn order(&self, now: Instant) -> Vec<ServerAddress> {
        let first = &self.fixed[..self.first];
        let learned = self.learned.iter().flat_map(|group| {
            let (behind, ahead) = group.split_at(self.turn % group.len().max(1));
            ahead.iter().chain(behind)
        });
        let learned = learned.filter(|address| !first.contains(address));
        let mut all: Vec<_> = first.iter().chain(learned).chain(self.last()).cloned().collect();
        all.sort_by_key(|address| (self.is_unhealthy(address), self.skipped_until(address, now)));
        all
    }

    /// The configured addresses that come after the learned ones, and are not learned themselves.
    fn last(&self) -> impl Iterator<Item = &ServerAddress> {
        let last = self.fixed[self.first..].iter();
        last.filter(|address| !self.learned.iter().any(|group| group.contains(address)))
    }

    fn is_unhealthy(&self, address: &ServerAddress) -> bool {
        self.unhealthy.borrow().contains_key(address)
    }

    /// The end of the ejection of an address, or `None` if the address is not ejected because of a failure.
    fn skipped_until(&self, address: &ServerAddress, now: Instant) -> Option<Instant> {
        let mark = self.ejections.get(address)?;
        Some(mark.until).filter(|until| now < *until)
    }

    /// Whether another address comes first in the order.
    pub fn has_better(&self, address: &ServerAddress, now: Instant) -> bool {
        self.order(now).first().is_some_and(|best| best != address)
    }

    /// Whether there is another address that is neither ejected because of a failure nor unhealthy.
    pub fn has_other(&self, address: &ServerAddress, now: Instant) -> bool {
        let order = self.order(now);
        order
            .iter()
            .any(|other| other != address && !self.is_ejected(other, now))
    }

    /// Whether this address failed recently, or probes find it unhealthy.
    pub fn is_ejected(&self, address: &ServerAddress, now: Instant) -> bool {
        self.is_unhealthy(address) || self.skipped_until(address, now).is_some()
    }

    /// Whether no address is ejected because of a failure.
    pub fn is_clear(&self, now: Instant) -> bool {
        self.ejections.values().all(|mark| now >= mark.until)
    }

    /// Records that the watches of the server at this address are behind.
    pub fn eject_stale(&mut self, address: &ServerAddress, now: Instant) {
        self.failed(address, now);
        if let Some(mark) = self.ejections.get_mut(address) {
            mark.until = mark.until.max(now + BEHIND_EJECTION);
        }
    }

    /// Records that a dial or a request to this address exceeded a limit that was stretched by `factor`. The timer
    /// fired `late` after that limit.
    pub fn timed_out(&mut self, address: &ServerAddress, factor: Factor, late: Duration, now: Instant) {
        self.failed(address, now);
        let all = self.fixed.iter().chain(self.learned.iter().flatten());
        self.stretch.timed_out(address, factor, late, all);
    }

    /// Records that a dial or a request to this address failed.
    pub fn failed(&mut self, address: &ServerAddress, now: Instant) {
        self.stretch.failed(address);
        // A failure from long ago does not count.
        let before = self.ejections.get(address);
        let before = before.filter(|mark| now < mark.until + MAX_EJECTION);
        // Several clients may report the same failure. A failure after the ejection shows that the address still fails.
        let failures = match before {
            Some(mark) if now < mark.until => mark.failures,
            _ => before.map_or(0, |mark| mark.failures) + 1,
        };
        let skip = EJECTION
            .saturating_mul(2_u32.saturating_pow(failures - 1))
            .min(MAX_EJECTION);
        let until = before.map_or(now, |mark| mark.until).max(now + skip);
        self.ejections
            .insert(address.clone(), Ejection { until, failures });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> ServerAddress {
        ServerAddress::new(&format!("10.0.0.{number}"), 6443)
    }

    fn unhealthy(suspected: &[u8], down: &[u8]) -> BTreeMap<ServerAddress, Unhealthy> {
        let all = |numbers: &[u8], why| numbers.iter().map(|it| (address(*it), why)).collect::<Vec<_>>();
        let suspected = all(suspected, Unhealthy::Suspected);
        suspected.into_iter().chain(all(down, Unhealthy::Down)).collect()
    }

    fn order(pool: &AddressPool, now: Instant) -> Vec<u8> {
        let last =
            |address: &ServerAddress| address.host.rsplit('.').next().and_then(|last| last.parse().ok());
        pool.order(now).iter().filter_map(last).collect()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn configured_addresses_come_before_learned_ones_and_each_once() {
        let mut pool = AddressPool::new(vec![address(9), address(1), address(9)], 0);
        pool.learn([vec![address(1), address(2), address(3)], Vec::new()]);
        assert_eq!(order(&pool, Instant::now()), [9, 1, 2, 3]);
    }

    /// Rule: 7.learned-first
    #[test]
    fn learned_addresses_come_before_the_last_configured_ones() {
        for (first, wanted) in [(0, [1, 2, 9, 8]), (1, [8, 1, 2, 9]), (2, [8, 9, 1, 2])] {
            let mut pool = AddressPool::new(vec![address(8), address(9)], 0);
            pool.first = first;
            pool.learn([vec![address(1), address(2), address(9)], Vec::new()]);
            assert_eq!(order(&pool, Instant::now()), wanted);
        }
    }

    /// Rule: 7.own-connections
    #[test]
    fn unhealthy_address_comes_last_until_it_is_well() {
        let (mut pool, now) = (AddressPool::new(vec![address(1), address(2)], 0), Instant::now());
        pool.failed(&address(2), now);
        pool.set_unhealthy(unhealthy(&[1], &[]));
        assert_eq!(order(&pool, now), [2, 1]);
        assert!(!pool.has_other(&address(2), now));
        pool.set_unhealthy(BTreeMap::new());
        assert_eq!(order(&pool, now), [1, 2]);
    }

    /// Rule: 7.own-connections
    #[test]
    fn cluster_ip_is_unhealthy_if_only_some_learned_addresses_are() {
        let (mut pool, now) = (AddressPool::new(vec![address(9), address(2)], 0), Instant::now());
        pool.first = 0;
        let cluster_ip = |pool: &AddressPool, suspected: &[u8], down: &[u8]| {
            pool.set_unhealthy(unhealthy(suspected, down));
            let is_left = pool.unhealthy().borrow().get(&address(9)) == Some(&Unhealthy::Down);
            (pool.is_ejected(&address(9), now), is_left)
        };
        assert_eq!(
            cluster_ip(&pool, &[], &[1]),
            (false, false),
            "unhealthy although no address is learned"
        );
        pool.learn([vec![address(1), address(2)], Vec::new()]);
        assert_eq!(cluster_ip(&pool, &[1], &[]), (true, false));
        assert_eq!(cluster_ip(&pool, &[], &[1]), (true, true));
        assert!(
            !pool.is_ejected(&address(2), now),
            "a healthy learned address was ejected"
        );
        assert_eq!(cluster_ip(&pool, &[], &[1, 2]), (false, false));
        assert_eq!(cluster_ip(&pool, &[2], &[1]), (false, false));
        assert_eq!(
            cluster_ip(&pool, &[], &[3]),
            (false, false),
            "unhealthy because of an unknown address"
        );
        assert_eq!(cluster_ip(&pool, &[], &[]), (false, false));
        pool.first = 1;
        assert_eq!(
            cluster_ip(&pool, &[], &[1]),
            (false, false),
            "unhealthy although it comes before the learned ones"
        );
    }

    #[test]
    fn replicas_begin_at_different_learned_addresses() {
        for (turn, wanted) in [(0, [9, 1, 2, 3]), (1, [9, 2, 3, 1]), (5, [9, 3, 1, 2])] {
            let mut pool = AddressPool::new(vec![address(9)], turn);
            pool.learn([vec![address(1), address(2), address(3)], Vec::new()]);
            assert_eq!(order(&pool, Instant::now()), wanted);
        }
    }

    #[test]
    fn dead_address_is_skipped_and_then_first_again() {
        let (mut pool, now) = (AddressPool::new(vec![address(1), address(2)], 0), Instant::now());
        pool.failed(&address(1), now);
        assert_eq!(order(&pool, now + seconds(9)), [2, 1]);
        assert_eq!(order(&pool, now + seconds(10)), [1, 2]);
    }

    #[test]
    fn address_that_fails_again_is_skipped_longer_until_it_recovers() {
        let (mut pool, mut now) = (AddressPool::new(vec![address(1), address(2)], 0), Instant::now());
        for skip in [10, 20, 40, 80, 160, 160] {
            pool.failed(&address(1), now);
            pool.failed(&address(1), now);
            assert!(!pool.has_better(&address(2), now + seconds(skip - 1)));
            now += seconds(skip);
            assert!(pool.has_better(&address(2), now));
        }
        now += MAX_EJECTION;
        pool.failed(&address(1), now);
        assert_eq!(order(&pool, now + seconds(10)), [1, 2]);
    }

    #[test]
    fn failure_of_a_skipped_address_extends_the_skip() {
        let (mut pool, now) = (AddressPool::new(vec![address(1), address(2)], 0), Instant::now());
        pool.failed(&address(1), now);
        pool.failed(&address(1), now + seconds(6));
        assert_eq!(order(&pool, now + seconds(15)), [2, 1]);
        assert_eq!(order(&pool, now + seconds(16)), [1, 2]);
    }

    #[test]
    fn an_address_that_is_behind_is_skipped_for_a_minute() {
        for fails_too in [false, true] {
            let (mut pool, now) = (AddressPool::new(vec![address(1), address(2)], 0), Instant::now());
            if fails_too {
                pool.failed(&address(1), now);
            }
            pool.eject_stale(&address(1), now);
            assert_eq!(order(&pool, now + seconds(59)), [2, 1]);
            assert_eq!(order(&pool, now + seconds(60)), [1, 2]);
        }
    }

    #[test]
    fn the_pool_is_clear_when_no_address_is_skipped() {
        let (mut pool, now) = (AddressPool::new(vec![address(1), address(2)], 0), Instant::now());
        assert!(pool.is_clear(now));
        pool.failed(&address(1), now);
        assert!(!pool.is_clear(now + seconds(9)));
        assert!(pool.is_clear(now + seconds(10)));
    }

    /// Rule: survive.api-servers-learned
    #[test]
    fn sixteen_addresses_of_a_long_list_are_learned() {
        let mut pool = AddressPool::new(vec![address(200)], 0);
        pool.learn([(1..=100).map(address).collect(), vec![address(101)]]);
        let wanted: Vec<u8> = std::iter::once(200).chain(1..=16).collect();
        assert_eq!(order(&pool, Instant::now()), wanted);
    }

    /// Rule: survive.api-servers-learned
    #[test]
    fn trusted_addresses_come_before_other_learned_ones() {
        for turn in 0..20 {
            let mut pool = AddressPool::new(vec![address(200)], turn);
            let others = (1..=100).map(address).collect();
            pool.learn([vec![address(101), address(50)], others]);
            let order = order(&pool, Instant::now());
            let mut trusted = order[1..3].to_vec();
            trusted.sort_unstable();
            assert_eq!((trusted, order.len()), (vec![50, 101], 17));
        }
    }

    #[test]
    fn if_all_failed_the_address_that_failed_first_comes_first() {
        let (mut pool, now) = (AddressPool::new(vec![address(1), address(2)], 0), Instant::now());
        pool.failed(&address(2), now);
        assert!(!pool.has_other(&address(1), now));
        pool.failed(&address(1), now + seconds(1));
        assert_eq!(order(&pool, now + seconds(2)), [2, 1]);
    }

    #[test]
    fn empty_list_is_not_learned_and_removed_address_is_forgotten() {
        let (mut pool, now) = (AddressPool::new(vec![address(9)], 0), Instant::now());
        pool.learn([vec![address(1), address(2)], Vec::new()]);
        pool.learn([Vec::new(), Vec::new()]);
        assert_eq!(order(&pool, now), [9, 1, 2]);
        pool.failed(&address(1), now);
        pool.learn([vec![address(2)], Vec::new()]);
        pool.learn([vec![address(1), address(2)], Vec::new()]);
        assert_eq!(
            order(&pool, now),
            [9, 1, 2],
            "an address that was removed and learned again is still ejected"
        );
    }
}
