//! The number of endpoints of a Service, by condition.

use super::EndpointSlice;

/// Endpoints by condition. Each counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// Endpoints that get traffic.
    pub ready: usize,
    /// Endpoints that get no traffic.
    pub unready: usize,
    /// Endpoints that are shutting down. They get no traffic while another is ready.
    pub terminating: usize,
}

/// The endpoints of one managed Service: those of its source and those in its copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Endpoints in slices of the source, for the families that the Service wants.
    pub source: EndpointCounts,
    /// Endpoints in the copies.
    pub copies: EndpointCounts,
}

impl EndpointCounts {
    /// Counts the endpoints of slices. An absent condition has the default of the API.
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
    fn endpoints_are_ready_by_default_and_serving_while_terminating() {
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
