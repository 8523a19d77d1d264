//! Who shows wrong tokens waits, longer each time. Counted by the address that the connection comes from: behind a proxy
//! all its visitors are one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Slips of the hand.
const FREE: u32 = 5;
const LONGEST: Duration = Duration::from_secs(300);
/// After so long without a wrong one, all is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// Addresses that are remembered, of some 64 bytes each.
const MANY: usize = 1024;

#[derive(Default)]
pub(super) struct Lockout {
    tries: HashMap<IpAddr, Tries>,
}

#[derive(Clone, Copy)]
struct Tries {
    wrong: u32,
    last: Instant,
}

impl Tries {
    fn until(self) -> Instant {
        match self.wrong.checked_sub(FREE) {
            None => self.last,
            Some(more) => self.last + Duration::from_secs(1u64 << more.min(16)).min(LONGEST),
        }
    }
}

impl Lockout {
    /// How long this address is to wait yet.
    pub(super) fn wait(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let until = self.tries.get(&home(peer))?.until();
        until.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    pub(super) fn wrong(&mut self, peer: IpAddr, now: Instant) {
        let peer = home(peer);
        if self.tries.len() >= MANY && !self.tries.contains_key(&peer) {
            self.tries.retain(|_, tries| now.duration_since(tries.last) < FORGOTTEN);
            // Who tried least loses least by being forgotten.
            let least = self.tries.iter().min_by_key(|(_, tries)| (tries.wrong, tries.last)).map(|(peer, _)| *peer);
            if let Some(least) = least.filter(|_| self.tries.len() >= MANY) {
                self.tries.remove(&least);
            }
        }
        let tries = self.tries.entry(peer).or_insert(Tries { wrong: 0, last: now });
        if now.duration_since(tries.last) >= FORGOTTEN {
            tries.wrong = 0;
        }
        (tries.wrong, tries.last) = (tries.wrong.saturating_add(1), now);
    }

    pub(super) fn right(&mut self, peer: IpAddr) {
        self.tries.remove(&home(peer));
    }
}

/// Whoever has one address of a version-6 network has 2^64 of them.
fn home(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_wait_grows_with_each_wrong_token_up_to_a_limit_and_ends_with_a_right_one() {
        let (mut lockout, mut now) = (Lockout::default(), Instant::now());
        let peer = ip("192.0.2.1");
        let mut waits = Vec::new();
        for _ in 0..20 {
            waits.push(lockout.wait(peer, now).map_or(0, |wait| wait.as_secs()));
            now += lockout.wait(peer, now).unwrap_or_default();
            lockout.wrong(peer, now);
        }
        assert_eq!(waits[..5], [0; 5]);
        assert_eq!(waits[5..9], [1, 2, 4, 8]);
        assert_eq!(waits.last(), Some(&300));
        assert_eq!(lockout.wait(ip("192.0.2.2"), now), None, "somebody else does not wait");
        lockout.right(peer);
        assert_eq!(lockout.wait(peer, now), None);
    }

    #[test]
    fn a_crowd_of_addresses_takes_no_more_memory_and_frees_nobody_who_waits() {
        let (mut lockout, now) = (Lockout::default(), Instant::now());
        let guesser = ip("192.0.2.1");
        (0..10).for_each(|_| lockout.wrong(guesser, now));
        for n in 0..5000u32 {
            lockout.wrong(IpAddr::V4((0x0a00_0000 + n).into()), now);
        }
        assert!(lockout.tries.len() <= MANY && lockout.wait(guesser, now).is_some());
        // The addresses of one network are one.
        (0..10).for_each(|n| lockout.wrong(ip(&format!("2001:db8::{n}")), now));
        assert!(lockout.wait(ip("2001:db8::ffff"), now).is_some());
        assert!(lockout.wait(ip("2001:db8:0:1::1"), now).is_none());
    }
}
