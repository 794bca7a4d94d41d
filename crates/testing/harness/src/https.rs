//! A TLS client that accepts any server certificate, like a scraper with `insecureSkipVerify`.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// A response.
#[derive(Clone, Debug)]
pub struct HttpsAnswer {
    /// The status code.
    pub code: u16,
    /// Status line and headers.
    pub head: String,
    /// The body.
    pub body: String,
    /// The certificate of the server, in DER.
    pub certificate: Vec<u8>,
}

/// Performs the TLS handshake on a connection.
///
/// # Errors
/// If the handshake fails.
pub async fn tls(stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider's own versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    // The protocols that Prometheus offers.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The text of a GET request, with a bearer token if `token` is `Some`.
#[must_use]
pub fn request(path: &str, token: Option<&str>) -> String {
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n"));
    format!(
        "GET {path} HTTP/1.1\r\nhost: x\r\n{}\r\n",
        token.unwrap_or_default()
    )
}

/// Sends one request on a connection, and reads until the server closes it.
///
/// # Errors
/// If the handshake fails, the request cannot be written, the response cannot be read, or the server closes the
/// connection without a TLS `close_notify`.
pub async fn https_get(stream: TcpStream, path: &str, token: Option<&str>) -> io::Result<HttpsAnswer> {
    let mut stream = tls(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().expect("a certificate").to_vec();
    let request = request(path, token).replace("host: x", "host: x\r\nconnection: close");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(HttpsAnswer {
        code: code.unwrap_or(0),
        head: head.to_owned(),
        body: body.to_owned(),
        certificate,
    })
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

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
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
