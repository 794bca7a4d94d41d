//! The `endpoint-copier/InSync` condition in the status of managed Services.

use serde_json::{Value, json};
use testbed::{Effect, Fault, Match, Request, Rule, Store};

use crate::harness::{Operator, cluster, ms, pass, put, seconds, service, service_of, slice, until};
use crate::log::Log;

const TYPE: &str = "endpoint-copier/InSync";

/// The condition of a Service in namespace `default`.
fn condition(store: &Store, service: &str) -> Option<Value> {
    let service = store.get("services", "default", service)?;
    let conditions = service["status"]["conditions"].as_array()?.clone();
    conditions.into_iter().find(|condition| condition["type"] == TYPE)
}

/// The status and the reason of the condition of a Service in namespace `default`.
fn status_and_reason(store: &Store, service: &str) -> Option<[String; 2]> {
    let condition = condition(store, service)?;
    let text = |field: &str| condition[field].as_str().expect("a string").to_owned();
    Some([text("status"), text("reason")])
}

async fn until_condition(store: &Store, service: &str, expected: [&str; 2]) -> std::time::Duration {
    let what = format!("the condition of {service} is {expected:?}");
    until(store, &what, |store| {
        status_and_reason(store, service).is_some_and(|found| found == expected)
    })
    .await
}

/// The requests that write conditions.
fn writes(store: &Store) -> Vec<Request> {
    let wanted = |request: &Request| request.is("patch", "services") && request.subresource == "status";
    store.requests().matching(wanted)
}

/// Writes conditions as another client.
fn forge(store: &Store, service: &str, conditions: Value) {
    let patch = json!({"status": {"conditions": conditions}});
    let forged = store.patch_status("services", "default", service, patch);
    forged.expect("the condition is stored");
}

fn forged() -> Value {
    json!({"type": TYPE, "status": "False", "reason": "Forged", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

const IN_SYNC: [&str; 2] = ["True", "InSync"];

async fn in_sync() -> Operator {
    let operator = Operator::with_conditions(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    let took = until_condition(&operator.store, "vip", IN_SYNC).await;
    assert!(took < seconds(1), "{took:?}");
    operator
}

/// Rule: 3.condition-writes
#[tokio::test(start_paused = true)]
async fn condition_is_written_only_when_it_changes() {
    let operator = in_sync().await;
    for number in 2..20 {
        let address = format!("192.0.2.{number}");
        put(&operator.store, slice("kubernetes", "kubernetes", &[&address]));
        operator.until_addresses("vip", &[&address]).await;
        pass(seconds(1)).await;
    }
    assert_eq!(writes(&operator.store).len(), 1);
    let ports =
        |target: &str| json!({"spec": {"ports": [{"name": "https", "port": 6443, "targetPort": target}]}});
    let patch = |patch: Value| {
        let patched = operator.store.patch("services", "default", "vip", patch);
        patched.expect("a patch")
    };
    patch(ports("nowhere"));
    until_condition(&operator.store, "vip", ["False", "PortUnresolved"]).await;
    pass(seconds(2)).await;
    patch(ports("https"));
    until_condition(&operator.store, "vip", IN_SYNC).await;
    assert_eq!(writes(&operator.store).len(), 3);
    let last = condition(&operator.store, "vip").expect("a condition");
    assert_eq!(last["message"], "the copies are in sync");
    assert!(last["lastTransitionTime"].is_string(), "{last}");
}

/// Rule: 3.condition-writes
#[tokio::test(start_paused = true)]
async fn own_write_of_a_condition_causes_no_sync() {
    let operator = in_sync().await;
    pass(seconds(5)).await;
    let syncs = || operator.metric("endpoint_copier_syncs_total{result=\"success\"}");
    let before = syncs();
    forge(&operator.store, "vip", json!([forged()]));
    pass(seconds(61)).await;
    assert_eq!(
        status_and_reason(&operator.store, "vip"),
        Some(IN_SYNC.map(str::to_owned))
    );
    assert_eq!(syncs(), before);
}

/// Rule: 3.condition-writes
#[tokio::test(start_paused = true)]
async fn condition_that_others_change_is_repaired_once_a_minute() {
    let operator = in_sync().await;
    let ready = json!({"type": "Ready", "status": "True", "reason": "A", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    for _ in 0..60 {
        forge(&operator.store, "vip", json!([ready, forged()]));
        pass(seconds(5)).await;
    }
    let count = writes(&operator.store).len();
    assert!((5..=6).contains(&count), "{count} writes in 300 s");
    until_condition(&operator.store, "vip", IN_SYNC).await;
    let service = operator
        .store
        .get("services", "default", "vip")
        .expect("the Service");
    assert_eq!(
        service["status"]["conditions"][0], ready,
        "the condition of another client has changed"
    );
}

/// Rule: 3.condition-writes
#[tokio::test(start_paused = true)]
async fn new_leader_does_not_write_conditions_again() {
    let store = cluster(&["192.0.2.1"]);
    put(&store, service("vip"));
    put(&store, service_of("invalid", "-"));
    let operator = Operator::with_conditions(&store);
    until_condition(&store, "vip", IN_SYNC).await;
    until_condition(&store, "invalid", ["False", "InvalidAnnotation"]).await;
    operator.stop().await;
    let count = writes(&store).len();
    let operator = Operator::with_conditions(&store);
    pass(seconds(200)).await;
    assert_eq!(writes(&store).len(), count);
    operator.stop().await;
}

/// Rule: 3.condition-removed
#[tokio::test(start_paused = true)]
async fn condition_is_removed_when_service_is_no_longer_managed() {
    let store = cluster(&["192.0.2.1"]);
    for name in ["left", "vip", "off"] {
        put(&store, service(name));
    }
    forge(&store, "left", json!([forged()]));
    let unmanaged = |name: &str, value: Value| {
        let patch = json!({"metadata": {"annotations": {"endpoint-copier/enabled": value}}});
        store.patch("services", "default", name, patch).expect("a patch");
    };
    // When the operator starts, `left` is no longer managed, but still has a condition.
    unmanaged("left", Value::Null);
    let operator = Operator::with_conditions(&store);
    for name in ["vip", "off"] {
        until_condition(&store, name, IN_SYNC).await;
    }
    pass(seconds(2)).await;
    unmanaged("vip", Value::Null);
    unmanaged("off", json!("false"));
    until(&store, "no Service has a condition", |store| {
        ["left", "vip", "off"]
            .iter()
            .all(|name| condition(store, name).is_none())
    })
    .await;
    pass(seconds(200)).await;
    assert_eq!(writes(&store).len(), 5);
    operator.stop().await;
}

/// Rule: 3.condition-passing
#[tokio::test(start_paused = true)]
async fn failing_writes_of_copies_are_reported_after_10_seconds() {
    let operator = in_sync().await;
    let updates = Match::any().verb("update").resource("endpointslices");
    for (lasts, expected) in [(ms(8_000), IN_SYNC), (ms(12_000), ["False", "NotWritten"])] {
        let fault = Fault::status(updates.clone(), 500);
        let fault = operator.writer.faults().add(fault);
        let address = format!("192.0.2.{}", lasts.as_secs());
        put(&operator.store, slice("kubernetes", "kubernetes", &[&address]));
        pass(lasts).await;
        assert_eq!(
            status_and_reason(&operator.store, "vip"),
            Some(expected.map(str::to_owned))
        );
        operator.writer.faults().remove(fault);
        operator.until_addresses("vip", &[&address]).await;
        until_condition(&operator.store, "vip", IN_SYNC).await;
    }
}

/// Rule: 3.condition-copies-first
#[tokio::test(start_paused = true)]
async fn copies_do_not_wait_for_condition_writes_that_hang_or_fail() {
    for effect in [
        Effect::Hang,
        Effect::Status {
            code: 403,
            retry_after: None,
        },
        Effect::Status {
            code: 429,
            retry_after: Some(30),
        },
        Effect::Status {
            code: 500,
            retry_after: None,
        },
    ] {
        let store = cluster(&["192.0.2.1"]);
        put(&store, slice("app", "app-1", &["10.0.0.1"]));
        for number in 0..50 {
            put(&store, service_of(&format!("web-{number}"), "app"));
        }
        put(&store, service("kubernetes-vip"));
        let operator = Operator::standby_with_conditions(&store);
        let conditions = Match::any().resource("services/status");
        operator
            .writer
            .faults()
            .add(Fault::new(conditions, effect.clone()));
        operator.lead();
        for number in 2..30 {
            let address = format!("192.0.2.{number}");
            put(&store, slice("kubernetes", "kubernetes", &[&address]));
            let took = operator.until_addresses("kubernetes-vip", &[&address]).await;
            assert!(took < ms(50), "{effect:?}: {took:?}");
            pass(seconds(2)).await;
        }
        let count = writes(&store).len();
        // The limit includes the writes in flight when the first one is rejected, and those after each pause.
        let limit = if matches!(effect, Effect::Status { code: 429, .. }) {
            21
        } else {
            600
        };
        assert!(count <= limit, "{effect:?}: {count} attempts in a minute");
        operator.writer.faults().clear();
        until_condition(&store, "kubernetes-vip", IN_SYNC).await;
        until_condition(&store, "web-49", IN_SYNC).await;
    }
}

#[tokio::test(start_paused = true)]
async fn refused_condition_is_logged_once_while_others_are_written() {
    let log = Log::begin();
    let store = cluster(&["192.0.2.1"]);
    let operator = Operator::with_conditions(&store);
    let refused = Match::any().resource("services/status").name("refused");
    let effect = Effect::Status {
        code: 422,
        retry_after: None,
    };
    let rule = operator.writer.faults().add(Fault::new(refused, effect));
    put(&store, service("refused"));
    for number in 0..5 {
        let name = format!("vip-{number}");
        put(&store, service(&name));
        until_condition(&store, &name, IN_SYNC).await;
        pass(seconds(5)).await;
    }
    let lines = || log.lines("writing conditions of Services");
    assert_eq!(lines().len(), 1, "{:?}", lines());
    assert!(lines()[0].contains("default/refused"), "{:?}", lines());
    operator.writer.faults().remove(rule);
    until_condition(&store, "refused", IN_SYNC).await;
    assert!(lines()[1].contains("works again"), "{:?}", lines());
}

/// Rule: 3.condition-copies-first
#[tokio::test(start_paused = true)]
async fn conditions_without_permission_cause_few_requests() {
    let store = cluster(&["192.0.2.1"]);
    put(&store, slice("app", "app-1", &["10.0.0.1"]));
    for number in 0..50 {
        put(&store, service_of(&format!("web-{number}"), "app"));
    }
    let all = &["create", "update", "delete", "get", "list", "watch"];
    let rights = vec![
        Rule::new(&["", "discovery.k8s.io"], &["services", "endpointslices"], all),
        Rule::new(&["events.k8s.io"], &["events"], &["create"]),
    ];
    store.restrict("admin", rights);
    let operator = Operator::with_conditions(&store);
    pass(seconds(95)).await;
    // Some requests are sent at the same time, before the first one is refused.
    let count = writes(&store).len();
    assert!((5..=50).contains(&count), "{count} attempts");
    assert_eq!(operator.metric("endpoint_copier_services_in_sync"), Some(50));
    store.allow_all("admin");
    let took = until_condition(&store, "web-49", IN_SYNC).await;
    assert!(took < seconds(32), "{took:?}");
}

/// Rule: 3.condition-patch
#[tokio::test(start_paused = true)]
async fn write_that_conflicts_with_a_newer_service_is_repeated() {
    let store = cluster(&["192.0.2.1"]);
    put(&store, service("vip"));
    let operator = Operator::standby_with_conditions(&store);
    pass(seconds(1)).await;
    operator.services.lag();
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    store.patch("services", "default", "vip", label).expect("a patch");
    operator.lead();
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(5)).await;
    let count = writes(&store).len();
    assert!((4..=7).contains(&count), "{count} attempts");
    assert_eq!(condition(&store, "vip"), None);
    operator.services.release();
    let took = until_condition(&store, "vip", IN_SYNC).await;
    assert!(took < ms(1100), "{took:?}");
}
