//! Slices that no managed Service needs take little memory in the index, however large they are.

use super::*;
use crate::model::{OwnerReference, Reason, provenance};
use crate::plan::{Plan, Verdicts, plan};

/// The addresses of a slice whose endpoints are too large to be kept if nobody needs them.
fn many() -> Vec<String> {
    (0..1000)
        .map(|n| format!("10.1.{}.{}", n / 250, n % 250))
        .collect()
}

fn large(slice: EndpointSlice) -> EndpointSlice {
    let addresses = many();
    slice.endpoints(addresses.iter().map(String::as_str))
}

/// A large copy for `vip`.
fn large_copy() -> EndpointSlice {
    large(copy_slice())
}

fn kept<'a>(index: &'a Index, slice: &EndpointSlice) -> &'a EndpointSlice {
    index.slice(&slice.key()).expect("the slice is known")
}

fn plan_of(index: &Index, confirmed: &[&SliceKey]) -> Plan {
    let mut snapshot = index.snapshot(&key("vip")).expect("everything is listed");
    snapshot.confirmed = confirmed.iter().map(|&key| key.clone()).collect();
    plan(&snapshot, &Verdicts::Off)
}

/// The Service `vip`, with a typo in an annotation.
fn frozen() -> Service {
    service("vip").annotate(annotation::ENABLED, "ture").version(2)
}

/// Rule: survive.memory
#[test]
fn large_slices_that_nobody_copies_are_kept_as_outlines() {
    let mut index = filled();
    let sources = named(&["kubernetes", "vip"]);
    let theirs = large(slice("theirs").namespace("tenant"));
    let foreign = large(slice("foreign").of("vip"));
    for slice in [&theirs, &foreign] {
        index.apply_slice(&sources, slice.clone());
    }
    let labeled = large(slice("labeled").label(label::MANAGED_BY, "endpoint-copier-operator"));
    let stray = large(slice("stray").copied("nobody", "kubernetes"));
    for slice in [&labeled, &stray] {
        index.apply_slice(&Scope::Copies, slice.clone());
    }
    for slice in [theirs, foreign, labeled, stray] {
        let kept = kept(&index, &slice);
        assert_eq!((&kept.endpoints, &kept.ports), (&None, &None), "{}", slice.key());
        assert!(!kept.is_empty(), "{}", slice.key());
        assert_eq!(kept.metadata.resource_version, slice.metadata.resource_version);
        assert_eq!(kept.owner_of_copy(), slice.owner_of_copy());
    }
    let findings = plan_of(&index, &[]).findings;
    let foreign: Vec<_> = findings
        .iter()
        .filter(|finding| finding.reason == Reason::ForeignSlices)
        .collect();
    assert_eq!(foreign.len(), 1, "{findings:?}");
}

/// Rule: survive.memory
#[test]
fn copies_of_a_frozen_service_are_kept_as_outlines() {
    let mut index = filled();
    index.apply_service(&frozen());
    let copy = large_copy().annotate("note", &"x".repeat(250_000));
    index.apply_slice(&Scope::Copies, copy.clone());
    let kept = kept(&index, &copy);
    assert_eq!(kept.endpoints, None);
    assert_eq!(label_of(&kept.metadata, "note"), None);
    assert!(serde_json::to_vec(kept).unwrap().len() < 1000);
    assert_eq!(index.endpoints(&key("vip")).unwrap().copies.ready, 1000);
}

/// Rule: survive.memory
#[test]
fn slices_that_matter_are_kept_whole_in_any_order() {
    let (source, copy) = (large(slice("kubernetes")), large_copy());
    let mut index = Index::new(defaults());
    // Slices of the API source can be listed before the Services.
    index.list_slice(&named(&["kubernetes"]), source.clone());
    assert_eq!(kept(&index, &source), &source);
    let mut index = filled();
    index.apply_slice(&Scope::Copies, copy.clone());
    assert_eq!(kept(&index, &copy), &copy);
    index.apply_service(&service("vip").source("tenant", "kubernetes").version(2));
    let asked_for = source.namespace("tenant");
    index.apply_slice(&named(&["kubernetes"]), asked_for.clone());
    assert_eq!(kept(&index, &asked_for), &asked_for);
}

/// Rule: survive.memory
#[test]
fn outlined_source_is_read_before_it_is_first_copied() {
    let mut index = filled();
    let source = large(slice("theirs").namespace("tenant"));
    index.apply_slice(&named(&["kubernetes", "vip"]), source.clone());
    let copy = slice(&copy_name("vip", &source)).copied("vip", "theirs");
    let copy = copy.annotate(provenance::NAMESPACE, "tenant");
    index.apply_slice(&Scope::Copies, copy.endpoints(["10.0.0.1"]));
    index.apply_service(&service("vip").source("tenant", "kubernetes").version(2));
    let first = plan_of(&index, &[]);
    assert_eq!(first.confirm, [source.key()].into());
    // The GET failed, so the slice is treated as present and unchanged.
    let without = plan_of(&index, &[&source.key()]);
    assert!(without.is_done(), "{without:?}");
    look(&mut index, &source.key(), Some(source.clone()));
    let plan = plan_of(&index, &[]);
    assert!(plan.confirm.is_empty());
    assert_eq!(plan.updates[0].endpoints.as_ref().map(Vec::len), Some(1000));
}

/// Rule: survive.memory
#[test]
fn outlined_copies_are_read_when_a_typo_is_corrected() {
    let mut index = filled();
    index.apply_service(&frozen());
    index.apply_slice(&named(&["kubernetes", "vip"]), large(slice("kubernetes")));
    let copy = large_copy();
    index.apply_slice(&Scope::Copies, copy.clone());
    assert!(
        plan_of(&index, &[]).is_done(),
        "something would be read for a frozen Service"
    );
    index.apply_service(&service("vip").version(3));
    assert_eq!(plan_of(&index, &[]).confirm, [copy.key()].into());
    let without = plan_of(&index, &[&copy.key()]);
    assert!(
        without.is_done(),
        "a copy that could not be read must stay as it is: {without:?}"
    );
    look(&mut index, &copy.key(), Some(copy.clone()));
    assert_eq!(kept(&index, &copy), &copy);
    assert!(plan_of(&index, &[]).confirm.is_empty());
}

/// Rule: survive.memory
#[test]
fn large_metadata_of_others_on_a_copy_is_not_kept() {
    let mut index = filled();
    let small = copy_slice().annotate("note", "x").label("team", "x");
    index.apply_slice(&Scope::Copies, small.clone());
    assert_eq!(kept(&index, &small), &small);
    let much = "x".repeat(250_000);
    let own = copy_slice();
    for large in [
        own.clone().annotate("note", &much),
        own.clone()
            .edit(|copy| copy.metadata.finalizers = Some(vec![much.clone()])),
        own.clone().edit(|copy| {
            let other = OwnerReference {
                uid: much.clone(),
                ..OwnerReference::default()
            };
            copy.metadata.owner_references.get_or_insert_default().push(other);
        }),
    ] {
        index.apply_slice(&Scope::Copies, large.clone());
        assert_eq!(kept(&index, &large).metadata, own.metadata);
    }
    // A value that the operator would never write stays invalid when it is emptied.
    for annotation in ["source-slice", "source-uid", "unreachable"] {
        let wrong = own
            .clone()
            .annotate(&format!("endpoint-copier/{annotation}"), &much);
        index.apply_slice(&Scope::Copies, wrong.clone());
        let kept = kept(&index, &wrong);
        assert!(serde_json::to_vec(kept).unwrap().len() < 1000);
        assert_eq!(kept.owner_of_copy(), Some(key("vip")));
        assert_ne!(kept.metadata, own.metadata, "{annotation}");
    }
}
