//! Reads a cluster: lists objects into an index, and makes a report from it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::Error;
use super::announced::Announced;
use super::dated::{Dated, Dates};
use super::report::{ClusterReport, Row};
use crate::apiserver::decode::Guarded;
use crate::apiserver::error::one_line;
use crate::apiserver::http_status::{is_forbidden, is_not_served};
use crate::apiserver::reference_grant::Versioned;
use crate::config::Config;
use crate::controller::watch::{copies_selector, named_selectors};
use crate::leader_election::Lease;
use crate::telemetry::metrics::Metrics;
use crate::timing::EVENT_LASTS;
use endpoint_copier_core::index::{Index, Scope};
use endpoint_copier_core::model::{
    EndpointSlice, Finding, Grant, MANAGED_BY_US, NodeObject, NodesUnknown, ObjectMeta, Reason, SYNCED,
    Service, ServiceKey, SliceKey,
};

/// The maximum number of objects to request on one page of a list. The client may request fewer.
const PAGE: u32 = 500;

/// Up to this number of namespaces, the Events of each namespace are listed separately, because a list of all Events
/// costs the API server more.
const MAX_EVENT_LISTS: usize = 20;

/// The maximum number of pages to read from each list of Events.
const MAX_PAGES: usize = 10;

/// The findings that are read from Events. Only the leader knows them, because it tried to write or saw how often
/// others write.
const REPORTED_BY_EVENTS: [Reason; 2] = [Reason::WriteRefused, Reason::OtherInstallation];

/// How far the clock of a replica may be ahead of the API server's for the replica's Events to count.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(1);

pub(super) struct ListedObjects {
    pub index: Index,
    pub changed: Dates,
    /// How clients reach each managed Service.
    pub announced: HashMap<ServiceKey, Announced>,
}

pub(super) struct ClusterReader<'a> {
    pub client: Client,
    pub metrics: Metrics,
    pub config: &'a Config,
    /// The namespace of the credentials.
    pub own_namespace: String,
    /// Whether the credentials are those of the Pod that this process runs in. The Pod is assumed to be the operator's.
    pub is_in_pod: bool,
}

impl ClusterReader<'_> {
    /// Reads everything that a report needs, and returns the report.
    pub async fn report(&self) -> Result<ClusterReport, Error> {
        let seen = self.read().await?;
        let leases = self.leases().await;
        Ok(self.report_on(&seen, leases).await)
    }

    /// Lists the objects that the index needs: copies before sources, so that a copy is never newer than the listed
    /// state of its source.
    pub async fn read(&self) -> Result<ListedObjects, Error> {
        let mut index = Index::new(self.config.defaults.clone());
        index.set_limits(self.config.limits);
        let (mut services, mut changed) = (HashSet::new(), Dates::default());
        let mut announced = HashMap::new();
        self.list(ListParams::default(), |service: Guarded<Dated<Service>>| {
            let key = ServiceKey::of(service.slim_metadata());
            match service.object {
                Ok(service) => {
                    index.apply_service(&service.object);
                    // The other Services are not needed, and there may be many.
                    if index.is_managed(&key) {
                        let dated = service.changed.map(|at| (key.clone(), at));
                        changed.services.extend(dated);
                        announced.insert(key.clone(), Announced::of(&service.object));
                    }
                }
                Err(unreadable) => _ = index.service_unreadable(&unreadable),
            }
            services.insert(key);
        })
        .await?;
        index.services_listed(&services);
        self.list_slices(&mut index, &mut changed, &Scope::Copies, &copies_selector())
            .await?;
        if index.needs_grants() {
            self.list_grants(&mut index).await?;
        }
        let names = index.names();
        for (names, selector) in named_selectors(&names) {
            let scope = Scope::Named(Arc::new(names));
            self.list_slices(&mut index, &mut changed, &scope, &selector)
                .await?;
        }
        if index.needs_nodes() {
            self.list_nodes(&mut index).await;
        }
        Ok(ListedObjects {
            index,
            changed,
            announced,
        })
    }

    /// Returns the report on what was read, with the Events on Services that are out of sync.
    pub async fn report_on(
        &self,
        seen: &ListedObjects,
        leases: Result<Vec<Lease>, kube::Error>,
    ) -> ClusterReport {
        let now = self.now();
        let known = leases.as_deref().unwrap_or_default();
        let mut report = ClusterReport::of(&seen.index, &seen.changed, known, now);
        report.leaders_error = leases.err().map(|error| one_line(&error));
        let behind = report.services.iter_mut().filter(|row| !row.in_sync);
        let mut behind: Vec<_> = behind.collect();
        for reason in REPORTED_BY_EVENTS {
            let error = self.add_reported(&mut behind, reason, now).await;
            report.events_error = report.events_error.or(error);
        }
        report
    }

    /// Adds a finding to the rows of the Services that have it. Only Events show such a finding. Returns an error if a
    /// list of Events failed.
    pub async fn add_reported(
        &self,
        rows: &mut [&mut Row],
        reason: Reason,
        now: Timestamp,
    ) -> Option<String> {
        let (mut events, mut error) = self.events(rows, reason.as_str()).await;
        if !events.is_empty() {
            let (ends, why) = self.events(rows, SYNCED).await;
            events.extend(ends);
            error = error.or(why);
        }
        add_reported(rows, reason, &events, now);
        error
    }

    /// Returns the time by the API server's clock if the clock skew is known, and by the clock of this machine
    /// otherwise. The clock of a laptop may be wrong by more than the duration of a Lease.
    pub fn now(&self) -> Timestamp {
        let skew = SignedDuration::try_from_secs_f64(self.metrics.clock_skew());
        let now = Timestamp::now();
        now.checked_sub(skew.unwrap_or_default()).unwrap_or(now)
    }

    /// Returns the Events with this reason on Services in the namespaces of these rows, and an error if a list failed.
    /// Reads up to [`MAX_PAGES`] pages of each list.
    async fn events(&self, rows: &[&mut Row], reason: &str) -> (Vec<DynamicObject>, Option<String>) {
        let kind = ApiResource::erase::<Event>(&());
        let fields = format!("involvedObject.kind=Service,reason={reason}");
        let params = ListParams::default().fields(&fields);
        let namespaces: BTreeSet<_> = rows.iter().map(|row| row.namespace.as_str()).collect();
        let client = || self.client.clone();
        let apis: Vec<_> = if namespaces.len() > MAX_EVENT_LISTS {
            vec![Api::all_with(client(), &kind)]
        } else {
            let one = |namespace| Api::namespaced_with(client(), namespace, &kind);
            namespaces.into_iter().map(one).collect()
        };
        let (mut events, mut error) = (Vec::new(), None);
        for api in apis {
            let found = list(&api, params.clone(), MAX_PAGES, |event| events.push(event)).await;
            // The report is useful without these Events too.
            error = found.err().map(|why| one_line(&why)).or(error);
        }
        (events, error)
    }

    /// Lists ReferenceGrants in the newest version that can be listed. If the cluster serves none, or this command has
    /// no permission to list them, the annotations of sources and the flags decide which sources may be copied.
    async fn list_grants(&self, index: &mut Index) -> Result<(), Error> {
        let grants = match self.grants::<true>().await? {
            None => self.grants::<false>().await?,
            found => found,
        };
        match grants {
            Some(grants) => _ = index.grants_listed(grants),
            None => _ = index.grants_absent(),
        }
        Ok(())
    }

    async fn grants<const GA: bool>(&self) -> Result<Option<Vec<(ObjectMeta, Option<Grant>)>>, Error> {
        let mut grants = Vec::new();
        let add = |grant: Guarded<Versioned<GA>>| {
            let granted = grant.object.as_ref().ok().map(|grant| Grant::read(&grant.0));
            grants.push((grant.slim_metadata().clone(), granted));
        };
        match self.list(ListParams::default(), add).await {
            Err(kube::Error::Api(status)) if is_forbidden(&status) || is_not_served(&status) => Ok(None),
            listed => Ok(listed.map(|()| Some(grants))?),
        }
    }

    async fn list_slices(
        &self,
        index: &mut Index,
        changed: &mut Dates,
        scope: &Scope,
        selector: &str,
    ) -> Result<(), Error> {
        let mut listed = HashSet::new();
        let params = ListParams::default().labels(selector);
        self.list(params, |slice: Guarded<Dated<EndpointSlice>>| {
            let key = SliceKey::of(slice.slim_metadata());
            match slice.object {
                Ok(slice) => {
                    changed.slices.extend(slice.changed.map(|at| (key.clone(), at)));
                    index.list_slice(scope, slice.object);
                }
                Err(unreadable) => _ = index.list_unreadable_slice(scope, &unreadable),
            }
            listed.insert(key);
        })
        .await?;
        index.slices_listed(scope, &listed);
        Ok(())
    }

    /// Lists the Nodes that the operator would watch. If the Nodes cannot be listed, copies keep the data that they
    /// already have from Nodes, and findings say why.
    async fn list_nodes(&self, index: &mut Index) {
        let mut params = ListParams::default();
        if !self.config.nodes_selector.is_empty() {
            params = params.labels(&self.config.nodes_selector);
        }
        let mut names = HashSet::new();
        let listed = self.list(params, |node: Guarded<NodeObject>| {
            let name = node.slim_metadata().name.clone().unwrap_or_default();
            match node.object {
                Ok(node) => index.apply_node(node.node),
                Err(_) => index.apply_unreadable_node(&name),
            };
            names.insert(name);
        });
        match listed.await {
            Ok(()) => index.nodes_listed(&names),
            Err(kube::Error::Api(status)) if is_forbidden(&status) => {
                index.nodes_unknown(NodesUnknown::Forbidden)
            }
            Err(_) => index.nodes_unknown(NodesUnknown::Failing),
        };
    }

    /// Returns the Lease in the configured namespace. If no namespace is configured, returns the Leases with the
    /// configured name in all namespaces or, without permission to list them, the Lease in the namespace of the
    /// credentials.
    pub async fn leases(&self) -> Result<Vec<Lease>, kube::Error> {
        if let Some(namespace) = &self.config.election.namespace {
            return self.lease(namespace).await;
        }
        match self.leases_everywhere().await {
            Err(kube::Error::Api(status)) if is_forbidden(&status) => self.lease(&self.own_namespace).await,
            listed => listed,
        }
    }

    /// Returns the Leases with the configured name in all namespaces.
    pub async fn leases_everywhere(&self) -> Result<Vec<Lease>, kube::Error> {
        let name = &self.config.election.lease_name;
        let params = ListParams::default().fields(&format!("metadata.name={name}"));
        let mut leases = Vec::new();
        self.list(params, |lease| leases.push(lease)).await?;
        Ok(readable(leases))
    }

    async fn lease(&self, namespace: &str) -> Result<Vec<Lease>, kube::Error> {
        let api = Api::namespaced(self.client.clone(), namespace);
        Ok(readable(api.get_opt(&self.config.election.lease_name).await?))
    }

    /// Passes each object of all namespaces to `handle`.
    pub async fn list<K>(&self, params: ListParams, handle: impl FnMut(K)) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        list(&Api::all(self.client.clone()), params, usize::MAX, handle).await
    }
}

fn readable(leases: impl IntoIterator<Item = Guarded<Lease>>) -> Vec<Lease> {
    let leases = leases.into_iter();
    leases.map(|lease| lease.object.unwrap_or_default()).collect()
}

/// Passes each object of up to `most` pages to `handle`, with only one page in memory at a time.
async fn list<K>(
    api: &Api<K>,
    params: ListParams,
    most: usize,
    mut handle: impl FnMut(K),
) -> Result<(), kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut params = params.limit(PAGE);
    for _ in 0..most {
        let page = api.list(&params).await?;
        page.items.into_iter().for_each(&mut handle);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    Ok(())
}

/// Adds the finding to each row whose Service has an Event with this reason, unless a newer Event says that the finding
/// has ended. Ignores Events that are about an earlier Service with the same name, do not name the operator as their
/// reporter, are too old, or are more than [`CLOCK_TOLERANCE`] in the future.
pub(super) fn add_reported(rows: &mut [&mut Row], reason: Reason, events: &[DynamicObject], now: Timestamp) {
    let is_current = |event: &&DynamicObject| {
        let age = last_reported(event).map(|at| now.duration_since(at));
        age.is_some_and(|age| age < EVENT_LASTS && age > -CLOCK_TOLERANCE)
            && event.data["reportingComponent"] == MANAGED_BY_US
    };
    let events: Vec<_> = events.iter().filter(is_current).collect();
    for row in rows {
        let of_row = events.iter().filter(|event| {
            let service = &event.data["involvedObject"];
            let is_of_it = |uid| row.uid.is_empty() || row.uid == uid;
            service["namespace"] == row.namespace
                && service["name"] == row.name
                && service["uid"].as_str().is_none_or(is_of_it)
        });
        // Events are ordered by the clock of the API server, because each replica that led has its own clock.
        let newest = of_row.max_by_key(|event| (event.creation_timestamp(), last_reported(event)));
        let newest = newest.filter(|event| event.data["reason"] == reason.as_str());
        row.findings.extend(newest.map(|event| Finding {
            reason,
            note: event.data["message"].as_str().unwrap_or_default().to_owned(),
        }));
    }
}

fn last_reported(event: &DynamicObject) -> Option<Timestamp> {
    let data = &event.data;
    let times = [
        &data["series"]["lastObservedTime"],
        &data["eventTime"],
        &data["lastTimestamp"],
    ];
    let times = times.into_iter().filter_map(|time| time.as_str()?.parse().ok());
    times.max()
}
