//! A slow network in front of an API server: every byte takes its time in both directions.
//!
//! The kernel's own delay (`netem`) needs a module that not every machine has, and root.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// A path to a server that delays each byte. When dropped, all of its connections end.
pub struct Delay {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Delay {
    /// A path to this address that takes `one_way` in each direction. It listens on the same IP.
    pub async fn to(server: SocketAddr, one_way: Duration) -> Self {
        let listener = TcpListener::bind((server.ip(), 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let accepted = Arc::<AtomicUsize>::default();
        let count = accepted.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                connections.spawn(pass(stream, server, one_way));
            }
        });
        Self {
            address,
            accepted,
            _task: task,
        }
    }

    /// The address on which the path listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of connections made so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Relays one connection until both directions have ended.
async fn pass(mut from: TcpStream, server: SocketAddr, one_way: Duration) {
    // The kernel accepts at once, so the round trip of SYN and SYN-ACK is added before the first byte.
    sleep(one_way * 2).await;
    let Ok(mut to) = TcpStream::connect(server).await else {
        return;
    };
    _ = (from.set_nodelay(true), to.set_nodelay(true));
    let (client, server) = (from.split(), to.split());
    tokio::join!(
        carry(client.0, server.1, one_way),
        carry(server.0, client.1, one_way)
    );
}

/// Relays bytes in one direction. Each byte is delayed by the same time, no matter how many are in flight.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, one_way: Duration) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let read = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + one_way;
            if sender.send((due, buffer[..length].to_vec())).is_err() {
                break;
            }
        }
        // The end of the stream is delayed like the bytes before it.
        sleep(one_way).await;
        drop(sender);
    };
    let write = async {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
