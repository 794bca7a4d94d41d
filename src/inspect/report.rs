//! What there is to tell of a cluster at one moment. Pure: an index in, a report out.

use std::collections::BTreeSet;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use super::changes::{Change, changes};
use crate::index::Index;
use crate::model::{EndpointCounts, Finding, ServiceKey, ServiceState, Snapshot, ours};
use crate::plan::{Plan, plan};

/// All that is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// When the lists began, by the clock here.
    pub at: Option<Timestamp>,
    /// Every Service is.
    pub in_step: bool,
    pub services: Vec<Row>,
    /// The Leases by which replicas are elected.
    pub leaders: Vec<Leader>,
    /// Why the Lease could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaders_error: Option<String>,
}

/// One Service that is managed, or was.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub namespace: String,
    pub name: String,
    /// `<namespace>/<name>`; none where the Service names none that is valid.
    pub source: Option<String>,
    pub families: Vec<&'static str>,
    /// Endpoints of the source, of these families.
    pub source_endpoints: Count,
    /// Endpoints of our copies.
    pub copy_endpoints: Count,
    pub in_step: bool,
    /// The last change of the copies if they are in step, else of the source.
    pub since: Option<Timestamp>,
    pub findings: Vec<Told>,
    /// What would be written.
    pub changes: Vec<Change>,
}

/// Endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Count {
    pub ready: usize,
    pub total: usize,
}

/// A finding, as Events tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Told {
    pub reason: &'static str,
    pub note: String,
}

/// A Lease.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Leader {
    pub namespace: String,
    /// None: it was released, or nobody has taken it.
    pub holder: Option<String>,
    pub since: Option<Timestamp>,
    pub renewed: Option<Timestamp>,
    pub duration_seconds: Option<i32>,
    pub transitions: Option<i32>,
}

impl Report {
    pub fn of(index: &Index, leaders: Result<Vec<Leader>, String>, at: Timestamp) -> Self {
        let rows = index.all().into_iter().filter_map(|key| Row::of(index, &key));
        let services: Vec<_> = rows.collect();
        let (leaders, leaders_error) = match leaders {
            Ok(leaders) => (leaders, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        Self {
            at: Some(at),
            in_step: services.iter().all(|row| row.in_step),
            services,
            leaders,
            leaders_error,
        }
    }

    /// The same, but for what passes by itself.
    pub fn without_ages(&self) -> Self {
        let mut report = self.clone();
        report.at = None;
        for leader in &mut report.leaders {
            leader.renewed = None;
        }
        report
    }

    /// What would be written, Service by Service.
    pub fn changes(&self) -> Vec<ServiceChanges<'_>> {
        let with_changes = self.services.iter().filter(|row| !row.changes.is_empty());
        with_changes
            .map(|row| ServiceChanges {
                namespace: &row.namespace,
                name: &row.name,
                source: row.source.as_deref(),
                changes: &row.changes,
            })
            .collect()
    }
}

/// What would be written for one Service.
#[derive(Debug, Serialize)]
pub(super) struct ServiceChanges<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub source: Option<&'a str>,
    pub changes: &'a [Change],
}

impl Row {
    fn of(index: &Index, key: &ServiceKey) -> Option<Self> {
        let (snapshot, plan) = decide(index, key)?;
        let copies = || {
            snapshot
                .slices
                .iter()
                .filter(|slice| ours(slice).as_ref() == Some(key))
        };
        let families = match &snapshot.service {
            ServiceState::Managed(service) => service.families.clone(),
            ServiceState::Absent | ServiceState::Unmanaged => Vec::new(),
        };
        let source_slices = snapshot.source.iter().flat_map(|source| &source.slices);
        let source = index.endpoints(key).map(|endpoints| endpoints.source);
        let is_right = |finding: &Finding| !finding.reason.leaves_undone();
        let in_step = plan.is_done() && plan.findings.iter().all(is_right);
        let since = if in_step {
            copies().filter_map(|slice| changed(&slice.metadata)).max()
        } else {
            source_slices.filter_map(|slice| changed(&slice.metadata)).max()
        };
        Some(Self {
            namespace: key.namespace().to_owned(),
            name: key.name().to_owned(),
            source: snapshot.source.as_ref().map(|source| source.key.to_string()),
            families: families.iter().map(|family| family.as_str()).collect(),
            source_endpoints: Count::of(source.unwrap_or_default()),
            copy_endpoints: Count::of(EndpointCounts::of(copies().map(AsRef::as_ref))),
            in_step,
            since,
            findings: plan.findings.iter().map(Told::of).collect(),
            changes: changes(&snapshot, &plan),
        })
    }
}

/// What the operator would decide. Sources were listed after copies, so that what is seen of them is the latest.
fn decide(index: &Index, key: &ServiceKey) -> Option<(Snapshot, Plan)> {
    let mut snapshot = index.snapshot(key)?;
    let mut confirmed = BTreeSet::new();
    loop {
        let plan = plan(&snapshot);
        let before = confirmed.len();
        confirmed.extend(plan.confirm.iter().cloned());
        if confirmed.len() == before {
            return Some((snapshot, plan));
        }
        snapshot.confirmed.clone_from(&confirmed);
    }
}

/// When an object was last changed, as far as the API server tells.
fn changed(metadata: &ObjectMeta) -> Option<Timestamp> {
    let writes = metadata.managed_fields.iter().flatten();
    let last = writes
        .filter_map(|write| write.time.as_ref())
        .map(|time| time.0)
        .max();
    last.or_else(|| metadata.creation_timestamp.as_ref().map(|time| time.0))
}

impl Count {
    fn of(counts: EndpointCounts) -> Self {
        let EndpointCounts {
            ready,
            unready,
            terminating,
        } = counts;
        Self {
            ready,
            total: ready + unready + terminating,
        }
    }
}

impl Told {
    fn of(finding: &Finding) -> Self {
        Self {
            reason: finding.reason.as_str(),
            note: finding.note.clone(),
        }
    }
}

impl Leader {
    pub fn of(lease: &Lease) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        Self {
            namespace: lease.metadata.namespace.clone().unwrap_or_default(),
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            since: spec.acquire_time.map(|time| time.0),
            renewed: spec.renew_time.map(|time| time.0),
            duration_seconds: spec.lease_duration_seconds,
            transitions: spec.lease_transitions,
        }
    }
}
