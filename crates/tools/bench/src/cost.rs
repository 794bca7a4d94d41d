//! The cost of a change, of an idle operator, and of a large cluster.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, stream};
use harness::Operator;
use harness::objects::{managed, slice};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::PostParams;
use tokio::time::sleep;

use crate::copies::{Copies, NOT_SHOWN};
use crate::outage::until_copied;
use crate::rows::{Idle, Outcome};
use crate::stage::Stage;

/// The number of changes from which a percentile is taken.
const CHANGES: usize = 500;

/// The pause between a change that has been copied and the next one.
const PAUSE: Duration = Duration::from_millis(30);

/// How long CPU use and requests are measured.
const IDLE: Duration = Duration::from_secs(30);

/// How long an operator may take to become idle before it is measured.
const SETTLE: Duration = Duration::from_secs(15);

/// The flag that disables probes, because the endpoints of the bench are not API servers.
pub const NO_PROBES: &[&str] = &["--probe=off"];

/// Measures how much longer a copy takes than a bare PUT of a slice of the same size in the same run. The time of a
/// copy runs from the response to a write of the source until a watch shows the copy. Returns the difference between
/// the copies and the PUTs at this percentile.
pub async fn beyond_a_put(stage: &mut Stage, percentile: usize) -> anyhow::Result<Outcome> {
    stage.flags = NO_PROBES;
    stage.begin(1).await?;
    let (mut copied, mut bare) = (Vec::new(), Vec::new());
    let slices = Api::<EndpointSlice>::namespaced(stage.cluster.client(), "default");
    let object = slice("default", "bare", "bare-x7k2p", &[&stage.new_address()]);
    let mut object = stage.cluster.put::<EndpointSlice>(object).await;
    let params = PostParams::default();
    for _ in 0..CHANGES {
        let address = stage.change().await;
        let answered = Instant::now();
        copied.push(stage.shown(&address).await?.saturating_duration_since(answered));
        for endpoint in object.endpoints.iter_mut().flatten() {
            endpoint.addresses = vec![stage.new_address()];
        }
        let start = Instant::now();
        let written = slices.replace("bare-x7k2p", &params, &object).await;
        object = written?;
        bare.push(start.elapsed());
        sleep(PAUSE).await;
    }
    let at = |times: &mut Vec<Duration>| {
        times.sort();
        times[(CHANGES * percentile).div_ceil(100) - 1]
    };
    Ok(Outcome::Took(at(&mut copied).saturating_sub(at(&mut bare))))
}

/// Measures the CPU time of the leader for each change to a source. This time includes everything that the leader does
/// until the next change.
pub async fn cpu_of_a_change(stage: &mut Stage) -> anyhow::Result<Outcome> {
    stage.flags = NO_PROBES;
    let leader = stage.begin(1).await?;
    let before = stage.replicas[leader].cpu_time();
    for _ in 0..CHANGES {
        let address = stage.change().await;
        stage.shown(&address).await?;
        sleep(PAUSE).await;
    }
    let took = stage.replicas[leader].cpu_time().saturating_sub(before);
    Ok(Outcome::Took(took / u32::try_from(CHANGES).unwrap_or(u32::MAX)))
}

/// Measures one cost of a leader or a standby while nothing happens.
pub async fn idle(stage: &mut Stage, what: Idle) -> anyhow::Result<Outcome> {
    stage.flags = NO_PROBES;
    let leader = stage.begin(2).await?;
    sleep(SETTLE).await;
    let (leader, standby) = (&stage.replicas[leader], &stage.replicas[1 - leader]);
    Ok(Outcome::Measured(match what {
        Idle::LeaderCpu => cpu(leader).await,
        Idle::StandbyCpu => cpu(standby).await,
        Idle::LeaderRequests => {
            let before = leader.sent_requests().await;
            sleep(IDLE).await;
            leader.sent_requests().await - before
        }
        Idle::LeaderMemory => mebibytes(leader),
    }))
}

/// Measures the memory of a leader, or of a standby, in a cluster with 1,000 Services, half of them managed, and 5,000
/// slices.
pub async fn large(stage: &mut Stage, of_leader: bool) -> anyhow::Result<Outcome> {
    fill(stage).await;
    stage.flags = NO_PROBES;
    let leader = stage.begin(2).await?;
    until_copied(stage, leader, MANAGED).await;
    sleep(SETTLE).await;
    let replica = if of_leader { leader } else { 1 - leader };
    Ok(Outcome::Measured(mebibytes(&stage.replicas[replica])))
}

/// Measures the time from the start of the process until all copies exist, in the cluster of [`large`].
pub async fn cold_start(stage: &mut Stage) -> anyhow::Result<Outcome> {
    fill(stage).await;
    stage.flags = NO_PROBES;
    let copies = Copies::watch(&stage.cluster, "default");
    let start = Instant::now();
    stage.start_replica();
    let last = copies
        .until_shown(&ADDRESSES.join(","), MANAGED)
        .await
        .context(NOT_SHOWN)?;
    Ok(Outcome::Took(last.saturating_duration_since(start)))
}

/// Measures the CPU share of a leader while a slice that the leader does not need changes up to 40 times a second.
pub async fn churn(stage: &mut Stage) -> anyhow::Result<Outcome> {
    stage.flags = NO_PROBES;
    let leader = stage.begin(1).await?;
    sleep(SETTLE).await;
    let changes = async {
        for number in 0_u32.. {
            let [.., high, low] = number.to_be_bytes();
            let object = slice(
                "default",
                "churn",
                "churn-x7k2p",
                &[&format!("198.19.{high}.{low}")],
            );
            stage.cluster.put::<EndpointSlice>(object).await;
            sleep(Duration::from_millis(25)).await;
        }
    };
    tokio::select! {
        share = cpu(&stage.replicas[leader]) => Ok(Outcome::Measured(share)),
        () = changes => bail!("the changes ended"),
    }
}

/// The addresses of each source in a large cluster.
const ADDRESSES: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

/// The number of managed Services in a large cluster, each with a source of one slice.
const MANAGED: usize = 500;

/// The number of all Services in a large cluster.
const SERVICES: usize = 1_000;

/// The number of slices in a large cluster. Each belongs to a different Service.
const SLICES: usize = 5_000;

/// Creates the objects of a large cluster.
async fn fill(stage: &Stage) {
    let cluster = &stage.cluster;
    stream::iter(0..SLICES)
        .for_each_concurrent(16, async |number| {
            let (source, name) = (format!("app-{number}"), format!("app-{number}-x7k2p"));
            let object = slice("default", &source, &name, &ADDRESSES);
            cluster.put::<EndpointSlice>(object).await;
        })
        .await;
    stream::iter(0..SERVICES)
        .for_each_concurrent(16, async |number| {
            let name = format!("service-{number}");
            let mut object = managed("default", &name, "default", &format!("app-{number}"));
            object["spec"]["clusterIP"] = "None".into();
            if number >= MANAGED {
                object["metadata"]["annotations"] = serde_json::json!({});
            }
            cluster.create::<Service>(object).await;
        })
        .await;
}

/// Measures the share of one CPU that a replica uses, in percent.
async fn cpu(replica: &Operator) -> f64 {
    let (before, start) = (replica.cpu_time(), Instant::now());
    sleep(IDLE).await;
    let used = replica.cpu_time().saturating_sub(before);
    100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a process has less than 2^52 bytes")]
fn mebibytes(replica: &Operator) -> f64 {
    replica.memory() as f64 / 1_048_576.0
}
