//! The values of labels, where they are known beforehand.

/// Declares the values of a label as a type.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl $name {
            pub(super) const ALL: &[Self] = &[$(Self::$value,)+];

            /// The label's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }
    };
}

label! {
    /// How a sync of one managed Service ended.
    SyncResult {
        /// Its copies are in sync.
        Success => "success",
        /// A failure that another attempt may cure.
        Error => "error",
        /// Something that only a person can change.
        Refused => "refused",
        /// It waits for the watch to show its own write, or for its turn.
        Requeued => "requeued",
    }
}

label! {
    /// How a sync ended, in the words of controller-runtime.
    ReconcileResult {
        /// It is done.
        Success => "success",
        /// It is tried again, after a pause that grows.
        Error => "error",
        /// Never here: it is tried again at once.
        Requeue => "requeue",
        /// It goes on at a moment that is known.
        RequeueAfter => "requeue_after",
    }
}

label! {
    /// Why a watch restarted.
    Restart {
        /// The API server no longer knows the resourceVersion (410), or does not know it yet, as after a restore
        /// from a backup.
        Expired => "expired",
        /// The API server answered with an error, or not at all.
        Error => "error",
        /// Other names are to be watched.
        Selector => "selector",
        /// The watch did not show what a consistent read of the API shows.
        Stale => "stale",
    }
}

/// A label with its values, in Markdown. The reference page of metrics is made from it.
pub struct Label {
    /// Names of labels with the same values.
    pub names: &'static [&'static str],
    /// What the names of its metrics begin with; empty: all metrics that have such a label.
    pub of: &'static [&'static str],
    /// If some are in backticks, there are no others.
    pub values: &'static str,
}

/// Every label of the page.
pub const LABELS: &[Label] = &[
    Label {
        names: &["service_namespace", "service"],
        of: &[],
        values: "A managed Service. The label is not named namespace, since Prometheus gives that name to the namespace of \
                 the Pod.",
    },
    Label {
        names: &["side"],
        of: &[],
        values: "`source`: the EndpointSlices of the source, of the families that the Service wants. `copy`: the copies.",
    },
    Label {
        names: &["condition"],
        of: &[],
        values: "`ready`: the endpoint gets traffic. `terminating`: it is shutting down. `unready`: neither. Each endpoint \
                 counts once, so the sum is the number of endpoints.",
    },
    Label {
        names: &["result"],
        of: &["endpoint_copier_syncs_total"],
        values: "`success`, `error`, `refused`, `requeued`",
    },
    Label {
        names: &["result"],
        of: &["controller_runtime_reconcile_total"],
        values: "`success`, `error`, `requeue_after`, `requeue` (always 0)",
    },
    Label {
        names: &["operation"],
        of: &[],
        values: "`create`, `update`, `delete`",
    },
    Label {
        names: &["type"],
        of: &[],
        values: "`Normal`, `Warning`",
    },
    Label {
        names: &["reason"],
        of: &["endpoint_copier_findings", "endpoint_copier_events_total"],
        values: "A reason of [Events](events.md).",
    },
    Label {
        names: &["reason"],
        of: &["endpoint_copier_watch_restarts_total"],
        values: "`expired`: the API server does not know the resourceVersion. `error`: it answered with an error, or not at \
                 all. `selector`: the names to watch changed. `stale`: the watch did not show what a consistent read \
                 showed.",
    },
    Label {
        names: &["resource"],
        of: &[],
        values: "A watch: `services`, `sources`, `copies`, `lease`",
    },
    Label {
        names: &["controller"],
        of: &[],
        values: "`endpointslice`",
    },
    Label {
        names: &["name"],
        of: &["workqueue_"],
        values: "`endpointslice`",
    },
    Label {
        names: &["name"],
        of: &["leader_election_master_status"],
        values: "Name of the Lease.",
    },
    Label {
        names: &["host", "method", "code"],
        of: &[],
        values: "A request to an API server. The code is &lt;error> if there was no answer.",
    },
    Label {
        names: &["version", "commit"],
        of: &[],
        values: "Version and commit of the build.",
    },
];
