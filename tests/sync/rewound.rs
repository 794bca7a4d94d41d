//! etcd is restored from a backup: objects and UIDs are those of before, resourceVersions begin again lower, and a watch
//! that goes on from the version that it had come to would show nothing for a long time.

use serde_json::json;
use testbed::{ApiServer, Ending, Fault, Match};

use crate::harness::{Operator, addresses, cluster, pass, put, seconds, service, service_of, slice, until};

const RELISTED: [&str; 3] = ["services", "copies", "sources"];

fn relisted(operator: &Operator, reason: &str) -> Vec<u64> {
    let series =
        |watch| format!("endpoint_copier_watch_restarts_total{{reason=\"{reason}\",resource=\"{watch}\"}}");
    RELISTED
        .iter()
        .filter_map(|watch| operator.metric(&series(watch)))
        .collect()
}

/// What API servers do while etcd is restored under them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Servers {
    /// Their watches stay open and show nothing.
    Go,
    /// They are restarted: watches break, and begin again at what is another future now.
    Restarted,
    /// Their watch caches still hold what was.
    Stale,
}

fn restore(operator: &Operator, backup: u64, servers: Servers) {
    let all: [&ApiServer; 4] = [
        &operator.services,
        &operator.copies,
        &operator.sources,
        &operator.writer,
    ];
    if servers == Servers::Stale {
        for server in all {
            server.lag();
        }
    }
    operator.store.rewind(backup).expect("it is remembered");
    if servers == Servers::Restarted {
        for server in all {
            server.faults().end_watches(Match::any(), Ending::Abrupt);
        }
    }
}

/// Many changes of something that the operator watches.
fn be_busy(operator: &Operator) {
    for number in 0..500 {
        let mut other = service("other");
        other["metadata"]["annotations"] = json!({"number": number.to_string()});
        put(&operator.store, other);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restore_of_etcd_the_copies_are_right_within_twelve_seconds() {
    for servers in [Servers::Go, Servers::Restarted, Servers::Stale] {
        let operator = Operator::start(&cluster(&["192.0.2.1"]));
        operator.check_sources();
        let store = operator.store.clone();
        put(&store, service("vip"));
        put(&store, slice("app", "app-1", &["10.0.0.1"]));
        put(&store, service_of("lost", "app"));
        operator.until_addresses("lost", &["10.0.0.1"]).await;
        operator.until_addresses("vip", &["192.0.2.1"]).await;
        // The backup is of the moment between a change and its copy.
        put(
            &store,
            slice("kubernetes", "kubernetes", &["192.0.2.1", "192.0.2.2"]),
        );
        let backup = store.revision();
        operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
        put(&store, slice("kubernetes", "kubernetes", &["192.0.2.3"]));
        operator.until_addresses("vip", &["192.0.2.3"]).await;
        store.delete("services", "default", "lost").expect("it");
        put(&store, service_of("made", "app"));
        operator.until_addresses("made", &["10.0.0.1"]).await;
        be_busy(&operator);
        pass(seconds(60)).await;

        restore(&operator, backup, servers);
        // A Service that comes now is at a version that the watch has passed.
        put(&store, service_of("new", "app"));
        let is_right = |store: &testbed::Store| {
            addresses(store, "vip") == ["192.0.2.1", "192.0.2.2"]
                && addresses(store, "lost") == ["10.0.0.1"]
                && addresses(store, "new") == ["10.0.0.1"]
        };
        let took = until(&store, "the copies are right", is_right).await;
        assert!(took < seconds(12), "{servers:?}: {took:?}");
        pass(seconds(2)).await;
        // There are two watches of sources: that of the API servers, and that of the others.
        assert_eq!(relisted(&operator, "expired"), [1, 1, 2], "{servers:?}");
        if servers == Servers::Stale {
            continue;
        }
        assert_eq!(
            relisted(&operator, "stale"),
            [0, 0, 0],
            "{servers:?}: nobody is to blame"
        );
        // And all goes on as before.
        put(&store, slice("kubernetes", "kubernetes", &["192.0.2.4"]));
        let took = operator.until_addresses("vip", &["192.0.2.4"]).await;
        assert!(took < seconds(1), "{servers:?}: {took:?}");
        pass(seconds(60)).await;
        assert_eq!(relisted(&operator, "expired"), [1, 1, 2], "{servers:?}: once");
        assert_eq!(operator.metric("endpoint_copier_services_in_sync"), Some(3));
    }
}

#[tokio::test(start_paused = true)]
async fn without_any_managed_service_a_restore_is_noticed_too() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    operator.check_sources();
    let backup = operator.store.revision();
    be_busy(&operator);
    pass(seconds(60)).await;
    restore(&operator, backup, Servers::Restarted);
    put(&operator.store, service("vip"));
    let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert!(took < seconds(12), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn before_a_restore_is_noticed_a_conflict_is_cured_by_a_get() {
    // Without the check of the sources.
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    let store = operator.store.clone();
    put(&store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let backup = store.revision();
    put(&store, slice("kubernetes", "kubernetes", &["192.0.2.2"]));
    operator.until_addresses("vip", &["192.0.2.2"]).await;
    be_busy(&operator);
    pass(seconds(60)).await;
    operator.copies.lag();
    store.rewind(backup).expect("it is remembered");
    // The two watches of sources alone have noticed.
    let gone = Fault::status(Match::any().verb("watch"), 410).times(2);
    operator.sources.faults().add(gone);
    operator
        .sources
        .faults()
        .end_watches(Match::any(), Ending::Abrupt);
    put(&store, slice("kubernetes", "kubernetes", &["192.0.2.5"]));
    let took = operator.until_addresses("vip", &["192.0.2.5"]).await;
    assert!(took < seconds(4), "{took:?} {:?}", operator.asked());
}

/// So few writes back that the versions have long been given again when the watches go on.
#[tokio::test(start_paused = true)]
async fn a_restore_by_a_few_writes_is_noticed_by_the_outage_that_it_takes() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    let store = operator.store.clone();
    let (kept, lost) = (service("kept"), service("lost"));
    put(&store, kept);
    operator.until_addresses("kept", &["192.0.2.1"]).await;
    let backup = store.revision();
    put(&store, lost);
    put(&store, slice("kubernetes", "kubernetes", &["192.0.2.2"]));
    operator.until_addresses("lost", &["192.0.2.2"]).await;
    operator.until_addresses("kept", &["192.0.2.2"]).await;

    let all = [
        &operator.services,
        &operator.copies,
        &operator.sources,
        &operator.writer,
    ];
    for server in all {
        server.faults().refuse(true);
        server.faults().end_watches(Match::any(), Ending::Abrupt);
    }
    pass(seconds(7)).await;
    store.rewind(backup).expect("it is remembered");
    put(&store, service("made"));
    be_busy(&operator);
    for server in all {
        server.faults().refuse(false);
    }
    let is_right = |store: &testbed::Store| {
        addresses(store, "kept") == ["192.0.2.1"] && addresses(store, "made") == ["192.0.2.1"]
    };
    let took = until(&store, "the copies are right", is_right).await;
    assert!(took < seconds(2), "{took:?}");
    pass(seconds(10)).await;
    assert_eq!(operator.metric("endpoint_copier_services_in_sync"), Some(2));
}
