//! The watch of ReferenceGrants. It begins when the operator first needs them (see [`Index::needs_grants`]), if the
//! cluster serves them. Only Services whose consent depends on ReferenceGrants wait for it.

use std::time::Duration;

use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::time::{Instant, sleep};

use super::reader::errors::status_of;
use super::{Watches, pauses, undecoded};
use crate::apiserver::decode::Guarded;
use crate::apiserver::http_status;
use crate::apiserver::reference_grant::{GROUP, Versioned};
use endpoint_copier_core::index::{Dirty, Index};
use endpoint_copier_core::model::{Grant, Unreadable, WatchKind};

/// The interval at which the operator checks whether the cluster serves ReferenceGrants, and which version of them. It
/// is also the pause after a list or watch that is forbidden or not served. After a failed check, the pause is at most
/// this long, apart from jitter, unless the API server requests a longer one.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(60);

/// After this time without the API of ReferenceGrants, or without permission to read them, the operator assumes that
/// there are none. Before that, an API server may just be starting, or somebody may be replacing the
/// `CustomResourceDefinition`.
const ABSENT_AFTER: Duration = Duration::from_secs(300);

/// Watches ReferenceGrants once they are needed. Never returns.
pub async fn grants(watches: Watches) {
    watches.until_grants_are_needed().await;
    let grants = GrantWatch { watches };
    let (mut refused, mut failures) = (None, pauses(DISCOVERY_INTERVAL));
    loop {
        match grants.served().await {
            Ok(Some(version)) => {
                failures.reset();
                let follow = async {
                    match version {
                        Version::V1 => grants.follow::<true>(&mut refused).await,
                        Version::V1Beta1 => grants.follow::<false>(&mut refused).await,
                    }
                };
                tokio::select! {
                    () = follow => {}
                    () = grants.until_another_version_is_served(version) => {}
                }
            }
            Ok(None) => {
                grants.change(Index::grants_absent);
                grants.refused(&mut refused);
                sleep(DISCOVERY_INTERVAL).await;
            }
            Err(error) if http_status::status_of(&error).is_some_and(http_status::is_forbidden) => {
                grants.refused(&mut refused);
                sleep(DISCOVERY_INTERVAL).await;
            }
            Err(error) => {
                refused = None;
                let at_least = http_status::status_of(&error).and_then(http_status::throttled);
                sleep(failures.next_pause().max(at_least.unwrap_or_default())).await;
            }
        }
    }
}

/// The versions of ReferenceGrant, the preferred one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V1Beta1,
}

impl Version {
    const ALL: [Self; 2] = [Self::V1, Self::V1Beta1];

    fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Beta1 => "v1beta1",
        }
    }
}

struct GrantWatch {
    watches: Watches,
}

impl Watches {
    async fn until_grants_are_needed(&self) {
        let mut marks = self.dirty.marks();
        while !self.index.lock().needs_grants() {
            marks.next_scan().await;
        }
    }
}

impl GrantWatch {
    /// Returns the preferred version among those that the cluster serves, if any.
    async fn served(&self) -> kube::Result<Option<Version>> {
        let client: &Client = &self.watches.reader.client;
        for version in Version::ALL {
            match client
                .list_api_group_resources(&format!("{GROUP}/{}", version.as_str()))
                .await
            {
                Ok(list)
                    if list
                        .resources
                        .iter()
                        .any(|resource| resource.name == "referencegrants") =>
                {
                    return Ok(Some(version));
                }
                Ok(_) => {}
                Err(error) if http_status::status_of(&error).is_some_and(http_status::is_not_served) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn until_another_version_is_served(&self, version: Version) {
        loop {
            sleep(DISCOVERY_INTERVAL).await;
            if self.served().await.is_ok_and(|served| served != Some(version)) {
                return;
            }
        }
    }

    async fn follow<const GA: bool>(&self, refused: &mut Option<Instant>) {
        let (mut listed, log) = (Vec::new(), undecoded(WatchKind::Grants));
        let handle = |event: Result<Event<Guarded<Versioned<GA>>>, &watcher::Error>| {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(grant)) => {
                    let granted = read(&grant, &log);
                    listed.push((grant.slim_metadata().clone(), granted));
                }
                Ok(Event::Apply(grant)) => {
                    let (granted, metadata) = (read(&grant, &log), grant.slim_metadata());
                    self.change(|index| {
                        if let Some(granted) = granted {
                            return index.apply_grant(metadata, granted);
                        }
                        index.apply_unreadable_grant(metadata);
                        Dirty::new()
                    });
                }
                Ok(Event::Delete(grant)) => {
                    self.change(|index| index.delete_grant(grant.slim_metadata()));
                }
                Ok(Event::InitDone) => {
                    *refused = None;
                    self.change(|index| index.grants_listed(std::mem::take(&mut listed)));
                }
                Err(error)
                    if status_of(error).is_some_and(|answer| {
                        http_status::is_forbidden(answer) || http_status::is_not_served(answer)
                    }) =>
                {
                    self.refused(refused);
                    return Some(DISCOVERY_INTERVAL);
                }
                // After any other failure, it is unknown whether the refusal has lasted.
                Err(_) => *refused = None,
            }
            None
        };
        let config = watcher::Config::default();
        let reader = &self.watches.reader;
        reader
            .follow_with_errors(WatchKind::Grants, Api::all, config, handle)
            .await;
    }

    /// Records that ReferenceGrants cannot be read. After some time, they count as absent.
    fn refused(&self, since: &mut Option<Instant>) {
        if since.get_or_insert_with(Instant::now).elapsed() >= ABSENT_AFTER {
            self.change(|index| index.grants_listed([]));
        }
    }

    fn change(&self, change: impl FnOnce(&mut Index) -> Dirty) {
        let dirty = change(&mut self.watches.index.lock());
        self.watches.dirty.mark(dirty);
    }
}

/// Reads what a ReferenceGrant grants to Services. Returns `None` if it cannot be decoded.
fn read<const GA: bool>(grant: &Guarded<Versioned<GA>>, log: &impl Fn(&Unreadable)) -> Option<Grant> {
    match &grant.object {
        Ok(grant) => Some(Grant::read(&grant.0)),
        Err(object) => {
            log(object);
            None
        }
    }
}

#[cfg(test)]
mod tests;
