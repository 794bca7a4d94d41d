//! What can befall a request.

use std::time::Duration;

use crate::hearing::PROBE_LEASE;

/// Which requests a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Writes of the Lease.
    LeaseWrite,
    /// Reads of the Lease.
    LeaseRead,
    /// Writes of slices.
    SliceWrite,
    /// Lists and GETs of slices and Services.
    Read,
    /// The beginning of a watch.
    Watch,
    /// Events.
    Event,
    /// Endpoints.
    Endpoints,
    /// Writes of the probe Lease.
    ProbeLease,
}

impl Harm {
    /// What a request is.
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

/// Verbs, as far as it matters here.
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

/// What happens to a request instead of, or besides, its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is answered with this error and does nothing.
    Status(u16),
    /// It is done; then the connection breaks.
    LostReply,
    /// It is done and never answered.
    Unanswered,
    /// The connection breaks before the request arrives.
    Broken,
    /// It never arrives, and the connection stands.
    Hangs,
    /// It arrives late.
    Late(Duration),
    /// It is done; half of the answer arrives, declared as whole.
    Truncated,
    /// It does nothing and is answered 200 with a text that is no JSON.
    Nonsense,
}

impl Effect {
    /// How it is counted.
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
            Self::Nonsense => "answer is no JSON",
        }
    }
}

/// A fault that waits for its requests.
#[derive(Clone, Debug)]
pub struct Armed {
    /// Of which replica.
    pub replica: usize,
    /// Which requests.
    pub harm: Harm,
    /// What happens to them.
    pub effect: Effect,
    /// To how many.
    pub times: usize,
}

impl Armed {
    /// Whether a request of a replica is meant.
    pub fn fits(&self, harm: Harm, replica: usize) -> bool {
        self.replica == replica && self.harm == harm
    }
}
