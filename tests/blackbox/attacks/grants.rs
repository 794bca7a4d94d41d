//! ReferenceGrants that permit less than the attacker hopes for.

use harness::{Cluster, Operator};
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::{VICTIM, front, is_hidden, is_refused, victim};
use crate::on_both;

/// The spec of a ReferenceGrant that allows references from objects of one kind in a namespace.
fn spec((group, kind, namespace): (&str, &str, &str), to: Value) -> Value {
    json!({"from": [{"group": group, "kind": kind, "namespace": namespace}], "to": [to]})
}

on_both! {
    servers: 1;
    /// Rule: 9.reference-grant
    async fn grants_that_do_not_match_give_no_consent(cluster: &mut Cluster) {
        const SERVICE: (&str, &str, &str) = ("", "Service", "team-a");
        victim(cluster).await;
        cluster.serve_reference_grants().await;
        let all = || json!({"group": "", "kind": "Service"});
        let named = |name: &str| json!({"group": "", "kind": "Service", "name": name});
        for (namespace, name, from, to) in [
            ("team-a", "own-namespace", SERVICE, named("app")),
            ("team-a", "own-namespace-all", SERVICE, all()),
            ("default", "third-namespace", SERVICE, all()),
            ("web", "other-name", SERVICE, named("app2")),
            ("web", "any-name", SERVICE, named("*")),
            ("web", "prefix", SERVICE, named("ap")),
            ("web", "empty-name", SERVICE, named("")),
            ("web", "to-secret", SERVICE, json!({"group": "", "kind": "Secret"})),
            ("web", "to-other-group", SERVICE, json!({"group": "example.com", "kind": "Service"})),
            ("web", "from-route", ("gateway.networking.k8s.io", "HTTPRoute", "team-a"), all()),
            ("web", "from-other-group", ("example.com", "Service", "team-a"), all()),
            ("web", "from-any", ("", "Service", "*"), all()),
            ("web", "from-prefix", ("", "Service", "team"), all()),
            ("web", "from-empty", ("", "Service", ""), all()),
        ] {
            cluster.grant(namespace, name, spec(from, to)).await;
        }
        let _operator = Operator::start(cluster, "one", 0);
        let service = cluster.create::<Service>(front()).await;
        is_refused(cluster, &service, "NotPermitted").await;
        // A grant that matches gives consent, which shows that the operator watches grants.
        cluster.grant("web", "real", spec(SERVICE, named("app"))).await;
        cluster.until_addresses("team-a", "front", &[VICTIM]).await;
        cluster.revoke("web", "real").await;
        cluster.until_addresses("team-a", "front", &[]).await;
        is_hidden(cluster, "team-a").await;
    }
}
