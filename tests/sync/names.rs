//! The watches of sources select the names in use. When these names change, the operator does not list all sources
//! again.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use testbed::{Effect, Fault, Match, Request};
use tokio::time::Instant;

use crate::harness::{
    Operator, cluster, disabled, ms, namespace_named, pass, put, seconds, service, service_in, service_of,
    slice, until,
};

/// An operator that has been in sync with `default/kubernetes` and a source `web` for long enough to merge its watches.
async fn calm() -> Operator {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, slice("web", "web-1", &["10.0.0.1"]));
    put(&operator.store, service("vip"));
    put(&operator.store, service_of("shop", "web"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    operator.until_addresses("shop", &["10.0.0.1"]).await;
    pass(seconds(90)).await;
    operator.store.requests().clear();
    operator
}

/// The requests with this verb that the watches of sources send.
fn asked(operator: &Operator, verb: &str) -> Vec<Request> {
    let wanted = |request: &Request| request.server == "sources" && request.is(verb, "endpointslices");
    operator.store.requests().matching(wanted)
}

/// The names that a request selects.
fn names(request: &Request) -> BTreeSet<String> {
    let (_, rest) = request.uri.split_once("%28").expect("a selector");
    let (names, _) = rest.split_once("%29").expect("the end of the set of names");
    names.split("%2C").map(str::to_owned).collect()
}

/// The highest number of lists that begin within 5 s.
fn lists_in_five_seconds(operator: &Operator) -> usize {
    let begun: Vec<Instant> = asked(operator, "list").iter().map(|list| list.at).collect();
    let within = |from: &Instant| {
        let window = *from..*from + seconds(5);
        begun.iter().filter(|at| window.contains(at)).count()
    };
    begun.iter().map(within).max().unwrap_or(0)
}

/// Enables and disables the Service `toggled` again and again for this time. `source` names the source of each round.
async fn toggle(operator: &Operator, time: Duration, source: impl Fn(u32) -> String) {
    let start = Instant::now();
    for number in 0.. {
        if start.elapsed() >= time {
            break;
        }
        put(&operator.store, service_of("toggled", &source(number)));
        pass(ms(50)).await;
        put(&operator.store, disabled(service_of("toggled", &source(number))));
        pass(ms(50)).await;
    }
}

/// Rule: survive.selector-pace
#[tokio::test(start_paused = true)]
async fn toggling_a_service_costs_at_most_3_lists_in_5_seconds() {
    let operator = calm().await;
    toggle(&operator, seconds(5), |_| "app".to_owned()).await;
    let lists = asked(&operator, "list");
    assert!(lists.len() <= 3, "{lists:#?}");
    // The names of a Service that is no longer managed stay watched for a minute.
    assert_eq!(lists.len(), 1, "{lists:#?}");
}

/// Rule: survive.selector-pace
#[tokio::test(start_paused = true)]
async fn toggling_invented_sources_costs_up_to_3_lists_in_5_seconds() {
    let operator = calm().await;
    toggle(&operator, seconds(120), |number| format!("app-{number}")).await;
    pass(seconds(120)).await;
    let most = lists_in_five_seconds(&operator);
    assert!(most <= 3, "{most}");
    let lists = asked(&operator, "list");
    let again = lists.iter().filter(|list| names(list).contains("kubernetes"));
    assert_eq!(again.count(), 0, "the slices of the API source are listed again");
    let again = lists.iter().filter(|list| names(list).contains("web"));
    assert!(
        again.count() <= 1,
        "the slices of web are listed again before the changes have stopped"
    );
}

/// Rule: survive.selector-dropped
#[tokio::test(start_paused = true)]
async fn a_source_reused_within_a_minute_is_not_listed_again() {
    let operator = calm().await;
    put(&operator.store, disabled(service_of("shop", "web")));
    operator.until_addresses("shop", &[]).await;
    pass(seconds(50)).await;
    put(&operator.store, slice("web", "web-1", &["10.0.0.2"]));
    pass(seconds(1)).await;
    put(&operator.store, service_of("shop", "web"));
    let took = operator.until_addresses("shop", &["10.0.0.2"]).await;
    assert!(took < ms(50), "{took:?}");
    assert!(asked(&operator, "list").is_empty());
}

/// Rule: survive.selector-merged
#[tokio::test(start_paused = true)]
async fn new_names_join_the_shared_watch_when_changes_stop() {
    let operator = calm().await;
    for number in 0..5 {
        let source = format!("app-{number}");
        put(
            &operator.store,
            slice(&source, &format!("{source}-1"), &["10.0.0.9"]),
        );
        put(&operator.store, service_of(&format!("shop-{number}"), &source));
        pass(seconds(12)).await;
    }
    assert_eq!(asked(&operator, "list").len(), 5);
    operator
        .store
        .delete("services", "default", "shop-4")
        .expect("an existing object");
    pass(seconds(70)).await;
    let lists = asked(&operator, "list");
    assert_eq!(lists.len(), 6, "expected exactly one more list");
    assert!(!lists.iter().any(|list| names(list).contains("kubernetes")));
    operator.store.requests().clear();
    pass(seconds(30)).await;
    let selected: BTreeSet<_> = asked(&operator, "watch").iter().map(names).collect();
    let watched: BTreeSet<_> = selected.iter().flatten().map(String::as_str).collect();
    assert_eq!(
        selected.len(),
        2,
        "expected one watch of the API source and one of all others: {selected:?}"
    );
    assert!(
        watched.contains("app-3") && !watched.contains("app-4"),
        "{watched:?}"
    );
}

/// Rule: survive.selector-merged
#[tokio::test(start_paused = true)]
async fn watches_stay_few_however_many_names_come_and_go() {
    let operator = calm().await;
    for round in 0..100 {
        for number in 0..20 {
            let source = format!("source-{round}-{number}");
            put(&operator.store, service_of(&format!("shop-{number}"), &source));
        }
        pass(ms(500)).await;
    }
    operator.store.requests().clear();
    // Each watch is renewed within 25 s.
    for round in 0..50 {
        put(&operator.store, service_of("shop-0", &format!("last-{round}")));
        pass(ms(500)).await;
    }
    let watches: BTreeSet<_> = asked(&operator, "watch").iter().map(names).collect();
    assert!(watches.len() <= 18, "{}", watches.len());
    put(&operator.store, slice("last-49", "last-1", &["10.0.0.7"]));
    let took = operator.until_addresses("shop-0", &["10.0.0.7"]).await;
    assert!(took <= seconds(4), "{took:?}");
}

/// Rule: survive.selector-moved
#[tokio::test(start_paused = true)]
async fn sources_are_followed_while_their_names_move_to_another_watch() {
    let operator = calm().await;
    put(&operator.store, slice("web", "web-2", &["10.0.0.2"]));
    put(&operator.store, service_of("other", "app"));
    pass(seconds(55)).await;
    let slow = Effect::Latency(seconds(8));
    operator
        .sources
        .faults()
        .add(Fault::new(Match::any().verb("list"), slow));
    operator.store.requests().clear();
    for _ in 0..100 {
        if asked(&operator, "list").is_empty() {
            pass(ms(100)).await;
        }
    }
    // The list of all names except that of the API source is in flight.
    put(&operator.store, slice("web", "web-1", &["10.0.0.3"]));
    let took = operator.until_addresses("shop", &["10.0.0.2", "10.0.0.3"]).await;
    assert!(took < ms(50), "{took:?}");
    operator
        .store
        .delete("endpointslices", "default", "web-2")
        .expect("an existing object");
    let took = operator.until_addresses("shop", &["10.0.0.3"]).await;
    assert!(took < ms(50), "{took:?}");
    pass(seconds(20)).await;
    put(&operator.store, slice("web", "web-1", &["10.0.0.4"]));
    let took = operator.until_addresses("shop", &["10.0.0.4"]).await;
    assert!(took < ms(50), "{took:?}");
    assert_eq!(asked(&operator, "list").len(), 1);
}

/// Rule: survive.selector-first
#[tokio::test(start_paused = true)]
async fn a_first_copy_waits_for_the_list_of_its_own_names_only() {
    let operator = calm().await;
    put(&operator.store, slice("app", "app-1", &["10.0.0.5"]));
    put(&operator.store, service_of("new", "app"));
    let took = operator.until_addresses("new", &["10.0.0.5"]).await;
    assert!(took < ms(50), "{took:?}");
    let lists: Vec<_> = asked(&operator, "list").iter().map(names).collect();
    assert_eq!(lists, [["app", "new"].map(str::to_owned).into()]);
    // A Service that copies the API source waits for no list.
    let rule = Fault::new(Match::any().verb("list"), Effect::Hang);
    operator.sources.faults().add(rule);
    put(&operator.store, service("second"));
    let took = operator.until_addresses("second", &["192.0.2.1"]).await;
    assert!(took < ms(50), "{took:?}");
}

/// Rule: survive.selector-pace
#[tokio::test(start_paused = true)]
async fn two_hundred_new_services_in_two_seconds_cost_four_lists() {
    let operator = calm().await;
    for number in 0..200 {
        let source = format!("app-{number}");
        put(
            &operator.store,
            slice(&source, &format!("{source}-1"), &["10.0.0.1"]),
        );
        put(&operator.store, service_of(&format!("shop-{number}"), &source));
        pass(ms(10)).await;
    }
    for number in 0..200 {
        operator
            .until_addresses(&format!("shop-{number}"), &["10.0.0.1"])
            .await;
    }
    let begun: Vec<_> = asked(&operator, "list").iter().map(|list| list.at).collect();
    let pauses: Vec<_> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses.len(), 3, "{pauses:?}");
    let least = [ms(250), seconds(1), seconds(4)];
    assert!(
        pauses.iter().zip(least).all(|(pause, least)| *pause >= least),
        "{pauses:?}"
    );
    // After a quiet period, the first new name does not wait.
    pass(seconds(10)).await;
    put(&operator.store, slice("last", "last-1", &["10.0.0.2"]));
    put(&operator.store, service_of("shop-last", "last"));
    let took = operator.until_addresses("shop-last", &["10.0.0.2"]).await;
    assert!(took < ms(50), "{took:?}");
}

/// Every 20 ms, lets a Service in the next of this many namespaces name a new source that does not exist, until the
/// task is aborted.
fn make_noise(operator: &Operator, namespaces: u32) -> tokio::task::JoinHandle<()> {
    let store = operator.store.clone();
    tokio::spawn(async move {
        for number in 0.. {
            let namespace = format!("noisy-{}", number % namespaces);
            if number < namespaces {
                put(&store, namespace_named(&namespace));
            }
            put(
                &store,
                service_in(&namespace, "toggled", &format!("invented-{number}")),
            );
            pass(ms(20)).await;
        }
    })
}

/// Creates a source and a managed Service in a new namespace. Returns how long the first copy takes.
async fn first_copy(operator: &Operator, namespace: &str, source: &str) -> Duration {
    let mut slice = slice(source, &format!("{source}-1"), &["10.0.0.5"]);
    slice["metadata"]["namespace"] = json!(namespace);
    put(&operator.store, namespace_named(namespace));
    put(&operator.store, slice);
    put(&operator.store, service_in(namespace, "first", source));
    until(&operator.store, "a first copy", |store| {
        let slices = store.list("endpointslices", Some(namespace));
        slices
            .iter()
            .any(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "first")
    })
    .await
}

/// Rule: survive.selector-fair
#[tokio::test(start_paused = true)]
async fn invented_sources_of_one_namespace_delay_no_other() {
    let operator = calm().await;
    let noise = make_noise(&operator, 1);
    pass(seconds(20)).await;
    for round in 0..10 {
        let (namespace, source) = (format!("quiet-{round}"), format!("source-{round}"));
        let took = first_copy(&operator, &namespace, &source).await;
        assert!(took < ms(50), "{round}: {took:?}");
        pass(ms(2300)).await;
    }
    noise.abort();
}

/// Rule: survive.selector-total
#[tokio::test(start_paused = true)]
async fn new_names_cost_four_lists_then_one_per_second() {
    let operator = calm().await;
    // Each namespace names one new source.
    let noise = make_noise(&operator, u32::MAX);
    pass(seconds(10)).await;
    let lists = asked(&operator, "list").len();
    assert!((10..=14).contains(&lists), "{lists}");
    let took = first_copy(&operator, "quiet", "source").await;
    assert!(took <= ms(1050), "{took:?}");
    noise.abort();
}

/// Rule: survive.selector-fair
#[tokio::test(start_paused = true)]
async fn a_source_of_the_flagged_service_waits_for_no_other() {
    let operator = calm().await;
    put(&operator.store, slice("front", "front-1", &["10.0.0.6"]));
    let noise = make_noise(&operator, u32::MAX);
    pass(seconds(5)).await;
    toggle(&operator, seconds(2), |number| format!("app-{number}")).await;
    put(&operator.store, service_of("kubernetes-vip", "front"));
    let took = operator.until_addresses("kubernetes-vip", &["10.0.0.6"]).await;
    assert!(took < ms(50), "{took:?}");
    noise.abort();
}

/// The index keeps a copy in full only if it knows that the Service of the copy has a source.
/// Rule: survive.memory
#[tokio::test(start_paused = true)]
async fn large_copies_are_not_read_again_after_a_start() {
    let addresses: Vec<_> = (100..200).map(|number| format!("10.0.0.{number}")).collect();
    let mut addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let store = cluster(&["192.0.2.1"]);
    put(&store, slice("web", "web-1", &addresses));
    put(&store, service_of("shop", "web"));
    let first = Operator::start(&store);
    first.until_addresses("shop", &addresses).await;
    first.stop().await;
    store.requests().clear();
    let second = Operator::start(&store);
    let services = Match::any().verb("list");
    let faults = second.services.faults();
    faults.add(Fault::new(services, Effect::Latency(seconds(2))));
    pass(seconds(10)).await;
    addresses.pop();
    put(&store, slice("web", "web-1", &addresses));
    second.until_addresses("shop", &addresses).await;
    assert_eq!(second.slice_requests("get").len(), 0, "{:?}", second.asked());
}
