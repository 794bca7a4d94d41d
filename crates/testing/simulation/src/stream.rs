//! A watch between a server and a replica. It can be cut, silenced and delayed without the help of the server.

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
use crate::unreadable;
use crate::wire::{Arrived, reset};
use crate::world::World;

/// Controls one open watch.
#[derive(Debug)]
pub struct Stream {
    /// The replica that watches.
    pub replica: usize,
    /// The identity of the incarnation of the replica.
    pub identity: String,
    /// The resource that is watched.
    pub resource: String,
    /// The Services whose slices are watched, if the selector names them.
    pub names: Vec<String>,
    /// Whether no event arrives at the replica.
    pub silent: bool,
    /// How the watch must end now, or `None` if it continues.
    pub ended: Option<Ending>,
    /// The delay of each event.
    pub delay: Duration,
    news: Arc<Notify>,
}

/// How a watch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The response is complete, as when the watch reaches its timeout.
    Clean,
    /// The connection breaks in the middle of the response.
    Abrupt,
}

impl Stream {
    /// Makes [`carry`] read the changed settings.
    pub fn wake(&self) {
        self.news.notify_one();
    }
}

/// Carries the body of a watch to the replica until the watch ends or the replica drops it.
pub async fn carry(
    arrived: Arrived,
    mut body: testbed::answer::Body,
    to: mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>,
) {
    let Arrived {
        world,
        connection,
        life,
        sent,
    } = &arrived;
    let news = Arc::new(Notify::new());
    let number = open(&arrived, &news);
    while let Some((silent, ended, delay)) = look(world, number, connection.replica) {
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
        let frame = frame.map(|frame| frame.map_data(unreadable::spoiled));
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
        if let Ok(frame) = &frame
            && let Some(lines) = frame.data_ref()
        {
            world.showed(life, sent, lines);
        }
        if to.send(frame).is_err() {
            break;
        }
    }
    world.state().streams.remove(&number);
    world.closed(life, sent);
}

fn open(arrived: &Arrived, news: &Arc<Notify>) -> u64 {
    let Arrived {
        world,
        connection,
        life,
        sent,
    } = arrived;
    world.opened(life, sent);
    let mut state = world.state();
    let number = state.streams.last_key_value().map_or(0, |(last, _)| last + 1);
    let stream = Stream {
        replica: connection.replica,
        identity: life.identity.clone(),
        resource: sent.resource.clone(),
        names: sent.names.clone(),
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

/// A body whose frames come from a channel.
pub fn fed(from: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>) -> UnsyncBoxBody<Bytes, BoxError> {
    let frames = futures::stream::unfold(from, |mut from| async move {
        let frame = from.recv().await?;
        Some((frame, from))
    });
    http_body_util::StreamBody::new(frames).boxed_unsync()
}
