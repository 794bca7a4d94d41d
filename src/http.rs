//! Metrics and health over HTTP, each on an address of its own.

mod connections;
mod health;
mod rendering;
mod server;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::ready;
use http_body_util::{Either, Full};
use hyper::StatusCode;
use tokio::net::{TcpListener, lookup_host};
use tokio_util::sync::CancellationToken;

use crate::cli::BindAddress;
use crate::metrics::Metrics;

pub use health::{Health, Probe};
use rendering::Rendering;
use server::{Limits, Page};

/// Listens on `address`. `:port` means both families, or IPv4 alone on a host without IPv6.
///
/// # Errors
///
/// Those of the system, with the address in front.
pub async fn bind(address: &BindAddress) -> io::Result<TcpListener> {
    let listener = match address {
        BindAddress::All { port } => bind_all(*port).await,
        BindAddress::Socket(socket) => TcpListener::bind(socket).await,
        BindAddress::Host { host, port } => bind_first(lookup_host((host.as_str(), *port)).await).await,
    };
    listener.map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// On Linux a socket of `[::]` takes IPv4 as well.
async fn bind_all(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        // These would befall IPv4 too, or leave half of the port to a stranger.
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
            ) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        result => result,
    }
}

async fn bind_first(addresses: io::Result<impl Iterator<Item = SocketAddr>>) -> io::Result<TcpListener> {
    let addresses: Vec<_> = addresses?.collect();
    TcpListener::bind(&addresses[..]).await
}

/// Serves `/metrics` until `shutdown`, then ends what runs within half a second. A page may be a second old.
pub async fn serve_metrics(listener: TcpListener, metrics: Metrics, shutdown: CancellationToken) {
    server::serve(listener, metrics_pages(metrics), Limits::default(), shutdown).await;
}

/// Serves `/healthz`, `/livez` and `/readyz` until `shutdown`, then ends what runs within half a second. A connection
/// ends with its first answer.
pub async fn serve_health(listener: TcpListener, health: Health, shutdown: CancellationToken) {
    let limits = Limits {
        keep_alive: false,
        ..Limits::default()
    };
    server::serve(listener, health_pages(health), limits, shutdown).await;
}

fn metrics_pages(metrics: Metrics) -> server::Pages {
    let rendering = Arc::new(Rendering::new(metrics));
    Arc::new(move |path, _query| {
        let rendering = rendering.clone();
        let page = async move {
            Page {
                status: StatusCode::OK,
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: Either::Right(rendering.page().await),
            }
        };
        (path == "/metrics").then(|| page.boxed())
    })
}

/// `/healthz` is the older name of `/livez`.
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
        let report = health.report(probe);
        let page = Page {
            status: if report.passed() {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            },
            content_type: "text/plain; charset=utf-8",
            body: Either::Left(Full::from(report.text(name, verbose))),
        };
        Some(ready(page).boxed())
    })
}

#[cfg(test)]
mod tests;
