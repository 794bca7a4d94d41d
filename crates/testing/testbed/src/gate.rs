//! A connection that stalls while its server is frozen: nothing is read, written or closed.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

/// Wraps a stream. While the server is frozen, its reads and writes wait.
pub(crate) struct Gate<S> {
    stream: S,
    frozen: watch::Receiver<bool>,
    /// Wakes the connection when the gate opens. Set only while the gate is closed.
    opening: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> Gate<S> {
    pub fn new(stream: S, frozen: watch::Receiver<bool>) -> Self {
        Self {
            stream,
            frozen,
            opening: None,
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.opening.is_none() && !*self.frozen.borrow() {
            return Poll::Ready(());
        }
        let frozen = self.frozen.clone();
        let opening = self.opening.get_or_insert_with(|| Box::pin(open(frozen)));
        ready!(opening.as_mut().poll(cx));
        self.opening = None;
        Poll::Ready(())
    }
}

async fn open(mut frozen: watch::Receiver<bool>) {
    // An error means that the server is gone. Its connections are being dropped.
    let _ = frozen.wait_for(|frozen| !frozen).await;
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx));
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx));
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx));
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx));
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
