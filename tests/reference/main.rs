//! Writes docs/reference from the code and the chart: flags, metrics, Events, annotations, values.
//!
//! `make docs` sets `BLESS=1`, and each test writes its page. Otherwise a page that differs fails its test.

mod annotations;
mod events;
mod flags;
mod generated;
mod metrics;
mod table;
mod values;
