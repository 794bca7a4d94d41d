//! The GETs that decide about copies.

use std::fmt::Debug;
use std::time::Duration;

use kube::core::Status;
use kube::{Api, Error};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Stop;
use crate::error::one_line;
use crate::progress::Progress;

/// Time limit of a GET.
const READ: Duration = Duration::from_secs(5);

/// client: one consistent GET, and so one step. `None`: the API server says that there is no such object.
pub(super) async fn object<K>(api: &Api<K>, name: &str, progress: &Progress) -> Result<Option<K>, Stop>
where
    K: Clone + Debug + DeserializeOwned,
{
    let answer = timeout(READ, api.get(name)).await;
    progress.step();
    match answer {
        Ok(Ok(found)) => Ok(Some(found)),
        Ok(Err(Error::Api(status))) if is_missing(&status, name) => Ok(None),
        Ok(Err(error)) => Err(Stop::Unread(one_line(&error))),
        Err(_) => Err(Stop::Unread(format!("no answer within {READ:?}"))),
    }
}

/// Whether a status says that this object is not there. An API server names what is missing; a 404 without a
/// name is that of something in between, and no copy goes because of it.
pub(super) fn is_missing(status: &Status, name: &str) -> bool {
    status.code == 404
        && status
            .details
            .as_ref()
            .is_some_and(|details| details.name == name)
}
