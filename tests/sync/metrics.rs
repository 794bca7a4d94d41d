//! The metrics of changes and of Services.

use serde_json::json;
use testbed::{Effect, Fault, Match};

use crate::harness::{Operator, cluster, pass, put, seconds, service, service_of, slice};

fn of_service(metric: &str, service: &str) -> String {
    format!("{metric}{{service_namespace=\"default\",service=\"{service}\"}}")
}

fn endpoints(service: &str, side: &str, condition: &str) -> String {
    format!(
        "endpoint_copier_endpoints{{service_namespace=\"default\",service=\"{service}\",side=\"{side}\",\
         condition=\"{condition}\"}}"
    )
}

#[tokio::test(start_paused = true)]
async fn time_from_the_trigger_is_measured_except_for_first_copies() {
    let store = cluster(&["192.0.2.1"]);
    let with_trigger = |address: &str, moment: Option<String>| {
        let mut slice = slice("app", "app-1", &[address]);
        if let Some(moment) = moment {
            slice["metadata"]["annotations"] =
                json!({"endpoints.kubernetes.io/last-change-trigger-time": moment});
        }
        slice
    };
    put(
        &store,
        with_trigger("192.0.2.1", Some("2020-01-01T00:00:00Z".to_owned())),
    );
    put(&store, service_of("web", "app"));
    let operator = Operator::start(&store);
    let count = || operator.metric("endpoint_copier_trigger_propagation_seconds_count");
    operator.until_addresses("web", &["192.0.2.1"]).await;
    pass(seconds(2)).await;
    assert_eq!(count(), Some(0), "the time to a first copy was measured");
    put(
        &store,
        with_trigger("192.0.2.2", Some(jiff::Timestamp::now().to_string())),
    );
    operator.until_addresses("web", &["192.0.2.2"]).await;
    pass(seconds(2)).await;
    assert_eq!(count(), Some(1));
    let within_ten = "endpoint_copier_trigger_propagation_seconds_bucket{le=\"10\"}";
    assert_eq!(operator.metric(within_ten), Some(1));
    put(&store, with_trigger("192.0.2.3", None));
    operator.until_addresses("web", &["192.0.2.3"]).await;
    pass(seconds(2)).await;
    assert_eq!(count(), Some(1), "a change without a trigger time was measured");
}

#[tokio::test(start_paused = true)]
async fn metrics_show_a_service_out_of_sync_until_its_copy_is_written() {
    let store = cluster(&["192.0.2.1"]);
    put(&store, service("vip"));
    let operator = Operator::start(&store);
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(2)).await;
    let behind = of_service("endpoint_copier_out_of_sync_seconds", "vip");
    assert_eq!(operator.metric(&behind), Some(0));
    let writes = Match::any().resource("endpointslices");
    let rule = operator.writer.faults().add(Fault::new(writes, Effect::Hang));
    put(
        &store,
        slice("kubernetes", "kubernetes", &["192.0.2.1", "192.0.2.2"]),
    );
    pass(seconds(4)).await;
    assert_eq!(operator.metric(&behind), Some(4));
    pass(seconds(56)).await;
    assert_eq!(operator.metric(&behind), Some(60));
    let ready = |side| operator.metric(&endpoints("vip", side, "ready"));
    assert_eq!((ready("source"), ready("copy")), (Some(2), Some(1)));
    operator.writer.faults().remove(rule);
    operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
    pass(seconds(2)).await;
    assert_eq!(operator.metric(&behind), Some(0));
    assert_eq!((ready("source"), ready("copy")), (Some(2), Some(2)));
}

#[tokio::test(start_paused = true)]
async fn a_refused_service_is_out_of_sync_until_deleted() {
    let store = cluster(&["192.0.2.1"]);
    let mut refused = service("refused");
    refused["spec"]["selector"] = json!({"app": "web"});
    put(&store, refused);
    put(&store, service("vip"));
    let operator = Operator::start(&store);
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(2)).await;
    let series = |name: &str| {
        let label = format!("service=\"{name}\"");
        operator
            .page()
            .lines()
            .filter(|line| line.contains(&label))
            .count()
    };
    assert_eq!(
        (series("vip"), series("refused")),
        (8, 7),
        "the refused Service has never been in sync"
    );
    let behind = of_service("endpoint_copier_out_of_sync_seconds", "refused");
    assert_ne!(operator.metric(&behind), Some(0));
    for name in ["vip", "refused"] {
        store.delete("services", "default", name).expect("deleted");
    }
    pass(seconds(2)).await;
    assert_eq!((series("vip"), series("refused")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn metrics_of_controller_runtime_keep_their_meaning() {
    let store = cluster(&["192.0.2.1"]);
    let operator = Operator::start(&store);
    let writes = Match::any().resource("endpointslices");
    let rule = operator.writer.faults().add(Fault::new(writes, Effect::Break));
    for number in 0..20 {
        put(&store, service(&format!("s-{number}")));
    }
    pass(seconds(5)).await;
    let errors = operator
        .metric("controller_runtime_reconcile_errors_total{controller=\"endpointslice\"}")
        .expect("a counter");
    assert!(errors >= 20, "{errors}");
    let by_result = |result: &str| {
        operator.metric(&format!(
            "controller_runtime_reconcile_total{{controller=\"endpointslice\",result=\"{result}\"}}"
        ))
    };
    assert_eq!(by_result("error"), Some(errors));
    assert_eq!(
        operator.metric("workqueue_retries_total{controller=\"endpointslice\",name=\"endpointslice\"}"),
        Some(errors)
    );
    operator.writer.faults().remove(rule);
    pass(seconds(5)).await;
    assert!(by_result("success") >= Some(20));
    let syncs = operator.metric("workqueue_adds_total{controller=\"endpointslice\",name=\"endpointslice\"}");
    let ended = operator
        .metric("workqueue_work_duration_seconds_count{controller=\"endpointslice\",name=\"endpointslice\"}");
    assert_eq!(syncs, ended, "a key that was added was not processed");
    assert_eq!(
        operator.metric("workqueue_depth{controller=\"endpointslice\",name=\"endpointslice\"}"),
        Some(0)
    );
    let active = "controller_runtime_active_workers{controller=\"endpointslice\"}";
    assert_eq!(operator.metric(active), Some(0));
    let synced = "endpoint_copier_events_total{reason=\"Synced\",type=\"Normal\"}";
    assert_eq!(operator.metric(synced), Some(20));
}
