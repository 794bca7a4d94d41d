//! A slow network in front of an API server: each byte is delayed in both directions.
//!
//! The kernel's own delay (`netem`) needs root and a kernel module that some machines lack.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::listening::Listening;

/// A relay to a server that delays each byte by `one_way` in each direction. The relay listens on the IP of the server.
pub async fn delay(server: SocketAddr, one_way: Duration) -> Listening {
    Listening::at(server.ip(), move |stream| pass(stream, server, one_way)).await
}

/// Relays one connection until both directions have ended.
async fn pass(mut from: TcpStream, server: SocketAddr, one_way: Duration) {
    // The kernel accepts a connection immediately, so the round trip of SYN and SYN-ACK is added before the first byte.
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

/// Relays bytes in one direction. Each byte is delayed by the same time, no matter how many bytes are in flight.
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
