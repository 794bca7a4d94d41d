//! The order in which copies are written.

/// How urgent the copies of a Service are, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// The Service that `--managed-endpoint-namespace` and `--managed-endpoint-name` name: it leads clients and nodes
    /// to the API servers.
    Flagged,
    /// The other Services in namespace `default` that copy `default/kubernetes`. Only an administrator can
    /// create one there.
    ApiServers,
    /// All others, whatever their source, because any user may copy the API servers' list.
    Other,
}
