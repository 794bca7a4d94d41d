//! The cluster's certificate authority and server certificates, created for each store or real cluster.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::sync::Arc;
use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};

/// Names under which clients reach an API server.
const NAMES: &[&str] = &[
    "127.0.0.1",
    // For several servers on one port, as on real control-plane nodes.
    "127.0.0.2",
    "127.0.0.3",
    "127.0.0.4",
    "127.0.0.5",
    "::1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// A certificate authority.
#[derive(Debug)]
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

impl Pki {
    /// Creates an authority.
    ///
    /// # Panics
    ///
    /// If no key can be generated. In that case, no test is possible.
    #[must_use]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key for the authority");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "testbed-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = params
            .self_signed(&key)
            .expect("a certificate for the authority")
            .pem();
        Self {
            issuer: Issuer::new(params, key),
            ca_pem,
        }
    }

    /// The CA certificate.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A server certificate and its key, as PEM.
    ///
    /// # Panics
    ///
    /// If no key can be generated.
    #[must_use]
    pub fn server_pem(&self) -> (String, String) {
        let (certificate, key) = self.server(NAMES);
        (certificate.pem(), key.serialize_pem())
    }

    fn server(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key for a server");
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("valid names");
        params
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("a certificate for a server");
        (certificate, key)
    }

    /// TLS settings for a client that trusts only this authority.
    ///
    /// # Panics
    ///
    /// If ring does not accept a certificate that it generated.
    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).expect("our own PEM");
        roots.add(ca).expect("our own certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider's own versions");
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }

    /// TLS settings for a server with HTTP/2 and HTTP/1.1.
    ///
    /// # Panics
    ///
    /// If ring does not accept its own key.
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        self.server_config_named(NAMES)
    }

    /// TLS settings for a server with other names.
    ///
    /// # Panics
    ///
    /// If a name is not valid.
    pub(crate) fn server_config_named(&self, names: &[&str]) -> Arc<ServerConfig> {
        let (certificate, key) = self.server(names);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider's own versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a key that fits its certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}
