//! The sources in use, compared with consistent lists: what a watch does not show is found all the same.

use testbed::{Effect, Fault, Match, Request};

use crate::harness::{Operator, cluster, pass, put, seconds, service, service_of, slice};

const STALE: &str = "endpoint_copier_watch_restarts_total{reason=\"stale\",resource=\"sources\"}";

/// An operator in step with `default/kubernetes`, with the check.
async fn checking() -> Operator {
    let mut operator = Operator::start(&cluster(&["192.0.2.1", "192.0.2.2"]));
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
async fn a_dead_api_server_that_a_stale_watch_still_shows_is_gone_within_twelve_seconds() {
    let operator = checking().await;
    operator.sources.lag();
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.1"]));
    let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert!(took < seconds(12), "{took:?}");
    assert_eq!(operator.metric(STALE), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_a_silent_watch_does_not_show_is_found_added_and_removed() {
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
    assert_eq!(operator.metric(STALE), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_in_step_is_left_alone_and_each_check_is_one_consistent_list() {
    let operator = checking().await;
    operator.store.requests().clear();
    for number in 0..60 {
        // Some changes are on their way while a list is answered.
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
    assert_eq!(lists.len(), 6, "every 10 s");
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

#[tokio::test(start_paused = true)]
async fn sources_in_many_namespaces_are_one_list_of_all() {
    let operator = checking().await;
    for number in 0..9 {
        let namespace = format!("team-{number}");
        put(&operator.store, testbed::builders::namespace(&namespace));
        let mut web = service_of(&format!("web-{number}"), "source");
        web["metadata"]["annotations"]["endpoint-copier/default-service-namespace"] = namespace.into();
        put(&operator.store, web);
    }
    pass(seconds(2)).await;
    operator.store.requests().clear();
    pass(seconds(10)).await;
    let lists = lists(&operator);
    assert_eq!(lists.len(), 1, "{lists:#?}");
    assert!(
        lists[0]
            .uri
            .starts_with("/apis/discovery.k8s.io/v1/endpointslices?")
    );
}

#[tokio::test(start_paused = true)]
async fn a_check_that_cannot_be_made_changes_nothing() {
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
