//! The word to systemd (`Type=notify`): ready, what is going on, that the engine lives, that it stops. Elsewhere there
//! is nobody to tell, and nothing happens.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::status::Verdict;

/// The service manager, where there is one.
pub struct Manager {
    /// It wants to hear at least this often that the engine lives; half of that is kept.
    watchdog: Option<Duration>,
    pinged: Option<Instant>,
    told: String,
    ready: bool,
}

impl Manager {
    /// `None` where no manager listens.
    pub fn find() -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET")?;
        let watchdog = sd_notify::watchdog_enabled();
        Some(Self { watchdog, pinged: None, told: String::new(), ready: false })
    }

    pub fn tell(&mut self, verdict: &Verdict, begun: bool, alive: bool) {
        let text = match verdict {
            Verdict::InStep => "in step".to_owned(),
            Verdict::Behind(why) => format!("behind: {why}"),
            Verdict::Broken(why) => format!("not in step: {why}"),
            Verdict::Unknown(why) => format!("unknown: {why}"),
        };
        if begun && !std::mem::replace(&mut self.ready, begun) {
            send(&[NotifyState::Ready]);
        }
        if text != self.told {
            send(&[NotifyState::Status(&text)]);
            self.told = text;
        }
        // Silence is the message: whoever does not hear of us starts us again.
        let due = self.watchdog.is_some_and(|limit| self.pinged.is_none_or(|at| at.elapsed() >= limit / 3));
        if due && alive {
            send(&[NotifyState::Watchdog]);
            self.pinged = Some(Instant::now());
        }
    }
}

/// The settings are read again, and then it is ready again.
pub fn reloading(done: bool) {
    if done {
        send(&[NotifyState::Ready]);
    } else if let Ok(state) = NotifyState::monotonic_usec_now() {
        send(&[NotifyState::Reloading, state]);
    }
}

pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(states: &[NotifyState<'_>]) {
    // A manager that does not listen is none; nothing here depends on it.
    let _ = sd_notify::notify(states);
}
