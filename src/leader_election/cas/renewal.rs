//! One renewal: a PATCH that is repeated in parallel while there is no response, and the evidence that it succeeded.
//!
//! All tries are identical and bound to the same version, so at most one of them is applied: the one that is processed
//! first. The term counts from when the applied try was sent or, if it is unknown which try was applied, from when the
//! first try was sent.
//!
//! While the watch works, a lost response does not end the term. Suppose that a renewal is sent 2 s before the
//! deadline, which is the default, and that each request takes 1.5 s. Then no further request can succeed in time: a
//! repetition is rejected 2.5 s after the first try, and the response to a renewal of the new version would arrive
//! after 3 s at the earliest. But the watch shows the new version as soon as it is written. The new version has the
//! renewal time that only this renewal sets, so the API server has applied the renewal. If the watch has just ended and
//! takes 1.5 s to restart, nothing shows the result in time, and the term is lost.

use std::future::ready;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use http::Request;
use kube::client::Body;
use tokio::time::{Instant, sleep_until, timeout_at};
use tower::BoxError;

use super::{LeaseCas, Patch, TimedResponse, ask, code_of, is_unprocessed};
use crate::apiserver::error::is_caused_by;
use crate::apiserver::{Hedging, NoOtherServer};
use crate::leader_election::term::Term;
use crate::timing::REPEAT_RENEWAL;

impl LeaseCas {
    /// Sends a PATCH that renews this term. If no response arrives soon, sends an identical PATCH in parallel, through
    /// another API server if there is one. Sends further requests until a try succeeds, the Lease changes, or a
    /// repetition is pending at each server.
    ///
    /// # Errors
    /// Returns an error if no successful response arrives in time, or if the watch shows first that the renewal was
    /// applied. Even in the first case, the renewal may have been applied.
    pub(super) async fn renew(
        &self,
        request: Request<Bytes>,
        patch: &Patch,
        term: &Term,
    ) -> Result<TimedResponse, BoxError> {
        let send = |request| {
            let upstream = self.upstream.clone();
            Box::pin(async move { ask(&upstream, request).await })
        };
        let longest = REPEAT_RENEWAL.min(self.observer.default_duration / 6);
        let first_repeat = Instant::now() + longest;
        let mut tries = FuturesUnordered::from_iter([send(request.clone().map(Body::from))]);
        let hedging = Hedging::default();
        let applied = async {
            sleep_until(first_repeat).await;
            self.observer.wait_until_applied(patch).await;
        };
        tokio::pin!(applied);
        let (mut refused, mut failed) = (None, None);
        let mut repeat = Some(first_repeat);
        let mut limit = term.ends_at();
        loop {
            let answer = tokio::select! {
                biased;
                answer = tries.next() => answer,
                () = &mut applied => {
                    // Responses may still arrive, and an abandoned request would count against its server.
                    tokio::spawn(timeout_at(limit, tries.for_each(|_| ready(()))));
                    return Err("the watch showed the renewal before it was answered".into());
                }
                () = sleep_until(repeat.unwrap_or(limit).min(limit)) => {
                    if repeat.take().is_none_or(|at| at >= limit) {
                        None
                    } else if self.observer.is_after(&patch.read_version) {
                        // The API server would reject a repetition.
                        limit = shortened(limit);
                        continue;
                    } else {
                        let mut another = request.clone().map(Body::from);
                        another.extensions_mut().insert(hedging.clone());
                        tries.push(send(another));
                        repeat = Some(Instant::now() + pause(longest, limit));
                        continue;
                    }
                }
            };
            let Some(answer) = answer else {
                return refused
                    .or(failed)
                    .unwrap_or_else(|| Err("no response in time".into()));
            };
            match code_of(&answer) {
                _ if answer.as_ref().is_ok_and(|answer| answer.lease().is_ok()) => return answer,
                // Another try may have succeeded. Wait for it, but leave enough time to renew again.
                Some(409) => {
                    (refused, repeat) = (Some(answer), None);
                    limit = shortened(limit);
                }
                _ if answer
                    .as_ref()
                    .is_err_and(|error| is_caused_by::<NoOtherServer>(&**error)) =>
                {
                    repeat = None;
                }
                code => {
                    // An unknown result takes precedence over a rejection that left the Lease unchanged.
                    if failed.is_none() || !is_unprocessed(code) {
                        failed = Some(answer);
                    }
                    let next = Instant::now() + pause(longest, limit);
                    repeat = refused.is_none().then(|| repeat.map_or(next, |at| at.min(next)));
                }
            }
        }
    }
}

fn remaining(limit: Instant) -> Duration {
    limit.saturating_duration_since(Instant::now())
}

/// Returns an earlier limit, which leaves a quarter of the remaining time for another renewal.
fn shortened(limit: Instant) -> Instant {
    Instant::now() + remaining(limit) * 3 / 4
}

/// Returns the time until the next repetition.
fn pause(longest: Duration, limit: Instant) -> Duration {
    (remaining(limit) / 2).clamp(longest / 4, longest)
}
