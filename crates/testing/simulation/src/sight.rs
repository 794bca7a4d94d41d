//! Replicas' views of the cluster, and failures of these views while requests for the Lease succeed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;
use tower::BoxError;

use crate::reply::{Reply, hold, nonsense, refusal};
use crate::schedule::{Edit, Step};
use crate::stream::Ending;
use crate::world::{REPLICAS, State, World};

/// A leader releases the Lease when it has seen nothing of one kind for this long.
const BLIND_AFTER: Duration = Duration::from_secs(30);

/// The time between two such releases of one replica.
const RELEASE_PERIOD: Duration = Duration::from_secs(60);

/// By the end of this time, a list without a response has failed (13 s), and the leader has noticed. Copies are listed
/// only once the list of Services is complete or has failed.
const NOTICE_BOUND: Duration = Duration::from_secs(15);

/// After this time, decisions made before the failure have been carried out, and the view is in doubt.
const DOUBT_AFTER: Duration = Duration::from_secs(17);

/// A replica without lists leads within this time if it is the only one.
const ALONE_BOUND: Duration = Duration::from_secs(18);

/// A time longer than any schedule.
const FOR_GOOD: Duration = Duration::from_secs(3600);

/// Another replica takes a released Lease within this time if nothing else fails.
const TAKEOVER_BOUND: Duration = Duration::from_secs(10);

/// The kinds of lists and watches from which copies are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// Services.
    Services,
    /// Slices with the operator's label.
    Copies,
    /// Slices of named Services.
    Sources,
}

impl Sight {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Services, Self::Copies, Self::Sources];

    /// The kind of a list or watch of a resource. `is_named` says whether its selector names Services.
    pub fn of(resource: &str, is_named: bool) -> Option<Self> {
        match resource {
            "services" => Some(Self::Services),
            "endpointslices" if is_named => Some(Self::Sources),
            "endpointslices" => Some(Self::Copies),
            _ => None,
        }
    }
}

/// A failure of lists and watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blindness {
    /// No response.
    NoAnswer,
    /// A response with this error.
    Status(u16),
    /// A response that cannot be decoded.
    Undecodable,
}

impl Blindness {
    /// The failures that can affect a single replica.
    pub const ALL: [Self; 4] = [
        Self::NoAnswer,
        Self::Status(500),
        Self::Status(504),
        Self::Undecodable,
    ];

    /// Sends the response of this failure, if there is one.
    pub async fn answer(self, reply: oneshot::Sender<Result<Reply, BoxError>>) {
        match self {
            Self::NoAnswer => hold(reply).await,
            Self::Status(code) => _ = reply.send(Ok(refusal(code))),
            Self::Undecodable => _ = reply.send(Ok(nonsense())),
        }
    }
}

/// Lists and watches that fail.
#[derive(Clone, Copy, Debug)]
pub struct Blind {
    since: Duration,
    until: Duration,
    how: Blindness,
}

/// The failures of each replica.
pub type Blinded = [[Option<Blind>; 3]; REPLICAS];

impl World {
    /// The current failure of a replica's lists and watches of a kind, if they fail.
    pub fn blindness(&self, replica: usize, sight: Sight) -> Option<Blindness> {
        let now = self.now();
        let blind = self.state().blind[replica][sight as usize];
        blind.filter(|blind| now < blind.until).map(|blind| blind.how)
    }

    /// Makes the lists and watches of a replica fail for a time, either those of one kind or all of them.
    pub fn blind(self: &Arc<Self>, replica: usize, sight: Option<Sight>, how: Blindness, time: Duration) {
        let now = self.now();
        for meant in Sight::ALL
            .into_iter()
            .filter(|it| sight.is_none_or(|only| only == *it))
        {
            let blind = &mut self.state().blind[replica][meant as usize];
            // If lists and watches of this kind already fail, the start of the failure stays the same.
            let before = blind.filter(|blind| now <= blind.until);
            *blind = Some(Blind {
                since: before.map_or(now, |before| before.since),
                until: before.map_or(now, |before| before.until).max(now + time),
                how,
            });
        }
        self.end_watches(replica, Ending::Abrupt);
    }

    /// Makes lists and watches fail, as [`World::blind`] does. If the failure lasts long enough, copies are deleted by
    /// hand while the view is in doubt.
    pub fn blind_for(self: &Arc<Self>, replica: usize, sight: Option<Sight>, how: Blindness, time: Duration) {
        self.blind(replica, sight, how, time);
        if time > DOUBT_AFTER {
            self.delete_copies_in_doubt(sight);
        }
    }

    /// Deletes copies by hand after the view of the sources has been in doubt for a while.
    fn delete_copies_in_doubt(self: &Arc<Self>, sight: Option<Sight>) {
        if sight.is_some_and(|sight| sight != Sight::Sources) {
            return;
        }
        for pick in 0..6 {
            self.later(DOUBT_AFTER, move |world| {
                world.carry_out(&Step::Copy(pick, Edit::Deleted));
            });
        }
    }

    /// Kills a replica if it is running, and soon starts it again with lists and watches that fail for a time.
    pub fn blind_from_the_start(self: &Arc<Self>, replica: usize, how: Blindness, time: Duration) {
        if !self.state().lives[replica]
            .as_ref()
            .is_some_and(|life| life.is_alive())
        {
            return;
        }
        self.kill(replica);
        self.blind(replica, None, how, time);
        self.later(Duration::from_millis(200), move |world| {
            world.start_replica(replica);
        });
    }

    /// Makes the leader's lists and watches fail from now on, while nothing else fails, and checks that another replica
    /// leads in time. If there is no other replica, the only one is killed, and starts again without lists for a time.
    pub async fn blind_leader(self: &Arc<Self>, replicas: usize, sight: Option<Sight>, how: Blindness) {
        if replicas == 1 {
            self.blind_from_the_start(0, how, ALONE_BOUND);
            return sleep(ALONE_BOUND).await;
        }
        let patience = BLIND_AFTER + TAKEOVER_BOUND;
        let Some(leader) = self.until_led(patience, |_| true).await else {
            return self.complain("nobody leads although nothing fails");
        };
        self.note(format!(
            "{sight:?} of replica-{} fail from now on: {how:?}",
            leader + 1
        ));
        self.blind(leader, sight, how, FOR_GOOD);
        self.delete_copies_in_doubt(sight);
        let bound = RELEASE_PERIOD + NOTICE_BOUND + TAKEOVER_BOUND;
        match self.until_led(bound, |replica| replica != leader).await {
            Some(_) => self.count("blind leader replaced"),
            None => self.complain("no replica has replaced the leader that sees nothing"),
        }
    }

    /// Waits until one of these replicas leads and no other replica believes that it leads, as a paused replica can.
    async fn until_led(&self, within: Duration, is_meant: impl Fn(usize) -> bool) -> Option<usize> {
        let until = self.now() + within;
        while self.now() < until {
            let lives = self.state().lives.clone();
            let leads = |replica: &usize| lives[*replica].as_ref().is_some_and(|life| life.leads());
            let leaders: Vec<_> = (0..REPLICAS).filter(leads).collect();
            if let [leader] = leaders[..]
                && is_meant(leader)
            {
                return Some(leader);
            }
            sleep(Duration::from_millis(250)).await;
        }
        None
    }

    /// Records a violation.
    pub fn complain(&self, what: &str) {
        let now = self.now();
        let State { observer, trace, .. } = &mut *self.state();
        observer.violate(now, what.to_owned(), trace);
    }
}

impl State {
    /// The violations by leaders that see nothing of one kind and should have released the Lease by now.
    pub fn blind_leaders(&self, now: Duration) -> Vec<String> {
        let mut overdue = Vec::new();
        for life in self.lives.iter().flatten() {
            let blind = self.blind[life.replica]
                .iter()
                .flatten()
                .filter(|blind| now < blind.until);
            let Some(since) = blind.map(|blind| blind.since).min() else {
                continue;
            };
            let Some(led) = self.observer.leads_since(&life.identity) else {
                continue;
            };
            let gave_up = self.views.get(&life.identity).and_then(|shown| shown.gave_up);
            let next = gave_up.map_or(Duration::ZERO, |at| at + RELEASE_PERIOD);
            let due = (since.max(led).max(life.resumed_at()) + BLIND_AFTER).max(next) + NOTICE_BOUND;
            if now > due && !life.is_paused() {
                overdue.push(format!(
                    "{} leads, although it has seen nothing since {since:?}",
                    life.identity
                ));
            }
        }
        overdue
    }
}
