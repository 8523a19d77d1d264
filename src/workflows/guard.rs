//! Keeps webhooks away from private addresses: whoever may write a workflow must not reach what only this host reaches.
//! Names are looked up here, and the connection goes to the addresses that were checked, so that a name cannot lead
//! elsewhere a moment later.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// What may be reached although it is private: a network (`10.1.0.0/16`), an address, or a host by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    Network(IpAddr, u8),
    Name(String),
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no network such as 10.1.0.0/16, no address and no host name");
        let text = text.trim();
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| bad())?;
            let bits: u8 = bits.parse().map_err(|_| bad())?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            return if bits <= most { Ok(Self::Network(address, bits)) } else { Err(bad()) };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        match !text.is_empty() && text.bytes().all(fits) {
            true => Ok(Self::Name(text.to_ascii_lowercase())),
            false => Err(bad()),
        }
    }
}

impl Allowed {
    fn covers(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::Network(IpAddr::V4(net), bits), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0);
                u32::from(*net) & mask == u32::from(address) & mask
            }
            (Self::Network(IpAddr::V6(net), bits), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(*bits)).unwrap_or(0);
                u128::from(*net) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }
}

/// A private address was asked for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{host} is at {address}, a private address: add it to workflows.allow if that is meant")]
pub struct Forbidden {
    host: String,
    address: IpAddr,
}

#[derive(Clone, Debug, Default)]
pub struct Guard {
    allowed: Arc<[Allowed]>,
}

impl Guard {
    pub fn new(allowed: &[Allowed]) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Addresses that stand in the URL itself are never looked up.
    pub fn literal(&self, url: &Url) -> Result<(), Forbidden> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.address("the host", address.into()),
            Some(Host::Ipv6(address)) => self.address("the host", address.into()),
            _ => Ok(()),
        }
    }

    fn address(&self, host: &str, address: IpAddr) -> Result<(), Forbidden> {
        let real = canonical(address);
        let allowed = self.allowed.iter().any(|allowed| allowed.covers(real) || allowed.covers(address));
        match allowed || is_public(real) {
            true => Ok(()),
            false => Err(Forbidden { host: host.to_owned(), address }),
        }
    }

    fn check(&self, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Forbidden> {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        if self.allowed.contains(&Allowed::Name(name)) {
            return Ok(found);
        }
        // One private address among public ones is reason enough: which one is taken is left to chance.
        found.iter().try_for_each(|at| self.address(host, at.ip()))?;
        Ok(found)
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let found = guard.check(&host, found)?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The address of the older kind that one of the newer kind only wraps.
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => v4(high, low), // mapped
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low), // compatible, long gone
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low), // NAT64
        [0x2002, high, low, ..] => v4(high, low),            // 6to4
        _ => address,
    }
}

/// Reachable for everyone: not this host, not its networks, nothing that is set aside (IANA's special-purpose
/// registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(a == 0
                || v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || a >= 224
                || (a == 100 && (64..128).contains(&b))
                || (a, b, c) == (192, 0, 0)
                || (a, b, c) == (192, 88, 99)
                || (a == 198 && (b == 18 || b == 19)))
        }
        IpAddr::V6(v6) => public_v6(v6),
    }
}

fn public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    // Global unicast is 2000::/3; of it, protocol assignments (Teredo among them), documentation and the like are not.
    (s[0] & 0xe000) == 0x2000
        && !(s[0] == 0x2001 && s[1] < 0x200)
        && !(s[0] == 0x2001 && s[1] == 0xdb8)
        && !(s[0] == 0x3fff && s[1] < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_everybodys_are_refused_however_they_are_written() {
        let guard = Guard::default();
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://10.0.0.5:8080/",
            "http://172.16.0.1/",
            "http://192.168.1.1/",
            "http://169.254.169.254/latest/meta-data/",
            "http://100.64.0.1/",
            "http://0.0.0.0/",
            "http://255.255.255.255/",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[fd00::1]/",
            "http://[fe80::1]/",
            "http://[ff02::1]/",
        ] {
            assert!(guard.literal(&Url::parse(url).unwrap()).is_err(), "{url}");
        }
        for url in ["http://93.184.216.34/", "https://[2606:2800:220:1::1]/", "https://example.com/"] {
            assert!(guard.literal(&Url::parse(url).unwrap()).is_ok(), "{url}");
        }
    }

    #[test]
    fn what_is_allowed_is_let_through_and_nothing_beside_it() {
        let allowed: Vec<Allowed> =
            ["10.1.0.0/16", "127.0.0.1", "hooks.internal", "fd00::/8"].iter().map(|t| t.parse().unwrap()).collect();
        let guard = Guard::new(&allowed);
        let ok = |url: &str| guard.literal(&Url::parse(url).unwrap()).is_ok();
        assert!(ok("http://10.1.255.1/") && ok("http://127.0.0.1:1/") && ok("http://[fd12::1]/"));
        assert!(!ok("http://10.2.0.1/") && !ok("http://127.0.0.2/") && !ok("http://[fe80::1]/"));
        let private: Vec<SocketAddr> = vec!["192.168.0.9:0".parse().unwrap()];
        assert!(guard.check("hooks.internal", private.clone()).is_ok());
        assert!(guard.check("other.internal", private).is_err());
        let mixed: Vec<SocketAddr> = vec!["93.184.216.34:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
        assert!(guard.check("rebind.example", mixed).is_err());
        for bad in ["", "10.0.0.0/33", "a b", "http://x", "10.0.0/8"] {
            assert!(bad.parse::<Allowed>().is_err(), "{bad}");
        }
        assert!("0.0.0.0/0".parse::<Allowed>().unwrap().covers("9.9.9.9".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_host_is_refused_when_it_is_looked_up() {
        let refused = Guard::default().resolve("localhost".parse().unwrap()).await;
        let error = refused.err().unwrap();
        assert!(error.downcast_ref::<Forbidden>().is_some(), "{error}");
    }
}
