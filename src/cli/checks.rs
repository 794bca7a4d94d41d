//! Validation rules that involve several settings, or that parsing a single setting cannot enforce.

use std::time::Duration;

use crate::config::{ElectionConfig, ProbeConfig};
use crate::timing::{MAX_LEASE_DURATION, MAX_PROBE_LIMIT, MAX_PROBE_PERIOD, PROBE_LATE, PROBE_OVERLAP};

/// Checks the election and probe settings against the rules of this module. The error names the flag or its environment
/// variable, the value and the rule. `origin` maps the name of a flag to the name under which the user set it.
pub(super) fn check(
    election: &ElectionConfig,
    probe: &ProbeConfig,
    origin: impl Fn(&str) -> String,
) -> Result<(), String> {
    let ElectionConfig {
        lease_duration,
        renew_deadline,
        retry_period,
        ..
    } = *election;
    let is_whole = lease_duration.subsec_nanos() == 0;
    let below_lease = format!("shorter than the lease duration, {lease_duration:?}");
    let above_retry = format!("longer than 1.2 times the retry period, {retry_period:?}");
    for (flag, value, is_allowed, rule) in [
        (
            "leader-election-lease-duration",
            lease_duration,
            is_whole && (Duration::from_secs(2)..=MAX_LEASE_DURATION).contains(&lease_duration),
            "a whole number of seconds between 2s and 60s",
        ),
        (
            "leader-election-retry-period",
            retry_period,
            !retry_period.is_zero(),
            "greater than zero",
        ),
        (
            "leader-election-renew-deadline",
            renew_deadline,
            renew_deadline < lease_duration,
            &below_lease,
        ),
        (
            "leader-election-renew-deadline",
            renew_deadline,
            renew_deadline.as_nanos() * 5 > retry_period.as_nanos() * 6,
            &above_retry,
        ),
        (
            "probe-period",
            probe.period,
            (PROBE_OVERLAP..=MAX_PROBE_PERIOD).contains(&probe.period),
            "between 500ms and 2s",
        ),
        (
            "probe-timeout",
            probe.limit,
            (PROBE_LATE..=MAX_PROBE_LIMIT).contains(&probe.limit),
            "between 100ms and 2s",
        ),
    ] {
        if !is_allowed {
            return Err(format!("{} {value:?}: must be {rule}", origin(flag)));
        }
    }
    Ok(())
}
