//! A watch on its way from a server to a replica: it can be cut, silenced and slowed down, without the server's doing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;
use tower::BoxError;

use crate::systematic::AtEvent;
use crate::wire::reset;
use crate::world::{Connection, World};

/// Control of one open watch.
#[derive(Debug)]
pub struct Stream {
    /// Whose.
    pub replica: usize,
    /// What is watched.
    pub resource: String,
    /// Nothing arrives any more.
    pub silent: bool,
    /// It has ended: well, or in the middle.
    pub ended: Option<Ending>,
    /// Each event is so late.
    pub delay: Duration,
    news: Arc<Notify>,
}

/// How a watch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As at its time-out: the answer is complete.
    Clean,
    /// In the middle of the answer.
    Abrupt,
}

impl Stream {
    /// Has its carrier look at what was changed.
    pub fn wake(&self) {
        self.news.notify_one();
    }
}

/// Carries the body of a watch to the replica, until either is gone.
pub async fn carry(
    world: Arc<World>,
    connection: Connection,
    resource: String,
    mut body: testbed::answer::Body,
    to: mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>,
) {
    let news = Arc::new(Notify::new());
    let number = open(&world, &connection, resource, &news);
    while let Some((silent, ended, delay)) = look(&world, number, connection.replica) {
        if let Some(ending) = ended {
            if ending == Ending::Abrupt {
                _ = to.send(Err(reset()));
            }
            break;
        }
        let frame = tokio::select! {
            biased;
            () = to.closed() => break,
            () = connection.dead.cancelled() => {
                _ = to.send(Err(reset()));
                break;
            }
            () = news.notified() => continue,
            frame = body.frame(), if !silent => frame,
        };
        let Some(frame) = frame else { break };
        if !delay.is_zero() {
            world.count("event late");
            sleep(delay).await;
        }
        match world.at_event(connection.replica) {
            None => {}
            Some(AtEvent::Drop) => {
                _ = to.send(Err(reset()));
                break;
            }
            Some(AtEvent::Freeze(time)) => sleep(time).await,
        }
        if to.send(frame).is_err() {
            break;
        }
    }
    world.state().streams.remove(&number);
}

fn open(world: &World, connection: &Connection, resource: String, news: &Arc<Notify>) -> u64 {
    let mut state = world.state();
    let number = state.streams.last_key_value().map_or(0, |(last, _)| last + 1);
    let stream = Stream {
        replica: connection.replica,
        resource,
        silent: false,
        ended: None,
        delay: Duration::ZERO,
        news: news.clone(),
    };
    state.streams.insert(number, stream);
    number
}

fn look(world: &World, number: u64, replica: usize) -> Option<(bool, Option<Ending>, Duration)> {
    let state = world.state();
    let stream = state.streams.get(&number)?;
    Some((stream.silent || state.cut[replica], stream.ended, stream.delay))
}

/// A body that is fed from elsewhere.
pub fn fed(from: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>) -> UnsyncBoxBody<Bytes, BoxError> {
    let frames = futures::stream::unfold(from, |mut from| async move {
        let frame = from.recv().await?;
        Some((frame, from))
    });
    http_body_util::StreamBody::new(frames).boxed_unsync()
}
