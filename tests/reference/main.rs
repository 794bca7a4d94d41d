//! Writes docs/reference from the code and the chart: flags, metrics, Events, annotations, values.
//!
//! `make docs` sets `BLESS=1`, and each test writes its page. Without it, the test of a page fails if the page differs.

mod annotations;
mod events;
mod flags;
mod generated;
mod metrics;
mod table;
mod values;
