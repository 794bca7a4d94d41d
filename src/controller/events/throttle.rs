//! Decides which Events to send about each Service: new findings immediately, lasting ones every half hour, and
//! `Synced` when a finding is resolved or the first copies exist. All of them are rate-limited.
//!
//! This module is pure: the current time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::controller::budget::{Budgets, SERVICE_REFILL};
use crate::timing::REPEAT_EVENT;
use endpoint_copier_core::model::{Finding, Reason, ServiceKey};

/// The pause before the next attempt to send Events that did not fit into the queue.
const FULL_QUEUE_PAUSE: Duration = Duration::from_secs(10);

/// The findings that were reported about each Service.
#[derive(Debug, Default)]
pub(super) struct EventThrottle {
    services: HashMap<ServiceKey, Reported>,
    budgets: Budgets<ServiceKey>,
}

/// The findings that were reported about a Service, and the times of the reports.
#[derive(Debug, Default)]
struct Reported {
    /// The UID of the Service. An Event is about one UID, so a Service that was deleted and created again gets its own
    /// Events.
    uid: String,
    findings: BTreeMap<Finding, Instant>,
    /// The reasons of the findings that were reported and still last. The note of a finding may have changed since.
    lasting: BTreeSet<Reason>,
    /// Whether a reported finding is resolved, or the first copies exist, and no Event has said so yet.
    owes_synced: bool,
}

/// The findings to report now, and the time of the next check.
#[derive(Debug, PartialEq)]
pub(super) struct Due {
    pub findings: Vec<Finding>,
    pub again: Option<Instant>,
}

impl EventThrottle {
    /// Returns at most `room` findings to report now, given the UID and all current findings of a Service. Due findings
    /// beyond `room` or the budget stay due.
    pub fn due(
        &mut self,
        service: &ServiceKey,
        uid: &str,
        findings: &BTreeSet<Finding>,
        room: usize,
        now: Instant,
    ) -> Due {
        let mut due = Due {
            findings: Vec::new(),
            again: None,
        };
        let reported = self.services.entry(service.clone()).or_default();
        if reported.uid != uid {
            uid.clone_into(&mut reported.uid);
            reported.findings.clear();
            reported.lasting.clear();
        }
        let before = reported.lasting.len();
        let lasts = |reason: &Reason| findings.iter().any(|finding| finding.reason == *reason);
        reported.lasting.retain(lasts);
        reported.owes_synced |= reported.lasting.len() < before;
        reported.findings.retain(|finding, _| findings.contains(finding));
        for finding in findings {
            let next = match reported.findings.get(finding).copied() {
                Some(last) if last + REPEAT_EVENT > now => last + REPEAT_EVENT,
                _ if due.findings.len() >= room => now + FULL_QUEUE_PAUSE,
                _ if self.budgets.spend(service.clone(), now) => {
                    reported.findings.insert(finding.clone(), now);
                    reported.lasting.insert(finding.reason);
                    due.findings.push(finding.clone());
                    now + REPEAT_EVENT
                }
                _ => now + SERVICE_REFILL,
            };
            due.again = Some(due.again.map_or(next, |again| again.min(next)));
        }
        self.drop_if_empty(service);
        due
    }

    fn drop_if_empty(&mut self, service: &ServiceKey) {
        let is_empty = |reported: &Reported| reported.lasting.is_empty() && !reported.owes_synced;
        if self.services.get(service).is_some_and(is_empty) {
            self.services.remove(service);
        }
    }

    /// Whether this finding was reported and still lasts.
    pub fn is_reported(&self, service: &ServiceKey, finding: &Finding) -> bool {
        let reported = self.services.get(service);
        reported.is_some_and(|reported| reported.findings.contains_key(finding))
    }

    /// Forgets the findings of a Service that is neither managed nor disabled. Its budget stays.
    pub fn gone(&mut self, service: &ServiceKey) {
        self.services.remove(service);
    }

    /// Makes a finding due again, because its Event could not be written.
    pub fn not_sent(&mut self, service: &ServiceKey, finding: &Finding) {
        if let Some(reported) = self.services.get_mut(service) {
            reported.findings.remove(finding);
            if !reported
                .findings
                .keys()
                .any(|other| other.reason == finding.reason)
            {
                reported.lasting.remove(&finding.reason);
            }
        }
    }

    /// Records that a `Synced` Event is due, although no reported finding is resolved.
    pub fn owe_synced(&mut self, service: &ServiceKey) {
        self.services.entry(service.clone()).or_default().owes_synced = true;
    }

    /// Whether a `Synced` Event is due. If so, it counts as sent.
    ///
    /// # Errors
    ///
    /// Returns the time of the next attempt if the Event is due, but there is no `room` for it, or no budget.
    pub fn take_synced(&mut self, service: &ServiceKey, room: usize, now: Instant) -> Result<bool, Instant> {
        let reported = self.services.get_mut(service);
        let Some(reported) = reported.filter(|reported| reported.owes_synced) else {
            return Ok(false);
        };
        if room == 0 {
            return Err(now + FULL_QUEUE_PAUSE);
        }
        if !self.budgets.spend(service.clone(), now) {
            return Err(now + SERVICE_REFILL);
        }
        reported.owes_synced = false;
        self.drop_if_empty(service);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(notes: &[&str]) -> BTreeSet<Finding> {
        notes
            .iter()
            .map(|note| Finding::new(Reason::PortUnresolved, *note))
            .collect()
    }

    fn take_synced(throttle: &mut EventThrottle, service: &ServiceKey, now: Instant) -> bool {
        throttle.take_synced(service, 1, now) == Ok(true)
    }

    fn notes_due(throttle: &mut EventThrottle, notes: &[&str], now: Instant) -> Vec<String> {
        let due = throttle.due(
            &ServiceKey::new("default", "vip"),
            UID,
            &findings(notes),
            usize::MAX,
            now,
        );
        due.findings.into_iter().map(|finding| finding.note).collect()
    }

    const MINUTE: Duration = Duration::from_secs(60);
    const UID: &str = "uid-1";

    #[test]
    fn a_service_that_was_created_again_gets_its_events_again() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        let (vip, findings) = (ServiceKey::new("default", "vip"), findings(&["a"]));
        for (uid, reported) in [("uid-1", 1), ("uid-1", 0), ("uid-2", 1), ("uid-2", 0)] {
            let due = throttle.due(&vip, uid, &findings, 9, start);
            assert_eq!(due.findings.len(), reported, "{uid}");
        }
    }

    #[test]
    fn findings_of_a_service_that_is_gone_are_forgotten() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        let vip = ServiceKey::new("default", "vip");
        notes_due(&mut throttle, &["a"], start);
        assert!(throttle.is_reported(&vip, &Finding::new(Reason::PortUnresolved, "a")));
        throttle.gone(&vip);
        assert!(!throttle.is_reported(&vip, &Finding::new(Reason::PortUnresolved, "a")));
        assert!(throttle.services.is_empty());
    }

    /// Rule: survive.memory
    #[test]
    fn a_service_in_sync_takes_no_memory() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        let vip = ServiceKey::new("default", "vip");
        throttle.owe_synced(&vip);
        assert!(take_synced(&mut throttle, &vip, start));
        assert!(throttle.services.is_empty());
    }

    #[test]
    fn budget_of_a_service_that_is_gone_stays() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        let vip = ServiceKey::new("default", "vip");
        for _ in 0..25 {
            assert_eq!(notes_due(&mut throttle, &["a"], start), ["a"]);
            throttle.gone(&vip);
        }
        assert!(notes_due(&mut throttle, &["a"], start).is_empty());
    }

    /// Rule: 3.events-repeat
    #[test]
    fn a_finding_is_sent_when_it_appears_and_every_30_minutes() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        assert_eq!(notes_due(&mut throttle, &["a"], start), ["a"]);
        assert!(notes_due(&mut throttle, &["a"], start + MINUTE).is_empty());
        assert!(notes_due(&mut throttle, &["a"], start + 29 * MINUTE).is_empty());
        assert_eq!(notes_due(&mut throttle, &["a"], start + 30 * MINUTE), ["a"]);
        assert!(notes_due(&mut throttle, &["a"], start + 59 * MINUTE).is_empty());
        assert_eq!(notes_due(&mut throttle, &["a"], start + 60 * MINUTE), ["a"]);
    }

    /// Rule: 3.events-when
    #[test]
    fn a_new_or_returning_detail_is_sent_at_once() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        assert_eq!(notes_due(&mut throttle, &["a"], start), ["a"]);
        assert_eq!(notes_due(&mut throttle, &["b"], start + MINUTE), ["b"]);
        assert!(notes_due(&mut throttle, &[], start + 2 * MINUTE).is_empty());
        assert_eq!(notes_due(&mut throttle, &["b"], start + 3 * MINUTE), ["b"]);
    }

    /// Rule: 3.events-flood
    #[test]
    fn at_most_25_events_are_sent_at_once_then_one_per_5_minutes() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        let mut count = 0;
        for round in 0..100 {
            count += notes_due(&mut throttle, &[&round.to_string()], start).len();
        }
        assert_eq!(count, 25);
        assert!(notes_due(&mut throttle, &["later"], start + Duration::from_secs(299)).is_empty());
        assert_eq!(
            notes_due(&mut throttle, &["later"], start + 5 * MINUTE),
            ["later"]
        );
        assert!(notes_due(&mut throttle, &["more"], start + 5 * MINUTE).is_empty());
    }

    #[test]
    fn an_event_beyond_the_budget_is_sent_when_the_budget_allows() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        for round in 0..25 {
            notes_due(&mut throttle, &[&round.to_string()], start);
        }
        let due = throttle.due(
            &ServiceKey::new("default", "vip"),
            UID,
            &findings(&["late"]),
            9,
            start,
        );
        assert!(due.findings.is_empty());
        assert_eq!(notes_due(&mut throttle, &["late"], due.again.unwrap()), ["late"]);
    }

    #[test]
    fn the_next_check_is_when_the_first_repetition_is_due() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        notes_due(&mut throttle, &["a"], start);
        let due = throttle.due(
            &ServiceKey::new("default", "vip"),
            UID,
            &findings(&["a", "b"]),
            9,
            start + MINUTE,
        );
        assert_eq!(due.again, Some(start + REPEAT_EVENT));
    }

    /// Rule: 3.events-flood
    #[test]
    fn one_service_does_not_use_the_budget_of_another() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        for round in 0..30 {
            notes_due(&mut throttle, &[&round.to_string()], start);
        }
        let due = throttle.due(
            &ServiceKey::new("default", "other"),
            UID,
            &findings(&["a"]),
            9,
            start,
        );
        assert_eq!(due.findings.len(), 1);
    }

    /// Rule: 3.synced
    #[test]
    fn a_synced_event_is_sent_once_and_only_when_it_is_due() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        let service = ServiceKey::new("default", "vip");
        assert!(
            !take_synced(&mut throttle, &service, start),
            "sent although nothing was wrong"
        );
        throttle.owe_synced(&service);
        assert!(
            take_synced(&mut throttle, &service, start),
            "not sent for the first copies"
        );
        assert!(!take_synced(&mut throttle, &service, start));
        notes_due(&mut throttle, &["a"], start);
        assert!(
            !take_synced(&mut throttle, &service, start),
            "sent although the finding lasts"
        );
        notes_due(&mut throttle, &["b"], start);
        assert!(
            !take_synced(&mut throttle, &service, start),
            "sent although only the detail of the finding has changed"
        );
        notes_due(&mut throttle, &[], start);
        assert!(take_synced(&mut throttle, &service, start));
        assert!(!take_synced(&mut throttle, &service, start));
        notes_due(&mut throttle, &["a"], start);
        notes_due(&mut throttle, &[], start);
        throttle.gone(&service);
        assert!(
            !take_synced(&mut throttle, &service, start),
            "sent for a Service that is gone"
        );
    }

    /// Rule: 3.events-later, 3.synced
    #[test]
    fn a_synced_event_without_room_or_budget_is_sent_later() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        let service = ServiceKey::new("default", "vip");
        throttle.owe_synced(&service);
        let later = start + FULL_QUEUE_PAUSE;
        assert_eq!(throttle.take_synced(&service, 0, start), Err(later));
        for round in 0..25 {
            notes_due(&mut throttle, &[&round.to_string()], start);
        }
        assert!(notes_due(&mut throttle, &["late"], start).is_empty());
        assert!(notes_due(&mut throttle, &[], start).is_empty());
        assert_eq!(
            throttle.take_synced(&service, 1, start),
            Err(start + SERVICE_REFILL)
        );
        assert_eq!(
            throttle.take_synced(&service, 1, start + SERVICE_REFILL),
            Ok(true)
        );
    }

    /// Rule: 3.synced
    #[test]
    fn synced_is_due_if_the_last_note_was_not_reported() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        for round in 0..25 {
            notes_due(&mut throttle, &[&round.to_string()], start);
        }
        assert!(notes_due(&mut throttle, &["late"], start).is_empty());
        notes_due(&mut throttle, &[], start);
        let service = ServiceKey::new("default", "vip");
        assert!(take_synced(&mut throttle, &service, start + SERVICE_REFILL));
    }

    /// Rule: 3.events-later
    #[test]
    fn an_event_for_a_full_queue_is_sent_later() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        let service = ServiceKey::new("default", "vip");
        let all = findings(&["a", "b", "c"]);
        let due = throttle.due(&service, UID, &all, 1, start);
        assert_eq!(due.findings.len(), 1);
        assert_eq!(due.again, Some(start + FULL_QUEUE_PAUSE));
        let due = throttle.due(&service, UID, &all, 9, start + FULL_QUEUE_PAUSE);
        assert_eq!(due.findings.len(), 2);
    }

    /// Rule: 3.events-later
    #[test]
    fn an_event_that_could_not_be_written_is_due_again() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        notes_due(&mut throttle, &["a", "b"], start);
        let finding = Finding::new(Reason::PortUnresolved, "a");
        throttle.not_sent(&ServiceKey::new("default", "vip"), &finding);
        assert_eq!(notes_due(&mut throttle, &["a", "b"], start), ["a"]);
    }

    #[test]
    fn a_service_without_findings_is_forgotten() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        notes_due(&mut throttle, &["a"], start);
        notes_due(&mut throttle, &[], start + 10 * MINUTE);
        take_synced(
            &mut throttle,
            &ServiceKey::new("default", "vip"),
            start + 10 * MINUTE,
        );
        notes_due(&mut throttle, &[], start + 20 * MINUTE);
        assert!(throttle.services.is_empty());
    }
}
