//! The checks of one Service. All functions are pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::facts::{Facts, ServerAnswer, ServiceFacts};
use super::{Check, CheckResult};
use crate::inspect::report::Row;
use crate::inspect::table::unmanaged;
use endpoint_copier_core::model::{Reason, a_few};
use endpoint_copier_core::verdicts::Target;

/// Cloud load balancers exclude Nodes with this label, whatever its value is. So does MetalLB, unless it is configured
/// otherwise.
pub(super) const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The findings that have a check of their own.
const WITH_OWN_CHECK: [Reason; 2] = [Reason::ForeignSlices, Reason::NodeNameMissing];

/// Returns the results for one Service. A check that does not concern the Service has no result.
pub(super) fn checks(service: &ServiceFacts, facts: &Facts) -> Vec<Check> {
    let row = &service.row;
    let mut checks = if row.managed {
        copies(row)
    } else {
        let remedy = if row.disabled {
            "Check that a replica leads, because it deletes them. To delete them yourself, run the command plan, which lists them."
        } else {
            "Pass the flags of the operator to this command, or delete the copies as the page on uninstalling describes."
        };
        vec![Check::warning("copies", unmanaged(row), remedy)]
    };
    if row.managed && row.source.is_some() {
        checks.push(endpoints(row));
        checks.extend(address(service));
        checks.extend(local_traffic(service));
        checks.push(foreign_slices(row));
        checks.extend(excluded_nodes(service, facts));
        checks.extend(tls_san(service, facts));
    }
    for check in &mut checks {
        check.service = Some(row.key().to_string());
    }
    checks
}

fn copies(row: &Row) -> Vec<Check> {
    const NAME: &str = "copies";
    let others = row
        .findings
        .iter()
        .filter(|finding| !WITH_OWN_CHECK.contains(&finding.reason));
    let mut checks: Vec<_> = others
        .map(|finding| {
            let verdict = if finding.reason.leaves_undone() {
                CheckResult::Failed
            } else {
                CheckResult::Warning
            };
            let detail = format!("{}: {}", finding.reason, finding.note);
            Check::wrong(NAME, verdict, detail, remedy_of(finding.reason))
        })
        .collect();
    let explained = checks.iter().any(|check| check.result == CheckResult::Failed);
    let due = row.changes.len();
    if due > 0 || (!row.in_sync && !explained) {
        let remedy = match due {
            0 => "Check that a replica leads, and read its log.",
            _ => "Run the command plan to see the writes. Check that a replica leads, and read its log.",
        };
        let detail = format!("the copies are not in sync; planned writes: {due}");
        checks.push(Check::failed(NAME, detail, remedy));
    } else if checks.is_empty() {
        let source = row.source.as_deref().unwrap_or("no source");
        checks.push(Check::ok(NAME, format!("in sync with {source}")));
    }
    checks
}

/// Returns the remedy from the Events page, without Markdown.
fn remedy_of(reason: Reason) -> String {
    reason.remedy().replace('`', "")
}

fn endpoints(row: &Row) -> Check {
    const NAME: &str = "endpoints";
    let (copy, source) = (row.copy_endpoints, row.source_endpoints);
    let of_all = format!("{} of {} are ready", copy.ready, copy.total);
    if copy.total == 0 && source.ready > 0 && row.leftovers > 0 {
        return Check::warning(
            NAME,
            "there are no copies yet; the slice of the Go operator still serves the address",
            "Check that a replica of this operator leads: it replaces that slice.",
        );
    }
    if copy.ready == 0 {
        let detail = format!(
            "{of_all}, so nothing answers at the address of the Service; in the source, {} of {} are ready",
            source.ready, source.total
        );
        let is_other_family =
            copy.total == 0 && row.findings.iter().any(|it| it.reason == Reason::FamilyMissing);
        let remedy = if is_other_family {
            "The source has no endpoint in the IP families of the Service: see the check copies."
        } else if source.ready == 0 {
            "Find out why the source has no ready endpoint: kubectl get endpointslices shows it."
        } else {
            "The copies are behind their source: see the check copies."
        };
        Check::failed(NAME, detail, remedy)
    } else if row.taken_out.is_empty() {
        Check::ok(NAME, of_all)
    } else {
        Check::warning(
            NAME,
            format!(
                "{of_all}; taken out, because they fail the probes: {}",
                a_few(&row.taken_out)
            ),
            "Check these API servers and the network to them. The copies show them as ready again when they pass the probes.",
        )
    }
}

fn address(service: &ServiceFacts) -> Option<Check> {
    const NAME: &str = "address";
    let names: Vec<_> = service.names().collect();
    if !names.is_empty() {
        return Some(Check::ok(NAME, a_few(&names)));
    }
    let missing = || {
        Check::failed(
            NAME,
            "the load balancer has assigned no address",
            "See the Events of the Service. With MetalLB, an IPAddressPool must select the Service and have a free \
             address; with kube-vip, set spec.loadBalancerIP. A loadBalancerClass must name a load balancer that \
             is installed.",
        )
    };
    service.announced.is_load_balancer.then(missing)
}

fn local_traffic(service: &ServiceFacts) -> Option<Check> {
    const NAME: &str = "local-traffic";
    let mut findings = service.row.findings.iter();
    match findings.find(|finding| finding.reason == Reason::NodeNameMissing) {
        Some(finding) => Some(Check::failed(NAME, &*finding.note, remedy_of(finding.reason))),
        None if service.announced.is_local => Some(Check::ok(
            NAME,
            "each ready endpoint names its Node, as Local requires",
        )),
        None => None,
    }
}

fn foreign_slices(row: &Row) -> Check {
    const NAME: &str = "foreign-slices";
    let mut findings = row.findings.iter();
    match findings.find(|finding| finding.reason == Reason::ForeignSlices) {
        Some(finding) => Check::failed(NAME, &*finding.note, remedy_of(finding.reason)),
        None => Check::ok(NAME, "all EndpointSlices of the Service are copies"),
    }
}

/// Checks whether load balancers exclude Nodes that may announce the address. With the policy `Local`, only Nodes of
/// ready endpoints may announce it. With any other policy, any Node may.
fn excluded_nodes(service: &ServiceFacts, facts: &Facts) -> Option<Check> {
    const NAME: &str = "excluded-nodes";
    let announced = &service.announced;
    if !announced.is_load_balancer {
        return None;
    }
    let nodes = match &facts.nodes {
        Ok(nodes) => nodes,
        Err(why) => return Some(Check::unknown(NAME, why)),
    };
    let may_announce = |name: &&String| !announced.is_local || service.endpoint_nodes.contains(*name);
    let announcing: Vec<_> = nodes.keys().filter(may_announce).collect();
    let excluded: Vec<_> = announcing.iter().filter(|name| nodes[**name]).collect();
    let (count, all) = (excluded.len(), announcing.len());
    if all == 0 {
        return None;
    }
    let names = a_few(&excluded);
    if count < all && (count == 0 || !announced.is_local) {
        let detail = format!("{} of {all} Nodes may announce the address", all - count);
        return Some(Check::ok(NAME, detail));
    }
    let of_metallb = facts.metallb.as_ref().ok();
    let of_metallb = of_metallb.and_then(|metallb| metallb.get(&service.row.key()));
    let announcers = of_metallb.into_iter().flatten().chain(&announced.kube_vip_node);
    if let Some(node) = announcers.into_iter().find(|node| nodes.contains_key(*node)) {
        let detail = format!("Node {node} announces the address, whatever its labels are");
        return Some(Check::ok(NAME, detail));
    }
    let mut remedy = format!(
        "kubectl label nodes --selector {EXCLUDE_LABEL} {EXCLUDE_LABEL}- removes the label. If something sets it again, \
         install MetalLB with speaker.ignoreExcludeLB=true."
    );
    if announced.is_local {
        remedy.push_str(" Or set externalTrafficPolicy: Cluster, so that other Nodes announce the address.");
    }
    if count < all {
        let detail = format!("Nodes that the policy Local needs have the label {EXCLUDE_LABEL}: {names}");
        return Some(Check::warning(NAME, detail, remedy));
    }
    let detail = format!("all Nodes that may announce the address have the label {EXCLUDE_LABEL}: {names}");
    Some(match &facts.metallb {
        Ok(_) => Check::failed(NAME, detail, remedy),
        Err(why) => Check {
            remedy: Some(remedy),
            ..Check::unknown(
                NAME,
                format!("{detail}. Whether MetalLB announces it anyway is unknown: {why}"),
            )
        },
    })
}

/// Checks whether each API server that answered has a certificate for each name of the Service.
fn tls_san(service: &ServiceFacts, facts: &Facts) -> Option<Check> {
    const NAME: &str = "tls-san";
    let names: BTreeSet<_> = service.names().collect();
    if service.servers.is_empty() || names.is_empty() {
        return None;
    }
    let answered: Vec<(&Target, &ServerAnswer)> = service
        .servers
        .iter()
        .filter_map(|target| Some((target, facts.servers.get(target)?.as_ref().ok()?)))
        .collect();
    if answered.is_empty() {
        return Some(Check::unknown(
            NAME,
            "no API server has presented its certificate",
        ));
    }
    let lack =
        |(_, server): &&(&Target, &ServerAnswer)| names.iter().any(|name| server.missing.contains(name));
    let lacking: Vec<_> = answered.iter().filter(lack).collect();
    let Some((_, first)) = lacking.first() else {
        return Some(Check::ok(
            NAME,
            format!(
                "{} of {} servers have a certificate for {}",
                answered.len(),
                service.servers.len(),
                a_few(&names)
            ),
        ));
    };
    let is_missing = |name: &&String| lacking.iter().any(|(_, server)| server.missing.contains(*name));
    let missing: Vec<_> = names.iter().filter(is_missing).collect();
    let missing_names = a_few(&missing);
    let servers = a_few(lacking.iter().map(|(target, _)| target));
    let mut detail = format!("the certificate of {servers} is not valid for {missing_names}");
    if lacking.iter().all(|(_, server)| server.names == first.names) {
        _ = write!(detail, ", but for {}", first.names.join(", "));
    }
    let remedy = format!(
        "Add {missing_names} to tls-san in the configuration of each of these servers and restart rke2-server or k3s. \
         With kubeadm, add {missing_names} to apiServer.certSANs and renew the certificate of the API server."
    );
    // A server may have another certificate for a host name, and present it only to clients that send the name.
    let is_address = |name: &String| service.announced.host_names.iter().all(|host| host != name);
    let verdict = if missing.into_iter().any(is_address) {
        CheckResult::Failed
    } else {
        CheckResult::Warning
    };
    Some(Check::wrong(NAME, verdict, detail, remedy))
}
