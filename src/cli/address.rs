//! An address to listen on, in Go's notation.

use std::fmt;
use std::net::SocketAddr;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindAddress {
    /// `:8080`: every address of the host, of both families where it has them.
    All {
        /// TCP port; 0 lets the kernel choose.
        port: u16,
    },
    /// `127.0.0.1:8080` or `[::1]:8080`.
    Socket(SocketAddr),
    /// `localhost:8080`: an address of that name.
    Host {
        /// Name to resolve.
        host: String,
        /// TCP port; 0 lets the kernel choose.
        port: u16,
    },
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All { port } => write!(f, ":{port}"),
            Self::Socket(address) => write!(f, "{address}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// A flag's value: an address, or `0` for none.
#[derive(Clone, Debug)]
pub(super) struct Bind(pub(super) Option<BindAddress>);

pub(super) fn bind(text: &str) -> Result<Bind, String> {
    if text == "0" {
        return Ok(Bind(None));
    }
    parse(text)
        .map(|address| Bind(Some(address)))
        .ok_or_else(|| "must be host:port, :port for all addresses, or 0 for none".to_owned())
}

fn parse(text: &str) -> Option<BindAddress> {
    if let Ok(address) = text.parse() {
        return Some(BindAddress::Socket(address));
    }
    let (host, port) = text.rsplit_once(':')?;
    // `parse` alone would take "+80".
    let port = port
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| port.parse().ok())??;
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let last_label = host.rsplit('.').next().unwrap_or_default();
    match host {
        "" | "[]" => Some(BindAddress::All { port }),
        // A last label of digits only is a mistyped IPv4 address, not a name.
        _ if host.bytes().all(legal) && !last_label.bytes().all(|b| b.is_ascii_digit()) => {
            Some(BindAddress::Host {
                host: host.to_owned(),
                port,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_go() {
        for text in [
            ":8080",
            ":0",
            "127.0.0.1:80",
            "0.0.0.0:80",
            "[::1]:80",
            "[::]:80",
            "localhost:8080",
            "a.b-c:1",
            "node1:1",
        ] {
            let address = bind(text).unwrap().0.unwrap();
            assert_eq!(address.to_string(), text);
        }
        assert_eq!(parse(":8080"), Some(BindAddress::All { port: 8080 }));
        assert_eq!(
            parse("localhost:1"),
            Some(BindAddress::Host {
                host: "localhost".to_owned(),
                port: 1
            })
        );
        assert!(matches!(parse("[::1]:80"), Some(BindAddress::Socket(_))));
    }

    #[test]
    fn zero_listens_nowhere() {
        assert_eq!(bind("0").unwrap().0, None);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ":",
            "8080",
            "*:80",
            ":65536",
            ":-1",
            ":+80",
            ":http",
            "::1:80",
            "300.1.1.1:80",
            "a b:80",
            "[::1]",
        ] {
            assert!(bind(text).is_err(), "{text:?}");
        }
    }
}
