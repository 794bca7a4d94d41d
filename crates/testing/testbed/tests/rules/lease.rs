//! Leases.

use crate::target::{Target, lease};
use serde_json::json;

pub async fn an_empty_holder_is_allowed(t: Target) {
    let mut object = lease("a");
    object["spec"]["holderIdentity"] = "".into();
    let made = t.made("leases", &object).await;
    assert_eq!(made["spec"]["holderIdentity"], "");
}

pub async fn a_lease_may_be_empty(t: Target) {
    let mut object = lease("a");
    object.as_object_mut().unwrap().remove("spec");
    assert_eq!(t.made("leases", &object).await["spec"], json!({}));
}

pub async fn numbers_must_be_in_range(t: Target) {
    let mut object = lease("a");
    object["spec"]["leaseDurationSeconds"] = 0.into();
    object["spec"]["leaseTransitions"] = (-1).into();
    let fields = ["spec.leaseDurationSeconds", "spec.leaseTransitions"];
    t.post(&t.all("leases"), &object).await.invalid(&fields);
}

pub async fn times_must_have_six_fractional_digits(t: Target) {
    for bad in [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.123Z",
        "2026-01-01T00:00:00.123456789Z",
        "now",
    ] {
        let mut object = lease("a");
        object["spec"]["renewTime"] = bad.into();
        t.post(&t.all("leases"), &object).await.fails(400, "BadRequest");
    }
    let mut object = lease("a");
    object["spec"]["acquireTime"] = "2026-01-01T00:00:00.123456Z".into();
    let made = t.made("leases", &object).await;
    assert_eq!(made["spec"]["acquireTime"], "2026-01-01T00:00:00.123456Z");
}

pub async fn times_of_the_year_9999_are_stored(t: Target) {
    let mut object = lease("a");
    for field in ["renewTime", "acquireTime"] {
        object["spec"][field] = "9999-12-31T23:59:59.999999Z".into();
    }
    let made = t.made("leases", &object).await;
    for field in ["renewTime", "acquireTime"] {
        assert_eq!(made["spec"][field], "9999-12-31T23:59:59.999999Z");
    }
}

pub async fn one_of_two_updates_of_one_version_succeeds(t: Target) {
    let made = t.made("leases", &lease("a")).await;
    let path = t.one("leases", "a");
    let by = |holder: &str| {
        let version = &made["metadata"]["resourceVersion"];
        json!({"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": holder}})
    };
    let (one, two) = (by("one"), by("two"));
    let (one, two) = tokio::join!(t.merge(&path, &one), t.merge(&path, &two));
    let mut codes = [one.code, two.code];
    codes.sort_unstable();
    assert_eq!(codes, [200, 409]);
}
