//! The condition of a managed Service, and the rule that decides whether its copies are in sync.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};

use super::finding::Finding;
use super::words::words;

/// The type of the condition that the operator writes into the status of a managed Service.
pub const IN_SYNC: &str = "endpoint-copier/InSync";

words! {
    /// The status of a condition.
    ConditionStatus {
        /// The copies are in sync.
        True => "True",
        /// The copies are not in sync.
        False => "False",
        /// The operator cannot decide.
        Unknown => "Unknown",
    }
}

/// The condition of type [`IN_SYNC`] in the status of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Whether the copies are in sync.
    pub status: ConditionStatus,
    /// A finding's reason, or `InSync`, `NotWritten` or `NotDecided`.
    pub reason: Cow<'static, str>,
    /// The details, for human readers.
    pub message: Cow<'static, str>,
}

/// Whether the copies of a Service are in sync. `is_done` says whether nothing is left to write. If probes take an
/// endpoint out, the copies stay in sync.
#[must_use]
pub fn is_in_sync<'a>(is_done: bool, findings: impl IntoIterator<Item = &'a Finding>) -> bool {
    is_done && undone(findings).is_none()
}

/// The most important finding that keeps the copies from being in sync.
fn undone<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Option<&'a Finding> {
    let undone = findings.into_iter().filter(|it| it.reason.leaves_undone());
    undone.min()
}

impl Condition {
    /// The condition after a sync that had enough information to decide. `is_done` is as in [`is_in_sync`].
    pub fn decided<'a>(is_done: bool, findings: impl IntoIterator<Item = &'a Finding>) -> Self {
        match undone(findings) {
            Some(finding) => Self {
                status: ConditionStatus::False,
                reason: finding.reason.as_str().into(),
                message: finding.note.clone().into(),
            },
            None if is_done => Self::new(ConditionStatus::True, "InSync", "the copies are in sync"),
            None => Self::new(
                ConditionStatus::False,
                "NotWritten",
                "copies are not written yet, and the operator keeps trying; its log says why",
            ),
        }
    }

    /// The condition while syncs fail before they can decide.
    #[must_use]
    pub fn undecided() -> Self {
        Self::new(
            ConditionStatus::Unknown,
            "NotDecided",
            "the operator cannot read everything that the copies depend on; its log says why",
        )
    }

    fn new(status: ConditionStatus, reason: &'static str, message: &'static str) -> Self {
        Self {
            status,
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// Whether this condition usually lasts only seconds, because the operator retries.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(&*self.reason, "NotWritten" | "NotDecided")
    }
}

/// Decodes the conditions of a Service, and returns the one of type [`IN_SYNC`].
pub(super) fn own<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<Condition>>, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Entry<'a> {
        #[serde(rename = "type", borrow)]
        type_: Cow<'a, str>,
        #[serde(borrow)]
        status: Cow<'a, str>,
        #[serde(borrow)]
        reason: Cow<'a, str>,
        #[serde(borrow)]
        message: Cow<'a, str>,
    }
    let entries = Option::<Vec<Entry<'_>>>::deserialize(deserializer)?;
    let own = entries.into_iter().flatten().find(|entry| entry.type_ == IN_SYNC);
    Ok(own.and_then(|own| {
        let mut known = ConditionStatus::ALL.into_iter();
        Some(Box::new(Condition {
            // The operator treats a condition with any other status as missing, and replaces it.
            status: known.find(|status| status.as_str() == own.status)?,
            reason: own.reason.into_owned().into(),
            message: own.message.into_owned().into(),
        }))
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Reason, Service};

    fn read(conditions: &serde_json::Value) -> Option<Condition> {
        let service = json!({"metadata": {"name": "a"}, "status": {"conditions": conditions}}).to_string();
        let service: Service = serde_json::from_str(&service).unwrap();
        service.status.unwrap().condition.map(|condition| *condition)
    }

    /// Rule: 3.condition
    #[test]
    fn condition_says_whether_copies_are_in_sync_and_why_not() {
        let held = Finding::new(Reason::SourceEmptyHeld, "held");
        let taken_out = Finding::new(Reason::EndpointUnreachable, "down");
        let refused = Finding::new(Reason::WriteRefused, "no");
        let invalid = Finding::new(Reason::InvalidAnnotation, "what");
        for (is_done, findings, status, reason) in [
            (true, vec![], "True", "InSync"),
            (true, vec![&held, &taken_out], "True", "InSync"),
            (false, vec![&held], "False", "NotWritten"),
            (false, vec![&refused], "False", "WriteRefused"),
            (
                true,
                vec![&refused, &invalid, &held],
                "False",
                "InvalidAnnotation",
            ),
        ] {
            let condition = Condition::decided(is_done, findings.iter().copied());
            assert_eq!((condition.status.as_str(), &*condition.reason), (status, reason));
            assert_eq!(is_in_sync(is_done, findings), status == "True");
        }
        assert_eq!(Condition::decided(true, [&refused]).message, "no");
        assert_eq!(Condition::undecided().status, ConditionStatus::Unknown);
    }

    #[test]
    fn only_our_condition_is_read_and_invalid_ones_are_ignored() {
        let own = json!({"type": IN_SYNC, "status": "False", "reason": "A\"", "message": "b", "observedGeneration": 7,
            "lastTransitionTime": "9999-12-31T23:59:59Z"});
        let other = json!({"type": "Ready", "status": "True"});
        let expected = Condition {
            status: ConditionStatus::False,
            reason: "A\"".into(),
            message: "b".into(),
        };
        assert_eq!(read(&json!([other, own])), Some(expected));
        for none in [
            json!(null),
            json!([]),
            json!([{}, other]),
            json!([{"type": IN_SYNC}]),
            json!([{"type": IN_SYNC, "status": "Perhaps"}]),
        ] {
            assert_eq!(read(&none), None, "{none}");
        }
    }
}
