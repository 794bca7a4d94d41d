//! EndpointSlice (pkg/apis/discovery/validation): limits, addresses of the right family, ports with unique names.

use super::{SUPPORTED_PROTOCOLS, complaints, immutable};
use crate::{
    field::{Cause, FieldError},
    names,
    object::array,
};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
/// The limit for ports. Up to Kubernetes 1.30, it was 100.
const MAX_PORTS: usize = 20_000;

pub fn check(new: &Value, old: Option<&Value>, loopback: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let address_type = new["addressType"].as_str().unwrap_or_default();
    if address_type.is_empty() {
        errors.push(FieldError::required("addressType", ""));
    } else if !["FQDN", "IPv4", "IPv6"].contains(&address_type) {
        errors.push(FieldError::not_supported(
            "addressType",
            &new["addressType"],
            &["FQDN", "IPv4", "IPv6"],
        ));
    }
    errors.extend(ports(array(&new["ports"])));
    // Endpoints that an older server stored stay valid as long as they do not change.
    if old.is_none_or(|old| old["endpoints"] != new["endpoints"]) {
        errors.extend(endpoints(array(&new["endpoints"]), address_type, loopback));
    }
    errors.extend(old.and_then(|old| immutable("addressType", &new["addressType"], &old["addressType"])));
    errors
}

fn too_many(field: &str, count: usize, limit: usize) -> FieldError {
    FieldError::new(
        Cause::TooMany,
        field,
        &json!(count),
        format!("must have at most {limit} items"),
    )
}

fn ports(ports: &[Value]) -> Vec<FieldError> {
    if ports.len() > MAX_PORTS {
        return vec![too_many("ports", ports.len(), MAX_PORTS)];
    }
    let (mut errors, mut seen) = (Vec::new(), Vec::new());
    for (i, port) in ports.iter().enumerate() {
        let name = port["name"].as_str().unwrap_or_default();
        let field = format!("ports[{i}].name");
        if !name.is_empty() {
            errors.extend(complaints(&field, &port["name"], names::dns_label(name)));
        }
        if seen.contains(&name) {
            errors.push(FieldError::new(Cause::Duplicate, field, &port["name"], ""));
        }
        seen.push(name);
        if !SUPPORTED_PROTOCOLS.iter().any(|p| port["protocol"] == *p) {
            let field = format!("ports[{i}].protocol");
            errors.push(FieldError::not_supported(
                field,
                &port["protocol"],
                SUPPORTED_PROTOCOLS,
            ));
        }
        if let Some(text) = port["appProtocol"].as_str() {
            let field = format!("ports[{i}].appProtocol");
            errors.extend(complaints(
                &field,
                &port["appProtocol"],
                names::qualified_name(text),
            ));
        }
    }
    errors
}

fn endpoints(endpoints: &[Value], address_type: &str, loopback: bool) -> Vec<FieldError> {
    if endpoints.len() > MAX_ENDPOINTS {
        return vec![too_many("endpoints", endpoints.len(), MAX_ENDPOINTS)];
    }
    let mut errors = Vec::new();
    for (i, endpoint) in endpoints.iter().enumerate() {
        let addresses = array(&endpoint["addresses"]);
        let field = format!("endpoints[{i}].addresses");
        if addresses.is_empty() {
            errors.push(FieldError::required(&field, "must contain at least 1 address"));
        } else if addresses.len() > MAX_ADDRESSES {
            errors.push(too_many(&field, addresses.len(), MAX_ADDRESSES));
        }
        for (j, address) in addresses.iter().enumerate() {
            errors.extend(self::address(&field, j, address, address_type, loopback));
        }
        if let Some(name) = endpoint["nodeName"].as_str() {
            let field = format!("endpoints[{i}].nodeName");
            errors.extend(complaints(
                &field,
                &endpoint["nodeName"],
                names::dns_subdomain(name),
            ));
        }
        if let Some(name) = endpoint["hostname"].as_str() {
            let field = format!("endpoints[{i}].hostname");
            errors.extend(complaints(&field, &endpoint["hostname"], names::dns_label(name)));
        }
    }
    errors
}

fn address(list: &str, index: usize, value: &Value, address_type: &str, loopback: bool) -> Vec<FieldError> {
    let field = format!("{list}[{index}]");
    let text = value.as_str().unwrap_or_default();
    if address_type == "FQDN" {
        let mut errors = complaints(&field, value, names::dns_subdomain(text));
        if errors.is_empty() && !text.contains('.') {
            let why = "should be a domain with at least two segments separated by dots";
            errors.push(FieldError::invalid(field, value, why));
        }
        return errors;
    }
    if address_type != "IPv4" && address_type != "IPv6" {
        return Vec::new();
    }
    let Ok(ip) = text.parse::<IpAddr>() else {
        let leading_zero = text.split('.').count() == 4 && text.split('.').all(|p| p.parse::<u16>().is_ok());
        let why = if leading_zero {
            "must not have leading 0s"
        } else {
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        };
        return vec![FieldError::invalid(field, value, why)];
    };
    let mut errors = Vec::new();
    if (address_type == "IPv4") != ip.is_ipv4() {
        errors.push(FieldError::invalid(
            list,
            value,
            format!("must be an {address_type} address"),
        ));
    }
    let special = special(&ip).filter(|_| !(loopback && ip.is_loopback()));
    errors.extend(special.map(|why| FieldError::invalid(field, value, why)));
    errors
}

/// The reason why no endpoint may have this address, if there is one.
pub fn special(ip: &IpAddr) -> Option<String> {
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (
            v4.is_link_local(),
            v4.octets()[..3] == Ipv4Addr::new(224, 0, 0, 0).octets()[..3],
        ),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        Some(format!("may not be unspecified ({ip})"))
    } else if ip.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned())
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned())
    } else if link_local_multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned())
    } else {
        None
    }
}
