//! The ports of a copy: those of the managed Service, with named target ports resolved to numbers.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The ports of a Service that its copies leave out.
#[derive(Debug, Default, PartialEq)]
pub struct LeftOut {
    /// Target ports whose number is unknown.
    pub unresolved: BTreeSet<String>,
    /// Numbers and protocols that are not permitted in copies of the Service's source.
    pub refused: BTreeSet<String>,
}

/// Returns the ports of a copy, which are those of the managed Service. The number of a named target port comes from
/// the ports of `slice`. A port without a number is left out, because traffic to a guessed number might reach the wrong
/// process. A port that is not permitted is left out too. Returns `None` if the Service has ports and all of them are
/// left out.
#[must_use]
pub fn ports(
    wanted: &[ServicePort],
    slice: &[EndpointPort],
    is_permitted: impl Fn(&EndpointPort) -> bool,
    left_out: &mut LeftOut,
) -> Option<Vec<EndpointPort>> {
    let mut known = Vec::new();
    let numbers = numbers(slice);
    for port in wanted {
        let number = match number(port, &numbers) {
            Ok(number) => number,
            Err(target) => {
                left_out.unresolved.insert(target.to_owned());
                continue;
            }
        };
        let protocol = protocol(port.protocol.as_deref());
        let port = EndpointPort {
            // The API server turns a missing name into an empty one.
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(number),
            protocol: Some(protocol.to_owned()),
            app_protocol: port.app_protocol.clone(),
        };
        if is_permitted(&port) {
            known.push(port);
        } else {
            left_out.refused.insert(format!("{number}/{protocol}"));
        }
    }
    (wanted.is_empty() || !known.is_empty()).then_some(known)
}

/// Port numbers by name and protocol.
type Numbers<'a> = HashMap<(&'a str, &'a str), i32>;

/// The numbers of the ports of a slice. If a name occurs twice with the same protocol, the first one wins.
fn numbers(slice: &[EndpointPort]) -> Numbers<'_> {
    let mut numbers = Numbers::new();
    for port in slice {
        if let Some(number) = port.port {
            numbers.entry(named(port)).or_insert(number);
        }
    }
    numbers
}

/// The name and the protocol of a port.
#[must_use]
pub fn named(port: &EndpointPort) -> (&str, &str) {
    let name = port.name.as_deref().unwrap_or_default();
    (name, protocol(port.protocol.as_deref()))
}

/// The number of the target port. The error is the name of the target port, if the slice has no port with that name and
/// protocol.
fn number<'a>(port: &'a ServicePort, slice: &Numbers<'_>) -> Result<i32, &'a str> {
    let target = match &port.target_port {
        None => return Ok(port.port),
        Some(IntOrString::Int(number)) => return Ok(*number),
        Some(IntOrString::String(name)) => name,
    };
    let number = slice.get(&(target.as_str(), protocol(port.protocol.as_deref())));
    number.copied().ok_or(target)
}

/// The protocol of a port; the default is TCP.
#[must_use]
pub fn protocol(word: Option<&str>) -> &str {
    word.filter(|word| !word.is_empty()).unwrap_or("TCP")
}

/// The numbers of the TCP ports whose names satisfy `is_wanted`.
pub fn tcp_numbers(
    ports: &[EndpointPort],
    is_wanted: impl Fn(Option<&str>) -> bool,
) -> impl Iterator<Item = u16> {
    let tcp = ports
        .iter()
        .filter(|port| protocol(port.protocol.as_deref()) == "TCP");
    tcp.filter(move |port| is_wanted(port.name.as_deref()))
        .filter_map(|port| u16::try_from(port.port?).ok())
}
