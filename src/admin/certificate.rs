//! The serving certificate of `/metrics`: from mounted files, which may change at any time, or self-signed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{Error, ServerConfig};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

/// The time between checks of the mounted files.
const PERIOD: Duration = Duration::from_secs(5);

/// The TLS settings of new connections, with the current certificate.
pub(super) struct Certificate {
    directory: Option<PathBuf>,
    current: Mutex<Current>,
}

struct Current {
    tls: Arc<ServerConfig>,
    /// The files as they were last read, whether or not they could be used. `None` if they could not be read.
    files: Option<Files>,
}

/// The contents of the files of a Secret of type `kubernetes.io/tls`.
#[derive(PartialEq)]
struct Files {
    certificates: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// Reads the files in a directory. Creates a self-signed certificate if there is no directory or the files cannot
    /// be used, because the operator must also start without a Secret.
    ///
    /// # Errors
    /// Returns an error if no certificate can be created.
    pub(super) fn load(directory: Option<&Path>) -> io::Result<Self> {
        let read = directory.map(Files::read);
        let tls = match read.as_ref().map(usable) {
            Some(Ok(tls)) => tls,
            Some(Err(error)) => {
                warn!(%error, "/metrics is served with a self-signed certificate until the files can be used");
                self_signed()?
            }
            None => self_signed()?,
        };
        Ok(Self {
            directory: directory.map(Path::to_owned),
            current: Mutex::new(Current {
                tls: Arc::new(tls),
                files: read.and_then(Result::ok),
            }),
        })
    }

    /// Returns the settings for the next connection.
    pub(super) fn tls(&self) -> Arc<ServerConfig> {
        self.current.lock().tls.clone()
    }

    /// Reads the files every few seconds, and switches to them when they have changed. Never returns. The kubelet swaps
    /// all files of a Secret at once, through a symlink. If the swap happens between our reads of the two files, the
    /// certificate and the key do not match and are rejected, and the next check reads the new files.
    pub(super) async fn follow(&self) {
        let Some(directory) = &self.directory else {
            return std::future::pending().await;
        };
        loop {
            sleep(PERIOD).await;
            let directory = directory.clone();
            // A file system may be slow, and nothing may delay the renewal of the Lease.
            let read = spawn_blocking(move || Files::read(&directory)).await;
            self.replace(read.unwrap_or_else(|error| Err(io::Error::other(error))));
        }
    }

    /// Switches to the files that were read if they have changed. Unusable files change nothing, and are logged once.
    fn replace(&self, read: io::Result<Files>) {
        let mut current = self.current.lock();
        if read.as_ref().ok() == current.files.as_ref() {
            return;
        }
        let tls = usable(&read);
        current.files = read.ok();
        match tls {
            Ok(tls) => {
                current.tls = Arc::new(tls);
                info!("/metrics is served with a new certificate");
            }
            Err(error) => {
                warn!(%error, "/metrics keeps its old certificate, because the mounted files cannot be used");
            }
        }
    }
}

impl Files {
    fn read(directory: &Path) -> io::Result<Self> {
        let read = |name| {
            let path = directory.join(name);
            let named =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            std::fs::read(&path).map_err(named)
        };
        Ok(Self {
            certificates: read("tls.crt")?,
            key: read("tls.key")?,
        })
    }

    fn tls(&self) -> io::Result<ServerConfig> {
        let invalid = |file: &str, error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{file}: {error}"))
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificates).collect();
        let chain = chain.map_err(|error| invalid("tls.crt", &error))?;
        if chain.is_empty() {
            return Err(invalid("tls.crt", &"no certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| invalid("tls.key", &error))?;
        server_config(chain, key).map_err(|error| invalid("tls.crt and tls.key", &error))
    }
}

/// Returns TLS settings with these files, or an error if the files could not be read or are unusable.
fn usable(read: &io::Result<Files>) -> io::Result<ServerConfig> {
    match read {
        Ok(files) => files.tls(),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

/// Creates TLS settings with a self-signed certificate, which no client can verify.
fn self_signed() -> io::Result<ServerConfig> {
    let made = || -> Result<_, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(["localhost".to_owned()])?;
        params
            .distinguished_name
            .push(DnType::CommonName, env!("CARGO_PKG_NAME"));
        Ok((params.self_signed(&key)?, key))
    };
    let (certificate, key) = made().map_err(io::Error::other)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    server_config(vec![certificate.der().clone()], key.into()).map_err(io::Error::other)
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Most scrapes need a new connection, because idle connections close after 5 s. Scrapes are rare, so full
    // handshakes cost less than the memory for sessions.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::telemetry::testing::logged;

    /// Creates a certificate and its key.
    fn pem() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    /// Rule: survive.metrics-certificate
    #[test]
    fn unusable_files_keep_the_certificate_and_are_logged_once() {
        let (log, _guard) = logged();
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let write = |certificate: &str, key: &str| {
            fs::write(directory.join("tls.crt"), certificate).unwrap();
            fs::write(directory.join("tls.key"), key).unwrap();
        };
        let ((certificate, key), (other_certificate, other_key)) = (pem(), pem());
        write(&certificate, &key);
        let serving = Certificate::load(Some(directory)).unwrap();
        let first = serving.tls();
        // Returns the new log line, or an empty string if there is none.
        let look = || {
            let before = log.lines().len();
            for _ in 0..3 {
                serving.replace(Files::read(directory));
            }
            let lines = log.lines().split_off(before);
            assert!(lines.len() <= 1, "{lines:?}");
            lines.concat()
        };
        assert_eq!(look(), "");
        for (certificate, key, reason) in [
            (
                &certificate[..],
                &other_key[..],
                "tls.crt and tls.key: keys may not be consistent",
            ),
            ("", &key, "tls.crt: no certificate"),
            ("-----BEGIN CERTIFICATE-----\nA", &key, "tls.crt: "),
            (&certificate, "nonsense", "tls.key: "),
        ] {
            write(certificate, key);
            let line = look();
            assert!(
                line.starts_with("WARN /metrics keeps its old certificate"),
                "{reason}: {line}"
            );
            assert!(line.contains(reason), "{reason}: {line}");
        }
        fs::remove_file(directory.join("tls.key")).unwrap();
        assert!(look().contains("tls.key: No such file"));
        assert!(Arc::ptr_eq(&first, &serving.tls()));

        write(&other_certificate, &other_key);
        assert_eq!(look(), "INFO /metrics is served with a new certificate");
        assert!(!Arc::ptr_eq(&first, &serving.tls()));
    }

    /// Rule: survive.metrics-certificate
    #[test]
    fn self_signed_certificate_is_used_until_files_are_usable() {
        let (log, _guard) = logged();
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let (certificate, key) = pem();
        for reason in ["tls.crt: No such file", "tls.crt: no certificate"] {
            let before = log.lines().len();
            let serving = Certificate::load(Some(directory)).unwrap();
            let first = serving.tls();
            serving.replace(Files::read(directory));
            let lines = log.lines().split_off(before);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].starts_with("WARN /metrics is served with a self-signed certificate"));
            assert!(lines[0].contains(reason), "{lines:?}");

            fs::write(directory.join("tls.crt"), &certificate).unwrap();
            fs::write(directory.join("tls.key"), &key).unwrap();
            serving.replace(Files::read(directory));
            assert!(!Arc::ptr_eq(&first, &serving.tls()));
            fs::write(directory.join("tls.crt"), "").unwrap();
        }
        let before = log.lines().len();
        Certificate::load(None).unwrap();
        assert_eq!(
            log.lines().len(),
            before,
            "a line was logged although no directory was given"
        );
    }
}
