//! Detects copies that something else keeps writing, such as a second installation of the operator.
//!
//! The operator does not yield: it immediately repairs what clients see, until it has written the same content
//! [`REPAIRS`] times in a row. In a contested copy, it repairs anything else at most once a minute, because two writers
//! would otherwise keep the API server and all readers of the copy busy.
//!
//! This module is pure: the current time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::attempts::content;
use crate::controller::refusals::{MAX_REFUSAL_PAUSE, REFUSAL_PAUSE};
use endpoint_copier_core::model::{EndpointSlice, Finding, Reason, ServiceKey, SliceKey, a_few, version_of};

/// The number of writes by others within [`WINDOW`] that make a copy contested.
const WRITES: usize = 3;
const WINDOW: Duration = Duration::from_secs(60);

/// The time between two repairs of a contested copy that change nothing for clients.
const BETWEEN_REPAIRS: Duration = Duration::from_secs(60);

/// A contest ends when others have not written the copy for this long. The operator notices a write by others only when
/// it repairs the copy, so this time is longer than [`BETWEEN_REPAIRS`].
const CONTEST_QUIET: Duration = Duration::from_secs(120);

/// The number of times in a row that the operator writes the same content into a slice that others keep changing,
/// before it pauses. No person makes this many changes less than a second apart, but a policy that changes each of our
/// writes reaches the limit within a second.
const REPAIRS: u32 = 30;

/// Writes are in a row if each follows the previous one within this time.
const MAX_GAP: Duration = Duration::from_secs(1);

/// The last write of each copy in this term, by Service.
#[derive(Debug, Default)]
pub(super) struct Contests(HashMap<ServiceKey, HashMap<SliceKey, WrittenCopy>>);

/// The last write of a copy.
#[derive(Debug)]
struct WrittenCopy {
    content: u64,
    version: Option<u64>,
    at: Instant,
    /// The number of writes of this content in a row.
    times: u32,
    /// The times of the last repairs of changes by others.
    repairs: Vec<Instant>,
    was_contested: bool,
}

impl WrittenCopy {
    /// Returns when the contest ends if others stay quiet, or `None` if there is no contest.
    fn contested_until(&self, now: Instant) -> Option<Instant> {
        let ends = *self.repairs.last()? + CONTEST_QUIET;
        (self.was_contested && now < ends).then_some(ends)
    }

    /// Returns the pause before the same content is written again: zero or, if others keep undoing the write, as long
    /// as the pause after a refusal.
    fn pause(&self) -> Duration {
        let superfluous = self.times.checked_sub(REPAIRS);
        superfluous.map_or(Duration::ZERO, |times| {
            REFUSAL_PAUSE
                .saturating_mul(2_u32.saturating_pow(times))
                .min(MAX_REFUSAL_PAUSE)
        })
    }
}

impl Contests {
    /// Whether a copy of a Service may be written now, although the write changes nothing for clients.
    pub fn may_repair(&self, service: &ServiceKey, copy: &SliceKey, now: Instant) -> bool {
        let written = self.0.get(service).and_then(|copies| copies.get(copy));
        written.is_none_or(|it| it.contested_until(now).is_none() || now >= it.at + BETWEEN_REPAIRS)
    }

    /// If a write must wait because others keep undoing it, returns when the wait ends, and the reason.
    pub fn waits(
        &self,
        service: &ServiceKey,
        copy: &EndpointSlice,
        now: Instant,
    ) -> Option<(Instant, String)> {
        let written = self.0.get(service)?.get(&copy.key())?;
        let until = written.at + written.pause();
        let waits = now < until && written.content == content(copy);
        waits.then(|| {
            let times = written.times;
            let why = format!(
                "the copy was written {times} times and changed back each time; find out what changes it"
            );
            (until, why)
        })
    }

    /// Records that a copy of a Service was written. `copy` has the resourceVersion of the slice that it replaced, or
    /// none if it was created; `version` is the new one.
    pub fn wrote(&mut self, service: &ServiceKey, copy: &EndpointSlice, version: Option<u64>, now: Instant) {
        let key = copy.key();
        let (replaced, content) = (version_of(&copy.metadata), content(copy));
        let copies = self.0.entry(service.clone()).or_default();
        let (mut repairs, mut was_contested, mut times) = (Vec::new(), false, 1);
        if let Some(before) = copies.remove(&key) {
            // Repairs that had to wait are further apart.
            if before.content == content && now < before.at + MAX_GAP.max(before.pause() * 2) {
                times += before.times;
            }
            was_contested = before.contested_until(now).is_some();
            repairs = before.repairs;
            // The content is the same as before, but it replaces something that the operator did not write.
            if before.content == content && before.version != replaced {
                repairs.retain(|at| now < *at + WINDOW);
                repairs.push(now);
            }
        }
        was_contested |= repairs.len() >= WRITES;
        let superfluous = repairs.len().saturating_sub(WRITES);
        repairs.drain(..superfluous);
        let written = WrittenCopy {
            content,
            version,
            at: now,
            times,
            repairs,
            was_contested,
        };
        copies.insert(key, written);
    }

    /// Whether a copy of a Service was written in this term.
    pub fn has_written(&self, service: &ServiceKey, copy: &SliceKey) -> bool {
        self.0
            .get(service)
            .is_some_and(|copies| copies.contains_key(copy))
    }

    /// Records that a slice was deleted on purpose, so that its next creation does not count as a repair.
    pub fn deleted(&mut self, service: &ServiceKey, slice: &SliceKey) {
        if let Some(copies) = self.0.get_mut(service) {
            copies.remove(slice);
        }
    }

    /// Forgets the copies of a Service that do not satisfy the predicate. Otherwise, a user who creates and deletes
    /// slices could fill the memory.
    pub fn retain(&mut self, service: &ServiceKey, is_kept: impl Fn(&SliceKey) -> bool) {
        if let Some(copies) = self.0.get_mut(service) {
            copies.retain(|copy, _| is_kept(copy));
            if copies.is_empty() {
                self.0.remove(service);
            }
        }
    }

    /// Returns the finding for a Service with contested copies, and the next time when a contest may end or a repair is
    /// due.
    pub fn finding(&self, service: &ServiceKey, now: Instant) -> Option<(Finding, Instant)> {
        let (mut names, mut next) = (Vec::new(), None::<Instant>);
        for (key, copy) in self.0.get(service)? {
            if let Some(ends) = copy.contested_until(now) {
                names.push(key.name());
                let due = [copy.at + BETWEEN_REPAIRS, ends];
                let due = due.into_iter().filter(|moment| now < *moment);
                next = next.into_iter().chain(due).min();
            }
        }
        let next = next?;
        names.sort_unstable();
        let note = format!(
            "something else writes copies of this Service, perhaps another installation of the operator, and this one repairs them each time. kubectl get leases --all-namespaces lists installations by their Leases, and kubectl get endpointslices --namespace {} --selector kubernetes.io/service-name={} --show-managed-fields --output yaml names the writers; copies: {}",
            service.namespace(),
            service.name(),
            a_few(names)
        );
        Some((Finding::new(Reason::OtherInstallation, note), next))
    }

    /// Forgets a Service that is neither managed nor disabled.
    pub fn gone(&mut self, service: &ServiceKey) {
        self.0.remove(service);
    }

    /// Forgets all writes at the end of a term, because another replica may write from now on.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use endpoint_copier_core::testing::{Build, BuildSlice, slice};

    const NAME: &str = "vip-mdxoxp2egu";

    fn vip() -> ServiceKey {
        ServiceKey::new("default", "vip")
    }

    fn copy() -> SliceKey {
        SliceKey::new("default", NAME)
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// The contests of one copy, whose resourceVersion grows with each write.
    struct Writes {
        contests: Contests,
        version: u64,
        now: Instant,
    }

    impl Writes {
        fn new() -> Self {
            let mut writes = Self {
                contests: Contests::default(),
                version: 100,
                now: Instant::now(),
            };
            writes.update("10.0.0.1");
            writes
        }

        /// Replaces the current version of the copy with one that has this address.
        fn update(&mut self, address: &str) {
            let sent = slice(NAME).endpoints([address]).version(self.version);
            self.version += 1;
            self.contests.wrote(&vip(), &sent, Some(self.version), self.now);
        }

        /// Lets somebody else write the copy, which is then repaired.
        fn repair(&mut self) {
            self.version += 1;
            self.update("10.0.0.1");
        }

        fn waits(&self, address: &str) -> bool {
            let copy = slice(NAME).endpoints([address]);
            self.contests.waits(&vip(), &copy, self.now).is_some()
        }

        fn is_contested(&self) -> bool {
            self.contests.finding(&vip(), self.now).is_some()
        }
    }

    /// Rule: 3.other-installation
    #[test]
    fn copy_is_contested_after_three_foreign_writes_in_a_minute() {
        for (apart, expected) in [(29, [false, false, true]), (31, [false; 3])] {
            let mut writes = Writes::new();
            for expected in expected {
                writes.now += seconds(apart);
                writes.repair();
                assert_eq!(writes.is_contested(), expected, "{apart} s apart");
            }
        }
    }

    /// Rule: 3.other-installation
    #[test]
    fn a_recreated_copy_counts_unless_the_operator_deleted_it() {
        for (is_ours, expected) in [(false, true), (true, false)] {
            let mut writes = Writes::new();
            for _ in 0..WRITES {
                if is_ours {
                    writes.contests.deleted(&vip(), &copy());
                }
                let mut created = slice(NAME).endpoints(["10.0.0.1"]);
                created.metadata.resource_version = None;
                writes.version += 2;
                writes
                    .contests
                    .wrote(&vip(), &created, Some(writes.version), writes.now);
            }
            assert_eq!(writes.is_contested(), expected);
        }
    }

    #[test]
    fn changes_of_the_source_and_own_writes_are_no_contest() {
        let mut writes = Writes::new();
        for number in 0..9 {
            // Somebody adds a label after each change.
            writes.version += 1;
            writes.update(&format!("10.0.1.{number}"));
        }
        for _ in 0..9 {
            // Only the trigger time is new.
            writes.update("10.0.1.8");
        }
        assert!(!writes.is_contested());
    }

    /// Rule: 3.other-installation
    #[test]
    fn contested_copy_is_repaired_once_a_minute_until_quiet() {
        let mut writes = Writes::new();
        for _ in 0..WRITES {
            assert!(writes.contests.may_repair(&vip(), &copy(), writes.now));
            writes.repair();
        }
        for _ in 0..5 {
            let next = writes.contests.finding(&vip(), writes.now).expect("a finding").1;
            assert_eq!(next, writes.now + BETWEEN_REPAIRS);
            assert!(
                !writes
                    .contests
                    .may_repair(&vip(), &copy(), next - Duration::from_millis(1))
            );
            assert!(writes.contests.may_repair(&vip(), &copy(), next));
            writes.now = next;
            writes.repair();
        }
        writes.now += BETWEEN_REPAIRS;
        let (_, ends) = writes.contests.finding(&vip(), writes.now).expect("a finding");
        writes.now = ends;
        assert!(!writes.is_contested());
        writes.repair();
        assert!(writes.contests.may_repair(&vip(), &copy(), writes.now));
    }

    #[test]
    fn a_write_that_is_undone_repeatedly_waits() {
        let mut writes = Writes::new();
        for _ in 1..REPAIRS {
            assert!(!writes.waits("10.0.0.1"));
            writes.now += Duration::from_millis(50);
            writes.repair();
        }
        let copy = slice(NAME).endpoints(["10.0.0.1"]);
        let (_, why) = writes.contests.waits(&vip(), &copy, writes.now).unwrap();
        assert!(why.contains("changed back"), "{why}");
        for wait in [5, 10, 20, 30, 30] {
            writes.now += seconds(wait - 1);
            assert!(writes.waits("10.0.0.1"), "before {wait} s");
            assert!(
                !writes.waits("10.0.0.2"),
                "a write for another state of the source should not wait"
            );
            writes.now += seconds(1);
            assert!(!writes.waits("10.0.0.1"), "after {wait} s");
            writes.repair();
        }
    }

    #[test]
    fn repairs_a_second_apart_do_not_wait() {
        let mut writes = Writes::new();
        for _ in 0..100 {
            writes.now += seconds(1);
            assert!(!writes.waits("10.0.0.1"));
            writes.repair();
        }
    }

    #[test]
    fn note_names_the_copies_and_fits_into_an_event() {
        let mut writes = Writes::new();
        (0..WRITES).for_each(|_| writes.repair());
        let (finding, _) = writes.contests.finding(&vip(), writes.now).expect("a finding");
        assert!(
            finding.note.ends_with(NAME) && finding.note.len() < 700,
            "{finding:?}"
        );
    }

    /// Rule: survive.memory
    #[test]
    fn copies_that_no_longer_exist_are_forgotten() {
        let mut writes = Writes::new();
        for number in 0..9 {
            let other = slice(&format!("vip-mdxoxp2eg{number}")).endpoints(["10.0.0.1"]);
            writes.contests.wrote(&vip(), &other, Some(1), writes.now);
        }
        writes.contests.retain(&vip(), |key| *key == copy());
        assert_eq!(writes.contests.0[&vip()].len(), 1);
        writes.contests.retain(&vip(), |_| false);
        assert!(writes.contests.0.is_empty());
    }

    /// Rule: survive.memory
    #[test]
    fn writes_of_a_service_or_term_that_ended_are_forgotten() {
        let mut writes = Writes::new();
        writes.contests.gone(&vip());
        assert!(writes.contests.0.is_empty());
        writes.update("10.0.0.1");
        writes.contests.forget();
        assert!(writes.contests.0.is_empty());
    }
}
