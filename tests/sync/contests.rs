//! Another client writes a copy again and again, as a second installation does.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Operator, cluster, ms, pass, put, seconds, service, slices_of, until, warnings};

const FINDING: &str = "endpoint_copier_findings{reason=\"OtherInstallation\"}";

/// Changes the copy of `vip`, and returns the time until the change is reverted.
async fn repaired(operator: &Operator, change: Value) -> Duration {
    let copy = || slices_of(&operator.store, "vip").remove(0);
    let content = |copy: &Value| {
        let metadata = &copy["metadata"];
        [
            &metadata["annotations"]["endpoint-copier/source-uid"],
            &copy["endpoints"],
        ]
        .map(Clone::clone)
    };
    let right = content(&copy());
    let name = copy()["metadata"]["name"].as_str().expect("a name").to_owned();
    let changed = operator.store.patch("endpointslices", "default", &name, change);
    assert_ne!(content(&changed.expect("a patch")), right);
    until(&operator.store, "the copy is repaired", |store| {
        slices_of(store, "vip")
            .first()
            .is_some_and(|copy| content(copy) == right)
    })
    .await
}

fn other_source() -> Value {
    json!({"metadata": {"annotations": {"endpoint-copier/source-uid": "theirs"}}})
}

fn other_endpoints() -> Value {
    json!({"endpoints": [{"addresses": ["203.0.113.9"]}]})
}

/// Rule: 3.other-installation
#[tokio::test(start_paused = true)]
async fn contested_copy_is_repaired_rarely_unless_endpoints_differ() {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    for _ in 0..3 {
        pass(seconds(5)).await;
        assert_eq!(operator.metric(FINDING), Some(0));
        let took = repaired(&operator, other_source()).await;
        assert!(took < ms(100), "{took:?}");
    }
    pass(seconds(1)).await;
    assert_eq!(warnings(&operator.store, "vip"), ["OtherInstallation"]);
    let before = operator.slice_requests("update").len();
    for _ in 0..3 {
        let took = repaired(&operator, other_source()).await;
        assert!(took > seconds(55) && took < seconds(61), "{took:?}");
        assert_eq!(operator.metric(FINDING), Some(1));
    }
    assert_eq!(operator.slice_requests("update").len(), before + 3);
    for _ in 0..3 {
        let took = repaired(&operator, other_endpoints()).await;
        assert!(took < ms(100), "{took:?}");
    }
    pass(seconds(119)).await;
    assert_eq!(operator.metric(FINDING), Some(1));
    pass(seconds(2)).await;
    assert_eq!(operator.metric(FINDING), Some(0));
    let took = repaired(&operator, other_source()).await;
    assert!(took < ms(100), "{took:?}");
    assert_eq!(warnings(&operator.store, "vip"), ["OtherInstallation"]);
}
