use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::*;

fn status(code: u16, details: serde_json::Value) -> Status {
    serde_json::from_value(json!({
        "status": "Failure", "code": code, "message": "no", "reason": "because", "details": details,
    }))
    .unwrap()
}

#[test]
fn answers_of_the_api_server_are_sorted_into_kinds() {
    for (code, expected) in [
        (400, Kind::Refused),
        (401, Kind::Passing),
        (403, Kind::Refused),
        (404, Kind::Conflict),
        (405, Kind::Refused),
        (409, Kind::Conflict),
        (410, Kind::Passing),
        (413, Kind::Refused),
        (422, Kind::Refused),
        (429, Kind::Passing),
        (500, Kind::Passing),
        (503, Kind::Passing),
        (504, Kind::Passing),
    ] {
        assert_eq!(sort(&status(code, json!({}))), expected, "{code}");
    }
}

#[test]
fn a_namespace_that_is_going_or_gone_is_no_fault_of_the_service() {
    let terminating = json!({"causes": [{"reason": "NamespaceTerminating", "message": "…", "field": "metadata.namespace"}]});
    assert_eq!(sort(&status(403, terminating)), Kind::NamespaceTerminating);
    assert_eq!(
        sort(&status(404, json!({"kind": "namespaces", "name": "gone"}))),
        Kind::NamespaceTerminating
    );
}

#[test]
fn without_an_answer_a_write_is_tried_again() {
    assert_eq!(Error::NoAnswer.kind(), Kind::Passing);
    assert_eq!(Error::TermOver.kind(), Kind::TermOver);
}

fn slice(version: &str, uid: &str) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            resource_version: Some(version.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        },
        ..EndpointSlice::default()
    }
}

#[test]
fn an_echo_is_shown_by_what_was_written_or_by_anything_later() {
    let (old, new) = (slice("5", "a"), slice("6", "a"));
    let other = slice("7", "b");
    for (echo, shown, expected) in [
        (Echo::Version(6), None, false),
        (Echo::Version(6), Some(&old), false),
        (Echo::Version(6), Some(&new), true),
        (Echo::Version(6), Some(&other), true),
        (Echo::NewerThan(5), Some(&old), false),
        (Echo::NewerThan(5), Some(&new), true),
        (Echo::NewerThan(5), None, true),
        (Echo::Exists, None, false),
        (Echo::Exists, Some(&old), true),
        (Echo::Gone("a".to_owned()), Some(&old), false),
        (Echo::Gone("a".to_owned()), Some(&other), true),
        (Echo::Gone("a".to_owned()), None, true),
    ] {
        assert_eq!(echo.is_shown(shown), expected, "{echo:?} {shown:?}");
    }
}
