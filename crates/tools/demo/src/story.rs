//! The steps of the story, in order.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::Store;
use tokio::time::sleep;

use crate::cluster::{NODES, endpoints, holder, words};
use crate::stage::Stage;

/// The time limit of each step except a takeover. It is long enough for a busy machine.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// The time limit of a takeover, which waits for the lease duration of 6 s.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(16);

/// The pause between two steps, so that the reader can follow.
const PAUSE: Duration = Duration::from_millis(700);

/// The pause between two checks for replicas that someone has stopped or killed.
const CHECK_PAUSE: Duration = Duration::from_millis(200);

const SOURCE: &str = "kubernetes";
const VIP: &str = "kubernetes-vip";
const LEADER_METRIC: &str = "leader_election_master_status{name=\"f668ae63.endpoint-copier-operator\"}";

type Addresses = Option<BTreeSet<String>>;

/// Plays the whole story. The error names the first step that failed.
pub async fn play(stage: &mut Stage, service: Value) -> anyhow::Result<()> {
    let [one, two, three] = NODES;
    let first = begin(stage).await?;

    let since = stage.cluster.apply(service, VIP)?;
    let what = format!("the Service {VIP} from the README is applied");
    stage.timeline.action(&what);
    until_copied(stage, since, &[], &[one, two, three]).await?;

    sleep(PAUSE).await;
    let what = format!("control-plane node {two} is lost and leaves default/kubernetes");
    let since = list_nodes(stage, &[one, three], &what)?;
    until_copied(stage, since, &[one, two, three], &[one, three]).await?;

    sleep(PAUSE).await;
    let what = format!("control-plane node {two} is back");
    let since = list_nodes(stage, &[one, two, three], &what)?;
    until_copied(stage, since, &[one, three], &[one, two, three]).await?;

    sleep(PAUSE).await;
    freeze(stage).await?;

    sleep(PAUSE).await;
    let second = take_over(stage, &first).await?;
    sleep(PAUSE).await;
    hand_over(stage, &second).await?;

    sleep(PAUSE).await;
    report(stage).await
}

/// Starts three replicas, and waits until one of them leads and all are ready. Returns the name of the leader.
async fn begin(stage: &mut Stage) -> anyhow::Result<String> {
    let since = Instant::now();
    for replica in &mut stage.replicas {
        replica.start()?;
    }
    stage.timeline.action("three replicas start");
    let leader = elect(stage, since, "", "takes the Lease and leads, the others stand by").await?;
    for replica in &stage.replicas {
        replica.until_ready(STEP_LIMIT).await?;
    }
    let ready = "all three are ready: their lists are complete";
    stage.timeline.effect(since, ready);
    Ok(leader)
}

/// Freezes an API server and thaws it again. `default/kubernetes` lists it throughout.
async fn freeze(stage: &mut Stage) -> anyhow::Result<()> {
    let [one, two, three] = NODES;
    let since = Instant::now();
    stage.cluster.freeze(two, true);
    let what = format!("the API server on {two} freezes; default/kubernetes still lists it");
    stage.timeline.action(&what);
    until_copied(stage, since, &[one, two, three], &[one, three]).await?;

    sleep(PAUSE).await;
    let since = Instant::now();
    stage.cluster.freeze(two, false);
    stage
        .timeline
        .action(&format!("the API server on {two} answers again"));
    until_copied(stage, since, &[one, three], &[one, two, three]).await
}

/// Kills the leader without warning, removes a node from `default/kubernetes`, and restarts the killed replica once the
/// change is copied. Returns the name of the next leader.
async fn take_over(stage: &mut Stage, leader: &str) -> anyhow::Result<String> {
    let [one, two, three] = NODES;
    let killed = Instant::now();
    stage.replica(leader)?.kill().await?;
    let what = format!("{leader}, the leader, is killed (KILL); its Lease stays valid for up to 6 s");
    stage.timeline.action(&what);
    sleep(PAUSE).await;
    let what = format!("control-plane node {three} is lost while no replica leads");
    let changed = list_nodes(stage, &[one, two], &what)?;
    let how = "takes the expired Lease and leads";
    let second = elect(stage, killed, leader, how).await?;
    until_copied(stage, changed, &[one, two, three], &[one, two]).await?;

    sleep(PAUSE).await;
    start_again(stage, leader).await?;
    Ok(second)
}

/// Asks the leader to stop, so that it releases the Lease. Then adds the lost node to `default/kubernetes` again, and
/// restarts the replica.
async fn hand_over(stage: &mut Stage, leader: &str) -> anyhow::Result<()> {
    let [one, two, three] = NODES;
    let asked = Instant::now();
    stage.replica(leader)?.terminate()?;
    let what = format!("{leader}, the leader, is asked to stop (TERM)");
    stage.timeline.action(&what);
    let how = "takes the released Lease and leads";
    elect(stage, asked, leader, how).await?;
    stage.replica(leader)?.until_stopped().await?;
    let what = format!("{leader} exits with 0");
    stage.timeline.effect(asked, &what);

    let what = format!("control-plane node {three} is back");
    let since = list_nodes(stage, &[one, two, three], &what)?;
    until_copied(stage, since, &[one, two], &[one, two, three]).await?;

    sleep(PAUSE).await;
    start_again(stage, leader).await
}

/// Waits until a replica other than the last leader holds the Lease. Returns its name.
async fn elect(stage: &Stage, since: Instant, last: &str, how: &str) -> anyhow::Result<String> {
    let elected = |store: &Store| ![last, ""].contains(&holder(store).as_str());
    let limit = if last.is_empty() {
        STEP_LIMIT
    } else {
        TAKEOVER_LIMIT
    };
    stage.until(since, limit, "an election", elected).await?;
    let leader = holder(&stage.cluster.store);
    stage.timeline.effect(since, &format!("{leader} {how}"));
    Ok(leader)
}

async fn start_again(stage: &mut Stage, name: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    stage.replica(name)?.start()?;
    stage.timeline.action(&format!("{name} is started again"));
    stage.replica(name)?.until_ready(STEP_LIMIT).await?;
    let what = format!("{name} is ready and stands by");
    stage.timeline.effect(since, &what);
    Ok(())
}

/// Changes `default/kubernetes`. Returns a time just before the change, so that the whole delay is measured.
fn list_nodes(stage: &Stage, nodes: &[&str], what: &str) -> anyhow::Result<Instant> {
    let since = Instant::now();
    stage.cluster.list_nodes(nodes)?;
    stage.timeline.action(what);
    Ok(since)
}

/// Waits until the copy of the VIP lists exactly the new addresses.
async fn until_copied(stage: &Stage, since: Instant, old: &[&str], new: &[&str]) -> anyhow::Result<()> {
    let set = |nodes: &[&str]| -> Addresses {
        (!nodes.is_empty()).then(|| nodes.iter().map(|node| (*node).to_owned()).collect())
    };
    let (old, new) = (set(old), set(new));
    let arrived = |store: &Store| endpoints(store, "default", VIP) == new;
    stage
        .until(since, STEP_LIMIT, &format!("the change of {VIP}"), arrived)
        .await?;
    let change = format!("{VIP}: {} → {}", words(old.as_ref()), words(new.as_ref()));
    stage.timeline.effect(since, &change);
    Ok(())
}

/// Prints metrics of the replicas, and checks that exactly one replica leads.
async fn report(stage: &mut Stage) -> anyhow::Result<()> {
    println!("\n  /metrics of   leads   created   updated   (each since its start)");
    let mut leaders = 0;
    for replica in &stage.replicas {
        let name = &replica.name;
        let silent = || format!("{name} does not serve its metrics");
        let leads = replica.metric(LEADER_METRIC).await.with_context(silent)?;
        let mut writes = Vec::new();
        for operation in ["create", "update"] {
            let series = format!("endpoint_copier_slice_changes_total{{operation=\"{operation}\"}}");
            writes.push(replica.metric(&series).await.with_context(silent)?);
        }
        println!("  {name}     {leads}       {:<9} {}", writes[0], writes[1]);
        leaders += usize::from(leads == "1");
    }
    ensure!(leaders == 1, "{leaders} replicas lead instead of one");
    println!("\nDone: every change was copied.");
    Ok(())
}

/// Prints commands to try, and continues the timeline until someone stops the demo. Restarts replicas that have ended.
pub async fn continue_until_stopped(stage: &mut Stage) -> anyhow::Result<()> {
    print_commands(stage)?;
    let store = stage.cluster.store.clone();
    let mut seen = View::of(&store);
    loop {
        tokio::select! {
            () = store.until(|store| View::of(store) != seen) => {}
            () = sleep(CHECK_PAUSE) => {}
        }
        for replica in &mut stage.replicas {
            if let Some(status) = replica.unexpected_exit() {
                let line = format!("{} has ended with {status} and is started again", replica.name);
                stage.timeline.action(&line);
                replica.start()?;
            }
        }
        let now = View::of(&store);
        if now.leader != seen.leader {
            let leader = if now.leader.is_empty() {
                "no replica"
            } else {
                &now.leader
            };
            stage.timeline.action(&format!("{leader} leads"));
        }
        let source = (SOURCE, &seen.source, &now.source);
        let copy = (VIP, &seen.copy, &now.copy);
        for (name, old, new) in [source, copy].into_iter().filter(|(_, old, new)| old != new) {
            let (old, new) = (words(old.as_ref()), words(new.as_ref()));
            stage.timeline.action(&format!("{name}: {old} → {new}"));
        }
        seen = now;
    }
}

/// The state that the timeline reports on.
#[derive(PartialEq)]
struct View {
    leader: String,
    source: Addresses,
    copy: Addresses,
}

impl View {
    fn of(store: &Store) -> Self {
        Self {
            leader: holder(store),
            source: endpoints(store, "default", SOURCE),
            copy: endpoints(store, "default", VIP),
        }
    }
}

fn print_commands(stage: &mut Stage) -> anyhow::Result<()> {
    let kubeconfig = stage.cluster.kubeconfig.display().to_string();
    let leader = stage.replica(&holder(&stage.cluster.store))?;
    let (metrics, pid) = (leader.metrics, leader.pid().context("the leader does not run")?);
    println!("\nEverything keeps running until Ctrl-C, and the timeline continues. In another terminal:");
    let try_this = |why: &str, command: &str| println!("\n  # {why}\n  {command}");
    try_this("first", &format!("export KUBECONFIG={kubeconfig}"));
    try_this("the source and the copy", "kubectl get services,endpointslices");
    try_this("the Service", &format!("kubectl describe service {VIP}"));
    try_this("the leader", "kubectl get leases --all-namespaces");
    try_this(
        "lose two of three nodes",
        r#"kubectl patch endpointslice kubernetes --type merge -p '{"endpoints":[{"addresses":["127.0.0.2"]}]}'"#,
    );
    try_this(
        "delete a copy; it is created again",
        "kubectl delete endpointslices -l endpointslice.kubernetes.io/managed-by=endpoint-copier-operator",
    );
    try_this(
        "an empty list of API servers must be wrong: the copy is held",
        r#"kubectl patch endpointslice kubernetes --type merge -p '{"endpoints":[]}'"#,
    );
    try_this(
        "the metrics of the leader",
        &format!("curl -s http://127.0.0.1:{metrics}/metrics | grep ^endpoint_copier | grep -v _bucket"),
    );
    try_this(
        "kill the leader; the demo starts it again",
        &format!("kill -9 {pid}"),
    );
    println!();
    Ok(())
}
