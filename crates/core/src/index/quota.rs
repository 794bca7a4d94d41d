//! Chooses the managed Services that get copies if there are more than the limits allow.
//!
//! Services that have copies come first. Ties are broken by age, oldest first, and then by name. Disabled Services
//! count too, because their names are watched, but they come last. The decision depends only on the state of the
//! cluster, so replicas that see the same state make the same choice, even after a restart. A change to one Service
//! costs a few operations on sorted sets, however many Services there are.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Dirty, Index};
use crate::model::{Exceeded, ManagedService, Refusal, ServiceKey, ServiceLimits};

/// The rank of a Service. Lower ranks are admitted first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct AdmissionRank {
    is_disabled: bool,
    has_no_copies: bool,
    /// The creation time, as Unix time in seconds. A Service whose creation time cannot be parsed is treated as the
    /// youngest.
    created: i64,
    key: ServiceKey,
}

/// Services up to a limit, and those beyond it.
#[derive(Debug)]
struct Ranking {
    limit: usize,
    /// The Services with the lowest ranks, at most as many as the limit allows.
    admitted: BTreeSet<AdmissionRank>,
    /// Empty unless the limit is reached.
    waiting: BTreeSet<AdmissionRank>,
}

/// A Service that is now admitted, or is no longer admitted.
enum Move {
    In(AdmissionRank),
    Out(AdmissionRank),
}

impl Ranking {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            admitted: BTreeSet::new(),
            waiting: BTreeSet::new(),
        }
    }

    fn insert(&mut self, rank: AdmissionRank) -> Vec<Move> {
        if self.admitted.len() < self.limit {
            self.admitted.insert(rank.clone());
            return vec![Move::In(rank)];
        }
        match self.admitted.pop_last() {
            Some(last) if rank < last => {
                self.waiting.insert(last.clone());
                self.admitted.insert(rank.clone());
                vec![Move::Out(last), Move::In(rank)]
            }
            last => {
                self.admitted.extend(last);
                self.waiting.insert(rank);
                Vec::new()
            }
        }
    }

    fn remove(&mut self, rank: &AdmissionRank) -> Vec<Move> {
        if !self.admitted.remove(rank) {
            self.waiting.remove(rank);
            return Vec::new();
        }
        let mut moves = vec![Move::Out(rank.clone())];
        if let Some(first) = self.waiting.pop_first() {
            self.admitted.insert(first.clone());
            moves.push(Move::In(first));
        }
        moves
    }

    fn is_empty(&self) -> bool {
        self.admitted.is_empty() && self.waiting.is_empty()
    }
}

/// The Services to which limits apply, by rank.
#[derive(Debug)]
pub(super) struct ServiceQuota {
    limits: ServiceLimits,
    ranks: HashMap<ServiceKey, AdmissionRank>,
    namespaces: HashMap<Box<str>, Ranking>,
    /// The Services that the limits of their namespaces admit.
    total: Ranking,
}

impl ServiceQuota {
    pub fn new(limits: ServiceLimits) -> Self {
        Self {
            limits,
            ranks: HashMap::new(),
            namespaces: HashMap::new(),
            total: Ranking::new(limits.total),
        }
    }

    /// Whether the limits allow a Service to have copies.
    pub fn admits(&self, key: &ServiceKey) -> bool {
        self.ranks
            .get(key)
            .is_none_or(|rank| self.total.admitted.contains(rank))
    }

    /// Why limits keep a Service from getting copies, or `None` if they do not.
    fn refusal(&self, key: &ServiceKey) -> Option<Refusal> {
        let rank = self.ranks.get(key)?;
        let namespace = self.namespaces.get(key.namespace())?;
        let exceeded = if namespace.waiting.contains(rank) {
            Exceeded::Namespace
        } else if self.total.waiting.contains(rank) {
            Exceeded::Total
        } else {
            return None;
        };
        let finding = self.limits.finding(exceeded, key);
        Some(Refusal {
            finding,
            is_final: true,
        })
    }

    /// Ranks a Service, or removes it if there is no rank. Returns the Services that are newly admitted, that are no
    /// longer admitted, or that a different limit now refuses.
    fn rank(&mut self, key: &ServiceKey, rank: Option<AdmissionRank>) -> Dirty {
        if self.ranks.get(key) == rank.as_ref() {
            return Dirty::new();
        }
        let old = match &rank {
            Some(rank) => self.ranks.insert(key.clone(), rank.clone()),
            None => self.ranks.remove(key),
        };
        let namespace = self
            .namespaces
            .entry(key.namespace().into())
            .or_insert_with(|| Ranking::new(self.limits.per_namespace));
        let mut moves = old.map_or_else(Vec::new, |old| namespace.remove(&old));
        moves.extend(rank.into_iter().flat_map(|rank| namespace.insert(rank)));
        if namespace.is_empty() {
            self.namespaces.remove(key.namespace());
        }
        let (mut in_namespace, mut in_all) = (Dirty::new(), Dirty::new());
        for step in moves {
            toggle(&mut in_namespace, &step);
            let moves = match step {
                Move::In(rank) => self.total.insert(rank),
                Move::Out(rank) => self.total.remove(&rank),
            };
            for step in &moves {
                toggle(&mut in_all, step);
            }
        }
        in_all.extend(in_namespace);
        in_all
    }
}

/// Records a move. Two opposite moves of one Service cancel each other out.
fn toggle(changed: &mut Dirty, (Move::In(rank) | Move::Out(rank)): &Move) {
    if !changed.remove(&rank.key) {
        changed.insert(rank.key.clone());
    }
}

impl Index {
    /// Sets the limits. Call this before the index is filled.
    pub fn set_limits(&mut self, limits: ServiceLimits) {
        self.quota = ServiceQuota::new(limits);
    }

    /// The managed Services that the limits admit, and as many disabled Services as fit.
    pub(super) fn admitted(&self) -> impl Iterator<Item = &Arc<ManagedService>> {
        self.declared().filter(|service| self.quota.admits(&service.key))
    }

    /// Why limits keep a Service from getting copies, or `None` if they do not.
    pub(super) fn over_limit(&self, key: &ServiceKey) -> Option<Refusal> {
        self.quota.refusal(key)
    }

    /// Updates the rank of a Service after it or its copies have changed. Returns the Services that the limits now
    /// treat differently.
    pub(super) fn rank(&mut self, key: &ServiceKey) -> Dirty {
        let declared = self.declared_service(key);
        let limited = declared.filter(|service| !self.is_reserved(service));
        let rank = limited.map(|service| AdmissionRank {
            is_disabled: !service.is_managed(),
            has_no_copies: !self.copied.has_any(key),
            created: service.created.unwrap_or(i64::MAX),
            key: key.clone(),
        });
        let changed = self.quota.rank(key, rank);
        for service in &changed {
            self.names_changed += 1;
            let declared = self.declared_service(service);
            if let Some(source) = declared.and_then(|declared| declared.source()).cloned() {
                self.reconsider(&source, service);
            }
        }
        changed
    }

    /// Whether no limit applies to a Service, because clients reach the API servers through it. Usually, only an admin
    /// can create such a Service.
    fn is_reserved(&self, service: &ManagedService) -> bool {
        let source = ServiceKey::api_source();
        self.defaults.managed.as_ref() == Some(&service.key)
            || service.key.namespace() == source.namespace() && service.source() == Some(&source)
    }
}
