//! The rules that settings must meet together, or that their notation does not show.

use std::time::Duration;

use crate::config::{ElectionConfig, ProbeConfig};
use crate::timing::{LONGEST_LEASE, LONGEST_PROBE_LIMIT, LONGEST_PROBE_PERIOD, PROBE_BESIDE, PROBE_LATE};

pub(super) fn check_times(election: &ElectionConfig, origin: impl Fn(&str) -> String) -> Result<(), String> {
    let ElectionConfig {
        lease_duration,
        renew_deadline,
        retry_period,
        ..
    } = *election;
    let refuse = |flag: &str, value: Duration, rule: String| {
        Err(format!(
            "{} {value:?}: {rule}",
            origin(&format!("leader-election-{flag}"))
        ))
    };
    if lease_duration.subsec_nanos() != 0
        || !(Duration::from_secs(2)..=LONGEST_LEASE).contains(&lease_duration)
    {
        return refuse(
            "lease-duration",
            lease_duration,
            "must be whole seconds, 2s to 60s".to_owned(),
        );
    }
    if retry_period.is_zero() {
        return refuse(
            "retry-period",
            retry_period,
            "must be longer than zero".to_owned(),
        );
    }
    if renew_deadline >= lease_duration {
        let rule = format!("must be shorter than the lease duration, {lease_duration:?}");
        return refuse("renew-deadline", renew_deadline, rule);
    }
    if renew_deadline.as_nanos() * 5 <= retry_period.as_nanos() * 6 {
        let rule = format!("must be longer than 1.2 times the retry period, {retry_period:?}");
        return refuse("renew-deadline", renew_deadline, rule);
    }
    Ok(())
}

pub(super) fn check_probe(probe: &ProbeConfig, origin: impl Fn(&str) -> String) -> Result<(), String> {
    for (flag, value, allowed, rule) in [
        (
            "probe-period",
            probe.period,
            PROBE_BESIDE..=LONGEST_PROBE_PERIOD,
            "500ms to 2s",
        ),
        (
            "probe-timeout",
            probe.limit,
            PROBE_LATE..=LONGEST_PROBE_LIMIT,
            "100ms to 2s",
        ),
    ] {
        if !allowed.contains(&value) {
            return Err(format!("{} {value:?}: must be {rule}", origin(flag)));
        }
    }
    Ok(())
}
