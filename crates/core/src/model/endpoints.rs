//! How many endpoints there are, and of what use.

use super::EndpointSlice;

/// Endpoints by what they are good for. Each counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// Endpoints that get traffic.
    pub ready: usize,
    /// Endpoints that get no traffic.
    pub unready: usize,
    /// Endpoints that are shutting down. They get no traffic while another is ready.
    pub terminating: usize,
}

/// The endpoints of one managed Service: where they come from, and where they go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// In slices of the source, of the families that the Service wants.
    pub source: EndpointCounts,
    /// In the copies.
    pub copies: EndpointCounts,
}

impl EndpointCounts {
    /// Counts the endpoints of slices. A condition that is not stated means what the API says it means.
    pub fn of<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Self {
        let mut counts = Self::default();
        let endpoints = slices
            .into_iter()
            .flat_map(|slice| slice.endpoints.iter().flatten());
        for conditions in endpoints.map(|endpoint| endpoint.conditions.as_ref()) {
            let is_ready = conditions.and_then(|conditions| conditions.ready) != Some(false);
            let is_terminating = conditions.and_then(|conditions| conditions.terminating) == Some(true);
            match (is_ready, is_terminating) {
                (true, _) => counts.ready += 1,
                (false, true) => counts.terminating += 1,
                (false, false) => counts.unready += 1,
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_endpoint_is_ready_unless_it_says_no_and_what_gets_traffic_is_ready_though_it_ends() {
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
}
