//! The labels of metrics and their values, for the reference page.

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
        names: &["address", "port"],
        of: &[],
        values: "A probed API server: the only labels that hold an address.",
    },
    Label {
        names: &["state"],
        of: &["endpoint_copier_probe_state"],
        values: "`new`: never seen well. `well`. `failing`: the last probes failed. `down`: too many failed. `rising`: it \
                 answers again, but not for long enough.",
    },
    Label {
        names: &["result"],
        of: &["endpoint_copier_probe_attempts_total"],
        values: "`success` (2xx), `alive` (401, 403 or 429), `refused`, `reset`, `timeout`, `certificate`, `status` (any \
                 other), `other`",
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
