//! An [`ApiServer`] on a TCP port with TLS. The handle is the server process: dropped, it is killed.

use crate::{answer::BoxError, gate::Gate, kubeconfig, server::ApiServer};
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::{io, net::SocketAddr, path::Path, sync::Arc};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tower::Service;

/// The most bytes of headers, the path included, in a request by HTTP/2: that of Go's servers. hyper's would be 16 KiB, which a
/// selector can exceed.
const HEADERS: u32 = 1024 * 1024;

/// A server that is reachable. Dropping it closes the port and all connections at once, as a killed process does.
#[derive(Debug)]
pub struct Serving {
    server: ApiServer,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Serving {
    /// Where it is reachable; with port 0 asked for, the port it got.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate of the cluster's authority.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.server.store().pki().ca_pem()
    }

    /// The server behind it.
    #[must_use]
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// Stops reading and answering; connections stay open, new ones are taken by the kernel only.
    pub fn freeze(&self) {
        self.server.faults().freeze();
    }

    /// Goes on where [`Serving::freeze`] stopped.
    pub fn thaw(&self) {
        self.server.faults().thaw();
    }

    /// A kubeconfig for a user, with a token and a current context of this namespace.
    #[must_use]
    pub fn kubeconfig(&self, user: &str, namespace: &str) -> String {
        let token = self.server.store().token_of(user);
        kubeconfig::render(&self.url(), self.ca_pem(), &token, namespace)
    }

    /// Writes [`Serving::kubeconfig`] to a file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_kubeconfig(&self, file: &Path, user: &str, namespace: &str) -> io::Result<()> {
        std::fs::write(file, self.kubeconfig(user, namespace))
    }

    /// Kills the server and returns when its port is free.
    pub async fn shutdown(mut self) {
        self.task.abort();
        // Cancelled is what it is to be.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Binds and serves until the handle is dropped.
pub(crate) async fn serve(server: &ApiServer, address: SocketAddr) -> io::Result<Serving> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let acceptor = TlsAcceptor::from(server.store().pki().server_config());
    let task = tokio::spawn(accept(server.token_only(), listener, acceptor));
    Ok(Serving {
        server: server.clone(),
        address,
        task,
    })
}

async fn accept(server: ApiServer, listener: TcpListener, acceptor: TlsAcceptor) {
    // Dropped with this future, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        let mut frozen = server.faults().frozen();
        // The sender lives as long as `server`.
        let _ = frozen.wait_for(|frozen| !frozen).await;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = frozen.changed() => continue,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) if !server.faults().is_refusing() => {
                connections.spawn(connection(server.clone(), stream, acceptor.clone()));
            }
            // Refused: the client sees its connection closed.
            Ok(_) => {}
            // Out of file descriptors: the next try may be as bad, so others run first.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn connection(server: ApiServer, stream: TcpStream, acceptor: TlsAcceptor) {
    let _ = stream.set_nodelay(true);
    let gate = Gate::new(stream, server.faults().frozen());
    let Ok(tls) = acceptor.accept(gate).await else {
        return;
    };
    let broken = Arc::new(Notify::new());
    let service = Handler {
        server,
        broken: Arc::clone(&broken),
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_header_list_size(HEADERS);
    let serving = builder.serve_connection(TokioIo::new(tls), service);
    // A request that breaks its connection breaks it for all on it, also with HTTP/2.
    tokio::select! {
        _ = serving => {}
        () = broken.notified() => {}
    }
}

struct Handler {
    server: ApiServer,
    broken: Arc<Notify>,
}

impl hyper::service::Service<Request<Incoming>> for Handler {
    type Response = Response<crate::answer::Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answer = self.server.clone().call(request);
        let broken = Arc::clone(&self.broken);
        async move { answer.await.inspect_err(|_| broken.notify_one()) }.boxed()
    }
}
