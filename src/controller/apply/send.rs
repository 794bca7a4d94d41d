//! Sends one write, if the term allows it, and waits for the response.

use std::time::Duration;

use http::Request;
use kube::Client;
use kube::core::Status;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::apiserver::error::{is_caused_by, no_response};
use crate::apiserver::http_status::is_answer;
use crate::apiserver::{SendDeadline, TooLate};
use crate::leader_election::term::{Term, TermOver};
use crate::telemetry::watchdog::Watchdog;

/// Sends a write, and returns the object as it is now, if it exists. Waits for the response up to `limit`, but not
/// beyond the deadline of the term, unless the term is renewed. The end of the call counts as progress for `watchdog`.
///
/// # Errors
/// The term is over.
pub(in crate::controller) async fn send<T: DeserializeOwned>(
    client: &Client,
    watchdog: &Watchdog,
    term: &Term,
    limit: Duration,
    mut request: Request<Vec<u8>>,
) -> Result<kube::Result<Option<T>>, TermOver> {
    let write = term.begin_write()?;
    // The deadline is checked again before the request is sent, because this process may have been paused while it
    // looked for a server.
    request.extensions_mut().insert(SendDeadline(write.deadline));
    let answer = timeout(limit, async {
        tokio::select! {
            biased;
            answer = client.request_status(request) => Some(answer),
            () = term.outlived(write.deadline) => None,
        }
    });
    let answer = answer.await.ok().flatten();
    watchdog.tick();
    if answer.as_ref().is_some_and(is_certain) {
        write.answered();
    }
    let answer = answer.unwrap_or_else(|| Err(no_response()));
    Ok(answer.map(|answer| answer.either(Some, |_: Status| None)))
}

/// Whether the result of a write is certain: the API server answered, or the write was never sent.
fn is_certain<T>(answer: &kube::Result<T>) -> bool {
    is_answer(answer) || answer.as_ref().is_err_and(|error| is_caused_by::<TooLate>(error))
}
