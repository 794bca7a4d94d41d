//! One look at a cluster: lists into an index, and a report from it.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ListParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use super::Error;
use super::report::{Leader, Report, Row, Told};
use crate::cli::Config;
use crate::error::one_line;
use crate::index::{Index, Scope};
use crate::model::{Defaults, Reason, ServiceKey, SliceKey};
use crate::watch::{copies_selector, named_selectors};

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Of so many Services that are out of step the Events are read.
const ASKED: usize = 20;

/// What lasts is said again every half hour; what was said longer ago is over.
const REPEATED: SignedDuration = SignedDuration::from_mins(35);

/// Looks, as often as it is asked to.
pub(super) struct Looker {
    client: Client,
    defaults: Defaults,
    lease_name: String,
    /// Where the Lease is, if that was said; else where the credentials belong.
    lease_namespace: Option<String>,
    own_namespace: String,
}

impl Looker {
    pub fn new(config: &Config, client: Client, own_namespace: &str) -> Self {
        Self {
            client,
            defaults: config.defaults.clone(),
            lease_name: config.election.lease_name.clone(),
            lease_namespace: config.election.namespace.clone(),
            own_namespace: own_namespace.to_owned(),
        }
    }

    /// Copies are listed before sources: a copy is never newer than what is seen of its source then.
    pub async fn look(&self) -> Result<Report, Error> {
        let mut index = Index::new(self.defaults.clone());
        let mut services = HashSet::new();
        for service in self.list::<Service>("").await? {
            services.insert(ServiceKey::of(&service.metadata));
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
        let leaders = self.leaders().await;
        let mut report = Report::of(&index, leaders, Timestamp::now());
        for row in report.services.iter_mut().filter(|row| !row.in_step).take(ASKED) {
            // Without the right to, or without Events, the table is still worth something.
            if let Ok(told) = self.told(row).await {
                row.findings.extend(told);
            }
        }
        Ok(report)
    }

    /// What only the leader knows, since it has tried: it says so by Events.
    async fn told(&self, row: &Row) -> Result<Option<Told>, kube::Error> {
        let api = Api::<Event>::namespaced(self.client.clone(), &row.namespace);
        let reasons = [Reason::WriteRefused, Reason::LegacyEndpoints].map(Reason::as_str);
        let of = format!("involvedObject.kind=Service,involvedObject.name={}", row.name);
        let events = api
            .list(&ListParams::default().fields(&of))
            .await?
            .items
            .into_iter();
        let told = events.filter_map(|event| {
            let reason = reasons
                .into_iter()
                .find(|reason| event.reason.as_deref() == Some(reason))?;
            let at = said(&event)?;
            let is_fresh = Timestamp::now().duration_since(at) < REPEATED;
            is_fresh.then(|| {
                (
                    at,
                    Told {
                        reason,
                        note: event.message.unwrap_or_default(),
                    },
                )
            })
        });
        Ok(told.max_by_key(|(at, _)| *at).map(|(_, told)| told))
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
        let api = Api::<K>::all(self.client.clone());
        let mut params = ListParams::default().limit(PAGE).labels(selector);
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

    /// The Lease; where its namespace was not said, of each operator that there is. That it may not be read is no
    /// reason to show nothing.
    async fn leaders(&self) -> Result<Vec<Leader>, String> {
        let found = match &self.lease_namespace {
            Some(namespace) => self.lease(namespace).await,
            None => match self.leases().await {
                Err(kube::Error::Api(status)) if status.code == 403 => self.lease(&self.own_namespace).await,
                found => found,
            },
        };
        let leases = found.map_err(|error| one_line(&error))?;
        Ok(leases.iter().map(Leader::of).collect())
    }

    async fn lease(&self, namespace: &str) -> Result<Vec<Lease>, kube::Error> {
        let api = Api::<Lease>::namespaced(self.client.clone(), namespace);
        Ok(api.get_opt(&self.lease_name).await?.into_iter().collect())
    }

    async fn leases(&self) -> Result<Vec<Lease>, kube::Error> {
        let params = ListParams::default().fields(&format!("metadata.name={}", self.lease_name));
        let list = Api::<Lease>::all(self.client.clone()).list(&params).await?;
        Ok(list.items)
    }
}

/// When an Event was last said.
fn said(event: &Event) -> Option<Timestamp> {
    let again = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    let times = [again, event.event_time.as_ref()];
    let last = times.into_iter().flatten().map(|time| time.0).max();
    last.or_else(|| event.last_timestamp.as_ref().map(|time| time.0))
}
