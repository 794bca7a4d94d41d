//! Parses the values of flags. Each error says what is allowed, and is printed after the flag and its value.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

use super::label_selector;
use crate::config::{LogFormat, ProbeMode};
use endpoint_copier_core::model::{AllowFrom, CrossNamespace, ServiceKey, is_dns_label};

/// Parses a DNS label, as Kubernetes validates it (RFC 1123).
pub(super) fn label(text: &str) -> Result<String, String> {
    if is_dns_label(text) {
        return Ok(text.to_owned());
    }
    Err(
        "must be a DNS label: at most 63 characters from a-z, 0-9 and '-', beginning and ending with a letter or digit"
            .to_owned(),
    )
}

pub(super) fn label_or_empty(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Ok(String::new())
    } else {
        label(text)
    }
}

/// Parses a DNS subdomain, such as the name of a Lease.
pub(super) fn subdomain(text: &str) -> Result<String, String> {
    if is_subdomain(text) {
        return Ok(text.to_owned());
    }
    Err("must be a DNS name: labels of a-z, 0-9 and '-', joined by '.', at most 253 characters".to_owned())
}

pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    // A bare word that is not a level would be read as a target that logs everything, so the typo "inof" must be
    // rejected here. Numbers are levels too, but it is not obvious which levels they mean.
    let is_level = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.parse::<LevelFilter>().is_ok()
    };
    let spelled_out = |part: &str| is_level(part.rsplit_once('=').map_or(part, |(_, level)| level));
    if text.split(',').all(spelled_out) && text.parse::<Targets>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("must be off, error, warn, info, debug, trace, or directives such as info,kube=debug".to_owned())
}

pub(super) fn one_of<T: Copy>(words: &[(&str, T)], text: &str) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let (last, others) = words.split_last().unwrap_or((&"", &[]));
        format!("must be {} or {last}", others.join(", "))
    })
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)], text)
}

/// The name of an [`crate::config::ApiServerMode`].
#[derive(Clone, Copy, Debug)]
pub(super) enum ModeName {
    Auto,
    Cluster,
    Local,
}

pub(super) fn api_server_mode(text: &str) -> Result<ModeName, String> {
    use ModeName::{Auto, Cluster, Local};
    one_of(&[("auto", Auto), ("cluster", Cluster), ("local", Local)], text)
}

pub(super) fn probe_mode(text: &str) -> Result<ProbeMode, String> {
    use ProbeMode::{Enforce, Observe, Off};
    one_of(&[("enforce", Enforce), ("observe", Observe), ("off", Off)], text)
}

pub(super) fn cross_namespace(text: &str) -> Result<CrossNamespace, String> {
    one_of(&CrossNamespace::ALL.map(|mode| (mode.as_str(), mode)), text)
}

/// Parses a Service from `namespace/name`.
pub(super) fn service(text: &str) -> Result<ServiceKey, String> {
    let names = text.split_once('/');
    let names = names.filter(|(namespace, name)| is_dns_label(namespace) && is_dns_label(name));
    names
        .map(|(namespace, name)| ServiceKey::new(namespace, name))
        .ok_or_else(|| "must be namespace/name, such as default/kubernetes-vip".to_owned())
}

/// Parses a source and the namespaces that may copy it.
pub(super) fn allowed_source(text: &str) -> Result<(ServiceKey, AllowFrom), String> {
    let read = || {
        let (source, namespaces) = text.split_once('=')?;
        let (namespace, name) = source.split_once('/')?;
        let is_legal = namespaces == "*" || namespaces.split(',').all(is_dns_label);
        (is_dns_label(namespace) && is_dns_label(name) && is_legal)
            .then(|| (ServiceKey::new(namespace, name), AllowFrom::new(namespaces)))
    };
    let rule = "must be namespace/name=namespace,... or namespace/name=*, such as web/app=team-a,team-b";
    read().ok_or_else(|| rule.to_owned())
}

/// Parses a label selector. An empty one selects everything.
pub(super) fn selector(text: &str) -> Result<String, String> {
    if label_selector::is_valid(text) {
        return Ok(text.trim().to_owned());
    }
    Err(
        "must be a label selector, such as node-role.kubernetes.io/control-plane, a=b,c!=d or 'a in (b,c)', or empty to select all Nodes"
            .to_owned(),
    )
}

pub(super) fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "must be a number, at least 1".to_owned())
}

/// Parses the number of probes after which a verdict changes.
pub(super) fn threshold(text: &str) -> Result<u32, String> {
    let count = text.parse().ok().filter(|count| (2..=10).contains(count));
    count.ok_or_else(|| "must be a number, 2 to 10".to_owned())
}

/// Parses a TCP port, or 0.
pub(super) fn port_or_none(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "must be a port, 0 to 65535".to_owned())
}

/// Parses a TCP port to dial.
pub(super) fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| "must be a port, 1 to 65535".to_owned())
}

/// Parses addresses separated by commas, as the downward API writes `status.hostIPs`.
pub(super) fn node_addresses(text: &str, warnings: &mut Vec<String>) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.parse::<IpAddr>() {
            Ok(address) => _ = addresses.insert(address.to_canonical()),
            Err(_) => warnings.push(format!(
                "an address of this node is ignored: {word:?} is not an IP address"
            )),
        }
    }
    addresses
}

/// Collects allowed sources. If a source is given twice, the namespaces of both values may copy it.
pub(super) fn by_source(given: Vec<(ServiceKey, AllowFrom)>) -> BTreeMap<ServiceKey, AllowFrom> {
    let mut by_source = BTreeMap::<_, AllowFrom>::new();
    for (source, allowed) in given {
        let entry = by_source.entry(source);
        entry
            .and_modify(|known| *known = known.or(&allowed))
            .or_insert(allowed);
    }
    by_source
}

/// Treats an empty value as absent.
pub(super) fn not_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}
