//! What goes wrong on request. One [`Faults`] per server; all of it can be changed while requests are under way.

use crate::{
    route::Route,
    signal::{Changes, Signal},
};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// Which requests, or which open watches, a fault is for. What is not given matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    verb: Option<String>,
    resource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    user: Option<String>,
    path: Option<String>,
}

impl Match {
    /// Every request.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests of a verb, as in RBAC.
    #[must_use]
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.to_owned());
        self
    }

    /// Requests for a resource, such as `leases` or `services/status`.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// Requests for objects of one namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Requests that name an object, in the path or by a `metadata.name` field selector.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Requests of a user.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Requests for a path, without its query, such as `/readyz`.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    fn fits(&self, user: &str, route: &Route) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|w| w == value);
        is(&self.verb, route.verb)
            && is(&self.resource, &route.resource())
            && is(&self.namespace, &route.namespace)
            && is(&self.name, route.rbac_name())
            && is(&self.user, user)
            && is(&self.path, &route.path)
    }
}

/// What happens to a request instead of, or besides, its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is handled so much later. Several add up, and another effect may follow.
    Latency(Duration),
    /// It is answered with an error and does nothing.
    Status {
        /// 403, 404, 409, 410, 422, 429, 500, 503, 504, …
        code: u16,
        /// Seconds for a `Retry-After` header.
        retry_after: Option<u32>,
    },
    /// It does nothing and is answered 200 with a text that is no JSON.
    Nonsense,
    /// It is done; half of the answer arrives, declared as whole.
    Truncated,
    /// It is done; each EndpointSlice or Node in the answer is one that no client can decode.
    Undecodable {
        /// Not even its labels.
        labels: bool,
    },
    /// It is done; then the connection breaks.
    LostReply,
    /// It is done and never answered.
    Unanswered,
    /// It does nothing and is never answered.
    Hang,
    /// It does nothing and the connection breaks.
    Break,
}

/// A rule: these requests, this effect, so many times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which requests.
    pub when: Match,
    /// What happens to them.
    pub what: Effect,
    /// How many of them; none is until the rule is taken away.
    pub times: Option<usize>,
}

impl Fault {
    /// A rule that holds until it is taken away.
    #[must_use]
    pub fn new(when: Match, what: Effect) -> Self {
        Self {
            when,
            what,
            times: None,
        }
    }

    /// An error answer without `Retry-After`.
    #[must_use]
    pub fn status(when: Match, code: u16) -> Self {
        Self::new(
            when,
            Effect::Status {
                code,
                retry_after: None,
            },
        )
    }

    /// Only so many times.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }
}

/// How a watch is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As at its time-out: the answer is complete.
    Clean,
    /// In the middle of the answer.
    Abrupt,
}

/// What an open watch does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Run,
    Silent,
    End(Ending),
}

/// Names a rule, to take it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultId(u64);

#[derive(Debug, Default)]
struct Rules {
    requests: Vec<(u64, Fault)>,
    /// Watches that are ended, and those that say nothing: of these, with a number below.
    endings: Vec<(Match, u64, Ending)>,
    silences: Vec<(Match, u64)>,
    numbers: u64,
    watches: u64,
}

/// The faults of one server.
#[derive(Debug)]
pub struct Faults {
    rules: Mutex<Rules>,
    frozen: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
    changed: Signal,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            rules: Mutex::default(),
            frozen: watch::Sender::new(false),
            refusing: watch::Sender::new(false),
            changed: Signal::default(),
        }
    }
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, f: impl FnOnce(&mut Rules) -> T) -> T {
        let result = f(&mut self.lock());
        self.notify();
        result
    }

    /// Adds a rule; of several that fit, the first decides.
    pub fn add(&self, fault: Fault) -> FaultId {
        self.change(|rules| {
            rules.numbers += 1;
            rules.requests.push((rules.numbers, fault));
            FaultId(rules.numbers)
        })
    }

    /// Takes a rule away. Requests that hang because of it go on hanging.
    pub fn remove(&self, id: FaultId) {
        self.change(|rules| rules.requests.retain(|(n, _)| *n != id.0));
    }

    /// Takes away all rules for requests, lets silent watches resume, thaws, and accepts connections.
    pub fn clear(&self) {
        self.change(|rules| {
            rules.requests.clear();
            rules.silences.clear();
        });
        self.thaw();
        self.refuse(false);
    }

    /// Ends the watches that are open now.
    pub fn end_watches(&self, of: Match, how: Ending) {
        self.change(|rules| {
            let below = rules.watches;
            rules.endings.push((of, below, how));
        });
    }

    /// The watches that are open now stay open and say nothing more. New ones work.
    pub fn silence_watches(&self, of: Match) {
        self.change(|rules| {
            let below = rules.watches;
            rules.silences.push((of, below));
        });
    }

    /// Silent watches go on, with what they missed.
    pub fn resume_watches(&self) {
        self.change(|rules| rules.silences.clear());
    }

    /// The server stands still as a stopped process does: no answers, no reading; connections stay.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// The server goes on.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
        self.notify();
    }

    /// Whether the server stands still.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        *self.frozen.borrow()
    }

    /// New requests (as a tower service) or connections (over TCP) are refused, or no longer.
    pub fn refuse(&self, on: bool) {
        self.refusing.send_replace(on);
    }

    pub(crate) fn is_refusing(&self) -> bool {
        *self.refusing.borrow()
    }

    pub(crate) fn frozen(&self) -> watch::Receiver<bool> {
        self.frozen.subscribe()
    }

    /// Returns while the server does not stand still.
    pub(crate) async fn thawed(&self) {
        let mut changes = self.changes();
        while self.is_frozen() {
            changes.changed().await;
        }
    }

    /// Wakes with every change that an open watch must look at.
    pub(crate) fn changes(&self) -> Changes {
        self.changed.subscribe()
    }

    pub(crate) fn notify(&self) {
        self.changed.send();
    }

    pub(crate) fn watch_number(&self) -> u64 {
        let mut rules = self.lock();
        rules.watches += 1;
        rules.watches - 1
    }

    pub(crate) fn verdict(&self, number: u64, user: &str, route: &Route) -> Verdict {
        let rules = self.lock();
        if let Some((_, _, how)) = rules
            .endings
            .iter()
            .find(|(of, below, _)| number < *below && of.fits(user, route))
        {
            return Verdict::End(*how);
        }
        if rules
            .silences
            .iter()
            .any(|(of, below)| number < *below && of.fits(user, route))
        {
            return Verdict::Silent;
        }
        Verdict::Run
    }

    /// The latency and the effect for a request; rules with a count are used up by it.
    pub(crate) fn strike(&self, user: &str, route: &Route) -> (Duration, Option<Effect>) {
        let mut rules = self.lock();
        let (mut latency, mut effect) = (Duration::ZERO, None);
        for (_, fault) in &mut rules.requests {
            if fault.times == Some(0) || !fault.when.fits(user, route) {
                continue;
            }
            match &fault.what {
                Effect::Latency(more) => latency += *more,
                other if effect.is_none() => effect = Some(other.clone()),
                _ => continue,
            }
            fault.times = fault.times.map(|n| n - 1);
        }
        rules.requests.retain(|(_, f)| f.times != Some(0));
        (latency, effect)
    }
}
