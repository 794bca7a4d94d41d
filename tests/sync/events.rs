//! Events: when, how often and how many are sent.

use serde_json::json;

use testbed::{Fault, Match, Store};

use crate::harness::{Operator, cluster, events, pass, put, seconds, service, slice, until, warnings};

const MINUTE: u64 = 60;

/// Rule: 3.events-repeat
#[tokio::test(start_paused = true)]
async fn a_lasting_finding_is_repeated_every_30_minutes() {
    let store = cluster(&["192.0.2.1"]);
    let mut typo = service("vip");
    typo["metadata"]["annotations"]["endpoint-copier/enabled"] = json!("yes");
    put(&store, typo);
    let _operator = Operator::start(&store);
    for (minutes, count) in [(1, 1), (28, 1), (2, 2), (28, 2), (2, 3)] {
        pass(seconds(minutes * MINUTE)).await;
        assert_eq!(warnings(&store, "vip").len(), count);
    }
    assert!(events(&store, "vip").iter().all(|(reason, note)| {
        reason == "InvalidAnnotation"
            && note.contains("\"yes\"")
            && note.contains("use \"true\" or \"false\"")
    }));
}

/// Rule: 3.events-flood
#[tokio::test(start_paused = true)]
async fn a_service_gets_25_events_at_once_then_one_per_5_minutes() {
    let store = cluster(&["192.0.2.1"]);
    put(&store, service("vip"));
    let _operator = Operator::start(&store);
    for number in 0..60 {
        let enabled =
            json!({"metadata": {"annotations": {"endpoint-copier/enabled": format!("typo-{number}")}}});
        store
            .patch("services", "default", "vip", enabled)
            .expect("a patch");
        pass(seconds(1)).await;
    }
    assert_eq!(events(&store, "vip").len(), 25);
    let mut other = service("other");
    other["metadata"]["annotations"]["endpoint-copier/enabled"] = json!("yes");
    put(&store, other);
    pass(seconds(1)).await;
    assert_eq!(
        warnings(&store, "other").len(),
        1,
        "many Events about one Service suppress those about another"
    );
    pass(seconds(6 * MINUTE)).await;
    let sent = events(&store, "vip");
    assert_eq!(sent.len(), 26);
    assert!(
        sent.iter().any(|(_, note)| note.contains("typo-59")),
        "the last finding was not reported although the limit allowed it"
    );
}

/// Rule: 3.events-where
#[tokio::test(start_paused = true)]
async fn an_event_names_the_service_and_uid_but_no_version() {
    let store = cluster(&["192.0.2.1"]);
    let made = put(&store, service("vip"));
    let _operator = Operator::start(&store);
    until(&store, "a Synced Event is sent", |store| {
        events(store, "vip").len() == 1
    })
    .await;
    let event = store.list("events.events.k8s.io", Some("default")).remove(0);
    let regarding = &event["regarding"];
    assert_eq!(regarding["kind"], "Service");
    assert_eq!(regarding["apiVersion"], "v1");
    assert_eq!(
        (&regarding["namespace"], &regarding["name"]),
        (&json!("default"), &json!("vip"))
    );
    assert_eq!(regarding["uid"], made["metadata"]["uid"]);
    assert!(
        regarding["resourceVersion"].as_str().is_none_or(str::is_empty),
        "{regarding}"
    );
    assert_eq!(
        (&event["type"], &event["reason"]),
        (&json!("Normal"), &json!("Synced"))
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_written_delays_no_copy() {
    let store = cluster(&["192.0.2.1"]);
    let operator = Operator::start(&store);
    for effect in [testbed::Effect::Hang, testbed::Effect::Break] {
        let events = Match::any().resource("events");
        operator.writer.faults().add(Fault::new(events, effect));
    }
    for number in 0..20 {
        put(&store, service(&format!("s-{number}")));
    }
    let took = until(&store, "all copies", |store| {
        store.list("endpointslices", None).len() == 21
    })
    .await;
    assert!(took < seconds(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_event_is_retried_after_overload_but_not_after_a_refusal() {
    for (code, count) in [(429, 1), (503, 1), (422, 0)] {
        let store = cluster(&["192.0.2.1"]);
        let mut typo = service("vip");
        typo["metadata"]["annotations"]["endpoint-copier/enabled"] = json!("yes");
        put(&store, typo);
        let operator = Operator::start(&store);
        let events = Match::any().resource("events");
        operator.writer.faults().add(Fault::status(events, code).times(2));
        pass(seconds(MINUTE)).await;
        assert_eq!(warnings(&store, "vip").len(), count, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn synced_waits_for_a_delete_that_waits_for_a_get() {
    let store = cluster(&["192.0.2.1"]);
    let second = put(&store, slice("kubernetes", "kubernetes-2", &["192.0.2.2"]));
    put(&store, service("vip"));
    let operator = Operator::start(&store);
    operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
    until(&store, "the Event is sent", |store| synced(store) == 1).await;
    // A `Synced` Event is due as soon as this annotation is valid again.
    set_when_empty(&store, "typo");
    until(&store, "the Event is sent", |store| {
        warnings(store, "vip").len() == 1
    })
    .await;
    let gets = Match::any().verb("get").resource("services");
    let fault = operator.writer.faults().add(Fault::status(gets, 500));
    let name = second["metadata"]["name"].as_str().expect("a name");
    store
        .delete("endpointslices", "default", name)
        .expect("an existing object");
    set_when_empty(&store, "hold");
    put(&store, slice("kubernetes", "kubernetes", &["192.0.2.3"]));
    operator.until_addresses("vip", &["192.0.2.2", "192.0.2.3"]).await;
    pass(seconds(30)).await;
    assert_eq!(synced(&store), 1, "{:?}", events(&store, "vip"));
    let in_sync = || operator.metric("endpoint_copier_services_in_sync");
    assert_eq!(in_sync(), Some(0));
    operator.writer.faults().remove(fault);
    let took = operator.until_addresses("vip", &["192.0.2.3"]).await;
    assert!(took < seconds(1), "{took:?}");
    pass(seconds(2)).await;
    assert_eq!(in_sync(), Some(1));
    until(&store, "the Event is sent", |store| synced(store) == 2).await;
}

fn synced(store: &Store) -> usize {
    let all = events(store, "vip");
    all.iter().filter(|(reason, _)| reason == "Synced").count()
}

fn set_when_empty(store: &Store, value: &str) {
    let annotation = json!({"metadata": {"annotations": {"endpoint-copier/when-source-empty": value}}});
    store
        .patch("services", "default", "vip", annotation)
        .expect("a patch");
}

/// Rule: 3.synced
#[tokio::test(start_paused = true)]
async fn synced_follows_only_a_first_copy_or_the_end_of_a_finding() {
    let store = cluster(&["192.0.2.1"]);
    put(&store, service("vip"));
    let operator = Operator::start(&store);
    until(&store, "the Event is sent", |store| synced(store) == 1).await;
    for number in 2..20 {
        let address = format!("192.0.2.{number}");
        put(&store, slice("kubernetes", "kubernetes", &[&address]));
        operator.until_addresses("vip", &[&address]).await;
        pass(seconds(1)).await;
    }
    assert_eq!(synced(&store), 1);
    set_when_empty(&store, "typo");
    until(&store, "the Event is sent", |store| {
        warnings(store, "vip").len() == 1
    })
    .await;
    // This change ends the finding without a write of a copy.
    set_when_empty(&store, "follow");
    until(&store, "the Event is sent", |store| synced(store) == 2).await;
    pass(seconds(60)).await;
    assert_eq!(synced(&store), 2);
}

/// Rule: 3.events-later
#[tokio::test(start_paused = true)]
async fn events_that_find_a_full_queue_are_sent_later() {
    let store = cluster(&["192.0.2.1"]);
    for number in 0..1200 {
        let mut typo = service(&format!("typo-{number}"));
        typo["metadata"]["annotations"]["endpoint-copier/enabled"] = json!("yes");
        put(&store, typo);
    }
    let operator = Operator::start(&store);
    let slow = Match::any().resource("events");
    let slow = Fault::new(slow, testbed::Effect::Latency(crate::harness::ms(20)));
    operator.writer.faults().add(slow);
    pass(seconds(2 * MINUTE)).await;
    assert_eq!(store.list("events.events.k8s.io", Some("default")).len(), 1200);
}
