//! The newest version of the Lease that a candidate knows, so that a renewal needs no read.
//!
//! This module is pure: it uses no clock and no async code. The model in `crates/testing/election-model` calls the same
//! functions as [`super::cas`]. A wrong version costs a rejected renewal and a read. It never leads to two terms,
//! because each PATCH is bound to its version.

use super::lease::Lease;
use super::presented_lease::ReadVersion;

/// The newest known version, and whether a renewal may be based on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KnownVersion {
    newest: Option<Newest>,
    /// Whether the version may be outdated: a write based on it was allowed and is not known to have succeeded, or the
    /// Lease was seen in another state.
    in_doubt: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Newest {
    version: ReadVersion,
    holder: Option<String>,
    /// When that holder renewed the Lease, by the holder's clock.
    renewed: Option<String>,
}

impl KnownVersion {
    /// Records the Lease in the response to one of our writes.
    pub fn wrote(&mut self, lease: &Lease) {
        let Some(read_version) = ReadVersion::of(lease) else {
            return;
        };
        // If a newer version is known, the watch was faster than the response.
        if !self.is_after(&read_version) {
            self.replace(read_version, lease);
        }
    }

    /// Records the Lease that the watch shows, or `None` if there is none.
    pub fn watched(&mut self, lease: Option<&Lease>) {
        let Some(known) = self.newest.as_ref().map(|newest| &newest.version) else {
            return;
        };
        match lease.and_then(|lease| Some((ReadVersion::of(lease)?, lease))) {
            Some((read_version, lease)) if read_version.is_after(known) => self.replace(read_version, lease),
            // A watch may lag, so an older version is ignored.
            Some((read_version, _)) if read_version.is_of_same(known) => {}
            _ => self.in_doubt = true,
        }
    }

    /// Records the Lease that a GET shows, or `None` if there is none. This replaces the known version, because
    /// versions restart when etcd is restored. The lock may now send a write based on this version, so no other renewal
    /// may be based on it.
    pub fn read(&mut self, lease: Option<&Lease>) {
        *self = Self::default();
        if let Some((read_version, lease)) = lease.and_then(|lease| Some((ReadVersion::of(lease)?, lease))) {
            self.replace(read_version, lease);
            self.in_doubt = true;
        }
    }

    fn replace(&mut self, read_version: ReadVersion, lease: &Lease) {
        self.newest = Some(Newest {
            version: read_version,
            holder: lease.spec.holder_identity.clone(),
            renewed: lease.spec.renew_time.clone(),
        });
        self.in_doubt = false;
    }

    /// Returns the version that a write by the holder `us` may be based on, or `None` if the Lease must be read first:
    /// the known version has another holder or may be outdated. After this call, the version counts as possibly
    /// outdated until the write succeeds, [`Self::unprocessed`] is called, or the watch shows a newer version.
    pub fn version_to_renew(&mut self, us: &str) -> Option<ReadVersion> {
        let newest = self.newest.as_ref().filter(|_| !self.in_doubt)?;
        let read_version = (newest.holder.as_deref() == Some(us)).then(|| newest.version.clone())?;
        self.in_doubt = true;
        Some(read_version)
    }

    /// Records that the server rejected a write based on this version before it processed the Lease.
    pub fn unprocessed(&mut self, read_version: &ReadVersion) {
        if self
            .newest
            .as_ref()
            .is_some_and(|known| known.version == *read_version)
        {
            self.in_doubt = false;
        }
    }

    /// Whether a newer version than this one is known.
    #[must_use]
    pub fn is_after(&self, read_version: &ReadVersion) -> bool {
        let known = self.newest.as_ref();
        known.is_some_and(|known| known.version.is_after(read_version))
    }

    /// Whether a renewal by the holder `us`, based on this version and with this renewal time, was applied. A newer
    /// version that names us is no proof: a user's edit also creates one, perhaps before the renewal was even sent.
    #[must_use]
    pub fn is_applied(&self, read_version: &ReadVersion, us: &str, renewed: Option<&str>) -> bool {
        let newest = self.newest.as_ref().filter(|_| self.is_after(read_version));
        newest.is_some_and(|newest| {
            newest.holder.as_deref() == Some(us) && renewed.is_some() && newest.renewed.as_deref() == renewed
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(uid: &str, version: u64, holder: &str) -> Lease {
        let metadata = json!({"uid": uid, "resourceVersion": version.to_string()});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"holderIdentity": holder}})).unwrap()
    }

    fn version(uid: &str, version: u64) -> Option<ReadVersion> {
        ReadVersion::of(&lease(uid, version, ""))
    }

    /// Returns the state after a write by `us` that returned version 7.
    fn written() -> KnownVersion {
        let mut known = KnownVersion::default();
        known.wrote(&lease("u", 7, "us"));
        known
    }

    /// Rule: 5.one-request
    #[test]
    fn renewal_builds_on_the_newer_of_answer_and_watch() {
        for (watched, expected) in [
            (None, None),
            (Some(lease("u", 6, "another")), version("u", 7)),
            (Some(lease("u", 7, "us")), version("u", 7)),
            (Some(lease("u", 8, "us")), version("u", 8)),
            (Some(lease("u", 8, "another")), None),
            (Some(lease("u", 8, "")), None),
            (Some(lease("v", 8, "us")), None),
        ] {
            let mut known = written();
            known.watched(watched.as_ref());
            assert_eq!(known.version_to_renew("us"), expected, "{watched:?}");
        }
    }

    #[test]
    fn an_answer_that_the_watch_has_overtaken_is_ignored() {
        let mut known = written();
        known.watched(Some(&lease("u", 9, "another")));
        known.wrote(&lease("u", 8, "us"));
        assert_eq!(known.version_to_renew("us"), None);
    }

    #[test]
    fn after_a_failed_write_only_a_newer_version_is_renewed() {
        let mut known = written();
        assert!(known.version_to_renew("us").is_some());
        assert_eq!(known.version_to_renew("us"), None, "a version in doubt");
        known.watched(Some(&lease("u", 7, "us")));
        assert_eq!(known.version_to_renew("us"), None, "the same version again");
        known.watched(Some(&lease("u", 8, "us")));
        assert_eq!(known.version_to_renew("us"), version("u", 8));
        known.read(Some(&lease("u", 3, "us")));
        assert_eq!(known.version_to_renew("us"), None);
        known.wrote(&lease("u", 4, "us"));
        assert_eq!(
            known.version_to_renew("us"),
            version("u", 4),
            "not the lower version after a restore"
        );
    }

    #[test]
    fn renewal_was_applied_if_newer_version_has_its_name_and_time() {
        for (holder, version, renewed, applied) in [
            ("us", 8, Some("now"), true),
            ("us", 7, Some("now"), false),
            ("us", 8, Some("before"), false),
            ("us", 8, None, false),
            ("another", 8, Some("now"), false),
        ] {
            let mut known = written();
            let read_version = known.version_to_renew("us").unwrap();
            let mut shown = lease("u", version, holder);
            shown.spec.renew_time = renewed.map(str::to_owned);
            known.watched(Some(&shown));
            assert_eq!(
                known.is_applied(&read_version, "us", Some("now")),
                applied,
                "{shown:?}"
            );
            assert!(!known.is_applied(&read_version, "us", None));
        }
    }

    #[test]
    fn a_renewal_of_a_version_that_was_read_is_recognized() {
        let mut known = written();
        known.read(Some(&lease("u", 4, "us")));
        assert_eq!(known.version_to_renew("us"), None, "a version in doubt");
        let mut shown = lease("u", 5, "us");
        shown.spec.renew_time = Some("now".to_owned());
        known.watched(Some(&shown));
        let read_version = version("u", 4).unwrap();
        assert!(known.is_applied(&read_version, "us", Some("now")));
        known.read(None);
        assert!(!known.is_applied(&read_version, "us", Some("now")));
    }

    #[test]
    fn the_version_of_an_unprocessed_renewal_is_used_again() {
        let mut known = written();
        let read_version = known.version_to_renew("us").unwrap();
        known.unprocessed(&read_version);
        assert_eq!(known.version_to_renew("us"), version("u", 7));
    }
}
