//! The rows that are measured, each with the figure of the Go operator and its limit.

use std::fmt;
use std::time::Duration;

/// One row.
pub struct Row {
    pub name: &'static str,
    /// The figure of the Go operator, measured once on 2 cores.
    pub go: &'static str,
    pub limit: Limit,
    pub scenario: Scenario,
    /// Whether it takes minutes, and runs only on request.
    pub long: bool,
}

/// The limit for the worst run.
#[derive(Clone, Copy)]
pub enum Limit {
    Within(Duration),
    Writers(usize),
    /// At most this much of a unit.
    AtMost(f64, &'static str),
}

/// The fault of a row.
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
    Away { seconds: u64, sources: usize },
    Scraped { scrapes: bool, sources: usize },
    FanOut { followers: usize },
    Beside { followers: usize, percentile: usize },
    BusyTenant { keys: usize },
    HangingWrites,
    BeyondAPut { percentile: usize },
    CpuOfAChange,
    Idle(Idle),
    Churn,
    LargeCluster { of_leader: bool },
    LargeColdStart,
}

/// What an idle replica costs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    LeaderCpu,
    StandbyCpu,
    LeaderRequests,
    LeaderMemory,
}

impl Scenario {
    /// Whether API servers must be behind paths that can be cut.
    pub fn needs_network(self) -> bool {
        self == Self::ServerBlackHoled
    }

    /// Whether a run needs a cluster with nothing in it, and leaves one that is useless for the next run.
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
    /// So much of the unit of the limit.
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

const fn row(name: &'static str, go: &'static str, limit: Limit, scenario: Scenario) -> Row {
    Row {
        name,
        go,
        limit,
        scenario,
        long: false,
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

/// In the order in which they run. Rows that leave many objects behind come last.
pub const ROWS: [Row; 33] = [
    row(
        "cold start without a lease",
        "0.3 s",
        within(150),
        Scenario::ColdStart,
    ),
    row(
        "leader stopped (TERM)",
        "17 s",
        within(300),
        Scenario::LeaderStopped,
    ),
    row(
        "leader killed (KILL)",
        "16 to 19 s",
        LEASE,
        Scenario::LeaderKilled,
    ),
    row(
        "leader frozen (STOP)",
        "16 to 18 s",
        LEASE,
        Scenario::LeaderFrozen,
    ),
    row(
        "leader frozen, 10 s after the thaw: writers",
        "2, for 9 s",
        Limit::Writers(1),
        Scenario::LeaderThawed,
    ),
    row(
        "Lease emptied by hand, 11 s: writers",
        "2, for 11 s",
        Limit::Writers(1),
        Scenario::LeaseEmptied,
    ),
    row(
        "single replica stopped, started again",
        "-",
        within(300),
        Scenario::SingleRestarted,
    ),
    row(
        "single replica killed, started again",
        "15.7 s",
        LEASE,
        Scenario::SingleKilled,
    ),
    row(
        "the leader's API server killed",
        "18 s, exits",
        within(1000),
        Scenario::ServerKilled,
    ),
    row(
        "the leader's API server frozen",
        "16 s, exits",
        within(3000),
        Scenario::ServerFrozen,
    ),
    row(
        "the leader's API server black-holed",
        "16 s, exits",
        within(3000),
        Scenario::ServerBlackHoled,
    ),
    row(
        "API away for 25 s",
        "17 s, exits",
        within(1000),
        Scenario::Away {
            seconds: 25,
            sources: 1,
        },
    ),
    Row {
        long: true,
        ..row(
            "API away for 300 s",
            "-",
            within(1000),
            Scenario::Away {
                seconds: 300,
                sources: 1,
            },
        )
    },
    row(
        "API away for 25 s, 500 sources",
        "-",
        within(1000),
        Scenario::Away {
            seconds: 25,
            sources: 500,
        },
    ),
    Row {
        long: true,
        ..row(
            "API away for 300 s, 500 sources",
            "-",
            within(1000),
            Scenario::Away {
                seconds: 300,
                sources: 500,
            },
        )
    },
    row(
        "500 sources: 95 of 100 changes",
        "-",
        within(100),
        Scenario::Scraped {
            scrapes: false,
            sources: 500,
        },
    ),
    row(
        "the same, scraped without a pause",
        "-",
        within(100),
        Scenario::Scraped {
            scrapes: true,
            sources: 500,
        },
    ),
    row(
        "a change beyond a bare PUT, p50",
        "-",
        microseconds(300),
        Scenario::BeyondAPut { percentile: 50 },
    ),
    row(
        "a change beyond a bare PUT, p99",
        "-",
        within(2),
        Scenario::BeyondAPut { percentile: 99 },
    ),
    row(
        "CPU time of a change",
        "1.55 ms",
        microseconds(500),
        Scenario::CpuOfAChange,
    ),
    row(
        "idle leader, no probes: CPU",
        "0.13 %",
        Limit::AtMost(0.05, "%"),
        Scenario::Idle(Idle::LeaderCpu),
    ),
    row(
        "idle standby, no probes: CPU",
        "0.07 %",
        Limit::AtMost(0.03, "%"),
        Scenario::Idle(Idle::StandbyCpu),
    ),
    row(
        "idle leader, no probes: requests in 30 s",
        "15",
        Limit::AtMost(26.0, ""),
        Scenario::Idle(Idle::LeaderRequests),
    ),
    row(
        "idle leader, no probes: RSS",
        "31 MiB",
        Limit::AtMost(9.0, "MiB"),
        Scenario::Idle(Idle::LeaderMemory),
    ),
    row(
        "40 unrelated changes a second: CPU",
        "2.0 %",
        Limit::AtMost(0.1, "%"),
        Scenario::Churn,
    ),
    row(
        "four hanging writes: another namespace",
        "-",
        within(100),
        Scenario::HangingWrites,
    ),
    row(
        "500 followers: the VIP beside them, p50",
        "5.9 ms, one copy",
        within(6),
        Scenario::Beside {
            followers: 500,
            percentile: 50,
        },
    ),
    row(
        "500 followers: the VIP beside them, p99",
        "12.9 ms, one copy",
        within(15),
        Scenario::Beside {
            followers: 500,
            percentile: 99,
        },
    ),
    row(
        "500 followers of one source: all",
        "never",
        within(1000),
        Scenario::FanOut { followers: 500 },
    ),
    row(
        "5,000 followers of one source: all",
        "never",
        within(10_000),
        Scenario::FanOut { followers: 5000 },
    ),
    row(
        "5,000 keys of a tenant: another namespace",
        "-",
        within(100),
        Scenario::BusyTenant { keys: 5000 },
    ),
    row(
        "large cluster: RSS of the leader",
        "81 to 88 MiB",
        Limit::AtMost(14.0, "MiB"),
        Scenario::LargeCluster { of_leader: true },
    ),
    row(
        "large cluster: cold start to all copies",
        "4.4 s",
        within(1000),
        Scenario::LargeColdStart,
    ),
];
