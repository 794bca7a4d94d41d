//! The client of the probe Lease. It can read this one Lease, change its annotations, and create it when it is missing.
//!
//! Apart from the election, it is the only client that writes without a [`Term`](crate::leader_election::term::Term),
//! because replicas that do not lead write to this Lease too.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, Patch, PatchParams, PostParams, WatchParams};
use kube::core::{Request, Status, WatchEvent};
use kube::{Api, Client, Resource as _};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::apiserver::decode::{Guarded, LeaseMetadata};
use crate::apiserver::error::one_line;
use crate::apiserver::http_status::{
    is_client_error, is_conflict, is_expired, is_missing, status_of, throttled,
};
use crate::controller::watch::WatchBackoff;
use crate::telemetry::failure_log::FailureLog;
use crate::timing::{LONGEST_WATCH, RENEW_WATCH_SECONDS};
use endpoint_copier_core::model::{ObjectMeta, version_of};

/// The suffix that is added to the name of the election Lease to form the name of the probe Lease.
const SUFFIX: &str = "-probes";

/// The time limit of one call.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// A watch that lasts this long works. A watch that ends sooner counts as a failure, even if it ends cleanly.
const HEALTHY: Duration = Duration::from_secs(10);

/// Annotations to set, or to remove if there is no value.
pub type Changes = BTreeMap<String, Option<String>>;

/// The annotations of the Lease at one version. A Lease that does not exist has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// The resourceVersion; 0 if the Lease does not exist.
    pub version: u64,
    /// All annotations, including those of others.
    pub values: BTreeMap<String, String>,
}

/// An event of the watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// A list: the current state, whatever was shown before.
    Listed(Annotations),
    /// A change after the list.
    Changed(Annotations),
}

/// An error of a call or of the watch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused the call, or could not be reached.
    // This is not `#[error(transparent)]`, because that would hide the type by which the log shortens a response of the
    // API server.
    #[error("{0}")]
    Call(#[from] kube::Error),
    /// The call timed out, so it is unknown whether it was carried out.
    #[error("no response within {CALL_LIMIT:?}")]
    TimedOut,
    /// The watch lasted longer than the server should have allowed.
    #[error("the watch does not end")]
    Endless,
    /// The server ended the watch too early.
    #[error("the watch ended after {0:?}")]
    Ended(Duration),
}

impl Error {
    /// The status with which an API server has answered.
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Call(error) => status_of(error),
            Self::TimedOut | Self::Endless | Self::Ended(_) => None,
        }
    }

    /// The pause that an overloaded API server requests, or zero.
    pub(super) fn retry_after(&self) -> Duration {
        self.status().and_then(throttled).unwrap_or_default()
    }

    /// Whether the API server will probably reject the same call again: any 4xx except for an expired resourceVersion.
    fn is_refusal(&self) -> bool {
        let refuses = |status| is_client_error(status) && !is_expired(status);
        self.status().is_some_and(refuses)
    }
}

/// The probe Lease.
#[derive(Clone)]
pub struct ProbeLease {
    client: Client,
    namespace: String,
    name: String,
}

impl ProbeLease {
    /// The probe Lease that belongs to an election Lease. `client` must not retry by itself.
    #[must_use]
    pub fn new(client: Client, namespace: &str, election_lease: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            name: format!("{election_lease}{SUFFIX}"),
        }
    }

    /// The namespace and the name, for logs.
    pub(super) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Reads the Lease.
    pub(super) async fn get(&self) -> Result<Annotations, Error> {
        let api = self.api();
        let lease = limited(api.get_opt(&self.name)).await?;
        Ok(lease.map(|lease| Annotations::of(&lease)).unwrap_or_default())
    }

    /// Changes annotations; all others stay as they are. Creates the Lease if it is missing. Returns the version that
    /// has the change, or 0 if the Lease is missing and nothing is to be set.
    pub(super) async fn annotate(&self, changes: &Changes) -> Result<u64, Error> {
        let is_missing = |status| is_missing(status, &self.name);
        let missing = match self.patch(changes).await {
            Err(error) if error.status().is_some_and(is_missing) => error,
            answer => return answer,
        };
        if changes.values().all(Option::is_none) {
            // There is nothing to remove.
            return Ok(0);
        }
        match self.create(changes).await {
            Err(error) if error.status().is_some_and(is_conflict) => self.patch(changes).await,
            // The namespace does not exist either.
            Err(error) if error.status().is_some_and(|status| status.code == 404) => Err(missing),
            answer => answer,
        }
    }

    /// Sends a merge patch without a resourceVersion, so that two replicas that write at the same time both succeed.
    async fn patch(&self, changes: &Changes) -> Result<u64, Error> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": changes}}));
        let (api, params) = (self.api(), PatchParams::default());
        let lease = limited(api.patch(&self.name, &params, &patch)).await?;
        Ok(Annotations::of(&lease).version)
    }

    async fn create(&self, changes: &Changes) -> Result<u64, Error> {
        let annotations: BTreeMap<_, _> = changes
            .iter()
            .filter_map(|(key, value)| Some((key, value.as_ref()?)))
            .collect();
        let lease = json!({
            "apiVersion": Lease::api_version(&()),
            "kind": Lease::kind(&()),
            "metadata": {"name": self.name, "namespace": self.namespace, "annotations": annotations},
            "spec": {},
        });
        let request = Request::new(Lease::url_path(&(), Some(&self.namespace)))
            .create(&PostParams::default(), lease.to_string().into_bytes())
            .map_err(kube::Error::BuildRequest)?;
        let lease = limited(self.client.request::<Guarded<LeaseMetadata>>(request)).await?;
        Ok(Annotations::of(&lease).version)
    }

    /// Passes each state of the Lease to `show`, and never returns. Neither readiness nor leading depends on this
    /// watch. While it fails, a replica that does not lead sees no new suspicions, and a leader reads the Lease
    /// instead.
    pub(super) async fn follow(&self, mut show: impl FnMut(LeaseEvent)) {
        let outage = FailureLog::new(format!("the watch of the Lease {}", self.key()));
        let (mut failures, mut refusals) = (WatchBackoff::failures(), WatchBackoff::overload());
        loop {
            let Err(error) = self.watch(&mut show, &outage).await;
            outage.failed(&one_line(&error));
            let pauses = if error.is_refusal() {
                &mut refusals
            } else {
                &mut failures
            };
            sleep(pauses.next(error.retry_after())).await;
        }
    }

    /// Lists and watches until something fails.
    async fn watch(
        &self,
        show: &mut impl FnMut(LeaseEvent),
        outage: &FailureLog,
    ) -> Result<Infallible, Error> {
        let (api, fields) = (self.api(), format!("metadata.name={}", self.name));
        let list = limited(api.list(&ListParams::default().fields(&fields))).await?;
        let found = list.items.first().map(Annotations::of);
        show(LeaseEvent::Listed(found.unwrap_or_default()));
        let mut version = list.metadata.resource_version.unwrap_or_default();
        let params = WatchParams::default()
            .fields(&fields)
            .timeout(RENEW_WATCH_SECONDS);
        loop {
            let began = Instant::now();
            let mut events = pin!(limited(api.watch(&params, &version)).await?);
            outage.recovered();
            let end = began + LONGEST_WATCH;
            while let Some(event) = timeout_at(end, events.try_next())
                .await
                .map_err(|_| Error::Endless)??
            {
                let mut shown = match &event {
                    WatchEvent::Added(lease) | WatchEvent::Modified(lease) | WatchEvent::Deleted(lease) => {
                        Annotations::of(lease)
                    }
                    WatchEvent::Bookmark(bookmark) => {
                        version.clone_from(&bookmark.metadata.resource_version);
                        continue;
                    }
                    WatchEvent::Error(status) => return Err(kube::Error::Api(status.clone()).into()),
                };
                if matches!(event, WatchEvent::Deleted(_)) {
                    shown.values.clear();
                }
                version = shown.version.to_string();
                show(LeaseEvent::Changed(shown));
            }
            if began.elapsed() < HEALTHY {
                return Err(Error::Ended(began.elapsed()));
            }
        }
    }

    fn api(&self) -> Api<Guarded<LeaseMetadata>> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

impl Annotations {
    fn of(lease: &Guarded<LeaseMetadata>) -> Self {
        let metadata: &ObjectMeta = lease.slim_metadata();
        let values = metadata
            .annotations
            .iter()
            .flat_map(|annotations| annotations.iter());
        Self {
            version: version_of(metadata).unwrap_or_default(),
            values: values
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
        }
    }
}

async fn limited<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    Ok(timeout(CALL_LIMIT, call).await.map_err(|_| Error::TimedOut)??)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn refusal_is_logged_as_code_and_message() {
        let status = Status {
            code: 401,
            ..Status::failure("who are you", "Unauthorized")
        };
        let error = Error::from(kube::Error::Api(status.boxed()));
        assert_eq!(one_line(&error), "401 Unauthorized: who are you");
    }
}
