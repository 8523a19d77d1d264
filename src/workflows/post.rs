//! Sends one delivery and judges the answer: done, once more later, or never.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::redirect::Policy;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::action::Outgoing;
use super::guard::{Forbidden, Guard};
use super::{Settings, redact, sign};
use crate::types::Fault;

/// The ways out: one for addresses that people write into workflows, one for the agent API of the settings.
#[derive(Clone)]
pub struct Post {
    guarded: reqwest::Client,
    agents: reqwest::Client,
    guard: Guard,
    settings: Settings,
}

/// How one try went.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub verdict: Verdict,
    pub status: Option<i32>,
    pub latency: Duration,
    pub request: Value,
    pub answer: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Done,
    /// It may pass; the other side may say how long to wait.
    Again {
        cause: String,
        wait: Option<Duration>,
    },
    /// It will not pass by itself.
    Never {
        cause: String,
    },
}

impl Post {
    pub fn new(settings: &Settings) -> Result<Self, Fault> {
        let guard = Guard::new(&settings.allowed);
        let builder = || {
            reqwest::Client::builder()
                .timeout(settings.timeout)
                .connect_timeout(settings.timeout.min(Duration::from_secs(5)))
                .redirect(Policy::none()) // an answer that points elsewhere could point inside
                .no_proxy()
                .referer(false)
                .user_agent(concat!("lockstep/", env!("CARGO_PKG_VERSION")))
        };
        let build = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| Fault::stop(format!("cannot speak HTTPS: {error}"), "report this as a bug"))
        };
        let guarded = build(builder().dns_resolver(std::sync::Arc::new(guard.clone())))?;
        Ok(Self { guarded, agents: build(builder())?, guard, settings: settings.clone() })
    }

    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The headers that leave with a request.
    pub fn headers(&self, id: &str, at: i64, request: &Outgoing) -> BTreeMap<String, String> {
        let mut headers = request.headers.clone();
        headers.insert("webhook-id".into(), id.into());
        headers.insert("webhook-timestamp".into(), at.to_string());
        if let Some(signature) = sign::signature(&self.settings.secrets, id, at, &request.body) {
            headers.insert("webhook-signature".into(), signature);
        }
        if let Some(token) =
            self.settings.agents.as_ref().and_then(|api| api.token.as_ref()).filter(|_| request.to_agents)
        {
            headers.insert("authorization".into(), format!("Bearer {}", token.expose_secret()));
        }
        headers
    }

    /// What is kept of a request.
    pub fn kept(&self, headers: &BTreeMap<String, String>, request: &Outgoing) -> Value {
        json!({
            "method": request.method,
            "url": redact::url(&request.url),
            "headers": redact::headers(headers),
            "body": redact::body(&request.body, self.settings.kept_bytes),
        })
    }

    pub async fn send(&self, id: &str, request: &Outgoing) -> Outcome {
        let begun = Instant::now();
        let headers = self.headers(id, Timestamp::now().as_second(), request);
        let kept = self.kept(&headers, request);
        let outcome = |verdict, status: Option<u16>, answer| Outcome {
            verdict,
            status: status.map(i32::from),
            latency: begun.elapsed(),
            request: kept.clone(),
            answer,
        };
        if !request.to_agents
            && let Err(forbidden) = self.guard.literal(&request.url)
        {
            return outcome(Verdict::Never { cause: forbidden.to_string() }, None, None);
        }
        let client = if request.to_agents { &self.agents } else { &self.guarded };
        let Ok(method) = request.method.parse::<reqwest::Method>() else {
            return outcome(Verdict::Never { cause: format!("{} is no method", request.method) }, None, None);
        };
        let mut sending = client.request(method, request.url.clone()).body(request.body.clone());
        for (name, value) in &headers {
            sending = sending.header(name, value);
        }
        match sending.send().await {
            Err(error) => outcome(unanswered(&error), None, None),
            Ok(answer) => {
                let status = answer.status().as_u16();
                let wait = retry_after(answer.headers());
                let (text, cut_off) = read(answer, ANSWER_BYTES.max(self.settings.kept_bytes)).await;
                let verdict = match judge(status, wait) {
                    // The status says it: what it did is done, whether or not all of its answer came.
                    Verdict::Done => Verdict::Done,
                    Verdict::Again { cause, wait } if cut_off => {
                        Verdict::Again { cause: format!("{cause}, and the answer broke off"), wait }
                    }
                    other => other,
                };
                outcome(verdict, Some(status), Some(redact::body(&text, self.settings.kept_bytes)))
            }
        }
    }
}

/// Of an answer so much is read: secrets are hidden in the whole of it, before it is cut to what is kept. A larger one is
/// no answer to a task.
const ANSWER_BYTES: usize = 1 << 20;

async fn read(mut answer: reqwest::Response, kept: usize) -> (String, bool) {
    let mut bytes = Vec::new();
    while bytes.len() <= kept {
        match answer.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk[..chunk.len().min(kept + 1 - bytes.len())]),
            Ok(None) => return (String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}"), false),
            Err(_) => return (String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}"), true),
        }
    }
    (String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}"), false)
}

/// What a status means for a delivery.
fn judge(status: u16, wait: Option<Duration>) -> Verdict {
    match status {
        200..=299 => Verdict::Done,
        // Too early, too many, in conflict with what is going on: it passes.
        408 | 409 | 423 | 425 | 429 | 500..=599 => {
            Verdict::Again { cause: format!("it answered with HTTP {status}"), wait }
        }
        300..=399 => Verdict::Never { cause: format!("it answered with HTTP {status}: redirects are not followed") },
        _ => Verdict::Never { cause: format!("it refused with HTTP {status}") },
    }
}

fn unanswered(error: &reqwest::Error) -> Verdict {
    let mut cause = String::new();
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(one) = source {
        if let Some(forbidden) = one.downcast_ref::<Forbidden>() {
            return Verdict::Never { cause: forbidden.to_string() };
        }
        // The outermost says the URL, which may hold a secret.
        let text = if cause.is_empty() { outermost(error) } else { one.to_string() };
        if !cause.contains(&text) {
            cause += if cause.is_empty() { "" } else { ": " };
            cause += &text;
        }
        source = one.source();
    }
    Verdict::Again { cause, wait: None }
}

fn outermost(error: &reqwest::Error) -> String {
    match error {
        error if error.is_timeout() => "it did not answer in time",
        error if error.is_connect() => "it cannot be reached",
        _ => "the connection broke",
    }
    .to_owned()
}

/// Seconds; a date is not worth reading for this.
fn retry_after(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let text = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again_and_what_does_not_is_not() {
        assert_eq!(judge(204, None), Verdict::Done);
        for again in [408, 409, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(judge(again, None), Verdict::Again { .. }), "{again}");
        }
        for never in [301, 302, 307, 400, 401, 403, 404, 410, 413, 422] {
            assert!(matches!(judge(never, None), Verdict::Never { .. }), "{never}");
        }
    }
}
