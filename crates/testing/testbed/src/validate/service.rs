//! Service (`ValidateService[Update]`): types, ports, and immutable fields.

use super::complaints;
use crate::{
    field::{Cause, FieldError},
    names,
    object::array,
};
use serde_json::{Value, json};

/// The protocols of a port, in the order in which error messages list them.
pub const SUPPORTED_PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

pub fn check(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = &new["spec"];
    let mut errors = Vec::new();
    let service_type = spec["type"].as_str().unwrap_or_default();
    if !TYPES.contains(&service_type) {
        errors.push(FieldError::not_supported("spec.type", &spec["type"], TYPES));
    }
    let headless = spec["clusterIP"] == "None";
    let ports = array(&spec["ports"]);
    if ports.is_empty() && !headless && service_type != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if headless && (service_type == "LoadBalancer" || service_type == "NodePort") {
        let why = format!("may not be set to 'None' for {service_type} services");
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            &spec["clusterIPs"],
            why,
        ));
    }
    if service_type == "ExternalName" && spec["externalName"].as_str().unwrap_or_default().is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    }
    for (i, port) in ports.iter().enumerate() {
        errors.extend(self::port(i, port, ports));
    }
    for (key, value) in spec["selector"].as_object().into_iter().flatten() {
        errors.extend(complaints(
            "spec.selector",
            &json!(key),
            names::qualified_name(key),
        ));
        let text = value.as_str().unwrap_or_default();
        errors.extend(complaints("spec.selector", value, names::label_value(text)));
    }
    for (field, known) in [
        ("sessionAffinity", &["ClientIP", "None"]),
        ("externalTrafficPolicy", &["Cluster", "Local"]),
        ("internalTrafficPolicy", &["Cluster", "Local"]),
    ] {
        if spec[field].as_str().is_some_and(|v| !known.contains(&v)) {
            errors.push(FieldError::not_supported(
                format!("spec.{field}"),
                &spec[field],
                known,
            ));
        }
    }
    if spec["ipFamilyPolicy"] == "SingleStack" && array(&spec["ipFamilies"]).len() > 1 {
        let why = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        errors.push(FieldError::invalid(
            "spec.ipFamilyPolicy",
            &spec["ipFamilyPolicy"],
            why,
        ));
    }
    if service_type != "LoadBalancer" && !array(&new["status"]["loadBalancer"]["ingress"]).is_empty() {
        let why = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.push(FieldError::bare(
            Cause::Forbidden,
            "status.loadBalancer.ingress",
            why,
        ));
    }
    if let Some(old) = old {
        errors.extend(cluster_ip_change(new, old));
    }
    errors
}

fn port(index: usize, port: &Value, all: &[Value]) -> Vec<FieldError> {
    let field = |name: &str| format!("spec.ports[{index}].{name}");
    let mut errors = Vec::new();
    let name = port["name"].as_str().unwrap_or_default();
    if name.is_empty() && all.len() > 1 {
        errors.push(FieldError::required(field("name"), ""));
    } else if !name.is_empty() {
        errors.extend(complaints(&field("name"), &port["name"], names::dns_label(name)));
        if all[..index].iter().any(|p| p["name"] == port["name"]) {
            errors.push(FieldError::new(
                Cause::Duplicate,
                field("name"),
                &port["name"],
                "",
            ));
        }
    }
    let range = "must be between 1 and 65535, inclusive";
    if !(1..=65535).contains(&port["port"].as_i64().unwrap_or(0)) {
        errors.push(FieldError::invalid(field("port"), &port["port"], range));
    }
    if !SUPPORTED_PROTOCOLS.iter().any(|p| port["protocol"] == *p) {
        errors.push(FieldError::not_supported(
            field("protocol"),
            &port["protocol"],
            SUPPORTED_PROTOCOLS,
        ));
    }
    match &port["targetPort"] {
        Value::String(text) => {
            errors.extend(complaints(
                &field("targetPort"),
                &port["targetPort"],
                names::port_name(text),
            ));
        }
        number if !(1..=65535).contains(&number.as_i64().unwrap_or(0)) => {
            errors.push(FieldError::invalid(field("targetPort"), number, range));
        }
        _ => {}
    }
    let same = |p: &Value| p["port"] == port["port"] && p["protocol"] == port["protocol"];
    if all[..index].iter().any(same) {
        let value = json!({"port": port["port"], "protocol": port["protocol"]});
        errors.push(FieldError::new(
            Cause::Duplicate,
            format!("spec.ports[{index}]"),
            &value,
            "",
        ));
    }
    errors
}

fn cluster_ip_change(new: &Value, old: &Value) -> Option<FieldError> {
    let keeps = |service: &Value| service["spec"]["type"] != "ExternalName";
    let (is, was) = (&new["spec"]["clusterIP"], &old["spec"]["clusterIP"]);
    (keeps(new) && keeps(old) && was.is_string() && is != was).then(|| {
        let value = json!([is]);
        FieldError::invalid("spec.clusterIPs[0]", &value, "may not change once set")
    })
}
