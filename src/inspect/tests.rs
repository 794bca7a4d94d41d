use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, MicroTime, ObjectMeta, Time};

use super::report::Leader;
use super::*;
use crate::testing::world::World;
use crate::testing::{Build as _, BuildService as _, BuildSlice as _, plain_service, service, slice};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const NOW: &str = "2026-01-02T12:00:00Z";

fn leader() -> Leader {
    Leader::of(&Lease {
        metadata: ObjectMeta {
            namespace: Some("ops".to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some("pod_1".to_owned()),
            lease_duration_seconds: Some(6),
            renew_time: Some(MicroTime(at("2026-01-02T11:59:59Z"))),
            acquire_time: Some(MicroTime(at("2026-01-02T09:00:00Z"))),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        }),
    })
}

fn report(world: &World, leaders: Result<Vec<Leader>, String>) -> Report {
    Report::of(&world.index(), leaders, at(NOW))
}

/// `vip` is in step with three API servers, one of which is not ready; `web` is refused; `new` has no copies yet.
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
    let copy = world.copies("vip")[0].clone();
    world.edit(&crate::model::SliceKey::of(&copy.metadata), |copy| {
        copy.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
            time: Some(Time(at("2026-01-02T11:55:00Z"))),
            ..ManagedFieldsEntry::default()
        }]);
    });
    world
}

#[test]
fn the_table_tells_of_each_service_what_it_shows_and_what_is_wrong() {
    let text = table::status(&report(&world(), Ok(vec![leader()])));
    let expected = "\
SERVICE       SOURCE               FAMILIES   SOURCE READY   COPY READY   IN STEP   SINCE   FINDINGS
default/new   default/kubernetes   IPv4       2/3            0/0          NO        -       -
default/vip   default/kubernetes   IPv4       2/3            2/3          yes       5m      -
default/web   -                    IPv4       0/0            0/0          NO        -       HasSelector

default/web HasSelector: ";
    assert!(text.starts_with(expected), "{text}");
    let last = "\n\nLeader: pod_1 (namespace ops, renewed 1s ago, leads since 3h, 4 changes of leader)\n";
    assert!(text.ends_with(last), "{text}");
}

#[test]
fn no_leader_no_lease_and_no_right_to_read_it_are_told_apart() {
    let world = World::new();
    let end = |leaders| {
        let text = table::status(&report(&world, leaders));
        text.lines().last().unwrap_or_default().to_owned()
    };
    assert_eq!(end(Ok(Vec::new())), "Leader: none, there is no Lease");
    let unknown = "Leader: unknown, the Lease cannot be read: 403 Forbidden: no";
    assert_eq!(end(Err("403 Forbidden: no".to_owned())), unknown);
    let mut late = leader();
    late.renewed = Some(at("2026-01-02T11:59:50Z"));
    let said = end(Ok(vec![late.clone()]));
    assert!(
        said.contains("renewed 10s ago, so its Lease has run out"),
        "{said}"
    );
    late.holder = None;
    let said = end(Ok(vec![late]));
    assert!(
        said.starts_with("Leader: none, the Lease is free (namespace ops, renewed 10s ago, "),
        "{said}"
    );
}

#[test]
fn all_is_in_step_when_nothing_is_managed_and_when_all_copies_are_right() {
    let world = World::new();
    assert!(report(&world, Ok(Vec::new())).in_step);
    assert!(table::status(&report(&world, Ok(Vec::new()))).starts_with("No Service is managed.\n"));
    assert_eq!(
        table::plan(&report(&world, Ok(Vec::new()))),
        "Nothing to write.\n"
    );
    assert!(!report(&self::world(), Ok(Vec::new())).in_step);
}

#[test]
fn a_plan_shows_what_changes_and_nothing_else() {
    let mut world = World::new()
        .service(plain_service("kubernetes"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1", "192.0.2.2"]))
        .service(service("vip"))
        .settled("vip");
    let name = world.copy("vip").metadata.name.clone().unwrap();
    world.put(slice("kubernetes").endpoints(["192.0.2.2", "192.0.2.3"]));
    let text = table::plan(&report(&world, Ok(Vec::new())));
    let expected = format!(
        "default/vip (from default/kubernetes)\n  update {name}\n  - endpoint 192.0.2.1 ready\n  + endpoint 192.0.2.3 ready\n"
    );
    assert_eq!(text, expected);
}

#[test]
fn copies_of_a_service_that_is_managed_no_more_are_to_go() {
    let mut world = World::new()
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
        .service(service("vip"))
        .settled("vip");
    world.put_service(plain_service("vip"));
    let report = report(&world, Ok(Vec::new()));
    assert!(!report.in_step);
    let text = table::plan(&report);
    assert!(
        text.starts_with("default/vip (from no source)\n  delete vip-"),
        "{text}"
    );
    assert!(text.contains("\n  - endpoint 192.0.2.1 ready\n"), "{text}");
}

#[test]
fn ages_alone_are_no_news() {
    let first = report(&world(), Ok(vec![leader()]));
    let mut renewed = leader();
    renewed.renewed = Some(at(NOW));
    let later = Report::of(&world().index(), Ok(vec![renewed]), at("2026-01-02T12:00:02Z"));
    assert_ne!(first, later);
    assert_eq!(first.without_ages(), later.without_ages());
}

#[test]
fn json_has_names_that_scripts_can_rely_on() {
    let json: serde_json::Value =
        serde_json::from_str(&json(&report(&world(), Ok(vec![leader()])), true).unwrap()).unwrap();
    assert_eq!(json["inStep"], false);
    let vip = &json["services"][1];
    assert_eq!(vip["namespace"], "default");
    assert_eq!(vip["name"], "vip");
    assert_eq!(vip["source"], "default/kubernetes");
    assert_eq!(vip["copyEndpoints"], serde_json::json!({"ready": 2, "total": 3}));
    assert_eq!(vip["since"], "2026-01-02T11:55:00Z");
    assert_eq!(json["services"][0]["changes"][0]["operation"], "create");
    assert_eq!(json["services"][2]["findings"][0]["reason"], "HasSelector");
    assert_eq!(json["leaders"][0]["holder"], "pod_1");
}
