//! Asks the API servers that copies list whether they are ready.

pub mod objections;
