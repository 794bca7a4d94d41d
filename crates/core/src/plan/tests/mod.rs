//! Given objects, when one changes, then these writes.

mod consent;
mod empty;
mod findings;
mod following;
mod foreign;
mod hostile;
mod laws;
mod leftovers;
mod nodes;
mod repair;
mod restored;
mod stale;
mod unreadable;
mod verdicts;
