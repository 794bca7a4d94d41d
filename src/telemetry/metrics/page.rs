//! Creates metrics, registers them, and formats values. The names and help texts of metrics are in the files that
//! declare them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use prometheus::core::Collector;
use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

/// Declares a struct of metrics and its constructor, which registers them on these pages: each with its name, its help,
/// and the other arguments of its kind. Fields that are not metrics follow, with their initial values.
macro_rules! metrics {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident($($pages:ident),+) {
            $($metric:ident: $page:ident.$kind:ident($($given:expr),+),)+
        }
        $(with { $($(#[$doc:meta])* $field:ident: $type:ty = $first:expr,)+ })?
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $($metric: metrics!(@$kind),)+
            $($($(#[$doc])* $field: $type,)+)?
        }

        impl $name {
            pub(super) fn new($($pages: &$crate::telemetry::metrics::page::MetricsPage),+) -> Result<Self, prometheus::Error> {
                Ok(Self {
                    $($metric: $page.$kind($($given),+)?,)+
                    $($($field: $first,)+)?
                })
            }
        }
    };
    (@counter) => { prometheus::IntCounter };
    (@counters) => { prometheus::IntCounterVec };
    (@gauge) => { prometheus::Gauge };
    (@gauges) => { prometheus::GaugeVec };
    (@histogram) => { prometheus::Histogram };
    (@histograms) => { prometheus::HistogramVec };
}

pub(super) use metrics;

#[derive(Default)]
pub(super) struct MetricsPage {
    pub registry: Registry,
    /// The labels that each added metric gets.
    labels: HashMap<String, String>,
}

impl MetricsPage {
    /// Returns this page, for metrics with these labels.
    pub fn with_labels<const N: usize>(&self, labels: [(&str, &str); N]) -> Self {
        Self {
            registry: self.registry.clone(),
            labels: labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }
    }

    fn add<C: Collector + Clone + 'static>(&self, made: Result<C, Error>) -> Result<C, Error> {
        let metric = made?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn options(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).const_labels(self.labels.clone())
    }

    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.add(IntCounter::with_opts(self.options(name, help)))
    }

    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.add(IntCounterVec::new(self.options(name, help), labels))
    }

    pub fn gauge(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.add(Gauge::with_opts(self.options(name, help)))
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, Error> {
        self.add(GaugeVec::new(self.options(name, help), labels))
    }

    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        let options = HistogramOpts::from(self.options(name, help)).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(options))
    }

    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, Error> {
        let options = HistogramOpts::from(self.options(name, help)).buckets(buckets.to_vec());
        self.add(HistogramVec::new(options, labels))
    }
}

/// Writes the lines before the samples of a metric.
pub(super) fn header(text: &mut String, name: &str, kind: &str, help: &str) {
    _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// Returns a time as Unix time in seconds.
pub(super) fn unix(moment: SystemTime) -> f64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "all numbers of Prometheus are of this type"
)]
pub(super) fn number(value: u64) -> f64 {
    value as f64
}
