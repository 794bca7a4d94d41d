//! The log, including the log during an API outage: few lines, but one for each thing that a user has to know.

use testbed::{Effect, Fault, Match, Store};

use crate::harness::{
    Operator, addresses, cluster, pass, put, seconds, service, service_of, slice, slices_of, until, warnings,
};
use crate::log::Log;

/// The log lines about failed syncs, except those about a Service that "failed in another way".
fn sync_failures(log: &Log) -> Vec<String> {
    let mut lines = log.lines("the sync of copies");
    lines.retain(|line| !line.contains("in another way"));
    lines
}

/// Asserts that each log line about failed syncs, from line `since` on, contains the words at its place in `words`.
fn assert_logged(log: &Log, since: usize, words: &[&str]) {
    let lines = sync_failures(log).split_off(since);
    assert_eq!(lines.len(), words.len(), "{lines:#?}");
    for (line, words) in lines.iter().zip(words) {
        assert!(line.contains(words), "{line} without {words}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_failing_services_are_logged_once_a_minute_until_fixed() {
    let log = Log::begin();
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    for number in 0..100 {
        put(&operator.store, service(&format!("vip-{number}")));
    }
    let all_show = |store: &Store, address: &str| {
        (0..100).all(|number| addresses(store, &format!("vip-{number}")) == [address])
    };
    until(&operator.store, "all copies are created", |store| {
        all_show(store, "192.0.2.1")
    })
    .await;
    pass(seconds(2)).await;
    let busy = Effect::Status {
        code: 503,
        retry_after: None,
    };
    for (effect, address) in [(Effect::Break, "192.0.2.2"), (busy, "192.0.2.3")] {
        let before = sync_failures(&log).len();
        let rule = operator.writer.faults().add(Fault::new(Match::any(), effect));
        put(&operator.store, slice("kubernetes", "kubernetes", &[address]));
        pass(seconds(150)).await;
        operator.writer.faults().remove(rule);
        until(&operator.store, "all copies are updated", |store| {
            all_show(store, address)
        })
        .await;
        pass(seconds(1)).await;
        let words = [
            "failed; trying again error=\"default/vip-",
            "still fails",
            "still fails",
            "works again",
        ];
        assert_logged(&log, before, &words);
    }
    // In each minute of both outages, a few of the other Services get a line too.
    let others = log.lines("failed in another way").len();
    assert!((2 * 7..=6 * 8).contains(&others), "{others}");
}

/// Rule: survive.log-lines
#[tokio::test(start_paused = true)]
async fn a_failing_service_suppresses_no_log_line_of_another() {
    let log = Log::begin();
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, slice("app", "app-1", &["10.0.0.1"]));
    let more = (0..20).map(|number| format!("more-{number}"));
    for name in ["web", "late", "kubernetes-vip"]
        .map(str::to_owned)
        .into_iter()
        .chain(more)
    {
        put(&operator.store, service_of(&name, "app"));
        operator.until_addresses(&name, &["10.0.0.1"]).await;
    }
    pass(seconds(2)).await;
    let fail = |name: &str| {
        let copy = slices_of(&operator.store, name).remove(0);
        let copy = copy["metadata"]["name"].as_str().expect("a name").to_owned();
        let writes = Match::any().verb("update").name(&copy);
        operator.writer.faults().add(Fault::status(writes, 500))
    };
    fail("web");
    put(&operator.store, slice("app", "app-1", &["10.0.0.2"]));
    pass(seconds(5)).await;
    fail("late");
    put(&operator.store, slice("app", "app-1", &["10.0.0.3"]));
    pass(seconds(5)).await;
    // More causes than the log of one outage distinguishes.
    for number in 0..20 {
        fail(&format!("more-{number}"));
    }
    let rule = fail("kubernetes-vip");
    put(&operator.store, slice("app", "app-1", &["10.0.0.4"]));
    pass(seconds(5)).await;
    let is_logged = |words: &str| !log.lines(words).is_empty();
    assert!(is_logged(
        "the sync of copies failed; trying again error=\"default/web"
    ));
    assert!(is_logged(
        "the sync of copies failed in another way error=\"default/late"
    ));
    let flagged = "the sync of the Service that the flags name";
    assert!(is_logged(&format!(
        "{flagged} failed; trying again error=\"default/kubernetes-vip"
    )));
    operator.writer.faults().remove(rule);
    pass(seconds(5)).await;
    assert!(is_logged(&format!("{flagged} works again")));
    assert!(!is_logged("the sync of copies works again"));
}

/// Changes the last octet of the source's address once a second, from 2 to below `end`, and waits for each copy.
async fn copy_changes(operator: &Operator, end: u8) {
    for number in 2..end {
        let address = format!("192.0.2.{number}");
        put(&operator.store, slice("kubernetes", "kubernetes", &[&address]));
        operator.until_addresses("vip", &[&address]).await;
        pass(seconds(1)).await;
    }
}

/// Rule: survive.log-lines
#[tokio::test(start_paused = true)]
async fn log_lines_of_a_service_are_limited_like_its_events() {
    let log = Log::begin();
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    copy_changes(&operator, 200).await;
    assert_eq!(log.lines("default/vip").len(), 25);
    put(&operator.store, service("other"));
    operator.until_addresses("other", &["192.0.2.199"]).await;
    assert_eq!(
        log.lines("default/other").len(),
        1,
        "the limit of one Service applies to another"
    );
    pass(seconds(300)).await;
    put(&operator.store, slice("kubernetes", "kubernetes", &["192.0.2.2"]));
    operator.until_addresses("vip", &["192.0.2.2"]).await;
    assert_eq!(log.lines("default/vip").len(), 26);
}

#[tokio::test(start_paused = true)]
async fn finding_is_logged_however_many_copies_were_written() {
    let log = Log::begin();
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    copy_changes(&operator, 40).await;
    let mut wrong = service("vip");
    wrong["spec"]["selector"] = serde_json::json!({"app": "web"});
    put(&operator.store, wrong);
    operator.until_addresses("vip", &[]).await;
    pass(seconds(1)).await;
    assert_eq!(log.lines("HasSelector").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_over_when_the_last_copy_is_written() {
    let log = Log::begin();
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    put(&operator.store, slice("app", "app-1", &["10.0.0.1"]));
    put(&operator.store, service_of("web", "app"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    operator.until_addresses("web", &["10.0.0.1"]).await;
    let copy = slices_of(&operator.store, "web").remove(0);
    let name = copy["metadata"]["name"].as_str().expect("a name");
    let writes = Match::any().verb("update").name(name);
    let rule = operator.writer.faults().add(Fault::status(writes, 500));
    put(&operator.store, slice("app", "app-1", &["10.0.0.2"]));
    for number in 2..50 {
        let address = format!("192.0.2.{number}");
        put(&operator.store, slice("kubernetes", "kubernetes", &[&address]));
        operator.until_addresses("vip", &[&address]).await;
        pass(seconds(1)).await;
    }
    operator.writer.faults().remove(rule);
    operator.until_addresses("web", &["10.0.0.2"]).await;
    pass(seconds(1)).await;
    assert_logged(&log, 0, &["failed; trying again", "works again"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_is_logged_once_and_is_no_outage() {
    for code in [403, 422] {
        let log = Log::begin();
        let operator = Operator::start(&cluster(&["192.0.2.1"]));
        let writes = Match::any().verb("create").resource("endpointslices");
        operator.writer.faults().add(Fault::status(writes, code));
        put(&operator.store, service("vip"));
        pass(seconds(300)).await;
        assert_eq!(log.lines("WriteRefused").len(), 1, "{code}: {:?}", log.lines(""));
        assert_logged(&log, 0, &[]);
        assert_eq!(warnings(&operator.store, "vip"), ["WriteRefused"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_is_logged_with_its_source_and_endpoint_counts() {
    let log = Log::begin();
    let store = cluster(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    let operator = Operator::start(&store);
    put(&store, service("vip"));
    operator
        .until_addresses("vip", &["192.0.2.1", "192.0.2.2", "192.0.2.3"])
        .await;
    put(&store, slice("kubernetes", "kubernetes", &["192.0.2.1"]));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(60)).await;
    let lines = log.lines("copies written");
    let expected = [
        "before=0 endpoints=3 created=1 updated=0 deleted=0",
        "before=3 endpoints=1 created=0 updated=1 deleted=0",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, counts) in lines.iter().zip(expected) {
        let begin = format!("INFO copies written service=default/vip source=default/kubernetes {counts} ms=");
        assert!(line.starts_with(&begin), "{line}");
    }
}
