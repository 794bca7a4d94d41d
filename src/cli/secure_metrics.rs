//! The flags that protect `/metrics`, named as in Kubebuilder projects.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::go;
use super::values::not_empty;
use crate::config::SecureMetrics;

#[derive(Args)]
pub(super) struct SecureMetricsFlags {
    /// Serve /metrics over TLS, and only to clients whose token allows them to get it
    #[arg(
        long,
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_parser = go::boolean
    )]
    metrics_secure: bool,

    /// Directory with tls.crt and tls.key for --metrics-secure; changed files are used without a restart [default: a
    /// self-signed certificate]
    #[arg(long, value_name = "DIRECTORY")]
    metrics_cert_path: Option<String>,
}

impl SecureMetricsFlags {
    /// Checks that these flags fit together. `origin` maps the name of a flag to the name under which the user set it.
    pub(super) fn check(self, origin: impl Fn(&str) -> String) -> Result<Option<SecureMetrics>, String> {
        let cert_path = not_empty(self.metrics_cert_path);
        match cert_path {
            Some(path) if !self.metrics_secure => {
                let flag = origin("metrics-cert-path");
                Err(format!("{flag} {path:?}: needs --metrics-secure"))
            }
            cert_path => Ok(self.metrics_secure.then(|| SecureMetrics {
                cert_path: cert_path.map(PathBuf::from),
            })),
        }
    }
}
