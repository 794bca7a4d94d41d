//! The API server, as far as one Lease goes.

use endpoint_copier_core::model::ObjectMeta;
use endpoint_copier_operator::leader_election::lease::{Lease, LeaseSpec};
use endpoint_copier_operator::leader_election::presented::ReadVersion;

use crate::{DURATION, NAMES};

/// A Lease as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    uid: u8,
    version: u8,
    /// `None`: nobody.
    pub holder: Option<usize>,
    /// Whether its duration is one second, as in a release.
    released: bool,
    /// By the wall clock of whoever renewed it last.
    pub renewed: i16,
}

/// What a candidate sends to take, renew or give up the Lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The candidate that sends it.
    pub from: usize,
    /// What it is to do.
    pub verb: Verb,
    /// What the sender's wall clock says.
    pub wall: i16,
}

/// As the lock sends them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// A POST that names the sender.
    Make,
    /// A PATCH that names the sender.
    Take(ReadVersion),
    /// A PATCH of the times alone.
    Renew(ReadVersion),
    /// A PATCH that names nobody.
    Release(ReadVersion),
}

/// The API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Server {
    /// The Lease, if there is one.
    pub lease: Option<Stored>,
    /// The last resourceVersion; a new Lease takes it for its uid too.
    version: u8,
}

impl Stored {
    /// As a candidate reads it.
    pub fn lease(&self) -> Lease {
        let seconds = if self.released { 1 } else { DURATION.as_secs() };
        Lease {
            metadata: ObjectMeta {
                uid: Some(self.uid.to_string()),
                resource_version: Some(self.version.to_string()),
                ..ObjectMeta::default()
            },
            spec: LeaseSpec {
                holder_identity: Some(self.holder.map_or("", |holder| NAMES[holder]).to_owned()),
                lease_duration_seconds: i64::try_from(seconds).ok(),
                renew_time: Some(self.renewed.to_string()),
                ..LeaseSpec::default()
            },
        }
    }
}

impl Server {
    fn next_version(&mut self) -> u8 {
        self.version += 1;
        self.version
    }

    /// Carries a request out, or refuses it: 409, 404. `None`: refused.
    pub fn serve(&mut self, request: &Request, compares: bool) -> Option<Stored> {
        let (basis, holder, released) = match (&request.verb, self.lease) {
            (Verb::Make, None) => {
                let version = self.next_version();
                self.lease = Some(Stored {
                    uid: version,
                    version,
                    holder: Some(request.from),
                    released: false,
                    renewed: request.wall,
                });
                return self.lease;
            }
            (Verb::Make, Some(_)) => return None,
            (Verb::Take(basis), _) => (basis, Some(request.from), false),
            (Verb::Renew(basis), Some(lease)) => (basis, lease.holder, false),
            (Verb::Renew(_), None) => return None,
            (Verb::Release(basis), _) => (basis, None, true),
        };
        let old = self.lease?;
        if compares && ReadVersion::of(&old.lease()).as_ref() != Some(basis) {
            return None;
        }
        let version = self.next_version();
        self.lease = Some(Stored {
            uid: old.uid,
            version,
            holder,
            released,
            renewed: request.wall,
        });
        self.lease
    }

    /// By an administrator.
    pub fn delete(&mut self) -> Option<()> {
        self.lease.take().map(|_| ())
    }

    /// By an administrator: no holder, but not as a release is written.
    pub fn empty(&mut self) -> Option<()> {
        let version = self.version + 1;
        let lease = self.lease.as_mut().filter(|lease| lease.holder.is_some())?;
        lease.holder = None;
        lease.version = version;
        self.version = version;
        Some(())
    }
}
