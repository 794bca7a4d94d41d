//! Reports IP families that a source lacks. If the source has another family, the report contains a command that the
//! API server accepts.
//!
//! The API server rejects most changes to `spec.ipFamilies`. `ipFamilyPolicy: SingleStack` removes the second family,
//! but the first one cannot change while the Service has a cluster IP.

use super::Plan;
use crate::model::{Family, ManagedService, Reason, Source};

/// Reports the families of the Service for which neither the source has endpoints nor Nodes provide addresses, if the
/// Service has no other families or requires all of its families. Empty slices are ignored, because Kubernetes keeps
/// one for each family of a Service. `report::emptiness` handles a source without endpoints.
pub(super) fn missing(service: &ManagedService, source: &Source, plan: &mut Plan) {
    if source.slices.values().all(|slice| slice.is_empty()) {
        return;
    }
    let is_missing = |family: &Family| !has_endpoints(source, *family) && !is_second(source, *family);
    let missing: Vec<_> = service.families.iter().copied().filter(is_missing).collect();
    let is_none_there = missing.len() == service.families.len();
    if is_none_there || (service.needs_all_families && !missing.is_empty()) {
        let other = Family::ALL
            .into_iter()
            .find(|family| has_endpoints(source, *family));
        let names: Vec<_> = missing.iter().map(|family| family.as_str()).collect();
        let remedy = remedy(service, &missing, other);
        let note = format!(
            "{} has no {} endpoint; {remedy}",
            source.key,
            names.join(" and no ")
        );
        plan.find(Reason::FamilyMissing, note);
    }
}

fn has_endpoints(source: &Source, family: Family) -> bool {
    source.slices_of(family).any(|slice| !slice.is_empty())
}

/// Whether a family is the second family of the API source, whose addresses come from Nodes.
fn is_second(source: &Source, family: Family) -> bool {
    source.key.is_api_source() && has_endpoints(source, family.other())
}

/// The remedy for missing families. `other` is a family in which the source has endpoints, if any.
fn remedy(service: &ManagedService, missing: &[Family], other: Option<Family>) -> String {
    let Some(other) = other else {
        return "give it endpoints of a family of this Service".to_owned();
    };
    let named = format!(
        "service {} --namespace {}",
        service.key.name(),
        service.key.namespace()
    );
    let is_first_there = service
        .families
        .first()
        .is_some_and(|first| !missing.contains(first));
    let other = other.as_str();
    if is_first_there {
        format!(
            r#"give it one, or remove this family from the Service: kubectl patch {named} --patch '{{"spec":{{"ipFamilyPolicy":"SingleStack"}}}}'"#
        )
    } else if service.headless {
        format!(
            r#"give it one, or change the family of the Service: kubectl patch {named} --patch '{{"spec":{{"ipFamilyPolicy":"SingleStack","ipFamilies":["{other}"]}}}}'"#
        )
    } else {
        format!(
            r#"give it one. Or recreate the Service with {other}, because its first family cannot change; this interrupts the Service: kubectl get {named} --output json | kubectl patch --local --filename - --type merge --patch '{{"spec":{{"clusterIP":null,"clusterIPs":null,"ipFamilyPolicy":"SingleStack","ipFamilies":["{other}"]}}}}' --output json > service.json && kubectl replace --force --filename service.json"#
        )
    }
}
