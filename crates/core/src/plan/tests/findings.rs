//! The findings of a plan, and the cases without findings.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use serde_json::json;

use crate::model::Reason;
use crate::model::{EndpointSlice, Service, ServiceSpec};
use crate::testing::world::World;
use crate::testing::{Build, BuildService, BuildSlice, plain_service, service, slice, slice_port};

fn reasons(service: Service, slices: &[EndpointSlice]) -> Vec<Reason> {
    let world = slices.iter().fold(World::new().service(service), |world, slice| {
        world.slice(slice.clone())
    });
    let (before, after) = (world.reasons("vip"), world.settled("vip").reasons("vip"));
    assert_eq!(before, after, "applying the plan changed the findings");
    after
}

fn good() -> EndpointSlice {
    slice("kubernetes").endpoints(["192.0.2.1"])
}

fn good6() -> EndpointSlice {
    slice("kubernetes-6").family("IPv6").endpoints(["2001:db8::1"])
}

fn fqdn() -> EndpointSlice {
    slice("kubernetes-name")
        .family("FQDN")
        .endpoints(["api.example.com"])
}

fn policy(service: Service, policy: &str) -> Service {
    service.edit(|service| service.spec_mut().ip_family_policy = Some(policy.to_owned()))
}

#[test]
fn correct_service_has_no_findings() {
    assert_eq!(reasons(service("vip"), &[good()]), []);
    assert_eq!(reasons(plain_service("vip"), &[good()]), []);
}

/// Rule: 2.family-missing
#[test]
fn missing_family_is_reported_if_required_or_if_none_is_there() {
    use Reason::FamilyMissing;
    let dual = || service("vip").families(&["IPv4", "IPv6"]);
    let required = || policy(dual(), "RequireDualStack");
    for (what, service, slices, expected) in [
        ("only IPv4, present", service("vip"), vec![good()], vec![]),
        (
            "only IPv4, missing",
            service("vip"),
            vec![good6()],
            vec![FamilyMissing],
        ),
        (
            "only IPv6, missing",
            service("vip").families(&["IPv6"]),
            vec![good()],
            vec![FamilyMissing],
        ),
        (
            "one of two",
            policy(dual(), "PreferDualStack"),
            vec![good()],
            vec![],
        ),
        (
            "one of two required",
            required(),
            vec![good()],
            vec![FamilyMissing],
        ),
        (
            "both required and present",
            required(),
            vec![good(), good6()],
            vec![],
        ),
        // A headless Service without a selector gets both families even on single-stack clusters.
        (
            "one of two, headless",
            required().headless(),
            vec![good6()],
            vec![],
        ),
        ("only an empty slice", service("vip"), vec![slice("app")], vec![]),
        // Kubernetes keeps an empty slice of each family of a Service.
        (
            "only IPv4, empty beside IPv6",
            service("vip"),
            vec![slice("app"), good6()],
            vec![FamilyMissing],
        ),
        (
            "one of two, the other is empty",
            policy(dual(), "PreferDualStack"),
            vec![good(), good6().endpoints([])],
            vec![],
        ),
        (
            "both required, one is empty",
            required(),
            vec![good(), good6().endpoints([])],
            vec![FamilyMissing],
        ),
        (
            "only IPv4, missing, and IPv6 is empty",
            service("vip"),
            vec![good6().endpoints([])],
            vec![],
        ),
    ] {
        // Nodes fill the families that the API source lacks.
        let service = service.source("default", "app");
        let slices: Vec<_> = slices.into_iter().map(|slice| slice.of("app")).collect();
        assert_eq!(reasons(service, &slices), expected, "{what}");
    }
}

/// Rule: 2.family-missing-command
#[test]
fn note_of_a_missing_family_has_the_command_that_helps() {
    let required = |families: &[&str]| {
        service(&"s".repeat(63))
            .namespace(&"n".repeat(63))
            .families(families)
            .edit(|service| service.spec_mut().ip_family_policy = Some("RequireDualStack".to_owned()))
    };
    let single_stack = r#"--patch '{"spec":{"ipFamilyPolicy":"SingleStack"}}'"#;
    for (what, service, slices, words) in [
        (
            "the second",
            required(&["IPv4", "IPv6"]),
            vec![good()],
            single_stack,
        ),
        (
            "the first",
            required(&["IPv6", "IPv4"]),
            vec![good()],
            r#""ipFamilies":["IPv4"]}}' --output json > service.json && kubectl replace --force --filename service.json"#,
        ),
        (
            "the only one",
            service("vip"),
            vec![good6()],
            r#""clusterIPs":null,"ipFamilyPolicy":"SingleStack","ipFamilies":["IPv6"]}}' --output json > service.json"#,
        ),
        (
            "the only one, headless",
            service("vip").headless(),
            vec![good6()],
            r#"--patch '{"spec":{"ipFamilyPolicy":"SingleStack","ipFamilies":["IPv6"]}}'"#,
        ),
        (
            "both",
            required(&["IPv4", "IPv6"]),
            vec![fqdn()],
            "give it endpoints of a family",
        ),
    ] {
        let source = "a".repeat(63);
        let key = crate::model::ServiceKey::of(&service.metadata);
        let mut world = World::new().service(service.source(&source, &source));
        for slice in slices {
            world.put(slice.namespace(&source).of(&source));
        }
        let findings = world.plan_for(&key).findings;
        let is_it = |finding: &&crate::model::Finding| finding.reason == Reason::FamilyMissing;
        let note = &findings.iter().find(is_it).expect(what).note;
        assert!(note.contains(words), "{what}: {note}");
    }
}

/// Rule: 2.fqdn, 3.events-note
#[test]
fn slice_of_type_fqdn_is_reported() {
    use Reason::{FamilyMissing, UnsupportedAddressType};
    for (slices, expected) in [
        (vec![good(), fqdn()], vec![UnsupportedAddressType]),
        (vec![fqdn()], vec![UnsupportedAddressType, FamilyMissing]),
        (vec![good(), good6()], vec![]),
    ] {
        assert_eq!(reasons(service("vip"), &slices), expected, "{slices:?}");
    }
    let world = World::new().service(service("vip")).slice(good()).slice(fqdn());
    let note = &world.findings("vip")[0].note;
    assert!(note.contains("If the other slices are not enough"), "{note}");
}

/// Rule: 1.source-without-service, 1.source-not-found, 3.source-service, 3.events-note
#[test]
fn missing_source_is_reported() {
    let world = World::new().service(service("vip").source("web", "app"));
    assert_eq!(world.reasons("vip"), [Reason::SourceNotFound]);
    let note = &world.findings("vip")[0].note;
    assert!(
        note.contains("web/app") && note.contains("create the source"),
        "{note}"
    );

    let source = plain_service("app").namespace("web");
    assert_eq!(
        world.clone().service(source).reasons("vip"),
        [],
        "the source exists, but has no slice"
    );
    let slice = slice("app-1").of("app").namespace("web").endpoints(["192.0.2.1"]);
    assert_eq!(
        world.slice(slice).reasons("vip"),
        [],
        "the source has a slice, but no Service"
    );
}

/// Rule: 1.source-with-selector
#[test]
fn a_source_with_a_selector_is_a_normal_source() {
    let selected = plain_service("app").namespace("web").edit(|service| {
        service.spec_mut().selector = Some([("app".to_owned(), "web".to_owned())].into());
    });
    let mut world = World::new()
        .service(service("vip").source("web", "app"))
        .service(selected)
        .slice(slice("app-1").of("app").namespace("web").endpoints(["192.0.2.1"]));
    assert_eq!(world.settle("vip").len(), 1);
    assert_eq!(world.reasons("vip"), []);
}

/// Rule: 2.port-unresolved
#[test]
fn a_port_without_a_number_is_reported_and_left_out() {
    let named = || {
        service("vip")
            .port("api", "api")
            .port("web", "web")
            .port("again", "api")
    };
    let world = World::new().service(named()).slice(good()).settled("vip");
    assert_eq!(world.copy("vip").ports.as_ref().unwrap().len(), 1);
    let findings = world.findings("vip");
    assert_eq!(world.reasons("vip"), [Reason::PortUnresolved]);
    assert!(
        findings[0].note.contains("api, web;"),
        "not each name once: {}",
        findings[0].note
    );
}

/// Rule: 2.no-port-no-copy
#[test]
fn service_without_a_known_port_gets_no_copy() {
    let service = service("vip").no_ports().port("api", "api");
    let mut world = World::new().service(service).slice(good());
    assert_eq!(world.settle("vip"), []);
    assert_eq!(world.reasons("vip"), [Reason::PortUnresolved]);
}

/// Rule: 2.no-port-no-copy
#[test]
fn copy_without_a_known_port_is_deleted() {
    let mut world = World::new().service(service("vip")).slice(good()).settled("vip");
    world.put_service(service("vip").no_ports().port("api", "api"));
    assert_eq!(world.settle("vip").len(), 1);
    assert_eq!(world.copies("vip").len(), 0);
}

/// Rule: 2.headless-no-ports
#[test]
fn a_headless_service_without_ports_has_a_copy_without_ports() {
    let mut world = World::new()
        .service(service("vip").headless().no_ports())
        .slice(good());
    world.settle("vip");
    assert_eq!(world.copy("vip").ports, Some(Vec::new()));
    assert_eq!(world.reasons("vip"), []);
}

/// Rule: 3.node-name-missing
#[test]
fn local_traffic_needs_a_node_for_each_ready_endpoint() {
    let with = |change: fn(&mut ServiceSpec)| {
        let service = service("vip").source("default", "app");
        service.edit(|service| change(service.spec_mut()))
    };
    let external = || with(|spec| spec.external_traffic_policy = Some("Local".to_owned()));
    let internal = || with(|spec| spec.internal_traffic_policy = Some("Local".to_owned()));
    let source = || good().of("app").endpoints(["192.0.2.1", "192.0.2.2"]);
    let named = |numbers: &[usize]| {
        let names = numbers.to_vec();
        source().edit(|slice| {
            for number in names {
                slice.endpoints.as_mut().unwrap()[number].node_name = Some("n1".into());
            }
        })
    };
    let unready = named(&[0]).edit(|slice| {
        let endpoint = &mut slice.endpoints.as_mut().unwrap()[1];
        endpoint.conditions.get_or_insert_default().ready = Some(false);
    });
    let missing = vec![Reason::NodeNameMissing];
    for (what, service, slices, expected) in [
        ("no node", external(), vec![source()], missing.clone()),
        ("internal", internal(), vec![source()], missing.clone()),
        ("one of two", external(), vec![named(&[0])], missing.clone()),
        (
            "in another slice",
            external(),
            vec![
                good().of("app"),
                slice("more")
                    .of("app")
                    .edit(|slice| slice.endpoints = named(&[0, 1]).endpoints),
            ],
            missing,
        ),
        ("all", external(), vec![named(&[0, 1])], vec![]),
        ("the other is not ready", external(), vec![unready], vec![]),
        (
            "no endpoint",
            external(),
            vec![slice("kubernetes").of("app")],
            vec![],
        ),
        ("not Local", with(|_| ()), vec![source()], vec![]),
    ] {
        assert_eq!(reasons(service, &slices), expected, "{what}");
    }
    let world = World::new().service(external()).slice(named(&[0])).settled("vip");
    let note = &world.findings("vip")[0].note;
    assert!(
        note.contains("192.0.2.2") && !note.contains("192.0.2.1"),
        "{note}"
    );
}

/// Rule: 2.port-not-in-source
#[test]
fn port_that_the_api_source_does_not_list_is_reported() {
    let missing = vec![Reason::PortNotInSource];
    let at = |target| service("vip").number("more", target);
    for (what, service, slices, expected) in [
        ("443 without targetPort", at(443), vec![good()], missing.clone()),
        ("a supervisor of RKE2", at(9345), vec![good()], vec![]),
        (
            "a port of another slice",
            at(443),
            vec![
                good(),
                slice("more")
                    .endpoints(["192.0.2.2"])
                    .edit(|slice| slice.ports = Some(vec![slice_port("more", 443)])),
            ],
            vec![],
        ),
        (
            "another protocol",
            at(6444).edit(|service| {
                for port in service.spec_mut().ports.iter_mut().flatten() {
                    port.protocol = Some("UDP".to_owned());
                    port.target_port = Some(IntOrString::Int(6443));
                }
            }),
            vec![good()],
            missing,
        ),
        (
            "another source",
            at(443).source("default", "app"),
            vec![good().of("app")],
            vec![],
        ),
    ] {
        assert_eq!(reasons(service, &slices), expected, "{what}");
    }
}

/// `vip` with the load balancer IP 192.0.2.100.
fn balanced() -> Service {
    service("vip").edit(|service| {
        service.status =
            serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.100"}]}})).unwrap();
    })
}

/// Rule: 2.endpoint-is-vip
#[test]
fn own_address_in_the_source_is_left_out_while_another_remains() {
    for (what, service, slices, expected) in [
        (
            "in the only slice",
            balanced(),
            vec![slice("kubernetes").endpoints(["192.0.2.1", "192.0.2.100"])],
            vec!["192.0.2.1"],
        ),
        (
            "in another slice",
            balanced(),
            vec![good(), slice("more").endpoints(["192.0.2.100"])],
            vec!["192.0.2.1"],
        ),
        (
            "alone",
            balanced(),
            vec![slice("kubernetes").endpoints(["192.0.2.100"])],
            vec!["192.0.2.100"],
        ),
        (
            "the cluster IP",
            service("vip").source("default", "app"),
            vec![slice("app").of("app").endpoints(["10.96.0.10", "192.0.2.1"])],
            vec!["192.0.2.1"],
        ),
        (
            "the other family remains",
            balanced().families(&["IPv4", "IPv6"]),
            vec![slice("kubernetes").endpoints(["192.0.2.100"]), good6()],
            vec!["192.0.2.100", "2001:db8::1"],
        ),
    ] {
        let world = slices
            .into_iter()
            .fold(World::new().service(service), World::slice);
        let world = world.settled("vip");
        assert!(world.reasons("vip").contains(&Reason::EndpointIsVip), "{what}");
        let copies = world.copies("vip");
        let endpoints = copies.iter().flat_map(|copy| copy.endpoints.iter().flatten());
        let mut shown: Vec<_> = endpoints.map(|endpoint| endpoint.addresses[0].as_str()).collect();
        shown.sort_unstable();
        assert_eq!(shown, expected, "{what}");
    }
    assert_eq!(reasons(balanced(), &[good()]), []);
}
