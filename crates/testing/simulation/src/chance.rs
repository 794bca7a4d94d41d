//! Random numbers that follow from a seed.

use std::time::Duration;

/// One step of `SplitMix64`.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of random numbers. Streams of one seed for different purposes are independent.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Creates the stream of a seed for a purpose.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut state = seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93);
        split_mix(&mut state);
        Self(state)
    }

    /// Any 64-bit number.
    pub fn number(&mut self) -> u64 {
        split_mix(&mut self.0)
    }

    /// A number less than `end`, which must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % u64::try_from(end).unwrap_or(1)).unwrap_or(0)
    }

    /// Returns `true` with this probability, in percent.
    pub fn percent(&mut self, times: u64) -> bool {
        self.number() % 100 < times
    }

    /// One of these values, of which there must be at least one.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// A duration in whole milliseconds from `from` to `to`, inclusive.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.number() % (to - from + 1))
    }
}
