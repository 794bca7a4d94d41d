//! An [`ApiServer`] on a TCP port with TLS. The handle represents the server process: dropping it kills the server.

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

/// The size limit for the headers of an HTTP/2 request, including the path, as in Go's servers. hyper's default of 16
/// KiB is too small for some selectors.
const HEADERS: u32 = 1024 * 1024;

/// A running server. Dropping it immediately closes the port and all connections, as if the process were killed.
#[derive(Debug)]
pub struct Serving {
    server: ApiServer,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Serving {
    /// The address of the server, with the actual port if port 0 was requested.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the server, such as `https://127.0.0.1:6443`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The CA certificate of the cluster.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.server.store().pki().ca_pem()
    }

    /// The server that handles the requests.
    #[must_use]
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// Stops reading and answering. Connections stay open, and only the kernel accepts new ones.
    pub fn freeze(&self) {
        self.server.faults().freeze();
    }

    /// Resumes after [`Serving::freeze`].
    pub fn thaw(&self) {
        self.server.faults().thaw();
    }

    /// A kubeconfig for a user, with a token and this namespace in its context.
    #[must_use]
    pub fn kubeconfig(&self, user: &str, namespace: &str) -> String {
        let token = self.server.store().token_of(user);
        kubeconfig::render(&self.url(), self.ca_pem(), &token, namespace)
    }

    /// Writes [`Serving::kubeconfig`] to a file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_kubeconfig(&self, file: &Path, user: &str, namespace: &str) -> io::Result<()> {
        std::fs::write(file, self.kubeconfig(user, namespace))
    }

    /// Kills the server and returns when its port is free.
    pub async fn shutdown(mut self) {
        self.task.abort();
        // An error means that the task was canceled, as intended.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Binds the address, and serves until the handle is dropped.
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
    // Dropping this future drops all connections.
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
            // Refused: the connection is closed.
            Ok(_) => {}
            // Out of file descriptors: an immediate retry would probably fail too, so other tasks run first.
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
    // An effect that breaks the connection of one request breaks it for all requests on that connection, even with
    // HTTP/2.
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
