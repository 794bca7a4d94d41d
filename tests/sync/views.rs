//! Views of the cluster that are late, change, or disappear.

use serde_json::json;
use testbed::{Effect, Ending, Fault, Match, Request};

use crate::harness::{
    Operator, addresses, cluster, ms, pass, put, seconds, service, service_of, slice, slices_of,
};

fn name_of_copy(operator: &Operator, service: &str) -> String {
    slices_of(&operator.store, service)[0]["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned()
}

/// Rule: 2.parked-get
#[tokio::test(start_paused = true)]
async fn a_get_of_a_source_updates_all_services_that_copy_it() {
    let operator = Operator::start(&cluster(&["192.0.2.1", "192.0.2.2"]));
    for name in ["a", "b"] {
        put(&operator.store, service(name));
        operator.until_addresses(name, &["192.0.2.1", "192.0.2.2"]).await;
    }
    pass(seconds(2)).await;
    operator.sources.lag();
    // The former leader saw the change, wrote one copy of it, and stopped.
    let source = put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.1"]));
    let written = json!({
        "metadata": {"annotations": {"endpoint-copier/source-resource-version": source["metadata"]["resourceVersion"]}},
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": true, "serving": true, "terminating": false}}],
    });
    operator
        .store
        .patch(
            "endpointslices",
            "default",
            &name_of_copy(&operator, "a"),
            written,
        )
        .expect("a patch");
    let took = operator.until_addresses("b", &["192.0.2.1"]).await;
    assert!(took < seconds(1), "{took:?}");
    operator.sources.release();
    pass(seconds(5)).await;
    assert_eq!(addresses(&operator.store, "a"), ["192.0.2.1"]);
    assert_eq!(addresses(&operator.store, "b"), ["192.0.2.1"]);
}

#[tokio::test(start_paused = true)]
async fn copies_of_a_service_that_we_do_not_see_yet_are_not_deleted() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("seen"));
    operator.until_addresses("seen", &["192.0.2.1"]).await;
    pass(seconds(2)).await;
    operator.services.lag();
    let new = put(&operator.store, service("new"));
    // Another replica, which sees the Service, has created its copy.
    let mut copy = slices_of(&operator.store, "seen").remove(0);
    copy["metadata"] = json!({
        "name": copy["metadata"]["name"].as_str().expect("a name").replace("seen", "new"), "namespace": "default",
        "labels": copy["metadata"]["labels"], "annotations": copy["metadata"]["annotations"],
        "ownerReferences": copy["metadata"]["ownerReferences"],
    });
    copy["metadata"]["labels"]["kubernetes.io/service-name"] = json!("new");
    copy["metadata"]["ownerReferences"][0]["name"] = json!("new");
    copy["metadata"]["ownerReferences"][0]["uid"] = new["metadata"]["uid"].clone();
    put(&operator.store, copy);
    pass(seconds(30)).await;
    assert_eq!(addresses(&operator.store, "new"), ["192.0.2.1"]);
    assert!(
        operator.slice_requests("delete").is_empty(),
        "{:?}",
        operator.asked()
    );
    operator.services.release();
    pass(seconds(5)).await;
    assert_eq!(addresses(&operator.store, "new"), ["192.0.2.1"]);
    // In a cluster, the garbage collector deletes the copies of a deleted Service. Here, the garbage collector is off,
    // so the operator deletes them.
    operator.store.collect_after(None);
    operator
        .store
        .delete("services", "default", "new")
        .expect("an existing object");
    operator.until_addresses("new", &[]).await;
}

/// Rule: survive.selector-first
#[tokio::test(start_paused = true)]
async fn churning_services_do_not_delay_changes_of_other_sources() {
    let operator = Operator::start(&cluster(&["192.0.2.1", "192.0.2.2"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
    // A list takes longer than the first pause between two lists of new names.
    operator
        .sources
        .faults()
        .add(Fault::new(Match::any().verb("list"), Effect::Latency(ms(600))));
    let store = operator.store.clone();
    let churn = tokio::spawn(async move {
        for number in 0..200 {
            put(
                &store,
                service_of(&format!("other-{number}"), &format!("source-{number}")),
            );
            pass(ms(100)).await;
        }
    });
    for round in 1..10 {
        pass(seconds(2)).await;
        let address = format!("192.0.2.{round}");
        put(&operator.store, slice("kubernetes", "kubernetes", &[&address]));
        let took = operator.until_addresses("vip", &[&address]).await;
        assert!(took < ms(300), "{took:?}");
    }
    churn.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_once_causes_no_hot_loop() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let before = operator.store.requests().all().len();
    for _ in 0..1000 {
        for server in [&operator.services, &operator.sources, &operator.copies] {
            server.faults().end_watches(Match::any(), Ending::Clean);
        }
        pass(ms(10)).await;
    }
    let requests = operator.store.requests().all().len() - before;
    assert!(
        requests <= 4 * 4 * 10 + 10,
        "{requests} requests of four watches in 10 s"
    );
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.9"]));
    let took = operator.until_addresses("vip", &["192.0.2.9"]).await;
    assert!(took < seconds(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_version_is_refused_relists() {
    for code in [400, 410] {
        let operator = Operator::start(&cluster(&["192.0.2.1"]));
        put(&operator.store, service("vip"));
        operator.until_addresses("vip", &["192.0.2.1"]).await;
        let watches = Match::any().verb("watch");
        operator
            .sources
            .faults()
            .add(Fault::status(watches.clone(), code).times(1));
        operator.store.requests().clear();
        operator.sources.faults().end_watches(watches, Ending::Abrupt);
        pass(seconds(2)).await;
        let verbs: Vec<_> = operator
            .sources
            .requests()
            .iter()
            .map(|request| request.verb)
            .collect();
        // The other watch of sources resumes without a list.
        assert_eq!(verbs, ["watch", "watch", "list", "watch"], "{code}");
    }
}

/// Rule: survive.selector-moved
#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_listed_do_not_block_other_names() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(2)).await;
    // A proxy can refuse the long URL of a list of many names.
    let lists = Match::any().verb("list");
    let refused = operator.sources.faults().add(Fault::status(lists, 414));
    put(&operator.store, service_of("web", "app"));
    pass(seconds(40)).await;
    operator
        .store
        .delete("services", "default", "web")
        .expect("an existing object");
    pass(seconds(1)).await;
    operator.store.requests().clear();
    pass(seconds(60)).await;
    let asked = operator.sources.requests();
    assert!(asked.iter().all(|request| request.verb == "watch"), "{asked:#?}");

    // The same applies to names that are still wanted.
    put(&operator.store, service_of("web", "app"));
    pass(seconds(40)).await;
    operator.sources.faults().remove(refused);
    put(&operator.store, slice("app", "app-1", &["10.0.0.1"]));
    put(&operator.store, service_of("other", "app"));
    operator.until_addresses("web", &["10.0.0.1"]).await;
    operator.until_addresses("other", &["10.0.0.1"]).await;
}

#[tokio::test(start_paused = true)]
async fn failed_lists_and_watches_are_retried_with_pauses() {
    let effects = [403, 404, 409, 410, 422, 429, 500, 503].map(|code| Effect::Status {
        code,
        retry_after: None,
    });
    for effect in
        effects
            .into_iter()
            .chain([Effect::Nonsense, Effect::Truncated, Effect::Hang, Effect::Break])
    {
        let operator = Operator::start(&cluster(&["192.0.2.1"]));
        put(&operator.store, service("vip"));
        operator.until_addresses("vip", &["192.0.2.1"]).await;
        let servers = [&operator.services, &operator.sources, &operator.copies];
        for server in servers {
            server.faults().add(Fault::new(Match::any(), effect.clone()));
            server.faults().end_watches(Match::any(), Ending::Abrupt);
        }
        let before = operator.store.requests().all().len();
        pass(seconds(60)).await;
        let requests = operator.store.requests().all().len() - before;
        assert!(
            requests < 4 * 150,
            "{effect:?}: {requests} requests of four watches in a minute"
        );
        put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.2"]));
        put(&operator.store, service("later"));
        for server in servers {
            server.faults().clear();
        }
        let limit = match effect {
            // A request that hangs is abandoned after 10 s.
            Effect::Hang => seconds(11),
            // An overloaded API server gets requests less and less often.
            Effect::Status { code: 429, .. } => seconds(40),
            _ => seconds(2),
        };
        let took = operator.until_addresses("vip", &["192.0.2.2"]).await;
        assert!(took < limit, "{effect:?}: {took:?}");
        let took = operator.until_addresses("later", &["192.0.2.2"]).await;
        assert!(took < limit * 2, "{effect:?}: {took:?}");
    }
}

/// Rule: survive.one-never-holds-up-another
#[tokio::test(start_paused = true)]
async fn a_service_whose_writes_hang_does_not_delay_the_api_source() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    put(&operator.store, slice("slow", "slow-1", &["10.0.0.1"]));
    for number in 0..20 {
        put(&operator.store, service_of(&format!("slow-{number}"), "slow"));
        operator
            .until_addresses(&format!("slow-{number}"), &["10.0.0.1"])
            .await;
    }
    pass(seconds(2)).await;
    for number in 0..20 {
        let name = name_of_copy(&operator, &format!("slow-{number}"));
        operator
            .writer
            .faults()
            .add(Fault::new(Match::any().verb("update").name(&name), Effect::Hang));
    }
    put(&operator.store, slice("slow", "slow-1", &["10.0.0.2"]));
    pass(ms(100)).await;
    for round in 2..20 {
        let address = format!("192.0.2.{round}");
        put(&operator.store, slice("kubernetes", "kubernetes", &[&address]));
        let took = operator.until_addresses("vip", &[&address]).await;
        assert!(took < ms(100), "{took:?}");
        pass(ms(700)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_others_keep_changing_is_repaired_rarely() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let (store, name) = (operator.store.clone(), name_of_copy(&operator, "vip"));
    let other = tokio::spawn(async move {
        let wrong = json!({"endpoints": [{"addresses": ["203.0.113.9"]}]});
        loop {
            store
                .until(|store| addresses(store, "vip") == ["192.0.2.1"])
                .await;
            store
                .patch("endpointslices", "default", &name, wrong.clone())
                .expect("a patch");
        }
    });
    pass(seconds(60)).await;
    let updates = operator.slice_requests("update").len();
    assert!((31..=38).contains(&updates), "{updates} writes in a minute");
    let warned = crate::harness::warnings(&operator.store, "vip");
    assert!(warned.contains(&"WriteRefused".to_owned()), "{warned:?}");
    other.abort();
    operator.until_addresses("vip", &["192.0.2.1"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_that_breaks_resumes_without_a_list() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let lists = || {
        let of_services = |request: &Request| request.server == "services" && request.is("list", "services");
        operator.store.requests().matching(of_services).len()
    };
    let before = lists();
    for _ in 0..4 {
        let faults = operator.services.faults();
        faults.end_watches(Match::any(), Ending::Abrupt);
        pass(seconds(60)).await;
    }
    assert_eq!(lists(), before);
}

/// A leader that filled its caches, but has only an old view of the source when its term begins, because its watches
/// fail.
async fn leads_without_watches() -> Operator {
    let store = cluster(&["192.0.2.1", "192.0.2.2"]);
    put(&store, service("vip"));
    let operator = Operator::standby(&store);
    pass(seconds(2)).await;
    for server in [&operator.services, &operator.copies, &operator.sources] {
        let watches = Match::any().verb("watch");
        server.faults().add(Fault::status(watches, 503));
        server.faults().end_watches(Match::any(), Ending::Abrupt);
    }
    pass(ms(10)).await;
    put(&store, slice("kubernetes", "kubernetes", &["192.0.2.1"]));
    operator.lead();
    operator
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_waits_up_to_a_second_for_its_watches() {
    let operator = leads_without_watches().await;
    pass(ms(500)).await;
    assert!(operator.asked().is_empty(), "{:?}", operator.asked());
    for server in [&operator.services, &operator.copies, &operator.sources] {
        server.faults().clear();
    }
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert_eq!(
        operator.slice_requests("create").len(),
        1,
        "{:?}",
        operator.asked()
    );
    assert!(
        operator.slice_requests("update").is_empty(),
        "{:?}",
        operator.asked()
    );
}

#[tokio::test(start_paused = true)]
async fn missing_watches_do_not_stop_a_new_leader() {
    let operator = leads_without_watches().await;
    // No copy is made from a view that may be late. The state that a GET shows is copied.
    let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert!((seconds(1)..ms(1200)).contains(&took), "{took:?}");
    assert!(
        operator.slice_requests("update").is_empty(),
        "{:?}",
        operator.asked()
    );
}
