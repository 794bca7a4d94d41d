//! The permissions of the operator, exactly as the chart grants them. `make docs` renders the files in `rights/`, so
//! that tests of the operator do not need Helm. A test compares the files with the chart.

use serde_json::{Value, json};
use testbed::Rule;

use crate::servers::USERS;

/// Values of the chart that affect permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// The default values.
    Default,
    /// `rbac.goOperator=true`, as during an upgrade from the Go operator.
    GoOperator,
    /// Without the optional features that are on by default: probes, Nodes and ReferenceGrants.
    Least,
    /// `rbac.namespaces=[default]`.
    OneNamespace,
    /// `metrics.secure.enabled=true`.
    SecureMetrics,
    /// `serviceConditions.enabled=true`.
    ServiceConditions,
}

impl Rights {
    /// All variants.
    pub const ALL: [Self; 6] = [
        Self::Default,
        Self::GoOperator,
        Self::Least,
        Self::OneNamespace,
        Self::SecureMetrics,
        Self::ServiceConditions,
    ];

    /// The placeholder for the namespace of the release in the files.
    pub const NAMESPACE: &str = "namespace-of-the-release";

    /// The argument of `--set` for `helm template`.
    #[must_use]
    pub const fn values(self) -> &'static str {
        match self {
            Self::Default => "fullnameOverride=replicas",
            Self::GoOperator => "fullnameOverride=replicas,rbac.goOperator=true",
            Self::Least => {
                "fullnameOverride=replicas,probe.mode=off,nodes.enabled=false,consent.crossNamespace=deny"
            }
            Self::OneNamespace => "fullnameOverride=replicas,rbac.namespaces={default}",
            Self::SecureMetrics => "fullnameOverride=replicas,metrics.secure.enabled=true",
            Self::ServiceConditions => "fullnameOverride=replicas,serviceConditions.enabled=true",
        }
    }

    /// The name of the file in `rights/`.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::Default => "default.json",
            Self::GoOperator => "go-operator.json",
            Self::Least => "least.json",
            Self::OneNamespace => "one-namespace.json",
            Self::SecureMetrics => "secure-metrics.json",
            Self::ServiceConditions => "service-conditions.json",
        }
    }

    /// The roles and their bindings, for a release in this namespace.
    pub(crate) fn objects(self, namespace: &str) -> Vec<Value> {
        let text = match self {
            Self::Default => include_str!("../rights/default.json"),
            Self::GoOperator => include_str!("../rights/go-operator.json"),
            Self::Least => include_str!("../rights/least.json"),
            Self::OneNamespace => include_str!("../rights/one-namespace.json"),
            Self::SecureMetrics => include_str!("../rights/secure-metrics.json"),
            Self::ServiceConditions => include_str!("../rights/service-conditions.json"),
        };
        serde_json::from_str(&text.replace(Self::NAMESPACE, namespace)).expect("objects")
    }

    /// The text of a file: the objects of a rendered chart that grant permissions, with no metadata except name and
    /// namespace.
    #[must_use]
    pub fn rendered(objects: &[Value]) -> String {
        let of_rights = objects.iter().filter(|object| {
            let group = object["apiVersion"].as_str().unwrap_or_default();
            group.starts_with("rbac.authorization.k8s.io/")
        });
        let of_rights: Vec<_> = of_rights
            .cloned()
            .map(|mut object| {
                let meta = object["metadata"].as_object_mut().expect("metadata");
                meta.retain(|key, _| key == "name" || key == "namespace");
                object
            })
            .collect();
        serde_json::to_string_pretty(&of_rights).expect("JSON") + "\n"
    }
}

/// The path of the collection to which an object belongs.
pub(crate) fn path(object: &Value) -> String {
    let kind = object["kind"].as_str().expect("a kind").to_lowercase();
    let group = "/apis/rbac.authorization.k8s.io/v1";
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{kind}s"),
        None => format!("{group}/{kind}s"),
    }
}

/// Makes the replicas the subjects of a binding: each replica has its own user instead of the ServiceAccount.
pub(crate) fn bind_to_replicas(object: &mut Value) {
    if let Some(subjects) = object.get_mut("subjects") {
        let user = |name| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name});
        *subjects = USERS[1..].iter().map(user).collect();
    }
}

/// An access review that asks whether a user has the permission of a rule, which must name one verb of one resource.
pub(crate) fn review(user: &str, rule: &Rule) -> Value {
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    let resource = first(&rule.resources);
    let (resource, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
    json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": {
            "group": first(&rule.api_groups), "resource": resource, "subresource": subresource,
            "verb": first(&rule.verbs), "name": first(&rule.resource_names), "namespace": first(&rule.namespaces),
        }},
    })
}

fn texts(list: &Value) -> Vec<String> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    items
        .map(|item| item.as_str().expect("a string").to_owned())
        .collect()
}

/// The rules of the roles among these objects, with one rule for each verb of each resource.
#[must_use]
pub fn rules(objects: &[Value]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for role in objects
        .iter()
        .filter(|object| object["kind"] == "ClusterRole" || object["kind"] == "Role")
    {
        let namespaces: Vec<_> = role["metadata"]["namespace"].as_str().into_iter().collect();
        for rule in role["rules"].as_array().expect("rules") {
            for verb in texts(&rule["verbs"]) {
                for resource in texts(&rule["resources"]) {
                    let groups = texts(&rule["apiGroups"]);
                    assert_eq!(groups.len(), 1, "{rule}");
                    let names = texts(&rule["resourceNames"]);
                    let names: Vec<_> = names.iter().map(String::as_str).collect();
                    let one = Rule::new(&[&groups[0]], &[&resource], &[&verb]);
                    rules.push(one.names(&names).namespaces(&namespaces));
                }
            }
        }
    }
    rules
}
