//! Where a validator listens, as a multiaddr: `/ip4/A/udp/P/quic`, `/ip6/A/udp/P/quic`,
//! `/dns/HOST/udp/P/quic` (also `dns4`, `dns6`, and `quic-v1`, which names the same QUIC version
//! 1).
//!
//! The rule: an address says where to dial and never who answers; that is proven by the key in the
//! handshake.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// A place to dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// The host.
    pub host: Host,
    /// The UDP port, not 0.
    pub port: u16,
}

/// A host to dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, resolved anew at every dial because pods change their addresses.
    Name {
        /// The DNS name.
        name: String,
        /// Which addresses count.
        family: Family,
    },
}

/// Which addresses of a name count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `/dns`
    Any,
    /// `/dns4`
    V4,
    /// `/dns6`
    V6,
}

/// A text that is not an address of a validator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; write /ip4/10.0.0.1/udp/9001/quic, /ip6/fd00::1/udp/9001/quic or /dns/prod-0.prod-nodes/udp/9001/quic"
)]
pub struct NotAnAddress(&'static str);

impl FromStr for PeerAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let parts: Vec<&str> = text.split('/').collect();
        let ["", kind, host, "udp", port, "quic" | "quic-v1"] = parts.as_slice() else {
            return Err(NotAnAddress("an address has a host, a UDP port and /quic"));
        };
        let name = |family| {
            if is_dns_name(host) {
                Ok(Host::Name { name: (*host).to_owned(), family })
            } else {
                Err(NotAnAddress("the host is not a DNS name"))
            }
        };
        let host = match *kind {
            "ip4" => host
                .parse::<Ipv4Addr>()
                .map(|a| Host::Ip(a.into()))
                .map_err(|_| NotAnAddress("the host is not an IPv4 address")),
            "ip6" => host
                .parse::<Ipv6Addr>()
                .map(|a| Host::Ip(a.into()))
                .map_err(|_| NotAnAddress("the host is not an IPv6 address")),
            "dns" => name(Family::Any),
            "dns4" => name(Family::V4),
            "dns6" => name(Family::V6),
            _ => Err(NotAnAddress(
                "the address begins with neither /ip4, /ip6, /dns, /dns4 nor /dns6",
            )),
        }?;
        match port.parse::<u16>() {
            Ok(port) if port != 0 && !text.contains("/+") => Ok(Self { host, port }),
            _ => Err(NotAnAddress("the port is not a number from 1 to 65535")),
        }
    }
}

fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.is_empty() && name.len() <= 253 && name.split('.').all(label)
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V4(address)) => write!(f, "/ip4/{address}"),
            Host::Ip(IpAddr::V6(address)) => write!(f, "/ip6/{address}"),
            Host::Name { name, family: Family::Any } => write!(f, "/dns/{name}"),
            Host::Name { name, family: Family::V4 } => write!(f, "/dns4/{name}"),
            Host::Name { name, family: Family::V6 } => write!(f, "/dns6/{name}"),
        }?;
        write!(f, "/udp/{}/quic", self.port)
    }
}

impl PeerAddress {
    /// The socket addresses behind it now, at most 8.
    ///
    /// # Errors
    /// When the name does not resolve.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.host {
            Host::Ip(address) => Ok(vec![SocketAddr::new(*address, self.port)]),
            Host::Name { name, family } => {
                let found = tokio::net::lookup_host((name.as_str(), self.port)).await?;
                let counts = |address: &SocketAddr| match family {
                    Family::Any => true,
                    Family::V4 => address.is_ipv4(),
                    Family::V6 => address.is_ipv6(),
                };
                Ok(found.filter(counts).take(8).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_of_the_specification_are_read() {
        for (text, printed) in [
            ("/ip4/172.21.0.11/udp/9001/quic", None),
            ("/ip6/fd00::1/udp/9001/quic", None),
            ("/dns/prod-0.prod-nodes.default.svc/udp/9001/quic", None),
            ("/dns4/localhost/udp/1/quic", None),
            ("/dns6/a.b./udp/65535/quic", None),
            ("/ip4/1.2.3.4/udp/9001/quic-v1", Some("/ip4/1.2.3.4/udp/9001/quic")),
        ] {
            assert_eq!(text.parse::<PeerAddress>().unwrap().to_string(), printed.unwrap_or(text));
        }
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in [
            "",
            "/",
            "10.0.0.1:9001",
            "/ip4/10.0.0.1/tcp/9001",
            "/ip4/10.0.0.1/udp/9001",
            "/ip4/10.0.0.1/udp/0/quic",
            "/ip4/10.0.0.1/udp/+1/quic",
            "/ip4/10.0.0.1/udp/65536/quic",
            "/ip4/10.0.0.256/udp/9001/quic",
            "/ip6/10.0.0.1/udp/9001/quic",
            "/dns/-a/udp/9001/quic",
            "/dns/a b/udp/9001/quic",
            "/dns/a..b/udp/9001/quic",
            "/unix/a/udp/9001/quic",
            "/ip4/10.0.0.1/udp/9001/quic/p2p/x",
        ] {
            let error = text.parse::<PeerAddress>().unwrap_err().to_string();
            assert!(error.contains("/ip4/10.0.0.1/udp/9001/quic"), "{text}: {error}");
        }
    }

    fn addresses() -> impl Strategy<Value = PeerAddress> {
        let family = prop_oneof![Just(Family::Any), Just(Family::V4), Just(Family::V6)];
        let host = prop_oneof![
            any::<IpAddr>().prop_map(Host::Ip),
            ("[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z0-9]{1,10}){0,3}", family)
                .prop_map(|(name, family)| Host::Name { name, family }),
        ];
        (host, 1..=u16::MAX).prop_map(|(host, port)| PeerAddress { host, port })
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_the_same(address in addresses()) {
            prop_assert_eq!(address.to_string().parse::<PeerAddress>().unwrap(), address);
        }

        #[test]
        fn no_text_makes_it_panic_and_what_is_read_prints(text in "(/(ip4|ip6|dns|dns4|udp|quic|[0-9.:]{1,9}|\\PC{0,4})){0,7}") {
            if let Ok(address) = text.parse::<PeerAddress>() {
                prop_assert_eq!(address.to_string().parse::<PeerAddress>().unwrap(), address);
            }
        }
    }
}
