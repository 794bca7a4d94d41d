use super::*;
use endpoint_copier_core::model::Priority::{ApiServers, Flagged, Other};
use endpoint_copier_core::model::SyncResult;

fn queue() -> WorkQueue {
    WorkQueue::new(Metrics::new("lease").unwrap())
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn in_namespace(namespace: &str, name: usize) -> ServiceKey {
    ServiceKey::new(namespace, name.to_string())
}

fn outcome(requeue: Requeue) -> Outcome {
    Outcome::new(SyncResult::Success, requeue)
}

fn mark(queue: &mut WorkQueue, key: ServiceKey, since: Instant, priority: Priority) {
    let mark = Mark {
        since,
        is_edit: false,
    };
    queue.mark(key, mark, priority);
}

fn mark_edit(queue: &mut WorkQueue, key: ServiceKey, since: Instant, priority: Priority) {
    queue.mark(key, Mark { since, is_edit: true }, priority);
}

/// Ends a sync that sent no request.
fn finish(queue: &mut WorkQueue, key: ServiceKey, requeue: Requeue, priority: Priority) {
    queue.finished(key, &outcome(requeue), priority);
}

fn keys(queue: &mut WorkQueue) -> Vec<ServiceKey> {
    std::iter::from_fn(|| queue.pop()).map(|(key, _)| key).collect()
}

fn names(queue: &mut WorkQueue) -> Vec<String> {
    let keys = keys(queue);
    keys.iter().map(|key| key.name().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_key_marked_twice_is_worked_on_once() {
    let mut queue = queue();
    mark(&mut queue, key("a"), Instant::now(), Other);
    mark(&mut queue, key("a"), Instant::now(), Other);
    assert_eq!(names(&mut queue), ["a"]);
}

/// Rule: survive.api-servers-first
#[tokio::test(start_paused = true)]
async fn flagged_service_is_synced_first_then_those_of_api_servers() {
    let mut queue = queue();
    mark(&mut queue, key("a"), Instant::now(), Other);
    mark(&mut queue, key("b"), Instant::now(), ApiServers);
    mark(&mut queue, key("vip"), Instant::now(), Flagged);
    assert_eq!(names(&mut queue), ["vip", "b"]);
    finish(&mut queue, key("b"), Requeue::WhenDirty, ApiServers);
    assert!(
        names(&mut queue).is_empty(),
        "other keys should wait for the flagged Service"
    );
    finish(&mut queue, key("vip"), Requeue::WhenDirty, Flagged);
    assert_eq!(names(&mut queue), ["a"]);
}

/// Rule: survive.api-servers-first
#[tokio::test(start_paused = true)]
async fn other_keys_wait_for_reserved_slots_at_most_20_ms() {
    let mut queue = queue();
    let start = Instant::now();
    mark(&mut queue, key("vip"), start, Flagged);
    mark(&mut queue, key("a"), start, Other);
    assert_eq!(names(&mut queue), ["vip"]);
    queue.due(|_| Other).await;
    assert_eq!(start.elapsed(), Duration::from_millis(20));
    assert_eq!(names(&mut queue), ["a"], "a write that hangs delays other keys");
    finish(&mut queue, key("vip"), Requeue::WhenDirty, Flagged);
    mark(&mut queue, key("vip"), start, Flagged);
    mark(&mut queue, key("b"), start, Other);
    assert_eq!(
        names(&mut queue),
        ["vip", "b"],
        "another head start began too early"
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_that_changes_during_its_sync_is_queued_again() {
    let mut queue = queue();
    mark(&mut queue, key("a"), Instant::now(), Other);
    queue.pop().unwrap();
    let changed = Instant::now();
    mark(&mut queue, key("a"), changed, Other);
    assert_eq!(queue.pop(), None);
    finish(&mut queue, key("a"), Requeue::WhenDirty, Other);
    assert_eq!(queue.pop(), Some((key("a"), changed)));
}

#[tokio::test(start_paused = true)]
async fn a_key_waits_after_a_sync_that_sent_a_request() {
    for has_written in [false, true] {
        let mut queue = queue();
        let start = Instant::now();
        mark(&mut queue, key("a"), start, Other);
        queue.pop().unwrap();
        let outcome = Outcome {
            has_sent: true,
            has_written,
            ..outcome(Requeue::WhenDirty)
        };
        queue.finished(key("a"), &outcome, Other);
        mark(&mut queue, key("a"), Instant::now(), Other);
        mark(&mut queue, key("b"), Instant::now(), Other);
        assert_eq!(names(&mut queue), ["b"]);
        queue.due(|_| Other).await;
        assert_eq!(names(&mut queue), ["a"]);
        assert!(
            start.elapsed() >= PACE && start.elapsed() < 2 * PACE,
            "{:?}",
            start.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_waits_longer_each_time_and_is_always_retried() {
    let mut queue = queue();
    mark(&mut queue, key("a"), Instant::now(), Other);
    let mut waits = Vec::new();
    for _ in 0..1000 {
        queue.pop().unwrap();
        finish(&mut queue, key("a"), Requeue::Backoff(Backoff::Long), Other);
        let start = Instant::now();
        queue.due(|_| Other).await;
        waits.push(start.elapsed().as_secs());
    }
    assert_eq!(waits[..5], [5, 10, 20, 30, 30]);
    assert_eq!(waits[999], 30);
}

#[tokio::test(start_paused = true)]
async fn transient_failures_are_retried_within_about_a_second() {
    let mut queue = queue();
    mark(&mut queue, key("a"), Instant::now(), Other);
    for _ in 0..50 {
        queue.pop().unwrap();
        finish(&mut queue, key("a"), Requeue::Backoff(Backoff::Short), Other);
        let start = Instant::now();
        queue.due(|_| Other).await;
        assert!(start.elapsed() <= Duration::from_secs(1), "{:?}", start.elapsed());
        assert!(
            start.elapsed() >= Duration::from_millis(70),
            "{:?}",
            start.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_tried_at_once_even_when_the_key_is_failing() {
    let mut queue = queue();
    mark(&mut queue, key("a"), Instant::now(), Other);
    queue.pop().unwrap();
    finish(&mut queue, key("a"), Requeue::Backoff(Backoff::Long), Other);
    assert_eq!(queue.pop(), None);
    mark(&mut queue, key("a"), Instant::now(), Other);
    assert_eq!(names(&mut queue), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_success_resets_the_backoff() {
    let mut queue = queue();
    for expected in [5, 10] {
        mark(&mut queue, key("a"), Instant::now(), Other);
        queue.pop().unwrap();
        finish(&mut queue, key("a"), Requeue::Backoff(Backoff::Long), Other);
        let start = Instant::now();
        queue.due(|_| Other).await;
        assert_eq!(start.elapsed().as_secs(), expected);
    }
    queue.pop().unwrap();
    finish(&mut queue, key("a"), Requeue::WhenDirty, Other);
    mark(&mut queue, key("a"), Instant::now(), Other);
    queue.pop().unwrap();
    finish(&mut queue, key("a"), Requeue::Backoff(Backoff::Long), Other);
    let start = Instant::now();
    queue.due(|_| Other).await;
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn dirty_set_keeps_the_first_time_of_a_key_and_wakes_its_reader() {
    let dirty = DirtySet::default();
    let reader = tokio::spawn({
        let dirty = dirty.clone();
        async move { dirty.take().await }
    });
    tokio::time::sleep(Duration::from_millis(5)).await;
    let first = Instant::now();
    dirty.mark([key("a")]);
    dirty.mark([key("a"), key("b")]);
    let taken = reader.await.unwrap();
    assert_eq!(taken[&key("a")].since, first);
    assert_eq!(taken.len(), 2);
}

/// Rule: survive.ten-at-once
#[tokio::test(start_paused = true)]
async fn slots_are_reserved_for_api_servers_and_flagged_service() {
    let mut queue = queue();
    for number in 0..20 {
        for namespace in ["default", "web"] {
            let other = ServiceKey::new(namespace, format!("other-{number}"));
            mark(&mut queue, other, Instant::now(), Other);
        }
    }
    assert_eq!(names(&mut queue).len(), 7);
    for number in 0..20 {
        mark(&mut queue, key(&number.to_string()), Instant::now(), ApiServers);
    }
    assert_eq!(names(&mut queue), ["0", "1"]);
    mark(&mut queue, key("vip"), Instant::now(), Flagged);
    assert_eq!(names(&mut queue), ["vip"]);
    finish(&mut queue, key("vip"), Requeue::WhenDirty, Flagged);
    assert!(names(&mut queue).is_empty(), "no other key should get its slot");
    finish(&mut queue, key("other-3"), Requeue::WhenDirty, Other);
    assert_eq!(
        names(&mut queue),
        ["2"],
        "Services that copy the API source should come before others"
    );
    finish(&mut queue, key("0"), Requeue::WhenDirty, ApiServers);
    finish(&mut queue, key("1"), Requeue::WhenDirty, ApiServers);
    assert_eq!(names(&mut queue), ["3", "4"]);
}

/// Rule: survive.api-servers-first
#[tokio::test(start_paused = true)]
async fn reserved_slots_do_not_depend_on_earlier_failures() {
    for priority in [Flagged, ApiServers] {
        let mut queue = queue();
        mark(&mut queue, key("vip"), Instant::now(), priority);
        queue.pop().unwrap();
        finish(&mut queue, key("vip"), Requeue::Backoff(Backoff::Short), priority);
        for number in 0..20 {
            let namespace = ["web", "team"][number % 2];
            mark(&mut queue, in_namespace(namespace, number), Instant::now(), Other);
        }
        for key in keys(&mut queue) {
            finish(&mut queue, key, Requeue::Backoff(Backoff::Short), Other);
        }
        names(&mut queue);
        tokio::time::advance(Duration::from_secs(2)).await;
        for _ in 0..8 {
            queue
                .due(|key| if key.name() == "vip" { priority } else { Other })
                .await;
        }
        assert_eq!(names(&mut queue), ["vip"], "{priority:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_keys_leave_slots_for_other_keys() {
    let mut queue = queue();
    for number in 0..5 {
        mark(&mut queue, key(&number.to_string()), Instant::now(), Other);
    }
    for name in names(&mut queue) {
        finish(&mut queue, key(&name), Requeue::Backoff(Backoff::Short), Other);
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    for _ in 0..5 {
        queue.due(|_| Other).await;
    }
    assert_eq!(names(&mut queue).len(), 4, "failed keys in progress");
    for number in 10..20 {
        mark(&mut queue, in_namespace("web", number), Instant::now(), Other);
    }
    assert_eq!(names(&mut queue), ["10", "11", "12"]);
}

/// Rule: 10.fair
#[tokio::test(start_paused = true)]
async fn namespaces_take_turns_however_many_keys_each_has() {
    let mut queue = queue();
    for number in 0..5_000 {
        mark(&mut queue, in_namespace("tenant", number), Instant::now(), Other);
    }
    let (first, _) = queue.pop().unwrap();
    for number in 0..3 {
        mark(&mut queue, in_namespace("web", number), Instant::now(), Other);
        mark(&mut queue, in_namespace("team", number), Instant::now(), Other);
    }
    finish(&mut queue, first, Requeue::WhenDirty, Other);
    let order: Vec<_> = (0..9)
        .map(|_| {
            let (key, _) = queue.pop().unwrap();
            finish(&mut queue, key.clone(), Requeue::WhenDirty, Other);
            key.to_string()
        })
        .collect();
    let expected = [
        "tenant/1", "web/0", "team/0", "tenant/2", "web/1", "team/1", "tenant/3", "web/2", "team/2",
    ];
    assert_eq!(order, expected);
}

/// Rule: 10.fair
#[tokio::test(start_paused = true)]
async fn a_failing_key_gets_a_turn_however_many_others_are_ready() {
    let mut queue = queue();
    mark(&mut queue, in_namespace("web", 0), Instant::now(), Other);
    let (failing, _) = queue.pop().unwrap();
    finish(
        &mut queue,
        failing.clone(),
        Requeue::Backoff(Backoff::Short),
        Other,
    );
    tokio::time::advance(Duration::from_secs(2)).await;
    queue.due(|_| Other).await;
    for number in 0..20 {
        mark(&mut queue, in_namespace("a", number), Instant::now(), Other);
        mark(&mut queue, in_namespace("b", number), Instant::now(), Other);
    }
    for _ in 0..100 {
        let (next, _) = queue.pop().unwrap();
        if next == failing {
            return;
        }
        finish(&mut queue, next.clone(), Requeue::WhenDirty, Other);
        mark(&mut queue, next, Instant::now(), Other);
    }
    panic!("{failing} got no turn");
}

/// Rule: 10.fair
#[tokio::test(start_paused = true)]
async fn failing_keys_take_turns_by_namespace_as_well() {
    let mut queue = queue();
    let tenant = (0..20).map(|number| in_namespace("tenant", number));
    for key in tenant.chain([in_namespace("web", 0)]) {
        mark(&mut queue, key.clone(), Instant::now(), Other);
        assert_eq!(queue.pop().unwrap().0, key);
        finish(&mut queue, key, Requeue::Backoff(Backoff::Short), Other);
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    for _ in 0..21 {
        queue.due(|_| Other).await;
    }
    assert_eq!(names(&mut queue).len(), 4);
    assert!(
        queue
            .states
            .get(&in_namespace("web", 0))
            .is_some_and(|state| matches!(state, KeyState::Active { .. }))
    );
}

/// Rule: 10.fair
#[tokio::test(start_paused = true)]
async fn writes_that_hang_in_one_namespace_leave_a_slot() {
    let mut queue = queue();
    for number in 0..20 {
        mark(&mut queue, in_namespace("tenant", number), Instant::now(), Other);
    }
    assert_eq!(names(&mut queue).len(), 6);
    for number in 20..30 {
        mark(&mut queue, in_namespace("web", number), Instant::now(), Other);
    }
    assert_eq!(names(&mut queue), ["20"]);
    finish(&mut queue, in_namespace("web", 20), Requeue::WhenDirty, Other);
    assert_eq!(names(&mut queue), ["21"], "the tenant got a seventh slot");
    finish(&mut queue, in_namespace("tenant", 0), Requeue::WhenDirty, Other);
    assert_eq!(names(&mut queue), ["6"], "the tenant lost its turn");
}

/// Returns a queue after one edit of each of `keys` keys in the namespace `tenant`.
async fn edited(keys: usize) -> WorkQueue {
    let mut queue = queue();
    edit(&mut queue, (0..keys).map(|number| in_namespace("tenant", number))).await;
    queue
}

/// Marks keys as edited, and returns when the work on each of them begins, in milliseconds.
async fn edit(queue: &mut WorkQueue, keys: impl IntoIterator<Item = ServiceKey>) -> Vec<(ServiceKey, u128)> {
    let start = Instant::now();
    let mut total = 0;
    for key in keys {
        mark_edit(queue, key, start, Other);
        total += 1;
    }
    let mut begun = Vec::new();
    while begun.len() < total {
        while let Some((key, _)) = queue.pop() {
            finish(queue, key.clone(), Requeue::WhenDirty, Other);
            begun.push((key, start.elapsed().as_millis()));
        }
        if begun.len() < total {
            queue.due(|_| Other).await;
        }
    }
    begun
}

/// Rule: 10.edits
#[tokio::test(start_paused = true)]
async fn edits_in_a_namespace_beyond_a_burst_are_50_a_second() {
    let mut queue = queue();
    let tenant = |numbers: std::ops::Range<usize>| numbers.map(|number| in_namespace("tenant", number));
    let begun = edit(&mut queue, tenant(0..1_100)).await;
    assert!(begun[..1_000].iter().all(|(_, after)| *after == 0));
    assert!((20..=22).contains(&begun[1_000].1), "{:?}", begun[1_000]);
    assert!((2_000..=2_010).contains(&begun[1_099].1), "{:?}", begun[1_099]);
    // A second later, 50 more edits can begin immediately. Another namespace has its own budget.
    tokio::time::advance(Duration::from_secs(1)).await;
    let begun = edit(&mut queue, tenant(0..51).chain([in_namespace("web", 0)])).await;
    let at_once = begun.iter().filter(|(_, after)| *after == 0);
    assert_eq!(at_once.count(), 51);
    assert_eq!(begun[51].0.namespace(), "tenant");
}

/// Rule: 10.edits
#[tokio::test(start_paused = true)]
async fn changes_of_a_source_do_not_wait_for_the_budget_of_edits() {
    let mut queue = queue();
    let start = Instant::now();
    let keys = (0..1_010).map(|number| in_namespace("tenant", number));
    edit(&mut queue, keys).await;
    let spent = start.elapsed();
    let key = in_namespace("tenant", 0);
    mark_edit(&mut queue, key.clone(), Instant::now(), Other);
    assert_eq!(queue.pop(), None, "an edit without a budget");
    let edited = start + spent;
    mark(&mut queue, key.clone(), Instant::now(), Other);
    assert_eq!(
        queue.pop(),
        Some((key.clone(), edited)),
        "its age should count from the edit"
    );
    // A change to the source while the key waits or is in progress is exempt too.
    mark_edit(&mut queue, key.clone(), Instant::now(), Other);
    mark(&mut queue, key.clone(), Instant::now(), Other);
    finish(&mut queue, key.clone(), Requeue::WhenDirty, Other);
    assert!(queue.pop().is_some());
    mark_edit(&mut queue, key.clone(), Instant::now(), Other);
    finish(&mut queue, key.clone(), Requeue::WhenDirty, Other);
    assert_eq!(queue.pop(), None, "an edit during the sync should wait");
    queue.due(|_| Other).await;
    assert_eq!(queue.pop().map(|(key, _)| key), Some(key));
}

/// Rule: 10.edits
#[tokio::test(start_paused = true)]
async fn a_key_that_waits_takes_one_edit_however_often_it_is_edited() {
    let mut queue = edited(1_000).await;
    let start = Instant::now();
    for _ in 0..500 {
        mark_edit(&mut queue, in_namespace("tenant", 0), start, Other);
        // The source of this key changes as often.
        mark_edit(&mut queue, in_namespace("tenant", 1), start, Other);
        mark(&mut queue, in_namespace("tenant", 1), start, Other);
        let (key, _) = queue.pop().unwrap();
        finish(&mut queue, key, Requeue::WhenDirty, Other);
    }
    let begun = edit(&mut queue, [in_namespace("tenant", 2)]).await;
    assert_eq!(begun[0].0, in_namespace("tenant", 0));
    assert!(
        start.elapsed() <= Duration::from_millis(50),
        "{:?}",
        start.elapsed()
    );
}

/// Rule: 10.edits
#[tokio::test(start_paused = true)]
async fn a_failed_key_is_retried_in_time_even_without_a_budget() {
    let mut queue = edited(1_400).await;
    let key = in_namespace("tenant", 0);
    mark(&mut queue, key.clone(), Instant::now(), Other);
    queue.pop().unwrap();
    for number in 1..1_400 {
        mark_edit(&mut queue, in_namespace("tenant", number), Instant::now(), Other);
    }
    finish(&mut queue, key.clone(), Requeue::Backoff(Backoff::Short), Other);
    let start = Instant::now();
    mark_edit(&mut queue, key.clone(), start, Other);
    loop {
        match queue.pop() {
            Some((next, _)) if next == key => break,
            Some((next, _)) => finish(&mut queue, next, Requeue::WhenDirty, Other),
            None => queue.due(|_| Other).await,
        }
    }
    assert!(
        start.elapsed() <= Duration::from_millis(200),
        "{:?}",
        start.elapsed()
    );
}

/// Rule: 10.edits, survive.api-servers-first
#[tokio::test(start_paused = true)]
async fn edits_of_services_with_reserved_slots_have_no_budget() {
    for priority in [Flagged, ApiServers] {
        let mut queue = queue();
        for _ in 0..2_000 {
            mark_edit(&mut queue, key("vip"), Instant::now(), priority);
            queue.pop().unwrap();
            finish(&mut queue, key("vip"), Requeue::WhenDirty, priority);
        }
    }
}

/// Rule: survive.memory
#[tokio::test(start_paused = true)]
async fn namespaces_without_keys_take_no_memory() {
    let mut queue = queue();
    for number in 0..100 {
        let namespace = number.to_string();
        mark_edit(
            &mut queue,
            ServiceKey::new(namespace.as_str(), "a"),
            Instant::now(),
            Other,
        );
        let (key, _) = queue.pop().unwrap();
        finish(&mut queue, key, Requeue::WhenDirty, Other);
        tokio::time::advance(EDIT_INTERVAL * 2).await;
    }
    assert!(queue.active_of.is_empty());
    assert_eq!(queue.edits.remembered(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_mark_is_an_edit_only_if_nothing_else_marks_the_key() {
    let dirty = DirtySet::default();
    dirty.mark_edit([key("a"), key("b")], &key("a"));
    let taken = dirty.take().await;
    assert!(taken[&key("a")].is_edit && !taken[&key("b")].is_edit);
    for edit_first in [true, false] {
        if edit_first {
            dirty.mark_edit([key("a")], &key("a"));
        }
        dirty.mark([key("a")]);
        if !edit_first {
            dirty.mark_edit([key("a")], &key("a"));
        }
        assert!(!dirty.take().await[&key("a")].is_edit);
    }
}

/// Rule: survive.memory
#[tokio::test(start_paused = true)]
async fn keys_whose_pace_is_over_take_no_memory() {
    let mut queue = queue();
    let sent = Outcome {
        has_sent: true,
        ..outcome(Requeue::WhenDirty)
    };
    for number in 0..100 {
        mark(&mut queue, key(&number.to_string()), Instant::now(), Other);
        let (key, _) = queue.pop().unwrap();
        queue.finished(key, &sent, Other);
        tokio::time::advance(PACE / 4).await;
    }
    assert_eq!((queue.states.len(), queue.paced.len()), (0, 4));
}

/// A change may carry the time of its cause, which began earlier.
#[tokio::test(start_paused = true)]
async fn a_queued_key_keeps_the_earliest_time_of_its_changes() {
    let start = Instant::now();
    tokio::time::advance(Duration::from_secs(1)).await;
    let mut queue = queue();
    for waits in [false, true] {
        let changed = Instant::now();
        mark(&mut queue, key("a"), changed, Other);
        if waits {
            queue.pop().unwrap();
            finish(&mut queue, key("a"), Requeue::Resume(changed + PACE), Other);
            queue.edits = Budgets::new(0, EDIT_INTERVAL);
            mark_edit(&mut queue, key("a"), start, Other);
            queue.due(|_| Other).await;
        } else {
            mark(&mut queue, key("a"), start, Other);
        }
        assert_eq!(queue.pop(), Some((key("a"), start)), "waits: {waits}");
        finish(&mut queue, key("a"), Requeue::WhenDirty, Other);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_key_keeps_the_time_of_its_change() {
    type Until = fn(Instant) -> Requeue;
    for (again, keeps) in [(Requeue::Resume as Until, true), (Requeue::At as Until, false)] {
        let mut queue = queue();
        let changed = Instant::now();
        mark(&mut queue, key("a"), changed, Other);
        queue.pop().unwrap();
        finish(&mut queue, key("a"), again(changed + PACE), Other);
        queue.due(|_| Other).await;
        assert_eq!(queue.pop().unwrap().1 == changed, keeps);
    }
}

/// Rule: survive.overload-writes
#[tokio::test(start_paused = true)]
async fn overload_pauses_double_to_30_s_until_a_write_succeeds() {
    let mut queue = queue();
    let mut pause = async |retry_after: u64, writes: bool| {
        if writes {
            mark(&mut queue, key("b"), Instant::now(), Other);
            queue.pop().unwrap();
            let outcome = Outcome {
                has_sent: true,
                has_written: true,
                ..outcome(Requeue::WhenDirty)
            };
            queue.finished(key("b"), &outcome, Other);
        }
        mark(&mut queue, key("a"), Instant::now(), Other);
        mark(&mut queue, key("b"), Instant::now(), Other);
        while queue.pop().is_none() {
            queue.due(|_| Other).await;
        }
        let overloaded = Requeue::Overloaded(Duration::from_secs(retry_after));
        finish(&mut queue, key("a"), overloaded, Other);
        finish(&mut queue, key("b"), overloaded, Other);
        let start = Instant::now();
        mark(&mut queue, key("a"), start, Other);
        assert_eq!(queue.pop(), None, "a change should not end the pause");
        while queue.overload.is_pausing() {
            queue.due(|_| Other).await;
        }
        start.elapsed().as_secs()
    };
    for expected in [1, 2, 4, 8, 16, 30, 30] {
        assert_eq!(pause(0, false).await, expected);
    }
    assert_eq!(pause(0, true).await, 1);
    assert_eq!(pause(20, true).await, 20);
    assert_eq!(pause(60, true).await, 60);
}

/// Rule: survive.overload-writes
#[tokio::test(start_paused = true)]
async fn changed_rejected_key_with_reserved_slots_waits_for_its_retry() {
    let mut queue = queue();
    mark(&mut queue, key("a"), Instant::now(), ApiServers);
    for _ in 0..3 {
        let (rejected, _) = queue.pop().unwrap();
        let start = Instant::now();
        finish(
            &mut queue,
            rejected,
            Requeue::Overloaded(Duration::ZERO),
            ApiServers,
        );
        for _ in 0..10 {
            tokio::time::advance(Duration::from_millis(50)).await;
            mark(&mut queue, key("a"), Instant::now(), ApiServers);
            assert_eq!(queue.pop(), None, "after {:?}", start.elapsed());
        }
        while !matches!(queue.states[&key("a")], KeyState::Ready { .. }) {
            queue.due(|_| ApiServers).await;
        }
        assert_eq!(start.elapsed().as_secs(), 1);
    }
}

/// Rule: survive.overload-writes
#[tokio::test(start_paused = true)]
async fn a_rejected_key_that_gets_reserved_slots_waits_for_no_pause() {
    let mut queue = queue();
    mark(&mut queue, key("a"), Instant::now(), Other);
    let (rejected, _) = queue.pop().unwrap();
    let overloaded = Outcome {
        has_sent: true,
        ..outcome(Requeue::Overloaded(Duration::from_secs(60)))
    };
    let start = Instant::now();
    queue.finished(rejected, &overloaded, Other);
    mark(&mut queue, key("a"), start, Flagged);
    while queue.pop().is_none() {
        queue.due(|_| Flagged).await;
    }
    assert_eq!(start.elapsed(), PACE);
}

/// Rule: 10.edits
#[tokio::test(start_paused = true)]
async fn an_edit_does_not_end_the_pause_after_a_sync_with_requests() {
    let mut queue = queue();
    queue.edits = Budgets::new(1, PACE / 4);
    mark(&mut queue, key("a"), Instant::now(), Other);
    let sent = Outcome {
        has_sent: true,
        ..outcome(Requeue::WhenDirty)
    };
    let (synced, _) = queue.pop().unwrap();
    let start = Instant::now();
    queue.finished(synced, &sent, Other);
    for _ in 0..3 {
        mark_edit(&mut queue, key("a"), Instant::now(), Other);
    }
    while queue.pop().is_none() {
        queue.due(|_| Other).await;
    }
    assert!(start.elapsed() >= PACE, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_marks_costs_one_scan_per_100_ms() {
    let dirty = DirtySet::default();
    let mut marks = dirty.marks();
    let marking = async {
        for _ in 0..950 {
            dirty.mark([key("a")]);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let mut scans = 0;
    let scanning = async {
        loop {
            marks.next_scan().await;
            scans += 1;
        }
    };
    tokio::select! {
        () = marking => {}
        () = scanning => {}
    }
    assert_eq!(scans, 10);
}

#[tokio::test(start_paused = true)]
async fn a_canceled_wait_for_a_scan_loses_no_mark() {
    let dirty = DirtySet::default();
    let mut marks = dirty.marks();
    dirty.mark([key("a")]);
    marks.next_scan().await;
    dirty.mark([key("a")]);
    let half = Duration::from_millis(50);
    assert!(tokio::time::timeout(half, marks.next_scan()).await.is_err());
    assert!(tokio::time::timeout(2 * half, marks.next_scan()).await.is_ok());
}
