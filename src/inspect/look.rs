//! One look at a cluster: lists into an index, and a report from it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use super::Error;
use super::report::{Report, Row, Told, changed};
use crate::cli::Config;
use crate::error::one_line;
use crate::index::{Index, Scope};
use crate::metrics::Metrics;
use crate::model::{Defaults, Reason, ServiceKey, SliceKey};
use crate::watch::{copies_selector, named_selectors};

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Where Events of all namespaces may not be listed, those of so many are.
const NAMESPACES: usize = 20;

/// Findings of the leader alone, since it has tried: it tells them by Events.
const TOLD: [Reason; 2] = [Reason::WriteRefused, Reason::LegacyEndpoints];

/// What lasts is said again every half hour; what was said longer ago is over.
const REPEATED: SignedDuration = SignedDuration::from_mins(35);

/// Looks, as often as it is asked to.
pub(super) struct Looker {
    client: Client,
    metrics: Metrics,
    defaults: Defaults,
    lease_name: String,
    /// Where the Lease is, if that was said; else where the credentials belong.
    lease_namespace: Option<String>,
    own_namespace: String,
}

impl Looker {
    pub fn new(config: &Config, client: Client, own_namespace: &str, metrics: Metrics) -> Self {
        Self {
            client,
            metrics,
            defaults: config.defaults.clone(),
            lease_name: config.election.lease_name.clone(),
            lease_namespace: config.election.namespace.clone(),
            own_namespace: own_namespace.to_owned(),
        }
    }

    /// Copies are listed before sources: a copy is never newer than what is seen of its source then.
    pub async fn look(&self) -> Result<Report, Error> {
        let mut index = Index::new(self.defaults.clone());
        let (mut services, mut edited) = (HashSet::new(), HashMap::new());
        for service in self.list::<Service>("").await? {
            let key = ServiceKey::of(&service.metadata);
            edited.extend(changed(&service.metadata).map(|at| (key.clone(), at)));
            services.insert(key);
            index.apply_service(&service);
        }
        index.services_listed(&services);
        self.list_slices(&mut index, &Scope::Copies, &copies_selector())
            .await?;
        let names = index.names();
        for (names, selector) in named_selectors(&names) {
            let scope = Scope::Named(Arc::new(names));
            self.list_slices(&mut index, &scope, &selector).await?;
        }
        let leases = self.leases().await.map_err(|error| one_line(&error));
        let now = self.now();
        let mut report = Report::of(&index, &edited, leases, now);
        let mut behind: Vec<_> = report.services.iter_mut().filter(|row| !row.in_step).collect();
        if behind.is_empty() {
            return Ok(report);
        }
        for reason in TOLD {
            match self.events(reason, &behind).await {
                Ok(events) => tell(&mut behind, reason, &events, now),
                // The table is still worth something.
                Err(error) => {
                    report.events_error = Some(one_line(&error));
                    break;
                }
            }
        }
        Ok(report)
    }

    /// By the clock of the API server, as far as it is known: that of a laptop may be off by more than a Lease lasts.
    fn now(&self) -> Timestamp {
        let skew = SignedDuration::try_from_secs_f64(self.metrics.clock_skew());
        Timestamp::now() - skew.unwrap_or_default()
    }

    /// Events on Services of this reason: all, or where these rows are.
    async fn events(&self, reason: Reason, rows: &[&mut Row]) -> Result<Vec<DynamicObject>, kube::Error> {
        let events = ApiResource::erase::<Event>(&());
        let fields = format!("involvedObject.kind=Service,reason={}", reason.as_str());
        let params = ListParams::default().limit(PAGE).fields(&fields);
        let all = Api::all_with(self.client.clone(), &events);
        match pages(&all, params.clone()).await {
            Err(kube::Error::Api(status)) if status.code == 403 => {}
            all => return all,
        }
        let namespaces: BTreeSet<_> = rows.iter().map(|row| &row.namespace).collect();
        let mut found = Vec::new();
        for namespace in namespaces.into_iter().take(NAMESPACES) {
            let api = Api::namespaced_with(self.client.clone(), namespace, &events);
            found.extend(pages(&api, params.clone()).await?);
        }
        Ok(found)
    }

    async fn list_slices(&self, index: &mut Index, scope: &Scope, selector: &str) -> Result<(), Error> {
        let mut listed = HashSet::new();
        for slice in self.list::<EndpointSlice>(selector).await? {
            listed.insert(SliceKey::of(&slice.metadata));
            index.list_slice(scope, slice);
        }
        index.slices_listed(scope, &listed);
        Ok(())
    }

    async fn list<K>(&self, selector: &str) -> Result<Vec<K>, kube::Error>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let params = ListParams::default().limit(PAGE).labels(selector);
        pages(&Api::all(self.client.clone()), params).await
    }

    /// The Lease; where its namespace was not said, of each operator that there is. That it may not be read is no
    /// reason to show nothing.
    async fn leases(&self) -> Result<Vec<Lease>, kube::Error> {
        if let Some(namespace) = &self.lease_namespace {
            return self.lease(namespace).await;
        }
        let params = ListParams::default().fields(&format!("metadata.name={}", self.lease_name));
        match pages(&Api::all(self.client.clone()), params).await {
            Err(kube::Error::Api(status)) if status.code == 403 => self.lease(&self.own_namespace).await,
            all => all,
        }
    }

    async fn lease(&self, namespace: &str) -> Result<Vec<Lease>, kube::Error> {
        let api = Api::<Lease>::namespaced(self.client.clone(), namespace);
        Ok(api.get_opt(&self.lease_name).await?.into_iter().collect())
    }
}

/// A whole list.
async fn pages<K>(api: &Api<K>, mut params: ListParams) -> Result<Vec<K>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut items = Vec::new();
    loop {
        let page = api.list(&params).await?;
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(items),
        }
    }
}

/// Adds to each row the newest Event on its Service that still holds.
fn tell(rows: &mut [&mut Row], reason: Reason, events: &[DynamicObject], now: Timestamp) {
    for row in rows {
        let is_on = |event: &&DynamicObject| {
            let of = &event.data["involvedObject"];
            event.data["reason"] == reason.as_str()
                && of["namespace"] == *row.namespace
                && of["name"] == *row.name
        };
        let on = events.iter().filter(is_on);
        let fresh = on.filter_map(|event| {
            let at = said(event)?;
            (now.duration_since(at) < REPEATED).then_some((at, event))
        });
        let newest = fresh.max_by_key(|(at, _)| *at);
        row.findings.extend(newest.map(|(_, event)| Told {
            reason: reason.as_str(),
            note: event.data["message"].as_str().unwrap_or_default().to_owned(),
        }));
    }
}

/// When an Event was last said.
fn said(event: &DynamicObject) -> Option<Timestamp> {
    let data = &event.data;
    let times = [
        &data["series"]["lastObservedTime"],
        &data["eventTime"],
        &data["lastTimestamp"],
    ];
    let times = times.into_iter().filter_map(|time| time.as_str()?.parse().ok());
    times.max()
}
