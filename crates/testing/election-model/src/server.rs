//! The API server, reduced to one Lease.

use endpoint_copier_core::model::ObjectMeta;
use endpoint_copier_operator::leader_election::lease::{Lease, LeaseSpec};
use endpoint_copier_operator::leader_election::presented_lease::ReadVersion;

use crate::{DURATION, NAMES};

/// The Lease as the API server stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    uid: u8,
    version: u8,
    /// The index of the holder, or `None` if the Lease names none.
    pub holder: Option<usize>,
    /// Whether the lease duration is one second, as after a release.
    released: bool,
    /// The time of the last renewal, by the wall clock of its sender.
    pub renewed: i16,
}

/// A request from a candidate to take, renew or release the Lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The candidate that sends it.
    pub from: usize,
    /// The operation.
    pub verb: Verb,
    /// The time that the wall clock of the sender shows.
    pub wall: i16,
}

/// The operations of the lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// A POST that names the sender.
    Make,
    /// A PATCH that names the sender.
    Take(ReadVersion),
    /// A PATCH of the times only.
    Renew(ReadVersion),
    /// A PATCH that names no holder.
    Release(ReadVersion),
}

/// The API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Server {
    /// The Lease, if there is one.
    pub lease: Option<Stored>,
    /// The last resourceVersion. The first resourceVersion of a Lease is also its UID.
    version: u8,
}

impl Stored {
    /// The Lease as a candidate reads it.
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

    /// Carries out a request. Returns `None` if the request is rejected with 404 or 409. Unless `compares`, a PATCH is
    /// applied to any version.
    pub fn serve(&mut self, request: &Request, compares: bool) -> Option<Stored> {
        let (read_version, holder, released) = match (&request.verb, self.lease) {
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
            (Verb::Take(read_version), _) => (read_version, Some(request.from), false),
            (Verb::Renew(read_version), Some(lease)) => (read_version, lease.holder, false),
            (Verb::Renew(_), None) => return None,
            (Verb::Release(read_version), _) => (read_version, None, true),
        };
        let old = self.lease?;
        if compares && ReadVersion::of(&old.lease()).as_ref() != Some(read_version) {
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

    /// Deletes the Lease, as an administrator does. Returns `None` if there is no Lease.
    pub fn delete(&mut self) -> Option<()> {
        self.lease.take().map(|_| ())
    }

    /// Removes the holder, as an administrator does. Unlike a release, this does not change the duration. Returns
    /// `None` if there is no holder.
    pub fn empty(&mut self) -> Option<()> {
        let version = self.version + 1;
        let lease = self.lease.as_mut().filter(|lease| lease.holder.is_some())?;
        lease.holder = None;
        lease.version = version;
        self.version = version;
        Some(())
    }
}
