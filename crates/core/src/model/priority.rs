//! The order in which copies are written.

/// How urgent the copies of a Service are, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// The Service that `--managed-endpoint-namespace` and `--managed-endpoint-name` name. Clients and nodes reach the
    /// API servers through it.
    Flagged,
    /// The other Services in namespace `default` that copy `default/kubernetes`. Usually, only an admin can create
    /// Services there.
    ApiServers,
    /// All other Services, whatever their source, because any user can create a Service that copies
    /// `default/kubernetes`.
    Other,
}
