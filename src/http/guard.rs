//! Who may look: on loopback, only requests that name this host (a page elsewhere could point its own name at
//! 127.0.0.1 and read through the browser); with a token, only who shows it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Shared;

pub(super) struct Guard {
    /// Of the token only its digest is kept: digests have one length, so comparing them tells nothing about it.
    token: Option<[u8; 32]>,
    loopback: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Host,
    Token,
    /// A page of somebody else's wants something done.
    Origin,
}

impl Guard {
    pub(super) fn new(token: Option<&SecretString>, loopback: bool) -> Self {
        Self { token: token.map(|token| digest(token.expose_secret())), loopback }
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // A browser sends a page's own requests with the login it knows, whoever's page it is, and says whose it is.
        let host = text(header::HOST).unwrap_or_default();
        let own = |origin: &str| origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host));
        if headers.contains_key(header::ORIGIN) && !text(header::ORIGIN).is_some_and(own) {
            return Err(Refusal::Origin);
        }
        if self.loopback && !text(header::HOST).is_some_and(names_this_host) {
            return Err(Refusal::Host);
        }
        let Some(token) = &self.token else { return Ok(()) };
        // Probes come without secrets, and their answers hold none.
        if matches!(path, "/healthz" | "/readyz") {
            return Ok(());
        }
        let shown = text(header::AUTHORIZATION).and_then(shown);
        let same = shown.is_some_and(|shown| bool::from(digest(&shown).ct_eq(token)));
        if same { Ok(()) } else { Err(Refusal::Token) }
    }
}

/// Lets a request through or answers it.
pub(super) async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match shared.guard.check(request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(Refusal::Host) => {
            let say = "this address answers only to localhost; set LOCKSTEP_LISTEN and LOCKSTEP_TOKEN to open it\n";
            (StatusCode::MISDIRECTED_REQUEST, say).into_response()
        }
        Err(Refusal::Origin) => (StatusCode::FORBIDDEN, "a page from elsewhere may not ask for this\n").into_response(),
        Err(Refusal::Token) => {
            // A browser asks for it by itself: any user name, the token as the password.
            let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"Lockstep\", charset=\"UTF-8\"")];
            let say = "show the token: Authorization: Bearer TOKEN, or as the password of a login\n";
            (StatusCode::UNAUTHORIZED, ask, say).into_response()
        }
    }
}

pub(super) fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The token that an Authorization header shows, as a bearer token or as the password of a login.
fn shown(value: &str) -> Option<String> {
    let (scheme, rest) = value.split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Some(rest.trim().to_owned()),
        "basic" => {
            let login = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
            login.split_once(':').map(|(_, password)| password.to_owned())
        }
        _ => None,
    }
}

/// `localhost`, a name below it, or a loopback address, with any port.
pub(super) fn names_this_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(name, _)| name),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &Guard, path: &str, host: &str, authorization: Option<&str>) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        guard.check(path, &headers)
    }

    #[test]
    fn on_loopback_only_names_of_this_host_are_answered() {
        let guard = Guard::new(None, true);
        for host in ["localhost:9464", "LOCALHOST", "127.0.0.1:9464", "127.0.0.1", "[::1]:9464", "lockstep.localhost"] {
            assert_eq!(check(&guard, "/", host, None), Ok(()), "{host}");
        }
        for host in ["evil.example:9464", "localhost.evil.example", "10.0.0.5:9464", "", "[::2]:1"] {
            assert_eq!(check(&guard, "/", host, None), Err(Refusal::Host), "{host}");
        }
        assert_eq!(guard.check("/", &HeaderMap::new()), Err(Refusal::Host), "no Host at all");
    }

    #[test]
    fn a_page_from_elsewhere_may_ask_for_nothing() {
        let check = |origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "127.0.0.1:9464".parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            Guard::new(None, true).check("/api/sync", &headers)
        };
        assert_eq!((check(None), check(Some("http://127.0.0.1:9464"))), (Ok(()), Ok(())));
        for origin in ["https://evil.example", "http://127.0.0.1:8080", "null", ""] {
            assert_eq!(check(Some(origin)), Err(Refusal::Origin), "{origin}");
        }
    }

    #[test]
    fn with_a_token_everything_but_the_probes_demands_it() {
        let token: SecretString = "0123456789abcdef".into();
        let guard = Guard::new(Some(&token), false);
        let login = format!("Basic {}", STANDARD.encode("me:0123456789abcdef"));
        for path in ["/", "/app.js", "/metrics", "/api/status", "/api/events", "/nothing"] {
            assert_eq!(check(&guard, path, "any.example", Some("Bearer 0123456789abcdef")), Ok(()), "{path}");
            assert_eq!(check(&guard, path, "any.example", Some(&login)), Ok(()), "{path}");
            for wrong in
                [None, Some("Bearer 0123456789abcdeX"), Some("Bearer "), Some("0123456789abcdef"), Some("Basic ??")]
            {
                assert_eq!(check(&guard, path, "any.example", wrong), Err(Refusal::Token), "{path} {wrong:?}");
            }
        }
        for path in ["/healthz", "/readyz"] {
            assert_eq!(check(&guard, path, "any.example", None), Ok(()));
        }
    }
}
