use std::collections::{BTreeMap, BTreeSet};

use super::*;
use endpoint_copier_core::model::{EndpointCounts, ServiceKey, SourceAndCopies};
use endpoint_copier_core::verdicts::{Phase, Reply};
use tokio::time::Instant;

fn metrics() -> Metrics {
    Metrics::new("f668ae63.endpoint-copier-operator").unwrap()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

/// Returns the counts for this many ready endpoints, in the source and in the copies.
fn endpoints(ready: usize) -> SourceAndCopies {
    let counts = EndpointCounts {
        ready,
        ..EndpointCounts::default()
    };
    SourceAndCopies {
        source: counts,
        copies: counts,
    }
}

/// Returns metrics after one call of each kind, so that those without a series at the start appear too.
fn exercised() -> Metrics {
    let metrics = metrics();
    metrics.set_leader(true);
    metrics.leader_changed();
    metrics.observe_renewal(Duration::from_millis(3));
    metrics.set_services(3, 2);
    metrics.sync_finished(SyncResult::Success);
    metrics.slice_changed(Operation::Create);
    metrics.observe_propagation(Duration::from_millis(7));
    metrics.observe_trigger_propagation(Duration::from_secs(1));
    metrics.set_findings(&BTreeMap::from([(Reason::HasSelector, 1)]));
    metrics.event_written("Warning", "HasSelector");
    metrics
        .services()
        .ended(&key("vip"), Some(true), Some(endpoints(3)));
    let watch_health = WatchHealth::default();
    std::mem::forget(watch_health.start(WatchKind::Services));
    metrics.read_watch_life(watch_health);
    metrics.lease_seen_renewed();
    metrics.watch_restarted(WatchKind::Services, Restart::Expired);
    metrics.api_request(&Method::GET, Some(StatusCode::OK), "kubernetes.default.svc");
    let target = "192.0.2.1:6443".parse().unwrap();
    metrics.probes().set_state(target, Phase::Well);
    metrics.probes().set_listed(target, true);
    metrics.probes().set_objected(target, false);
    metrics
        .probes()
        .attempt(target, &Reply::Success, Duration::from_millis(2));
    metrics
}

/// Rule: 7.metrics
#[test]
fn series_of_a_probed_address_end_with_its_probes() {
    let metrics = exercised();
    assert_line(
        &metrics,
        "endpoint_copier_probe_state{address=\"192.0.2.1\",port=\"6443\",state=\"well\"} 1",
    );
    assert_line(
        &metrics,
        "endpoint_copier_probe_state{address=\"192.0.2.1\",port=\"6443\",state=\"down\"} 0",
    );
    metrics.probes().forget("192.0.2.1:6443".parse().unwrap());
    assert!(!metrics.render().contains("192.0.2.1"));
}

#[track_caller]
fn assert_line(metrics: &Metrics, line: &str) {
    let text = metrics.render();
    assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
}

/// Name, type and labels of every metric.
#[cfg(target_os = "linux")]
#[test]
fn names_types_and_labels_of_metrics_do_not_change() {
    let text = exercised().render();
    let mut found = BTreeMap::<String, (String, BTreeSet<String>)>::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            current = name.to_owned();
            found.insert(current.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#')
            && let Some((name, rest)) = line.split_once('{')
        {
            assert!(name.starts_with(&current), "{line}");
            let labels = rest
                .rsplit_once('}')
                .unwrap()
                .0
                .split("\",")
                .map(|pair| pair.split('=').next().unwrap());
            found
                .get_mut(&current)
                .unwrap()
                .1
                .extend(labels.filter(|l| *l != "le").map(str::to_owned));
        }
    }
    let found: Vec<String> = found
        .into_iter()
        .map(|(name, (kind, labels))| {
            format!(
                "{name} {kind} {}",
                labels.into_iter().collect::<Vec<_>>().join(",")
            )
            .trim_end()
            .to_owned()
        })
        .collect();
    assert_eq!(
        found,
        [
            "controller_runtime_active_workers gauge controller",
            "controller_runtime_reconcile_errors_total counter controller",
            "controller_runtime_reconcile_time_seconds histogram controller",
            "controller_runtime_reconcile_total counter controller,result",
            "endpoint_copier_api_address_changes_total counter",
            "endpoint_copier_build_info gauge commit,version",
            "endpoint_copier_clock_skew_seconds gauge",
            "endpoint_copier_endpoints gauge condition,service,service_namespace,side",
            "endpoint_copier_events_total counter reason,type",
            "endpoint_copier_findings gauge reason",
            "endpoint_copier_last_success_timestamp_seconds gauge service,service_namespace",
            "endpoint_copier_leader_transitions_total counter",
            "endpoint_copier_lease_last_renew_timestamp_seconds gauge",
            "endpoint_copier_lease_renew_duration_seconds histogram",
            "endpoint_copier_lease_seen_renewed_timestamp_seconds gauge",
            "endpoint_copier_managed_services gauge",
            "endpoint_copier_out_of_sync_seconds gauge service,service_namespace",
            "endpoint_copier_probe_attempts_total counter address,port,result",
            "endpoint_copier_probe_duration_seconds histogram address,port",
            "endpoint_copier_probe_listed gauge address,port",
            "endpoint_copier_probe_objected gauge address,port",
            "endpoint_copier_probe_removals_total counter",
            "endpoint_copier_probe_state gauge address,port,state",
            "endpoint_copier_probe_unreachable_endpoints gauge",
            "endpoint_copier_propagation_seconds histogram",
            "endpoint_copier_services_in_sync gauge",
            "endpoint_copier_slice_changes_total counter operation",
            "endpoint_copier_syncs_total counter result",
            "endpoint_copier_trigger_propagation_seconds histogram",
            "endpoint_copier_watch_last_event_timestamp_seconds gauge resource",
            "endpoint_copier_watch_restarts_total counter reason,resource",
            "leader_election_master_status gauge name",
            "process_cpu_seconds_total counter",
            "process_max_fds gauge",
            "process_open_fds gauge",
            "process_resident_memory_bytes gauge",
            "process_start_time_seconds gauge",
            "process_threads gauge",
            "process_virtual_memory_bytes gauge",
            "rest_client_requests_total counter code,host,method",
            "workqueue_adds_total counter controller,name",
            "workqueue_depth gauge controller,name",
            "workqueue_queue_duration_seconds histogram controller,name",
            "workqueue_retries_total counter controller,name",
            "workqueue_work_duration_seconds histogram controller,name",
        ]
    );
}

#[test]
fn metric_has_one_help_and_type_and_text_ends_in_newline() {
    let text = exercised().render();
    assert!(text.ends_with('\n') && !text.ends_with("\n\n"));
    for kind in ["# HELP ", "# TYPE "] {
        let names: Vec<_> = text
            .lines()
            .filter_map(|l| l.strip_prefix(kind))
            .filter_map(|l| l.split(' ').next())
            .collect();
        assert_eq!(
            names.len(),
            names.iter().collect::<BTreeSet<_>>().len(),
            "{names:?}"
        );
        assert_eq!(names.len(), text.matches("# TYPE ").count());
    }
    let series: Vec<_> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| l.rsplit_once(' ').unwrap().0)
        .collect();
    assert_eq!(series.len(), series.iter().collect::<BTreeSet<_>>().len());
}

#[test]
fn counters_begin_at_zero_and_nobody_leads() {
    let metrics = metrics();
    for line in [
        "leader_election_master_status{name=\"f668ae63.endpoint-copier-operator\"} 0",
        "endpoint_copier_syncs_total{result=\"success\"} 0",
        "endpoint_copier_syncs_total{result=\"error\"} 0",
        "endpoint_copier_syncs_total{result=\"refused\"} 0",
        "endpoint_copier_syncs_total{result=\"requeued\"} 0",
        "endpoint_copier_slice_changes_total{operation=\"create\"} 0",
        "endpoint_copier_slice_changes_total{operation=\"update\"} 0",
        "endpoint_copier_slice_changes_total{operation=\"delete\"} 0",
        "endpoint_copier_watch_restarts_total{reason=\"error\",resource=\"lease\"} 0",
        "endpoint_copier_events_total{reason=\"Synced\",type=\"Normal\"} 0",
        "endpoint_copier_events_total{reason=\"HasSelector\",type=\"Warning\"} 0",
        "endpoint_copier_findings{reason=\"HasSelector\"} 0",
        "controller_runtime_reconcile_total{controller=\"endpointslice\",result=\"requeue\"} 0",
        "controller_runtime_reconcile_errors_total{controller=\"endpointslice\"} 0",
        "workqueue_adds_total{controller=\"endpointslice\",name=\"endpointslice\"} 0",
        "workqueue_queue_duration_seconds_bucket{controller=\"endpointslice\",name=\"endpointslice\",le=\"0.00000001\"} 0",
        "endpoint_copier_leader_transitions_total 0",
        "endpoint_copier_propagation_seconds_count 0",
        "endpoint_copier_propagation_seconds_bucket{le=\"0.0005\"} 0",
        "endpoint_copier_propagation_seconds_bucket{le=\"30\"} 0",
        "endpoint_copier_managed_services 0",
        "endpoint_copier_services_in_sync 0",
    ] {
        assert_line(&metrics, line);
    }
}

#[test]
fn each_call_changes_its_metric() {
    let metrics = exercised();
    metrics.api_request(&Method::PUT, None, "10.0.0.1:6443");
    for line in [
        "leader_election_master_status{name=\"f668ae63.endpoint-copier-operator\"} 1",
        "endpoint_copier_leader_transitions_total 1",
        "endpoint_copier_lease_renew_duration_seconds_sum 0.003",
        "endpoint_copier_managed_services 3",
        "endpoint_copier_services_in_sync 2",
        "endpoint_copier_syncs_total{result=\"success\"} 1",
        "endpoint_copier_slice_changes_total{operation=\"create\"} 1",
        "endpoint_copier_propagation_seconds_bucket{le=\"0.005\"} 0",
        "endpoint_copier_propagation_seconds_bucket{le=\"0.01\"} 1",
        "endpoint_copier_watch_restarts_total{reason=\"expired\",resource=\"services\"} 1",
        "rest_client_requests_total{code=\"200\",host=\"kubernetes.default.svc\",method=\"GET\"} 1",
        "rest_client_requests_total{code=\"<error>\",host=\"10.0.0.1:6443\",method=\"PUT\"} 1",
    ] {
        assert_line(&metrics, line);
    }
    metrics.set_leader(false);
    assert_line(
        &metrics,
        "leader_election_master_status{name=\"f668ae63.endpoint-copier-operator\"} 0",
    );
}

#[test]
fn count_of_a_finding_that_ended_is_zero() {
    let metrics = metrics();
    metrics.set_findings(&BTreeMap::from([
        (Reason::HasSelector, 2),
        (Reason::NameTaken, 1),
    ]));
    metrics.set_findings(&BTreeMap::from([(Reason::NameTaken, 3)]));
    assert_line(&metrics, "endpoint_copier_findings{reason=\"HasSelector\"} 0");
    assert_line(&metrics, "endpoint_copier_findings{reason=\"NameTaken\"} 3");
}

#[test]
fn metrics_of_two_instances_are_separate() {
    let (a, b) = (metrics(), metrics());
    a.clone().leader_changed();
    assert_line(&a, "endpoint_copier_leader_transitions_total 1");
    assert_line(&b, "endpoint_copier_leader_transitions_total 0");
}

fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.render();
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    values.next()?.parse().ok()
}

fn out_of_sync(metrics: &Metrics, name: &str) -> Option<f64> {
    let labels = format!("service_namespace=\"default\",service=\"{name}\"");
    value(
        metrics,
        &format!("endpoint_copier_out_of_sync_seconds{{{labels}}}"),
    )
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn out_of_sync_age_grows_until_a_sync_that_saw_the_change() {
    let (metrics, vip) = (metrics(), key("vip"));
    metrics.services().changed(&vip, Instant::now());
    tokio::time::advance(SECOND).await;
    assert_eq!(
        out_of_sync(&metrics, "vip"),
        Some(1.0),
        "while the sync waits for its turn"
    );
    metrics.services().begun(&vip);
    tokio::time::advance(SECOND).await;
    assert_eq!(out_of_sync(&metrics, "vip"), Some(2.0), "while the write hangs");
    metrics.services().changed(&vip, Instant::now());
    tokio::time::advance(SECOND).await;
    metrics.services().ended(&vip, Some(true), Some(endpoints(1)));
    assert_eq!(
        out_of_sync(&metrics, "vip"),
        Some(1.0),
        "after a change that this sync did not see"
    );
    metrics.services().begun(&vip);
    metrics.services().ended(&vip, None, Some(endpoints(1)));
    tokio::time::advance(SECOND).await;
    assert_eq!(
        out_of_sync(&metrics, "vip"),
        Some(2.0),
        "after a sync that ended before it knew"
    );
    metrics.services().begun(&vip);
    metrics.services().ended(&vip, Some(true), Some(endpoints(1)));
    tokio::time::advance(SECOND).await;
    assert_eq!(out_of_sync(&metrics, "vip"), Some(0.0));
    // A retry without a change, which fails.
    metrics.services().begun(&vip);
    metrics.services().ended(&vip, Some(false), Some(endpoints(1)));
    tokio::time::advance(SECOND).await;
    assert_eq!(out_of_sync(&metrics, "vip"), Some(1.0));
}

/// While a watch is silent, it is unknown whether its view is correct.
#[tokio::test(start_paused = true)]
async fn silent_watch_means_out_of_sync_since_its_last_activity() {
    for (watch, age, is_blind) in [
        (WatchKind::Services, 91, true),
        (WatchKind::Copies, 91, true),
        (WatchKind::Sources, 91, true),
        (WatchKind::Sources, 89, false),
        (WatchKind::Lease, 91, false),
    ] {
        let metrics = metrics();
        let watch_health = WatchHealth::default();
        let _silent = watch_health.start(watch);
        tokio::time::advance(age * SECOND).await;
        let others = [
            WatchKind::Services,
            WatchKind::Copies,
            WatchKind::Sources,
            WatchKind::Lease,
        ]
        .into_iter();
        let others = others.filter(|other| *other != watch);
        let _others: Vec<_> = others.map(|other| watch_health.start(other)).collect();
        metrics.read_watch_life(watch_health);
        metrics
            .services()
            .ended(&key("vip"), Some(true), Some(endpoints(1)));
        metrics.set_services(1, 1);
        let in_sync = value(&metrics, "endpoint_copier_services_in_sync");
        assert_eq!(in_sync, Some(if is_blind { 0.0 } else { 1.0 }), "{watch} {age}");
        let since = out_of_sync(&metrics, "vip").unwrap();
        assert!(
            (is_blind && since >= 91.0) || (!is_blind && since == 0.0),
            "{watch} {since}"
        );
    }
}

#[test]
fn series_of_a_service_end_with_it_or_with_the_term() {
    let metrics = metrics();
    for name in ["a", "b"] {
        metrics
            .services()
            .ended(&key(name), Some(true), Some(endpoints(1)));
    }
    metrics.services().ended(&key("a"), Some(true), None);
    assert_eq!(out_of_sync(&metrics, "a"), None);
    assert_eq!(out_of_sync(&metrics, "b"), Some(0.0));
    assert!(!metrics.render().contains("service=\"a\""));
    metrics.forget_services();
    assert!(!metrics.render().contains("service="));
}

fn series(metrics: &Metrics) -> usize {
    metrics
        .render()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count()
}

/// Returns the metrics of a leader with this number of Services.
fn managing(count: usize) -> Metrics {
    let metrics = exercised();
    metrics.forget_services();
    for number in 0..count {
        let key = ServiceKey::new(
            "a-namespace-of-a-usual-length",
            format!("a-service-of-a-usual-length-{number}"),
        );
        metrics
            .services()
            .ended(&key, Some(true), Some(endpoints(number)));
    }
    metrics
}

#[test]
fn service_has_eight_series_and_nothing_else_grows() {
    let none = series(&managing(0));
    assert!(none < 300, "{none}");
    for count in [1, 100, 500] {
        assert_eq!(series(&managing(count)), none + 8 * count);
    }
}

/// The operator has one thread, and other work runs after each piece.
/// Rule: survive.metrics-once
#[test]
fn each_piece_of_the_page_has_whole_lines_and_is_short() {
    for count in [0, 1, 100, 10_000] {
        let metrics = managing(count);
        let pieces: Vec<_> = metrics.pieces().collect();
        let longest = pieces.iter().map(String::len).max().unwrap();
        assert!(longest < 48 * 1024, "{count} Services: {longest} bytes");
        assert!(
            pieces.iter().all(|piece| piece.ends_with('\n')),
            "{count} Services"
        );
    }
}

/// The operator has one thread, so a scrape delays all other work.
#[test]
fn a_scrape_of_five_hundred_services_takes_milliseconds() {
    let metrics = managing(500);
    let took = (0..50).map(|_| {
        let start = std::time::Instant::now();
        assert!(metrics.render().len() > 100_000);
        start.elapsed()
    });
    let took = took.min().unwrap();
    println!("a scrape of 500 Services: {took:?}");
    assert!(took < Duration::from_millis(20), "{took:?}");
}
