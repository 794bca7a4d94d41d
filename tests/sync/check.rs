//! The check of sources: a comparison with consistent lists finds changes that a watch does not show.

use testbed::{Effect, Ending, Fault, Match, Request};

use crate::harness::{Operator, cluster, pass, put, seconds, service, service_of, slice};
use crate::log::Log;

const STALE: &str = "endpoint_copier_watch_restarts_total{reason=\"stale\",resource=\"sources\"}";

/// An operator with the check of sources enabled, whose `vip` is in sync with `default/kubernetes`.
async fn checking() -> Operator {
    let operator = Operator::start(&cluster(&["192.0.2.1", "192.0.2.2"]));
    operator.check_sources();
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
    pass(seconds(2)).await;
    operator
}

fn lists(operator: &Operator) -> Vec<Request> {
    let lists = |request: &Request| request.server == "sources" && request.verb == "list";
    operator.store.requests().matching(lists)
}

#[tokio::test(start_paused = true)]
async fn a_stale_watch_delays_a_removal_by_less_than_12_s() {
    let operator = checking().await;
    operator.sources.lag();
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.1"]));
    let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert!(took < seconds(12), "{took:?}");
    // Both watches of sources are restarted once: the watch of the API source, and the watch of all other sources.
    assert_eq!(operator.metric(STALE), Some(2));
}

#[tokio::test(start_paused = true)]
async fn slice_changes_that_a_silent_watch_misses_are_found() {
    let operator = checking().await;
    put(&operator.store, service_of("web", "source"));
    put(&operator.store, slice("source", "source-1", &["10.0.0.1"]));
    operator.until_addresses("web", &["10.0.0.1"]).await;
    pass(seconds(1)).await;
    operator.sources.faults().silence_watches(Match::any());
    put(&operator.store, slice("source", "source-2", &["10.0.0.2"]));
    let took = operator.until_addresses("web", &["10.0.0.1", "10.0.0.2"]).await;
    assert!(took < seconds(12), "{took:?}");
    operator.sources.faults().silence_watches(Match::any());
    operator
        .store
        .delete("endpointslices", "default", "source-1")
        .expect("a slice");
    let took = operator.until_addresses("web", &["10.0.0.2"]).await;
    assert!(took < seconds(12), "{took:?}");
    // There are three watches of sources, and each was restarted twice.
    assert_eq!(operator.metric(STALE), Some(6));
}

#[tokio::test(start_paused = true)]
async fn a_check_of_a_current_watch_costs_one_consistent_list() {
    let operator = checking().await;
    operator.store.requests().clear();
    for number in 0..60 {
        // Some changes are in flight while the API server responds to a list.
        put(
            &operator.store,
            slice(
                "kubernetes",
                "kubernetes",
                &["192.0.2.1", &format!("192.0.2.{}", 10 + number)],
            ),
        );
        pass(seconds(1)).await;
    }
    assert_eq!(operator.metric(STALE), Some(0));
    let lists = lists(&operator);
    assert_eq!(lists.len(), 6, "expected one list every 10 s");
    for list in lists {
        assert!(
            list.uri
                .starts_with("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?"),
            "{}",
            list.uri
        );
        assert!(
            list.uri.contains("kubernetes") && !list.uri.contains("resourceVersion"),
            "{}",
            list.uri
        );
    }
}

/// Creates a managed Service whose source is in this namespace.
fn put_service_of(operator: &Operator, name: &str, namespace: &str) {
    let mut web = service_of(name, "source");
    web["metadata"]["annotations"]["endpoint-copier/default-service-namespace"] = namespace.into();
    put(&operator.store, web);
}

/// Creates a managed Service, and a slice of its source in this namespace.
fn put_source_in(operator: &Operator, name: &str, namespace: &str) {
    put(&operator.store, testbed::builders::namespace(namespace));
    let mut source = slice("source", "source-1", &["10.0.0.1"]);
    source["metadata"]["namespace"] = namespace.into();
    put(&operator.store, source);
    put_service_of(operator, name, namespace);
}

/// The namespaces of the lists of sources, in order.
fn listed(operator: &Operator) -> Vec<String> {
    let lists = lists(operator).into_iter();
    lists.map(|list| list.namespace).collect()
}

/// Rule: survive.check-scope
#[tokio::test(start_paused = true)]
async fn invented_namespaces_are_not_listed() {
    let operator = checking().await;
    for number in 0..9 {
        put_service_of(&operator, &format!("web-{number}"), &format!("invented-{number}"));
    }
    pass(seconds(2)).await;
    operator.store.requests().clear();
    pass(seconds(10)).await;
    assert_eq!(listed(&operator), ["default"]);
}

/// Rule: survive.check-scope
#[tokio::test(start_paused = true)]
async fn a_check_lists_the_api_source_and_up_to_8_namespaces() {
    let operator = checking().await;
    for number in 0..20 {
        put_source_in(&operator, &format!("web-{number}"), &format!("team-{number:02}"));
    }
    pass(seconds(5)).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        operator.store.requests().clear();
        pass(seconds(10)).await;
        let lists = listed(&operator);
        assert_eq!(lists.len(), 9, "{lists:?}");
        assert_eq!(
            lists.iter().filter(|namespace| *namespace == "default").count(),
            1
        );
        seen.extend(lists);
    }
    assert_eq!(seen.len(), 21, "{seen:?}");
}

/// Rule: survive.check-api-servers
#[tokio::test(start_paused = true)]
async fn the_api_source_is_checked_while_other_lists_fail() {
    let log = Log::begin();
    let operator = checking().await;
    put_source_in(&operator, "web", "blue");
    pass(seconds(2)).await;
    let faults = operator.sources.faults();
    for effect in [Effect::Hang, Effect::Break, Effect::Nonsense] {
        let rule = faults.add(Fault::new(Match::any().verb("list").namespace("blue"), effect));
        operator.store.requests().clear();
        pass(seconds(30)).await;
        let lists = listed(&operator);
        let api_servers = lists.iter().filter(|namespace| *namespace == "default");
        assert_eq!(api_servers.count(), 3, "{lists:?}");
        faults.remove(rule);
    }
    // A failure is logged even while another failure lasts.
    for namespace in ["blue", "default"] {
        let lists = Match::any().verb("list").namespace(namespace);
        faults.add(Fault::status(lists, 403));
    }
    pass(seconds(60)).await;
    assert!(!log.lines("the check of default/kubernetes failed").is_empty());
    assert!(!log.lines("the check of the sources failed").is_empty());
}

/// Rule: survive.check-api-servers, survive.check-slow
#[tokio::test(start_paused = true)]
async fn a_list_slower_than_a_second_is_sent_less_often() {
    let operator = checking().await;
    put_source_in(&operator, "slow", "blue");
    put_source_in(&operator, "quick", "green");
    let faults = operator.sources.faults();
    for namespace in ["blue", "default"] {
        let lists = Match::any().verb("list").namespace(namespace);
        faults.add(Fault::new(lists, Effect::Latency(seconds(2))));
    }
    pass(seconds(2)).await;
    operator.store.requests().clear();
    pass(seconds(620)).await;
    let lists = listed(&operator);
    let times = |wanted: &str| lists.iter().filter(|namespace| *namespace == wanted).count();
    // The intervals are 20 s, 40 s, 80 s, and then 160 s.
    assert_eq!(times("blue"), 6, "{lists:?}");
    assert_eq!(times("green"), 62, "{lists:?}");
    assert_eq!(
        times("default"),
        62,
        "the list of the API source is not sent every 10 s"
    );
}

#[tokio::test(start_paused = true)]
async fn lists_find_changes_of_a_source_while_watches_fail() {
    let operator = checking().await;
    let faults = operator.sources.faults();
    faults.add(Fault::status(Match::any().verb("watch"), 503));
    faults.end_watches(Match::any(), Ending::Abrupt);
    pass(seconds(1)).await;
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.1"]));
    let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert!(took < seconds(12), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_fails_changes_nothing() {
    let operator = checking().await;
    let faults = operator.sources.faults();
    for effect in [Effect::Hang, Effect::Nonsense, Effect::Break] {
        let rule = faults.add(Fault::new(Match::any().verb("list"), effect));
        pass(seconds(20)).await;
        faults.remove(rule);
    }
    assert_eq!(operator.metric(STALE), Some(0));
    operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_hangs_delays_no_other_list() {
    let operator = checking().await;
    put_source_in(&operator, "web", "blue");
    pass(seconds(2)).await;
    let hangs = Fault::new(Match::any().verb("list").namespace("blue"), Effect::Hang);
    operator.sources.faults().add(hangs);
    operator.sources.lag();
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.1"]));
    let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert!(took < seconds(12), "{took:?}");
    let hung = lists(&operator).into_iter().any(|list| list.status.is_none());
    assert!(hung);
}

#[tokio::test(start_paused = true)]
async fn failing_checks_are_logged_once_a_minute_and_on_recovery() {
    let log = Log::begin();
    let operator = checking().await;
    let refused = Fault::status(Match::any().verb("list"), 403);
    let rule = operator.sources.faults().add(refused);
    pass(seconds(10)).await;
    let lines = || log.lines("the check of default/kubernetes");
    assert_eq!(lines().len(), 1, "{:?}", lines());
    assert!(lines()[0].contains("403"), "{:?}", lines());
    pass(seconds(170)).await;
    operator.sources.faults().remove(rule);
    pass(seconds(30)).await;
    let words = [
        "failed; trying again",
        "still fails",
        "still fails",
        "works again",
    ];
    assert_eq!(lines().len(), words.len(), "{:?}", lines());
    for (line, words) in lines().iter().zip(words) {
        assert!(line.contains(words), "{line}");
    }
    assert_eq!(operator.metric(STALE), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_source_dropped_during_its_list_restarts_no_watch() {
    let operator = checking().await;
    put(&operator.store, slice("app", "app-1", &["10.0.0.1"]));
    let slow = Effect::Latency(seconds(2));
    operator
        .sources
        .faults()
        .add(Fault::new(Match::any().verb("list"), slow).times(1));
    let before = lists(&operator).len();
    while lists(&operator).len() == before {
        pass(seconds(1)).await;
    }
    put(&operator.store, service_of("vip", "app"));
    pass(seconds(10)).await;
    assert_eq!(operator.metric(STALE), Some(0));
}
