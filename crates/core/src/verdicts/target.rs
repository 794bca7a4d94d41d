//! One address and port that is probed, and the result of one attempt.

use std::fmt;
use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::str::FromStr;

use crate::model::Family;

/// The RKE2 supervisor port, which answers `GET /ping` without credentials.
pub const SUPERVISOR_PORT: u16 = 9345;

/// An address and port. All managed Services whose copies show a target share its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    address: IpAddr,
    port: u16,
}

impl Target {
    /// Creates a target. An IPv4-mapped IPv6 address is converted to the IPv4 address.
    #[must_use]
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self {
            address: address.to_canonical(),
            port,
        }
    }

    /// The address in canonical form.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The TCP port.
    #[must_use]
    pub fn port(self) -> u16 {
        self.port
    }

    /// The family of the address.
    #[must_use]
    pub fn family(self) -> Family {
        Family::of(self.address)
    }
}

/// `192.0.2.1:6443` or `[2001:db8::1]:6443`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

impl FromStr for Target {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address: SocketAddr = text.parse()?;
        Ok(Self::new(address.ip(), address.port()))
    }
}

/// The result of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A 2xx status.
    Success,
    /// Verified TLS with 401, 403 or 429: the server is alive, but does not show whether it is ready.
    Alive(u16),
    /// Anything else.
    Failure(Failure),
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The connection was refused, usually because no process listens on the port.
    Refused,
    /// The server reset or closed the connection.
    Reset,
    /// No response within the limit.
    TimedOut,
    /// The certificate is not valid, for example expired or not trusted.
    Certificate(String),
    /// A status that is neither 2xx nor 401, 403 or 429.
    Status(u16),
    /// Any other failure, in words.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Reset => f.write_str("connection reset"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Certificate(why) => write!(f, "invalid certificate: {why}"),
            Self::Status(status) => write!(f, "answered {status}"),
            Self::Other(why) => f.write_str(why),
        }
    }
}
