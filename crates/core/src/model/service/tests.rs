use super::*;
use crate::model::{LoadBalancerIngress, LoadBalancerStatus, ServiceStatus};
use crate::testing::{Build, BuildService, defaults, plain_service, service};

fn read(service: &Service) -> Option<ManagedService> {
    ManagedService::read(service, &defaults())
}

fn managed(service: &Service) -> ManagedService {
    read(service).expect("a managed Service")
}

/// The intent of a Service, in one line.
fn intent_of(service: &Service) -> String {
    match read(service).map(|service| service.intent) {
        None => "unmanaged".to_owned(),
        Some(Intent::Copy(source)) => source.to_string(),
        Some(Intent::Unclear(finding)) => format!("unclear: {}", finding.reason),
        Some(Intent::Refused(finding)) => format!("refused: {}", finding.reason),
        Some(Intent::Disabled) => "disabled".to_owned(),
    }
}

/// Rule: 1.enabled-true, 1.enabled-false, 1.flags-service
#[test]
fn a_service_is_managed_by_annotation_or_by_flag() {
    for (name, enabled, expected) in [
        ("vip", None, "unmanaged"),
        ("vip", Some("true"), "default/kubernetes"),
        ("vip", Some("false"), "disabled"),
        ("vip", Some(""), "unclear: InvalidAnnotation"),
        ("vip", Some("True"), "unclear: InvalidAnnotation"),
        ("vip", Some(" true"), "unclear: InvalidAnnotation"),
        ("vip", Some("1"), "unclear: InvalidAnnotation"),
        ("kubernetes-vip", None, "default/kubernetes"),
        ("kubernetes-vip", Some("true"), "default/kubernetes"),
        ("kubernetes-vip", Some("false"), "disabled"),
        ("kubernetes-vip", Some("no"), "unclear: InvalidAnnotation"),
    ] {
        let mut service = plain_service(name);
        if let Some(value) = enabled {
            service = service.annotate(annotation::ENABLED, value);
        }
        assert_eq!(intent_of(&service), expected, "{name}, enabled: {enabled:?}");
    }
}

/// Rule: 1.flags-service, 1.flags-service-off
#[test]
fn flags_manage_one_service_or_none() {
    let elsewhere = plain_service("kubernetes-vip").namespace("web");
    assert_eq!(read(&elsewhere), None);
    let off = Defaults {
        managed: None,
        ..defaults()
    };
    assert_eq!(ManagedService::read(&plain_service("kubernetes-vip"), &off), None);
}

/// Rule: 1.source-named, 1.source-own-namespace, 1.source-default, 1.source-namespace-alone
/// Rule: 1.empty-is-absent, 1.illegal-name, 1.source-is-self
#[test]
fn the_source_is_named_by_annotations_or_else_by_flags() {
    let long = "a".repeat(64);
    for (namespace, name, expected) in [
        (None, None, "default/kubernetes"),
        (Some(""), Some(""), "default/kubernetes"),
        (Some(""), None, "default/kubernetes"),
        (None, Some("app"), "apps/app"),
        (Some(""), Some("app"), "apps/app"),
        (Some("web"), Some("app"), "web/app"),
        (Some("web"), None, "unclear: InvalidAnnotation"),
        (Some("web"), Some(""), "unclear: InvalidAnnotation"),
        (Some("web"), Some(" app"), "unclear: InvalidAnnotation"),
        (Some("web "), Some("app"), "unclear: InvalidAnnotation"),
        (Some("web"), Some("app,other"), "unclear: InvalidAnnotation"),
        (Some("web"), Some("../secrets"), "unclear: InvalidAnnotation"),
        (Some("web"), Some("App"), "unclear: InvalidAnnotation"),
        (Some("web"), Some(&long), "unclear: InvalidAnnotation"),
        (Some("a.b"), Some("app"), "unclear: InvalidAnnotation"),
        (Some("apps"), Some("vip"), "refused: SourceIsSelf"),
        (None, Some("vip"), "refused: SourceIsSelf"),
        (Some("web"), Some("vip"), "web/vip"),
    ] {
        let mut service = service("vip").namespace("apps");
        if let Some(value) = namespace {
            service = service.annotate(annotation::SOURCE_NAMESPACE, value);
        }
        if let Some(value) = name {
            service = service.annotate(annotation::SOURCE_NAME, value);
        }
        assert_eq!(intent_of(&service), expected, "{namespace:?}, {name:?}");
    }
}

/// Rule: 1.annotation-beats-flag
#[test]
fn annotations_beat_flags_on_the_service_that_flags_name() {
    let service = plain_service("kubernetes-vip").source("web", "app");
    assert_eq!(intent_of(&service), "web/app");
}

/// Rule: 1.source-is-self
#[test]
fn a_service_that_is_its_own_default_source_is_refused() {
    assert_eq!(intent_of(&service("kubernetes")), "refused: SourceIsSelf");
}

/// Rule: 1.has-selector, 1.external-name
#[test]
fn a_service_with_a_selector_or_external_name_is_refused() {
    let with_selector = |service: Service, selector: &[(&str, &str)]| {
        let selector = selector
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        service.edit(|service| service.spec_mut().selector = Some(selector))
    };
    let external =
        |service: Service| service.edit(|service| service.spec_mut().type_ = Some("ExternalName".to_owned()));
    let typo = |service: Service| service.source("web", "No Name");
    for (what, service, expected) in [
        (
            "selector",
            with_selector(service("vip"), &[("app", "web")]),
            "refused: HasSelector",
        ),
        (
            "empty selector",
            with_selector(service("vip"), &[]),
            "default/kubernetes",
        ),
        ("ExternalName", external(service("vip")), "refused: ExternalName"),
        (
            "ExternalName by flag",
            external(plain_service("kubernetes-vip")),
            "refused: ExternalName",
        ),
        (
            "selector and an invalid source",
            with_selector(typo(service("vip")), &[("app", "web")]),
            "refused: HasSelector",
        ),
        (
            "ExternalName and an invalid source",
            external(typo(service("vip"))),
            "refused: ExternalName",
        ),
        (
            "selector and an invalid enabled annotation",
            with_selector(service("vip"), &[("app", "web")]).annotate(annotation::ENABLED, "yes"),
            "unclear: InvalidAnnotation",
        ),
        (
            "selector, not managed",
            with_selector(plain_service("vip"), &[("app", "web")]),
            "unmanaged",
        ),
    ] {
        assert_eq!(intent_of(&service), expected, "{what}");
    }
}

/// Rule: 3.events-note
#[test]
fn a_finding_says_which_annotation_is_wrong_and_what_to_do() {
    for (service, words) in [
        (
            service("vip").annotate(annotation::ENABLED, "yes"),
            ["endpoint-copier/enabled", "\"yes\"", "\"true\" or \"false\""],
        ),
        (
            service("vip").annotate(annotation::SOURCE_NAME, "A b"),
            ["endpoint-copier/default-service-name", "\"A b\"", "DNS label"],
        ),
        (
            service("vip").annotate(annotation::SOURCE_NAMESPACE, "web"),
            [
                "endpoint-copier/default-service-namespace",
                "without endpoint-copier/default-service-name",
                "default/kubernetes",
            ],
        ),
    ] {
        let Intent::Unclear(finding) = managed(&service).intent else {
            panic!("not invalid: {words:?}");
        };
        for word in words {
            assert!(finding.note.contains(word), "{word} is not in {:?}", finding.note);
        }
    }
}

/// It is not enough to remove the annotation, because the flags can name the Service.
/// Rule: 3.events-note
#[test]
fn note_about_a_rejected_service_says_how_to_disable_it() {
    let flagged = || plain_service("kubernetes-vip");
    let selector = [("app".to_owned(), "web".to_owned())].into();
    for service in [
        flagged().edit(|service| service.spec_mut().type_ = Some("ExternalName".to_owned())),
        flagged().edit(|service| service.spec_mut().selector = Some(selector)),
    ] {
        let Intent::Refused(finding) = managed(&service).intent else {
            panic!("{service:?} is not rejected");
        };
        let note = finding.note;
        assert!(note.contains(r#"set endpoint-copier/enabled: "false""#), "{note}");
    }
}

/// Rule: 3.when-source-empty-typo
#[test]
fn copies_are_held_by_default_only_for_the_api_source() {
    let own = ServiceKey::new("default", "kubernetes");
    let others = [
        ServiceKey::new("default", "app"),
        ServiceKey::new("web", "kubernetes"),
    ];
    for (value, holds_own, holds_others, remark) in [
        (None, true, false, false),
        (Some(""), true, false, false),
        (Some("hold"), true, true, false),
        (Some("follow"), false, false, false),
        (Some("Hold"), true, false, true),
        (Some("keep"), true, false, true),
    ] {
        let mut service = service("vip");
        if let Some(value) = value {
            service = service.annotate(annotation::WHEN_SOURCE_EMPTY, value);
        }
        let of = |source: &ServiceKey| managed(&service.clone().source(source.namespace(), source.name()));
        assert_eq!(of(&own).holds, holds_own, "{value:?}");
        for other in &others {
            assert_eq!(of(other).holds, holds_others, "{value:?}, {other}");
        }
        let reason = of(&own).remarks.first().map(|finding| finding.reason);
        assert_eq!(reason, remark.then_some(Reason::InvalidAnnotation), "{value:?}");
    }
}

/// Rule: 2.family
#[test]
fn families_are_those_of_the_service() {
    use Family::{V4, V6};
    for (families, expected) in [
        (&["IPv4"][..], &[V4][..]),
        (&["IPv6"], &[V6]),
        (&["IPv6", "IPv4"], &[V6, V4]),
        (&[], &[V4]),
        (&["IPv5"], &[]),
    ] {
        assert_eq!(
            managed(&service("vip").families(families)).families,
            expected,
            "{families:?}"
        );
    }
    let none = service("vip").edit(|service| service.spec_mut().ip_families = None);
    assert_eq!(managed(&none).families, [V4]);
}

/// Rule: 2.family-missing
#[test]
fn require_dual_stack_needs_all_families_of_a_cluster_ip() {
    let policy = |service: Service, policy: &str| {
        service.edit(|service| service.spec_mut().ip_family_policy = Some(policy.to_owned()))
    };
    for (service, expected) in [
        (policy(service("vip"), "SingleStack"), false),
        (policy(service("vip"), "PreferDualStack"), false),
        (policy(service("vip"), "RequireDualStack"), true),
        (policy(service("vip").headless(), "RequireDualStack"), false),
    ] {
        assert_eq!(
            managed(&service).needs_all_families,
            expected,
            "{:?}",
            service.spec
        );
    }
}

/// Rule: 2.hints
#[test]
fn topology_is_requested_by_field_or_annotation() {
    let distribution = |value: &str| {
        service("vip").edit(|service| service.spec_mut().traffic_distribution = Some(value.to_owned()))
    };
    let mode = |value| service("vip").annotate("service.kubernetes.io/topology-mode", value);
    let old = |value| service("vip").annotate("service.kubernetes.io/topology-aware-hints", value);
    for (service, expected) in [
        (service("vip"), false),
        (distribution("PreferClose"), true),
        (distribution("PreferSameNode"), true),
        (distribution(""), false),
        (mode("Auto"), true),
        (mode("Disabled"), false),
        (mode("disabled"), false),
        (mode(""), false),
        (old("auto"), true),
        (old("disabled"), false),
    ] {
        assert_eq!(managed(&service).wants_hints, expected, "{service:?}");
    }
}

#[test]
fn the_other_fields_are_read_unchanged() {
    let plain = managed(&service("vip"));
    assert_eq!(plain.uid, "uid-vip");
    assert!(!plain.deleting && !plain.headless && !plain.local_traffic);
    assert_eq!(plain.ports.len(), 1);

    let local = "Local".to_owned();
    let other = service("vip")
        .deleting()
        .headless()
        .no_ports()
        .edit(|service| service.spec_mut().external_traffic_policy = Some(local));
    let other = managed(&other);
    assert!(other.deleting && other.headless && other.local_traffic);
    assert_eq!(other.ports, []);
}

#[test]
fn an_empty_service_is_read_without_a_panic() {
    assert_eq!(read(&Service::default()), None);
    let mut bare = Service::default().annotate(annotation::ENABLED, "true");
    bare.spec = None;
    let managed = managed(&bare);
    assert_eq!(managed.uid, "");
    assert_eq!(managed.source(), Some(&ServiceKey::new("default", "kubernetes")));
}

/// Rule: 3.events-note
#[test]
fn a_note_stays_short_whatever_an_annotation_holds() {
    let huge = "ä\u{1f980}\u{10ffff}\"\\\n".repeat(20_000);
    assert!(huge.len() > 200 * 1024);
    for annotation in [
        annotation::ENABLED,
        annotation::SOURCE_NAME,
        annotation::SOURCE_NAMESPACE,
        annotation::WHEN_SOURCE_EMPTY,
        annotation::PROBE,
    ] {
        let managed = managed(&service("vip").annotate(annotation, &huge));
        let finding = match managed.intent {
            Intent::Unclear(finding) | Intent::Refused(finding) => finding,
            Intent::Copy(_) | Intent::Disabled => managed.remarks.first().expect(annotation).clone(),
        };
        assert_eq!(finding.reason, Reason::InvalidAnnotation);
        assert!(
            finding.note.len() <= 1000,
            "{annotation}: {} bytes",
            finding.note.len()
        );
    }
}

/// Rule: 8.never-vip
#[test]
fn own_addresses_come_from_spec_and_status() {
    let text = |address: &str| Some(address.to_owned());
    let service = service("vip").edit(|service| {
        let spec = service.spec_mut();
        (spec.cluster_ip, spec.load_balancer_ip) = (text("10.96.0.10"), text("192.0.2.100"));
        spec.cluster_ips = Some(vec!["10.96.0.10".to_owned(), "fd00::A".to_owned()]);
        spec.external_ips = Some(vec!["::ffff:192.0.2.101".to_owned()]);
        let ingress = [text("2001:db8:0::100"), None, text("x")];
        let ingress = ingress.map(|ip| LoadBalancerIngress { ip, hostname: None });
        let load_balancer = LoadBalancerStatus {
            ingress: Some(ingress.into()),
        };
        service.status = Some(ServiceStatus {
            load_balancer: Some(load_balancer),
            ..ServiceStatus::default()
        });
    });
    let own: Vec<_> = managed(&service)
        .own_addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        own,
        [
            "10.96.0.10",
            "192.0.2.100",
            "192.0.2.101",
            "2001:db8::100",
            "fd00::a"
        ]
    );
    let many = (0..1000).map(|number| format!("2001:db8::{number:x}")).collect();
    let many = managed(&service.edit(|service| service.spec_mut().external_ips = Some(many)));
    assert!(many.own_addresses.len() <= 64);
    assert!(many.own_addresses.contains(&"192.0.2.100".parse().unwrap()));
    let headless = managed(&crate::testing::service("vip").headless());
    assert!(headless.own_addresses.is_empty());
}

/// Rule: 8.node-names
#[test]
fn node_names_are_needed_for_local_traffic_and_a_distribution() {
    let local = "Local".to_owned();
    let distribution = |value: &str| {
        service("vip").edit(|service| service.spec_mut().traffic_distribution = Some(value.to_owned()))
    };
    for (service, expected) in [
        (service("vip"), (false, None)),
        (
            service("vip").edit(|it| it.spec_mut().internal_traffic_policy = Some(local.clone())),
            (true, None),
        ),
        (
            service("vip").edit(|it| it.spec_mut().external_traffic_policy = Some(local.clone())),
            (true, None),
        ),
        (distribution(""), (false, None)),
        (distribution("PreferClose"), (true, Some(Distribution::SameZone))),
        (
            distribution("PreferSameZone"),
            (true, Some(Distribution::SameZone)),
        ),
        (
            distribution("PreferSameNode"),
            (true, Some(Distribution::SameNode)),
        ),
        (distribution("Later"), (true, Some(Distribution::Other))),
    ] {
        let managed = managed(&service);
        assert_eq!(
            (managed.needs_node_names(), managed.distribution),
            expected,
            "{:?}",
            service.spec
        );
    }
}

/// Rule: survive.memory
#[test]
fn ports_beyond_the_first_hundred_are_reported_and_not_kept() {
    let with = |count: i32| {
        (0..count).fold(service("vip").no_ports(), |service, n| {
            service.number(&format!("p-{n}"), n)
        })
    };
    let most = managed(&with(100));
    assert_eq!((most.ports.len(), most.remarks), (100, vec![]));
    let more = managed(&with(10_000));
    assert_eq!(more.ports, most.ports);
    let [Finding { reason, note }] = more.remarks.as_slice() else {
        panic!("{:?}", more.remarks);
    };
    assert_eq!(*reason, Reason::LimitReached);
    assert!(
        note.contains("10000 ports") && note.contains("first 100"),
        "{note}"
    );
}

/// Rule: survive.memory
#[test]
fn ports_beyond_16_kib_of_text_are_reported_and_not_kept() {
    let with = |app_protocol: &str| {
        let mut service = (0..100).fold(service("vip").no_ports(), |service, n| {
            service.number(&format!("{n:a>63}"), n)
        });
        for port in service
            .spec
            .iter_mut()
            .flat_map(|spec| spec.ports.iter_mut().flatten())
        {
            port.app_protocol = Some(app_protocol.to_owned());
        }
        managed(&service)
    };
    let ordinary = with("kubernetes.io/h2c");
    assert_eq!((ordinary.ports.len(), ordinary.remarks), (100, vec![]));
    let long = with(&format!("{}.example/{}", "d".repeat(240), "n".repeat(63)));
    assert_eq!(long.ports.len(), 43);
    let [Finding { reason, note }] = long.remarks.as_slice() else {
        panic!("{:?}", long.remarks);
    };
    assert_eq!(*reason, Reason::LimitReached);
    assert!(note.contains("100 ports") && note.contains("first 43"), "{note}");
}

/// Rule: survive.memory
#[test]
fn only_a_service_that_gets_copies_keeps_its_ports() {
    let service = service("vip");
    assert_eq!(managed(&service).ports.len(), 1);
    let selecting = service.clone().edit(|service| {
        service.spec_mut().selector = Some([("app".to_owned(), "web".to_owned())].into());
    });
    for service in [
        service.clone().annotate(annotation::ENABLED, "ture"),
        service.annotate(annotation::ENABLED, "false"),
        selecting,
    ] {
        assert_eq!(managed(&service).ports, []);
    }
}
