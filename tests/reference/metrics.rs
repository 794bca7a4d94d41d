//! Writes docs/reference/metrics.md from a page of metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use endpoint_copier_core::model::{ServiceKey, SourceAndCopies, WatchKind};
use endpoint_copier_core::verdicts::{Phase, Reply, Target};
use endpoint_copier_operator::telemetry::metrics::Metrics;
use endpoint_copier_operator::telemetry::watch_health::WatchHealth;

use crate::generated::check;
use crate::table::{code, generated_from, table};

const INTRO: &str = "\
# Metrics

Every replica serves `/metrics`. Only the leader knows the state of Services: other replicas do not export
`endpoint_copier_out_of_sync_seconds`, `endpoint_copier_last_success_timestamp_seconds` and `endpoint_copier_endpoints`,
and their `endpoint_copier_managed_services`, `endpoint_copier_services_in_sync` and `endpoint_copier_findings` are 0.
Use the maximum over all replicas, not the sum, because during a takeover, Prometheus may still have the last scrape of
the old leader.

A managed Service has up to 8 series: one of `out_of_sync_seconds`, one of `last_success_timestamp_seconds`, and 6 of
`endpoints`. No other metric grows with the number of Services. The series of a Service end when the Service is no
longer managed, and the series of all Services end when the term ends. The series of an API server end when this replica
no longer probes it. Counters start at 0 for every label value that is known in advance.

A replica renders the page at most once a second, for all clients together, so a page may be one second old. If the
replica renders two newer pages before a slow client has read its page, the response ends early. A replica serves at
most 32 connections. If a client opens another one, the replica closes a connection of the peer that has the most
connections: the oldest idle connection or, if none is idle, the oldest one.
";

/// The sections, by the prefix of the metric names in them.
const SECTIONS: [(&[&str], &str); 4] = [
    (&["endpoint_copier_"], "The operator"),
    (
        &["leader_election_"],
        "Leader election, with the name that the Go operator uses",
    ),
    (
        &["controller_runtime_", "workqueue_", "rest_client_"],
        "Queue and client, with the names of controller-runtime",
    ),
    (&["process_"], "The process"),
];

/// A label with its values, in Markdown.
struct Label {
    /// The names of labels that have the same values.
    names: &'static [&'static str],
    /// Prefixes of the names of the metrics to which this row applies. An empty list stands for all metrics with one of
    /// these labels.
    of: &'static [&'static str],
    /// A description of the values. If it names values in backticks, the label has no other values.
    values: &'static str,
}

/// Every label of the page.
const LABELS: &[Label] = &[
    Label {
        names: &["service_namespace", "service"],
        of: &[],
        values: "A managed Service. The first label is not named namespace, because Prometheus uses that name for the \
                 namespace of the Pod.",
    },
    Label {
        names: &["side"],
        of: &[],
        values: "`source`: the EndpointSlices of the source, in the families that the Service wants. `copy`: the \
            copies.",
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
        values: "A probed API server. No other label holds the address of an endpoint.",
    },
    Label {
        names: &["state"],
        of: &["endpoint_copier_probe_state"],
        values: "`new`: not seen healthy since it was listed. `well`: healthy. `failing`: the last probes failed. \
                 `down`: too many probes in a row failed, or one failed while the server was rising. `rising`: it \
                 answers again, but not yet often or long enough.",
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
        values: "One of the reasons in [Events](events.md).",
    },
    Label {
        names: &["reason"],
        of: &["endpoint_copier_watch_restarts_total"],
        values: "`expired`: the resourceVersion is too old, or etcd was restored from a backup. `error`: the API \
                 server responded with an error or did not respond. `selector`: the names to watch changed. `stale`: a \
                 read, or the response to a renewal of the Lease, showed a change that the watch had not shown.",
    },
    Label {
        names: &["resource"],
        of: &[],
        values: "A watch. Always: `services`, `sources` and `copies`. With leader election: `lease` and, unless probes \
            are off, `probe_lease`. Once a Service needs them: `nodes` and `grants`.",
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
        values: "Host of the configured API URL, method, and status code of a request to an API server. The code is &lt;error> if there was no response.",
    },
    Label {
        names: &["version", "commit"],
        of: &[],
        values: "Version and commit of the build.",
    },
];

/// A metric on the page, with the values of its labels.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    /// The values of each label, by its name.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// All metrics of a page, after each metric has received a value, because some metrics appear only with their first
/// value.
fn families() -> BTreeMap<String, Family> {
    let metrics = Metrics::new("lease").expect("metrics");
    metrics.api_request(&http::Method::GET, None, "host");
    metrics.observe_renewal(Duration::ZERO);
    let service = ServiceKey::new("default", "vip");
    metrics
        .services()
        .ended(&service, Some(true), Some(SourceAndCopies::default()));
    let server = Target::new([192, 0, 2, 1].into(), 6443);
    metrics.probes().set_state(server, Phase::Well);
    metrics.probes().set_listed(server, true);
    metrics.probes().set_objected(server, false);
    metrics.probes().attempt(server, &Reply::Success, Duration::ZERO);
    let watch_health = WatchHealth::default();
    let _running = WatchKind::ALL.map(|watch| watch_health.start(watch));
    metrics.read_watch_life(watch_health);

    let mut families = BTreeMap::<_, Family>::new();
    let mut current = String::new();
    for line in metrics.render().lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(help)) => {
                name.clone_into(&mut current);
                help.clone_into(&mut families.entry(current.clone()).or_default().help);
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
            }
            _ => {
                let inner = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
                let pairs = inner.map(|(inner, _)| inner.split("\",")).into_iter().flatten();
                let family = families
                    .get_mut(&current)
                    .expect("HELP or TYPE line before the samples");
                for (label, value) in pairs.filter_map(|pair| pair.split_once("=\"")) {
                    if label != "le" {
                        let values = family.labels.entry(label.to_owned()).or_default();
                        values.insert(value.trim_end_matches('"').to_owned());
                    }
                }
            }
        }
    }
    families
}

#[test]
fn metrics_page_is_up_to_date() {
    let families = families();
    let mut text = generated_from("`src/telemetry/metrics`") + INTRO;
    let mut count = 0;
    for (prefixes, title) in SECTIONS {
        let of_section = families
            .iter()
            .filter(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
        let rows = of_section.map(|(name, family)| {
            count += 1;
            let labels: Vec<_> = family.labels.keys().map(|label| code(label)).collect();
            [
                code(name),
                family.kind.clone(),
                labels.join(" "),
                family.help.replace('<', "&lt;"),
            ]
        });
        text.extend(["\n## ", title, "\n\n"]);
        text.push_str(&table(["metric", "type", "labels", "meaning"], rows));
    }
    assert_eq!(count, families.len(), "a metric is in no section");
    text.push_str("\n## Labels\n\n");
    text.push_str(&table(["label", "metric", "value"], LABELS.iter().map(row)));
    check("docs/reference/metrics.md", &text);
}

fn row(label: &Label) -> [String; 3] {
    let codes = |names: &[&str]| names.iter().map(|name| code(name)).collect::<Vec<_>>().join(", ");
    // A name that ends in an underscore is the common prefix of several names.
    let of = codes(label.of).replace("_`", "_…`");
    [codes(label.names), of, label.values.to_owned()]
}

#[test]
fn every_label_and_its_values_are_explained() {
    let mut used = BTreeSet::new();
    for (name, family) in families() {
        for (label, values) in family.labels {
            let is_it = |known: &Label| {
                let is_of = |begin: &&str| name.starts_with(begin);
                known.names.contains(&label.as_str()) && (known.of.is_empty() || known.of.iter().any(is_of))
            };
            let explained: Vec<_> = (0..).zip(LABELS).filter(|(_, known)| is_it(known)).collect();
            let [(number, explained)] = explained[..] else {
                panic!("{label} of {name} is explained {} times", explained.len());
            };
            used.insert(number);
            let is_named = |value: &String| explained.values.contains(&code(value));
            let is_closed = explained.values.contains('`');
            assert!(
                !is_closed || values.iter().all(is_named),
                "{label} of {name}: {values:?}"
            );
        }
    }
    assert_eq!(
        used.len(),
        LABELS.len(),
        "LABELS explains a label that no metric has"
    );
}
