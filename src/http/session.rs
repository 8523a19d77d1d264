//! Sessions: who has shown a token at the login page carries a random number in a cookie from then on. They live in
//! memory, so a restart ends them; of the number only its digest is kept.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::guard::Role;

/// A working day; then the token is to be shown again.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// A browser that is closed ends its session before that. An open page is not idle: it listens.
const IDLE: Duration = Duration::from_secs(2 * 3600);
/// People who look at one service, each with some browsers. The one that was idle longest makes room.
const MANY: usize = 64;

pub(super) const SECONDS: u64 = LIFE.as_secs();

/// The digest of a session's number: what it is known by in here.
pub(super) type Id = [u8; 32];

#[derive(Clone)]
pub(super) struct Session {
    pub id: Id,
    pub role: Role,
    /// What a page of ours knows and a page of somebody else's does not.
    pub csrf: String,
    born: Instant,
    seen: Instant,
}

impl Session {
    /// For the log: tells sessions apart, and opens none.
    pub(super) fn name(&self) -> String {
        format!("session {:02x}{:02x}{:02x}", self.id[0], self.id[1], self.id[2])
    }

    pub(super) fn knows(&self, csrf: &str) -> bool {
        bool::from(digest(csrf).ct_eq(&digest(&self.csrf)))
    }

    fn lives(&self, now: Instant) -> bool {
        now.duration_since(self.born) < LIFE && now.duration_since(self.seen) < IDLE
    }
}

#[derive(Default)]
pub(super) struct Sessions {
    open: Vec<Session>,
}

impl Sessions {
    /// Opens one; its number is made here, whatever a browser may have brought.
    pub(super) fn open(&mut self, role: Role, now: Instant) -> Result<(String, Session), getrandom::Error> {
        self.open.retain(|session| session.lives(now));
        if self.open.len() >= MANY
            && let Some(oldest) = (0..self.open.len()).min_by_key(|&at| self.open[at].seen)
        {
            self.open.swap_remove(oldest);
        }
        let (number, csrf) = (random()?, random()?);
        let session = Session { id: digest(&number), role, csrf, born: now, seen: now };
        self.open.push(session.clone());
        Ok((number, session))
    }

    /// The session of this number, which is seen by that.
    pub(super) fn find(&mut self, number: &str, now: Instant) -> Option<Session> {
        self.seen(&digest(number), now)
    }

    /// The same by its name in here.
    pub(super) fn seen(&mut self, id: &Id, now: Instant) -> Option<Session> {
        self.open.retain(|session| session.lives(now));
        // All are compared: how long it takes tells nothing about any of them.
        let mut found = None;
        for session in &mut self.open {
            if bool::from(session.id.ct_eq(id)) {
                session.seen = now;
                found = Some(session.clone());
            }
        }
        found
    }

    pub(super) fn close(&mut self, id: &Id) {
        self.open.retain(|session| session.id != *id);
    }
}

pub(super) fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// 32 bytes that nobody guesses.
fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_after_its_life_or_when_it_is_idle_or_closed() {
        let (mut sessions, begin) = (Sessions::default(), Instant::now());
        let (number, session) = sessions.open(Role::Read, begin).unwrap();
        let mut now = begin;
        // In use, it lives for its whole life and not longer.
        while now.duration_since(begin) < LIFE {
            assert!(sessions.find(&number, now).is_some_and(|found| found.role == Role::Read));
            now += IDLE / 2;
        }
        assert!(sessions.find(&number, now).is_none());
        let (number, _) = sessions.open(Role::Operate, now).unwrap();
        assert!(sessions.find(&number, now + IDLE).is_none(), "it was idle");
        let (number, open) = sessions.open(Role::Operate, now).unwrap();
        sessions.close(&open.id);
        assert!(sessions.find(&number, now).is_none());
        assert!(session.knows(&session.csrf) && !session.knows(&open.csrf) && !session.knows(""));
    }

    #[test]
    fn there_are_never_more_than_so_many_and_the_longest_idle_goes() {
        let (mut sessions, begin) = (Sessions::default(), Instant::now());
        let at = |second: usize| begin + Duration::from_secs(second as u64);
        let numbers: Vec<String> = (0..MANY).map(|n| sessions.open(Role::Read, at(n)).unwrap().0).collect();
        assert!(sessions.find(&numbers[0], at(MANY)).is_some());
        let (new, _) = sessions.open(Role::Read, at(MANY + 1)).unwrap();
        assert_eq!(sessions.open.len(), MANY);
        let lives = |sessions: &mut Sessions, number: &str| sessions.find(number, at(MANY + 2)).is_some();
        assert_eq!([&numbers[0], &numbers[1], &new].map(|number| lives(&mut sessions, number)), [true, false, true]);
    }
}
