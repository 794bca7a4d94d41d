//! Tests of the form: given these objects, if one of them changes, the plan contains these writes.

mod consent;
mod empty;
mod findings;
mod following;
mod foreign;
mod hostile;
mod laws;
mod leftovers;
mod many;
mod nodes;
mod repair;
mod restored;
mod stale;
mod unreadable;
mod verdicts;
