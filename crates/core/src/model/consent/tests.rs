use super::*;

const WEB: (&str, &str) = ("web", "app");

fn key((namespace, name): (&str, &str)) -> ServiceKey {
    ServiceKey::new(namespace, name)
}

fn annotated(value: &str) -> ObjectMeta {
    ObjectMeta {
        annotations: Some(
            [(annotation::ALLOW_FROM.into(), value.into())]
                .into_iter()
                .collect(),
        ),
        ..ObjectMeta::default()
    }
}

fn reference(from: (&str, &str, &str), to: (&str, &str, Option<&str>)) -> ReferenceGrant {
    let text = str::to_owned;
    ReferenceGrant {
        metadata: ObjectMeta {
            name: Some("grant".to_owned()),
            namespace: Some("web".to_owned()),
            ..ObjectMeta::default()
        },
        spec: ReferenceGrantSpec {
            from: Some(vec![ReferenceGrantFrom {
                group: text(from.0),
                kind: text(from.1),
                namespace: text(from.2),
            }]),
            to: Some(vec![ReferenceGrantTo {
                group: text(to.0),
                kind: text(to.1),
                name: to.2.map(text),
            }]),
        },
    }
}

fn listed(grants: &[ReferenceGrant]) -> Grants {
    let mut known = Grants::default();
    let read = |grant: &ReferenceGrant| (grant.metadata.clone(), Some(Grant::read(grant)));
    known.replace(grants.iter().map(read));
    known
}

/// Consent for a Service in namespace `apps`.
fn consent(
    policy: &ConsentPolicy,
    allow_from: Option<&str>,
    grants: &Grants,
    source: (&str, &str),
) -> Consent {
    let annotation = allow_from.and_then(|value| AllowFrom::of(&annotated(value)));
    let grantors = Grantors {
        policy,
        default_source: &ServiceKey::api_source(),
        annotation: annotation.as_ref(),
        is_unread: false,
        services_listed: true,
        grants,
        is_revoked: false,
    };
    grantors.consent("apps", &key(source))
}

/// Rule: 9.own-namespace, 9.default-source, 9.allow-source
#[test]
fn own_namespace_default_and_flag_sources_need_no_consent() {
    let flags = ConsentPolicy {
        allowed_sources: [(key(WEB), AllowFrom::new("apps,other"))].into(),
        ..ConsentPolicy::default()
    };
    let none = listed(&[]);
    for (policy, source, expected) in [
        (&ConsentPolicy::default(), ("apps", "app"), Consent::Given),
        (
            &ConsentPolicy::default(),
            ("default", "kubernetes"),
            Consent::Given,
        ),
        (&ConsentPolicy::default(), ("default", "other"), Consent::Refused),
        (&ConsentPolicy::default(), WEB, Consent::Refused),
        (&flags, WEB, Consent::Given),
        (&flags, ("web", "app2"), Consent::Refused),
        (&flags, ("web2", "app"), Consent::Refused),
    ] {
        assert_eq!(consent(policy, None, &none, source), expected, "{source:?}");
    }
}

/// Rule: 9.allow-from
#[test]
fn an_annotation_allows_the_namespaces_that_it_names() {
    let long = format!("{},apps", "a".repeat(MAX_ALLOW_FROM));
    for (value, expected) in [
        ("apps", Consent::Given),
        ("other,apps", Consent::Given),
        ("*", Consent::Given),
        ("", Consent::Refused),
        ("app", Consent::Refused),
        ("app*", Consent::Refused),
        ("apps*", Consent::Refused),
        ("other,*", Consent::Refused),
        ("**", Consent::Refused),
        ("*,", Consent::Refused),
        (".*", Consent::Refused),
        ("apps ,other", Consent::Refused),
        (" *", Consent::Refused),
        ("Apps", Consent::Refused),
        ("apps/vip", Consent::Refused),
        ("other;apps", Consent::Refused),
        (&long, Consent::Refused),
    ] {
        let policy = ConsentPolicy::default();
        assert_eq!(
            consent(&policy, Some(value), &listed(&[]), WEB),
            expected,
            "{value:?}"
        );
    }
}

/// Rule: 9.reference-grant
#[test]
fn a_reference_grant_allows_what_it_names_in_its_namespace() {
    const SERVICE: (&str, &str, &str) = ("", "Service", "apps");
    for (from, to, expected) in [
        (SERVICE, ("", "Service", None), Consent::Given),
        (SERVICE, ("", "Service", Some("app")), Consent::Given),
        (SERVICE, ("", "Service", Some("app2")), Consent::Refused),
        (SERVICE, ("", "Service", Some("*")), Consent::Refused),
        (SERVICE, ("", "Service", Some("")), Consent::Refused),
        (SERVICE, ("", "Secret", None), Consent::Refused),
        (SERVICE, ("core", "Service", None), Consent::Refused),
        (("", "Service", "other"), ("", "Service", None), Consent::Refused),
        (("", "Service", "*"), ("", "Service", None), Consent::Refused),
        (("", "Service", ""), ("", "Service", None), Consent::Refused),
        (
            ("gateway.networking.k8s.io", "HTTPRoute", "apps"),
            ("", "Service", None),
            Consent::Refused,
        ),
    ] {
        let (policy, grants) = (ConsentPolicy::default(), listed(&[reference(from, to)]));
        assert_eq!(consent(&policy, None, &grants, WEB), expected, "{from:?} {to:?}");
        let elsewhere = consent(&policy, None, &grants, ("web2", "app"));
        assert_eq!(
            elsewhere,
            Consent::Refused,
            "a source in another namespace: {from:?} {to:?}"
        );
    }
}

#[test]
fn a_grant_for_one_name_and_for_all_allows_all() {
    let mut grant = reference(("", "Service", "apps"), ("", "Service", Some("other")));
    grant
        .spec
        .to
        .iter_mut()
        .flatten()
        .for_each(|to| to.name = Some("other".into()));
    let all = ReferenceGrantTo {
        kind: "Service".into(),
        ..ReferenceGrantTo::default()
    };
    grant.spec.to.get_or_insert_default().push(all);
    let policy = ConsentPolicy::default();
    assert_eq!(consent(&policy, None, &listed(&[grant]), WEB), Consent::Given);
}

/// Rule: 9.modes
#[test]
fn the_mode_overrides_consent_of_users_but_not_of_the_admin() {
    let mode = |cross_namespace| ConsentPolicy {
        cross_namespace,
        allowed_sources: [(key(("web", "by-flag")), AllowFrom::new("apps"))].into(),
        ..ConsentPolicy::default()
    };
    let granted = listed(&[reference(("", "Service", "apps"), ("", "Service", None))]);
    for (policy, allow_from, grants, source, expected) in [
        (CrossNamespace::Allow, None, &listed(&[]), WEB, Consent::Given),
        (CrossNamespace::Deny, Some("*"), &granted, WEB, Consent::Refused),
        (
            CrossNamespace::Deny,
            None,
            &granted,
            ("web", "by-flag"),
            Consent::Given,
        ),
        (
            CrossNamespace::Deny,
            None,
            &granted,
            ("default", "kubernetes"),
            Consent::Given,
        ),
        (
            CrossNamespace::Deny,
            None,
            &granted,
            ("apps", "app"),
            Consent::Given,
        ),
        (CrossNamespace::Consent, None, &granted, WEB, Consent::Given),
    ] {
        assert_eq!(
            consent(&mode(policy), allow_from, grants, source),
            expected,
            "{policy} {source:?}"
        );
    }
}

/// Rule: 9.discovery
#[test]
fn a_missing_grant_means_a_refusal_once_grants_are_listed() {
    let policy = ConsentPolicy::default();
    let mut grants = Grants::default();
    assert_eq!(consent(&policy, None, &grants, WEB), Consent::Unknown);
    assert_eq!(consent(&policy, Some("apps"), &grants, WEB), Consent::Given);
    grants.absent();
    assert_eq!(consent(&policy, None, &grants, WEB), Consent::RefusedForNow);
    grants.replace([]);
    assert_eq!(consent(&policy, None, &grants, WEB), Consent::Refused);
    grants.absent();
    assert_eq!(consent(&policy, None, &grants, WEB), Consent::Refused);
}

/// Rule: 9.ports
#[test]
fn ports_of_other_namespaces_come_from_slice_or_flag() {
    let policy = ConsentPolicy {
        allowed_ports: [9345].into(),
        ..ConsentPolicy::default()
    };
    let grants = listed(&[]);
    let grantors = Grantors {
        policy: &policy,
        default_source: &ServiceKey::api_source(),
        annotation: None,
        is_unread: false,
        services_listed: true,
        grants: &grants,
        is_revoked: false,
    };
    let port = |number, protocol: &str| k8s_openapi::api::discovery::v1::EndpointPort {
        port: Some(number),
        protocol: Some(protocol.to_owned()),
        ..k8s_openapi::api::discovery::v1::EndpointPort::default()
    };
    let of_slice = [port(6443, "TCP")];
    for (source, number, protocol, expected) in [
        (("apps", "app"), 10250, "TCP", true),
        (("default", "kubernetes"), 6443, "TCP", true),
        (("default", "kubernetes"), 6443, "", true),
        (("default", "kubernetes"), 6443, "UDP", false),
        (("default", "kubernetes"), 9345, "TCP", true),
        (("default", "kubernetes"), 9345, "UDP", false),
        (("default", "kubernetes"), 10250, "TCP", false),
        (("default", "kubernetes"), 2379, "TCP", false),
        (("default", "kubernetes"), 6443 + 65_536, "TCP", false),
        (WEB, 6443, "TCP", true),
        (WEB, 9345, "TCP", false),
    ] {
        let permitted = grantors.ports("apps", &key(source));
        let is_permitted = permitted.for_slice(&of_slice)(&port(number, protocol));
        assert_eq!(is_permitted, expected, "{source:?} {number}/{protocol}");
    }
}
