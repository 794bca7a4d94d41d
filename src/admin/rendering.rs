//! The metrics page. It is rendered at most once a second for all clients together, and clients that do not read keep
//! only small parts of it in memory.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::telemetry::metrics::Metrics;

/// How long a page is served, measured from the start of its rendering.
const PAGE_LIFETIME: Duration = Duration::from_secs(1);

/// The size of a piece in bytes. A client that does not read keeps at most two or three pieces of a page in memory.
const PIECE: usize = 4 * 1024;

type Pieces = Arc<Vec<Bytes>>;

/// The newest page, and the page before it while clients still read that one.
pub(super) struct Rendering {
    metrics: Metrics,
    kept: Mutex<RecentPages>,
}

#[derive(Default)]
struct RecentPages {
    /// The future is shared, so that a client that disconnects during a rendering does not cause a second one.
    newest: Option<(Instant, Shared<BoxFuture<'static, Pieces>>)>,
    /// The page before the newest one, so that each client has at least a second to read its page.
    previous: Option<Pieces>,
}

impl Rendering {
    pub(super) fn new(metrics: Metrics) -> Self {
        let kept = Mutex::default();
        Self { metrics, kept }
    }

    /// Returns a page that is at most a second old.
    pub(super) async fn page(&self) -> SharedPage {
        let rendering = self.newest();
        SharedPage::new(&rendering.await)
    }

    fn newest(&self) -> Shared<BoxFuture<'static, Pieces>> {
        let mut kept = self.kept.lock();
        if let Some((begun, rendering)) = &kept.newest
            && begun.elapsed() < PAGE_LIFETIME
        {
            return rendering.clone();
        }
        let old = kept.newest.take();
        let old = old.and_then(|(_, rendering)| rendering.peek().cloned());
        kept.previous = old.filter(|page| Arc::weak_count(page) > 0);
        let rendering = render(self.metrics.clone()).boxed().shared();
        kept.newest = Some((Instant::now(), rendering.clone()));
        rendering
    }
}

/// Renders a page, and yields after each piece, because Lease renewals and all other work share the thread.
async fn render(metrics: Metrics) -> Pieces {
    let mut page = Vec::new();
    for text in metrics.pieces() {
        page.extend(text.as_bytes().chunks(PIECE).map(Bytes::copy_from_slice));
        yield_now().await;
    }
    Arc::new(page)
}

/// The body of a response that shows a shared page. It ends with an error if the client is so slow that the page is no
/// longer kept.
pub(super) struct SharedPage {
    page: Weak<Vec<Bytes>>,
    next: usize,
    left: usize,
}

impl SharedPage {
    /// Creates a body that shows this page, but does not keep it alive.
    pub(super) fn new(page: &Pieces) -> Self {
        Self {
            page: Arc::downgrade(page),
            next: 0,
            left: page.iter().map(Bytes::len).sum(),
        }
    }
}

impl Body for SharedPage {
    type Data = Bytes;
    type Error = TooSlow;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TooSlow>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let page = self.page.upgrade();
        let piece = page.and_then(|page| page.get(self.next).cloned()).ok_or(TooSlow);
        Poll::Ready(Some(piece.map(|piece| {
            self.next += 1;
            self.left -= piece.len();
            Frame::data(piece)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

/// The client did not read its page before two newer ones were rendered.
#[derive(Debug, thiserror::Error)]
#[error("the client reads too slowly")]
pub(super) struct TooSlow;

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use endpoint_copier_core::model::{ServiceKey, SourceAndCopies};

    const TRANSITIONS: &str = "\nendpoint_copier_leader_transitions_total ";

    /// Returns the whole page, or `None` if it ends early.
    async fn read(page: SharedPage) -> Option<String> {
        let bytes = page.collect().await.ok()?.to_bytes();
        Some(String::from_utf8(bytes.into()).unwrap())
    }

    /// Returns the number of transitions that a page shows.
    async fn transitions(page: SharedPage) -> Option<String> {
        let text = read(page).await?;
        let (_, rest) = text.split_once(TRANSITIONS)?;
        rest.lines().next().map(str::to_owned)
    }

    fn managing(services: usize) -> Metrics {
        let metrics = Metrics::new("lease").unwrap();
        for number in 0..services {
            let key = ServiceKey::new("default", format!("a-service-of-a-usual-length-{number}"));
            metrics
                .services()
                .ended(&key, Some(true), Some(SourceAndCopies::default()));
        }
        metrics
    }

    /// Rule: survive.metrics-once
    #[tokio::test(start_paused = true)]
    async fn clients_within_one_second_get_the_same_page() {
        let metrics = managing(1);
        let rendering = Rendering::new(metrics.clone());
        let first = rendering.page().await;
        metrics.leader_changed();
        tokio::time::advance(Duration::from_millis(999)).await;
        for page in [first, rendering.page().await] {
            assert_eq!(transitions(page).await.as_deref(), Some("0"));
        }
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(transitions(rendering.page().await).await.as_deref(), Some("1"));
    }

    /// Rule: survive.unread
    #[tokio::test(start_paused = true)]
    async fn a_page_is_kept_until_two_newer_ones_are_rendered() {
        let rendering = Rendering::new(managing(100));
        let (slow, slower) = (rendering.page().await, rendering.page().await);
        tokio::time::advance(PAGE_LIFETIME).await;
        let next = rendering.page().await;
        assert!(read(slow).await.is_some());
        tokio::time::advance(PAGE_LIFETIME).await;
        let newest = rendering.page().await;
        assert_eq!(read(slower).await, None);
        assert!(read(next).await.is_some());
        assert!(read(newest).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_without_readers_is_not_kept_beside_a_newer_one() {
        let rendering = Rendering::new(managing(1));
        drop(rendering.page().await);
        tokio::time::advance(PAGE_LIFETIME).await;
        drop(rendering.page().await);
        assert!(rendering.kept.lock().previous.is_none());
    }

    /// Rule: survive.metrics-once
    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_causes_no_second_rendering() {
        let metrics = managing(1000);
        let rendering = Rendering::new(metrics.clone());
        assert!(
            rendering.page().now_or_never().is_none(),
            "the rendering ended after its first piece"
        );
        metrics.leader_changed();
        assert_eq!(transitions(rendering.page().await).await.as_deref(), Some("0"));
    }

    /// Rule: survive.metrics-once
    #[tokio::test]
    async fn other_tasks_run_while_a_page_is_rendered() {
        let rendering = Rendering::new(managing(1000));
        let mut turns = 0;
        let page = tokio::select! {
            page = rendering.page() => page,
            () = async { loop { turns += 1; yield_now().await; } } => unreachable!(),
        };
        let length = read(page).await.unwrap().len();
        assert!(turns > length / (32 * 1024), "{turns} turns for {length} bytes");
    }
}
