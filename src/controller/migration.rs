//! Removes the `Endpoints` object that version 0.2 of the Go operator created for a Service. While this object exists,
//! Kubernetes mirrors it into a slice, and clients use the slice in addition to our copies.
//!
//! This module is needed only for the migration from the Go operator; see [`endpoint_copier_core::migration`].
//!
//! `Endpoints` are not watched. They are read only if a slice that mirrors them shows that they exist. `Endpoints` of
//! other owners are read once for each version of that slice.
//!
//! The chart grants `get` and `delete` on `Endpoints` only with `rbac.goOperator`. Without these permissions, all
//! Services of a namespace share the pauses after refusals, however many of their `Endpoints` are mirrored.

use std::collections::{BTreeSet, HashMap};

use kube::core::Request;
use kube::{Api, Client, Error};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::info;

use crate::apiserver::decode::{EndpointsMetadata, Guarded};
use crate::apiserver::error::within;
use crate::apiserver::http_status::{Rejection, is_missing};
use crate::controller::apply::{as_seen, send};
use crate::controller::error::SyncError;
use crate::controller::refusals::Refusals;
use crate::leader_election::term::Term;
use crate::telemetry::watchdog::Watchdog;
use crate::timing::REMOVAL_LIMIT;
use endpoint_copier_core::model::{
    EndpointSlice, Finding, MANAGED_BY_US, MIRRORING_CONTROLLER, ManagedService, Reason, ServiceKey,
    Snapshot, label, label_of,
};

/// Removes `Endpoints` of the Go operator.
pub(super) struct Migration {
    client: Client,
    watchdog: Watchdog,
    /// Services whose `Endpoints` are not the Go operator's, and the versions of the mirroring slices when the
    /// `Endpoints` were read.
    theirs: Mutex<HashMap<ServiceKey, Mirrored>>,
    /// Namespaces where the API server refuses the read or the delete.
    refused: Mutex<Refusals<String>>,
}

/// The UID of a Service, and the resourceVersions of the slices that mirror its `Endpoints`.
#[derive(PartialEq)]
struct Mirrored {
    service: String,
    slices: BTreeSet<Option<String>>,
}

impl Migration {
    pub fn new(client: Client, watchdog: Watchdog) -> Self {
        Self {
            client,
            watchdog,
            theirs: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Forgets a Service that is neither managed nor disabled.
    pub fn gone(&self, service: &ServiceKey) {
        self.theirs.lock().remove(service);
    }

    /// Removes the `Endpoints` of a Service whose plan allows leftovers of the Go operator to be deleted. If the API
    /// server refuses the read or the delete, returns a finding and the time of the next attempt. Sets `has_sent` when
    /// it sends a request.
    ///
    /// # Errors
    ///
    /// Returns an error if the API server sent no response, or an unexpected one. The call can then be repeated.
    pub async fn remove(
        &self,
        term: &Term,
        service: &ManagedService,
        snapshot: &Snapshot,
        has_sent: &mut bool,
    ) -> Result<Option<(Finding, Instant)>, SyncError> {
        let mirrors = snapshot.others.values().filter(|slice| is_mirror(slice));
        let mirrored = Mirrored {
            service: service.uid.clone(),
            slices: mirrors
                .map(|slice| slice.metadata.resource_version.clone())
                .collect(),
        };
        let is_theirs = self.theirs.lock().get(&service.key) == Some(&mirrored);
        if mirrored.slices.is_empty() || is_theirs {
            return Ok(None);
        }
        let (namespace, now) = (service.key.namespace().to_owned(), Instant::now());
        let waits = self.refused.lock().waits(&namespace, || (), now);
        if let Some((until, _)) = waits {
            return Ok(Some((finding(service), until)));
        }
        *has_sent = true;
        match self.get_and_delete(term, service).await {
            Ok(is_theirs) => {
                self.refused.lock().accepted(&namespace);
                if is_theirs {
                    self.theirs.lock().insert(service.key.clone(), mirrored);
                }
                Ok(None)
            }
            Err(Error::Api(status)) if Rejection::of(&status) == Rejection::Refused => {
                let mut refused = self.refused.lock();
                let until = refused.refused(namespace, (), &status.message, Instant::now());
                Ok(Some((finding(service), until)))
            }
            Err(error) => {
                let object = format!("Endpoints {} of the Go operator", service.key);
                Err(SyncError::unavailable("remove", object, &error))
            }
        }
    }

    /// Deletes the `Endpoints` if they exist and belong to the Go operator. Returns whether they belong to another
    /// owner.
    async fn get_and_delete(&self, term: &Term, service: &ManagedService) -> Result<bool, Error> {
        let (name, began) = (service.key.name(), Instant::now());
        let api: Api<Guarded<EndpointsMetadata>> =
            Api::namespaced(self.client.clone(), service.key.namespace());
        let found = within(REMOVAL_LIMIT, api.get(name)).await;
        self.watchdog.tick();
        let found = match found {
            Ok(found) => found,
            Err(Error::Api(status)) if is_missing(&status, name) => return Ok(false),
            Err(error) => return Err(error),
        };
        let found = found.slim_metadata();
        if label_of(found, label::MANAGED_BY) != Some(MANAGED_BY_US) {
            return Ok(true);
        }
        let seen = as_seen(found.uid.clone(), found.resource_version.clone());
        let delete = Request::new(api.resource_url()).delete(name, &seen);
        let delete = delete.map_err(Error::BuildRequest)?;
        let limit = REMOVAL_LIMIT.saturating_sub(began.elapsed());
        // The term may have ended during the GET.
        let Ok(answer) = send(&self.client, &self.watchdog, term, limit, delete).await else {
            return Ok(false);
        };
        match answer {
            Ok(_) => {
                info!(service = %service.key, "removed the Endpoints that version 0.2 of the Go operator made");
            }
            Err(Error::Api(status)) if is_missing(&status, name) => {}
            Err(error) => return Err(error),
        }
        Ok(false)
    }
}

fn is_mirror(slice: &EndpointSlice) -> bool {
    label_of(&slice.metadata, label::MANAGED_BY) == Some(MIRRORING_CONTROLLER)
}

fn finding(service: &ManagedService) -> Finding {
    Finding::new(
        Reason::LegacyEndpoints,
        format!(
            "Kubernetes mirrors the Endpoints object {0} into a slice, and the operator is not allowed to read or delete this object; if version 0.2 of the Go operator created it, run kubectl delete endpoints {1} --namespace {2}, or set rbac.goOperator=true in the chart until the object is gone",
            service.key,
            service.key.name(),
            service.key.namespace()
        ),
    )
}
