//! An overloaded API server gets fewer requests, and watches resume where they stopped.

use std::time::Duration;

use serde_json::json;
use testbed::{Ending, Fault, Match};

use crate::harness::{Operator, cluster, pass, put, service, service_of, slice, until, warnings};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Rejects watches of sources for a minute with a 429 in plain text, as API servers do. Returns the number of
/// requests per watch and the number of lists.
async fn overloaded_for_a_minute(retry_after: Option<u32>) -> (usize, usize) {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let faults = operator.sources.faults();
    faults.add(Fault::new(
        Match::any().verb("watch"),
        testbed::Effect::Status {
            code: 429,
            retry_after,
        },
    ));
    faults.end_watches(Match::any(), Ending::Clean);
    operator.store.requests().clear();
    pass(seconds(60)).await;
    let count = |verb: &str| {
        let of_sources =
            |request: &testbed::Request| request.server == "sources" && request.is(verb, "endpointslices");
        operator.store.requests().matching(of_sources).len()
    };
    // There are two watches of sources: one of the API source, and one of all other names.
    let asked = (count("watch") / 2, count("list"));
    faults.clear();
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.2"]));
    let took = operator.until_addresses("vip", &["192.0.2.2"]).await;
    assert!(took < seconds(40), "{took:?}");
    assert_eq!(count("list"), 0, "the watch does not resume where it stopped");
    asked
}

#[tokio::test(start_paused = true)]
async fn a_429_in_plain_text_causes_no_list_and_fewer_watches() {
    let (watches, lists) = overloaded_for_a_minute(None).await;
    assert!((5..15).contains(&watches), "{watches} watches");
    assert_eq!(lists, 0);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honored() {
    let (watches, lists) = overloaded_for_a_minute(Some(20)).await;
    assert!((2..=4).contains(&watches), "{watches} watches");
    assert_eq!(lists, 0);
}

/// Rejects all requests of the reconciler for a minute, while 500 Services and the one that the flags name need copies.
/// Returns the number of creates for the flagged Service and for the others.
async fn writes_rejected_for_a_minute(code: u16, retry_after: Option<u32>) -> (usize, usize) {
    let store = cluster(&["192.0.2.1"]);
    put(&store, slice("app", "app-1", &["10.0.0.1"]));
    for number in 0..500 {
        put(&store, service_of(&format!("web-{number}"), "app"));
    }
    put(&store, service("kubernetes-vip"));
    let operator = Operator::start(&store);
    let rejected = Fault::new(Match::any(), testbed::Effect::Status { code, retry_after });
    operator.writer.faults().add(rejected);
    pass(seconds(60)).await;
    let creates = operator.slice_requests("create");
    let flagged = creates
        .iter()
        .filter(|request| request.name.starts_with("kubernetes-vip-"));
    let counts = (flagged.clone().count(), creates.len() - flagged.count());
    operator.writer.faults().clear();
    let took = operator.until_addresses("kubernetes-vip", &["192.0.2.1"]).await;
    assert!(took < seconds(2), "{took:?}");
    let slices = 2 + 501;
    let took = until(&store, "all are copied", |store| {
        store.list("endpointslices", None).len() == slices
    })
    .await;
    assert!(took < seconds(35), "{took:?}");
    counts
}

/// Rule: survive.overload-writes
#[tokio::test(start_paused = true)]
async fn writes_except_those_of_the_flagged_service_obey_retry_after() {
    for code in [429, 503] {
        let (flagged, others) = writes_rejected_for_a_minute(code, Some(20)).await;
        assert!(
            (50..=65).contains(&flagged),
            "{flagged} requests for the flagged Service"
        );
        assert!((3..=40).contains(&others), "{others} requests for the others");
    }
}

/// Rule: survive.overload-writes
#[tokio::test(start_paused = true)]
async fn writes_to_an_overloaded_api_server_slow_down() {
    let (flagged, others) = writes_rejected_for_a_minute(429, None).await;
    assert!(
        (50..=65).contains(&flagged),
        "{flagged} requests for the flagged Service"
    );
    assert!((10..=70).contains(&others), "{others} requests for the others");
}

/// Rule: survive.overload-events
#[tokio::test(start_paused = true)]
async fn events_wait_as_long_as_retry_after_says() {
    for (retry_after, most) in [(Some(20), 4), (None, 61)] {
        let store = cluster(&["192.0.2.1"]);
        let names: Vec<_> = (0..100).map(|number| format!("vip-{number}")).collect();
        for name in &names {
            let mut typo = service(name);
            typo["metadata"]["annotations"]["endpoint-copier/enabled"] = json!("yes");
            put(&store, typo);
        }
        let operator = Operator::start(&store);
        let events = Match::any().resource("events");
        let rejected = Fault::new(
            events,
            testbed::Effect::Status {
                code: 429,
                retry_after,
            },
        );
        operator.writer.faults().add(rejected);
        pass(seconds(60)).await;
        let of_events = |request: &testbed::Request| request.is("create", "events");
        let asked = store.requests().matching(of_events).len();
        assert!((2..=most).contains(&asked), "{asked} requests");
        operator.writer.faults().clear();
        pass(seconds(90)).await;
        let written = names.iter().filter(|name| !warnings(&store, name).is_empty());
        assert!(written.count() > 90);
    }
}
