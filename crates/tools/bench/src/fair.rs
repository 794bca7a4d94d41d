//! Many managed Services that copy one source, and their effect on other Services.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use harness::objects::{managed, slice};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use testbed::{Effect, Fault, Match};

use crate::copies::{Copies, NOT_SHOWN};
use crate::cost::NO_PROBES;
use crate::rows::Outcome;
use crate::stage::Stage;

/// The flag that allows more managed Services in one namespace than the default.
const RAISED_LIMIT: &[&str] = &["--max-services-per-namespace=10000"];

/// The API source. A managed Service in another namespace may copy only ports that the slices of this source have, or
/// that `--allow-port` names.
const API_SOURCE: (&str, &str) = ("default", "kubernetes");

/// The namespace of the other tenant, whose delay is measured.
const OTHER_NAMESPACE: &str = "other";

/// The number of changes from which a percentile is taken.
const CHANGES: usize = 30;

/// The number of changes while another tenant is busy. The result is the slowest change.
const FEW_CHANGES: usize = 5;

/// The number of Services whose writes hang.
const HANGING_SERVICES: usize = 4;

/// Measures the time from a change to a source until the copies of all Services that copy the source show the change.
pub async fn fan_out(stage: &mut Stage, services: usize) -> anyhow::Result<Outcome> {
    stage.flags = RAISED_LIMIT;
    let tenant = Tenant::new(stage, services).await;
    stage.begin(1).await?;
    tenant.change_and_wait(stage, services).await?;
    let address = tenant.change(stage).await;
    let start = Instant::now();
    let last = tenant
        .copies
        .until_shown(&address, services)
        .await
        .context(NOT_SHOWN)?;
    Ok(Outcome::Took(last.saturating_duration_since(start)))
}

/// Measures the time until a change reaches the copy of `default/kubernetes-vip` while Services of another namespace
/// copy the same source. Returns this percentile of the times.
pub async fn vip_delay(stage: &mut Stage, services: usize, percentile: usize) -> anyhow::Result<Outcome> {
    stage.flags = NO_PROBES;
    let namespace = format!("vips-{services}");
    create_services(stage, &namespace, services, API_SOURCE).await;
    let copies = Copies::watch(&stage.cluster, &namespace);
    stage.begin(1).await?;
    let mut took = Vec::new();
    for _ in 0..CHANGES {
        let address = stage.change().await;
        let start = Instant::now();
        took.push(stage.shown(&address).await?.saturating_duration_since(start));
        copies.until_shown(&address, services).await.context(NOT_SHOWN)?;
    }
    took.sort();
    Ok(Outcome::Took(took[(CHANGES * percentile).div_ceil(100) - 1]))
}

/// Measures the longest time until a change reaches a Service of another namespace while many Services of a tenant wait
/// for a sync.
pub async fn busy_tenant(stage: &mut Stage, services: usize) -> anyhow::Result<Outcome> {
    stage.flags = RAISED_LIMIT;
    let tenant = Tenant::new(stage, services).await;
    let other = Tenant::in_namespace(stage, OTHER_NAMESPACE, 1).await;
    stage.begin(1).await?;
    tenant.change_and_wait(stage, services).await?;
    other.change_and_wait(stage, 1).await?;
    let mut slowest = Duration::ZERO;
    for _ in 0..FEW_CHANGES {
        let address = tenant.change(stage).await;
        slowest = slowest.max(other.copy_delay(stage).await?);
        tenant
            .copies
            .until_shown(&address, services)
            .await
            .context(NOT_SHOWN)?;
    }
    Ok(Outcome::Took(slowest))
}

/// Measures the longest time until a change reaches a Service of another namespace while writes of a tenant hang.
pub async fn hanging_writes(stage: &mut Stage) -> anyhow::Result<Outcome> {
    if stage.cluster.testbed().is_none() {
        return Ok(Outcome::Skipped(
            "only the testbed can make writes hang".to_owned(),
        ));
    }
    let tenant = Tenant::in_namespace(stage, "hanging", HANGING_SERVICES).await;
    let other = Tenant::in_namespace(stage, OTHER_NAMESPACE, 1).await;
    stage.begin(1).await?;
    tenant.change_and_wait(stage, HANGING_SERVICES).await?;
    other.change_and_wait(stage, 1).await?;
    let updates = Match::any()
        .verb("update")
        .resource("endpointslices")
        .namespace("hanging");
    for server in stage.cluster.testbed_servers() {
        server.faults().add(Fault::new(updates.clone(), Effect::Hang));
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..FEW_CHANGES {
        tenant.change(stage).await;
        slowest = slowest.max(other.copy_delay(stage).await?);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for server in stage.cluster.testbed_servers() {
        server.faults().clear();
    }
    Ok(Outcome::Took(slowest))
}

/// A namespace with a source and the managed Services that copy it.
struct Tenant {
    namespace: String,
    copies: Copies,
}

impl Tenant {
    async fn new(stage: &mut Stage, services: usize) -> Self {
        Self::in_namespace(stage, &format!("tenant-{services}"), services).await
    }

    async fn in_namespace(stage: &mut Stage, namespace: &str, services: usize) -> Self {
        create_services(stage, namespace, services, (namespace, "app")).await;
        let tenant = Self {
            namespace: namespace.to_owned(),
            copies: Copies::watch(&stage.cluster, namespace),
        };
        tenant.change(stage).await;
        tenant
    }

    /// Changes the source, and returns the new address.
    async fn change(&self, stage: &mut Stage) -> String {
        let address = stage.new_address();
        let slice = slice(&self.namespace, "app", "app-x7k2p", &[&address]);
        stage.cluster.put::<EndpointSlice>(slice).await;
        address
    }

    /// Changes the source, and waits until all copies show the new address.
    async fn change_and_wait(&self, stage: &mut Stage, services: usize) -> anyhow::Result<()> {
        let address = self.change(stage).await;
        self.copies
            .until_shown(&address, services)
            .await
            .context(NOT_SHOWN)?;
        Ok(())
    }

    /// Measures the time until a change to the source reaches the only copy.
    async fn copy_delay(&self, stage: &mut Stage) -> anyhow::Result<Duration> {
        let address = self.change(stage).await;
        let start = Instant::now();
        let shown = self.copies.until_shown(&address, 1).await.context(NOT_SHOWN)?;
        Ok(shown.saturating_duration_since(start))
    }
}

/// Creates a namespace and its managed Services, unless an earlier row has created them.
async fn create_services(stage: &Stage, namespace: &str, count: usize, source: (&str, &str)) {
    let cluster = &stage.cluster;
    let namespaces: Vec<Namespace> = Api::all(cluster.client())
        .list(&ListParams::default())
        .await
        .expect("an API server")
        .items;
    if !namespaces
        .iter()
        .any(|known| known.metadata.name.as_deref() == Some(namespace))
    {
        cluster.namespace(namespace).await;
    }
    let known = cluster.list::<Service>(namespace).await;
    let known: BTreeSet<_> = known
        .into_iter()
        .filter_map(|service| service.metadata.name)
        .collect();
    let names = (0..count).map(|number| format!("service-{number}"));
    let missing: Vec<_> = names.filter(|name| !known.contains(name)).collect();
    stream::iter(missing)
        .for_each_concurrent(16, async |name| {
            let mut service = managed(namespace, &name, source.0, source.1);
            // A cluster IP for each Service would exhaust the range.
            service["spec"]["clusterIP"] = "None".into();
            if source == API_SOURCE {
                service["spec"]["ports"] = json!([{"name": "https", "port": 6443, "targetPort": 6443}]);
            }
            cluster.create::<Service>(service).await;
        })
        .await;
}
