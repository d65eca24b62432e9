//! Whose a request is, as far as fairness needs to know.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;

use crate::auth::{ApiKeys, Caller};

/// Requests with the same value share what one client can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// Anybody without a key, where others have one: all of them together count as one client, the last to be served.
    Stranger,
    /// The key's number, if keys are asked for, and where the request comes from, if that is known.
    Known { key: Option<usize>, address: Option<IpAddr> },
}

impl Client {
    pub(crate) fn of(keys: &ApiKeys, request: &Request<Body>) -> Self {
        let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| network(peer.0.ip()));
        match keys.caller(request.headers()) {
            Caller::Stranger => Self::Stranger,
            Caller::Anybody => Self::Known { key: None, address },
            Caller::Key(key) => Self::Known { key: Some(key), address },
        }
    }

    /// The holder of a key, from nowhere.
    #[cfg(test)]
    pub(crate) fn keyed(key: usize) -> Self {
        Self::Known { key: Some(key), address: None }
    }
}

/// A host has a whole /64 of IPv6 addresses.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => six
            .to_ipv4_mapped()
            .map_or_else(|| Ipv6Addr::from_bits(six.to_bits() >> 64 << 64).into(), IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_many_addresses() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
