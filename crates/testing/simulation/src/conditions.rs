//! Checks at the end of a schedule whether the conditions of Services are right, and whether replicas stop writing
//! them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use testbed::{Request, Store};
use tokio::time::{Instant, sleep};

use crate::oracle::may_be_in_sync;
use crate::slices::key;
use crate::unreadable::is_unreadable;
use crate::world::World;

const TYPE: &str = "endpoint-copier/InSync";

/// The conditions must be right within this time. By then, a pause of 60 s has ended, and a refused write has been
/// repeated.
const BOUND: Duration = Duration::from_secs(150);

/// Once everything is right, nothing may be written for this long.
const QUIET: Duration = Duration::from_secs(70);

/// Waits until all conditions are right, and checks that they stay right without a write.
pub async fn settle(world: &Arc<World>) {
    let from = Instant::now();
    let mut wrong = differences(&world.store);
    while !wrong.is_empty() && from.elapsed() < BOUND {
        sleep(Duration::from_millis(250)).await;
        wrong = differences(&world.store);
    }
    let rest = Instant::now();
    sleep(QUIET).await;
    let written = |request: &Request| {
        request.is("patch", "services") && request.status == Some(200) && request.at > rest
    };
    let written = world.store.requests().matching(written).len();
    if written > 0 {
        wrong.push(format!(
            "{written} conditions were written after all conditions should have been right"
        ));
    }
    wrong.extend(differences(&world.store));
    world.state().observer.violations.extend(wrong);
}

fn differences(store: &Store) -> Vec<String> {
    let services = store.list("services", None);
    let services = services.iter().filter(|service| !is_unreadable(service));
    services.filter_map(difference).collect()
}

/// Whether a write has changed only the condition of a Service.
pub fn is_all_that_changed(old: Option<&Value>, new: Option<&Value>) -> bool {
    let without = |service: &Value| {
        let mut service = service.clone();
        service["metadata"]["resourceVersion"].take();
        let mut conditions = service["status"]["conditions"].take();
        if let Some(conditions) = conditions.as_array_mut() {
            conditions.retain(|condition| condition["type"] != TYPE);
        }
        let others = conditions.as_array().filter(|others| !others.is_empty());
        (others.cloned(), service)
    };
    old.zip(new)
        .is_some_and(|(old, new)| without(old) == without(new))
}

fn difference(service: &Value) -> Option<String> {
    let mut conditions = service["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == TYPE);
    let is_right = match (may_be_in_sync(service), found) {
        (None, found) => found.is_none(),
        (Some(_), None) => false,
        (Some(may_be), Some(found)) => {
            let is_passing = ["NotWritten", "NotDecided"]
                .iter()
                .any(|reason| found["reason"] == **reason);
            !is_passing && (may_be || found["status"] == "False")
        }
    };
    (!is_right).then(|| format!("the condition of {:?} is {found:?}", key(service)))
}
