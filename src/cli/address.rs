//! Parses addresses to listen on and to dial, in Go's notation.

use std::net::{IpAddr, SocketAddr};

use crate::config::ServerAddress;

/// Parses a flag's value as an address to listen on, or `0` for none.
pub(super) fn bind(text: &str) -> Result<Option<ServerAddress>, String> {
    if text == "0" {
        return Ok(None);
    }
    let address = parse(text).map(Some);
    address.ok_or_else(|| "must be host:port, :port for all addresses, or 0 for none".to_owned())
}

fn parse(text: &str) -> Option<ServerAddress> {
    let socket = text.parse::<SocketAddr>().ok().map(|socket| socket.to_string());
    let (host, port) = socket.as_deref().unwrap_or(text).rsplit_once(':')?;
    // `str::parse` alone would accept "+80".
    let port = port
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| port.parse().ok())??;
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let last_label = host.rsplit('.').next().unwrap_or_default();
    // A host whose last label has only digits is a mistyped IPv4 address, not a name.
    let is_name = host.bytes().all(legal) && !last_label.bytes().all(|b| b.is_ascii_digit());
    let is_valid = socket.is_some() || matches!(host, "" | "[]") || is_name;
    is_valid.then(|| ServerAddress::new(host, port))
}

/// Parses a flag's value as the address of an API server.
pub(super) fn server(text: &str) -> Result<ServerAddress, String> {
    let is_dialed = |address: &ServerAddress| {
        let ip = address.host.parse::<IpAddr>();
        address.port != 0 && !address.host.is_empty() && !ip.is_ok_and(|ip| ip.is_unspecified())
    };
    let address = parse(text).filter(is_dialed);
    address.ok_or_else(|| "must be host:port, such as 192.0.2.1:6443 or [2001:db8::1]:6443".to_owned())
}

/// Parses a flag's value as the host of an API server. The value may be empty.
pub(super) fn host(text: &str) -> Result<String, String> {
    let is_name = || server(&format!("{text}:1")).is_ok();
    if text.is_empty() || text.parse::<IpAddr>().is_ok_and(|ip| !ip.is_unspecified()) || is_name() {
        return Ok(text.to_owned());
    }
    Err("must be an IP address or a DNS name, without a port".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_an_api_server_has_host_and_port() {
        for text in ["192.0.2.1:6443", "[2001:db8::1]:6443", "api.example.com:443"] {
            assert_eq!(server(text).unwrap().to_string(), text);
        }
        for text in [
            "192.0.2.1",
            ":6443",
            "0.0.0.0:6443",
            "[::]:6443",
            "host:0",
            "https://host:6443",
            "",
            "a b:1",
        ] {
            assert!(server(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_host_of_an_api_server_has_no_port() {
        for text in ["", "192.0.2.1", "2001:db8::1", "node-1.example.com"] {
            assert_eq!(host(text).unwrap(), text);
        }
        for text in [
            "192.0.2.1:6443",
            "0.0.0.0",
            "[2001:db8::1]:6443",
            "a b",
            "300.1.1.1",
        ] {
            assert!(host(text).is_err(), "{text:?}");
        }
    }

    /// Rule: 4.metrics-address
    #[test]
    fn listen_addresses_use_go_syntax() {
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
            let address = bind(text).unwrap().unwrap();
            assert_eq!(address.to_string(), text);
        }
        for (text, host) in [
            (":1", ""),
            ("[]:1", ""),
            ("localhost:1", "localhost"),
            ("[0::1]:1", "::1"),
            ("[fe80::1%2]:1", "fe80::1%2"),
        ] {
            assert_eq!(parse(text), Some(ServerAddress::new(host, 1)), "{text}");
        }
    }

    /// Rule: 4.metrics-address
    #[test]
    fn zero_disables_listening() {
        assert_eq!(bind("0"), Ok(None));
    }

    #[test]
    fn invalid_listen_addresses_are_rejected() {
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
