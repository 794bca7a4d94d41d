//! Writes that the API server refuses, permanently or because the namespace is terminating.

use serde_json::json;
use testbed::{Effect, Fault, Match, Request, Rule, builders};

use crate::harness::{
    Operator, addresses, cluster, events, ms, namespace_named, pass, put, seconds, service, service_in,
    service_of, slice, slices_of, two_copies, warnings,
};

/// Rule: 2.write-refused, 2.write-refused-pause
#[tokio::test(start_paused = true)]
async fn a_refused_write_is_retried_after_5_to_30_s_and_reported_once() {
    for code in [422, 403] {
        let operator = Operator::start(&cluster(&["192.0.2.1"]));
        let create = Match::any().verb("create").resource("endpointslices");
        let fault = operator.writer.faults().add(Fault::status(create, code));
        put(&operator.store, service("vip"));
        pass(seconds(100)).await;
        let tries = operator.slice_requests("create");
        let pauses: Vec<_> = tries
            .windows(2)
            .map(|pair| (pair[1].at - pair[0].at).as_millis())
            .collect();
        let about = [5_000, 10_000, 20_000, 30_000, 30_000];
        assert_eq!(pauses.len(), about.len(), "{code}: {pauses:?}");
        for (pause, about) in pauses.iter().zip(about) {
            assert!((about..about + 50).contains(pause), "{code}: {pauses:?}");
        }
        let events = events(&operator.store, "vip");
        assert_eq!(events.len(), 1, "{code}: {events:#?}");
        let (reason, note) = &events[0];
        assert_eq!(reason, "WriteRefused");
        assert!(note.contains("cannot create EndpointSlice vip-"), "{note}");
        assert!(note.contains("injected: "), "without the server's reason: {note}");
        assert_eq!(
            operator.metric("endpoint_copier_findings{reason=\"WriteRefused\"}"),
            Some(1)
        );
        assert_eq!(operator.metric("endpoint_copier_services_in_sync"), Some(0));

        operator.writer.faults().remove(fault);
        let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
        assert!(took <= ms(30_050), "{took:?}");
        pass(seconds(2)).await;
        assert_eq!(
            operator.metric("endpoint_copier_findings{reason=\"WriteRefused\"}"),
            Some(0)
        );
        assert_eq!(operator.metric("endpoint_copier_services_in_sync"), Some(1));
    }
}

/// The permissions of an operator that may write slices in these namespaces.
fn writes_in(namespaces: &[&str]) -> Vec<Rule> {
    vec![
        Rule::new(
            &["", "discovery.k8s.io", "events.k8s.io"],
            &["*"],
            &["get", "list", "watch"],
        ),
        Rule::new(&["events.k8s.io"], &["events"], &["create"]),
        Rule::new(
            &["discovery.k8s.io"],
            &["endpointslices"],
            &["create", "update", "delete"],
        )
        .namespaces(namespaces),
    ]
}

/// Rule: 2.write-refused-pause, chart.namespaces
#[tokio::test(start_paused = true)]
async fn services_in_a_namespace_without_permission_share_a_pause() {
    let store = cluster(&["192.0.2.1"]);
    for namespace in ["blue", "red"] {
        put(&store, namespace_named(namespace));
    }
    put(&store, slice("web", "web-1", &["10.0.0.1"]));
    for number in 0..200 {
        let mut service = service_in("blue", &format!("web-{number}"), "web");
        service["metadata"]["annotations"]["endpoint-copier/default-service-namespace"] = json!("default");
        put(&store, service);
    }
    let user = "admin";
    store.restrict(user, writes_in(&["default", "red"]));
    let operator = Operator::start(&store);
    put(&store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(100)).await;
    // After 0, 5, 15, 35, 65 and 95 s, there is one request for each of the few Services in progress at the same time,
    // not one for each of 200 Services.
    let tries = operator.slice_requests("create").len();
    assert!((6..=80).contains(&tries), "{tries}");
    let refused = "endpoint_copier_findings{reason=\"WriteRefused\"}";
    assert_eq!(operator.metric(refused), Some(200));
    let notes = store.list("events.events.k8s.io", Some("blue"));
    let notes: Vec<_> = notes.iter().filter_map(|event| event["note"].as_str()).collect();
    assert!(notes.len() >= 200, "{}", notes.len());
    assert!(
        notes
            .iter()
            .all(|note| note.contains("list this namespace in rbac.namespaces")),
        "{}",
        notes[0]
    );

    store.restrict(user, writes_in(&["default", "red", "blue"]));
    pass(seconds(31)).await;
    assert_eq!(operator.metric(refused), Some(0));
    assert_eq!(store.list("endpointslices", Some("blue")).len(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_is_retried_at_once_after_a_change() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    let create = Match::any().verb("create").resource("endpointslices");
    operator.writer.faults().add(Fault::status(create, 422).times(1));
    put(&operator.store, service("vip"));
    pass(seconds(1)).await;
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.2"]));
    let took = operator.until_addresses("vip", &["192.0.2.2"]).await;
    assert!(took < ms(100), "{took:?}");
}

/// Rule: 3.old-after-new
#[tokio::test(start_paused = true)]
async fn old_copies_wait_for_replacements_that_may_still_succeed() {
    for (code, stays) in [(422, false), (503, true)] {
        let operator = Operator::start(&cluster(&["192.0.2.1"]));
        put(&operator.store, slice("app", "app-1", &["10.0.0.1"]));
        put(&operator.store, service("vip"));
        operator.until_addresses("vip", &["192.0.2.1"]).await;
        let create = Match::any().verb("create").resource("endpointslices");
        operator.writer.faults().add(Fault::status(create, code));
        let source = json!({"metadata": {"annotations": {"endpoint-copier/default-service-name": "app"}}});
        operator
            .store
            .patch("services", "default", "vip", source)
            .expect("a patch");
        pass(seconds(10)).await;
        assert_eq!(!slices_of(&operator.store, "vip").is_empty(), stays, "{code}");
        operator.writer.faults().clear();
        operator.until_addresses("vip", &["10.0.0.1"]).await;
    }
}

/// Rule: 2.namespace-terminating
#[tokio::test(start_paused = true)]
async fn a_terminating_namespace_is_tried_once_a_minute() {
    let mut service = service("vip");
    service["metadata"]["namespace"] = json!("blue");
    service["metadata"]["annotations"]["endpoint-copier/default-service-namespace"] = json!("default");
    service["metadata"]["annotations"]["endpoint-copier/default-service-name"] = json!("kubernetes");
    let store = cluster(&["192.0.2.1"]);
    // The store acts like a cluster whose controller manager is slow to empty the namespace.
    store.collect_after(None);
    put(&store, builders::namespace("blue"));
    put(&store, service);
    store.delete("namespaces", "", "blue").expect("a namespace");
    let operator = Operator::start(&store);
    // This is half a minute before the eleventh attempt.
    pass(seconds(570)).await;
    let tries = operator.slice_requests("create");
    assert_eq!(tries.len(), 10, "{:?}", operator.asked());
    assert_eq!(tries[0].status, Some(403));
    assert!(store.list("events.events.k8s.io", None).is_empty());
    assert_eq!(
        operator.metric("endpoint_copier_findings{reason=\"WriteRefused\"}"),
        Some(0)
    );
    put(
        &store,
        slice("kubernetes", "kubernetes", &["192.0.2.1", "192.0.2.2"]),
    );
    pass(seconds(10)).await;
    assert_eq!(
        operator.slice_requests("create").len(),
        tries.len(),
        "after a change"
    );
}

/// An API server that is behind can still take a recreated namespace for the deleted one.
/// Rule: 2.namespace-terminating
#[tokio::test(start_paused = true)]
async fn a_copy_is_created_if_its_namespace_is_not_terminating() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    let create = Match::any().verb("create").resource("endpointslices");
    operator
        .writer
        .faults()
        .add(Fault::new(create, Effect::NamespaceTerminating).times(1));
    put(&operator.store, service("vip"));
    let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert!((seconds(59)..=seconds(61)).contains(&took), "{took:?}");
}

/// Rule: 2.write-refused, 2.write-refused-pause
#[tokio::test(start_paused = true)]
async fn an_update_that_changes_nothing_counts_as_refused() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let update = Match::any().verb("update").resource("endpointslices");
    let fault = operator.writer.faults().add(Fault::new(update, Effect::Reverted));
    put(&operator.store, builders::kubernetes_slice(&["192.0.2.2"]));
    pass(seconds(100)).await;
    let tries = operator.slice_requests("update").len();
    assert!((5..=7).contains(&tries), "{tries}");
    let refused = "endpoint_copier_findings{reason=\"WriteRefused\"}";
    assert_eq!(operator.metric(refused), Some(1));
    assert_eq!(operator.metric("endpoint_copier_services_in_sync"), Some(0));
    operator.writer.faults().remove(fault);
    let took = operator.until_addresses("vip", &["192.0.2.2"]).await;
    assert!(took <= ms(30_050), "{took:?}");
    pass(seconds(2)).await;
    assert_eq!(operator.metric(refused), Some(0));
}

/// Rule: 3.deletion-timestamp
#[tokio::test(start_paused = true)]
async fn a_terminating_service_gets_no_new_copies() {
    let operator = two_copies().await;
    let finalizer = json!({"metadata": {"finalizers": ["service.kubernetes.io/load-balancer-cleanup"]}});
    operator
        .store
        .patch("services", "default", "vip", finalizer)
        .expect("a patch");
    operator
        .store
        .delete("services", "default", "vip")
        .expect("a Service");
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.3"]));
    operator.until_addresses("vip", &["192.0.2.2", "192.0.2.3"]).await;
    operator
        .store
        .delete("endpointslices", "default", "kubernetes-2")
        .expect("a slice");
    operator.until_addresses("vip", &["192.0.2.3"]).await;
    put(
        &operator.store,
        slice("kubernetes", "kubernetes-3", &["192.0.2.4"]),
    );
    pass(seconds(10)).await;
    assert_eq!(
        operator.slice_requests("create").len(),
        2,
        "{:?}",
        operator.asked()
    );
    assert_eq!(warnings(&operator.store, "vip"), Vec::<String>::new());
}

/// Rule: 3.old-after-new
#[tokio::test(start_paused = true)]
async fn empty_copy_is_deleted_after_its_replacement_is_written() {
    let operator = Operator::start(&cluster(&[]));
    put(&operator.store, slice("web", "web-1", &["192.0.2.1"]));
    put(&operator.store, service_of("vip", "web"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let creates = Match::any().verb("create").resource("endpointslices");
    let busy = operator.writer.faults().add(Fault::status(creates, 503));
    put(&operator.store, slice("web", "web-2", &["192.0.2.1"]));
    put(&operator.store, slice("web", "web-1", &[]));
    pass(seconds(10)).await;
    assert_eq!(addresses(&operator.store, "vip"), ["192.0.2.1"]);
    for verb in ["update", "delete"] {
        assert!(operator.slice_requests(verb).is_empty(), "{:?}", operator.asked());
    }
    operator.writer.faults().remove(busy);
    pass(seconds(2)).await;
    assert_eq!(slices_of(&operator.store, "vip").len(), 1);
    assert_eq!(addresses(&operator.store, "vip"), ["192.0.2.1"]);
}

/// If a pending refusal made the Service due all the time, each sync would compute a plan and, with planned deletes,
/// send a GET of the Service.
#[tokio::test(start_paused = true)]
async fn a_refused_write_is_planned_again_only_when_due() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, slice("app", "app-1", &["10.0.0.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    // The copy of the new source is refused, and the copy of the old source must be deleted.
    let create = Match::any().verb("create").resource("endpointslices");
    operator.writer.faults().add(Fault::status(create, 422));
    let source = json!({"metadata": {"annotations": {"endpoint-copier/default-service-name": "app"}}});
    operator
        .store
        .patch("services", "default", "vip", source)
        .expect("a patch");
    pass(seconds(3)).await;
    put(&operator.store, slice("app", "app-1", &["10.0.0.2"]));
    pass(seconds(60)).await;
    let series = "workqueue_adds_total{controller=\"endpointslice\",name=\"endpointslice\"}";
    let added = operator.metric(series).expect("a counter");
    assert!((4..20).contains(&added), "{added}");
    let gets = |request: &Request| request.server == "writer" && request.is("get", "services");
    let gets = operator.store.requests().matching(gets).len();
    assert!(gets < 20, "{gets}");
}
