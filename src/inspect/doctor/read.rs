//! Collects the facts for the checks: lists, access reviews, and one request to each API server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use http::{Request, header};
use kube::Client;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Unknown;
use super::facts::{Facts, Installation, Installations, ServerAnswer, ServiceFacts};
use super::of_service::EXCLUDE_LABEL;
use super::rights::{Right, Rights, Uses, needed};
use crate::apiserver::decode::{Guarded, NodeMetadata};
use crate::apiserver::http_status::is_not_served;
use crate::apiserver::serving_certificate::{ServerFacts, ask};
use crate::config::{ElectionConfig, ProbeMode};
use crate::inspect::look::{ClusterReader, ListedObjects};
use crate::inspect::report::{ClusterReport, Leader};
use crate::inspect::{Error, MORE_READS, READ_PAUSE};
use endpoint_copier_core::model::{CrossNamespace, Reason, ServiceKey, label_of};
use endpoint_copier_core::verdicts::{Failure, Target};

/// The time limit for all reads of [`settled`] together. A large cluster takes some seconds.
const LISTS_LIMIT: Duration = Duration::from_secs(30);

/// The time limit for each task that runs in parallel after these reads: the request to one API server, the list of
/// Nodes, the list of MetalLB's announcements, and the second read of the Leases together with all access reviews. The
/// pause before that second read does not count.
const TASK_LIMIT: Duration = Duration::from_secs(10);

/// The time between two reads of a Lease. It is longer than the default time between two renewals.
const RENEWAL: Duration = Duration::from_secs(3);

/// The maximum number of namespaces in which permissions are reviewed.
const MAX_REVIEWED_NAMESPACES: usize = 20;

pub(super) async fn facts(reader: &ClusterReader<'_>) -> Result<Facts, Error> {
    let Reading { seen, report, hidden } = settled(reader).await?;
    let at = report.at;
    let leaders = report.leaders.into_iter();
    let mut installations = Installations {
        elect: reader.config.leader_elect,
        seen: leaders.map(|leader| Installation::of(leader, at)).collect(),
        hidden: hidden.or(report.leaders_error.map(Unknown)),
    };
    let rows = report.services.into_iter();
    let services: Vec<_> = rows.map(|row| ServiceFacts::of(row, &seen)).collect();
    let names: BTreeSet<_> = services.iter().flat_map(ServiceFacts::names).collect();
    let targets: BTreeSet<_> = services.iter().flat_map(|service| &service.servers).collect();
    let servers = join_all(targets.into_iter().map(|target| answer(*target, &names)));
    let namespaces = reviewed_namespaces(&services);
    let end = Instant::now() + RENEWAL + TASK_LIMIT;
    let operator = async {
        read_leases_again(reader, &mut installations, end).await;
        let config = reader.config;
        let uses = Uses {
            election: config.leader_elect,
            probes: config.probe.mode != ProbeMode::Off,
            grants: config.defaults.consent.cross_namespace == CrossNamespace::Consent,
            nodes: seen.index.needs_nodes(),
            service_conditions: config.service_conditions,
            secure_metrics: config.secure_metrics.is_some(),
        };
        let rights = rights(reader, &installations, &namespaces, uses);
        let limited = timeout_at(end, rights).await;
        limited.unwrap_or_else(|_| Err(Unknown::late("the rights of the operator")))
    };
    let (servers, nodes, metallb, rights) = tokio::join!(
        servers,
        nodes(reader),
        announced_by_metallb(&reader.client),
        operator
    );
    let servers: BTreeMap<_, _> = servers.into_iter().collect();
    Ok(Facts {
        at,
        services,
        nodes,
        metallb,
        servers,
        installations,
        rights,
    })
}

struct Reading {
    seen: ListedObjects,
    report: ClusterReport,
    /// Why Leases of other namespaces are not known.
    hidden: Option<Unknown>,
}

/// Reads the cluster, and reads it a few more times while a Service is out of sync, because the operator may not have
/// copied a recent change yet. Only the first read must succeed.
async fn settled(reader: &ClusterReader<'_>) -> Result<Reading, Error> {
    let end = Instant::now() + LISTS_LIMIT;
    let first = timeout_at(end, read(reader)).await;
    let mut last = first.map_err(|_| Error::NoAnswer)??;
    for _ in 0..MORE_READS {
        if last.report.in_sync {
            break;
        }
        sleep(READ_PAUSE).await;
        match timeout_at(end, read(reader)).await {
            Ok(Ok(reading)) => last = reading,
            _ => break,
        }
    }
    Ok(last)
}

async fn read(reader: &ClusterReader<'_>) -> Result<Reading, Error> {
    let seen = reader.read().await?;
    let (leases, hidden) = match reader.leases_everywhere().await {
        Err(error) => {
            let hidden = Unknown::of("list leases.coordination.k8s.io in all namespaces", &error);
            (reader.leases().await, Some(hidden))
        }
        leases => (leases, None),
    };
    let mut report = reader.report_on(&seen, leases).await;
    // Without permission to read Events, only Leases show a second installation.
    let in_sync = report
        .services
        .iter_mut()
        .filter(|row| row.managed && row.in_sync);
    let mut in_sync: Vec<_> = in_sync.collect();
    _ = reader
        .add_reported(&mut in_sync, Reason::OtherInstallation, report.at)
        .await;
    Ok(Reading { seen, report, hidden })
}

/// Reads the Leases again if one of them has a holder but seems to have expired: a holder that renews its Lease is
/// alive, whatever its clock says.
async fn read_leases_again(reader: &ClusterReader<'_>, installations: &mut Installations, end: Instant) {
    let is_doubtful = |it: &Installation| it.leader.holder.is_some() && !it.leader.leads;
    if !installations.seen.iter().any(is_doubtful) {
        return;
    }
    sleep(RENEWAL).await;
    let reads = async {
        if installations.hidden.is_some() {
            reader.leases().await
        } else {
            reader.leases_everywhere().await
        }
    };
    // If this read fails or takes too long, the first one counts.
    let leases = timeout_at(end, reads).await.ok().and_then(Result::ok);
    let leases = leases.unwrap_or_default();
    let at = reader.now();
    let leaders = leases.iter().map(|lease| Leader::of(lease, at));
    let now: BTreeMap<_, _> = leaders.map(|leader| (leader.namespace.clone(), leader)).collect();
    for it in installations.seen.iter_mut().filter(|it| is_doubtful(it)) {
        if let Some(leader) = now.get(&it.leader.namespace)
            && leader.holder.is_some()
            && (leader.leads || leader.renewed != it.leader.renewed)
        {
            *it = Installation::of(leader.clone(), at);
            it.leader.leads = true;
        }
    }
}

async fn answer(target: Target, names: &BTreeSet<String>) -> (Target, Result<ServerAnswer, Failure>) {
    let shown = timeout(TASK_LIMIT, ask(target))
        .await
        .unwrap_or(Err(Failure::TimedOut));
    let server = |ServerFacts { certificate, ahead }| {
        let missing = names.iter().filter(|name| !certificate.names(name));
        ServerAnswer {
            missing: missing.cloned().collect(),
            names: certificate.all_names(),
            ahead,
        }
    };
    (target, shown.map(server))
}

/// Lists all Nodes, and whether load balancers exclude them.
async fn nodes(reader: &ClusterReader<'_>) -> Result<BTreeMap<String, bool>, Unknown> {
    let mut nodes = BTreeMap::new();
    let listed = reader.list(ListParams::default(), |node: Guarded<NodeMetadata>| {
        let metadata = node.slim_metadata();
        let is_excluded = label_of(metadata, EXCLUDE_LABEL).is_some();
        nodes.insert(metadata.name.clone().unwrap_or_default(), is_excluded);
    });
    match timeout(TASK_LIMIT, listed).await {
        Err(_) => Err(Unknown::late("the list of Nodes")),
        Ok(Err(error)) => Err(Unknown::of("list nodes", &error)),
        Ok(Ok(())) => Ok(nodes),
    }
}

/// Returns the Nodes from which MetalLB announces each Service in layer 2, as MetalLB reports them. Empty without
/// MetalLB.
async fn announced_by_metallb(client: &Client) -> Result<BTreeMap<ServiceKey, BTreeSet<String>>, Unknown> {
    let list = Request::get("/apis/metallb.io/v1beta1/servicel2statuses").body(Vec::new());
    let list = match timeout(TASK_LIMIT, answer_to(client, list)).await {
        Err(_) => return Err(Unknown::late("the list of MetalLB's announcements")),
        Ok(Err(kube::Error::Api(status))) if is_not_served(&status) => Value::Null,
        Ok(list) => list.map_err(|error| Unknown::of("list servicel2statuses.metallb.io", &error))?,
    };
    let mut announced: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for item in list["items"].as_array().into_iter().flatten() {
        let text = |field: &str| item["status"][field].as_str().unwrap_or_default();
        let service = ServiceKey::new(text("serviceNamespace"), text("serviceName"));
        announced
            .entry(service)
            .or_default()
            .insert(text("node").to_owned());
    }
    Ok(announced)
}

/// Returns namespaces of managed Services, at most [`MAX_REVIEWED_NAMESPACES`].
pub(super) fn reviewed_namespaces(services: &[ServiceFacts]) -> BTreeSet<&str> {
    let managed = services.iter().filter(|service| service.row.managed);
    let namespaces: BTreeSet<_> = managed.map(|service| service.row.namespace.as_str()).collect();
    namespaces.into_iter().take(MAX_REVIEWED_NAMESPACES).collect()
}

/// Reviews the permissions of the replicas. If this command uses the credentials of a Pod, it reviews its own
/// permissions. If not, it reviews those of the ServiceAccount of the leader's Pod.
async fn rights(
    reader: &ClusterReader<'_>,
    installations: &Installations,
    namespaces: &BTreeSet<&str>,
    uses: Uses,
) -> Result<Rights, Unknown> {
    let leader = installations.seen.iter().find(|it| it.leader.leads);
    let leader = leader.map(|it| &it.leader);
    let lease_namespace = lease_namespace(leader, &reader.config.election, &reader.own_namespace);
    let lease = (lease_namespace, reader.config.election.lease_name.as_str());
    let account = if reader.is_in_pod {
        None
    } else {
        let no_leader = || {
            let why = "the ServiceAccount of the operator is not known, because no replica is known to lead";
            Unknown(why.to_owned())
        };
        let leader = leader.ok_or_else(no_leader)?;
        Some(service_account(&reader.client, leader).await?)
    };
    let subject = account.as_deref().map(|name| (lease_namespace, name));
    let who = match subject {
        Some((namespace, name)) => format!("system:serviceaccount:{namespace}:{name}"),
        None => "the ServiceAccount of this Pod".to_owned(),
    };
    let rights = needed(lease, namespaces, uses);
    let reviews = rights.into_iter().map(async |right| {
        let allowed = is_allowed(&reader.client, &right, subject).await?;
        Ok::<_, Unknown>((!allowed).then_some(right))
    });
    let reviewed: Result<Vec<_>, _> = join_all(reviews).await.into_iter().collect();
    let missing = reviewed?.into_iter().flatten().collect();
    Ok(Rights { who, missing })
}

/// Returns the namespace of the Lease: that of the leader's Lease. While no replica leads, the configured namespace or,
/// if there is none, that of the credentials.
fn lease_namespace<'a>(leader: Option<&'a Leader>, config: &'a ElectionConfig, own: &'a str) -> &'a str {
    let configured = || config.namespace.as_deref().unwrap_or(own);
    leader.map_or_else(configured, |leader| &leader.namespace)
}

/// Returns the name of the ServiceAccount of a leader's Pod. The holder's identity in the Lease begins with the name of
/// the Pod, which ends before the last underscore.
async fn service_account(client: &Client, leader: &Leader) -> Result<String, Unknown> {
    let namespace = &leader.namespace;
    let holder = leader.holder.as_deref().unwrap_or_default();
    let pod = holder.rsplit_once('_').map_or(holder, |(pod, _)| pod);
    // Anyone who may write the Lease can choose this text, which becomes part of a path.
    let is_name = |sign: char| sign.is_ascii_alphanumeric() || sign == '-' || sign == '.';
    if pod.is_empty() || !pod.chars().all(is_name) || pod.contains("..") {
        return Err(Unknown(format!("the Lease names {holder}, which is not a Pod")));
    }
    let request = Request::get(format!("/api/v1/namespaces/{namespace}/pods/{pod}")).body(Vec::new());
    let answer = answer_to(client, request).await.map_err(|error| {
        let why = Unknown::of(&format!("get pods in {namespace}"), &error);
        Unknown(format!("the Pod of the leader cannot be read: {why}"))
    })?;
    let name = answer["spec"]["serviceAccountName"].as_str();
    Ok(name.unwrap_or("default").to_owned())
}

/// Whether a review says that a permission is granted. A review stores nothing. `subject` is the namespace and the name
/// of a ServiceAccount, or `None` for our own permissions.
async fn is_allowed(client: &Client, right: &Right, subject: Option<(&str, &str)>) -> Result<bool, Unknown> {
    let mut spec = right.attributes();
    let (kind, resource) = match subject {
        None => ("SelfSubjectAccessReview", "selfsubjectaccessreviews"),
        Some((namespace, name)) => {
            spec["user"] = json!(format!("system:serviceaccount:{namespace}:{name}"));
            spec["groups"] = json!([
                "system:serviceaccounts",
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated",
            ]);
            ("SubjectAccessReview", "subjectaccessreviews")
        }
    };
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
    let request = Request::post(format!("/apis/authorization.k8s.io/v1/{resource}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(review.to_string().into_bytes());
    let needs = format!("create {resource}.authorization.k8s.io");
    let answer = answer_to(client, request).await;
    let answer = answer.map_err(|error| Unknown::of(&needs, &error))?;
    Ok(answer["status"]["allowed"] == true)
}

/// Sends a request, and returns the response as JSON.
async fn answer_to(client: &Client, request: http::Result<Request<Vec<u8>>>) -> kube::Result<Value> {
    client.request(request.map_err(kube::Error::HttpError)?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_is_in_the_configured_namespace_while_nobody_leads() {
        let election = |namespace: Option<&str>| ElectionConfig {
            lease_duration: Duration::from_secs(6),
            renew_deadline: Duration::from_secs(4),
            retry_period: Duration::from_secs(1),
            namespace: namespace.map(str::to_owned),
            lease_name: "lease".to_owned(),
        };
        assert_eq!(lease_namespace(None, &election(Some("leases")), "ops"), "leases");
        assert_eq!(lease_namespace(None, &election(None), "ops"), "ops");
    }
}
