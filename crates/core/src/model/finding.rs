//! Findings: problems of a Service, in the words that users see.

use serde::Serialize;

use super::words::words;

words! {
    /// Why something is not, or not quite, as its user may expect. The word is the reason of the Event.
    Reason {
        /// The Service cannot be decoded.
        Unreadable => "Unreadable",
        /// An annotation has a value that we do not understand.
        InvalidAnnotation => "InvalidAnnotation",
        /// The managed Service has a selector: the built-in controller owns its slices.
        HasSelector => "HasSelector",
        /// The managed Service is of type `ExternalName`.
        ExternalName => "ExternalName",
        /// The managed Service names itself as its source.
        SourceIsSelf => "SourceIsSelf",
        /// All slices of the source are copies made by this operator.
        SourceIsCopy => "SourceIsCopy",
        /// Neither the source Service nor slices of it exist.
        SourceNotFound => "SourceNotFound",
        /// The source has slices of an address type that is never copied.
        UnsupportedAddressType => "UnsupportedAddressType",
        /// The source has no slice of an IP family that the managed Service wants.
        FamilyMissing => "FamilyMissing",
        /// The number of a port is not known.
        PortUnresolved => "PortUnresolved",
        /// The name of a copy is taken by a slice that is not ours.
        NameTaken => "NameTaken",
        /// The API server refuses a write for good.
        WriteRefused => "WriteRefused",
        /// The source is empty and its last good copies are kept.
        SourceEmptyHeld => "SourceEmptyHeld",
        /// The source is empty, it is not to be followed into that, and there is no copy to keep.
        SourceEmpty => "SourceEmpty",
        /// `externalTrafficPolicy: Local`, and no endpoint has a node.
        NodeNameMissing => "NodeNameMissing",
        /// Others keep slices for the managed Service too.
        ForeignSlices => "ForeignSlices",
        /// An `Endpoints` object of the Go operator is mirrored, and we may not remove it.
        LegacyEndpoints => "LegacyEndpoints",
    }
}

impl Reason {
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
}

/// The reason of the one Event that is no warning.
pub const SYNCED: &str = "Synced";

/// An Event's note ends here; the API server refuses 1,024 bytes and more.
const LONGEST_NOTE: usize = 1000;

/// One thing that is wrong with one Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The kind of problem.
    pub reason: Reason,
    /// The details, and the remedy: at most 1,000 bytes.
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
