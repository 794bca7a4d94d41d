//! The facts that an API server shows to anyone: its certificate, whether it answers, and its clock.
//!
//! The issuer and the names of the certificate are not verified, because a client of a Service may know the server by a
//! name that we do not know. So no credentials are sent, and nothing that the server says is trusted.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Request, header};
use http_body_util::Empty;
use k8s_openapi::jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::call_limits::skew;
use super::dial::KUBERNETES;
use super::probe_client::{connect, failure, probed_path, speak_http};
use endpoint_copier_core::verdicts::{Failure, Target};

/// A name that no certificate has, because the top-level domain `invalid` is reserved.
const NO_NAME: &str = "no-name.invalid";

/// The facts that a server shows.
#[derive(Debug)]
pub struct ServerFacts {
    /// The certificate of the server.
    pub certificate: ServingCertificate,
    /// The minimum difference, in seconds, between our clock and the server's clock: positive if our clock is ahead,
    /// negative if it is behind. `None` if the response has no usable date.
    pub ahead: Option<f64>,
}

/// A server's certificate, whose issuer is not verified.
#[derive(Debug)]
pub struct ServingCertificate(CertificateDer<'static>);

impl ServingCertificate {
    /// Whether the certificate is valid for this IP address or DNS name, as a client that connects to it requires.
    /// Returns `false` for text that is neither.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        ServerName::try_from(name).is_ok_and(|name| self.check(&name).is_ok())
    }

    /// Returns the addresses and DNS names in the certificate, in the order of the certificate.
    #[must_use]
    pub fn all_names(&self) -> Vec<String> {
        // rustls lists the names in its error for a name that does not match.
        let refused = ServerName::try_from(NO_NAME).map(|name| self.check(&name));
        match refused {
            Ok(Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented,
                ..
            }))) => presented.iter().map(|name| plain(name)).collect(),
            _ => Vec::new(),
        }
    }

    fn check(&self, name: &ServerName<'_>) -> Result<(), Error> {
        verify_server_name(&ParsedCertificate::try_from(&self.0)?, name)
    }
}

/// Removes the kind from `IpAddress(192.0.2.1)` and `DnsName("a")`.
fn plain(name: &str) -> String {
    let inner = |kind| name.strip_prefix(kind)?.strip_suffix(')');
    if let Some(address) = inner("IpAddress(") {
        // rustls writes `::1` as `0::1`.
        let parsed = address.parse::<IpAddr>().ok();
        parsed.map_or_else(|| address.to_owned(), |address| address.to_string())
    } else {
        inner("DnsName(").unwrap_or(name).trim_matches('"').to_owned()
    }
}

/// Connects to this address and port, and sends one request without credentials. This call has no time limit. A 5xx
/// response is a failure. A response with any other status, such as 401, is not.
///
/// # Errors
/// Returns an error if the connection or the request fails, or if the response is 5xx.
pub async fn ask(target: Target) -> Result<ServerFacts, Failure> {
    let config = config().map_err(|error| failure(&error))?;
    // With an IP address here, rustls sends no server name. If a client sends one, K3s and RKE2 may add it to their
    // certificate.
    let name = ServerName::IpAddress(target.address().into());
    let stream = connect(target, Arc::new(config), name).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().cloned();
    let certificate = certificate.ok_or_else(|| Failure::Other("no certificate".to_owned()))?;
    let (mut sender, _task) = speak_http(stream).await?;
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = http::Uri::from_static(probed_path(target));
    request
        .headers_mut()
        .insert(header::HOST, HeaderValue::from_static(KUBERNETES));
    let sent = Timestamp::now();
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(|error| failure(&error))?;
    if answer.status().is_server_error() {
        return Err(Failure::Status(answer.status().as_u16()));
    }
    Ok(ServerFacts {
        certificate: ServingCertificate(certificate.into_owned()),
        ahead: skew(answer.headers(), sent, Timestamp::now()),
    })
}

fn config() -> Result<ClientConfig, Error> {
    let provider = ring::default_provider();
    let any = AnyCertificate(provider.signature_verification_algorithms);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let mut config = builder
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(any))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts any certificate whose private key the server has.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use testbed::{ApiServer, Store};

    use super::*;

    #[tokio::test]
    async fn names_of_a_certificate_are_read_without_trust() {
        let server = ApiServer::new(&Store::new());
        let serving = server.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
        let target = Target::new(serving.address().ip(), serving.address().port());
        let shown = ask(target).await.unwrap();
        let certificate = shown.certificate;
        for (name, expected) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("kubernetes.default.svc", true),
            ("192.0.2.100", false),
            ("api.example.com", false),
            ("not a name", false),
        ] {
            assert_eq!(certificate.names(name), expected, "{name}");
        }
        let all = certificate.all_names();
        for name in ["127.0.0.1", "::1", KUBERNETES] {
            assert!(all.contains(&name.to_owned()), "{name} in {all:?}");
        }
        serving.shutdown().await;
        assert_eq!(ask(target).await.unwrap_err(), Failure::Refused);
    }
}
