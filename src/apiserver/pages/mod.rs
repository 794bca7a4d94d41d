//! Requests lists in pages of a bounded size.
//!
//! A client can limit the number of objects on a page, but tenants decide how large their objects are: a page of 500
//! objects may contain a hundred objects of 250 KB each. So the size of the previous page determines the next limit. A
//! page that is still too large is abandoned and requested again with fewer objects.
//!
//! A page is in memory several times while it is decoded, and the allocator keeps much of that memory for the
//! process. So pages are small: twenty of them take barely longer than a single large one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body::Body as _;
use kube::client::Body;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tower::{BoxError, Service};

use super::call_limits::{Answer, CallLimits, TimedOut};
use super::http_status::{overload, status_of};
use super::is_watch;
use super::response_size::{LARGEST_OBJECT, TooLarge};
use crate::timing::MAX_RETRY_AFTER;

/// The limit for the first page of a resource, in objects.
const FIRST_PAGE: u32 = 100;

/// The target size of a page in bytes. After a larger page, the limit is halved. After a page of less than half this
/// size, it is doubled, unless that page was the last one of a list.
const TARGET: usize = 64 * 1024;

/// The target size of a page after one that took at least [`QUICK_PAGE`]: each page takes long, so a list should have
/// fewer pages.
const SLOW_TARGET: usize = 256 * 1024;

/// A page that arrives within this time costs little, so a list may have more pages.
const QUICK_PAGE: Duration = Duration::from_millis(50);

/// A page of more than this many bytes is abandoned, unless its limit is a single object.
const LARGEST_PAGE: usize = 4 * 1024 * 1024;

/// The first pause before a page is requested again from an overloaded API server; each further pause is twice as long.
/// The API server may request a longer pause. The first page of a list is not requested again. All pauses for one page
/// together are limited, because the continue token is valid for only a few minutes, and because the caller knows
/// better than this module what to do in the meantime.
const PAGE_PAUSE: Duration = Duration::from_secs(1);

/// Chooses the page size of lists.
#[derive(Clone)]
pub(super) struct Paged<S> {
    counted: CallLimits<S>,
    /// Shared by all requests of the client.
    sizes: Arc<Mutex<Sizes>>,
}

/// The number of objects to request on the next page, by path. The number of paths is bounded, because a path may name
/// a namespace.
#[derive(Default)]
struct Sizes(HashMap<String, Size>);

#[derive(Clone, Copy)]
struct Size {
    objects: u32,
    /// Whether the last page had less than half the target size.
    was_small: bool,
}

/// The maximum number of page sizes that are remembered.
const PATHS: usize = 1000;

impl Sizes {
    /// Returns the limit for the next page. `continues` says whether that page continues a list. If so, the previous
    /// page was full.
    fn of(&self, path: &str, continues: bool) -> u32 {
        match self.0.get(path) {
            None => FIRST_PAGE,
            Some(size) if continues && size.was_small => size.objects.saturating_mul(2),
            Some(size) => size.objects,
        }
    }

    fn set(&mut self, path: String, objects: u32, was_small: bool) {
        if self.0.len() >= PATHS {
            self.0.clear();
        }
        let objects = objects.max(1);
        self.0.insert(path, Size { objects, was_small });
    }
}

impl<S, B> Paged<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub fn new(counted: CallLimits<S>) -> Self {
        Self {
            counted,
            sizes: Arc::default(),
        }
    }

    /// Sends a request. If it is a list with a limit, replaces that limit with ours if ours is lower.
    pub async fn send(self, request: Request<Body>) -> Result<Answer<B>, BoxError> {
        let limit = parameter(request.uri(), "limit").and_then(|limit| limit.parse().ok());
        let is_list = request.method() == Method::GET && !is_watch(&request);
        match limit.filter(|_| is_list) {
            Some(asked) => self.list(request, asked).await,
            None => self.counted.send(request, LARGEST_OBJECT).await,
        }
    }

    async fn list(self, request: Request<Body>, asked: u32) -> Result<Answer<B>, BoxError> {
        let request = request.map(drop);
        let path = request.uri().path().to_owned();
        let continues = parameter(request.uri(), "continue").is_some();
        let (mut pause, mut paused) = (PAGE_PAUSE, Duration::ZERO);
        loop {
            let size = self.sizes.lock().of(&path, continues).clamp(1, asked);
            let mut page = request.clone().map(|()| Body::empty());
            *page.uri_mut() = with_limit(request.uri(), size)?;
            let began = Instant::now();
            let largest = if size > 1 { LARGEST_PAGE } else { LARGEST_OBJECT };
            let next = match self.counted.send(page, largest).await {
                Ok(answer) => {
                    let bytes = answer.body().size_hint().lower();
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                    let is_quick = began.elapsed() < QUICK_PAGE;
                    let target = if is_quick { TARGET } else { SLOW_TARGET };
                    let next = if bytes > target { size / 2 } else { size };
                    self.sizes.lock().set(path, next, bytes < target / 2);
                    return Ok(answer);
                }
                Err(error) if size > 1 && error.is::<TooLarge>() => size / 4,
                // On a slow network, fewer objects arrive in time.
                Err(error) if error.is::<TimedOut>() => {
                    self.sizes.lock().set(path, size / 4, false);
                    return Err(error);
                }
                // Restarting the list would cost an overloaded API server more than repeating the page.
                Err(error) => {
                    let retry_after = error.downcast_ref().and_then(status_of).and_then(overload);
                    let next = retry_after.map(|retry_after| retry_after.max(pause));
                    match next.filter(|next| continues && paused + *next <= MAX_RETRY_AFTER) {
                        Some(next) => sleep(next).await,
                        None => return Err(error),
                    }
                    paused += next.unwrap_or_default();
                    pause *= 2;
                    size
                }
            };
            self.sizes.lock().set(path.clone(), next, false);
        }
    }
}

/// Returns the value of a query parameter, unless it is empty or 0.
fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let mut pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(key, _)| *key == name)?.1;
    Some(value).filter(|value| !value.is_empty() && *value != "0")
}

fn with_limit(uri: &Uri, limit: u32) -> Result<Uri, BoxError> {
    let query = uri.query().unwrap_or_default();
    let others = query.split('&').filter(|pair| !pair.starts_with("limit="));
    let query = others
        .chain([format!("limit={limit}").as_str()])
        .collect::<Vec<_>>()
        .join("&");
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{}?{query}", uri.path()).parse()?);
    Ok(Uri::from_parts(parts)?)
}

#[cfg(test)]
mod tests;
