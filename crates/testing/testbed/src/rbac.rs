//! RBAC rules as an optional filter: a user with rules may access only the resources that the rules allow, while other
//! users may do anything.

use crate::{route::Route, status::ApiError};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// One rule of a Role or `ClusterRole`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `apiGroups`. The core group is an empty string. `*` means all.
    pub api_groups: Vec<String>,
    /// `resources`, including subresources such as `services/status`. `*` means all.
    pub resources: Vec<String>,
    /// `verbs`. `*` means all.
    pub verbs: Vec<String>,
    /// `resourceNames`. Empty means all.
    pub resource_names: Vec<String>,
    /// Namespaces of the `RoleBinding`s. Empty for a `ClusterRoleBinding`.
    pub namespaces: Vec<String>,
    /// `nonResourceURLs`. A rule has either these or resources.
    pub non_resource_urls: Vec<String>,
}

fn texts(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}

impl Rule {
    /// A rule for all names in all namespaces.
    #[must_use]
    pub fn new(api_groups: &[&str], resources: &[&str], verbs: &[&str]) -> Self {
        Self {
            api_groups: texts(api_groups),
            resources: texts(resources),
            verbs: texts(verbs),
            ..Self::default()
        }
    }

    /// A rule for a path that is not a resource.
    #[must_use]
    pub fn path(path: &str, verb: &str) -> Self {
        Self {
            non_resource_urls: texts(&[path]),
            verbs: texts(&[verb]),
            ..Self::default()
        }
    }

    /// Limits the rule to these names.
    #[must_use]
    pub fn names(mut self, names: &[&str]) -> Self {
        self.resource_names = texts(names);
        self
    }

    /// Limits the rule to these namespaces.
    #[must_use]
    pub fn namespaces(mut self, namespaces: &[&str]) -> Self {
        self.namespaces = texts(namespaces);
        self
    }

    fn allows(&self, route: &Route) -> bool {
        let among = |list: &[String], value: &str| list.iter().any(|x| x == "*" || x == value);
        among(&self.verbs, route.verb)
            && among(&self.api_groups, route.group())
            && among(&self.resources, &route.resource())
            && (self.resource_names.is_empty() || among(&self.resource_names, route.rbac_name()))
            && (self.namespaces.is_empty() || self.namespaces.contains(&route.namespace))
    }
}

/// A report about a restricted user: the use of its rules, and its refused requests.
#[derive(Clone, Debug, Default)]
pub struct RbacReport {
    /// Each rule, and the number of requests for which it was the first to match.
    pub used: Vec<(Rule, usize)>,
    /// The message of each refusal.
    pub refused: Vec<String>,
}

/// The rules of all users of a store.
#[derive(Debug, Default)]
pub struct Rbac {
    users: Mutex<BTreeMap<String, RbacReport>>,
}

impl Rbac {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, RbacReport>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Restricts a user to these rules from now on, and drops its earlier report.
    pub fn restrict(&self, user: &str, rules: Vec<Rule>) {
        let unused = rules.into_iter().map(|rule| (rule, 0)).collect();
        self.lock().insert(
            user.to_owned(),
            RbacReport {
                used: unused,
                refused: Vec::new(),
            },
        );
    }

    /// Removes the restriction of a user.
    pub fn allow_all(&self, user: &str) {
        self.lock().remove(user);
    }

    /// The report about a restricted user so far.
    #[must_use]
    pub fn report(&self, user: &str) -> RbacReport {
        self.lock().get(user).cloned().unwrap_or_default()
    }

    /// Whether a user may send a request to a path that is not a resource.
    pub(crate) fn allows_path(&self, user: &str, path: &str, verb: &str) -> bool {
        let among = |list: &[String], value: &str| list.iter().any(|x| x == "*" || x == value);
        self.lock().get(user).is_none_or(|report| {
            let mut rules = report.used.iter().map(|(rule, _)| rule);
            rules.any(|rule| among(&rule.non_resource_urls, path) && among(&rule.verbs, verb))
        })
    }

    /// Checks whether a request for a resource is allowed, and counts the request in the report. Requests for paths
    /// that are not resources are allowed.
    pub(crate) fn check(&self, user: &str, route: &Route) -> Result<(), ApiError> {
        let mut users = self.lock();
        let Some(report) = users.get_mut(user) else {
            return Ok(());
        };
        let Some(kind) = route.kind else { return Ok(()) };
        if let Some((_, count)) = report.used.iter_mut().find(|(rule, _)| rule.allows(route)) {
            *count += 1;
            return Ok(());
        }
        let scope = if route.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", route.namespace)
        };
        let (verb, resource) = (route.verb, route.resource());
        let group = kind.group;
        let why = format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}");
        let error = ApiError::forbidden(kind, route.rbac_name(), &why);
        report.refused.push(error.message.clone());
        Err(error)
    }
}
