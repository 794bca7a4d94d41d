//! Confirms deletes. If the watch of Services is late, the index may be out of date about both the managed Service and
//! the consent of a source. One consistent read of each Service decides.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::api::ListParams;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::debug;

use super::Reconciler;
use crate::apiserver::decode::{Guarded, Slim};
use crate::apiserver::error::within;
use crate::apiserver::http_status::is_missing;
use crate::controller::error::SyncError;
use crate::timing::CHECK_LIMIT;
use endpoint_copier_core::index::ServiceVersion;
use endpoint_copier_core::model::{AllowFrom, Service, ServiceKey, Snapshot, Unreadable, version_of};
use endpoint_copier_core::plan::Plan;

/// The pause after a read that the watch has overtaken.
const OVERTAKEN_PAUSE: Duration = Duration::from_millis(100);

/// The maximum number of sources that are read at the same time. There can be several sources, because a copy does not
/// name the Service that its source slice belongs to.
const READS_AT_ONCE: usize = 8;

/// The result of a read: the object, decoded or not, or `None` if it does not exist.
type ReadResult<K> = Option<Result<K, Box<Unreadable>>>;

impl Reconciler {
    /// Before a plan deletes slices other than copies without consent, confirms with a GET that the managed Service
    /// still matches the snapshot. A new leader's view of Services may be older than its view of copies. Returns
    /// `false` if the Service differs: the index is updated, and the plan must be computed again. If the GET fails, the
    /// caller carries out the rest of the plan, and the deletes are planned again later.
    pub(super) async fn confirm_service(
        &self,
        snapshot: &Snapshot,
        plan: &Plan,
        has_read: &mut bool,
    ) -> Result<bool, SyncError> {
        if plan.deletes.is_empty() && plan.leftovers.is_empty() {
            return Ok(true);
        }
        let key = &snapshot.key;
        let before = self.index().service_version(key);
        let found: ReadResult<Service> = self.get(key.namespace(), key.name(), has_read).await?;
        // A Service that cannot be decoded goes into the index, so that its copies stay.
        if let None | Some(Ok(_)) = &found {
            let index = self.index();
            let service = found.as_ref().and_then(|found| found.as_ref().ok());
            if service.and_then(|service| index.as_managed(service)).as_ref() == snapshot.service.as_deref() {
                return Ok(true);
            }
        }
        self.observe_service(key, key, &before, found)?;
        Ok(false)
    }

    /// Returns the sources that must be read first, because this plan deletes copies to which these sources do
    /// not consent. Copies that this replica has written in this term do not count: it saw the consent of their sources
    /// then, so its view without that consent is newer than the write.
    pub(super) fn refusing_sources(&self, snapshot: &Snapshot, plan: &Plan) -> BTreeSet<ServiceKey> {
        let deleted = plan
            .withdrawn
            .iter()
            .chain(&plan.deletes)
            .map(|delete| &delete.key);
        let deleted = deleted
            .filter(|copy| !self.writer.has_written(&snapshot.key, copy))
            .collect();
        self.index().missing_consent(snapshot, &deleted)
    }

    /// Reads sources whose consent is missing. Returns the sources that were read: the index now knows whether they
    /// give consent. If a read fails, stores the error in `failed`.
    pub(super) async fn read_sources(
        &self,
        key: &ServiceKey,
        sources: BTreeSet<ServiceKey>,
        failed: &mut Option<SyncError>,
        has_read: &mut bool,
    ) -> BTreeSet<ServiceKey> {
        let mut answered = BTreeSet::new();
        // An overloaded API server gets no further requests.
        if failed.as_ref().is_some_and(SyncError::is_overload) {
            return answered;
        }
        *has_read |= !sources.is_empty();
        let reads = stream::iter(sources).map(|source| async move {
            debug!(service = %key, %source, "copies are to be deleted because consent is missing: reading the source");
            let read = self.read_source(key, &source).await;
            (source, read)
        });
        let mut reads = pin!(reads.buffer_unordered(READS_AT_ONCE));
        while let Some((source, read)) = reads.next().await {
            match read {
                Ok(()) => _ = answered.insert(source),
                Err(error) => *failed = Some(error),
            }
            if failed.as_ref().is_some_and(SyncError::is_overload) {
                break;
            }
        }
        answered
    }

    async fn read_source(&self, key: &ServiceKey, source: &ServiceKey) -> Result<(), SyncError> {
        let before = self.index().service_version(source);
        let found = self.find_source(source).await?;
        let is_refusal = refuses(found.as_ref(), key.namespace());
        match self.observe_service(key, source, &before, found) {
            // The watch has shown a change since the read began: perhaps the source was recreated. No other replica
            // writes copies during this term, so a refusal is enough.
            Err(_) if is_refusal => Ok(()),
            observed => observed,
        }
    }

    /// Lists the one Service of this name. A GET of a missing Service returns 404, so the request metrics would reveal
    /// to users whether a Service that they cannot read exists.
    async fn find_source(&self, source: &ServiceKey) -> Result<ReadResult<Service>, SyncError> {
        let api: Api<Guarded<Service>> = Api::namespaced(self.client.clone(), source.namespace());
        let by_name = ListParams::default().fields(&format!("metadata.name={}", source.name()));
        // The client gives a list more time than a read of one object.
        let answer = within(CHECK_LIMIT, api.list(&by_name)).await;
        self.writer.watchdog.tick();
        let failed = |error| SyncError::unavailable("list", format!("Service {source}"), &error);
        let found = answer.map_err(failed)?.items.into_iter().next();
        Ok(found.map(|found| named(found, source.namespace(), source.name())))
    }

    /// Puts the response to a read of `service` into the index. Marks the Services that depend on `service` as dirty,
    /// except for `key`, whose plan the caller computes again.
    fn observe_service(
        &self,
        key: &ServiceKey,
        service: &ServiceKey,
        before: &ServiceVersion,
        found: ReadResult<Service>,
    ) -> Result<(), SyncError> {
        let version = found.as_ref().and_then(|found| match found {
            Ok(service) => version_of(&service.metadata),
            Err(unreadable) => version_of(&unreadable.metadata),
        });
        let found = found.as_ref().map(|found| found.as_ref().map_err(AsRef::as_ref));
        let mut index = self.index();
        let mut dirty = index
            .observe_service(service, before, found)
            .ok_or_else(overtaken)?;
        let is_news = index.service_version(service) != *before;
        drop(index);
        dirty.remove(key);
        self.dirty.mark(dirty);
        if is_news {
            self.service_watch.missed(version);
        }
        Ok(())
    }

    /// Sends one consistent GET, with the client's time limit.
    pub(super) async fn get<K: Slim>(
        &self,
        namespace: &str,
        name: &str,
        has_read: &mut bool,
    ) -> Result<ReadResult<K>, SyncError>
    where
        Guarded<K>:
            Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<Guarded<K>> = Api::namespaced(self.client.clone(), namespace);
        *has_read = true;
        let answer = api.get(name).await;
        self.writer.watchdog.tick();
        match answer {
            Ok(found) => Ok(Some(named(found, namespace, name))),
            Err(kube::Error::Api(status)) if is_missing(&status, name) => Ok(None),
            Err(error) => {
                let object = format!("{} {namespace}/{name}", Guarded::<K>::kind(&()));
                Err(SyncError::unavailable("get", object, &error))
            }
        }
    }
}

/// Returns an object with its name, even if its metadata cannot be decoded.
fn named<K>(found: Guarded<K>, namespace: &str, name: &str) -> Result<K, Box<Unreadable>> {
    found.object.map_err(|mut unreadable| {
        let metadata = &mut unreadable.metadata;
        metadata.namespace.get_or_insert_with(|| namespace.to_owned());
        metadata.name.get_or_insert_with(|| name.to_owned());
        unreadable
    })
}

/// Whether the result of a read shows that the source does not allow this namespace to copy it.
fn refuses(found: Option<&Result<Service, Box<Unreadable>>>, namespace: &str) -> bool {
    match found {
        None => true,
        Some(Ok(source)) => !AllowFrom::of(&source.metadata).is_some_and(|allowed| allowed.allows(namespace)),
        Some(Err(_)) => false,
    }
}

/// Returns the error for an object that changes while it is read. The sync is soon tried again.
pub(super) fn overtaken() -> SyncError {
    let until = Instant::now() + OVERTAKEN_PAUSE;
    SyncError::Outdated { until }
}
