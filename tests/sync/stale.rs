//! A copy claims a newer state of its source than the watch shows: one consistent GET of the source decides.

use serde_json::{Value, json};
use testbed::{Fault, Match, Store};

use crate::harness::{Operator, addresses, cluster, ms, pass, put, seconds, service, slice, slices_of};

/// An operator with a stale view of sources, and the name of the copy.
async fn with_stale_sources() -> (Operator, String) {
    let operator = Operator::start(&cluster(&["192.0.2.1", "192.0.2.2"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
    pass(seconds(2)).await;
    let name = slices_of(&operator.store, "vip")[0]["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    operator.sources.lag();
    (operator, name)
}

/// Creates the copy that another replica writes after it has seen this source slice.
fn copied_by_another(operator: &Operator, source: &Value, address: &str) {
    let mut copy = slices_of(&operator.store, "vip").remove(0);
    copy["metadata"] = json!({
        "name": "vip-written-by-another", "namespace": "default", "labels": copy["metadata"]["labels"],
        "annotations": copy["metadata"]["annotations"], "ownerReferences": copy["metadata"]["ownerReferences"],
    });
    let annotations = &mut copy["metadata"]["annotations"];
    for (annotation, field) in [
        ("slice", "name"),
        ("uid", "uid"),
        ("resource-version", "resourceVersion"),
    ] {
        annotations[format!("endpoint-copier/source-{annotation}")] = source["metadata"][field].clone();
    }
    copy["endpoints"] = json!([{"addresses": [address]}]);
    put(&operator.store, copy);
}

/// Updates the copy as another replica does after it has seen this source slice.
fn written_by_another(operator: &Operator, copy: &str, source: &Value, address: &str) {
    let patch = json!({
        "metadata": {"annotations": {"endpoint-copier/source-resource-version": source["metadata"]["resourceVersion"]}},
        "endpoints": [{"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}}],
    });
    operator
        .store
        .patch("endpointslices", "default", copy, patch)
        .expect("a patch");
}

/// Rule: 2.newer-claim
#[tokio::test(start_paused = true)]
async fn a_copy_newer_than_our_view_of_its_source_is_not_undone() {
    let (operator, copy) = with_stale_sources().await;
    let source = put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.1"]));
    written_by_another(&operator, &copy, &source, "192.0.2.1");
    pass(seconds(30)).await;
    assert_eq!(
        addresses(&operator.store, "vip"),
        ["192.0.2.1"],
        "the dead server is restored"
    );
    assert!(
        operator.slice_requests("update").is_empty(),
        "{:?}",
        operator.asked()
    );
    let gets = operator.slice_requests("get");
    assert_eq!(gets.len(), 1, "{:?}", operator.asked());
    assert_eq!(gets[0].name, "kubernetes");
    assert!(
        !gets[0].uri.contains("resourceVersion"),
        "expected a consistent GET: {}",
        gets[0].uri
    );
}

/// Rule: 2.newer-claim
#[tokio::test(start_paused = true)]
async fn a_false_claim_costs_one_get_and_one_write() {
    let (operator, copy) = with_stale_sources().await;
    written_by_another(&operator, &copy, &claim(), "203.0.113.9");
    let took = operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
    assert!(took < ms(100), "{took:?}");
    pass(seconds(30)).await;
    let verbs: Vec<_> = operator.asked().into_iter().skip(1).collect();
    assert_eq!(verbs, ["get kubernetes".to_owned(), format!("update {copy}")]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_source_that_we_do_not_see_yet_is_not_deleted() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(2)).await;
    operator.sources.lag();
    // Another replica sees a second slice of the source, and has copied it.
    let second = put(
        &operator.store,
        slice("kubernetes", "kubernetes-2", &["192.0.2.9"]),
    );
    copied_by_another(&operator, &second, "192.0.2.9");
    pass(ms(500)).await;
    assert_eq!(operator.slice_requests("get").len(), 1, "{:?}", operator.asked());
    let shown = addresses(&operator.store, "vip");
    assert!(shown.contains(&"192.0.2.9".to_owned()), "{shown:?}");
}

/// Another replica has written a copy that the Service needs. According to our older view, the Service does not need
/// it.
#[tokio::test(start_paused = true)]
async fn a_copy_that_seems_unwanted_is_deleted_only_after_a_get() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    let mut vip = service("vip");
    put(&operator.store, vip.clone());
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(2)).await;
    operator.services.lag();
    operator.store.requests().clear();
    vip["metadata"]["annotations"]["endpoint-copier/default-service-name"] = json!("other");
    let source = put(&operator.store, slice("other", "other", &["192.0.2.9"]));
    put(&operator.store, vip);
    copied_by_another(&operator, &source, "192.0.2.9");
    pass(seconds(6)).await;
    let requests = operator.store.requests().all();
    let first = |verb, resource| requests.iter().position(|request| request.is(verb, resource));
    let read = first("get", "services");
    assert!(read.is_some() && read < first("delete", "endpointslices"));
    // The copy is replaced, because its name is not the one that the operator computes. It is deleted only after its
    // replacement exists.
    let asked = operator.asked();
    let replaced = asked.iter().rposition(|asked| asked.starts_with("create"));
    let deleted = asked.iter().position(|asked| asked.starts_with("delete"));
    assert!(replaced < deleted, "{asked:?}");
    assert_eq!(addresses(&operator.store, "vip"), ["192.0.2.9"]);
}

/// Rule: 2.newer-claim
#[tokio::test(start_paused = true)]
async fn a_404_that_does_not_name_the_source_proves_nothing() {
    let (operator, copy) = with_stale_sources().await;
    let gets = Match::any().verb("get").resource("endpointslices");
    operator.writer.faults().add(Fault::status(gets, 404).times(3));
    written_by_another(&operator, &copy, &claim(), "203.0.113.9");
    operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
    let verbs = |verb| operator.slice_requests(verb).len();
    assert_eq!((verbs("get"), verbs("delete")), (4, 0), "{:?}", operator.asked());
}

/// A source slice with a version that is newer than any in the store, for a false claim.
fn claim() -> Value {
    json!({"metadata": {"resourceVersion": "999999"}})
}

#[tokio::test(start_paused = true)]
async fn every_update_and_delete_names_the_uid_and_version_seen() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let seen = |store: &Store| slices_of(store, "vip").remove(0)["metadata"].clone();
    let first = seen(&operator.store);
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.2"]));
    operator.until_addresses("vip", &["192.0.2.2"]).await;
    let second = seen(&operator.store);
    put(
        &operator.store,
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "vip", "namespace": "default", "annotations": {"endpoint-copier/enabled": "false"}},
            "spec": service("vip")["spec"],
        }),
    );
    operator.until_addresses("vip", &[]).await;
    for (verb, seen, path) in [
        ("update", first, "/metadata"),
        ("delete", second, "/preconditions"),
    ] {
        let request = operator.slice_requests(verb).pop().expect(verb);
        let body = request.body.expect("a body");
        let named = body.pointer(path).cloned().unwrap_or_default();
        assert_eq!(named["uid"], seen["uid"], "{verb}");
        assert_eq!(named["resourceVersion"], seen["resourceVersion"], "{verb}");
    }
}
