use super::*;
use endpoint_copier_core::model::Priority::{ApiServers, Flagged, Other};
use endpoint_copier_core::model::SyncResult;

fn queue() -> WorkQueue {
    WorkQueue::new(Metrics::new("lease").unwrap())
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn outcome(requeue: Requeue) -> Outcome {
    Outcome::new(SyncResult::Success, requeue)
}

/// Ends the sync of a key that sent no request.
fn finish(queue: &mut WorkQueue, key: ServiceKey, requeue: Requeue, priority: Priority) {
    queue.finished(key, &outcome(requeue), priority);
}

fn names(queue: &mut WorkQueue) -> Vec<String> {
    std::iter::from_fn(|| queue.pop())
        .map(|(key, _)| key.name().to_owned())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_key_marked_twice_is_worked_on_once() {
    let mut queue = queue();
    queue.mark(key("a"), Instant::now(), Other);
    queue.mark(key("a"), Instant::now(), Other);
    assert_eq!(names(&mut queue), ["a"]);
}

/// Rule: survive.api-servers-first
#[tokio::test(start_paused = true)]
async fn the_flagged_service_goes_first_and_then_the_api_servers() {
    let mut queue = queue();
    queue.mark(key("a"), Instant::now(), Other);
    queue.mark(key("b"), Instant::now(), ApiServers);
    queue.mark(key("vip"), Instant::now(), Flagged);
    assert_eq!(names(&mut queue), ["vip", "b", "a"]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_changes_during_its_sync_is_queued_again() {
    let mut queue = queue();
    queue.mark(key("a"), Instant::now(), Other);
    queue.pop().unwrap();
    let changed = Instant::now();
    queue.mark(key("a"), changed, Other);
    assert_eq!(queue.pop(), None);
    finish(&mut queue, key("a"), Requeue::WhenDirty, Other);
    assert_eq!(queue.pop(), Some((key("a"), changed)));
}

#[tokio::test(start_paused = true)]
async fn after_a_request_the_next_sync_of_that_key_keeps_its_distance() {
    for has_written in [false, true] {
        let mut queue = queue();
        let start = Instant::now();
        queue.mark(key("a"), start, Other);
        queue.pop().unwrap();
        let outcome = Outcome {
            has_sent: true,
            has_written,
            ..outcome(Requeue::WhenDirty)
        };
        queue.finished(key("a"), &outcome, Other);
        queue.mark(key("a"), Instant::now(), Other);
        queue.mark(key("b"), Instant::now(), Other);
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
async fn a_failing_key_waits_longer_each_time_and_never_gives_up() {
    let mut queue = queue();
    queue.mark(key("a"), Instant::now(), Other);
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
    queue.mark(key("a"), Instant::now(), Other);
    for _ in 0..50 {
        queue.pop().unwrap();
        finish(&mut queue, key("a"), Requeue::Backoff(Backoff::Short), Other);
        let start = Instant::now();
        queue.due(|_| Other).await;
        assert!(
            start.elapsed() <= Duration::from_millis(1310),
            "{:?}",
            start.elapsed()
        );
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
    queue.mark(key("a"), Instant::now(), Other);
    queue.pop().unwrap();
    finish(&mut queue, key("a"), Requeue::Backoff(Backoff::Long), Other);
    assert_eq!(queue.pop(), None);
    queue.mark(key("a"), Instant::now(), Other);
    assert_eq!(names(&mut queue), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn success_forgets_the_failures() {
    let mut queue = queue();
    for expected in [5, 10] {
        queue.mark(key("a"), Instant::now(), Other);
        queue.pop().unwrap();
        finish(&mut queue, key("a"), Requeue::Backoff(Backoff::Long), Other);
        let start = Instant::now();
        queue.due(|_| Other).await;
        assert_eq!(start.elapsed().as_secs(), expected);
    }
    queue.pop().unwrap();
    finish(&mut queue, key("a"), Requeue::WhenDirty, Other);
    queue.mark(key("a"), Instant::now(), Other);
    queue.pop().unwrap();
    finish(&mut queue, key("a"), Requeue::Backoff(Backoff::Long), Other);
    let start = Instant::now();
    queue.due(|_| Other).await;
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_dirty_set_keeps_a_keys_first_time_and_wakes_its_reader() {
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
    assert_eq!(taken[&key("a")], first);
    assert_eq!(taken.len(), 2);
}

/// Rule: survive.ten-at-once
#[tokio::test(start_paused = true)]
async fn workers_are_reserved_for_api_servers_and_flagged_service() {
    let mut queue = queue();
    for number in 0..20 {
        queue.mark(key(&format!("other-{number}")), Instant::now(), Other);
    }
    assert_eq!(names(&mut queue).len(), 7);
    for number in 0..20 {
        queue.mark(key(&number.to_string()), Instant::now(), ApiServers);
    }
    assert_eq!(names(&mut queue), ["0", "1"]);
    queue.mark(key("vip"), Instant::now(), Flagged);
    assert_eq!(names(&mut queue), ["vip"]);
    finish(&mut queue, key("vip"), Requeue::WhenDirty, Flagged);
    assert!(names(&mut queue).is_empty(), "no other key gets its slot");
    finish(&mut queue, key("other-3"), Requeue::WhenDirty, Other);
    assert_eq!(names(&mut queue), ["2"], "the API servers go before others");
    finish(&mut queue, key("0"), Requeue::WhenDirty, ApiServers);
    finish(&mut queue, key("1"), Requeue::WhenDirty, ApiServers);
    assert_eq!(names(&mut queue), ["3", "4"]);
}

/// Rule: survive.api-servers-first
#[tokio::test(start_paused = true)]
async fn reserved_workers_do_not_depend_on_earlier_failures() {
    for priority in [Flagged, ApiServers] {
        let mut queue = queue();
        queue.mark(key("vip"), Instant::now(), priority);
        queue.pop().unwrap();
        finish(&mut queue, key("vip"), Requeue::Backoff(Backoff::Short), priority);
        for number in 0..20 {
            queue.mark(key(&number.to_string()), Instant::now(), Other);
        }
        for name in names(&mut queue) {
            finish(&mut queue, key(&name), Requeue::Backoff(Backoff::Short), Other);
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
async fn failed_keys_leave_workers_for_other_keys() {
    let mut queue = queue();
    for number in 0..7 {
        queue.mark(key(&number.to_string()), Instant::now(), Other);
    }
    for name in names(&mut queue) {
        finish(&mut queue, key(&name), Requeue::Backoff(Backoff::Short), Other);
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    for _ in 0..7 {
        queue.due(|_| Other).await;
    }
    assert_eq!(names(&mut queue).len(), 4, "of those that failed");
    for number in 10..20 {
        queue.mark(key(&number.to_string()), Instant::now(), Other);
    }
    assert_eq!(names(&mut queue), ["10", "11", "12"]);
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
        queue.mark(key(&number.to_string()), Instant::now(), Other);
        let (key, _) = queue.pop().unwrap();
        queue.finished(key, &sent, Other);
        tokio::time::advance(PACE / 4).await;
    }
    assert_eq!((queue.states.len(), queue.paced.len()), (0, 4));
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_key_keeps_the_time_of_its_change() {
    type Until = fn(Instant) -> Requeue;
    for (again, keeps) in [(Requeue::Resume as Until, true), (Requeue::At as Until, false)] {
        let mut queue = queue();
        let changed = Instant::now();
        queue.mark(key("a"), changed, Other);
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
            queue.mark(key("b"), Instant::now(), Other);
            queue.pop().unwrap();
            let outcome = Outcome {
                has_sent: true,
                has_written: true,
                ..outcome(Requeue::WhenDirty)
            };
            queue.finished(key("b"), &outcome, Other);
        }
        queue.mark(key("a"), Instant::now(), Other);
        queue.mark(key("b"), Instant::now(), Other);
        while queue.pop().is_none() {
            queue.due(|_| Other).await;
        }
        let overloaded = Requeue::Overloaded(Duration::from_secs(retry_after));
        finish(&mut queue, key("a"), overloaded, Other);
        finish(&mut queue, key("b"), overloaded, Other);
        let start = Instant::now();
        queue.mark(key("a"), start, Other);
        assert_eq!(queue.pop(), None, "a change does not end the pause");
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
