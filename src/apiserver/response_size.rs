//! Limits how much of a response is kept in memory. A broken API server, or a proxy in front of it, may send a response
//! that never ends.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::StreamExt as _;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tower::BoxError;

use super::channel::Origin;

/// The largest response that contains one object, and the longest line of a watch, in bytes.
///
/// The API server writes an object to etcd in a gRPC message of at most 2 MiB. In JSON, each byte of it takes at most
/// six bytes: Go writes `<` as `\u003c`. The 13th MiB is for the list or the event around the object. A lower limit
/// would let a tenant create an object that breaks lists and watches.
pub(super) const LARGEST_OBJECT: usize = 13 * MIB;

/// The maximum number of bytes to read from the body of an error response. A `Status` is shorter, and any other text is
/// only for logs.
const MAX_ERROR: usize = 64 * 1024;

/// If incomplete responses in memory exceed this total size, those larger than [`FAIR_SHARE`] are abandoned. Without
/// this limit, endless responses from a proxy to all watches would exceed the memory limit, even if no single response
/// is too large.
const LARGEST_TOTAL: usize = 24 * MIB;

/// A response of up to this size continues, whatever the total is, because few objects are larger.
const FAIR_SHARE: usize = MIB;

const MIB: usize = 1024 * 1024;

/// A response was abandoned because of its size.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum TooLarge {
    /// The response is larger than its own limit.
    #[error("the response has more than {0} bytes")]
    Alone(usize),
    /// The response is larger than [`FAIR_SHARE`], and all incomplete responses together are too large.
    #[error("the responses that are being received have more than {LARGEST_TOTAL} bytes")]
    Together,
}

/// The number of bytes of the incomplete responses of all clients.
#[derive(Clone, Debug, Default)]
pub(super) struct Incoming(Arc<AtomicUsize>);

/// The size of one incomplete response.
pub(super) struct AnswerSize {
    bytes: usize,
    largest: usize,
    all: Incoming,
}

impl Incoming {
    /// Starts counting the size of a response, which may have up to `largest` bytes.
    pub fn answer(&self, largest: usize) -> AnswerSize {
        AnswerSize {
            bytes: 0,
            largest,
            all: self.clone(),
        }
    }
}

impl AnswerSize {
    fn add(&mut self, bytes: usize) -> Result<(), TooLarge> {
        self.bytes = self.bytes.saturating_add(bytes);
        let total = self
            .all
            .0
            .fetch_add(bytes, Ordering::Relaxed)
            .saturating_add(bytes);
        if self.bytes > self.largest {
            return Err(TooLarge::Alone(self.largest));
        }
        if self.bytes > FAIR_SHARE && total > LARGEST_TOTAL {
            return Err(TooLarge::Together);
        }
        Ok(())
    }

    /// Adds a part of a watch. Only an incomplete line stays in memory.
    fn add_lines(&mut self, part: &[u8]) -> Result<(), TooLarge> {
        let mut lines = part.split(|byte| *byte == b'\n');
        self.add(lines.next().map_or(0, <[u8]>::len))?;
        if let Some(last) = lines.next_back() {
            self.clear();
            self.add(last.len())?;
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for AnswerSize {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Reads a response to its end.
///
/// # Errors
/// Returns an error if the response breaks off or is [`TooLarge`].
pub(super) async fn read<B>(body: B, mut size: AnswerSize) -> Result<Bytes, BoxError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let mut parts = pin!(body.into_data_stream());
    // The parts are copied, because a part of one byte may keep a whole buffer in memory.
    let mut read = Vec::new();
    while let Some(part) = parts.next().await {
        let part = part.map_err(Into::into)?;
        size.add(part.len())?;
        read.extend_from_slice(&part);
    }
    Ok(read.into())
}

/// Reads the body of an error response, or only its start if it is long.
///
/// # Errors
/// Returns an error if the response breaks off.
pub(super) async fn read_error<B>(body: B) -> Result<Bytes, BoxError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let mut parts = pin!(body.into_data_stream());
    let mut read = Vec::new();
    while let Some(part) = parts.next().await
        && read.len() < MAX_ERROR
    {
        read.extend_from_slice(&part.map_err(Into::into)?);
        read.truncate(MAX_ERROR);
    }
    Ok(read.into())
}

/// The stream of a watch, which breaks off at a line that is [`TooLarge`].
pub(super) struct WatchBody<B> {
    body: Pin<Box<B>>,
    line: AnswerSize,
    /// `None` without a connection to a server, and after a line that was too large.
    origin: Option<Origin>,
}

impl<B> WatchBody<B> {
    pub fn new(body: B, all: &Incoming, origin: Option<Origin>) -> Self {
        Self {
            body: Box::pin(body),
            line: all.answer(LARGEST_OBJECT),
            origin,
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>>> Body for WatchBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(self.body.as_mut().poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        let data = frame.data_ref().map_or(&[][..], |data| data);
        Poll::Ready(Some(match self.line.add_lines(data) {
            Ok(()) => Ok(frame),
            Err(too_large) => {
                if let Some(origin) = self.origin.take() {
                    origin.blame(&too_large);
                }
                Err(too_large.into())
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{Full, StreamBody};

    use super::*;

    /// The size of one part of a response.
    const PART: usize = 64 * 1024;

    static LETTERS: [u8; PART] = [b'A'; PART];

    fn endless(part: &'static [u8]) -> impl Body<Data = Bytes, Error = BoxError> {
        StreamBody::new(stream::repeat_with(move || {
            Ok(Frame::data(Bytes::from_static(part)))
        }))
    }

    /// Returns the number of bytes that a watch shows until it breaks off, or until it has shown `enough`.
    async fn shown(watch: &mut (impl Body<Data = Bytes> + Unpin), enough: usize) -> usize {
        let mut bytes = 0;
        while bytes < enough
            && let Some(Ok(frame)) = watch.frame().await
        {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        bytes
    }

    /// Rule: survive.endless-answer
    #[tokio::test]
    async fn largest_object_arrives_and_anything_larger_does_not() {
        for (bytes, arrives) in [(0, true), (LARGEST_OBJECT, true), (LARGEST_OBJECT + 1, false)] {
            let incoming = Incoming::default();
            let body = Full::new(Bytes::from(vec![b'A'; bytes]));
            let read = read(body, incoming.answer(LARGEST_OBJECT)).await;
            assert_eq!(read.is_ok_and(|read| read.len() == bytes), arrives, "{bytes}");
            assert_eq!(incoming.0.load(Ordering::Relaxed), 0);
        }
    }

    /// Rule: survive.endless-answer
    #[tokio::test]
    async fn watch_may_continue_but_its_lines_must_end() {
        let incoming = Incoming::default();
        let broken = WatchBody::new(endless(&LETTERS), &incoming, None);
        assert_eq!(shown(&mut Box::pin(broken), usize::MAX).await, LARGEST_OBJECT);
        let mut line = LETTERS.to_vec();
        line[7] = b'\n';
        let line = Vec::leak(line);
        let mut endless_watch = Box::pin(WatchBody::new(endless(line), &incoming, None));
        assert_eq!(shown(&mut endless_watch, 100 * MIB).await, 100 * MIB);
        assert_eq!(incoming.0.load(Ordering::Relaxed), PART - 8, "the last line");
        drop(endless_watch);
        assert_eq!(incoming.0.load(Ordering::Relaxed), 0);
    }

    /// Rule: survive.endless-answer
    #[tokio::test]
    async fn endless_answers_share_a_limit_and_leave_room_for_others() {
        let incoming = Incoming::default();
        let mut watches: Vec<_> = (0..20)
            .map(|_| Box::pin(WatchBody::new(endless(&LETTERS), &incoming, None)))
            .collect();
        let mut most = 0;
        for part in 0..LARGEST_OBJECT / PART {
            let mut remaining = Vec::new();
            for mut watch in watches {
                if shown(&mut watch, PART).await == PART {
                    remaining.push(watch);
                }
            }
            watches = remaining;
            assert!(part > FAIR_SHARE / PART || watches.len() == 20, "{part}");
            most = most.max(incoming.0.load(Ordering::Relaxed));
        }
        assert!(most <= LARGEST_TOTAL, "{most}");
        assert!(!watches.is_empty(), "all watches were abandoned");
        let body = Full::new(Bytes::from(vec![b'A'; FAIR_SHARE]));
        let read = read(body, incoming.answer(LARGEST_OBJECT)).await;
        assert!(read.is_ok(), "a small response was abandoned");
    }
}
