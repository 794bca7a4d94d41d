use std::collections::HashSet;

use testbed::{ApiServer, Fault, Match, Store};
use tokio::time::{sleep, timeout};

use super::*;
use endpoint_copier_core::model::Reason;
use endpoint_copier_core::testing::{defaults, service};

/// A process that loses the lead may lead again immediately, and sync the Service before the writer gives up on the
/// Event.
/// Rule: 3.events-later
#[tokio::test(start_paused = true)]
async fn event_that_outlasts_its_term_is_reported_in_the_next() {
    let (store, dirty) = (Store::new(), DirtySet::default());
    let server = ApiServer::new(&store);
    let metrics = Metrics::new("lease").unwrap();
    let client = crate::apiserver::over(server.as_user("replica"), "default", &metrics);
    let (recorder, writer) = EventRecorder::new(client, "replica", dirty.clone(), metrics);
    tokio::spawn(writer.run());
    let overload = Fault::status(Match::any().resource("events"), 429);
    server.faults().add(overload.times(1));

    let service = ManagedService::read(&service("vip"), &defaults()).expect("a managed Service");
    let findings = BTreeSet::from([Finding::new(Reason::SourceNotFound, "none")]);
    let first = Term::for_tests(Duration::from_millis(500));
    recorder.report(&first, &service, &findings);
    sleep(Duration::from_millis(600)).await;
    let second = Term::for_tests(Duration::from_secs(60));
    recorder.report(&second, &service, &findings);

    let marked = timeout(Duration::from_secs(10), dirty.take()).await;
    let marked: HashSet<_> = marked.expect("a dirty Service").into_keys().collect();
    assert_eq!(marked, HashSet::from([service.key.clone()]));
    recorder.report(&second, &service, &findings);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(store.list("events.events.k8s.io", Some("default")).len(), 1);
}
