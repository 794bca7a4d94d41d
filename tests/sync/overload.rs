//! An overloaded API server gets fewer requests, and its clients resume where they were.

use std::time::Duration;

use testbed::{Ending, Fault, Match};

use crate::harness::{Operator, cluster, pass, put, service, slice};

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
    // One watch of the API servers' list, and one of all other names.
    let asked = (count("watch") / 2, count("list"));
    faults.clear();
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.2"]));
    let took = operator.until_addresses("vip", &["192.0.2.2"]).await;
    assert!(took < seconds(40), "{took:?}");
    assert_eq!(count("list"), 0, "the watch goes on where it was");
    asked
}

#[tokio::test(start_paused = true)]
async fn a_429_in_plain_text_causes_no_list_and_ever_fewer_watches() {
    let (watches, lists) = overloaded_for_a_minute(None).await;
    assert!((5..15).contains(&watches), "{watches} watches");
    assert_eq!(lists, 0);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured() {
    let (watches, lists) = overloaded_for_a_minute(Some(20)).await;
    assert!((2..=4).contains(&watches), "{watches} watches");
    assert_eq!(lists, 0);
}
