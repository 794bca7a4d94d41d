use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::apiserver::{SendDeadline, TooLate};
use endpoint_copier_core::model::ObjectMeta;

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

/// Rule: 2.parked
#[test]
fn an_expectation_is_met_by_the_written_version_or_a_later_one() {
    let (old, new) = (slice("5", "a"), slice("6", "a"));
    let other = slice("7", "b");
    for (expectation, shown, expected) in [
        (Expectation::Version(6), None, false),
        (Expectation::Version(6), Some(&old), false),
        (Expectation::Version(6), Some(&new), true),
        (Expectation::Version(6), Some(&other), true),
        (Expectation::NewerThan(5), Some(&old), false),
        (Expectation::NewerThan(5), Some(&new), true),
        (Expectation::NewerThan(5), None, true),
        (Expectation::Exists, None, false),
        (Expectation::Exists, Some(&old), true),
        (Expectation::Gone("a".to_owned()), Some(&old), false),
        (Expectation::Gone("a".to_owned()), Some(&other), true),
        (Expectation::Gone("a".to_owned()), None, true),
    ] {
        assert_eq!(
            expectation.is_fulfilled(shown),
            expected,
            "{expectation:?} {shown:?}"
        );
    }
}

/// Returns a plan with one write of each kind.
fn one_of_each() -> Plan {
    let named = |name: &str| {
        let mut slice = slice("5", "a");
        (slice.metadata.namespace, slice.metadata.name) = (Some("default".to_owned()), Some(name.to_owned()));
        slice.endpoints = Some(vec![endpoint_copier_core::model::Endpoint::default()]);
        slice
    };
    let mut new = named("new");
    (new.metadata.resource_version, new.metadata.uid) = (None, None);
    Plan {
        creates: vec![new],
        updates: vec![named("changed")],
        deletes: vec![Delete {
            key: SliceKey::new("default", "old"),
            uid: "a".to_owned(),
            resource_version: "5".to_owned(),
        }],
        ..Plan::default()
    }
}

type Answer = fn() -> Result<http::Response<String>, tower::BoxError>;

/// The method of each request, and the deadline by which it must be sent.
type Sent = Arc<Mutex<Vec<(String, Option<Instant>)>>>;

/// Returns a writer, and the requests that it sends.
fn writer(answer: Answer) -> (Writer, Sent) {
    let sent = Sent::default();
    let seen = sent.clone();
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let until = request.extensions().get().map(|SendDeadline(moment)| *moment);
        seen.lock().push((request.method().to_string(), until));
        std::future::ready(answer())
    });
    let metrics = Metrics::new("lease").unwrap();
    (Writer::new(Client::new(service, "default"), metrics), sent)
}

#[tokio::test(start_paused = true)]
async fn each_write_carries_the_deadline_of_the_term() {
    for (seconds, expected) in [(4, 4), (60, 60)] {
        let (writer, sent) = writer(|| Ok(http::Response::new("{}".to_owned())));
        let now = Instant::now();
        let term = Term::for_tests(Duration::from_secs(seconds));
        let applied = writer.apply(&term, None, one_of_each()).await;
        assert!(applied.failures.is_empty(), "{:?}", applied.failures);
        let until = Some(now + Duration::from_secs(expected));
        let expected = ["POST", "PUT", "DELETE"].map(|method| (method.to_owned(), until));
        assert_eq!(*sent.lock(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_is_in_doubt_unless_it_was_answered_or_never_sent() {
    let table: [(Answer, bool); 3] = [
        (|| Ok(http::Response::new("{}".to_owned())), false),
        (|| Err(TooLate.into()), false),
        (|| Err("the connection broke".into()), true),
    ];
    for (answer, in_doubt) in table {
        let (writer, _) = writer(answer);
        let term = Term::for_tests(Duration::from_secs(4));
        writer.apply(&term, None, one_of_each()).await;
        assert_eq!(term.may_release(), !in_doubt);
    }
}

/// Returns a plan with two updates. The second one has an endpoint that is taken out.
fn two_updates() -> Plan {
    let address = |address: &str| endpoint_copier_core::model::Endpoint {
        addresses: vec![address.to_owned()],
        ..Default::default()
    };
    let copy = |name: &str| {
        let mut slice = one_of_each().updates.remove(0);
        slice.metadata.name = Some(name.to_owned());
        slice
    };
    let (mut first, mut second) = (copy("first"), copy("second"));
    first.endpoints = Some(vec![address("192.0.2.2")]);
    let mut out = address("192.0.2.1");
    out.conditions = Some(k8s_openapi::api::discovery::v1::EndpointConditions {
        ready: Some(false),
        ..Default::default()
    });
    second.endpoints = Some(vec![out]);
    let annotations = second.metadata.annotations.get_or_insert_default();
    annotations.insert(
        endpoint_copier_core::model::provenance::UNREACHABLE.into(),
        "192.0.2.1".into(),
    );
    Plan {
        updates: vec![first, second],
        ..Plan::default()
    }
}

fn status(code: u16) -> http::Response<String> {
    let status = serde_json::json!({"kind": "Status", "status": "Failure", "code": code, "message": "no"});
    let answer = http::Response::builder().status(code);
    answer.body(status.to_string()).unwrap()
}

/// Rule: 7.half
#[tokio::test(start_paused = true)]
async fn no_endpoint_is_taken_out_after_a_failure_except_a_refusal() {
    let fine: Answer = || Ok(http::Response::new("{}".to_owned()));
    let gone: Answer = || Ok(status(404));
    let refused: Answer = || Ok(status(422));
    let broken: Answer = || Err("the connection broke".into());
    let newly_out = (
        "192.0.2.1".parse().unwrap(),
        "readyz timed out 3 times".to_owned(),
    );
    // The response to each write, the addresses that the plan newly takes out, and the number of writes.
    for (answer, taken_out, expected) in [
        (fine, vec![newly_out.clone()], 2),
        (gone, vec![newly_out.clone()], 1),
        (gone, vec![], 2),
        (broken, vec![newly_out.clone()], 1),
        (refused, vec![newly_out], 2),
    ] {
        // The update that takes an endpoint out comes last, wherever it is in the plan.
        for is_first in [false, true] {
            let (writer, sent) = writer(answer);
            let term = Term::for_tests(Duration::from_secs(4));
            let mut plan = Plan {
                taken_out: taken_out.clone().into_iter().collect(),
                ..two_updates()
            };
            if is_first {
                plan.updates.reverse();
            }
            let applied = writer.apply(&term, None, plan).await;
            assert_eq!(sent.lock().len(), expected, "{applied:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn verdicts_of_a_successful_write_count_if_another_fails() {
    let [first, second]: [IpAddr; 2] = ["192.0.2.2", "192.0.2.1"].map(|address| address.parse().unwrap());
    // The update that is refused, what counts as taken out, and what counts as returned.
    for (refused, taken_out, returned) in [("first", vec![second], vec![]), ("second", vec![], vec![first])] {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let is_refused = request.uri().path().ends_with(refused);
            let answer = if is_refused {
                status(422)
            } else {
                http::Response::new("{}".to_owned())
            };
            std::future::ready(Ok::<_, tower::BoxError>(answer))
        });
        let writer = Writer::new(Client::new(service, "default"), Metrics::new("lease").unwrap());
        let plan = Plan {
            taken_out: [(second, "readyz timed out 3 times".to_owned())].into(),
            returned: [first].into(),
            ..two_updates()
        };
        let term = Term::for_tests(Duration::from_secs(4));
        let applied = writer.apply(&term, None, plan).await;
        assert_eq!(applied.failures.len(), 1);
        assert_eq!(applied.taken_out.into_keys().collect::<Vec<_>>(), taken_out);
        assert_eq!(applied.returned.into_iter().collect::<Vec<_>>(), returned);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_waits_for_a_slow_webhook_while_its_term_lasts() {
    let slow = |seconds: u64| {
        let service = tower::service_fn(move |_: Request<kube::client::Body>| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok::<_, tower::BoxError>(http::Response::new("{}".to_owned()))
        });
        Writer::new(Client::new(service, "default"), Metrics::new("lease").unwrap())
    };
    // How long the webhook takes, how long the term lasts, whether the term is renewed every 2 s, when the write ends,
    // and whether it succeeded.
    for (webhook, length, is_renewed, ends, is_done) in [
        (10, 4, true, 10, true),
        (10, 4, false, 4, false),
        (60, 4, true, 12, false),
        (60, 60, false, 12, false),
    ] {
        let writer = slow(webhook);
        let term = Term::for_tests(Duration::from_secs(length));
        let renewals = async {
            loop {
                tokio::time::sleep(Duration::from_secs(2)).await;
                if is_renewed {
                    term.renew_for_tests(Duration::from_secs(length));
                }
            }
        };
        let plan = Plan {
            creates: one_of_each().creates,
            ..Plan::default()
        };
        let start = Instant::now();
        let applied = tokio::select! {
            applied = writer.apply(&term, None, plan) => applied,
            () = renewals => continue,
        };
        assert_eq!(
            (start.elapsed().as_secs(), applied.failures.is_empty()),
            (ends, is_done)
        );
    }
}
