//! Times and limits that depend on each other. The build fails if a change breaks one of the assertions below.
//!
//! Times that do not depend on others are defined where they are used.

use std::time::Duration;

use endpoint_copier_core::verdicts::RECENT;

use k8s_openapi::jiff::SignedDuration;

// Connections and calls

/// How often a connection is pinged, even while it is idle. If a ping takes longer than this, the connection counts as
/// dead. This limit is stretched while no server answers.
pub const PING: Duration = Duration::from_secs(1);

/// The time limit of a dial, including TLS. It is stretched while no server answers.
pub const DIAL_LIMIT: Duration = Duration::from_millis(1500);

/// If an API server has been silent for this long when a call is abandoned, for whatever reason, the call counts
/// against the server. This applies to all calls except lists, watches and repeated renewals: a server reads one object
/// within milliseconds. A write counts only under further conditions, because it may wait for a webhook. The limit is
/// stretched while no server answers.
pub const READ_SILENCE: Duration = Duration::from_millis(600);

/// Like [`READ_SILENCE`], but for lists and watches. A list can take seconds. For a watch, only the wait for the start
/// of the response counts. This limit is also stretched.
pub const LIST_SILENCE: Duration = Duration::from_secs(4);

/// The time limit for the start of the response to a GET of one object, and again for the rest of the response. A GET
/// does not wait for webhooks, but other work may wait for the GET. Both limits are stretched while no server answers.
pub const READ_LIMIT: Duration = Duration::from_secs(5);

/// The time limit for the start of the response to any call except a GET of one object. The response to a watch starts
/// immediately and then continues. A write may wait for a webhook.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(13);

/// The time limit for the rest of the response to any call except a watch or a GET of one object, such as a page of
/// large objects on a slow network.
pub const BODY_LIMIT: Duration = Duration::from_secs(20);

/// The upper bound of all stretched limits.
pub const STRETCHED_LIMIT: Duration = Duration::from_secs(10);

/// The largest factor by which limits are stretched.
pub const LARGEST_STRETCH: u32 = 16;

/// How long an API server waits for a webhook by default.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// The time limit of a write of a copy. An unavailable webhook uses its whole timeout even if its failure is ignored,
/// so a client that times out earlier never gets a response.
pub const WRITE_LIMIT: Duration = Duration::from_secs(12);

/// The time limit of one attempt to write an Event or a condition.
pub const EVENT_LIMIT: Duration = Duration::from_secs(2);

/// The time limit of the whole removal of an `Endpoints` object.
pub const REMOVAL_LIMIT: Duration = Duration::from_secs(5);

/// The upper bound of the pause that an API server requests with `Retry-After`.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How long an address is ejected after a failure: during this time, it is tried after all others. If the address fails
/// again soon afterward, its next ejection lasts twice as long, up to [`MAX_EJECTION`].
pub const EJECTION: Duration = Duration::from_secs(10);

/// The longest ejection of an address that keeps failing.
pub const MAX_EJECTION: Duration = Duration::from_secs(160);

/// The shortest ejection of an address whose watches are behind. It is this long because other requests to such an
/// address succeed.
pub const BEHIND_EJECTION: Duration = Duration::from_secs(60);

const _: () = {
    // After a response within READ_SILENCE, no limit is stretched, so a server that responds this quickly must also
    // meet the unstretched limits of pings and dials. A dial takes two round trips.
    assert!(shorter(READ_SILENCE, PING) && shorter(times(READ_SILENCE, 2), DIAL_LIMIT));
    // A call that is abandoned at its time limit counts against a silent server.
    assert!(shorter(READ_SILENCE, READ_LIMIT) && shorter(READ_SILENCE, EVENT_LIMIT));
    // Even the largest factor does not raise the shortest limit above the upper bound.
    assert!(shorter(times(READ_SILENCE, LARGEST_STRETCH), STRETCHED_LIMIT));
    assert!(shorter(READ_LIMIT, STRETCHED_LIMIT));
    assert!(shorter(LIST_SILENCE, CHECK_LIMIT) && shorter(CHECK_LIMIT, ANSWER_LIMIT));
    assert!(shorter(WEBHOOK_TIMEOUT, WRITE_LIMIT) && shorter(WRITE_LIMIT, ANSWER_LIMIT));
    assert!(shorter(DIAL_LIMIT, EJECTION) && shorter(EJECTION, MAX_EJECTION));
    // After a check of the sources has found that a server's watches are behind, the next check uses another server, if
    // there is one.
    assert!(shorter(CHECK_PERIOD, BEHIND_EJECTION));
};

// Election

/// How long, by default, a Lease is valid after its last renewal. The default of the flag (`src/cli/flags.rs`) is the
/// same. A leader renews every 2 s
/// (`ElectionConfig::renew_interval`), so it may miss one renewal before [`RENEW_DEADLINE`]. Another replica takes over
/// 2 s after that deadline, so that a write sent before the deadline has time to arrive. A longer duration would only
/// slow down a failover.
pub const LEASE_DURATION: Duration = Duration::from_secs(6);

/// How long, by default, the leader may write after it sent its last successful renewal.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(4);

/// The default time from the start of a failed renewal to the next attempt.
pub const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// The longest lease duration that a candidate honors, so that an absurd duration does not lock out every replica. Our
/// own duration must not be longer, or a successor could start while this replica still believes that it holds the
/// Lease.
pub const MAX_LEASE_DURATION: Duration = Duration::from_secs(60);

/// The longest pause of a candidate after a failed attempt. With jitter, it is up to 650 ms, so a replica can lead
/// within a second of the API becoming available again.
pub const MAX_RACE_PAUSE: Duration = Duration::from_millis(500);

/// The pause before an unanswered renewal is repeated in parallel, or a sixth of the lease duration if that is shorter.
/// Each later pause is half the remaining time until the deadline, but at least a quarter of the first pause and at
/// most as long as the first pause.
pub const REPEAT_RENEWAL: Duration = Duration::from_secs(1);

/// The time within which our own renewals must appear on the watch of the Lease. If they do not, the watch is behind.
pub const OWN_RENEWAL: Duration = Duration::from_secs(5);

/// How long the Lease must be unchanged before a replica with empty or stale caches also competes for it. Until then,
/// such a replica leaves the Lease to the others.
pub const LEADERLESS: Duration = Duration::from_secs(10);

/// The minimum time that a replica with empty or stale caches waits after the Lease of a dead holder expires, even if
/// the lease duration is longer than [`LEADERLESS`].
pub const LEADERLESS_AFTER_EXPIRY: Duration = Duration::from_secs(4);

/// How long the lists or watches of a leader may fail before it releases the Lease, because another replica may see
/// more.
pub const BLIND: Duration = Duration::from_secs(30);

/// How long a replica stays out of the election after it has released the Lease because its lists or watches failed.
pub const ASIDE: Duration = Duration::from_secs(30);

/// A loop that has work counts as stuck if it makes no progress for this time plus the lease duration. No call of such
/// a loop takes longer than that, and a failed call is progress, so an unavailable API does not make a loop look stuck.
pub const GRACE: Duration = Duration::from_secs(20);

const _: () = {
    assert!(shorter(RENEW_DEADLINE, LEASE_DURATION) && shorter(LEASE_DURATION, MAX_LEASE_DURATION));
    // The flags also require this.
    assert!(shorter(times(RETRY_PERIOD, 6), times(RENEW_DEADLINE, 5)));
    assert!(shorter(times(REPEAT_RENEWAL, 2), RENEW_DEADLINE));
    // A dead connection is replaced in time.
    assert!(shorter(plus(times(PING, 2), DIAL_LIMIT), RENEW_DEADLINE));
    assert!(shorter(MAX_RACE_PAUSE, RETRY_PERIOD));
    // The time between two renewals is at most two retry periods.
    assert!(shorter(times(RETRY_PERIOD, 2), OWN_RENEWAL));
    assert!(!shorter(
        LEADERLESS,
        plus(LEASE_DURATION, LEADERLESS_AFTER_EXPIRY)
    ));
    // Other replicas, even those with stale caches, take the Lease before this one competes again.
    assert!(shorter(LEADERLESS, ASIDE));
    // If no other replica sees more, a leader whose watches fail is better than none, so a replica releases the Lease
    // for this reason at most once a minute.
    assert!(!shorter(plus(ASIDE, BLIND), Duration::from_secs(60)));
    assert!(shorter(WRITE_LIMIT, GRACE) && shorter(REMOVAL_LIMIT, GRACE) && shorter(RENEW_DEADLINE, GRACE));
    // A GET of one object can take as long as two stretched limits: one for the head of the response, and one for the
    // body.
    assert!(!shorter(GRACE, times(STRETCHED_LIMIT, 2)));
};

// Probes

/// The default time from the start of one attempt at an address and port to the start of the next while attempts
/// succeed.
pub const PROBE_PERIOD: Duration = Duration::from_secs(1);

/// The longest period of probes. It must be shorter than the 3 s for which an answer counts.
pub const MAX_PROBE_PERIOD: Duration = Duration::from_secs(2);

/// The default time limit of an attempt.
pub const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// The longest time limit of an attempt.
pub const MAX_PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The time after which the next attempt starts in parallel with an unanswered one, on its own connection.
pub const PROBE_OVERLAP: Duration = Duration::from_millis(500);

/// The pause after an attempt that failed on an established connection, for example with 5xx, or because of an invalid
/// certificate. ADR 0014
/// says why it is not longer. Once the server is down, the probe period applies instead of all these pauses.
pub const PROBE_RESPONSE_PAUSE: Duration = Duration::from_millis(300);

/// The pause after any other failed attempt to connect. Such an attempt costs the server little.
pub const PROBE_CONNECT_PAUSE: Duration = Duration::from_millis(200);

/// If a timer is late by more than this, its timeout does not count: this process was probably paused.
pub const PROBE_LATE: Duration = Duration::from_millis(100);

const _: () = {
    assert!(!shorter(MAX_PROBE_PERIOD, PROBE_PERIOD) && !shorter(MAX_PROBE_LIMIT, PROBE_LIMIT));
    assert!(shorter(MAX_PROBE_PERIOD, RECENT));
    // The pause after a failed attempt to connect is the shortest one, and a parallel attempt starts before the next
    // regular one would.
    assert!(shorter(PROBE_CONNECT_PAUSE, PROBE_RESPONSE_PAUSE));
    assert!(shorter(PROBE_RESPONSE_PAUSE, PROBE_OVERLAP) && shorter(PROBE_OVERLAP, PROBE_PERIOD));
    assert!(shorter(PROBE_LATE, PROBE_OVERLAP));
};

// Shutdown

/// How long running syncs may continue after a term has ended, unless the Lease was lost.
pub const DRAIN: Duration = Duration::from_secs(1);

/// How long a release waits for writes in flight. If they do not end in time, the Lease is not released: the successor
/// then waits for the lease duration, so two replicas never write at the same time.
pub const WRITES_SETTLE: Duration = Duration::from_secs(1);

/// How long a release waits for a renewal in flight. It is enough for an API server that takes 1.5 s per request. If no
/// response arrives in time, the release begins with a GET.
pub const RENEWAL_SETTLES: Duration = Duration::from_millis(1500);

/// The time limit of the release, in addition to [`WRITES_SETTLE`]. Together, they are enough for the rest of a renewal
/// and for one write on an API server that takes 1.5 s per request.
pub const RELEASE: Duration = Duration::from_secs(2);

/// The time limit for stopping the election and the workers, including writes in flight and the release of the Lease.
pub const STOP_ELECTION: Duration = Duration::from_millis(3050);

/// The time limit for finishing HTTP responses.
pub const STOP_HTTP: Duration = Duration::from_millis(250);

/// The chart's default for `terminationGracePeriodSeconds`, after which the process is killed.
const KILL_DELAY: Duration = Duration::from_secs(10);

const _: () = {
    assert!(!shorter(WRITES_SETTLE, DRAIN));
    assert!(!shorter(plus(WRITES_SETTLE, RELEASE), times(RENEWAL_SETTLES, 2)));
    assert!(shorter(plus(WRITES_SETTLE, RELEASE), STOP_ELECTION));
    assert!(shorter(plus(STOP_ELECTION, STOP_HTTP), KILL_DELAY));
};

// Watches

/// The number of seconds after which the server ends a watch. The next watch shows that the server is alive.
pub const RENEW_WATCH_SECONDS: u32 = 25;

/// The time after which the client ends a watch that the server has not ended. A silent watch may be dead.
pub const MAX_WATCH: Duration = Duration::from_secs(30);

/// How long a watch may be silent before its view counts as stale. Unless the watch is optional, its replica then
/// counts as not ready.
pub const WATCH_LIFE: Duration = Duration::from_secs(90);

/// The pause after the first failure of a watch. It doubles with each failure.
pub const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause after a failure of a watch. With jitter, it is up to 650 ms. This leaves time for the next
/// attempt, so that copies can be correct within a second of the API server becoming available again.
pub const MAX_WATCH_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause of a watch while the API server is overloaded, unless the server requests a longer one.
pub const MAX_OVERLOAD_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause before the next list of a watch that repeatedly fails right after its list.
pub const MAX_RELIST_PAUSE: Duration = Duration::from_secs(30);

/// The maximum time that a new term waits for its watches to become current. A replica that wins its term just after an
/// outage still has the view from before the outage. This time is longer than the first pauses of a watch, and short
/// compared with a takeover.
pub const VIEW_SETTLE: Duration = Duration::from_secs(1);

/// The time within which a watch that continues after an interruption should catch up.
pub const CAUGHT_UP: Duration = Duration::from_millis(50);

/// The time within which the watch should show a write. After that, a GET decides.
pub const EXPECTATION: Duration = Duration::from_secs(1);

/// The time from the start of one comparison of the sources with consistent lists to the start of the next.
pub const CHECK_PERIOD: Duration = Duration::from_secs(10);

/// The time limit of one consistent list, for such a comparison or for a sync.
pub const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// The time within which a watch should catch up with the consistent list with which it is compared.
pub const CATCH_UP: Duration = Duration::from_secs(1);

const _: () = {
    assert!(shorter(
        times(Duration::from_secs(1), RENEW_WATCH_SECONDS),
        MAX_WATCH
    ));
    assert!(shorter(MAX_WATCH, WATCH_LIFE));
    // Jitter makes a pause up to 1.3 times as long.
    assert!(shorter(times(MAX_OVERLOAD_PAUSE, 13), times(WATCH_LIFE, 10)));
    assert!(shorter(times(MAX_RELIST_PAUSE, 13), times(WATCH_LIFE, 10)));
    assert!(shorter(plus(MAX_RETRY_AFTER, ANSWER_LIMIT), WATCH_LIFE));
    assert!(shorter(WATCH_PAUSE, MAX_WATCH_PAUSE));
    assert!(shorter(times(MAX_WATCH_PAUSE, 13), times(VIEW_SETTLE, 10)));
    assert!(shorter(VIEW_SETTLE, LEASE_DURATION));
    assert!(shorter(CAUGHT_UP, EXPECTATION) && shorter(EXPECTATION, CHECK_PERIOD));
    assert!(shorter(plus(CHECK_LIMIT, CATCH_UP), CHECK_PERIOD));
};

// Events

/// How often a persistent finding is reported again. By default, API servers delete Events after an hour.
pub const REPEAT_EVENT: Duration = Duration::from_secs(30 * 60);

/// An Event that is older than this is considered to be about a finding that has ended.
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
