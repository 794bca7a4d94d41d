//! The GETs that decide about copies.

use std::fmt::Debug;

use kube::{Api, Error};
use serde::de::DeserializeOwned;

use super::Stop;
use crate::apiserver::error::one_line;
use crate::apiserver::status::{is_missing, status_of, throttled};
use crate::controller::workqueue::Severity;
use crate::telemetry::watchdog::Watchdog;

/// A call other than a write of a slice that failed, and is to be tried again.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub error: String,
    pub severity: Severity,
}

impl From<&Error> for Unanswered {
    fn from(error: &Error) -> Self {
        Self {
            error: one_line(error),
            severity: status_of(error)
                .and_then(throttled)
                .map_or(Severity::Passing, Severity::Overloaded),
        }
    }
}

/// client: one consistent GET, with the time limit of the client, so it is one step. `None` if the object
/// does not exist.
pub(super) async fn object<K>(api: &Api<K>, name: &str, watchdog: &Watchdog) -> Result<Option<K>, Stop>
where
    K: Clone + Debug + DeserializeOwned,
{
    let answer = api.get(name).await;
    watchdog.tick();
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Error::Api(status)) if is_missing(&status, name) => Ok(None),
        Err(error) => Err(Stop::Unread(Unanswered::from(&error))),
    }
}
