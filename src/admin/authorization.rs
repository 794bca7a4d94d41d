//! Decides who may read `/metrics`: an API server reviews the token and the permission of each client, and the verdict
//! is cached for a short time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use kube::Client;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};

use super::rate_limit::RateLimit;
use crate::apiserver::access_review::{Verdict, may_get};
use crate::apiserver::error::one_line;
use crate::telemetry::failure_log::FailureLog;

/// The path that clients need permission to get.
const PATH: &str = "/metrics";

/// The time limit of both reviews of a token together. By default, Prometheus abandons a scrape after 10 s.
const REVIEW_LIMIT: Duration = Duration::from_secs(5);

/// The maximum number of tokens whose verdicts are kept in memory.
const CAPACITY: usize = 256;

/// The minimum time between the start of a failed review of a token and the next review of the same token, and the
/// shortest pause while the API server is overloaded.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The maximum number of unknown tokens that are reviewed per second: for one peer, and for all peers. A token whose
/// last verdict was `Allowed` does not count, so this limit never locks out a known scraper. A new scraper may get 503
/// while clients send many invalid tokens.
const UNKNOWN_TOKENS: (usize, usize) = (3, 12);

/// The verdict of a review that may still be running; `None` if the review failed. The future is shared, so that
/// concurrent requests with the same token cause only one review.
type PendingVerdict = Shared<BoxFuture<'static, Option<Verdict>>>;

pub(super) struct Authorization {
    client: Client,
    log: FailureLog,
    state: Arc<Mutex<State>>,
}

struct State {
    /// The newest review of each token, by a hash of the token. The tokens themselves are not kept.
    reviews: HashMap<[u8; 32], Review>,
    unknown: RateLimit,
    /// An overloaded API server gets no review before this time.
    paused_until: Option<Instant>,
}

struct Review {
    begun: Instant,
    /// Whether the last verdict before this review was `Allowed`.
    was_allowed: bool,
    verdict: PendingVerdict,
}

impl Review {
    /// Whether this review is still running within its time limit, or its result, which may be a failure, still counts.
    fn is_fresh(&self, now: Instant) -> bool {
        let lasts = match self.verdict.peek() {
            Some(Some(Verdict::Allowed)) => Duration::from_secs(60),
            Some(Some(Verdict::Unauthenticated | Verdict::Forbidden)) => Duration::from_secs(10),
            // The next request may start another review, but not in a hot loop.
            Some(None) => RETRY_PAUSE,
            None => REVIEW_LIMIT,
        };
        now.saturating_duration_since(self.begun) < lasts
    }

    fn is_allowed(&self) -> bool {
        match self.verdict.peek() {
            Some(Some(verdict)) => *verdict == Verdict::Allowed,
            Some(None) | None => self.was_allowed,
        }
    }
}

impl Authorization {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            log: FailureLog::new("reviewing a client of /metrics"),
            state: Arc::new(Mutex::new(State {
                reviews: HashMap::new(),
                unknown: RateLimit::new(UNKNOWN_TOKENS.0, UNKNOWN_TOKENS.1),
                paused_until: None,
            })),
        }
    }

    /// Returns the verdict on the client that sent these headers, or `None` if its token cannot be reviewed now.
    pub(super) async fn verdict(&self, headers: &HeaderMap, peer: IpAddr) -> Option<Verdict> {
        let Some(token) = bearer_token(headers) else {
            return Some(Verdict::Unauthenticated);
        };
        let verdict = self.review(token, peer)?;
        verdict.await
    }

    /// Returns the newest review of a token if it is fresh, or else starts a new one. Returns `None` if no review may
    /// start because there are too many unknown tokens or the API server is overloaded.
    fn review(&self, token: &str, peer: IpAddr) -> Option<PendingVerdict> {
        let (hash, now): ([u8; 32], _) = (Sha256::digest(token).into(), Instant::now());
        let State {
            reviews,
            unknown,
            paused_until,
        } = &mut *self.state.lock();
        let last = reviews.get(&hash);
        if let Some(review) = last.filter(|review| review.is_fresh(now)) {
            return Some(review.verdict.clone());
        }
        if paused_until.is_some_and(|until| now < until) {
            return None;
        }
        let was_allowed = last.is_some_and(Review::is_allowed);
        if !was_allowed && !unknown.admits(peer, now) {
            return None;
        }
        reviews.retain(|_, review| review.is_fresh(now) || review.is_allowed());
        if reviews.len() >= CAPACITY {
            let oldest = reviews
                .iter()
                .min_by_key(|(_, review)| (review.is_allowed(), review.begun));
            let oldest = oldest.map(|(hash, _)| *hash);
            oldest.map(|hash| reviews.remove(&hash));
        }
        let verdict = self.begin(token.to_owned());
        let review = Review {
            begun: now,
            was_allowed,
            verdict: verdict.clone(),
        };
        reviews.insert(hash, review);
        Some(verdict)
    }

    /// Starts a review, which runs to its end even if no client waits for it.
    fn begin(&self, token: String) -> PendingVerdict {
        let (client, log, state) = (self.client.clone(), self.log.clone(), self.state.clone());
        let review = tokio::spawn(async move {
            let result = timeout(REVIEW_LIMIT, may_get(&client, &token, PATH)).await;
            let error = match result {
                Ok(Ok(verdict)) => {
                    log.recovered();
                    return Some(verdict);
                }
                Ok(Err(error)) => {
                    if let Some(pause) = error.throttled() {
                        let until = Some(Instant::now() + pause.max(RETRY_PAUSE));
                        let mut state = state.lock();
                        state.paused_until = state.paused_until.max(until);
                    }
                    one_line(&error)
                }
                Err(_) => format!("no response within {REVIEW_LIMIT:?}"),
            };
            log.failed(&error);
            None
        });
        review.map(|ended| ended.ok().flatten()).boxed().shared()
    }
}

/// Returns the token from the `Authorization: Bearer <token>` header.
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .trim()
        .split_once(' ')?;
    let token = Some(token.trim()).filter(|token| !token.is_empty());
    token.filter(|_| scheme.eq_ignore_ascii_case("bearer"))
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use http::{Request, Response};
    use http_body_util::Full;
    use kube::client::Body;
    use testbed::{ApiServer, Effect, Fault, Match, Rule, Store};
    use tokio::time::advance;
    use tower::{BoxError, service_fn};

    use super::*;
    use crate::apiserver;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::testing::logged;

    /// An API server that lets the user `scraper` get `/metrics`, and gives the user `tenant` no permissions. The token
    /// of each user is the user's name.
    struct Fixture {
        store: Store,
        server: ApiServer,
        authorization: Authorization,
    }

    impl Fixture {
        fn start() -> Self {
            let store = Store::new();
            for user in ["scraper", "tenant"] {
                store.add_token(user, user);
            }
            store.restrict("scraper", vec![Rule::path(PATH, "get")]);
            store.restrict("tenant", Vec::new());
            let server = ApiServer::new(&store);
            let metrics = Metrics::new("lease").unwrap();
            let client = apiserver::over(server.clone(), "default", &metrics);
            Self {
                authorization: Authorization::new(client),
                store,
                server,
            }
        }

        async fn header(&self, header: &str, peer: u8) -> Option<Verdict> {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, header.parse().unwrap())]);
            self.authorization
                .verdict(&headers, [10, 0, 0, peer].into())
                .await
        }

        async fn verdict(&self, token: &str) -> Option<Verdict> {
            self.header(&format!("Bearer {token}"), 1).await
        }

        /// Returns the number of token reviews since the start.
        fn reviews(&self) -> usize {
            let requests = self.store.requests();
            requests
                .matching(|request| request.is("create", "tokenreviews"))
                .len()
        }

        fn kept(&self) -> usize {
            self.authorization.state.lock().reviews.len()
        }
    }

    /// Rule: survive.metrics-authorized
    #[tokio::test(start_paused = true)]
    async fn client_needs_a_valid_token_and_the_permission() {
        let fixture = Fixture::start();
        for (header, expected) in [
            ("Bearer scraper", Verdict::Allowed),
            ("bearer  scraper ", Verdict::Allowed),
            ("Bearer tenant", Verdict::Forbidden),
            ("Bearer nonsense", Verdict::Unauthenticated),
            ("Bearer ", Verdict::Unauthenticated),
            ("Bearer", Verdict::Unauthenticated),
            ("Basic scraper", Verdict::Unauthenticated),
            ("scraper", Verdict::Unauthenticated),
        ] {
            assert_eq!(fixture.header(header, 1).await, Some(expected), "{header}");
        }
        let headers = HeaderMap::new();
        let nothing = fixture.authorization.verdict(&headers, [10, 0, 0, 1].into());
        assert_eq!(nothing.await, Some(Verdict::Unauthenticated));
        assert_eq!(fixture.reviews(), 3, "expected one review for each token");
    }

    /// Rule: survive.metrics-authorized
    #[tokio::test(start_paused = true)]
    async fn allowed_verdict_lasts_a_minute_and_others_ten_seconds() {
        let fixture = Fixture::start();
        for (token, verdict, seconds) in [
            ("scraper", Verdict::Allowed, 60),
            ("tenant", Verdict::Forbidden, 10),
            ("nonsense", Verdict::Unauthenticated, 10),
        ] {
            let before = fixture.reviews();
            for (wait, reviews) in [(0, 1), (seconds * 1000 - 1, 1), (1, 2)] {
                advance(Duration::from_millis(wait)).await;
                assert_eq!(fixture.verdict(token).await, Some(verdict), "{token}");
                assert_eq!(fixture.reviews() - before, reviews, "{token}");
            }
        }
        // A revoked permission still counts until the minute has passed.
        fixture.store.restrict("scraper", Vec::new());
        advance(Duration::from_secs(60)).await;
        assert_eq!(fixture.verdict("scraper").await, Some(Verdict::Forbidden));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_at_the_same_time_cause_one_review() {
        let fixture = Fixture::start();
        let verdicts = join_all((0..50).map(|_| fixture.verdict("scraper"))).await;
        assert!(verdicts.iter().all(|verdict| *verdict == Some(Verdict::Allowed)));
        assert_eq!(fixture.reviews(), 1);
    }

    /// Rule: survive.metrics-authorized
    #[tokio::test(start_paused = true)]
    async fn failed_review_gives_no_verdict_and_is_retried_after_1_s() {
        let (log, _guard) = logged();
        let fixture = Fixture::start();
        for (resource, effect) in [
            ("tokenreviews", Effect::Nonsense),
            ("tokenreviews", Effect::Truncated),
            ("subjectaccessreviews", Effect::Truncated),
            (
                "subjectaccessreviews",
                Effect::Status {
                    code: 403,
                    retry_after: None,
                },
            ),
            (
                "subjectaccessreviews",
                Effect::Status {
                    code: 500,
                    retry_after: None,
                },
            ),
            ("tokenreviews", Effect::Break),
        ] {
            let fault = Fault::new(Match::any().resource(resource), effect.clone());
            fixture.server.faults().add(fault.times(1));
            assert_eq!(fixture.verdict("scraper").await, None, "{resource} {effect:?}");
            let reviews = fixture.reviews();
            advance(Duration::from_millis(999)).await;
            assert_eq!(fixture.verdict("scraper").await, None, "{resource} {effect:?}");
            assert_eq!(fixture.reviews(), reviews);
            advance(Duration::from_millis(1)).await;
            assert_eq!(fixture.verdict("scraper").await, Some(Verdict::Allowed));
            advance(Duration::from_secs(60)).await;
        }
        let lines = log.lines();
        assert!(
            lines[0].contains("reviewing a client of /metrics failed"),
            "{lines:?}"
        );
        assert!(lines.iter().all(|line| !line.contains("scraper")), "{lines:?}");
    }

    /// Rule: survive.metrics-reviews
    #[tokio::test(start_paused = true)]
    async fn an_overloaded_api_server_gets_no_review_for_a_while() {
        let fixture = Fixture::start();
        for (resource, code, retry_after, seconds) in [
            ("tokenreviews", 429, Some(7), 7),
            ("subjectaccessreviews", 503, Some(7), 7),
            ("tokenreviews", 429, None, 1),
            ("tokenreviews", 429, Some(3600), 60),
        ] {
            assert_eq!(fixture.verdict("scraper").await, Some(Verdict::Allowed));
            let overload = Effect::Status { code, retry_after };
            let fault = Fault::new(Match::any().resource(resource), overload.clone());
            fixture.server.faults().add(fault.times(1));
            assert_eq!(fixture.verdict("tenant").await, None, "{overload:?}");
            let reviews = fixture.reviews();
            advance(Duration::from_millis(seconds * 1000 - 1)).await;
            for token in ["tenant", "nonsense"] {
                assert_eq!(fixture.verdict(token).await, None, "{overload:?}");
            }
            let known = fixture.verdict("scraper").await;
            assert_eq!(known, Some(Verdict::Allowed), "{overload:?}");
            assert_eq!(fixture.reviews(), reviews, "{overload:?}");
            advance(Duration::from_millis(1)).await;
            let verdict = fixture.verdict("tenant").await;
            assert_eq!(verdict, Some(Verdict::Forbidden), "{overload:?}");
            advance(Duration::from_secs(60)).await;
        }
    }

    /// Returns the log lines of a review by a server that answers with `code` and echoes the body of the request.
    async fn logged_after_an_echo(code: u16) -> Vec<String> {
        let echo = service_fn(move |request: Request<Body>| async move {
            let body = request.into_body().collect_bytes().await?;
            let answer = Response::builder().status(code).body(Full::new(body));
            Ok::<_, BoxError>(answer.unwrap())
        });
        let (log, _guard) = logged();
        let client = apiserver::over(echo, "default", &Metrics::new("lease").unwrap());
        let headers = HeaderMap::from_iter([(AUTHORIZATION, "Bearer scraper".parse().unwrap())]);
        let verdict = Authorization::new(client)
            .verdict(&headers, [10, 0, 0, 1].into())
            .await;
        assert_eq!(verdict, None, "{code}");
        log.lines()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_repeats_the_token_is_not_logged() {
        const FAILED: &str = "WARN reviewing a client of /metrics failed; trying again error=";
        for (code, error) in [
            (502, "the request failed: 502 Bad Gateway"),
            (403, "the request failed: 403 Forbidden"),
            (201, "the response of the API server is not a TokenReview"),
        ] {
            assert_eq!(logged_after_an_echo(code).await, [format!("{FAILED}\"{error}\"")]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unanswered_review_gives_no_verdict_after_five_seconds() {
        let fixture = Fixture::start();
        let slow = Fault::new(Match::any().resource("subjectaccessreviews"), Effect::Hang);
        fixture.server.faults().add(slow);
        let began = Instant::now();
        assert_eq!(fixture.verdict("scraper").await, None);
        assert_eq!(began.elapsed(), REVIEW_LIMIT);
    }

    /// Rule: survive.metrics-reviews
    #[tokio::test(start_paused = true)]
    async fn unknown_tokens_cause_few_reviews_and_keep_no_scraper_out() {
        let fixture = Fixture::start();
        assert_eq!(fixture.verdict("scraper").await, Some(Verdict::Allowed));
        for second in 0..130 {
            let before = fixture.reviews();
            for number in 0..100_u8 {
                let header = format!("Bearer {second}-{number}");
                fixture.header(&header, number % 10).await;
            }
            let caused = fixture.reviews() - before;
            assert!(
                (1..=UNKNOWN_TOKENS.1).contains(&caused),
                "{caused} in second {second}"
            );
            let verdict = fixture.verdict("scraper").await;
            assert_eq!(verdict, Some(Verdict::Allowed), "in second {second}");
            advance(Duration::from_secs(1)).await;
        }
        assert!(fixture.kept() <= CAPACITY, "{}", fixture.kept());
    }

    /// Rule: survive.metrics-reviews
    #[tokio::test(start_paused = true)]
    async fn one_peer_cannot_use_all_reviews() {
        let fixture = Fixture::start();
        for number in 0..100 {
            fixture.header(&format!("Bearer {number}"), 1).await;
        }
        assert_eq!(fixture.reviews(), UNKNOWN_TOKENS.0);
        assert_eq!(fixture.header("Bearer scraper", 1).await, None);
        advance(Duration::from_secs(1)).await;
        for number in 0..100 {
            fixture.header(&format!("Bearer {number}-again"), 1).await;
        }
        assert_eq!(fixture.header("Bearer scraper", 2).await, Some(Verdict::Allowed));
    }

    #[tokio::test(start_paused = true)]
    async fn number_of_kept_verdicts_is_limited_for_valid_tokens_too() {
        let fixture = Fixture::start();
        for number in 0..CAPACITY + 50 {
            let token = format!("token-{number}");
            fixture.store.add_token(&token, "scraper");
            assert_eq!(fixture.verdict(&token).await, Some(Verdict::Allowed));
            advance(Duration::from_millis(400)).await;
        }
        assert_eq!(fixture.kept(), CAPACITY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_verdict_without_a_waiting_client_is_not_used_later() {
        let fixture = Fixture::start();
        assert!(
            fixture.verdict("scraper").now_or_never().is_none(),
            "the review has already ended"
        );
        advance(REVIEW_LIMIT).await;
        fixture.store.restrict("scraper", Vec::new());
        assert_eq!(fixture.verdict("scraper").await, Some(Verdict::Forbidden));
        assert_eq!(fixture.reviews(), 2);
    }
}
