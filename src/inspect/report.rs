//! The state of a cluster at one point in time, for the commands that inspect it. All functions are pure: they turn an
//! index into a report.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::changes::{PlannedWrite, changes};
use super::dated::Dates;
use crate::leader_election::Lease;
use endpoint_copier_core::index::Index;
use endpoint_copier_core::model::{EndpointCounts, Finding, Reason, ServiceKey, Snapshot, is_in_sync};
use endpoint_copier_core::plan::{Plan, Verdicts, plan};

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClusterReport {
    /// When everything was read, by the API server's clock if that is known, and by our own otherwise.
    pub at: Timestamp,
    /// Whether every Service is in sync.
    pub in_sync: bool,
    pub services: Vec<Row>,
    /// The Leases with which replicas are elected.
    pub leaders: Vec<Leader>,
    /// Why the Lease could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaders_error: Option<String>,
    /// Why Events could not be read, in which case findings that only Events show may be missing. Except for `doctor`,
    /// Events are read only while a Service is out of sync.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_error: Option<String>,
}

/// One Service that is or was managed, or that is disabled while the operator still has something to delete.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub namespace: String,
    pub name: String,
    /// Whether the Service is managed, by its annotation or by the flags of this command.
    pub managed: bool,
    /// Whether the annotation says that the Service is not managed.
    #[serde(skip)]
    pub disabled: bool,
    /// The UID of the Service; empty if it is not known.
    #[serde(skip)]
    pub uid: String,
    /// The number of slices of the Go operator that would be deleted.
    #[serde(skip)]
    pub leftovers: usize,
    /// `<namespace>/<name>`, even if that source may not be copied. `None` if the Service is not managed, cannot have
    /// copies, or names no valid source.
    pub source: Option<String>,
    pub families: Vec<&'static str>,
    /// Endpoints of the source in these families.
    pub source_endpoints: ReadyCount,
    /// Endpoints of our copies.
    pub copy_endpoints: ReadyCount,
    /// The addresses of endpoints that our copies show as not ready because the API servers failed the probes of a
    /// replica.
    pub taken_out: BTreeSet<IpAddr>,
    pub in_sync: bool,
    /// The time of the last change to the copies if they are in sync. Otherwise, the time of the last change to the
    /// Service or its source, whichever is later.
    pub since: Option<Timestamp>,
    pub findings: Vec<Finding>,
    /// The writes that the operator would make.
    pub changes: Vec<PlannedWrite>,
}

/// The number of endpoints, and how many of them are ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ReadyCount {
    pub ready: usize,
    pub total: usize,
}

/// The state of one Lease.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Leader {
    pub namespace: String,
    /// `None` if the Lease was released, or if no replica has taken it.
    pub holder: Option<String>,
    /// Whether the Lease has a holder that has renewed it in time.
    pub leads: bool,
    pub since: Option<Timestamp>,
    pub renewed: Option<Timestamp>,
    pub duration_seconds: Option<i64>,
    pub transitions: Option<i64>,
}

impl ClusterReport {
    /// Creates a report. `changed` contains the times of the last changes, and `at` is the current time by the clock of
    /// the API server.
    pub fn of(index: &Index, changed: &Dates, leases: &[Lease], at: Timestamp) -> Self {
        let keys = index.all().into_iter();
        let rows = keys.filter_map(|key| Row::of(index, &key, changed));
        let services: Vec<_> = rows.collect();
        let leaders = leases.iter().map(|lease| Leader::of(lease, at)).collect();
        Self {
            at,
            in_sync: services.iter().all(|row| row.in_sync),
            services,
            leaders,
            leaders_error: None,
            events_error: None,
        }
    }

    /// Returns the Services with writes that the operator would make.
    pub fn to_write(&self) -> impl Iterator<Item = &Row> {
        self.services.iter().filter(|row| !row.changes.is_empty())
    }

    /// Returns the findings about sources and ports that Services may not copy.
    pub fn without_consent(&self) -> impl Iterator<Item = (&Row, &Finding)> {
        let is_about_consent =
            |finding: &Finding| matches!(finding.reason, Reason::NotPermitted | Reason::PortNotPermitted);
        let all = self.services.iter();
        let all = all.flat_map(|row| row.findings.iter().map(move |finding| (row, finding)));
        all.filter(move |(_, finding)| is_about_consent(finding))
    }

    /// Returns the findings of [`Self::without_consent`] as one JSON document.
    pub fn consent(&self) -> Value {
        let of_service = |(row, finding): (&Row, &Finding)| json!({"namespace": row.namespace, "name": row.name, "source": row.source, "reason": finding.reason, "note": finding.note});
        let services: Vec<_> = self.without_consent().map(of_service).collect();
        json!({"at": self.at, "services": services})
    }

    /// Returns the writes of each Service, as one JSON document.
    pub fn plan(&self) -> Value {
        let of_service = |row: &Row| json!({"namespace": row.namespace, "name": row.name, "source": row.source, "changes": row.changes});
        let services: Vec<_> = self.to_write().map(of_service).collect();
        json!({"at": self.at, "services": services})
    }
}

impl Row {
    /// Returns the key of the Service.
    pub fn key(&self) -> ServiceKey {
        ServiceKey::new(&*self.namespace, &*self.name)
    }

    fn of(index: &Index, key: &ServiceKey, changed: &Dates) -> Option<Self> {
        let (snapshot, plan) = decide(index, key)?;
        let managed = snapshot.service.as_ref();
        let disabled = managed.is_some_and(|service| !service.is_managed());
        let managed = managed.filter(|_| !disabled);
        if disabled && plan.is_done() && snapshot.copies.is_empty() {
            return None;
        }
        let families = managed
            .map(|service| service.families.clone())
            .unwrap_or_default();
        let source_slices = snapshot.source.iter().flat_map(|source| source.slices.values());
        let source = index.endpoints(key).map(|endpoints| endpoints.source);
        let in_sync = is_in_sync(plan.is_done(), &plan.findings);
        let since = if in_sync {
            snapshot
                .copies
                .values()
                .filter_map(|slice| changed.of_slice(&slice.metadata))
                .max()
        } else {
            let source = source_slices.filter_map(|slice| changed.of_slice(&slice.metadata));
            source.chain(changed.services.get(key).copied()).max()
        };
        let count = |counts: EndpointCounts| ReadyCount {
            ready: counts.ready,
            total: counts.total(),
        };
        Some(Self {
            namespace: key.namespace().to_owned(),
            name: key.name().to_owned(),
            managed: managed.is_some(),
            disabled,
            uid: snapshot
                .service
                .as_ref()
                .map(|service| service.uid.clone())
                .unwrap_or_default(),
            leftovers: plan.leftovers.len(),
            source: managed
                .and_then(|service| service.source())
                .map(ToString::to_string),
            families: families.iter().map(|family| family.as_str()).collect(),
            source_endpoints: count(source.unwrap_or_default()),
            copy_endpoints: count(EndpointCounts::of(snapshot.copies.values().map(AsRef::as_ref))),
            taken_out: snapshot
                .copies
                .values()
                .flat_map(|copy| copy.unreachable())
                .collect(),
            in_sync,
            since,
            changes: changes(&snapshot, &plan),
            findings: plan.findings,
        })
    }
}

/// Returns the snapshot and the plan that the operator would make. Source slices were listed after copies, so their
/// listed state counts as confirmed.
fn decide(index: &Index, key: &ServiceKey) -> Option<(Snapshot, Plan)> {
    let mut snapshot = index.snapshot(key)?;
    let mut confirmed = BTreeSet::new();
    loop {
        // This process has no results of probes, but the copies record which endpoints are taken out.
        let plan = plan(&snapshot, &Verdicts::AsCopied);
        let before = confirmed.len();
        confirmed.extend(plan.confirm.iter().cloned());
        if confirmed.len() == before {
            return Some((snapshot, plan));
        }
        snapshot.confirmed.clone_from(&confirmed);
    }
}

impl Leader {
    pub fn of(lease: &Lease, at: Timestamp) -> Self {
        let spec = lease.spec.clone();
        // A time that cannot be parsed counts as absent: the API server accepts times that this client cannot parse.
        let moment = |time: Option<String>| time.and_then(|time| time.parse().ok());
        let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
        let renewed = moment(spec.renew_time);
        let limit = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or(0));
        let is_alive = |renewed: Timestamp| at.duration_since(renewed) <= limit;
        Self {
            namespace: lease.metadata.namespace.clone().unwrap_or_default(),
            leads: holder.is_some() && renewed.is_some_and(is_alive),
            holder,
            since: moment(spec.acquire_time),
            renewed,
            duration_seconds: spec.lease_duration_seconds,
            transitions: spec.lease_transitions,
        }
    }
}
