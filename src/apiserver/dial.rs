//! One dial: TCP and TLS to the first of several addresses that answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use http::Uri;
use http::uri::Scheme;
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, ServiceExt as _};

use super::address_pool::AddressPool;
use super::stretch::Factor;
use crate::apiserver::error::{causes, one_line};
use crate::config::ServerAddress;
use crate::timing::{DIAL_LIMIT, PING};
use endpoint_copier_core::verdicts::Unhealthy;

/// The time limit divided by this number, but at most [`MAX_STAGGER`], is the wait for a response before the next
/// address is dialed in parallel.
const STAGGER: u32 = 5;

/// The longest wait before the next address is dialed, however long the time limit is, so that the client soon finds a
/// server that comes back.
const MAX_STAGGER: Duration = Duration::from_secs(1);

/// Lists hosts and ports of API servers, the more trusted group first.
type ListAddresses = Box<dyn Fn() -> [BTreeSet<(String, u16)>; 2] + Send + Sync>;

/// A connected stream, with or without TLS.
pub(super) type ServerStream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// The name that the certificate of an API server must have.
#[derive(Clone, Debug)]
pub(super) enum TlsName {
    /// The name that the kubeconfig gives, at every address.
    Fixed(ServerName<'static>),
    /// The name of the API, at every address: a client in a Pod usually dials IP addresses, not names. On platforms
    /// with a proxy in front of the API, the Pod may be configured with a DNS name. That name is accepted too, but only
    /// at the configured address, which this variant holds.
    InPod(ServerAddress),
    /// At the configured address, which this variant holds, the certificate must have the host of the address. At any
    /// other address, it must have the name of the API. If a flag names that address, the host of the address is also
    /// accepted: such a certificate may have been issued manually.
    Own(ServerAddress),
}

/// Returns the host of an address, if it is a DNS name and not an IP address.
pub(super) fn dns_name(address: &ServerAddress) -> Option<ServerName<'static>> {
    let name = ServerName::try_from(address.host.clone()).ok();
    name.filter(|name| matches!(name, ServerName::DnsName(_)))
}

/// The name of the API in certificates of API servers.
pub(super) const KUBERNETES: &str = "kubernetes.default.svc";

impl TlsName {
    /// Returns the names to try, in this order. The cluster's CA also signs certificates of nodes, which name their own
    /// node, so the host of an address that was only learned is not enough.
    fn of(&self, address: &ServerAddress, is_fixed: bool) -> Vec<ServerName<'static>> {
        let own = || ServerName::try_from(address.host.clone()).ok();
        let kubernetes = ServerName::try_from(KUBERNETES).ok().into_iter();
        match self {
            Self::Fixed(name) => vec![name.clone()],
            Self::InPod(configured_at) => {
                let front = dns_name(address).filter(|_| configured_at == address);
                front.into_iter().chain(kubernetes).collect()
            }
            Self::Own(configured_at) if configured_at == address => own().into_iter().collect(),
            Self::Own(_) => kubernetes.chain(is_fixed.then(own).flatten()).collect(),
        }
    }
}

/// The addresses to dial, and how to dial them.
#[derive(Clone)]
pub(super) struct Dialer {
    pub pool: Arc<Mutex<AddressPool>>,
    /// Returns the cluster's own list of API servers.
    pub listed: Arc<OnceLock<ListAddresses>>,
    pub scheme: Scheme,
    pub tls: Arc<ClientConfig>,
    pub name: TlsName,
}

/// The state of the parallel dials to several addresses.
#[derive(Default)]
struct Dials {
    /// Addresses that have neither answered nor failed, oldest first.
    silent: Vec<ServerAddress>,
    /// The addresses that have failed, and the reasons.
    errors: Vec<String>,
}

impl Dialer {
    /// Learns the addresses that the cluster lists now. Called before a dial, and whenever it matters whether there is
    /// another address. At the first dial of a process, nothing has been listed yet.
    pub fn learn(&self) {
        if let Some(listed) = self.listed.get() {
            let addresses = listed().map(|group| {
                let group = group.iter();
                group
                    .map(|(host, port)| ServerAddress::new(host, *port))
                    .collect()
            });
            self.pool.lock().learn(addresses);
        }
    }

    /// Returns all known addresses, in the order in which to try them.
    pub fn order(&self) -> Vec<ServerAddress> {
        self.learn();
        self.pool.lock().order(Instant::now())
    }

    /// Waits until probes find this address down. If it is already down, this first waits until it no longer is: the
    /// client has connected to it because no other address answered.
    pub fn until_down(&self, address: ServerAddress) -> impl Future<Output = ()> + Send + use<> {
        let mut unhealthy = self.pool.lock().unhealthy();
        async move {
            let is_down = |all: &BTreeMap<_, _>| all.get(&address) == Some(&Unhealthy::Down);
            let is_seen = unhealthy.wait_for(|all| !is_down(all)).await.is_ok()
                && unhealthy.wait_for(is_down).await.is_ok();
            if !is_seen {
                // The probes have ended.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Connects to the first of these addresses that answers, with time limits stretched by `factor`.
    pub async fn dial(
        &self,
        order: Vec<ServerAddress>,
        factor: Factor,
    ) -> Result<(ServerAddress, ServerStream), BoxError> {
        let start = Instant::now();
        let limit = factor.of(DIAL_LIMIT);
        let mut dials = Dials::default();
        let won = timeout(limit, self.race(&order, limit, &mut dials)).await;
        let timed_out = won.is_err();
        let (lost, answer) = match won {
            Ok(Some((address, stream))) => {
                // The addresses that were dialed before this one had more time, and did not answer.
                let before = dials.silent.iter().position(|other| *other == address);
                dials.silent.truncate(before.unwrap_or(0));
                (dials.silent, Ok((address, stream)))
            }
            Ok(None) => (Vec::new(), Err(dials.errors.join(", ").into())),
            Err(_) => {
                let late = |address: &_| format!("{address}: no response within {} ms", limit.as_millis());
                dials.errors.extend(dials.silent.iter().map(late));
                (dials.silent, Err(dials.errors.join(", ").into()))
            }
        };
        let (mut pool, now) = (self.pool.lock(), Instant::now());
        for address in lost {
            if timed_out {
                pool.timed_out(&address, factor, (now - start).saturating_sub(limit), now);
            } else {
                pool.failed(&address, now);
            }
        }
        answer
    }

    /// Dials one address after the other and waits for the first to answer. Returns `None` if all fail. While at least
    /// one address is silent, dials all of them again in the same order: behind the cluster IP, another API server may
    /// accept the next dial.
    async fn race(
        &self,
        order: &[ServerAddress],
        limit: Duration,
        dials: &mut Dials,
    ) -> Option<(ServerAddress, ServerStream)> {
        let stagger = (limit / STAGGER).min(MAX_STAGGER);
        let mut next = order.iter().cycle();
        let mut first_round = order.len();
        let mut running = FuturesUnordered::new();
        let mut dials_next = true;
        loop {
            if dials_next && let Some(address) = next.next() {
                first_round = first_round.saturating_sub(1);
                if !dials.silent.contains(address) {
                    dials.silent.push(address.clone());
                }
                running.push(async move { (address, self.connect(address, limit).await) });
            } else if running.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                Some((address, answer)) = running.next() => match answer {
                    Ok(stream) => return Some((address.clone(), stream)),
                    Err(error) => {
                        self.pool.lock().failed(address, Instant::now());
                        dials.silent.retain(|other| other != address);
                        dials.errors.push(format!("{address}: {}", one_line(&*error)));
                        dials_next = first_round > 0;
                    }
                },
                () = sleep(stagger) => dials_next = true,
            }
        }
    }

    async fn connect(&self, address: &ServerAddress, limit: Duration) -> Result<ServerStream, BoxError> {
        let is_fixed = self.pool.lock().is_fixed(address);
        let mut names = self.name.of(address, is_fixed).into_iter().peekable();
        while let Some(name) = names.next() {
            match self.connect_as(address, name, limit).await {
                Err(error) if names.peek().is_some() && is_another_name(&*error) => {}
                answer => return answer,
            }
        }
        Err("the host is not a valid name for a certificate".into())
    }

    async fn connect_as(
        &self,
        address: &ServerAddress,
        name: ServerName<'static>,
        limit: Duration,
    ) -> Result<ServerStream, BoxError> {
        let uri: Uri = format!("{}://{address}/", self.scheme).parse()?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // The records of a DNS name are dialed one after the other and share this time. Otherwise the first one that is
        // silent would use up all of it.
        tcp.set_connect_timeout(Some(limit));
        // Without HTTP/2, only TCP keepalive detects a dead peer.
        tcp.set_keepalive(Some(Duration::from_secs(5)));
        tcp.set_keepalive_interval(Some(PING));
        tcp.set_keepalive_retries(Some(3));
        let tls = HttpsConnectorBuilder::new()
            .with_tls_config((*self.tls).clone())
            .https_or_http()
            .with_server_name_resolver(FixedServerNameResolver::new(name))
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        tls.oneshot(uri).await
    }
}

/// Whether an error says that a certificate is valid only for another name.
fn is_another_name(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
    causes(error).any(|error| {
        matches!(
            error.downcast_ref(),
            Some(rustls::Error::InvalidCertificate(
                NotValidForName | NotValidForNameContext { .. }
            ))
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &TlsName, host: &str, is_fixed: bool) -> Vec<String> {
        let names = name.of(&ServerAddress::new(host, 6443), is_fixed);
        names.iter().map(|name| name.to_str().into_owned()).collect()
    }

    #[test]
    fn learned_address_must_show_the_name_of_the_api() {
        let own = TlsName::Own(ServerAddress::new("192.0.2.1", 6443));
        assert_eq!(names(&own, "192.0.2.1", true), ["192.0.2.1"]);
        assert_eq!(names(&own, "192.0.2.2", true), [KUBERNETES, "192.0.2.2"]);
        assert_eq!(names(&own, "192.0.2.3", false), [KUBERNETES]);
        let fixed = TlsName::Fixed(ServerName::try_from(KUBERNETES).unwrap());
        assert_eq!(names(&fixed, "192.0.2.3", true), [KUBERNETES]);
    }

    #[test]
    fn certificate_name_error_is_found_however_it_is_wrapped() {
        use rustls::CertificateError::{Expired, NotValidForName};
        let wrapped = |reason| {
            let tls = std::io::Error::other(rustls::Error::InvalidCertificate(reason));
            std::io::Error::other(tls)
        };
        assert!(is_another_name(&wrapped(NotValidForName)));
        assert!(!is_another_name(&wrapped(Expired)));
    }

    #[test]
    fn certificate_in_a_pod_may_show_the_configured_dns_name() {
        for (configured, wanted) in [
            ("api.example.com", &["api.example.com", KUBERNETES][..]),
            ("192.0.2.1", &[KUBERNETES]),
        ] {
            let configured_at = ServerAddress::new(configured, 6443);
            let name = TlsName::InPod(configured_at);
            assert_eq!(names(&name, configured, true), wanted);
            assert_eq!(names(&name, "other.example.com", true), [KUBERNETES]);
        }
    }
}
