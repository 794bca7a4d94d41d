//! The path from a watch event to a write.
//!
//! ```text
//!     watch ──> index ──> workqueue ──> reconcile { snapshot ─> plan ─> apply } ──> API server
//!       ^                                                                              │
//!       └── applied copies come back through the watch; if it is late, a GET decides ──┘
//! ```

pub mod apply;
pub mod budget;
pub mod conditions;
pub mod error;
pub mod events;
mod migration;
pub mod outcome;
pub mod probe;
pub mod reconcile;
mod refusals;
pub mod watch;
pub mod worker;
pub mod workqueue;
