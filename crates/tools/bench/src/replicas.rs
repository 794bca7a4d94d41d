//! Faults of replicas and of their Lease.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::{LEASE, leader as leader_of};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;

use crate::outage::{many, until_copied};
use crate::rows::Outcome;
use crate::stage::Stage;

/// The number of changes. They are far enough apart that no change waits because of an earlier one.
const CHANGES: usize = 100;
const APART: Duration = Duration::from_millis(100);

/// Measures the time from the start of the process to the first copy.
pub async fn cold_start(stage: &mut Stage) -> Result<Outcome, String> {
    let change = stage.change().await;
    stage.watch("kubernetes-vip").await;
    let start = Instant::now();
    stage.start_replica();
    Ok(Outcome::Took(stage.shown(&change).await? - start))
}

/// Sends a signal to the leader of three replicas at the worst moment.
pub async fn leader(stage: &mut Stage, signal: &str) -> Result<Outcome, String> {
    let first = stage.begin(3).await?;
    stage.renewed().await;
    let start = Instant::now();
    stage.replicas[first].signal(signal);
    let change = stage.change().await;
    let took = stage.shown(&change).await? - start;
    // A frozen process that is killed cannot release the Lease.
    stage.replicas.remove(first);
    stage.all_run()?;
    Ok(Outcome::Took(took))
}

/// The replicas that write after a leader resumes that was frozen for longer than its lease.
pub async fn thawed(stage: &mut Stage) -> Result<Outcome, String> {
    let first = stage.begin(3).await?;
    let frozen = stage.replicas.remove(first);
    frozen.signal("STOP");
    // Changes are pending when it resumes.
    let change = stage.change().await;
    stage.shown(&change).await?;
    leader_of(&stage.replicas).await;
    let before = stage.cluster.slice_writes();
    frozen.signal("CONT");
    stage.keep_changing(Duration::from_secs(10)).await;
    stage.replicas.push(frozen);
    writers(stage, &before).await
}

/// The replicas that write while an administrator empties the Lease.
pub async fn lease_emptied(stage: &mut Stage) -> Result<Outcome, String> {
    stage.begin(3).await?;
    let before = stage.cluster.slice_writes();
    let empty = json!({"spec": {"holderIdentity": ""}});
    stage.cluster.patch::<Lease>("default", LEASE, empty).await;
    stage.keep_changing(Duration::from_secs(11)).await;
    writers(stage, &before).await
}

/// Sends a signal to the only replica, and starts it again after it has ended.
pub async fn restarted(stage: &mut Stage, signal: &str) -> Result<Outcome, String> {
    stage.begin(1).await?;
    stage.renewed().await;
    let start = Instant::now();
    let mut replica = stage.replicas.remove(0);
    replica.signal(signal);
    replica.ended().await;
    stage.start_replica();
    let change = stage.change().await;
    Ok(Outcome::Took(stage.shown(&change).await? - start))
}

/// Measures the time within which most of many changes are copied, with or without parallel scrapes of the leader.
pub async fn scraped(stage: &mut Stage, scrapes: bool, sources: usize) -> Result<Outcome, String> {
    many(stage, sources).await;
    let leader = stage.begin(1).await?;
    until_copied(stage, leader, sources).await;
    let leader = stage.replicas.remove(leader);
    let scraping = async {
        if !scrapes {
            std::future::pending::<()>().await;
        }
        loop {
            let (code, page) = leader.get("/metrics").await;
            assert!(code == 200 && page.len() > 100_000, "{code}: {page}");
        }
    };
    let changing = async {
        let mut took = Vec::new();
        for _ in 0..CHANGES {
            let start = Instant::now();
            let change = stage.change().await;
            took.push(stage.shown(&change).await? - start);
            tokio::time::sleep(APART).await;
        }
        took.sort();
        Ok(Outcome::Took(took[CHANGES * 95 / 100 - 1]))
    };
    let outcome = tokio::select! {
        outcome = changing => outcome,
        never = scraping => never,
    };
    stage.replicas.push(leader);
    outcome
}

/// The replicas that wrote copies since then. There must be at least one.
async fn writers(stage: &mut Stage, before: &BTreeMap<String, usize>) -> Result<Outcome, String> {
    let change = stage.change().await;
    stage.shown(&change).await?;
    stage.all_run()?;
    let now = stage.cluster.slice_writes();
    let more = now
        .into_iter()
        .filter(|(name, count)| before.get(name).is_none_or(|b| b < count));
    let writers: Vec<_> = more.map(|(name, _)| name).collect();
    if writers.is_empty() {
        return Err("no replica was seen to write".to_owned());
    }
    Ok(Outcome::Writers(writers))
}
