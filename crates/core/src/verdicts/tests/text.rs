//! The text form of targets and failures.

use super::*;

#[test]
fn target_is_written_and_read_in_canonical_form() {
    for (text, canonical) in [
        ("192.0.2.1:6443", "192.0.2.1:6443"),
        ("[2001:db8::1]:6443", "[2001:db8::1]:6443"),
        ("[2001:DB8:0:0::1]:9345", "[2001:db8::1]:9345"),
        ("[::ffff:192.0.2.1]:6443", "192.0.2.1:6443"),
    ] {
        let target: Target = text.parse().unwrap();
        assert_eq!(target.to_string(), canonical);
        assert_eq!(canonical.parse(), Ok(target));
    }
}

#[test]
fn text_that_is_no_target_is_rejected() {
    for text in [
        "",
        "192.0.2.1",
        "192.0.2.1:65536",
        "2001:db8::1:6443",
        "example.com:6443",
        "192.0.2.1:6443 ",
        "192.0.2.01:6443",
    ] {
        assert!(text.parse::<Target>().is_err(), "{text:?}");
    }
}

/// Rule: 7.log
#[test]
fn removal_says_what_failed_and_how_often() {
    for (port, what, failures, text) in [
        (API, Some(Failure::TimedOut), 3, "readyz timed out 3 times"),
        (API, Some(Failure::TimedOut), 1, "readyz timed out"),
        (
            SUPERVISOR,
            Some(Failure::Refused),
            3,
            "ping failed 3 times: connection refused",
        ),
        (API, Some(Failure::Status(500)), 1, "readyz failed: answered 500"),
        (API, None, 0, "readyz has no response yet"),
    ] {
        let since = None;
        let unreachable = Unreachable {
            port,
            what,
            failures,
            since,
        };
        assert_eq!(unreachable.to_string(), text);
    }
}

#[test]
fn failure_is_plain_english() {
    for (failure, text) in [
        (Failure::Refused, "connection refused"),
        (Failure::Reset, "connection reset"),
        (Failure::TimedOut, "timed out"),
        (
            Failure::Certificate("expired".to_owned()),
            "invalid certificate: expired",
        ),
        (Failure::Status(500), "answered 500"),
        (Failure::Other("no route to host".to_owned()), "no route to host"),
    ] {
        assert_eq!(failure.to_string(), text);
    }
}
