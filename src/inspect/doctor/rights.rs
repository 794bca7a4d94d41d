//! The permissions that the operator needs. All functions are pure.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};

use crate::apiserver::reference_grant;

/// The features that the operator uses only in some clusters, or with some settings.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each feature is used or not, whatever the others are"
)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uses {
    /// Whether `--leader-elect` is set.
    pub election: bool,
    /// Whether `--probe` is not `off`.
    pub probes: bool,
    /// Whether `--cross-namespace` is `consent`.
    pub grants: bool,
    /// Whether a managed Service needs Nodes.
    pub nodes: bool,
    /// Whether `--service-conditions` is set.
    pub service_conditions: bool,
    /// Whether `--metrics-secure` is set.
    pub secure_metrics: bool,
}

/// The user of the replicas, and the permissions that this user lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    pub who: String,
    pub missing: Vec<Right>,
}

/// A permission that the chart grants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    pub verb: &'static str,
    object: Object,
    /// Whether copies cannot be kept in sync without this permission. Without one of the others, some features do not
    /// work.
    pub is_needed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Resource {
        group: &'static str,
        /// Includes the subresource, if any, such as `services/status`.
        resource: &'static str,
        /// `None` means all.
        name: Option<String>,
        /// `None` means all.
        namespace: Option<String>,
    },
    Path(&'static str),
}

const DISCOVERY_GROUP: &str = "discovery.k8s.io";
const COORDINATION: &str = "coordination.k8s.io";
const READ_VERBS: [&str; 3] = ["get", "list", "watch"];
const ELECTION_VERBS: [&str; 4] = ["get", "list", "watch", "patch"];

/// Returns the permissions that replicas need if they use the Lease with this namespace and name, and have managed
/// Services in these namespaces.
pub(super) fn needed(lease: (&str, &str), namespaces: &BTreeSet<&str>, uses: Uses) -> Vec<Right> {
    let (lease_namespace, lease_name) = lease;
    let everywhere = |group, resource| Object::Resource {
        group,
        resource,
        name: None,
        namespace: None,
    };
    let within = |group, resource, namespace: &str, name: Option<String>| Object::Resource {
        group,
        resource,
        name,
        namespace: Some(namespace.to_owned()),
    };
    let mut rights = Vec::new();
    let mut add = |object: &Object, verbs: &[&'static str], is_needed| {
        rights.extend(verbs.iter().map(|verb| Right {
            verb,
            object: object.clone(),
            is_needed,
        }));
    };
    add(&everywhere("", "services"), &READ_VERBS, true);
    add(&everywhere(DISCOVERY_GROUP, "endpointslices"), &READ_VERBS, true);
    if uses.nodes {
        add(&everywhere("", "nodes"), &["list", "watch"], false);
    }
    if uses.grants {
        let grants = everywhere(reference_grant::GROUP, "referencegrants");
        add(&grants, &["list", "watch"], false);
    }
    if uses.probes {
        add(&Object::Path("/readyz"), &["get"], false);
    }
    if uses.secure_metrics {
        let tokens = everywhere("authentication.k8s.io", "tokenreviews");
        add(&tokens, &["create"], false);
        let access = everywhere("authorization.k8s.io", "subjectaccessreviews");
        add(&access, &["create"], false);
    }
    for namespace in namespaces {
        let slices = within(DISCOVERY_GROUP, "endpointslices", namespace, None);
        add(&slices, &["create", "update", "delete"], true);
        let events = within("events.k8s.io", "events", namespace, None);
        add(&events, &["create", "patch"], false);
        if uses.service_conditions {
            let status = within("", "services/status", namespace, None);
            add(&status, &["patch"], false);
        }
    }
    let lease = |name| within(COORDINATION, "leases", lease_namespace, name);
    if uses.election {
        add(&lease(None), &["create"], true);
        add(&lease(Some(lease_name.to_owned())), &ELECTION_VERBS, true);
    }
    if uses.election && uses.probes {
        let probes = lease(Some(format!("{lease_name}-probes")));
        add(&probes, &ELECTION_VERBS, false);
    }
    rights
}

impl Right {
    /// Returns the attributes for a `SubjectAccessReview`.
    pub fn attributes(&self) -> Value {
        match &self.object {
            Object::Path(path) => json!({"nonResourceAttributes": {"path": path, "verb": self.verb}}),
            Object::Resource {
                group,
                resource,
                name,
                namespace,
            } => {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                json!({"resourceAttributes": {
                    "group": group, "resource": resource, "subresource": subresource, "verb": self.verb,
                    "name": name.as_deref().unwrap_or_default(),
                    "namespace": namespace.as_deref().unwrap_or_default(),
                }})
            }
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Object::Path(path) => write!(f, "{} {path}", self.verb),
            Object::Resource {
                group,
                resource,
                name,
                namespace,
            } => {
                write!(f, "{} {resource}", self.verb)?;
                if !group.is_empty() {
                    write!(f, ".{group}")?;
                }
                if let Some(name) = name {
                    write!(f, " {name}")?;
                }
                match namespace {
                    Some(namespace) => write!(f, " in {namespace}"),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns one line for each permission that a file of the chart's permissions grants to the operator.
    fn of_chart(text: &str) -> BTreeSet<String> {
        let objects: Value = serde_json::from_str(text).unwrap();
        let list = |value: &Value| -> Vec<String> {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            items
                .iter()
                .map(|item| item.as_str().unwrap().to_owned())
                .collect()
        };
        let mut rights = BTreeSet::new();
        let is_of_scrapers = |role: &Value| {
            let name = role["metadata"]["name"].as_str().unwrap();
            name.ends_with("-metrics-reader")
        };
        let objects = objects.as_array().unwrap().iter();
        for role in objects.filter(|role| !is_of_scrapers(role)) {
            for rule in role["rules"].as_array().into_iter().flatten() {
                for verb in list(&rule["verbs"]) {
                    rights.extend(
                        list(&rule["nonResourceURLs"])
                            .iter()
                            .map(|path| format!("{verb} {path}")),
                    );
                    let names = list(&rule["resourceNames"]);
                    let names = if names.is_empty() {
                        vec![String::new()]
                    } else {
                        names
                    };
                    for (group, resource) in list(&rule["apiGroups"]).iter().zip(list(&rule["resources"])) {
                        rights.extend(
                            names
                                .iter()
                                .map(|name| format!("{verb} {resource}.{group} {name}")),
                        );
                    }
                }
            }
        }
        rights
    }

    /// Returns lines of the same form for the permissions that `doctor` reviews.
    fn reviewed(uses: Uses) -> BTreeSet<String> {
        let lease = ("ops", "f668ae63.endpoint-copier-operator");
        let needed = needed(lease, &BTreeSet::from(["default"]), uses);
        let line = |right: &Right| match &right.object {
            Object::Path(path) => format!("{} {path}", right.verb),
            Object::Resource {
                group,
                resource,
                name,
                ..
            } => {
                let name = name.as_deref().unwrap_or_default();
                format!("{} {resource}.{group} {name}", right.verb)
            }
        };
        needed.iter().map(line).collect()
    }

    /// The features that the default values of the chart enable.
    const DEFAULT: Uses = Uses {
        election: true,
        probes: true,
        grants: true,
        nodes: true,
        service_conditions: false,
        secure_metrics: false,
    };

    #[test]
    fn rights_are_those_that_the_chart_grants() {
        macro_rules! chart {
            ($file:literal) => {
                of_chart(include_str!(concat!(
                    "../../../crates/testing/harness/rights/",
                    $file
                )))
            };
        }
        let conditions = Uses {
            service_conditions: true,
            ..DEFAULT
        };
        let metrics = Uses {
            secure_metrics: true,
            ..DEFAULT
        };
        let least = Uses {
            election: true,
            ..Uses::default()
        };
        for (uses, mut chart) in [
            (DEFAULT, chart!("default.json")),
            (conditions, chart!("service-conditions.json")),
            (metrics, chart!("secure-metrics.json")),
            (least, chart!("least.json")),
        ] {
            // The chart grants this for debugging. The operator never sends such a request.
            chart.remove("get nodes. ");
            assert_eq!(reviewed(uses), chart, "{uses:?}");
        }
    }

    #[test]
    fn right_of_an_unused_feature_is_not_reviewed() {
        type Switch = fn(&mut Uses);
        let lease = |name: &str| {
            ELECTION_VERBS.map(|verb| format!("{verb} leases.coordination.k8s.io {name} in ops"))
        };
        let election = [
            vec!["create leases.coordination.k8s.io in ops".to_owned()],
            lease("lease").into(),
        ];
        let probes = [vec!["get /readyz".to_owned()], lease("lease-probes").into()];
        let of_both = [election.concat(), lease("lease-probes").into()];
        let read = |what: &str| ["list", "watch"].map(|verb| format!("{verb} {what}")).to_vec();
        let all = Uses {
            service_conditions: true,
            secure_metrics: true,
            ..DEFAULT
        };
        let of = |uses| needed(("ops", "lease"), &BTreeSet::from(["blue"]), uses);
        let cases: [(Switch, Vec<String>, bool); 6] = [
            (|uses| uses.election = false, of_both.concat(), true),
            (|uses| uses.probes = false, probes.concat(), false),
            (
                |uses| uses.grants = false,
                read("referencegrants.gateway.networking.k8s.io"),
                false,
            ),
            (|uses| uses.nodes = false, read("nodes"), false),
            (
                |uses| uses.secure_metrics = false,
                vec![
                    "create tokenreviews.authentication.k8s.io".to_owned(),
                    "create subjectaccessreviews.authorization.k8s.io".to_owned(),
                ],
                false,
            ),
            (
                |uses| uses.service_conditions = false,
                vec!["patch services/status in blue".to_owned()],
                false,
            ),
        ];
        for (switch_off, expected, is_needed) in cases {
            let mut uses = all;
            switch_off(&mut uses);
            let reviewed = of(uses);
            let left_out = of(all).into_iter().filter(|right| !reviewed.contains(right));
            let left_out: Vec<_> = left_out.collect();
            let shown: Vec<_> = left_out.iter().map(ToString::to_string).collect();
            assert_eq!(shown, expected, "{uses:?}");
            assert_eq!(
                left_out.iter().any(|right| right.is_needed),
                is_needed,
                "{uses:?}"
            );
        }
    }

    #[test]
    fn attributes_of_a_review_name_the_subresource() {
        let uses = Uses {
            service_conditions: true,
            ..Uses::default()
        };
        let rights = needed(("ops", "lease"), &BTreeSet::from(["blue"]), uses);
        let status = rights
            .iter()
            .find(|right| right.to_string().starts_with("patch services"));
        let attributes = &status.unwrap().attributes()["resourceAttributes"];
        assert_eq!(attributes["resource"], "services");
        assert_eq!(attributes["subresource"], "status");
    }

    #[test]
    fn right_is_shown_with_verb_resource_name_and_namespace() {
        let rights = needed(("ops", "lease"), &BTreeSet::from(["blue"]), DEFAULT);
        let shown: Vec<_> = rights.iter().map(ToString::to_string).collect();
        for expected in [
            "list services",
            "get /readyz",
            "create endpointslices.discovery.k8s.io in blue",
            "patch leases.coordination.k8s.io lease in ops",
        ] {
            assert!(shown.contains(&expected.to_owned()), "{expected} in {shown:?}");
        }
    }
}
