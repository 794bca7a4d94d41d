//! Views that may be late: a GET confirms what a plan from such a view would create or delete, and a watch that is
//! proven to be late is restarted.

use serde_json::json;
use testbed::{Effect, Ending, Fault, Match};

use crate::harness::{
    Operator, addresses, cluster, ms, pass, put, seconds, service, service_of, slice, slices_of, two_copies,
    until,
};

/// The number of times that the watch of a resource was restarted because it was behind.
fn restarts(operator: &Operator, watch: &str) -> u64 {
    let series = format!("endpoint_copier_watch_restarts_total{{reason=\"stale\",resource=\"{watch}\"}}");
    operator.metric(&series).unwrap_or(0)
}

/// An operator whose watch of Services has stopped showing changes. After that, the port of the Service and the slices
/// of its source have changed.
async fn with_stale_services() -> Operator {
    let operator = two_copies().await;
    pass(seconds(2)).await;
    operator.services.lag();
    let ports = json!({"spec": {"ports": [{"name": "https", "port": 6443, "targetPort": 9999}]}});
    operator
        .store
        .patch("services", "default", "vip", ports)
        .expect("a patch");
    // A slice of the source is deleted, so its copy should be deleted, and another slice changes.
    operator
        .store
        .delete("endpointslices", "default", "kubernetes-2")
        .expect("an existing object");
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.3"]));
    operator
}

/// Rule: 2.late-watch
#[tokio::test(start_paused = true)]
async fn a_service_that_differs_in_a_get_is_planned_from_the_get() {
    let operator = with_stale_services().await;
    let took = operator.until_addresses("vip", &["192.0.2.3"]).await;
    assert!(took < ms(200), "{took:?}");
    assert_eq!(slices_of(&operator.store, "vip")[0]["ports"][0]["port"], 9999);
}

/// Rule: 2.late-watch
#[tokio::test(start_paused = true)]
async fn a_late_watch_of_services_is_restarted_after_a_second() {
    let operator = with_stale_services().await;
    operator.until_addresses("vip", &["192.0.2.3"]).await;
    assert_eq!(
        restarts(&operator, "services"),
        0,
        "a watch that is late by less than a second was restarted"
    );
    pass(ms(1100)).await;
    assert_eq!(restarts(&operator, "services"), 1);
    pass(seconds(60)).await;
    assert_eq!(restarts(&operator, "services"), 1, "restarted again");
}

/// Rule: 2.late-watch
#[tokio::test(start_paused = true)]
async fn a_source_known_only_from_a_get_is_watched_within_3_s() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, slice("old", "old-1", &["10.0.0.9"]));
    put(&operator.store, service_of("vip", "old"));
    operator.until_addresses("vip", &["10.0.0.9"]).await;
    pass(seconds(2)).await;
    operator.services.lag();
    put(&operator.store, slice("app", "app-1", &["10.0.0.1"]));
    put(&operator.store, service_of("vip", "app"));
    // According to the old view, the copy has to be deleted, so the operator reads the Service.
    operator
        .store
        .delete("endpointslices", "default", "old-1")
        .expect("an existing object");
    let took = operator.until_addresses("vip", &["10.0.0.1"]).await;
    assert!(took < seconds(3), "{took:?}");
}

/// Rule: 2.gone
#[tokio::test(start_paused = true)]
async fn a_late_watch_does_not_restore_a_service_missing_in_a_get() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    let store = &operator.store;
    store.collect_after(None);
    put(store, service("vip"));
    put(store, slice("kubernetes", "kubernetes-2", &["192.0.2.2"]));
    operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
    pass(seconds(2)).await;
    operator.services.lag();
    // The Service is changed, then deleted. A source slice is deleted as well, so that the operator reads the Service.
    let ports = json!({"spec": {"ports": [{"name": "https", "port": 6443, "targetPort": 9999}]}});
    store.patch("services", "default", "vip", ports).expect("a patch");
    let changed = store.revision();
    store
        .delete("services", "default", "vip")
        .expect("an existing object");
    store
        .delete("endpointslices", "default", "kubernetes-2")
        .expect("an existing object");
    operator.until_addresses("vip", &[]).await;
    let creates = operator.slice_requests("create").len();
    // The watch now shows the change, but not the deletion.
    operator.services.lag_since(changed);
    put(store, service_of("wake", "nothing"));
    pass(ms(300)).await;
    assert_eq!(addresses(store, "vip"), [""; 0]);
    assert_eq!(operator.slice_requests("create").len(), creates);
    operator.services.release();
    pass(seconds(20)).await;
    put(store, service("vip"));
    let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert!(took < ms(100), "a recreated Service: {took:?}");
}

/// Rule: 2.late-watch
#[tokio::test(start_paused = true)]
async fn a_service_that_changes_all_the_time_restarts_no_watch() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let store = operator.store.clone();
    let toggle = tokio::spawn(async move {
        for number in 0..2000 {
            let enabled = if number % 2 == 0 { "false" } else { "true" };
            let patch = json!({"metadata": {"annotations": {"endpoint-copier/enabled": enabled}}});
            store.patch("services", "default", "vip", patch).expect("a patch");
            pass(ms(7)).await;
        }
    });
    toggle.await.expect("no panic");
    assert_eq!(restarts(&operator, "services"), 0);
    assert_eq!(restarts(&operator, "copies"), 0);
    operator.until_addresses("vip", &["192.0.2.1"]).await;
}

/// Rule: 2.late-watch
#[tokio::test(start_paused = true)]
async fn a_watch_of_copies_that_does_not_show_our_writes_is_restarted() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(2)).await;
    operator.copies.lag();
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.2"]));
    operator.until_addresses("vip", &["192.0.2.2"]).await;
    pass(ms(1100)).await;
    assert_eq!(operator.slice_requests("get").len(), 1, "{:?}", operator.asked());
    assert_eq!(restarts(&operator, "copies"), 0);
    pass(seconds(1)).await;
    assert_eq!(restarts(&operator, "copies"), 1);
}

/// An operator whose watches of sources have ended and cannot resume. The slice `kubernetes` has been deleted since
/// then.
async fn with_sources_cut_off() -> Operator {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(2)).await;
    let watches = Match::any().verb("watch");
    operator.sources.faults().add(Fault::status(watches, 503));
    operator
        .sources
        .faults()
        .end_watches(Match::any(), Ending::Abrupt);
    pass(ms(10)).await;
    operator
        .store
        .delete("endpointslices", "default", "kubernetes")
        .expect("an existing object");
    operator
}

/// Rule: 2.create-confirmed
#[tokio::test(start_paused = true)]
async fn no_copy_is_made_of_a_deleted_slice_while_its_watch_is_down() {
    let operator = with_sources_cut_off().await;
    put(&operator.store, service("new"));
    pass(ms(500)).await;
    assert_eq!(addresses(&operator.store, "new"), [""; 0]);
    let gets = operator.slice_requests("get");
    assert_eq!(gets.len(), 1, "{:?}", operator.asked());
    assert_eq!(gets[0].name, "kubernetes");
    assert_eq!(
        operator.slice_requests("create").len(),
        1,
        "expected only the copy of vip to be created"
    );
}

/// Rule: 2.gone
#[tokio::test(start_paused = true)]
async fn a_late_watch_does_not_restore_a_slice_missing_in_a_get() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    let store = &operator.store;
    put(store, slice("app", "app-1", &["10.0.0.1"]));
    put(store, service_of("web", "app"));
    operator.until_addresses("web", &["10.0.0.1"]).await;
    pass(seconds(2)).await;
    operator.sources.lag();
    put(store, slice("app", "app-1", &["10.0.0.9"]));
    let changed = store.revision();
    store
        .delete("endpointslices", "default", "app-1")
        .expect("an existing object");
    // The copy claims a newer version of its source, so that the operator reads the source slice.
    let copy = slices_of(store, "web").remove(0);
    let name = copy["metadata"]["name"].as_str().expect("a name");
    let newer = json!({
        "metadata": {"annotations": {"endpoint-copier/source-resource-version": changed.to_string()}},
        "endpoints": [{"addresses": ["10.0.0.8"]}],
    });
    store
        .patch("endpointslices", "default", name, newer)
        .expect("a patch");
    operator.until_addresses("web", &[]).await;
    assert_eq!(operator.slice_requests("get").len(), 1, "{:?}", operator.asked());
    // The watch now shows the change, but not the deletion.
    operator.sources.lag_since(changed);
    put(store, service_of("other", "app"));
    pass(ms(500)).await;
    assert_eq!(addresses(store, "web"), [""; 0]);
    assert_eq!(addresses(store, "other"), [""; 0]);
    operator.sources.release();
    pass(seconds(20)).await;
    put(store, slice("app", "app-1", &["10.0.0.2"]));
    let took = operator.until_addresses("web", &["10.0.0.2"]).await;
    assert!(took < ms(100), "a recreated slice: {took:?}");
}

/// Rule: 2.unread-source
#[tokio::test(start_paused = true)]
async fn a_source_slice_that_cannot_be_read_delays_only_its_own_copy() {
    let operator = two_copies().await;
    pass(seconds(2)).await;
    let watches = Match::any().verb("watch");
    operator.sources.faults().add(Fault::status(watches, 503));
    operator
        .sources
        .faults()
        .end_watches(Match::any(), Ending::Abrupt);
    let reads = Match::any().verb("get").name("kubernetes-2");
    let rule = operator.writer.faults().add(Fault::status(reads, 500));
    pass(ms(10)).await;
    let mut copies = slices_of(&operator.store, "vip");
    copies.retain(|copy| copy["endpoints"][0]["addresses"][0] == "192.0.2.2");
    let name = copies[0]["metadata"]["name"].as_str().expect("a name");
    let ports = json!({"spec": {"ports": [{"name": "https", "port": 6443, "targetPort": 9999}]}});
    let store = &operator.store;
    store
        .delete("endpointslices", "default", name)
        .expect("an existing object");
    store.patch("services", "default", "vip", ports).expect("a patch");
    let took = until(store, "the other copy is updated", |store| {
        slices_of(store, "vip")[0]["ports"][0]["port"] == 9999
    })
    .await;
    assert!(took < ms(500), "{took:?}");
    pass(seconds(5)).await;
    assert_eq!(addresses(store, "vip"), ["192.0.2.1"]);
    operator.writer.faults().remove(rule);
    let took = operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
    assert!(took < seconds(2), "{took:?}");
}

/// Rule: 2.create-confirmed
#[tokio::test(start_paused = true)]
async fn five_hundred_first_copies_cost_no_get() {
    let store = cluster(&["192.0.2.1"]);
    put(&store, slice("app", "app-1", &["10.0.0.1"]));
    for number in 0..250 {
        put(&store, service(&format!("vip-{number}")));
        put(&store, service_of(&format!("web-{number}"), "app"));
    }
    let operator = Operator::start(&store);
    until(&store, "all copies", |store| {
        store.list("endpointslices", None).len() == 2 + 500
    })
    .await;
    assert!(operator.slice_requests("get").is_empty());
    // The first copy of a source that was never used before does not cost a GET either.
    for number in 0..3 {
        let (name, source) = (format!("late-{number}"), format!("source-{number}"));
        put(&store, slice(&source, &source, &["10.0.0.2"]));
        put(&store, service_of(&name, &source));
        operator.until_addresses(&name, &["10.0.0.2"]).await;
    }
    assert!(
        operator.slice_requests("get").is_empty(),
        "{:?}",
        operator.slice_requests("get")
    );
}

/// After a restart, no watch shows the slices of the former source of the Service. The copy of such a slice stays only
/// if not even the labels of the slice can be decoded.
#[tokio::test(start_paused = true)]
async fn an_unreadable_slice_of_a_former_source_keeps_no_other_copy() {
    for labels in [true, false] {
        let store = cluster(&["192.0.2.1"]);
        put(&store, slice("app", "app-1", &["10.0.0.1"]));
        put(&store, slice("old", "old-1", &["10.0.0.8"]));
        put(&store, slice("old", "old-2", &["10.0.0.9"]));
        put(&store, service_of("vip", "old"));
        let operator = Operator::start(&store);
        operator.until_addresses("vip", &["10.0.0.8", "10.0.0.9"]).await;
        operator.stop().await;

        put(&store, service_of("vip", "app"));
        let operator = Operator::standby(&store);
        let reads = Match::any().verb("get").name("old-1");
        let faults = operator.writer.faults();
        faults.add(Fault::new(reads, Effect::Undecodable { labels }));
        operator.lead();
        let remaining: &[_] = if labels {
            &["10.0.0.1", "10.0.0.8"]
        } else {
            &["10.0.0.1"]
        };
        let took = operator.until_addresses("vip", remaining).await;
        assert!(took < seconds(1), "labels: {labels}, {took:?}");
        pass(seconds(120)).await;
        assert_eq!(addresses(&store, "vip"), remaining);
        let gets = operator.slice_requests("get");
        assert!(gets.len() < 12, "{:?}", operator.asked());
        operator.writer.faults().clear();
        let took = operator.until_addresses("vip", &["10.0.0.1"]).await;
        assert!(took <= seconds(31), "labels: {labels}, {took:?}");
    }
}
