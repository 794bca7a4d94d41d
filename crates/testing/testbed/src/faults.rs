//! Faults that tests inject. Each server has one [`Faults`], which can change while requests are in flight.

use crate::{
    route::Route,
    signal::{Changes, Signal},
};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// The requests or open watches to which a fault applies. Criteria that are not set match everything.
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
    /// Matches every request.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Limits the match to a verb, as in RBAC.
    #[must_use]
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.to_owned());
        self
    }

    /// Limits the match to a resource, such as `leases` or `services/status`.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// Limits the match to objects in a namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Limits the match to requests that name this object, in the path or by a `metadata.name` field selector.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Limits the match to a user.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Limits the match to a path, without its query, such as `/readyz`.
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

/// The effect of a fault on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The request is delayed by this much. Multiple latencies add up, and another effect can follow.
    Latency(Duration),
    /// The request is answered with an error and has no effect.
    Status {
        /// The status code, such as 403, 404, 409, 410, 422, 429, 500, 503 or 504.
        code: u16,
        /// Seconds for a `Retry-After` header.
        retry_after: Option<u32>,
    },
    /// A create is rejected as in a terminating namespace, and has no effect.
    NamespaceTerminating,
    /// The request has no effect and is answered with 200 and text that is not JSON.
    Nonsense,
    /// The request is carried out. Only the first half of the response arrives, and it looks complete.
    Truncated,
    /// The request is carried out. No client can decode the EndpointSlices and Nodes in the response.
    Undecodable {
        /// Whether even the labels cannot be decoded.
        labels: bool,
    },
    /// An update has no effect, as if an admission policy had reverted it. The response is the stored object.
    Reverted,
    /// The request is carried out, and then the connection breaks.
    LostReply,
    /// The request is carried out and gets no response.
    Unanswered,
    /// The request has no effect and gets no response.
    Hang,
    /// The request has no effect and the connection breaks.
    Break,
}

/// A rule: an effect, the requests to which it applies, and how many times it applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The requests to which the rule applies.
    pub when: Match,
    /// The effect.
    pub what: Effect,
    /// The number of requests to which the rule applies, or `None` for no limit.
    pub times: Option<usize>,
}

impl Fault {
    /// A rule that applies until it is removed.
    #[must_use]
    pub fn new(when: Match, what: Effect) -> Self {
        Self {
            when,
            what,
            times: None,
        }
    }

    /// An error response without `Retry-After`.
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

    /// Limits the number of requests to which the rule applies.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }
}

/// How a watch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The response is complete, as when the watch reaches its timeout.
    Clean,
    /// The connection breaks in the middle of the response.
    Abrupt,
}

/// The next action of an open watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Run,
    Silent,
    End(Ending),
}

/// Identifies a rule for [`Faults::remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultId(u64);

#[derive(Debug, Default)]
struct Rules {
    requests: Vec<(u64, Fault)>,
    /// Endings of watches. Like a silence, an ending applies only to watches whose number is below the number in it.
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

    /// Adds a rule. If several rules match a request, their latencies add up, and the first of their other effects
    /// applies.
    pub fn add(&self, fault: Fault) -> FaultId {
        self.change(|rules| {
            rules.numbers += 1;
            rules.requests.push((rules.numbers, fault));
            FaultId(rules.numbers)
        })
    }

    /// Removes a rule. Requests that already hang because of the rule continue to hang.
    pub fn remove(&self, id: FaultId) {
        self.change(|rules| rules.requests.retain(|(n, _)| *n != id.0));
    }

    /// Removes all rules for requests, resumes silent watches, thaws the server, and accepts connections again.
    pub fn clear(&self) {
        self.change(|rules| {
            rules.requests.clear();
            rules.silences.clear();
        });
        self.thaw();
        self.refuse(false);
    }

    /// Ends the matching watches that are open now.
    pub fn end_watches(&self, of: Match, how: Ending) {
        self.change(|rules| {
            let below = rules.watches;
            rules.endings.push((of, below, how));
        });
    }

    /// Silences the matching watches that are open now. They stay open, and later watches work.
    pub fn silence_watches(&self, of: Match) {
        self.change(|rules| {
            let below = rules.watches;
            rules.silences.push((of, below));
        });
    }

    /// Resumes silent watches. They then catch up on what they missed.
    pub fn resume_watches(&self) {
        self.change(|rules| rules.silences.clear());
    }

    /// Freezes the server as SIGSTOP does: it neither reads nor answers, and connections stay open.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Thaws the server.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
        self.notify();
    }

    /// Whether the server is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        *self.frozen.borrow()
    }

    /// Sets whether new requests fail as if the connection were refused. Over TCP, new connections are closed too.
    pub fn refuse(&self, on: bool) {
        self.refusing.send_replace(on);
    }

    pub(crate) fn is_refusing(&self) -> bool {
        *self.refusing.borrow()
    }

    pub(crate) fn frozen(&self) -> watch::Receiver<bool> {
        self.frozen.subscribe()
    }

    /// Waits until the server is not frozen.
    pub(crate) async fn thawed(&self) {
        let mut changes = self.changes();
        while self.is_frozen() {
            changes.changed().await;
        }
    }

    /// A receiver that wakes after every change that an open watch must check.
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

    /// The latency and the effect for a request. Counts down the rules that have a limit.
    pub(crate) fn apply_to(&self, user: &str, route: &Route) -> (Duration, Option<Effect>) {
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
