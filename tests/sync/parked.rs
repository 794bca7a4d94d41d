//! After a write, a Service waits at most a second for the watch to show the write. After that, one GET reads the copy.

use serde_json::json;
use testbed::{Effect, Fault, Match};
use tokio::time::Instant;

use crate::harness::{
    Operator, addresses, cluster, ms, pass, put, seconds, service, service_of, slice, slices_of, until,
};

fn change(operator: &Operator, address: &str) {
    put(&operator.store, slice("kubernetes", "kubernetes", &[address]));
}

fn copy_name(operator: &Operator) -> String {
    let copies = slices_of(&operator.store, "vip");
    assert_eq!(copies.len(), 1, "{copies:#?}");
    copies[0]["metadata"]["name"].as_str().expect("a name").to_owned()
}

/// Rule: 2.parked
#[tokio::test(start_paused = true)]
async fn a_write_that_the_watch_shows_costs_no_get() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    for number in 2..10 {
        let address = format!("192.0.2.{number}");
        change(&operator, &address);
        let took = operator.until_addresses("vip", &[&address]).await;
        assert!(took < ms(30), "{took:?}");
    }
    pass(seconds(60)).await;
    assert!(
        operator.slice_requests("get").is_empty(),
        "{:?}",
        operator.asked()
    );
    assert_eq!(operator.slice_requests("update").len(), 8);
}

/// Rule: 2.parked, 2.parked-get
#[tokio::test(start_paused = true)]
async fn a_write_missing_in_the_watch_costs_one_get_after_a_second() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(2)).await;
    operator.copies.lag();

    change(&operator, "192.0.2.2");
    operator.until_addresses("vip", &["192.0.2.2"]).await;
    // While the Service waits, nothing is planned, because a plan from the old view would cause a conflict.
    pass(ms(200)).await;
    change(&operator, "192.0.2.3");
    let took = operator.until_addresses("vip", &["192.0.2.3"]).await;
    assert!(took >= ms(700) && took <= ms(900), "{took:?}");
    pass(seconds(20)).await;

    let name = copy_name(&operator);
    let [create, update, get] = ["create", "update", "get"].map(|verb| format!("{verb} {name}"));
    assert_eq!(
        operator.asked(),
        [&create, &update, &get, &update, &get].map(String::as_str)
    );
    let writes = operator.slice_requests("update");
    assert!(
        writes.iter().all(|write| write.status == Some(200)),
        "{writes:#?}"
    );
    let gets = operator.slice_requests("get");
    let waited = gets[0].at - writes[0].answered.expect("an answer");
    assert!(waited >= seconds(1) && waited < ms(1050), "{waited:?}");

    // The watch finally shows the write, which causes no request.
    operator.copies.release();
    pass(seconds(10)).await;
    assert_eq!(operator.asked().len(), 5, "{:?}", operator.asked());
}

/// Rule: 2.put, 2.parked
#[tokio::test(start_paused = true)]
async fn a_conflict_waits_for_the_watch_and_then_one_get_decides() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(2)).await;
    let name = copy_name(&operator);
    operator.copies.lag();
    // The watch does not show this edit, so the version that the operator knows is old.
    let edit = json!({"metadata": {"labels": {"team": "blue"}}});
    operator
        .store
        .patch("endpointslices", "default", &name, edit)
        .expect("a patch");
    change(&operator, "192.0.2.2");
    let took = operator.until_addresses("vip", &["192.0.2.2"]).await;
    assert!(took >= seconds(1) && took < ms(1100), "{took:?}");
    let answers: Vec<_> = operator
        .slice_requests("update")
        .iter()
        .map(|write| write.status)
        .collect();
    assert_eq!(answers, [Some(409), Some(200)]);
    assert_eq!(operator.slice_requests("get").len(), 1);
    assert_eq!(
        slices_of(&operator.store, "vip")[0]["metadata"]["labels"]["team"],
        "blue"
    );
}

/// Rule: 2.post
#[tokio::test(start_paused = true)]
async fn a_create_whose_reply_is_lost_ends_in_one_copy_and_no_error() {
    for lagging in [false, true] {
        let operator = Operator::start(&cluster(&["192.0.2.1"]));
        pass(seconds(1)).await;
        if lagging {
            operator.copies.lag();
        }
        let lost = Match::any().verb("create").resource("endpointslices");
        operator
            .writer
            .faults()
            .add(Fault::new(lost, Effect::LostReply).times(1));
        put(&operator.store, service("vip"));
        operator.until_addresses("vip", &["192.0.2.1"]).await;
        pass(seconds(60)).await;
        assert_eq!(slices_of(&operator.store, "vip").len(), 1);
        assert_eq!(
            operator.metric("endpoint_copier_services_in_sync"),
            Some(1),
            "lagging: {lagging}"
        );
        // If the watch is late, a GET finds that the object with the name is our copy.
        let asked = operator.asked();
        assert_eq!(asked.len(), if lagging { 3 } else { 1 }, "{asked:?}");
    }
}

/// Rule: 2.parked-get
#[tokio::test(start_paused = true)]
async fn a_copy_deleted_by_hand_while_the_watch_is_late_is_recreated() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(2)).await;
    let name = copy_name(&operator);
    operator.copies.lag();
    operator
        .store
        .delete("endpointslices", "default", &name)
        .expect("a copy");
    change(&operator, "192.0.2.2");
    let took = operator.until_addresses("vip", &["192.0.2.2"]).await;
    assert!(took < ms(1200), "{took:?}");
    let verbs: Vec<_> = operator
        .asked()
        .iter()
        .skip(1)
        .map(|asked| asked.replace(&format!(" {name}"), ""))
        .collect();
    assert_eq!(verbs, ["update", "get", "create"]);
}

/// Rule: 2.name-taken
#[tokio::test(start_paused = true)]
async fn an_unlabeled_slice_with_a_copys_name_is_found_by_a_get() {
    // The test learns the name of the copy from a first operator.
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let name = copy_name(&operator);
    operator.stop().await;

    let store = cluster(&["192.0.2.1"]);
    let mut stranger = slice("", &name, &["203.0.113.9"]);
    stranger["metadata"]["labels"] = json!({});
    put(&store, stranger);
    let operator = Operator::start(&store);
    put(&store, service("vip"));
    put(&store, slice("app", "app-1", &["10.0.0.1"]));
    put(&store, service_of("other", "app"));
    until(&store, "NameTaken is sent", |store| {
        crate::harness::warnings(store, "vip") == ["NameTaken"]
    })
    .await;
    assert_eq!(
        operator
            .asked()
            .iter()
            .filter(|asked| **asked == format!("get {name}"))
            .count(),
        1
    );
    assert_eq!(
        addresses(&store, "other"),
        ["10.0.0.1"],
        "another Service is affected"
    );
    pass(seconds(120)).await;
    // The pauses double from 5 s to 30 s. After each of them, there is one GET and no write.
    let gets = operator.slice_requests("get");
    assert!((5..=8).contains(&gets.len()), "{:?}", operator.asked());
    assert_eq!(
        crate::harness::warnings(&store, "vip"),
        ["NameTaken"],
        "expected exactly one report"
    );
    let found = store.get("endpointslices", "default", &name).expect("the slice");
    assert_eq!(found["endpoints"][0]["addresses"][0], "203.0.113.9");

    store
        .delete("endpointslices", "default", &name)
        .expect("an existing object");
    let freed = Instant::now();
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert!(freed.elapsed() <= seconds(31), "{:?}", freed.elapsed());
    pass(ms(100)).await;
    assert_eq!(
        operator.metric("endpoint_copier_findings{reason=\"NameTaken\"}"),
        Some(0)
    );
}

/// No watch shows the slice, and a GET shows only its name.
#[tokio::test(start_paused = true)]
async fn an_unreadable_slice_in_a_copys_place_delays_no_other_copy() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let name = copy_name(&operator);
    operator.stop().await;

    let store = cluster(&["192.0.2.1"]);
    put(&store, slice("kubernetes", "second", &["192.0.2.2"]));
    let mut stranger = slice("", &name, &["203.0.113.9"]);
    stranger["metadata"]["labels"] = json!({});
    put(&store, stranger);
    let operator = Operator::standby(&store);
    let reads = Match::any().verb("get").name(&name);
    operator
        .writer
        .faults()
        .add(Fault::new(reads, Effect::Undecodable { labels: false }));
    operator.lead();
    put(&store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.2"]).await;
    pass(seconds(10)).await;
    put(&store, slice("kubernetes", "second", &["192.0.2.3"]));
    let took = operator.until_addresses("vip", &["192.0.2.3"]).await;
    assert!(took < seconds(1), "{took:?}");
    pass(seconds(120)).await;
    let gets = operator.slice_requests("get");
    assert!((5..=12).contains(&gets.len()), "{:?}", operator.asked());
    assert_eq!(crate::harness::warnings(&store, "vip"), ["NameTaken"]);

    store
        .delete("endpointslices", "default", &name)
        .expect("an existing object");
    let took = operator.until_addresses("vip", &["192.0.2.1", "192.0.2.3"]).await;
    assert!(took <= seconds(31), "{took:?}");
}

/// Rule: 2.name-taken
#[tokio::test(start_paused = true)]
async fn a_foreign_slice_with_a_copys_name_is_seen_by_the_watch() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let name = copy_name(&operator);
    // Another owner takes the slice over.
    let theirs = json!({"metadata": {
        "labels": {"endpointslice.kubernetes.io/managed-by": "someone"}, "ownerReferences": null,
    }});
    operator
        .store
        .patch("endpointslices", "default", &name, theirs)
        .expect("a patch");
    until(&operator.store, "the Event is sent", |store| {
        crate::harness::warnings(store, "vip").contains(&"NameTaken".to_owned())
    })
    .await;
    let before = operator.asked().len();
    pass(seconds(60)).await;
    assert_eq!(operator.asked().len(), before, "{:?}", operator.asked());
    operator
        .store
        .delete("endpointslices", "default", &name)
        .expect("an existing object");
    let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert!(took < ms(50), "{took:?}");
}
