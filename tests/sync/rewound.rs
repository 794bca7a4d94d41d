//! etcd is restored from a backup: objects and UIDs are as they were when the backup was made, and resourceVersions
//! restart at a lower number. A watch that continues from its last version would show nothing for a long time.

use serde_json::json;
use testbed::{ApiServer, Ending, Fault, Match};

use crate::harness::{Operator, addresses, cluster, pass, put, seconds, service, service_of, slice, until};

const WATCHES: [&str; 3] = ["services", "copies", "sources"];

fn restarts(operator: &Operator, reason: &str) -> Vec<u64> {
    let series =
        |watch| format!("endpoint_copier_watch_restarts_total{{reason=\"{reason}\",resource=\"{watch}\"}}");
    WATCHES
        .iter()
        .filter_map(|watch| operator.metric(&series(watch)))
        .collect()
}

/// The behavior of API servers while etcd is restored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Servers {
    /// They keep running: their watches stay open and show nothing.
    Running,
    /// They are restarted: watches break, and resume at a version that does not exist yet.
    Restarted,
    /// Their watch caches still hold the old state.
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
    operator
        .store
        .rewind(backup)
        .expect("the store has this revision");
    if servers == Servers::Restarted {
        for server in all {
            server.faults().end_watches(Match::any(), Ending::Abrupt);
        }
    }
}

/// Makes many changes to an object that the operator watches.
fn make_many_changes(operator: &Operator) {
    for number in 0..500 {
        let mut other = service("other");
        other["metadata"]["annotations"] = json!({"number": number.to_string()});
        put(&operator.store, other);
    }
}

#[tokio::test(start_paused = true)]
async fn copies_are_right_within_12_s_of_an_etcd_restore() {
    for servers in [Servers::Running, Servers::Restarted, Servers::Stale] {
        let operator = Operator::start(&cluster(&["192.0.2.1"]));
        operator.check_sources();
        let store = operator.store.clone();
        put(&store, service("vip"));
        put(&store, slice("app", "app-1", &["10.0.0.1"]));
        put(&store, service_of("lost", "app"));
        operator.until_addresses("lost", &["10.0.0.1"]).await;
        operator.until_addresses("vip", &["192.0.2.1"]).await;
        // The backup is from the moment between a change and its copy.
        put(
            &store,
            slice("kubernetes", "kubernetes", &["192.0.2.1", "192.0.2.2"]),
        );
        let backup = store.revision();
        operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
        put(&store, slice("kubernetes", "kubernetes", &["192.0.2.3"]));
        operator.until_addresses("vip", &["192.0.2.3"]).await;
        store
            .delete("services", "default", "lost")
            .expect("an existing object");
        put(&store, service_of("made", "app"));
        operator.until_addresses("made", &["10.0.0.1"]).await;
        make_many_changes(&operator);
        pass(seconds(60)).await;

        restore(&operator, backup, servers);
        // The resourceVersion of this new Service is lower than the last one that the watch has shown.
        put(&store, service_of("new", "app"));
        let is_right = |store: &testbed::Store| {
            addresses(store, "vip") == ["192.0.2.1", "192.0.2.2"]
                && addresses(store, "lost") == ["10.0.0.1"]
                && addresses(store, "new") == ["10.0.0.1"]
        };
        let took = until(&store, "the copies are right", is_right).await;
        assert!(took < seconds(12), "{servers:?}: {took:?}");
        pass(seconds(2)).await;
        // There are two watches of sources: one of the API source, and one of all other sources.
        assert_eq!(restarts(&operator, "expired"), [1, 1, 2], "{servers:?}");
        if servers == Servers::Stale {
            continue;
        }
        assert_eq!(
            restarts(&operator, "stale"),
            [0, 0, 0],
            "{servers:?}: a watch is reported as stale"
        );
        // Everything continues as it did before.
        put(&store, slice("kubernetes", "kubernetes", &["192.0.2.4"]));
        let took = operator.until_addresses("vip", &["192.0.2.4"]).await;
        assert!(took < seconds(1), "{servers:?}: {took:?}");
        pass(seconds(60)).await;
        assert_eq!(
            restarts(&operator, "expired"),
            [1, 1, 2],
            "{servers:?}: expired again"
        );
        assert_eq!(operator.metric("endpoint_copier_services_in_sync"), Some(3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_is_noticed_without_any_managed_service() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    operator.check_sources();
    let backup = operator.store.revision();
    make_many_changes(&operator);
    pass(seconds(60)).await;
    restore(&operator, backup, Servers::Restarted);
    put(&operator.store, service("vip"));
    let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert!(took < seconds(12), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_after_an_unnoticed_restore_is_ended_by_a_get() {
    // The check of the sources is off.
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    let store = operator.store.clone();
    put(&store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let backup = store.revision();
    put(&store, slice("kubernetes", "kubernetes", &["192.0.2.2"]));
    operator.until_addresses("vip", &["192.0.2.2"]).await;
    make_many_changes(&operator);
    pass(seconds(60)).await;
    operator.copies.lag();
    store.rewind(backup).expect("the store has this revision");
    // Only the two watches of sources notice the restore.
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

/// So few writes are undone that their versions are reused long before the watches continue.
#[tokio::test(start_paused = true)]
async fn a_small_etcd_restore_is_noticed_by_its_outage() {
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
    store.rewind(backup).expect("the store has this revision");
    put(&store, service("made"));
    make_many_changes(&operator);
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
