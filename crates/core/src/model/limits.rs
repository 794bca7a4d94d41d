//! The limits on managed Services. `index::quota` enforces those on their number.

use super::{Finding, Reason, ServiceKey, annotation};

/// The limits on the number of managed Services that get copies. The Service that the flags name, and Services in
/// namespace `default` that copy `default/kubernetes`, are exempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLimits {
    /// The limit in one namespace.
    pub per_namespace: usize,
    /// The limit in the cluster.
    pub total: usize,
}

/// The defaults of the flags.
impl Default for ServiceLimits {
    fn default() -> Self {
        Self {
            per_namespace: 1_000,
            total: 10_000,
        }
    }
}

/// The limit that keeps a managed Service from getting copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// [`ServiceLimits::per_namespace`].
    Namespace,
    /// [`ServiceLimits::total`].
    Total,
}

impl ServiceLimits {
    /// The finding for a Service that gets no copies because of a limit. Its text does not contain the number of
    /// waiting Services, because each change to the text causes an Event.
    #[must_use]
    pub fn finding(&self, exceeded: Exceeded, service: &ServiceKey) -> Finding {
        let (place, limit, flag) = match exceeded {
            Exceeded::Namespace => (
                format!("namespace {}", service.namespace()),
                self.per_namespace,
                "--max-services-per-namespace",
            ),
            Exceeded::Total => ("the cluster".to_owned(), self.total, "--max-services"),
        };
        Finding::new(
            Reason::LimitReached,
            format!(
                "{place} has more than {limit} managed Services, so this one gets no copies; remove {} from Services that \
                 need no copies, or ask an admin to raise {flag}",
                annotation::ENABLED
            ),
        )
    }
}
