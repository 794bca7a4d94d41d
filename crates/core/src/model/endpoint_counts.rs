//! The number of endpoints of a Service, by condition.

use std::collections::BTreeMap;

use super::{EndpointSlice, Kept};

/// The number of endpoints in each condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// Endpoints that get traffic.
    pub ready: usize,
    /// Endpoints that are neither ready nor shutting down. They get no traffic.
    pub unready: usize,
    /// Endpoints that are shutting down and not ready. They get no traffic while another endpoint is ready.
    pub terminating: usize,
}

/// The numbers of endpoints in the source and in the copies of one managed Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceAndCopies {
    /// Endpoints in slices of the source, for the families that the Service wants. Endpoints that lead back to the
    /// Service are not counted if the copies leave them out.
    pub source: EndpointCounts,
    /// Endpoints in the copies.
    pub copies: EndpointCounts,
}

/// Whether an endpoint gets traffic, the best case first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Traffic {
    Ready,
    Terminating,
    Unready,
}

impl EndpointCounts {
    /// Counts the endpoints of slices. An address in several slices is counted once, in its best condition, because
    /// kube-proxy uses that condition. An absent condition has the API's default value. The counts of outlines
    /// ([`Kept::Outline`]) are added, so an address that is also in another slice is counted twice.
    pub fn of<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Self {
        let mut by_address: BTreeMap<&str, Traffic> = BTreeMap::new();
        let mut outlined = Self::default();
        let endpoints = slices.into_iter().flat_map(|slice| {
            if let Kept::Outline(counts) = slice.kept {
                outlined.ready += counts.ready;
                outlined.unready += counts.unready;
                outlined.terminating += counts.terminating;
            }
            slice.endpoints.iter().flatten()
        });
        for endpoint in endpoints {
            // Consumers use only the first address.
            let address = endpoint.addresses.first().map_or("", String::as_str);
            let traffic = match (endpoint.is_ready(), endpoint.is_terminating()) {
                (true, _) => Traffic::Ready,
                (false, true) => Traffic::Terminating,
                (false, false) => Traffic::Unready,
            };
            let known = by_address.entry(address).or_insert(traffic);
            *known = traffic.min(*known);
        }
        let count = |traffic| by_address.values().filter(|known| **known == traffic).count();
        Self {
            ready: outlined.ready + count(Traffic::Ready),
            unready: outlined.unready + count(Traffic::Unready),
            terminating: outlined.terminating + count(Traffic::Terminating),
        }
    }

    /// The total number of endpoints.
    #[must_use]
    pub fn total(&self) -> usize {
        self.ready + self.unready + self.terminating
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn endpoints_are_ready_unless_their_condition_says_otherwise() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"terminating": true}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            ],
        }))
        .unwrap();
        let expected = EndpointCounts {
            ready: 2,
            unready: 1,
            terminating: 1,
        };
        assert_eq!(EndpointCounts::of([&slice]), expected);
        assert_eq!(EndpointCounts::of([]), EndpointCounts::default());
    }

    /// Rule: survive.counted-once
    #[test]
    fn address_in_two_slices_counts_once_in_its_best_condition() {
        let slice = |endpoints: serde_json::Value| -> EndpointSlice {
            serde_json::from_value(json!({"addressType": "IPv4", "endpoints": endpoints})).unwrap()
        };
        let slices = [
            slice(json!([
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "terminating": true}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
            ])),
            slice(json!([
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
            ])),
        ];
        let expected = EndpointCounts {
            ready: 1,
            unready: 1,
            terminating: 1,
        };
        assert_eq!(EndpointCounts::of(&slices), expected);
        assert_eq!(expected.total(), 3);
    }
}
