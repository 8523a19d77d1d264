//! `POST /webhooks/supabase`: what Supabase's Database Webhooks tell. Anybody may knock here, so little is read before
//! the secret was shown, and nothing for long.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use serde_json::value::RawValue;
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio::time::Instant;

use super::api::{order, say, wrong};
use super::guard::{digest, names_this_host};
use super::{Shared, Webhook};
use crate::types::{Command, WorkflowWish};

pub(super) const PATH: &str = "/webhooks/supabase";

/// A body of ours is one packet or a few; whoever needs longer is no webhook.
const BODY_TIME: Duration = Duration::from_secs(5);
/// What the sender calls a delivery: of Standard Webhooks, or of our own triggers.
const DELIVERY: [&str; 2] = ["webhook-id", "x-lockstep-delivery"];

/// Who is let in, and how often.
pub(super) struct Gate {
    /// As they are now: a secret that was changed counts from the next webhook on.
    settings: watch::Receiver<Webhook>,
    own: bool,
    pace: Mutex<Pace>,
}

/// Webhooks that may come now; it fills up with time.
struct Pace {
    tokens: f64,
    at: Instant,
}

impl Pace {
    fn take(&mut self, now: Instant, per_second: f64) -> bool {
        self.tokens = (self.tokens + (now - self.at).as_secs_f64() * per_second).min(per_second);
        self.at = now;
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// No secret is set, and whoever asks may not be of this host.
    Closed,
    Secret,
}

impl Gate {
    /// `own`: only this host can call, so it need not show a secret.
    pub(super) fn new(settings: watch::Receiver<Webhook>, own: bool) -> Self {
        let tokens = f64::from(settings.borrow().per_second);
        Self { settings, own, pace: Mutex::new(Pace { tokens, at: Instant::now() }) }
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let settings = self.settings.borrow();
        match &settings.secret {
            Some(secret) => {
                // Digests have one length, so comparing them tells nothing about the secret.
                let (known, shown) = (digest(secret.expose_secret()), text(&settings.header).map(digest));
                match shown.is_some_and(|shown| bool::from(shown.ct_eq(&known))) {
                    true => Ok(()),
                    false => Err(Refused::Secret),
                }
            }
            // A browser says where a page is from, and a name that leads here from elsewhere shows in the host; what a
            // proxy on this host forwards is not of this host.
            None => {
                let own = self.own
                    && text("host").is_some_and(names_this_host)
                    && !headers.contains_key(header::ORIGIN)
                    && !headers.contains_key("x-forwarded-for")
                    && !headers.contains_key(header::FORWARDED);
                if own { Ok(()) } else { Err(Refused::Closed) }
            }
        }
    }

    fn paced(&self) -> bool {
        let per_second = f64::from(self.settings.borrow().per_second.max(1));
        // Nobody panics while holding it.
        self.pace.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take(Instant::now(), per_second)
    }
}

pub(super) async fn receive(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let gate = &shared.gate;
    match gate.check(&head.headers) {
        Ok(()) => {}
        Err(Refused::Secret) => {
            let say_it = format!("show the webhook's secret in the header {}", gate.settings.borrow().header);
            return closing(say(StatusCode::UNAUTHORIZED, &say_it));
        }
        Err(Refused::Closed) => {
            let say_it =
                "no secret is set, so only this host may call, and not through a proxy: set LOCKSTEP_WEBHOOK_SECRET";
            return closing(say(StatusCode::FORBIDDEN, say_it));
        }
    }
    if !gate.paced() {
        let mut answer = say(StatusCode::TOO_MANY_REQUESTS, "too many webhooks at a time; come back in a second");
        answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        return closing(answer);
    }
    let most = gate.settings.borrow().max_bytes;
    let payload = match read(body, most).await {
        Ok(payload) => payload,
        Err(refusal) => return *refusal,
    };
    let named = DELIVERY.iter().find_map(|name| head.headers.get(*name)).and_then(|value| value.to_str().ok());
    let delivery = named.filter(|id| !id.is_empty() && id.len() <= 255).map(str::to_owned);
    order(&shared, Command::Workflow(WorkflowWish::Receive { payload, delivery })).await
}

async fn read(body: Body, most: usize) -> Result<String, Box<Response>> {
    let bytes = match tokio::time::timeout(BODY_TIME, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let cause = format!("the body is larger than {most} bytes (webhook.max_bytes), or broke off");
            return Err(Box::new(closing(say(StatusCode::PAYLOAD_TOO_LARGE, &cause))));
        }
        Err(_) => return Err(Box::new(closing(say(StatusCode::REQUEST_TIMEOUT, "the body took too long")))),
    };
    // Only looked over: its numbers stay as they are written.
    let json = serde_json::from_slice::<&RawValue>(&bytes).map(|json| json.get().to_owned());
    json.map_err(|error| Box::new(wrong("body", &format!("is not JSON ({error})"))))
}

/// What was not read of the request must not be taken for the next one.
fn closing(mut answer: Response) -> Response {
    answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    answer.into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_secret_an_address_that_others_reach_takes_nothing_and_a_loopback_only_from_this_host() {
        let settings = |secret: Option<&str>| Webhook {
            secret: secret.map(Into::into),
            header: "x-lockstep-secret".into(),
            max_bytes: 1,
            per_second: 1,
        };
        let gate = |secret, loopback| Gate::new(watch::channel(settings(secret)).1, loopback);
        let with = |pairs: &[(&'static str, &str)]| {
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
        };
        let here = with(&[("host", "localhost")]);
        assert_eq!(gate(None, false).check(&here), Err(Refused::Closed));
        let open = gate(None, true);
        assert_eq!(open.check(&here), Ok(()));
        for more in [("host", "evil.example"), ("origin", "null"), ("x-forwarded-for", "::1"), ("forwarded", "")] {
            let mut headers = here.clone();
            headers.extend(with(&[more]));
            assert_eq!(open.check(&headers), Err(Refused::Closed), "{more:?}");
        }
        let (turn, seen) = watch::channel(settings(Some("0123456789abcdef")));
        let gate = Gate::new(seen, true);
        assert_eq!(gate.check(&with(&[("x-lockstep-secret", "0123456789abcdef")])), Ok(()));
        for wrong in ["", "0123456789abcde", "0123456789abcdefg", "0123456789ABCDEF", " 0123456789abcdef"] {
            assert_eq!(gate.check(&with(&[("x-lockstep-secret", wrong)])), Err(Refused::Secret), "{wrong:?}");
        }
        assert_eq!(gate.check(&here), Err(Refused::Secret), "a loopback asks for it too");
        turn.send_replace(settings(Some("fedcba9876543210")));
        assert_eq!(
            gate.check(&with(&[("x-lockstep-secret", "0123456789abcdef")])),
            Err(Refused::Secret),
            "it was changed"
        );
        assert_eq!(gate.check(&with(&[("x-lockstep-secret", "fedcba9876543210")])), Ok(()));
    }
}
