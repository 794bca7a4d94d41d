//! Serves metrics and health over HTTP, each on its own address.

mod authorization;
mod certificate;
mod connections;
mod health;
mod rate_limit;
mod rendering;
mod secure;
mod server;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::ready;
use http_body_util::{Either, Full};
use hyper::StatusCode;
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio_util::sync::CancellationToken;

use crate::config::ServerAddress;
use crate::telemetry::metrics::Metrics;

pub use health::{Health, Probe};
use rendering::Rendering;
pub use secure::Secure;
use server::{Document, Limits, Site};

/// The number of connections that may wait in the kernel to be accepted; `net.core.somaxconn` caps it. The kernel drops
/// any further connection, and its client tries again after a second, which is too late for a probe. The standard
/// library uses 128.
const BACKLOG: u32 = 4096;

/// The number of bytes that the kernel buffers in each direction of a connection. The kernel doubles this number for
/// its own records, and counts it against the memory limit of the Pod. By default, the kernel buffers up to several MB.
const KERNEL_BUFFER: u32 = 8 * 1024;

/// Listens on `address`. Without a host, it listens on both families, or on IPv4 alone if the machine has no IPv6.
///
/// # Errors
///
/// Returns the operating system's error, prefixed with the address.
pub async fn bind(address: &ServerAddress) -> io::Result<TcpListener> {
    let listener = match (address.host.as_str(), address.port) {
        ("", port) => listen_on_all(port),
        named => listen_on_first(lookup_host(named).await),
    };
    listener.map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// Listens on `[::]` or, without IPv6, on `0.0.0.0`. On Linux, a socket on `[::]` also accepts IPv4, unless the sysctl
/// `net.ipv6.bindv6only` is set.
fn listen_on_all(port: u16) -> io::Result<TcpListener> {
    match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
        // A fallback to IPv4 would fail with the same error, or leave the IPv6 port to another process.
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
            ) =>
        {
            listen((Ipv4Addr::UNSPECIFIED, port).into())
        }
        result => result,
    }
}

fn listen_on_first(addresses: io::Result<impl Iterator<Item = SocketAddr>>) -> io::Result<TcpListener> {
    let mut result = Err(io::Error::other("the name has no address"));
    for address in addresses? {
        result = listen(address);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit these sizes.
    socket.set_send_buffer_size(KERNEL_BUFFER)?;
    socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `/metrics` until `shutdown` is canceled. Responses in progress then have half a second to finish, or less if
/// the caller drops the future, as [`crate::run`] does. A page may be up to a second old. With `secure`, connections
/// use TLS, and clients need a token that allows them to get `/metrics`.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: Metrics,
    secure: Option<Secure>,
    shutdown: CancellationToken,
) {
    let limits = Limits {
        // Each connection takes about 30 KiB if its client does not read.
        connections: 32,
        ..Limits::default()
    };
    let site = Site {
        pages: metrics_pages(metrics),
        secure: secure.map(Arc::new),
    };
    server::serve(listener, site, limits, shutdown).await;
}

/// Serves `/healthz`, `/livez` and `/readyz` until `shutdown` is canceled. Responses in progress then have the same
/// time to finish as those of [`serve_metrics`]. Each connection closes after its first response.
pub async fn serve_health(listener: TcpListener, health: Health, shutdown: CancellationToken) {
    let limits = Limits {
        keep_alive: false,
        ..Limits::default()
    };
    let site = Site {
        pages: health_pages(health),
        secure: None,
    };
    server::serve(listener, site, limits, shutdown).await;
}

fn metrics_pages(metrics: Metrics) -> server::Pages {
    let rendering = Arc::new(Rendering::new(metrics));
    Arc::new(move |path, _query| {
        let rendering = rendering.clone();
        let page = async move {
            Document {
                status: StatusCode::OK,
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: Either::Right(rendering.page().await),
            }
        };
        (path == "/metrics").then(|| page.boxed())
    })
}

/// `/healthz` is the older name for `/livez`.
fn health_pages(health: Health) -> server::Pages {
    Arc::new(move |path, query| {
        let (name, probe) = match path {
            "/healthz" => ("healthz", Probe::Liveness),
            "/livez" => ("livez", Probe::Liveness),
            "/readyz" => ("readyz", Probe::Readiness),
            _ => return None,
        };
        let verbose = query.is_some_and(|query| {
            query
                .split('&')
                .any(|part| part.split('=').next() == Some("verbose"))
        });
        let (passed, text) = health.report(probe, name, verbose);
        let page = Document {
            status: if passed {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            },
            content_type: "text/plain; charset=utf-8",
            body: Either::Left(Full::from(text)),
        };
        Some(ready(page).boxed())
    })
}

#[cfg(test)]
mod tests;
