//! What the operator watches, and what it does to a copy.

/// A watch, and the list that it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// All Services.
    Services,
    /// The slices of sources, and all slices of managed Services that are not copies.
    Sources,
    /// The slices with our managed-by label.
    Copies,
    /// The Lease.
    Lease,
}

impl WatchKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Services, Self::Sources, Self::Copies, Self::Lease];

    /// The names of those that copies are made from.
    pub const VIEW: [&str; 3] = [
        Self::Services.as_str(),
        Self::Copies.as_str(),
        Self::Sources.as_str(),
    ];

    /// Its name in metrics and log lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Sources => "sources",
            Self::Copies => "copies",
            Self::Lease => "lease",
        }
    }
}

/// A write of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST.
    Create,
    /// PUT.
    Update,
    /// DELETE.
    Delete,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Create, Self::Update, Self::Delete];

    /// Its name in metrics and log lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}
