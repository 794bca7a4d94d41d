//! Sends one write, if the term allows it, and waits for the response.

use std::time::Duration;

use http::Request;
use kube::Client;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::timeout;

use crate::apiserver::error::{is_caused_by, no_response};
use crate::apiserver::http_status::is_answer;
use crate::apiserver::{SendDeadline, TooLate};
use crate::leader_election::term::{Term, TermOver};
use crate::telemetry::watchdog::Watchdog;
use endpoint_copier_core::model::version;

/// The response to a successful write: the object as it is now or, after a delete, possibly a `Status`, which has
/// neither a version nor a deletion time. No other fields of the object are decoded.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::controller) struct Written {
    metadata: WrittenMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WrittenMetadata {
    resource_version: Option<String>,
    deletion_timestamp: Option<IgnoredAny>,
}

impl Written {
    /// Returns the version of the object.
    pub fn version(&self) -> Option<u64> {
        version(self.metadata.resource_version.as_deref())
    }

    /// Whether the object exists but is being deleted, because it has finalizers.
    pub fn is_being_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

/// Sends a write. Waits for the response up to `limit`, but not beyond the deadline of the term, unless the term is
/// renewed. The end of the call counts as progress for `watchdog`.
///
/// # Errors
/// Returns an error if the term is over.
pub(in crate::controller) async fn send(
    client: &Client,
    watchdog: &Watchdog,
    term: &Term,
    limit: Duration,
    mut request: Request<Vec<u8>>,
) -> Result<kube::Result<Written>, TermOver> {
    let write = term.begin_write()?;
    // The deadline is checked again before the request is sent, because this process may have been paused while it
    // looked for a server.
    request.extensions_mut().insert(SendDeadline(write.deadline));
    let answer = timeout(limit, async {
        tokio::select! {
            biased;
            answer = client.request(request) => Some(answer),
            () = term.outlived(write.deadline) => None,
        }
    });
    let answer = answer.await.ok().flatten();
    watchdog.tick();
    if answer.as_ref().is_some_and(is_certain) {
        write.answered();
    }
    Ok(answer.unwrap_or_else(|| Err(no_response())))
}

/// Whether the result of a write is certain: the API server responded, or the write was never sent.
fn is_certain<T>(answer: &kube::Result<T>) -> bool {
    is_answer(answer) || answer.as_ref().is_err_and(|error| is_caused_by::<TooLate>(error))
}
