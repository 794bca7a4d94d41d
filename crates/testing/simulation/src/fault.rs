//! Faults of requests.

use std::time::Duration;

use crate::hearing::PROBE_LEASE;

/// The requests to which a fault applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Writes of the Lease.
    LeaseWrite,
    /// Reads of the Lease.
    LeaseRead,
    /// Writes of slices, and of the status of Services.
    SliceWrite,
    /// Lists and GETs of everything but Leases and Endpoints.
    Read,
    /// Requests that begin a watch.
    Watch,
    /// Writes of Events.
    Event,
    /// Requests for Endpoints.
    Endpoints,
    /// Reads and writes of the probe Lease.
    ProbeLease,
}

impl Harm {
    /// The kind of requests to which a request belongs.
    pub fn of(verb: Verb, resource: &str) -> Self {
        match (verb, resource) {
            (Verb::Watch, _) => Self::Watch,
            (Verb::Read, "leases") => Self::LeaseRead,
            (_, "leases") => Self::LeaseWrite,
            (_, PROBE_LEASE) => Self::ProbeLease,
            (_, "events") => Self::Event,
            (_, "endpoints") => Self::Endpoints,
            (Verb::Read, _) => Self::Read,
            _ => Self::SliceWrite,
        }
    }
}

/// The verbs that faults and checks distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET and LIST.
    Read,
    /// WATCH.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

/// The effect of a fault on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The request has no effect, and gets this error.
    Status(u16),
    /// The request is carried out, and then the connection breaks.
    LostReply,
    /// The request is carried out, and gets no response.
    Unanswered,
    /// The connection breaks before the request arrives.
    Broken,
    /// The request never arrives, and the connection stays open.
    Hangs,
    /// The request arrives late.
    Late(Duration),
    /// The request is carried out. Half of the response arrives, and looks complete.
    Truncated,
    /// The request has no effect, and gets 200 with a text that is not JSON.
    Nonsense,
}

impl Effect {
    /// The name under which this effect is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status(403) => "answer 403",
            Self::Status(404) => "answer 404",
            Self::Status(409) => "answer 409",
            Self::Status(410) => "answer 410",
            Self::Status(422) => "answer 422",
            Self::Status(429) => "answer 429",
            Self::Status(500) => "answer 500",
            Self::Status(503) => "answer 503",
            Self::Status(_) => "answer 504",
            Self::LostReply => "reply lost, connection broken",
            Self::Unanswered => "reply lost, connection stands",
            Self::Broken => "request lost, connection broken",
            Self::Hangs => "request lost, connection stands",
            Self::Late(_) => "request late",
            Self::Truncated => "answer cut in half",
            Self::Nonsense => "answer that is not JSON",
        }
    }
}

/// A fault that waits for matching requests.
#[derive(Clone, Debug)]
pub struct Armed {
    /// The replica that sends the requests.
    pub replica: usize,
    /// The kind of requests.
    pub harm: Harm,
    /// The effect on each request.
    pub effect: Effect,
    /// The number of requests to which the fault still applies.
    pub times: usize,
}

impl Armed {
    /// Whether the fault applies to a request of this kind from this replica.
    pub fn fits(&self, harm: Harm, replica: usize) -> bool {
        self.replica == replica && self.harm == harm
    }
}
