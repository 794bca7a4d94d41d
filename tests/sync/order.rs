//! The order of Services: which one is first, how many are synced at the same time, and which ones wait.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testbed::{Effect, Fault, Match, Request, Store, builders};
use tokio::time::Instant;

use crate::harness::{
    Operator, addresses, cluster, ms, pass, put, seconds, service, service_of, slice, slices_of, until,
};

/// The highest number of requests in flight at the same time.
fn at_once(requests: &[Request]) -> usize {
    let in_flight = |moment: Instant| {
        let is_open = |request: &&Request| {
            request.at <= moment && request.answered.is_none_or(|answered| answered > moment)
        };
        requests.iter().filter(is_open).count()
    };
    requests
        .iter()
        .map(|request| in_flight(request.at))
        .max()
        .unwrap_or(0)
}

/// Rule: survive.api-servers-first
#[tokio::test(start_paused = true)]
async fn copies_of_the_api_servers_are_written_first() {
    let store = cluster(&["192.0.2.1"]);
    put(&store, slice("app", "app-1", &["10.0.0.1"]));
    for number in 0..40 {
        put(&store, service_of(&format!("a-{number}"), "app"));
    }
    for number in 0..4 {
        put(&store, service(&format!("z-{number}")));
    }
    let operator = Operator::start(&store);
    until(&store, "all copies", |store| {
        store.list("endpointslices", None).len() == 2 + 44
    })
    .await;
    let creates = operator.slice_requests("create");
    let first: BTreeSet<_> = creates[..4]
        .iter()
        .map(|create| create.name.chars().next())
        .collect();
    assert_eq!(first, [Some('z')].into(), "{:?}", operator.asked());

    // The order is the same when both sources change at the same time.
    store.requests().clear();
    pass(seconds(2)).await;
    put(&store, slice("app", "app-1", &["10.0.0.2"]));
    put(&store, slice("kubernetes", "kubernetes", &["192.0.2.2"]));
    until(&store, "all copies are updated", |_| {
        operator.slice_requests("update").len() == 44
    })
    .await;
    let updates = operator.slice_requests("update");
    let last = updates
        .iter()
        .rposition(|update| update.name.starts_with('z'))
        .expect("an update for `z`");
    // The syncs that were in progress when the change arrived can end first.
    assert!(last < 8 + 4, "{:?}", operator.asked());
}

/// Rule: survive.ten-at-once
#[tokio::test(start_paused = true)]
async fn at_most_ten_writes_are_in_flight_and_one_per_service() {
    let store = cluster(&["192.0.2.1"]);
    put(&store, slice("kubernetes", "kubernetes-2", &["192.0.2.2"]));
    let names: Vec<_> = (0..30).map(|number| format!("s-{number}")).collect();
    for name in names.iter().map(String::as_str).chain(["kubernetes-vip"]) {
        put(&store, service(name));
    }
    let operator = Operator::start(&store);
    let slow = Match::any().verb("create").resource("endpointslices");
    operator
        .writer
        .faults()
        .add(Fault::new(slow, Effect::Latency(ms(100))));
    until(&store, "two copies each", |store| {
        store.list("endpointslices", None).len() == 2 + 62
    })
    .await;
    let creates = operator.slice_requests("create");
    assert_eq!(creates.len(), 62);
    assert_eq!(at_once(&creates), 10);
    for name in names {
        let prefix = format!("{name}-");
        let of_one: Vec<_> = creates
            .iter()
            .filter(|create| create.name.starts_with(&prefix))
            .cloned()
            .collect();
        assert_eq!((of_one.len(), at_once(&of_one)), (2, 1));
    }
}

/// Creates a managed Service of the default source in a new namespace.
fn put_tenant(store: &Store, number: usize) {
    let namespace = format!("tenant-{number}");
    put(store, builders::namespace(&namespace));
    let mut tenant = service("vip");
    tenant["metadata"]["namespace"] = json!(namespace);
    put(store, tenant);
}

/// Rule: survive.api-servers-first
#[tokio::test(start_paused = true)]
async fn the_api_source_does_not_wait_for_500_tenants() {
    let store = cluster(&["192.0.2.1"]);
    for name in ["kubernetes-vip", "second-vip"] {
        put(&store, service(name));
    }
    for number in 0..500 {
        put_tenant(&store, number);
    }
    let operator = Operator::start(&store);
    until(&store, "all copies", |store| {
        store.list("endpointslices", None).len() == 1 + 502
    })
    .await;
    pass(seconds(2)).await;
    let updates = Match::any().verb("update");
    let slow = Fault::new(updates, Effect::Latency(ms(5)));
    operator.writer.faults().add(slow);
    for round in 2..10 {
        // This also holds while copies of tenants are still updated for the previous change.
        let address = format!("192.0.2.{round}");
        put(&store, slice("kubernetes", "kubernetes", &[&address]));
        let took = operator.until_addresses("kubernetes-vip", &[&address]).await;
        assert!(took < ms(6), "round {round}: {took:?}");
        let took = took + operator.until_addresses("second-vip", &[&address]).await;
        assert!(took < ms(11), "round {round}: {took:?}");
        pass(ms(50)).await;
    }
}

/// Rule: survive.api-servers-first
#[tokio::test(start_paused = true)]
async fn a_failed_api_source_sync_waits_for_no_hanging_tenant() {
    for name in ["kubernetes-vip", "second-vip"] {
        let store = cluster(&["192.0.2.1"]);
        put(&store, service(name));
        for number in 0..20 {
            put_tenant(&store, number);
        }
        let operator = Operator::start(&store);
        until(&store, "all copies", |store| {
            store.list("endpointslices", None).len() == 1 + 21
        })
        .await;
        pass(seconds(2)).await;
        // The copies of all tenants have the same name, each in its namespace.
        let updates_in = |namespace: &str| {
            let is_ours = |copy: &&Value| copy["metadata"]["name"] != "kubernetes";
            let copies = store.list("endpointslices", Some(namespace));
            let copy = copies.iter().find(is_ours).expect("a copy");
            let name = copy["metadata"]["name"].as_str().expect("a name");
            Match::any().verb("update").name(name)
        };
        let hang = Fault::new(updates_in("tenant-0"), Effect::Hang);
        operator.writer.faults().add(hang);
        put(&store, slice("kubernetes", "kubernetes", &["192.0.2.2"]));
        operator.until_addresses(name, &["192.0.2.2"]).await;
        // By now, the write of every tenant has failed once, and some of the writes hang again.
        pass(seconds(60)).await;
        let fail = Fault::status(updates_in("default"), 500).times(1);
        operator.writer.faults().add(fail);
        put(&store, slice("kubernetes", "kubernetes", &["192.0.2.3"]));
        let took = operator.until_addresses(name, &["192.0.2.3"]).await;
        assert!(took < ms(200), "{name}: {took:?}");
    }
}

/// Rule: survive.one-never-holds-up-another
#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_delays_no_other_service() {
    let store = cluster(&["192.0.2.1"]);
    put(&store, service("bad"));
    let operator = Operator::start(&store);
    operator.until_addresses("bad", &["192.0.2.1"]).await;
    let name = slices_of(&store, "bad")[0]["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let hang = Match::any().verb("update").name(&name);
    operator.writer.faults().add(Fault::new(hang, Effect::Hang));
    for number in 0..20 {
        put(&store, service(&format!("good-{number}")));
    }
    for round in 2..6 {
        let address = format!("192.0.2.{round}");
        put(&store, slice("kubernetes", "kubernetes", &[&address]));
        let good = |number: usize| addresses(&store, &format!("good-{number}")) == [address.as_str()];
        let took = until(&store, "all other copies are updated", |_| (0..20).all(good)).await;
        assert!(took < ms(100), "round {round}: {took:?}");
        pass(seconds(1)).await;
    }
    pass(seconds(60)).await;
    // Each try waits 12 s for a response, and the next one follows within about a second.
    let tries = operator
        .slice_requests("update")
        .iter()
        .filter(|update| update.name == name)
        .count();
    assert!((4..=7).contains(&tries), "{tries}");
    operator.writer.faults().clear();
    operator.until_addresses("bad", &["192.0.2.5"]).await;
}

/// Rule: survive.pace
#[tokio::test(start_paused = true)]
async fn a_copy_is_written_every_20_ms_if_its_service_changes_each_ms() {
    let store = cluster(&["192.0.2.1"]);
    put(&store, service("busy"));
    put(&store, service("calm"));
    let operator = Operator::start(&store);
    operator.until_addresses("busy", &["192.0.2.1"]).await;
    store.requests().clear();
    for number in 0..2000 {
        let ports = json!({"spec": {"ports": [{"name": "https", "port": 6443, "targetPort": 1 + number}]}});
        store
            .patch("services", "default", "busy", ports)
            .expect("a patch");
        pass(ms(1)).await;
    }
    pass(seconds(2)).await;
    let asked = operator.asked();
    // Two seconds with one write every 20 ms.
    assert!((50..=102).contains(&asked.len()), "{}", asked.len());
    assert!(
        asked.iter().all(|asked| asked.starts_with("update busy-")),
        "{asked:?}"
    );
    assert_eq!(slices_of(&store, "busy")[0]["ports"][0]["port"], 2000);
}

/// Rule: survive.passing
#[tokio::test(start_paused = true)]
async fn transient_failures_are_retried_within_about_a_second() {
    for what in [
        Effect::Break,
        Effect::Nonsense,
        Effect::Status {
            code: 429,
            retry_after: Some(60),
        },
        Effect::Status {
            code: 500,
            retry_after: None,
        },
        Effect::Status {
            code: 503,
            retry_after: Some(60),
        },
        Effect::Status {
            code: 504,
            retry_after: None,
        },
    ] {
        let operator = Operator::start(&cluster(&["192.0.2.1"]));
        let writes = Match::any().verb("create").resource("endpointslices");
        operator.writer.faults().add(Fault::new(writes, what.clone()));
        put(&operator.store, service("vip"));
        pass(seconds(60)).await;
        let tries = operator.slice_requests("create");
        let longest = tries.windows(2).map(|pair| pair[1].at - pair[0].at).max();
        assert!(
            longest.is_some_and(|longest| longest <= ms(1300)),
            "{what:?}: {longest:?}"
        );
        assert!(tries.len() <= 100, "{what:?}: {}", tries.len());
        operator.writer.faults().clear();
        let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
        assert!(took <= ms(1300), "{what:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_reads_are_slow_is_not_stuck() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service_of("web", "app"));
    for number in 1..=8 {
        let name = format!("app-{number}");
        put(&operator.store, slice("app", &name, &["10.0.0.1"]));
    }
    operator.until_addresses("web", &["10.0.0.1"; 8]).await;
    pass(seconds(2)).await;
    let gets = Match::any().verb("get").resource("endpointslices");
    let slow = Effect::Latency(ms(4500));
    operator.writer.faults().add(Fault::new(gets, slow));
    // Each copy claims a newer version of its source, so all source slices are read, one after another.
    let claim = json!({
        "metadata": {"annotations": {"endpoint-copier/source-resource-version": "999999"}},
        "endpoints": [{"addresses": ["203.0.113.9"]}],
    });
    for copy in slices_of(&operator.store, "web") {
        let name = copy["metadata"]["name"].as_str().expect("a name");
        let patched = operator
            .store
            .patch("endpointslices", "default", name, claim.clone());
        patched.expect("a patch");
    }
    for _ in 0..60 {
        pass(seconds(1)).await;
        assert_eq!(operator.watchdog.check(seconds(26)), Ok(()));
    }
    let gets = operator.slice_requests("get");
    assert!(gets.len() >= 8, "{:?}", operator.asked());
}
