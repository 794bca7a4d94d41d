//! The cluster and the replicas, and a wait for a state of the cluster.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use testbed::Store;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::replica::Replica;
use crate::timeline::Timeline;

/// How the demo ends.
pub enum End {
    /// The story is complete.
    Complete,
    /// Stopped by Ctrl-C or TERM.
    Stopped,
    /// A step failed, for this reason.
    Failed(anyhow::Error),
}

impl End {
    /// Returns the failure in `self` or, if there is none, the failure in `result`. Without a failure, returns `self`.
    pub fn unless(self, result: anyhow::Result<()>) -> Self {
        match (self, result) {
            (Self::Complete | Self::Stopped, Err(reason)) => Self::Failed(reason),
            (end, _) => end,
        }
    }
}

/// The cluster, the replicas and the timeline of one run.
pub struct Stage {
    pub cluster: Cluster,
    pub replicas: Vec<Replica>,
    pub timeline: Timeline,
    folder: tempfile::TempDir,
}

impl Stage {
    /// Starts the cluster and prints the addresses. The replicas are not running yet.
    pub async fn start(program: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("endpoint-copier-demo-")
            .tempdir()
            .context("cannot create a folder")?;
        let cluster = Cluster::start(folder.path()).await?;
        let mut replicas = Vec::new();
        for name in ["replica-1", "replica-2", "replica-3"] {
            replicas.push(Replica::new(name, program, &cluster.kubeconfig, folder.path())?);
        }
        println!("Three in-memory API servers and three replicas of the operator, all on this machine:\n");
        println!("  API servers  {}", cluster.urls());
        println!("  kubeconfig   {}", cluster.kubeconfig.display());
        for replica in &replicas {
            let Replica {
                name,
                metrics,
                health,
                ..
            } = replica;
            println!("  {name}    http://127.0.0.1:{metrics}/metrics   http://127.0.0.1:{health}/readyz");
        }
        Ok(Self {
            cluster,
            replicas,
            timeline: Timeline::begin(),
            folder,
        })
    }

    /// The replica with this name.
    pub fn replica(&mut self, name: &str) -> anyhow::Result<&mut Replica> {
        let mut replicas = self.replicas.iter_mut();
        replicas
            .find(|replica| replica.name == name)
            .with_context(|| format!("{name:?} is not a replica"))
    }

    /// Waits until the cluster satisfies `wanted`. The limit is measured from `since`. `what` names the step in an
    /// error.
    pub async fn until(
        &self,
        since: Instant,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Store) -> bool,
    ) -> anyhow::Result<()> {
        let remaining = (since + limit).saturating_duration_since(Instant::now());
        let happened = timeout(remaining, self.cluster.store.until(wanted)).await;
        happened.with_context(|| format!("{what} did not happen within {} s", limit.as_secs()))
    }

    /// Stops all replicas. After a failure, prints information about it and keeps the logs.
    pub async fn stop(mut self, mut end: End) -> End {
        if let End::Failed(_) = end {
            self.report();
        }
        for replica in &self.replicas {
            end = end.unless(replica.terminate());
        }
        for replica in &mut self.replicas {
            end = end.unless(replica.until_stopped().await);
        }
        if let End::Failed(_) = end {
            let folder = self.folder.keep();
            eprintln!("demo: the logs of the replicas are in {}", folder.display());
        }
        end
    }

    /// Prints information that may explain a failure.
    fn report(&mut self) {
        for replica in &mut self.replicas {
            if let Some(status) = replica.unexpected_exit() {
                eprintln!("demo: {} had already ended, with {status}", replica.name);
            }
            eprintln!(
                "--- the last lines of {}\n{}",
                replica.log.display(),
                replica.last_lines()
            );
        }
    }
}
