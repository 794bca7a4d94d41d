//! Whose copies are written first.

/// How urgent the copies of a Service are. The first comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// The Service that `--managed-endpoint-namespace` and `--managed-endpoint-name` name: how clients and nodes reach
    /// the API servers.
    Flagged,
    /// The other Services in the namespace of `default/kubernetes` that copy it. Only an administrator can make one
    /// there.
    ApiServers,
    /// All others, whatever their source is: everybody may copy the list of the API servers.
    Other,
}
