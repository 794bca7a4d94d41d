//! What was said about each Service and when: new things at once, lasting ones every half hour, and
//! never a flood.
//!
//! Pure: moments go in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Finding, ServiceKey};

/// A finding that lasts is said again after this time; API servers forget Events after an hour.
const REPEAT: Duration = Duration::from_secs(30 * 60);

/// So many Events at once for one Service …
const BURST: u32 = 25;

/// … and one more after each of these. As in client-go's spam filter.
const REFILL: Duration = Duration::from_secs(5 * 60);

/// Good news leaves so many for bad.
const RESERVE: u32 = 5;

/// What was said about all Services.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    accounts: HashMap<ServiceKey, Account>,
}

#[derive(Debug, Default)]
struct Account {
    said: BTreeMap<Finding, Instant>,
    /// Events that are left, as of a moment.
    used: Option<(u32, Instant)>,
}

/// What to say now, and when to look again.
#[derive(Debug, PartialEq)]
pub(super) struct Due {
    pub findings: Vec<Finding>,
    pub again: Option<Instant>,
}

impl Ledger {
    /// These are all findings of a Service at a moment.
    pub fn due(&mut self, service: &ServiceKey, findings: &BTreeSet<Finding>, now: Instant) -> Due {
        let mut due = Due {
            findings: Vec::new(),
            again: None,
        };
        if findings.is_empty() && !self.accounts.contains_key(service) {
            return due;
        }
        let account = self.accounts.entry(service.clone()).or_default();
        account.said.retain(|finding, _| findings.contains(finding));
        for finding in findings {
            let next = match account.said.get(finding).copied() {
                Some(said) if said + REPEAT > now => said + REPEAT,
                _ if account.spend(0, now) => {
                    account.said.insert(finding.clone(), now);
                    due.findings.push(finding.clone());
                    now + REPEAT
                }
                _ => now + REFILL,
            };
            due.again = Some(due.again.map_or(next, |again| again.min(next)));
        }
        if account.said.is_empty() && account.is_full(now) {
            self.accounts.remove(service);
        }
        due
    }

    /// Whether this was said, and still lasts.
    pub fn holds(&self, service: &ServiceKey, finding: &Finding) -> bool {
        self.accounts
            .get(service)
            .is_some_and(|account| account.said.contains_key(finding))
    }

    /// A Service is no longer managed: nothing lasts, though what was said lately counts.
    pub fn gone(&mut self, service: &ServiceKey, now: Instant) {
        if let Some(account) = self.accounts.get_mut(service) {
            account.said.clear();
            self.accounts
                .retain(|_, account| !(account.said.is_empty() && account.is_full(now)));
        }
    }

    /// Whether good news may be told at a moment.
    pub fn may_tell(&mut self, service: &ServiceKey, now: Instant) -> bool {
        self.accounts
            .entry(service.clone())
            .or_default()
            .spend(RESERVE, now)
    }
}

impl Account {
    /// Takes one Event, if more than `reserve` are left.
    fn spend(&mut self, reserve: u32, now: Instant) -> bool {
        let (used, since) = self.refilled(now);
        let may = used + reserve < BURST;
        self.used = Some((used + u32::from(may), since));
        may
    }

    fn is_full(&self, now: Instant) -> bool {
        self.refilled(now).0 == 0
    }

    /// How many are used after what has come back meanwhile, and since when the next one is on its way.
    fn refilled(&self, now: Instant) -> (u32, Instant) {
        let Some((used, since)) = self.used else {
            return (0, now);
        };
        let back = u32::try_from(now.saturating_duration_since(since).as_secs() / REFILL.as_secs())
            .unwrap_or(u32::MAX);
        if back >= used {
            (0, now)
        } else {
            (used - back, since + REFILL * back)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    fn findings(notes: &[&str]) -> BTreeSet<Finding> {
        notes
            .iter()
            .map(|note| Finding::new(Reason::PortUnresolved, *note))
            .collect()
    }

    fn said(ledger: &mut Ledger, notes: &[&str], now: Instant) -> Vec<String> {
        let due = ledger.due(&ServiceKey::new("default", "vip"), &findings(notes), now);
        due.findings.into_iter().map(|finding| finding.note).collect()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_gone_is_forgotten_when_it_may_say_all_again() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let (vip, other) = (
            ServiceKey::new("default", "vip"),
            ServiceKey::new("default", "other"),
        );
        said(&mut ledger, &["a"], start);
        assert!(ledger.holds(&vip, &Finding::new(Reason::PortUnresolved, "a")));
        ledger.gone(&vip, start);
        assert!(!ledger.holds(&vip, &Finding::new(Reason::PortUnresolved, "a")));
        assert_eq!(ledger.accounts.len(), 1);
        ledger.may_tell(&other, start + 5 * MINUTE);
        ledger.gone(&other, start + 5 * MINUTE);
        assert_eq!(ledger.accounts.len(), 1, "that of the other");
    }

    #[test]
    fn a_finding_is_said_when_it_appears_and_every_half_hour_while_it_lasts() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        assert_eq!(said(&mut ledger, &["a"], start), ["a"]);
        assert!(said(&mut ledger, &["a"], start + MINUTE).is_empty());
        assert!(said(&mut ledger, &["a"], start + 29 * MINUTE).is_empty());
        assert_eq!(said(&mut ledger, &["a"], start + 30 * MINUTE), ["a"]);
        assert!(said(&mut ledger, &["a"], start + 59 * MINUTE).is_empty());
        assert_eq!(said(&mut ledger, &["a"], start + 60 * MINUTE), ["a"]);
    }

    #[test]
    fn a_detail_that_changes_is_said_at_once_and_one_that_comes_back_too() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        assert_eq!(said(&mut ledger, &["a"], start), ["a"]);
        assert_eq!(said(&mut ledger, &["b"], start + MINUTE), ["b"]);
        assert!(said(&mut ledger, &[], start + 2 * MINUTE).is_empty());
        assert_eq!(said(&mut ledger, &["b"], start + 3 * MINUTE), ["b"]);
    }

    #[test]
    fn at_most_25_at_once_and_then_one_per_5_minutes() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let mut count = 0;
        for round in 0..100 {
            count += said(&mut ledger, &[&round.to_string()], start).len();
        }
        assert_eq!(count, 25);
        assert!(said(&mut ledger, &["later"], start + Duration::from_secs(299)).is_empty());
        assert_eq!(said(&mut ledger, &["later"], start + 5 * MINUTE), ["later"]);
        assert!(said(&mut ledger, &["more"], start + 5 * MINUTE).is_empty());
    }

    #[test]
    fn what_could_not_be_said_is_said_when_there_is_room_again() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        for round in 0..25 {
            said(&mut ledger, &[&round.to_string()], start);
        }
        let due = ledger.due(&ServiceKey::new("default", "vip"), &findings(&["late"]), start);
        assert!(due.findings.is_empty());
        assert_eq!(said(&mut ledger, &["late"], due.again.unwrap()), ["late"]);
    }

    #[test]
    fn the_next_look_is_when_the_first_repetition_is_due() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        said(&mut ledger, &["a"], start);
        let due = ledger.due(
            &ServiceKey::new("default", "vip"),
            &findings(&["a", "b"]),
            start + MINUTE,
        );
        assert_eq!(due.again, Some(start + REPEAT));
    }

    #[test]
    fn one_service_does_not_use_up_the_room_of_another() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        for round in 0..30 {
            said(&mut ledger, &[&round.to_string()], start);
        }
        let due = ledger.due(&ServiceKey::new("default", "other"), &findings(&["a"]), start);
        assert_eq!(due.findings.len(), 1);
    }

    #[test]
    fn good_news_leaves_room_for_bad() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let service = ServiceKey::new("default", "vip");
        let told = (0..100).filter(|_| ledger.may_tell(&service, start)).count();
        assert_eq!(told, 20);
        assert_eq!(said(&mut ledger, &["bad"], start), ["bad"]);
    }

    #[test]
    fn a_service_without_findings_is_forgotten() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        said(&mut ledger, &["a"], start);
        said(&mut ledger, &[], start + 10 * MINUTE);
        assert!(ledger.accounts.is_empty());
    }
}
