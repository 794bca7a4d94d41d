//! The conditions that the operator has written into the status of Services.

use super::services::Known;
use super::{Dirty, Index};
use crate::model::{Condition, ServiceKey};

/// Whether conditions are wanted, and the Services whose condition has changed since the last query.
#[derive(Debug, Default)]
pub(super) struct ConditionChanges {
    are_wanted: bool,
    changed: Dirty,
}

impl ConditionChanges {
    /// Records the condition that a Service has, and returns it if conditions are wanted.
    pub fn shown(
        &mut self,
        key: &ServiceKey,
        known: Option<&Known>,
        condition: Option<&Condition>,
    ) -> Option<Box<Condition>> {
        let condition = condition.filter(|_| self.are_wanted);
        if known.and_then(|known| known.condition.as_deref()) != condition {
            self.changed.insert(key.clone());
        }
        condition.map(|condition| Box::new(condition.clone()))
    }
}

/// The known condition of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownCondition {
    /// The UID of the Service if it is managed.
    pub managed: Option<String>,
    /// The resourceVersion of the Service.
    pub version: Option<u64>,
    /// The condition, if the Service has one.
    pub condition: Option<Condition>,
}

impl Index {
    /// From now on, the index keeps the conditions of Services. Call this before the index is filled.
    pub fn want_conditions(&mut self) {
        self.conditions.are_wanted = true;
    }

    /// The Services whose condition has changed since the last call.
    pub fn changed_conditions(&mut self) -> Dirty {
        std::mem::take(&mut self.conditions.changed)
    }

    /// The Services that have a condition, managed or not.
    pub fn with_condition(&self) -> impl Iterator<Item = &ServiceKey> {
        let shows = |(key, known): (_, &Known)| known.condition.is_some().then_some(key);
        self.services.iter().filter_map(shows)
    }

    /// The known condition of a Service, or `None` if the Service does not exist.
    #[must_use]
    pub fn shown_condition(&self, key: &ServiceKey) -> Option<KnownCondition> {
        let known = self.services.get(key)?;
        let managed = known.declared.as_ref().filter(|service| service.is_managed());
        Some(KnownCondition {
            managed: managed.map(|service| service.uid.clone()),
            version: known.version,
            condition: known.condition.as_deref().cloned(),
        })
    }
}
