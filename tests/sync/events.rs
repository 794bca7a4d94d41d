//! Events: when they are written, how often, and how many.

use serde_json::json;

use crate::harness::{Operator, cluster, events, pass, put, seconds, service, until, warnings};

const MINUTE: u64 = 60;

#[tokio::test(start_paused = true)]
async fn what_lasts_is_said_again_every_half_hour() {
    let store = cluster(&["192.0.2.1"]);
    let mut typo = service("vip");
    typo["metadata"]["annotations"]["endpoint-copier/enabled"] = json!("yes");
    put(&store, typo);
    let _operator = Operator::start(&store);
    for (minutes, said) in [(1, 1), (28, 1), (2, 2), (28, 2), (2, 3)] {
        pass(seconds(minutes * MINUTE)).await;
        assert_eq!(warnings(&store, "vip").len(), said);
    }
    assert!(events(&store, "vip").iter().all(|(reason, note)| {
        reason == "InvalidAnnotation"
            && note.contains("\"yes\"")
            && note.contains("use \"true\" or \"false\"")
    }));
}

#[tokio::test(start_paused = true)]
async fn of_one_service_25_are_said_at_once_and_then_one_in_5_minutes() {
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
        "the flood of one is not the silence of another"
    );
    pass(seconds(6 * MINUTE)).await;
    let said = events(&store, "vip");
    assert_eq!(said.len(), 26);
    assert!(
        said.iter().any(|(_, note)| note.contains("typo-59")),
        "what lasts is said when there is room"
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_is_on_the_service_with_its_uid_and_without_a_version() {
    let store = cluster(&["192.0.2.1"]);
    let made = put(&store, service("vip"));
    let _operator = Operator::start(&store);
    until(&store, "it is said that all is well", |store| {
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
        let events = testbed::Match::any().resource("events");
        operator.writer.faults().add(testbed::Fault::new(events, effect));
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
async fn an_event_that_met_a_busy_server_is_tried_again_soon_and_one_that_was_refused_is_not() {
    for (code, said) in [(429, 1), (503, 1), (422, 0)] {
        let store = cluster(&["192.0.2.1"]);
        let mut typo = service("vip");
        typo["metadata"]["annotations"]["endpoint-copier/enabled"] = json!("yes");
        put(&store, typo);
        let operator = Operator::start(&store);
        let events = testbed::Match::any().resource("events");
        operator
            .writer
            .faults()
            .add(testbed::Fault::status(events, code).times(2));
        pass(seconds(MINUTE)).await;
        assert_eq!(warnings(&store, "vip").len(), said, "{code}");
    }
}
