//! Writes docs/reference/events.md from the reasons in the core.

use endpoint_copier_core::model::{Reason, SYNCED, SYNCED_MEANING};

use crate::generated::check;
use crate::table::{code, generated_from, table};

const INTRO: &str = "\
# Events

The operator reports problems with a managed Service, called *findings*, as Events on that Service.
`kubectl describe service <name>` shows them. The message of an Event (the API field `note`) says what is wrong.

All Events except `Synced` have the type `Warning`. The operator sends a Warning when it finds a problem, when the
details of the problem change, every 30 minutes while the problem lasts, and after each leader change. For each Service,
it sends at most 25 Events in a burst, and then one every 5 minutes. Only the leader sends Events. It also logs each
finding, and counts it in the metric `endpoint_copier_findings{reason}`.

The *in sync* column says whether the `status` and `wait` commands, the `endpoint-copier/InSync` condition and the
metrics still report a Service with this finding as in sync. \"yes\" means only that the copies contain everything that
the source and the Service allow. It does not mean that the VIP works.

";

/// Rule: 3.events-table
#[test]
fn events_page_is_up_to_date() {
    let synced = [
        anchored(SYNCED),
        "yes".to_owned(),
        SYNCED_MEANING.to_owned(),
        "Nothing.".to_owned(),
    ];
    let warnings = Reason::ALL.map(|reason| {
        [
            anchored(reason.as_str()),
            if reason.leaves_undone() { "**no**" } else { "yes" }.to_owned(),
            reason.meaning().to_owned(),
            reason.remedy().to_owned() + see(reason),
        ]
    });
    let rows = std::iter::once(synced).chain(warnings);
    let text = generated_from("`crates/core/src/model/finding.rs`")
        + INTRO
        + &table(["reason", "in sync", "meaning", "what to do"], rows);
    check("docs/reference/events.md", &text);
}

/// A reason in code font, with an anchor to which other pages can link.
fn anchored(reason: &str) -> String {
    format!("<a id=\"{}\"></a>{}", reason.to_lowercase(), code(reason))
}

/// Links to pages with more about a reason. The links are not part of the remedy, because `doctor` prints the remedy in
/// a terminal.
fn see(reason: Reason) -> &'static str {
    match reason {
        Reason::NotPermitted => {
            " See [Copy a source in another namespace](../how-to/copy-across-namespaces.md)."
        }
        Reason::PortNotPermitted => " See [Ports](../how-to/copy-across-namespaces.md#ports).",
        Reason::FamilyIncomplete => {
            " See [the runbook](../how-to/runbook.md#endpointcopierfamilyincomplete)."
        }
        Reason::OtherInstallation => {
            " See [Two releases in two namespaces](../how-to/upgrade-from-go.md#two-releases-in-two-namespaces)."
        }
        Reason::SourceEmptyHeld => {
            " See [Empty sources](../explanation/failure-model.md#empty-sources) and \
             [the runbook](../how-to/runbook.md#endpointcopiersourceemptyheld)."
        }
        Reason::SourceEmpty => " See [Empty sources](../explanation/failure-model.md#empty-sources).",
        Reason::EndpointUnreachable => {
            " See [the runbook](../how-to/runbook.md#endpointcopierendpointunreachable)."
        }
        Reason::ProbesBlind => " See [the runbook](../how-to/runbook.md#endpointcopierprobesblind).",
        Reason::ForeignSlices => " See [an example](../how-to/debug.md#slices-of-others-get-traffic).",
        _ => "",
    }
}
