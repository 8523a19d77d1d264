//! The running service, as verbs ask it: over HTTP on this host, with its token.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::Value;

use crate::config::Settings;
use crate::types::Fault;

/// A command that writes in Supabase takes as long as a request there; the service gives up after a minute.
const PATIENCE: Duration = Duration::from_secs(70);

/// For the time line of the service.
const AGENT: &str = concat!("lockstep/", env!("CARGO_PKG_VERSION"));

/// What became of a question.
pub(super) enum Asked {
    Answered(String),
    /// Nobody listens there.
    Nobody(Fault),
}

impl Asked {
    /// For verbs that are nothing without a service.
    pub(super) fn answered(self) -> Result<String, Fault> {
        match self {
            Self::Answered(text) => Ok(text),
            Self::Nobody(fault) => Err(fault),
        }
    }
}

pub(super) async fn get(settings: &Settings, path: &str) -> Result<Asked, Fault> {
    ask(settings, path, None).await
}

pub(super) async fn post(settings: &Settings, path: &str, body: Value) -> Result<Asked, Fault> {
    ask(settings, path, Some(body)).await
}

async fn ask(settings: &Settings, path: &str, body: Option<Value>) -> Result<Asked, Fault> {
    let address = reachable(settings.http.listen);
    let url = format!("http://{address}{path}");
    let wait = if body.is_some() { PATIENCE } else { Duration::from_secs(15) };
    let client = reqwest::Client::builder().no_proxy().user_agent(AGENT).timeout(wait).build();
    let client = client.map_err(|error| Fault::retry(error.to_string()))?;
    let mut request = match &body {
        Some(body) => client.post(&url).json(body),
        None => client.get(&url),
    };
    if let Some(token) = &settings.http.token {
        request = request.bearer_auth(token.expose_secret());
    }
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) if error.is_connect() => {
            let cause = format!("no Lockstep is running at {address}");
            let fix = "start it with `lockstep run`, or set LOCKSTEP_LISTEN to where it listens";
            return Ok(Asked::Nobody(Fault::stop(cause, fix)));
        }
        Err(error) => return Err(Fault::retry(format!("{url} does not answer: {}", error.without_url()))),
    };
    let status = answer.status().as_u16();
    let text = answer.text().await.map_err(|error| Fault::retry(error.without_url().to_string()))?;
    match (status, said(&text)) {
        (200, _) => Ok(Asked::Answered(text)),
        (401, _) => Err(Fault::stop(format!("{address} wants another token"), "set LOCKSTEP_TOKEN to the service's")),
        (_, Some(why)) => Err(Fault::retry(why)),
        (status, None) => {
            let cause = format!("{address} answers with HTTP {status}: another program seems to listen there");
            Err(Fault::stop(cause, "set LOCKSTEP_LISTEN to where Lockstep listens"))
        }
    }
}

/// The reason that our service gives for a refusal.
fn said(text: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(text).ok()?;
    answer["error"].as_str().map(str::to_owned)
}

/// Where a service that listens everywhere is reached from this host.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_listens_everywhere_is_asked_on_this_host() {
        let ask = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!([ask("0.0.0.0:1"), ask("[::]:1"), ask("10.0.0.5:1")], ["127.0.0.1:1", "[::1]:1", "10.0.0.5:1"]);
    }
}
