//! What can be wrong with a Service, in the words that users see.

use std::fmt;

use serde::Serialize;

/// Why something is not, or not quite, as its user may expect. The name is the Event's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Reason {
    /// The Service cannot be decoded.
    Unreadable,
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
    /// The source is empty, it is not to be followed into that, and there is no copy to keep.
    SourceEmpty,
    /// `externalTrafficPolicy: Local`, and no endpoint has a node.
    NodeNameMissing,
    /// Others keep slices for the managed Service too.
    ForeignSlices,
    /// An `Endpoints` object of the Go operator is mirrored, and we may not remove it.
    LegacyEndpoints,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 17] = [
        Self::Unreadable,
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
        Self::SourceEmpty,
        Self::NodeNameMissing,
        Self::ForeignSlices,
        Self::LegacyEndpoints,
    ];

    /// Whether something that the user asked for is not there while this lasts. The others say that
    /// what is there may not be what was meant.
    #[must_use]
    pub fn leaves_undone(self) -> bool {
        match self {
            Self::Unreadable
            | Self::InvalidAnnotation
            | Self::HasSelector
            | Self::ExternalName
            | Self::SourceIsSelf
            | Self::PortUnresolved
            | Self::NameTaken
            | Self::SourceEmpty
            | Self::WriteRefused => true,
            Self::SourceIsCopy
            | Self::SourceNotFound
            | Self::UnsupportedAddressType
            | Self::FamilyMissing
            | Self::SourceEmptyHeld
            | Self::NodeNameMissing
            | Self::ForeignSlices
            | Self::LegacyEndpoints => false,
        }
    }

    /// The word for Events, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "Unreadable",
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
            Self::SourceEmpty => "SourceEmpty",
            Self::NodeNameMissing => "NodeNameMissing",
            Self::ForeignSlices => "ForeignSlices",
            Self::LegacyEndpoints => "LegacyEndpoints",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reason of the one Event that is no warning.
pub const SYNCED: &str = "Synced";

/// An Event's note ends here; the API server refuses 1,024 bytes and more.
const LONGEST_NOTE: usize = 1000;

/// One thing that is wrong with one Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub reason: Reason,
    /// What exactly, and what to do about it: at most 1,000 bytes.
    pub note: String,
}

impl Finding {
    /// A finding with its note, which is cut if it is too long.
    pub fn new(reason: Reason, note: impl Into<String>) -> Self {
        const CUT: &str = "…";
        let mut note = note.into();
        if note.len() > LONGEST_NOTE {
            let ends = (0..=LONGEST_NOTE - CUT.len()).rev();
            let end = ends.into_iter().find(|&end| note.is_char_boundary(end));
            note.truncate(end.unwrap_or_default());
            note.push_str(CUT);
        }
        Self { reason, note }
    }
}

/// Names for a note: the first few of them, and how many more there are.
#[must_use]
pub fn a_few<S: AsRef<str>>(names: &[S]) -> String {
    const NAMED: usize = 3;
    let first = names.iter().take(NAMED).map(AsRef::as_ref).collect::<Vec<_>>();
    let first = first.join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
