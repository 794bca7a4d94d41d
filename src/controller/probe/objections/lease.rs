//! The client of the probe Lease. It can read this one Lease, change its annotations, and create it when it is missing.
//!
//! Apart from the election, it is the only client that writes without a [`Term`](crate::leader_election::term::Term),
//! because replicas that do not lead write to this Lease too.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{Request, Status};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource as _};
use serde_json::json;
use tower::service_fn;

use crate::apiserver::decode::{Guarded, LeaseMetadata};
use crate::apiserver::error::within;
use crate::apiserver::http_status::{is_client_error, is_conflict, is_expired, is_missing, status_of};
use crate::controller::watch::{self, Reader, WatchBackoff};
use endpoint_copier_core::model::{ObjectMeta, WatchKind, version_of};

/// The suffix that is added to the name of the election Lease to form the name of the probe Lease.
const SUFFIX: &str = "-probes";

/// The time limit for the start of the response to a call. Objections are urgent, so it is shorter than the usual
/// limits in [`crate::timing`].
const CALL_LIMIT: Duration = Duration::from_secs(2);

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

/// The probe Lease.
#[derive(Clone)]
pub struct ProbeLease {
    reader: Reader,
    namespace: String,
    name: String,
}

impl ProbeLease {
    /// Creates a client of the probe Lease that belongs to an election Lease. The client of `reader` must not retry by
    /// itself.
    #[must_use]
    pub fn new(reader: Reader, namespace: &str, election_lease: &str) -> Self {
        let client = limited(reader.client);
        Self {
            reader: Reader { client, ..reader },
            namespace: namespace.to_owned(),
            name: format!("{election_lease}{SUFFIX}"),
        }
    }

    /// Returns the namespace and the name, for logs.
    pub(super) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Reads the Lease.
    pub(super) async fn get(&self) -> kube::Result<Annotations> {
        let lease = self.api().get_opt(&self.name).await?;
        Ok(lease.map(|lease| Annotations::of(&lease)).unwrap_or_default())
    }

    /// Changes annotations, and leaves all others unchanged. Creates the Lease if it is missing. Returns the version
    /// that has the change, or 0 if the Lease is missing and nothing is to be set.
    pub(super) async fn annotate(&self, changes: &Changes) -> kube::Result<u64> {
        let is_missing = |status| is_missing(status, &self.name);
        let missing = match self.patch(changes).await {
            Err(error) if status_of(&error).is_some_and(is_missing) => error,
            answer => return answer,
        };
        if changes.values().all(Option::is_none) {
            // There is nothing to remove.
            return Ok(0);
        }
        match self.create(changes).await {
            Err(error) if status_of(&error).is_some_and(is_conflict) => self.patch(changes).await,
            // The namespace does not exist either.
            Err(error) if status_of(&error).is_some_and(|status| status.code == 404) => Err(missing),
            answer => answer,
        }
    }

    /// Sends a merge patch without a resourceVersion, so that two replicas that write at the same time both succeed.
    async fn patch(&self, changes: &Changes) -> kube::Result<u64> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": changes}}));
        let params = PatchParams::default();
        let lease = self.api().patch(&self.name, &params, &patch).await?;
        Ok(Annotations::of(&lease).version)
    }

    async fn create(&self, changes: &Changes) -> kube::Result<u64> {
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
        let lease: Guarded<LeaseMetadata> = self.reader.client.request(request).await?;
        Ok(Annotations::of(&lease).version)
    }

    /// Passes each state of the Lease to `show`, and never returns. Neither readiness nor leadership depends on this
    /// watch. While it fails, a replica that does not lead sees no new suspicions, and a leader reads the Lease
    /// instead.
    pub(super) async fn follow(&self, mut show: impl FnMut(LeaseEvent)) {
        let (mut listed, mut refusals) = (Annotations::default(), WatchBackoff::overload());
        // The API server will probably reject the same request again.
        let refuses = |status: &Status| is_client_error(status) && !is_expired(status);
        let handle = |event: Result<Event<_>, &watcher::Error>| {
            match event {
                Ok(Event::Init) => listed = Annotations::default(),
                Ok(Event::InitApply(lease)) => listed = Annotations::of(&lease),
                Ok(Event::InitDone) => show(LeaseEvent::Listed(std::mem::take(&mut listed))),
                Ok(Event::Apply(lease)) => show(LeaseEvent::Changed(Annotations::of(&lease))),
                Ok(Event::Delete(lease)) => show(LeaseEvent::Changed(Annotations {
                    version: Annotations::of(&lease).version,
                    ..Annotations::default()
                })),
                Err(error) if watch::status_of(error).is_some_and(refuses) => {
                    return Some(refusals.next(Duration::ZERO));
                }
                Err(_) => {}
            }
            None
        };
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let api = |client| Api::namespaced(client, &self.namespace);
        self.reader
            .follow_with_errors(WatchKind::ProbeLease, api, config, handle)
            .await;
    }

    fn api(&self) -> Api<Guarded<LeaseMetadata>> {
        Api::namespaced(self.reader.client.clone(), &self.namespace)
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

/// Returns the same client, with [`CALL_LIMIT`].
fn limited(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let call = move |request| {
        let client = client.clone();
        async move { within(CALL_LIMIT, client.send(request)).await }
    };
    Client::new(service_fn(call), namespace)
}
