//! Namespaces share the operator fairly: the number of managed Services is limited, syncs alternate between namespaces,
//! and each namespace has a budget for syncs that edits of its Services cause.

use endpoint_copier_core::model::ServiceLimits;
use serde_json::{Value, json};
use testbed::{Effect, Fault, Match, Store, builders};

use crate::harness::{
    Operator, addresses, cluster, disabled, ms, pass, put, seconds, service_in, service_of, slice, slices_of,
    until, warnings,
};

const ONE: ServiceLimits = ServiceLimits {
    per_namespace: 1,
    total: 10,
};

const LIMIT_REACHED: &str = "endpoint_copier_findings{reason=\"LimitReached\"}";

/// A cluster with the source `default/app`, whose address is 10.0.0.1.
fn with_app() -> Store {
    let store = cluster(&["192.0.2.1"]);
    put(&store, slice("app", "app-1", &["10.0.0.1"]));
    store
}

/// Rule: 10.limits
#[tokio::test(start_paused = true)]
async fn a_service_beyond_the_limit_waits_for_a_place() {
    let operator = Operator::limited(&with_app(), ONE);
    put(&operator.store, service_of("a", "app"));
    operator.until_addresses("a", &["10.0.0.1"]).await;
    put(&operator.store, service_of("b", "app"));
    until(&operator.store, "an Event", |store| {
        warnings(store, "b") == ["LimitReached"]
    })
    .await;
    assert_eq!(operator.metric(LIMIT_REACHED), Some(1));
    assert!(slices_of(&operator.store, "b").is_empty());
    operator
        .store
        .delete("services", "default", "a")
        .expect("an existing object");
    operator.until_addresses("b", &["10.0.0.1"]).await;
    pass(ms(100)).await;
    assert_eq!(operator.metric(LIMIT_REACHED), Some(0));
}

/// The Service `younger` gets a copy of `app`, and `older`, which is enabled only after that, exceeds the limit.
async fn with_older_over_the_limit(store: &Store, source: &str) -> Operator {
    put(store, disabled(service_of("older", source)));
    pass(seconds(5)).await;
    let operator = Operator::limited(store, ONE);
    put(store, service_of("younger", "app"));
    operator.until_addresses("younger", &["10.0.0.1"]).await;
    put(store, service_of("older", source));
    until(store, "an Event", |store| {
        warnings(store, "older") == ["LimitReached"]
    })
    .await;
    operator
}

/// After the copy is deleted, no Service or grant changes, so only the deletion can show that the source of `older` is
/// needed.
/// Rule: 10.limits
#[tokio::test(start_paused = true)]
async fn a_service_admitted_after_a_copy_is_deleted_gets_its_source() {
    let store = with_app();
    put(&store, slice("web", "web-1", &["10.0.0.2"]));
    let operator = with_older_over_the_limit(&store, "web").await;
    // Apart from the source that the flags name, only the source of `younger` is watched.
    pass(seconds(90)).await;
    let copies = slices_of(&store, "younger");
    let copy = copies[0]["metadata"]["name"].as_str().expect("a name");
    store
        .delete("endpointslices", "default", copy)
        .expect("an existing object");
    let took = operator.until_addresses("older", &["10.0.0.2"]).await;
    assert!(took < ms(50), "{took:?}");
    assert!(slices_of(&store, "younger").is_empty());
}

/// Rule: 10.limits
#[tokio::test(start_paused = true)]
async fn a_restart_and_an_older_service_displace_no_service() {
    let store = with_app();
    let operator = with_older_over_the_limit(&store, "app").await;
    operator.stop().await;
    store.requests().clear();
    let operator = Operator::limited(&store, ONE);
    put(&store, slice("app", "app-1", &["10.0.0.2"]));
    operator.until_addresses("younger", &["10.0.0.2"]).await;
    pass(seconds(60)).await;
    assert!(slices_of(&store, "older").is_empty());
    assert!(operator.slice_requests("delete").is_empty());
    assert_eq!(operator.metric(LIMIT_REACHED), Some(1));
}

/// Rule: 10.limits
#[tokio::test(start_paused = true)]
async fn a_lower_limit_deletes_the_copies_of_the_youngest() {
    let store = with_app();
    let operator = Operator::start(&store);
    for name in ["b", "a"] {
        put(&store, service_of(name, "app"));
        operator.until_addresses(name, &["10.0.0.1"]).await;
        pass(seconds(2)).await;
    }
    operator.stop().await;
    let operator = Operator::limited(&store, ONE);
    until(&store, "one copy", |store| slices_of(store, "a").is_empty()).await;
    assert_eq!(addresses(&store, "b"), ["10.0.0.1"]);
    assert_eq!(operator.slice_requests("delete").len(), 1);
}

/// Creates a namespace with the source `app` and managed Services that copy it.
fn put_tenant(store: &Store, namespace: &str, services: usize) {
    put(store, builders::namespace(namespace));
    put(store, app_in(namespace, "10.0.0.1"));
    for number in 0..services {
        put(store, service_in(namespace, &format!("s-{number}"), "app"));
    }
}

/// The slice of the source `app` in a namespace.
fn app_in(namespace: &str, address: &str) -> Value {
    let mut app = slice("app", "app-1", &[address]);
    app["metadata"]["namespace"] = json!(namespace);
    app
}

/// The number of copies, in a namespace, with this address in their first endpoint.
fn showing(store: &Store, namespace: &str, address: &str) -> usize {
    let shows = |slice: &&Value| {
        slice["metadata"]["name"] != "app-1" && slice["endpoints"][0]["addresses"][0] == address
    };
    let slices = store.list("endpointslices", Some(namespace));
    slices.iter().filter(shows).count()
}

/// Rule: 10.fair
#[tokio::test(start_paused = true)]
async fn tenants_with_hundreds_of_services_delay_no_other() {
    let store = cluster(&["192.0.2.1"]);
    put_tenant(&store, "tenant", 300);
    put_tenant(&store, "second", 300);
    put_tenant(&store, "web", 1);
    let operator = Operator::start(&store);
    until(&store, "all copies", |store| {
        ["tenant", "second", "web"].map(|namespace| showing(store, namespace, "10.0.0.1")) == [300, 300, 1]
    })
    .await;
    pass(seconds(1)).await;
    let slow = Match::any().verb("update").resource("endpointslices");
    let slow = Fault::new(slow, Effect::Latency(ms(50)));
    operator.writer.faults().add(slow);
    for namespace in ["tenant", "second"] {
        put(&store, app_in(namespace, "10.0.0.2"));
    }
    pass(ms(20)).await;
    put(&store, app_in("web", "10.0.0.2"));
    let took = until(&store, "web is copied", |store| {
        showing(store, "web", "10.0.0.2") == 1
    })
    .await;
    // The sync of `web` waits at most 50 ms until another sync ends, and its own write takes 50 ms.
    assert!(took <= ms(110), "{took:?}");
    let pending = 600 - showing(&store, "tenant", "10.0.0.2") - showing(&store, "second", "10.0.0.2");
    assert!(pending > 500, "{pending}");
}

/// Rule: 10.fair
#[tokio::test(start_paused = true)]
async fn writes_that_hang_in_one_namespace_delay_no_other() {
    let store = cluster(&["192.0.2.1"]);
    put_tenant(&store, "tenant", 50);
    put_tenant(&store, "web", 5);
    let operator = Operator::standby(&store);
    let hanging = Match::any()
        .verb("create")
        .resource("endpointslices")
        .namespace("tenant");
    operator.writer.faults().add(Fault::new(hanging, Effect::Hang));
    operator.lead();
    let took = until(&store, "web is copied", |store| {
        showing(store, "web", "10.0.0.1") == 5
    })
    .await;
    assert!(took < ms(100), "{took:?}");
    for second in 2..30 {
        let address = format!("10.0.0.{second}");
        put(&store, app_in("web", &address));
        let took = until(&store, "web follows", |store| {
            showing(store, "web", &address) == 5
        })
        .await;
        assert!(took < ms(100), "{took:?}");
        pass(seconds(1)).await;
    }
    assert_eq!(showing(&store, "tenant", "10.0.0.1"), 0);
}

/// Rule: 10.edits
#[tokio::test(start_paused = true)]
async fn edits_beyond_the_budget_delay_only_edits_in_their_namespace() {
    let store = cluster(&["192.0.2.1"]);
    put_tenant(&store, "tenant", 60);
    put_tenant(&store, "web", 1);
    let operator = Operator::start(&store);
    until(&store, "all copies", |store| {
        showing(store, "tenant", "10.0.0.1") == 60
    })
    .await;
    let edit = |namespace: &str, number: usize, port: usize| {
        let mut service = service_in(namespace, &format!("s-{number}"), "app");
        service["spec"]["ports"][0]["targetPort"] = json!(port);
        put(&store, service);
    };
    let with_port = |store: &Store, namespace: &str, port: usize| {
        let slices = store.list("endpointslices", Some(namespace));
        slices
            .iter()
            .filter(|slice| slice["ports"][0]["port"] == port)
            .count()
    };
    pass(seconds(30)).await;
    for round in 0..30 {
        for number in 0..60 {
            edit("tenant", number, 7_000 + round);
        }
        pass(ms(25)).await;
    }
    edit("web", 0, 7_000);
    let took = until(&store, "the edit in the other namespace is copied", |store| {
        with_port(store, "web", 7_000) == 1
    })
    .await;
    assert!(took < ms(20), "{took:?}");
    let took = until(&store, "all edits are copied", |store| {
        with_port(store, "tenant", 7_029) == 60
    })
    .await;
    assert!(took > ms(500) && took < ms(1_500), "{took:?}");
    for number in 0..60 {
        edit("tenant", number, 7_100);
    }
    pass(ms(5)).await;
    put(&store, app_in("tenant", "10.0.0.2"));
    let took = until(&store, "the change of the source is copied", |store| {
        showing(store, "tenant", "10.0.0.2") == 60
    })
    .await;
    assert!(took < ms(100), "{took:?}");
    drop(operator);
}
