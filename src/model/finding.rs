//! What can be wrong with a Service, in the words that users see.

use std::fmt;

/// Why something is not, or not quite, as its user may expect. The name is the Event's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// An annotation has a value that we do not understand.
    InvalidAnnotation,
    /// The managed Service has a selector: the built-in controller owns its slices.
    HasSelector,
    /// The managed Service is of type `ExternalName`.
    ExternalName,
    /// The managed Service names itself as its source.
    SourceIsSelf,
    /// All slices of the source are copies made by this operator.
    SourceIsCopy,
    /// Neither the source Service nor slices of it exist.
    SourceNotFound,
    /// The source has slices of an address type that is never copied.
    UnsupportedAddressType,
    /// The source has no slice of an IP family that the managed Service wants.
    FamilyMissing,
    /// The number of a port is not known.
    PortUnresolved,
    /// The name of a copy is taken by a slice that is not ours.
    NameTaken,
    /// The API server refuses a write for good.
    WriteRefused,
    /// The source is empty and its last good copies are kept.
    SourceEmptyHeld,
    /// `externalTrafficPolicy: Local`, and no endpoint has a node.
    NodeNameMissing,
    /// Others keep slices for the managed Service too.
    ForeignSlices,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 14] = [
        Self::InvalidAnnotation,
        Self::HasSelector,
        Self::ExternalName,
        Self::SourceIsSelf,
        Self::SourceIsCopy,
        Self::SourceNotFound,
        Self::UnsupportedAddressType,
        Self::FamilyMissing,
        Self::PortUnresolved,
        Self::NameTaken,
        Self::WriteRefused,
        Self::SourceEmptyHeld,
        Self::NodeNameMissing,
        Self::ForeignSlices,
    ];

    /// The word for Events, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidAnnotation => "InvalidAnnotation",
            Self::HasSelector => "HasSelector",
            Self::ExternalName => "ExternalName",
            Self::SourceIsSelf => "SourceIsSelf",
            Self::SourceIsCopy => "SourceIsCopy",
            Self::SourceNotFound => "SourceNotFound",
            Self::UnsupportedAddressType => "UnsupportedAddressType",
            Self::FamilyMissing => "FamilyMissing",
            Self::PortUnresolved => "PortUnresolved",
            Self::NameTaken => "NameTaken",
            Self::WriteRefused => "WriteRefused",
            Self::SourceEmptyHeld => "SourceEmptyHeld",
            Self::NodeNameMissing => "NodeNameMissing",
            Self::ForeignSlices => "ForeignSlices",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong with one Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What kind of thing.
    pub reason: Reason,
    /// What exactly, and what to do about it.
    pub note: String,
}

impl Finding {
    /// A finding with its note.
    pub fn new(reason: Reason, note: impl Into<String>) -> Self {
        Self {
            reason,
            note: note.into(),
        }
    }
}
