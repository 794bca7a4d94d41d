//! Kinds of watches, writes and results, as words in metrics and logs.

use super::words::words;

words! {
    /// A watch, including its initial list.
    WatchKind {
        /// All Services.
        Services => "services",
        /// The slices of sources, and the slices of managed and disabled Services, except copies.
        Sources => "sources",
        /// The slices with our managed-by label.
        Copies => "copies",
        /// The Lease of the leader election.
        Lease => "lease",
        /// The Nodes that `--nodes-selector` selects, while a managed Service needs them.
        Nodes => "nodes",
        /// The ReferenceGrants, once they could give consent for a source in another namespace.
        Grants => "grants",
        /// The Lease in which the leader announces which API servers seem to fail, and in which the other replicas
        /// object. It is watched while API servers are probed.
        ProbeLease => "probe_lease",
    }
}

impl WatchKind {
    /// The watches that a replica can do without. While one of them fails, copies keep the data that they already have,
    /// or the leader reads the probe Lease instead.
    pub const OPTIONAL: [Self; 3] = [Self::Nodes, Self::Grants, Self::ProbeLease];

    /// The watches on which all copies depend.
    pub const VIEW: [Self; 3] = [Self::Services, Self::Copies, Self::Sources];
}

words! {
    /// A write of a copy.
    Operation {
        /// POST.
        Create => "create",
        /// PUT.
        Update => "update",
        /// DELETE.
        Delete => "delete",
    }
}

words! {
    /// How a sync of one managed Service ended.
    SyncResult {
        /// Every write that was due succeeded.
        Success => "success",
        /// A failure that another attempt can fix.
        Error => "error",
        /// A problem that only a person can fix.
        Refused => "refused",
        /// The Service waits, for example until a watch has listed its source or shows the cause of a conflict.
        Requeued => "requeued",
    }
}

words! {
    /// How a sync ended, in the words of controller-runtime.
    ReconcileResult {
        /// Nothing is left to do.
        Success => "success",
        /// The sync is retried with backoff.
        Error => "error",
        /// The sync is retried immediately. This operator never does that.
        Requeue => "requeue",
        /// The sync continues at a known time.
        RequeueAfter => "requeue_after",
    }
}

words! {
    /// Why a watch restarted.
    Restart {
        /// The API server no longer knows the resourceVersion (410), or does not know it yet, for example after a
        /// restore from a backup.
        Expired => "expired",
        /// The API server responded with an error, or did not respond.
        Error => "error",
        /// The set of watched names changed.
        Selector => "selector",
        /// The watch did not show a state that a consistent read of the API, or the response to a write, showed.
        Stale => "stale",
    }
}
