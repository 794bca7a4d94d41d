//! Faults of replicas and of their Lease.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use harness::{LEASE, leader as leader_of};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;

use crate::outage::{create_services, until_copied};
use crate::rows::Outcome;
use crate::stage::Stage;

/// The number of changes from which a percentile is taken.
const CHANGES: usize = 100;

/// The pause between two changes. It is so long that no change waits because of an earlier one.
const PAUSE: Duration = Duration::from_millis(100);

/// Measures the time from the start of the process to the first copy.
pub async fn cold_start(stage: &mut Stage) -> anyhow::Result<Outcome> {
    let change = stage.change().await;
    stage.watch("kubernetes-vip").await;
    let start = Instant::now();
    stage.start_replica();
    Ok(Outcome::Took(stage.shown(&change).await? - start))
}

/// Sends a signal to the leader of three replicas right after a renewal, which is the worst moment for a takeover.
/// Measures the time until a change is copied.
pub async fn leader(stage: &mut Stage, signal: &str) -> anyhow::Result<Outcome> {
    let first = stage.begin(3).await?;
    stage.until_renewed().await;
    let start = Instant::now();
    stage.replicas[first].signal(signal);
    let change = stage.change().await;
    let took = stage.shown(&change).await? - start;
    // Dropping the replica kills its process, so that even a frozen process cannot release the Lease later.
    stage.replicas.remove(first);
    stage.check_replicas()?;
    Ok(Outcome::Took(took))
}

/// Returns the replicas that write after the thaw of a leader that was frozen for longer than its lease.
pub async fn thawed(stage: &mut Stage) -> anyhow::Result<Outcome> {
    let first = stage.begin(3).await?;
    let frozen = stage.replicas.remove(first);
    frozen.signal("STOP");
    // The frozen leader has not seen this change when it resumes.
    let change = stage.change().await;
    stage.shown(&change).await?;
    leader_of(&stage.replicas).await;
    let before = stage.cluster.slice_writes();
    frozen.signal("CONT");
    stage.keep_changing(Duration::from_secs(10)).await;
    stage.replicas.push(frozen);
    writers(stage, &before).await
}

/// Returns the replicas that write after an administrator has emptied the Lease.
pub async fn lease_emptied(stage: &mut Stage) -> anyhow::Result<Outcome> {
    stage.begin(3).await?;
    let before = stage.cluster.slice_writes();
    let empty = json!({"spec": {"holderIdentity": ""}});
    stage.cluster.patch::<Lease>("default", LEASE, empty).await;
    stage.keep_changing(Duration::from_secs(11)).await;
    writers(stage, &before).await
}

/// Sends a signal to the only replica, and starts it again after it has ended. Measures the time until a change is
/// copied.
pub async fn restarted(stage: &mut Stage, signal: &str) -> anyhow::Result<Outcome> {
    stage.begin(1).await?;
    stage.until_renewed().await;
    let start = Instant::now();
    let mut replica = stage.replicas.remove(0);
    replica.signal(signal);
    replica.ended().await;
    stage.start_replica();
    let change = stage.change().await;
    Ok(Outcome::Took(stage.shown(&change).await? - start))
}

/// Measures the time within which 95 of 100 changes are copied, with or without continuous scrapes of the leader.
pub async fn scraped(stage: &mut Stage, scrapes: bool, sources: usize) -> anyhow::Result<Outcome> {
    create_services(stage, sources).await;
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
            tokio::time::sleep(PAUSE).await;
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

/// Returns the replicas that have written slices since the counts in `before`, or an error if there are none.
async fn writers(stage: &mut Stage, before: &BTreeMap<String, usize>) -> anyhow::Result<Outcome> {
    let change = stage.change().await;
    stage.shown(&change).await?;
    stage.check_replicas()?;
    let now = stage.cluster.slice_writes();
    let more = now
        .into_iter()
        .filter(|(name, count)| before.get(name).is_none_or(|b| b < count));
    let writers: Vec<_> = more.map(|(name, _)| name).collect();
    if writers.is_empty() {
        bail!("no replica has written a slice");
    }
    Ok(Outcome::Writers(writers))
}
