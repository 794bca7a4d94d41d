//! The checks that concern all Services. All functions are pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::jiff::SignedDuration;

use super::facts::{Facts, Installation, ServerAnswer};
use super::{Check, CheckResult};
use endpoint_copier_core::model::a_few;
use endpoint_copier_core::verdicts::{Failure, SUPERVISOR_PORT, Target};

/// The largest acceptable difference between clocks. The alert on the clock skew of replicas uses the same limit.
const CLOCK_LIMIT: SignedDuration = SignedDuration::from_secs(10);

/// Returns the results for the cluster.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    if facts.services.is_empty() {
        checks.push(Check::warning(
            "services",
            "no Service is managed",
            "Create default/kubernetes-vip, or annotate a Service with endpoint-copier/enabled: \"true\". If flags of the \
             operator name another Service, pass the same flags here.",
        ));
    }
    let ports: BTreeSet<_> = facts.servers.keys().map(|target| target.port()).collect();
    checks.extend(ports.into_iter().map(|port| reachability(port, facts)));
    checks.extend(installations(facts));
    checks.push(rights(facts));
    checks.extend(clocks(facts));
    checks
}

/// Checks whether the API servers answer on a port.
fn reachability(port: u16, facts: &Facts) -> Check {
    const NAME: &str = "reachability";
    let of_port = || facts.servers.iter().filter(|(target, _)| target.port() == port);
    let failed: Vec<_> = of_port()
        .filter_map(|(target, answer)| Some((target, answer.as_ref().err()?)))
        .collect();
    let count = of_port().count();
    if failed.is_empty() {
        return Check::ok(NAME, format!("{count} of {count} servers answer on port {port}"));
    }
    let listed = failed.iter().map(|(target, why)| format!("{target} ({why})"));
    let detail = format!(
        "requests to {} of {count} servers on port {port} failed: {}",
        failed.len(),
        a_few(listed)
    );
    let none_answers = facts.servers.values().all(Result::is_err);
    if none_answers && failed.iter().all(|(_, why)| is_silent(why)) {
        return Check {
            remedy: Some(
                "Run this command in a Pod of the operator, or on a node: this machine may be unable to reach the addresses of the \
                 API servers."
                    .to_owned(),
            ),
            ..Check::unknown(NAME, detail)
        };
    }
    let remedy = if port == SUPERVISOR_PORT {
        "With K3s, nothing listens on port 9345: remove the port from the Service. With RKE2, check rke2-server on these \
         servers, and the firewall between nodes."
    } else {
        "Check the API servers, and the firewall. If a server is gone for good, remove it from the cluster, so that \
         default/kubernetes no longer lists it. API servers list their --advertise-address."
    };
    Check::failed(NAME, detail, remedy)
}

/// Whether the fault may be on our side, because the failure does not show that the server answered.
fn is_silent(failure: &Failure) -> bool {
    matches!(failure, Failure::TimedOut | Failure::Other(_))
}

/// Checks whether a replica leads, and whether all replicas that lead belong to one installation.
fn installations(facts: &Facts) -> Option<Check> {
    const NAME: &str = "installations";
    let found = &facts.installations;
    if !found.elect {
        return None;
    }
    let describe = |it: &Installation| {
        let holder = it.leader.holder.as_deref().unwrap_or("nobody");
        format!("{holder} in namespace {}", it.leader.namespace)
    };
    let leading: Vec<_> = found.seen.iter().filter(|it| it.leader.leads).collect();
    let led: Vec<_> = leading.iter().map(|it| describe(it)).collect();
    Some(match (leading.as_slice(), &found.hidden) {
        ([_, _, ..], _) => Check::failed(
            NAME,
            format!(
                "replicas lead in {} namespaces, and undo each other's writes: {}",
                led.len(),
                a_few(&led)
            ),
            "Keep one installation and uninstall the others. helm list --all-namespaces shows those that Helm \
             installed. The copies stay in place.",
        ),
        (_, Some(why)) if led.is_empty() => Check::unknown(NAME, format!("whether a replica leads: {why}")),
        (_, Some(why)) => Check::unknown(
            NAME,
            format!("{} leads; whether there is another installation: {why}", led[0]),
        ),
        ([_], None) => Check::ok(NAME, format!("one, led by {}", led[0])),
        ([], None) => {
            let expired = found.seen.iter().filter(|it| it.leader.holder.is_some());
            let last = a_few(expired.map(describe));
            let detail = "no replica of the operator leads, so the copies do not follow their source";
            let detail = match last.as_str() {
                "" => detail.to_owned(),
                last => format!("{detail}; the last one was {last}"),
            };
            Check::failed(
                NAME,
                detail,
                "Install the operator, or check its Pods and their logs: kubectl get pods --all-namespaces --selector \
                 app.kubernetes.io/name=endpoint-copier-operator",
            )
        }
    })
}

/// Checks whether the operator has the permissions that it needs.
fn rights(facts: &Facts) -> Check {
    const NAME: &str = "rights";
    const REMEDY: &str = "Install or upgrade the chart with rbac.create=true and, if a permission for nodes is missing, \
                          nodes.enabled=true. If rbac.namespaces lists namespaces, add those of all managed Services.";
    let rights = match &facts.rights {
        Ok(rights) => rights,
        Err(why) => return Check::unknown(NAME, why),
    };
    let of = |needed: bool| {
        let rights = rights.missing.iter();
        rights
            .filter(|right| right.is_needed == needed)
            .collect::<Vec<_>>()
    };
    let (needed, useful) = (of(true), of(false));
    let who = &rights.who;
    if !needed.is_empty() {
        Check::failed(
            NAME,
            format!("{who} is not allowed to {}", a_few(&needed)),
            REMEDY,
        )
    } else if useful.is_empty() {
        Check::ok(NAME, format!("{who} has all permissions that the operator needs"))
    } else {
        let detail = format!(
            "{who} is not allowed to {}, so some features do not work",
            a_few(&useful)
        );
        Check::warning(NAME, detail, REMEDY)
    }
}

/// Checks whether the clocks of the API servers, of the leaders and of this machine agree.
fn clocks(facts: &Facts) -> Option<Check> {
    const NAME: &str = "clocks";
    const REMEDY: &str = "Synchronize the clocks of all nodes with NTP: chronyc tracking or timedatectl shows the state on a node.";
    let known = |(target, answer): (&Target, &Result<ServerAnswer, Failure>)| {
        Some((target.address(), answer.as_ref().ok()?.ahead?))
    };
    let ours_ahead: BTreeMap<IpAddr, f64> = facts.servers.iter().filter_map(known).collect();
    let limit = CLOCK_LIMIT.as_secs_f64();
    let latest = ours_ahead.iter().min_by(|a, b| a.1.total_cmp(b.1));
    let earliest = ours_ahead.iter().max_by(|a, b| a.1.total_cmp(b.1));
    if let (Some((late, low)), Some((early, high))) = (latest, earliest)
        && high - low > limit
    {
        let detail = format!(
            "the clock of {late} is {:.0} s ahead of that of {early}",
            high - low
        );
        return Some(Check::failed(NAME, detail, REMEDY));
    }
    let leading = facts.installations.seen.iter().filter(|it| it.leader.leads);
    for it in leading {
        let lasts = SignedDuration::from_secs(it.leader.duration_seconds.unwrap_or(0));
        let by = it.ahead.unwrap_or_default();
        let word = if by > CLOCK_LIMIT {
            "ahead of"
        } else if by < -lasts.saturating_add(CLOCK_LIMIT) {
            "behind"
        } else {
            continue;
        };
        let holder = it.leader.holder.as_deref().unwrap_or("nobody");
        let detail = format!(
            "the clock of {holder} is {} s {word} that of the API server",
            by.as_secs().abs()
        );
        return Some(Check::failed(NAME, detail, REMEDY));
    }
    let (_, low) = latest?;
    let (_, high) = earliest?;
    if *low > limit || *high < -limit {
        let (by, word) = if *low > limit {
            (low, "ahead of")
        } else {
            (high, "behind")
        };
        return Some(Check::wrong(
            NAME,
            CheckResult::Warning,
            format!(
                "the clock of this machine is {:.0} s {word} those of the API servers",
                by.abs()
            ),
            "Synchronize these clocks with NTP. Until then, certificates and tokens that were just issued may be \
             refused.",
        ));
    }
    Some(Check::ok(
        NAME,
        format!(
            "the clocks of {} API servers differ by less than {} s",
            ours_ahead.len(),
            CLOCK_LIMIT.as_secs()
        ),
    ))
}
