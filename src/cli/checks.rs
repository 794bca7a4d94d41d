//! The rules that involve several settings, or that the syntax of a setting does not show.

use std::time::Duration;

use crate::config::{ElectionConfig, ProbeConfig};
use crate::timing::{LONGEST_LEASE, LONGEST_PROBE_LIMIT, LONGEST_PROBE_PERIOD, PROBE_LATE, PROBE_OVERLAP};

/// Checks these rules. The error names the flag or its environment variable, the value and the rule. `origin` takes the
/// name of a flag, and returns the name under which the user has set the flag.
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
            is_whole && (Duration::from_secs(2)..=LONGEST_LEASE).contains(&lease_duration),
            "whole seconds, 2s to 60s",
        ),
        (
            "leader-election-retry-period",
            retry_period,
            !retry_period.is_zero(),
            "longer than zero",
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
            (PROBE_OVERLAP..=LONGEST_PROBE_PERIOD).contains(&probe.period),
            "500ms to 2s",
        ),
        (
            "probe-timeout",
            probe.limit,
            (PROBE_LATE..=LONGEST_PROBE_LIMIT).contains(&probe.limit),
            "100ms to 2s",
        ),
    ] {
        if !is_allowed {
            return Err(format!("{} {value:?}: must be {rule}", origin(flag)));
        }
    }
    Ok(())
}
