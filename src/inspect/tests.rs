use k8s_openapi::api::discovery::v1::EndpointConditions;
use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::json;

use super::dated::Dates;

use super::*;
use crate::leader_election::Lease;
use endpoint_copier_core::model::{Finding, Reason, ServiceKey, SliceKey, annotation, label, provenance};
use endpoint_copier_core::testing::world::World;
use endpoint_copier_core::testing::{
    Build as _, BuildService as _, BuildSlice as _, plain_service, service, slice,
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const NOW: &str = "2026-01-02T12:00:00Z";

fn lease() -> Lease {
    renewed("2026-01-02T11:59:59Z")
}

fn renewed(moment: &str) -> Lease {
    let lease = json!({"metadata": {"namespace": "ops"}, "spec": {
        "holderIdentity": "pod_1", "leaseDurationSeconds": 6, "leaseTransitions": 4,
        "renewTime": moment, "acquireTime": "2026-01-02T09:00:00.000000Z",
    }});
    serde_json::from_value(lease).unwrap()
}

/// Returns the report on a world in which `new` and `web` were edited an hour ago.
fn report(world: &World, leases: &[Lease]) -> ClusterReport {
    let edited = ["new", "web"].map(|name| (ServiceKey::new("default", name), at("2026-01-02T11:00:00Z")));
    let copies = world.copies("vip").into_iter();
    let dates = copies.map(|copy| (SliceKey::of(&copy.metadata), at("2026-01-02T11:55:00Z")));
    let changed = Dates {
        services: edited.into(),
        slices: dates.collect(),
    };
    ClusterReport::of(&world.index(), &changed, leases, at(NOW))
}

/// `vip` is in sync with three API servers: one is ready, one is not, and one is taken out. `web` is refused, and `new`
/// has no copies yet.
fn world() -> World {
    let mut servers = slice("kubernetes").endpoints(["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    if let Some(endpoints) = &mut servers.endpoints {
        endpoints[0].conditions.get_or_insert_default().ready = Some(false);
    }
    let mut world = World::new()
        .service(plain_service("kubernetes"))
        .slice(servers)
        .service(service("vip"))
        .settled("vip")
        .service(service("web").edit(|web| {
            web.spec_mut().selector = Some([("app".to_owned(), "web".to_owned())].into());
        }))
        .service(service("new"));
    take_out(&mut world, "192.0.2.3");
    world
}

/// Takes an endpoint out, as the probes of a leader do.
fn take_out(world: &mut World, address: &str) {
    let copy = SliceKey::of(&world.copy("vip").metadata);
    world.edit(&copy, |copy| {
        let annotations = copy.metadata.annotations.get_or_insert_default();
        annotations.insert(provenance::UNREACHABLE.into(), address.into());
        for endpoint in copy.endpoints.iter_mut().flatten() {
            if endpoint.address() == address.parse().ok() {
                endpoint.conditions = Some(EndpointConditions {
                    ready: Some(false),
                    serving: Some(false),
                    terminating: Some(false),
                });
            }
        }
    });
}

#[test]
fn table_shows_state_and_findings_of_each_service() {
    let text = table::status(&report(&world(), &[lease()]));
    let expected = "\
SERVICE       SOURCE               FAMILIES   SOURCE READY   COPY READY   OUT         IN SYNC   SINCE   FINDINGS
default/new   default/kubernetes   IPv4       2/3            0/0          -           NO        60m     -
default/web   -                    IPv4       0/0            0/0          -           NO        60m     HasSelector
default/vip   default/kubernetes   IPv4       2/3            1/3          192.0.2.3   yes       5m      -

1 of 3 in sync

default/new is not in sync: the command plan shows what would be written.
default/web HasSelector: ";
    assert!(text.starts_with(expected), "{text}");
    let last = "\n\nLeader: pod_1 (namespace ops, renewed 1s ago, leading for 3h, 4 changes of leader)\n";
    assert!(text.ends_with(last), "{text}");
}

#[test]
fn no_leader_no_lease_and_no_permission_are_distinguished() {
    let world = World::new();
    let last_line = |report: &ClusterReport| {
        let text = table::status(report);
        text.lines().last().unwrap_or_default().to_owned()
    };
    let end = |leases: &[Lease]| last_line(&report(&world, leases));
    assert_eq!(end(&[]), "Leader: none, there is no Lease");
    let unknown = "Leader: unknown, the Lease cannot be read: 403 Forbidden: no";
    let mut unread = report(&world, &[]);
    unread.leaders_error = Some("403 Forbidden: no".to_owned());
    assert_eq!(last_line(&unread), unknown);
    let mut late = renewed("2026-01-02T11:59:50Z");
    let said = end(&[late.clone()]);
    assert!(
        said.contains("renewed 10s ago, so its Lease has expired"),
        "{said}"
    );
    let unreadable = end(&[renewed("9999-12-31T23:59:59.999999Z")]);
    assert!(unreadable.contains("pod_1"), "{unreadable}");
    late.spec.holder_identity = None;
    let said = end(&[late]);
    assert!(
        said.starts_with("Leader: none, the Lease is free (namespace ops, renewed 10s ago, "),
        "{said}"
    );
}

#[test]
fn status_without_services_is_in_sync() {
    let world = World::new();
    assert!(report(&world, &[]).in_sync);
    assert!(table::status(&report(&world, &[])).starts_with("No Service is managed.\n"));
    assert_eq!(table::plan(&report(&world, &[])), "Nothing to write.\n");
    assert!(!report(&self::world(), &[]).in_sync);
}

/// Rule: 7.memory
#[test]
fn ready_endpoint_is_not_shown_as_out_despite_its_annotation() {
    let mut world = world();
    let copy = SliceKey::of(&world.copy("vip").metadata);
    world.edit(&copy, |copy| {
        for endpoint in copy.endpoints.iter_mut().flatten() {
            endpoint.conditions.get_or_insert_default().ready = Some(true);
        }
    });
    let report = report(&world, &[]);
    assert!(report.services.iter().all(|row| row.taken_out.is_empty()));
    assert!(!report.in_sync, "in sync although the annotation must be removed");
}

#[test]
fn plan_shows_only_what_changes() {
    let mut world = World::new()
        .service(plain_service("kubernetes"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1", "192.0.2.2"]))
        .service(service("vip"))
        .settled("vip");
    let name = world.copy("vip").metadata.name.clone().unwrap();
    world.put(slice("kubernetes").endpoints(["192.0.2.2", "192.0.2.3"]));
    let text = table::plan(&report(&world, &[]));
    let expected = format!(
        "default/vip (from default/kubernetes)\n  update {name}\n  - endpoint 192.0.2.1 ready\n  + endpoint 192.0.2.3 ready\n"
    );
    assert_eq!(text, expected);
}

#[test]
fn plan_deletes_copies_of_a_service_that_is_no_longer_managed() {
    let mut world = World::new()
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
        .service(service("vip"))
        .settled("vip");
    world.put_service(plain_service("vip"));
    let report = report(&world, &[]);
    assert!(!report.in_sync);
    let text = table::plan(&report);
    assert!(
        text.starts_with("default/vip (from no source)\n  delete vip-"),
        "{text}"
    );
    assert!(text.contains("\n  - endpoint 192.0.2.1 ready\n"), "{text}");
    for text in [text, table::status(&report)] {
        assert!(
            text.contains("\ndefault/vip has copies but is not managed, as far as this command knows"),
            "{text}"
        );
    }
}

/// Rule: 1.enabled-false-leftovers
#[test]
fn disabled_service_is_shown_while_it_has_leftovers() {
    let disabled = service("vip").annotate(annotation::ENABLED, "false");
    let mut world = World::new().service(disabled);
    assert!(report(&world, &[]).services.is_empty());
    world.put(slice("vip").of("vip").label(label::SOURCE, "kubernetes"));
    let left = report(&world, &[]);
    assert!(!left.in_sync);
    for text in [table::plan(&left), table::status(&left)] {
        let note = "\ndefault/vip has the annotation endpoint-copier/enabled: \"false\", so its copies";
        assert!(text.contains(note), "{text}");
    }
    assert!(!wait::is_in_sync(&left, &ServiceKey::new("default", "vip")));
}

/// Returns the leader's Events on a Service, given the time of day, the reason and the UID of the Service.
fn events(of: &[(&str, &str, &str)]) -> Vec<DynamicObject> {
    let event = |(time, reason, uid): &(&str, &str, &str)| {
        serde_json::from_value(json!({
            "metadata": {}, "reason": reason, "message": "a note",
            "eventTime": format!("2026-01-02T{time}.000000Z"), "reportingComponent": "endpoint-copier-operator",
            "involvedObject": {"kind": "Service", "namespace": "default", "name": "vip", "uid": uid},
        }))
        .unwrap()
    };
    of.iter().map(event).collect()
}

#[test]
fn finding_of_an_event_ends_with_synced_or_with_its_service() {
    let mut report = report(&world(), &[]);
    let row = report.services.iter_mut().find(|row| row.name == "vip").unwrap();
    let uid = row.uid.clone();
    let (contested, synced) = ("OtherInstallation", "Synced");
    for (events, holds) in [
        (events(&[("11:59:00", contested, &uid)]), true),
        (
            events(&[("11:58:00", synced, &uid), ("11:59:00", contested, &uid)]),
            true,
        ),
        (
            events(&[("11:59:00", synced, &uid), ("11:58:00", contested, &uid)]),
            false,
        ),
        (events(&[("11:59:00", contested, "another")]), false),
        (events(&[("11:20:00", contested, &uid)]), false),
    ] {
        row.findings.clear();
        look::add_reported(&mut [&mut *row], Reason::OtherInstallation, &events, at(NOW));
        assert_eq!(!row.findings.is_empty(), holds, "{events:?}");
    }
}

#[test]
fn service_out_of_sync_without_a_finding_has_a_note() {
    let mut world = world();
    world.put(slice("kubernetes").endpoints(["192.0.2.9"]));
    let text = table::status(&report(&world, &[]));
    assert!(
        text.contains("\ndefault/vip is not in sync: the command plan shows what would be written."),
        "{text}"
    );
}

/// Scripts rely on this format, so it must be as documented.
#[test]
fn json_is_as_documented() {
    let documented = include_str!("../../docs/reference/status.md");
    let report = report(&world(), &[lease()]);
    for json in [json(&report).unwrap(), json(&report.plan()).unwrap()] {
        assert!(documented.contains(&format!("```json\n{json}```")), "{json}");
    }
}

/// A user who may write an annotation, a Lease or an Event cannot control the terminal of the user who runs a command.
#[test]
fn foreign_text_is_escaped_for_terminals_and_stays_on_its_line() {
    let mut hostile = lease();
    hostile.spec.holder_identity = Some("x\n\u{1b}]0;y\u{7}Leader: z".to_owned());
    let mut report = report(&world(), &[hostile]);
    report.services[0].findings.push(Finding {
        reason: Reason::WriteRefused,
        note: "a\r\n\u{9b}31mb".to_owned(),
    });
    report.events_error = Some("c\u{7f}".to_owned());
    report.services[0].changes[0].added.push("\u{1b}[2J".to_owned());
    for text in [table::status(&report), table::plan(&report)] {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
    let lines = table::status(&report);
    assert_eq!(lines.matches("\nLeader: ").count(), 1, "{lines}");
}

#[test]
fn only_a_managed_service_in_sync_ends_a_wait() {
    let report = report(&world(), &[lease()]);
    let waited = |name| wait::is_in_sync(&report, &ServiceKey::new("default", name));
    // One endpoint of `vip` is taken out.
    assert!(waited("vip"));
    assert!(!waited("web"), "the wait for a refused Service ended");
    assert!(!waited("new"), "the wait for a Service without copies ended");
    assert!(!waited("absent"));
    let mut unmanaged = report.clone();
    unmanaged.services.iter_mut().for_each(|row| row.managed = false);
    assert!(!wait::is_in_sync(&unmanaged, &ServiceKey::new("default", "vip")));
}

#[test]
fn wait_that_times_out_says_why() {
    let report = report(&world(), &[lease()]);
    let text = |name| {
        wait::not_in_sync(
            report.clone(),
            &ServiceKey::new("default", name),
            Duration::from_secs(5),
        )
    };
    let web = text("web");
    assert!(
        web.starts_with("default/web is not in sync after 5s\n\nSERVICE "),
        "{web}"
    );
    assert!(web.contains("\ndefault/web HasSelector: "), "{web}");
    assert!(!web.contains("default/vip"), "{web}");
    let absent = text("absent");
    assert!(
        absent.starts_with("default/absent is not managed after 5s: "),
        "{absent}"
    );
    assert_eq!(absent.lines().count(), 1, "{absent}");
}
