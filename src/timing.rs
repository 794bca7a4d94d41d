//! The times and limits that depend on each other. A build fails if a change breaks one of the chains below.
//!
//! A time that depends on no other stands where it is used.

use std::time::Duration;

use k8s_openapi::jiff::SignedDuration;

// Connections and calls

/// A connection is pinged this often, also while idle, and is dead when a ping takes longer. Stretched while no server
/// answers.
pub const PING: Duration = Duration::from_secs(1);

/// Time limit of a dial, including TLS. Stretched while no server answers.
pub const DIAL_LIMIT: Duration = Duration::from_millis(1500);

/// An API server reads one object within milliseconds. Silence for this long counts against it, whatever the
/// reason to give up. Stretched while no server answers.
pub const READ_SILENCE: Duration = Duration::from_millis(600);

/// The same for a list or a watch: a list may take seconds, and a watch begins with one.
pub const LIST_SILENCE: Duration = Duration::from_secs(4);

/// Time limit until the answer to a GET of one object begins, and again until it is complete. The server has
/// no webhook to wait for, and the caller may delay others. Stretched while no server answers.
pub const READ_LIMIT: Duration = Duration::from_secs(5);

/// Time limit until any other answer begins. A watch answers at once and then continues. A write may wait for
/// a webhook.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(13);

/// The rest of an answer has arrived by then: a page of 500 large objects on a slow line.
pub const BODY_LIMIT: Duration = Duration::from_secs(20);

/// No limit is stretched beyond this.
pub const STRETCHED_LIMIT: Duration = Duration::from_secs(10);

/// The largest factor by which limits are stretched.
pub const LARGEST_STRETCH: u32 = 16;

/// How long an API server waits for a webhook by default.
const WEBHOOK: Duration = Duration::from_secs(10);

/// A write of a copy that has no answer by then has failed. A webhook that is unavailable takes all of its time, also
/// where its failure is ignored: who gives up before is never answered.
pub const WRITE_LIMIT: Duration = Duration::from_secs(12);

/// Time limit of one attempt to write an Event.
pub const EVENT_LIMIT: Duration = Duration::from_secs(2);

/// Time limit of the whole removal of an `Endpoints` object.
pub const REMOVAL_LIMIT: Duration = Duration::from_secs(5);

/// The longest pause that an API server is granted.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How long an address is skipped after it failed, doubling from one failure to the next.
pub const EJECTION: Duration = Duration::from_secs(10);
/// The longest time for which an address is skipped.
pub const LONGEST_EJECTION: Duration = Duration::from_secs(160);

/// How long one is skipped at least whose watches are behind: to all other requests it looks well.
pub const BEHIND_EJECTION: Duration = Duration::from_secs(60);

const _: () = {
    // An answer within READ_SILENCE shrinks all stretched limits, so such a server must also meet those of pings and
    // dials. A dial takes two round trips.
    assert!(shorter(READ_SILENCE, PING) && shorter(times(READ_SILENCE, 2), DIAL_LIMIT));
    // A call that is given up counts against a silent server.
    assert!(shorter(READ_SILENCE, READ_LIMIT) && shorter(READ_SILENCE, EVENT_LIMIT));
    // The shortest limit is stretched by each factor.
    assert!(shorter(times(READ_SILENCE, LARGEST_STRETCH), STRETCHED_LIMIT));
    assert!(shorter(READ_LIMIT, STRETCHED_LIMIT));
    assert!(shorter(LIST_SILENCE, CHECK_LIMIT) && shorter(CHECK_LIMIT, ANSWER_LIMIT));
    assert!(shorter(WEBHOOK, WRITE_LIMIT) && shorter(WRITE_LIMIT, ANSWER_LIMIT));
    assert!(shorter(DIAL_LIMIT, EJECTION) && shorter(EJECTION, LONGEST_EJECTION));
    // The next check must not find the same server.
    assert!(shorter(CHECK_PERIOD, BEHIND_EJECTION));
};

// Election

/// How long a Lease holds after its last renewal, by default.
pub const LEASE_DURATION: Duration = Duration::from_secs(6);

/// How long after the last successful renewal the leader may write, by default.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(4);

/// The pause after a failed attempt, by default.
pub const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// A candidate honours the duration that a Lease states up to this: an absurd one must not lock everybody out, and a
/// longer one of ours would let a successor begin while we believe to hold it.
pub const LONGEST_LEASE: Duration = Duration::from_secs(60);

/// The longest pause of a candidate between two attempts that failed: a lead within a second of the API's return.
pub const LONGEST_RACE_PAUSE: Duration = Duration::from_millis(500);

/// A renewal that is unanswered for this time, or for a sixth of the lease duration if that is shorter, is
/// repeated in parallel. Later repetitions follow after half of what is left until the deadline, but not faster than four
/// times as fast.
pub const REPEAT_RENEWAL: Duration = Duration::from_secs(1);

/// Our own renewals are on the watch of the Lease by then, or the watch is behind.
pub const OWN_RENEWAL: Duration = Duration::from_secs(5);

/// A replica with empty or stale caches leaves the Lease to the others, unless no replica has led for this
/// time.
pub const LEADERLESS: Duration = Duration::from_secs(10);

/// A leader whose lists or watches fail for this time releases the Lease: another replica may see more.
pub const BLIND: Duration = Duration::from_secs(30);

/// How long a leader stays out of the race after it has released the Lease because it sees too little.
pub const ASIDE: Duration = Duration::from_secs(30);

/// How long a loop that has work may go without a step, beyond the lease duration. Every call has a shorter time
/// limit, and a call that fails is a step: an API that is unavailable never makes a loop look stuck.
pub const GRACE: Duration = Duration::from_secs(20);

const _: () = {
    assert!(shorter(RENEW_DEADLINE, LEASE_DURATION) && shorter(LEASE_DURATION, LONGEST_LEASE));
    // As the flags require.
    assert!(shorter(times(RETRY_PERIOD, 6), times(RENEW_DEADLINE, 5)));
    assert!(shorter(times(REPEAT_RENEWAL, 2), RENEW_DEADLINE));
    // A dead connection is replaced in time.
    assert!(shorter(plus(times(PING, 2), DIAL_LIMIT), RENEW_DEADLINE));
    assert!(shorter(LONGEST_RACE_PAUSE, RETRY_PERIOD));
    // The pause between two renewals.
    assert!(shorter(times(RETRY_PERIOD, 2), OWN_RENEWAL));
    assert!(shorter(LEASE_DURATION, LEADERLESS));
    // Others take the Lease before it returns, also with stale caches.
    assert!(shorter(LEADERLESS, ASIDE));
    // If no other replica sees more, any leader is better than none: such a release comes at most once a minute.
    assert!(!shorter(plus(ASIDE, BLIND), Duration::from_secs(60)));
    assert!(shorter(WRITE_LIMIT, GRACE) && shorter(REMOVAL_LIMIT, GRACE) && shorter(RENEW_DEADLINE, GRACE));
    // A GET of one object: its head, then its body.
    assert!(!shorter(GRACE, times(STRETCHED_LIMIT, 2)));
};

// Probes

/// Time between the beginnings of two attempts at one address and port while they succeed, by default.
pub const PROBE_PERIOD: Duration = Duration::from_secs(1);

/// The longest period: an address counts as answering for 3 s.
pub const LONGEST_PROBE_PERIOD: Duration = Duration::from_secs(2);

/// Time limit of an attempt, by default.
pub const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// The longest time limit of an attempt.
pub const LONGEST_PROBE_LIMIT: Duration = Duration::from_secs(2);

/// An attempt that is unanswered for this time is followed by the next one beside it, on a connection of its own. An
/// attempt that was answered with a failure is followed after the same time.
pub const PROBE_BESIDE: Duration = Duration::from_millis(500);

/// The pause after a connection failed: that costs the server nothing.
pub const PROBE_CONNECT_PAUSE: Duration = Duration::from_millis(200);

/// A timeout whose timer fires later than this says that this process stood still, and nothing about a server.
pub const PROBE_LATE: Duration = Duration::from_millis(100);

/// An address has answered recently if it did so in this time.
const PROBE_RECENT: Duration = Duration::from_secs(3);

const _: () = {
    assert!(!shorter(LONGEST_PROBE_PERIOD, PROBE_PERIOD) && !shorter(LONGEST_PROBE_LIMIT, PROBE_LIMIT));
    assert!(shorter(LONGEST_PROBE_PERIOD, PROBE_RECENT));
    // A healthy server is never asked beside an attempt that waits for its turn.
    assert!(shorter(PROBE_CONNECT_PAUSE, PROBE_BESIDE) && shorter(PROBE_BESIDE, PROBE_PERIOD));
    assert!(shorter(PROBE_LATE, PROBE_BESIDE));
};

// Shutdown

/// How long keys that are worked on may take to end when this replica is asked to stop.
pub const DRAIN: Duration = Duration::from_secs(1);

/// How long a release waits for writes in flight. Without their end there is no release: the
/// successor then waits for the lease duration, and no two write at once.
pub const WRITES_SETTLE: Duration = Duration::from_secs(1);

/// Time limit of the release itself: a write at an API server that takes 1.5 s per request.
pub const RELEASE: Duration = Duration::from_secs(2);

/// The election, with its writes and its release, has ended by then.
pub const STOP_ELECTION: Duration = Duration::from_millis(3050);

/// Answers to probes have ended by then.
pub const STOP_HTTP: Duration = Duration::from_millis(250);

/// The chart's `terminationGracePeriodSeconds`: the process is killed then.
const KILLED: Duration = Duration::from_secs(10);

const _: () = {
    assert!(!shorter(WRITES_SETTLE, DRAIN));
    assert!(shorter(plus(WRITES_SETTLE, RELEASE), STOP_ELECTION));
    assert!(shorter(plus(STOP_ELECTION, STOP_HTTP), KILLED));
};

// Watches

/// The server ends a watch after this many seconds, and a new one shows that it is alive.
pub const RENEW_WATCH_SECONDS: u32 = 25;

/// A watch that the server has not ended by then is ended here: it may be silent because it is dead.
pub const LONGEST_WATCH: Duration = Duration::from_secs(30);

/// How long after its last sign of life a watch counts as dead, and its replica as not ready.
pub const WATCH_LIFE: Duration = Duration::from_secs(90);

/// The pause after a watch failed for the first time, doubling.
pub const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// With jitter, 650 ms: a copy is right within a second of the return of the API server, the attempt included.
pub const LONGEST_WATCH_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause of a watch for an overloaded API server, unless it asks for more.
pub const LONGEST_OVERLOAD_PAUSE: Duration = Duration::from_secs(30);

/// A term begins with watches that are answered, or so much later: one that wins it when the API is back after an outage has
/// a view from before. Longer than the first pauses of a watch, and short beside a takeover.
pub const VIEW_SETTLE: Duration = Duration::from_secs(1);

/// A watch that continues after a break has caught up by then.
pub const CAUGHT_UP: Duration = Duration::from_millis(50);

/// How long a write may take to show in the watch before a GET is made.
pub const EXPECTATION: Duration = Duration::from_secs(1);

/// Time between the beginnings of two checks of the sources against consistent lists.
pub const CHECK_PERIOD: Duration = Duration::from_secs(10);

/// Time limit of one list of such a check.
pub const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// A watch has caught up with such a list by then.
pub const CATCH_UP: Duration = Duration::from_secs(1);

const _: () = {
    assert!(shorter(
        times(Duration::from_secs(1), RENEW_WATCH_SECONDS),
        LONGEST_WATCH
    ));
    assert!(shorter(LONGEST_WATCH, WATCH_LIFE));
    // Jitter makes a pause up to 1.3 times as long.
    assert!(shorter(times(LONGEST_OVERLOAD_PAUSE, 13), times(WATCH_LIFE, 10)));
    assert!(shorter(plus(LONGEST_RETRY_AFTER, ANSWER_LIMIT), WATCH_LIFE));
    assert!(shorter(WATCH_PAUSE, LONGEST_WATCH_PAUSE));
    assert!(shorter(times(LONGEST_WATCH_PAUSE, 13), times(VIEW_SETTLE, 10)));
    assert!(shorter(VIEW_SETTLE, LEASE_DURATION));
    assert!(shorter(CAUGHT_UP, EXPECTATION) && shorter(EXPECTATION, CHECK_PERIOD));
    assert!(shorter(plus(CHECK_LIMIT, CATCH_UP), CHECK_PERIOD));
};

// Events

/// A finding that lasts is reported again after this time. API servers forget Events after an hour.
pub const REPEAT_EVENT: Duration = Duration::from_secs(30 * 60);

/// An Event that is older than this is about a finding that has ended.
pub const EVENT_LASTS: SignedDuration = SignedDuration::from_mins(35);

const _: () = {
    assert!(shorter(REPEAT_EVENT, EVENT_LASTS.unsigned_abs()));
};

const fn shorter(a: Duration, b: Duration) -> bool {
    a.as_nanos() < b.as_nanos()
}

const fn plus(a: Duration, b: Duration) -> Duration {
    a.saturating_add(b)
}

const fn times(a: Duration, n: u32) -> Duration {
    a.saturating_mul(n)
}
