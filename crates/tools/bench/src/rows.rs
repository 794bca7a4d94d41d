//! The rows of the table: each has a scenario, the result of the Go operator, and a limit.

use std::fmt;
use std::time::Duration;

/// One row of the table.
pub struct Row {
    pub name: &'static str,
    /// The result of the Go operator, measured once on 2 cores.
    pub go: &'static str,
    pub limit: Limit,
    pub scenario: Scenario,
}

impl Row {
    /// Whether the row takes minutes. If so, it runs only with `--long`.
    pub fn is_long(&self) -> bool {
        matches!(self.scenario, Scenario::ApiDown { seconds: 300, .. })
    }
}

/// The limit for the worst run.
#[derive(Clone, Copy)]
pub enum Limit {
    Within(Duration),
    Writers(usize),
    /// At most this number, in this unit.
    AtMost(f64, &'static str),
}

/// The fault or the load of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    ColdStart,
    LeaderStopped,
    LeaderKilled,
    LeaderFrozen,
    LeaderThawed,
    LeaseEmptied,
    SingleRestarted,
    SingleKilled,
    ServerKilled,
    ServerFrozen,
    ServerBlackHoled,
    ApiDown { seconds: u64, sources: usize },
    Scraped { scrapes: bool, sources: usize },
    FanOut { services: usize },
    VipDelay { services: usize, percentile: usize },
    BusyTenant { services: usize },
    HangingWrites,
    BeyondAPut { percentile: usize },
    CpuOfAChange,
    Idle(Idle),
    Churn,
    LargeCluster { of_leader: bool },
    LargeColdStart,
}

/// The cost of an idle replica.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    LeaderCpu,
    StandbyCpu,
    LeaderRequests,
    LeaderMemory,
}

impl Scenario {
    /// Whether the row must be able to cut the path to an API server.
    pub fn needs_network(self) -> bool {
        self == Self::ServerBlackHoled
    }

    /// Whether a run needs an empty cluster, and leaves behind a cluster that the next run cannot use.
    pub fn fills_the_cluster(self) -> bool {
        matches!(self, Self::LargeCluster { .. } | Self::LargeColdStart)
    }
}

/// The result of one run.
#[derive(Clone, Debug)]
pub enum Outcome {
    Took(Duration),
    /// The replicas that wrote copies.
    Writers(Vec<String>),
    /// The measured number, in the unit of the limit.
    Measured(f64),
    Failed(String),
    Skipped(String),
}

impl Outcome {
    pub fn can_be_repeated(&self) -> bool {
        !matches!(self, Self::Skipped(_))
    }

    pub fn is_within(&self, limit: Limit) -> bool {
        match (self, limit) {
            (Self::Took(took), Limit::Within(limit)) => *took <= limit,
            (Self::Writers(writers), Limit::Writers(most)) => writers.len() <= most,
            (Self::Measured(measured), Limit::AtMost(limit, _)) => *measured <= limit,
            (Self::Skipped(_), _) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Took(took) if *took < Duration::from_millis(100) => {
                write!(f, "{:.2} ms", 1000.0 * took.as_secs_f64())
            }
            Self::Took(took) => write!(f, "{:.3} s", took.as_secs_f64()),
            Self::Writers(writers) => write!(f, "{}", writers.len()),
            Self::Measured(measured) => write!(f, "{measured:.3}"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within(limit) if *limit < Duration::from_millis(100) => {
                write!(f, "{} ms", 1000.0 * limit.as_secs_f64())
            }
            Self::Within(limit) => write!(f, "{} s", limit.as_secs_f64()),
            Self::Writers(most) => write!(f, "{most}"),
            Self::AtMost(most, unit) => write!(f, "{most} {unit}"),
        }
    }
}

const fn within(milliseconds: u64) -> Limit {
    Limit::Within(Duration::from_millis(milliseconds))
}

const fn microseconds(most: u64) -> Limit {
    Limit::Within(Duration::from_micros(most))
}

/// The default lease duration plus half a second.
const LEASE: Limit = within(6500);

/// Declares the rows: the name, the result of the Go operator, the limit and the scenario of each.
macro_rules! rows {
    ($($name:literal, $go:literal, $limit:expr, $scenario:ident $({$($field:tt)*})? $(($kind:expr))?;)+) => {
        /// The rows, in the order in which they run. Rows that need or leave behind thousands of objects come last.
        pub const ROWS: [Row; [$($name),+].len()] = [$(
            Row { name: $name, go: $go, limit: $limit, scenario: Scenario::$scenario $({$($field)*})? $(($kind))? }
        ),+];
    };
}

rows! {
    "cold start without a lease", "0.3 s", within(150), ColdStart;
    "leader stopped (TERM)", "17 s", within(300), LeaderStopped;
    "leader killed (KILL)", "16 to 19 s", LEASE, LeaderKilled;
    "leader frozen (STOP)", "16 to 18 s", LEASE, LeaderFrozen;
    "leader frozen, 10 s after the thaw: writers", "2, for 9 s", Limit::Writers(1), LeaderThawed;
    "Lease emptied by hand, 11 s: writers", "2, for 11 s", Limit::Writers(1), LeaseEmptied;
    "single replica stopped, started again", "-", within(300), SingleRestarted;
    "single replica killed, started again", "15.7 s", LEASE, SingleKilled;
    "the leader's API server killed", "18 s, exits", within(1000), ServerKilled;
    "the leader's API server frozen", "16 s, exits", within(3000), ServerFrozen;
    "the leader's API server black-holed", "16 s, exits", within(3000), ServerBlackHoled;
    "API down for 25 s", "17 s, exits", within(1000), ApiDown { seconds: 25, sources: 1 };
    "API down for 300 s", "-", within(1000), ApiDown { seconds: 300, sources: 1 };
    "API down for 25 s, 500 sources", "-", within(1000), ApiDown { seconds: 25, sources: 500 };
    "API down for 300 s, 500 sources", "-", within(1000), ApiDown { seconds: 300, sources: 500 };
    "500 sources: 95 of 100 changes", "-", within(100), Scraped { scrapes: false, sources: 500 };
    "500 sources, scraped without a pause", "-", within(100), Scraped { scrapes: true, sources: 500 };
    "a change beyond a bare PUT, p50", "-", microseconds(300), BeyondAPut { percentile: 50 };
    "a change beyond a bare PUT, p99", "-", within(2), BeyondAPut { percentile: 99 };
    "CPU time of a change", "1.55 ms", microseconds(500), CpuOfAChange;
    "idle leader, no probes: CPU", "0.13 %", Limit::AtMost(0.05, "%"), Idle(Idle::LeaderCpu);
    "idle standby, no probes: CPU", "0.07 %", Limit::AtMost(0.03, "%"), Idle(Idle::StandbyCpu);
    "idle leader, no probes: requests in 30 s", "15", Limit::AtMost(26.0, ""), Idle(Idle::LeaderRequests);
    "idle leader, no probes: RSS", "31 MiB", Limit::AtMost(9.0, "MiB"), Idle(Idle::LeaderMemory);
    "40 unrelated changes a second: CPU", "2.0 %", Limit::AtMost(0.1, "%"), Churn;
    "hanging writes of a tenant: another tenant", "-", within(100), HangingWrites;
    "the VIP next to 500 other Services, p50", "5.9 ms, one copy", within(6), VipDelay { services: 500, percentile: 50 };
    "the VIP next to 500 other Services, p99", "12.9 ms, one copy", within(15), VipDelay { services: 500, percentile: 99 };
    "500 Services copy one source: all", "never", within(1000), FanOut { services: 500 };
    "5,000 Services copy one source: all", "never", within(10_000), FanOut { services: 5000 };
    "5,000 Services of a tenant: another tenant", "-", within(100), BusyTenant { services: 5000 };
    "large cluster: RSS of the leader", "81 to 88 MiB", Limit::AtMost(14.0, "MiB"), LargeCluster { of_leader: true };
    "large cluster: cold start to all copies", "4.4 s", within(1000), LargeColdStart;
}
