//! Endpoints (`ValidateEndpoints`): permitted addresses, and ports that are in range and, if there are several, named.

use super::{SUPPORTED_PROTOCOLS, complaints, slice::special};
use crate::{field::FieldError, names, object::array};
use serde_json::Value;
use std::net::IpAddr;

pub fn check(new: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, subset) in array(&new["subsets"]).iter().enumerate() {
        let (ready, not_ready) = (array(&subset["addresses"]), array(&subset["notReadyAddresses"]));
        if ready.is_empty() && not_ready.is_empty() {
            let why = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(format!("subsets[{i}]"), why));
        }
        for (list, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            for (j, address) in addresses.iter().enumerate() {
                let field = format!("subsets[{i}].{list}[{j}].ip");
                let text = address["ip"].as_str().unwrap_or_default();
                let why = match text.parse::<IpAddr>() {
                    Ok(ip) => special(&ip),
                    Err(_) => {
                        Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned())
                    }
                };
                errors.extend(why.map(|why| FieldError::invalid(field, &address["ip"], why)));
            }
        }
        let ports = array(&subset["ports"]);
        for (j, port) in ports.iter().enumerate() {
            let field = format!("subsets[{i}].ports[{j}]");
            let name = port["name"].as_str().unwrap_or_default();
            if !name.is_empty() {
                errors.extend(complaints(
                    &format!("{field}.name"),
                    &port["name"],
                    names::dns_label(name),
                ));
            } else if ports.len() > 1 {
                errors.push(FieldError::required(format!("{field}.name"), ""));
            }
            if !(1..=65535).contains(&port["port"].as_i64().unwrap_or(0)) {
                let why = "must be between 1 and 65535, inclusive";
                errors.push(FieldError::invalid(format!("{field}.port"), &port["port"], why));
            }
            let protocol = &port["protocol"];
            if !protocol.is_null() && !SUPPORTED_PROTOCOLS.iter().any(|p| protocol == *p) {
                let field = format!("{field}.protocol");
                errors.push(FieldError::not_supported(field, protocol, SUPPORTED_PROTOCOLS));
            }
        }
    }
    errors
}
