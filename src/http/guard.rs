//! Who may do what. On loopback without a token: whoever is on this host, by a name of this host (a page elsewhere could
//! point its own name at 127.0.0.1 and read through the browser). With a token: who shows it, or carries the session that
//! it opened. The reading token looks and changes nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use subtle::ConstantTimeEq;

use super::api::say;
use super::lockout::Lockout;
use super::record;
pub(super) use super::session::digest;
use super::session::{Id, Session, Sessions};
use super::{POLICY, Shared};

/// What is demanded of those who come.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Opens everything.
    pub token: Option<SecretString>,
    /// Opens what changes nothing.
    pub read_token: Option<SecretString>,
    /// Something in front of us speaks TLS: cookies are for https only.
    pub behind_tls: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    Read,
    Operate,
}

/// Whoever sent a request, once that is known.
#[derive(Clone)]
pub(super) struct Caller {
    pub role: Role,
    pub session: Option<Session>,
    /// For the log.
    pub who: String,
}

impl Caller {
    fn new(role: Role, who: &str) -> Self {
        Self { role, session: None, who: who.into() }
    }

    /// Whoever is on this host, where no token is set.
    pub(super) fn anybody() -> Self {
        Self::new(Role::Operate, "this host")
    }

    pub(super) fn of(session: Session) -> Self {
        Self { role: session.role, who: session.name(), session: Some(session) }
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub IpAddr);

impl Peer {
    pub(super) fn unknown() -> Self {
        Self(Ipv4Addr::UNSPECIFIED.into())
    }
}

pub(super) struct Guard {
    /// Of the tokens only their digests are kept: digests have one length, so comparing them tells nothing.
    operate: Option<[u8; 32]>,
    read: Option<[u8; 32]>,
    loopback: bool,
    pub(super) behind_tls: bool,
    /// Held for a few instructions at a time, never while something is waited for.
    doors: Mutex<Doors>,
}

#[derive(Default)]
struct Doors {
    sessions: Sessions,
    lockout: Lockout,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Host,
    /// A page of somebody else's wants something done.
    Origin,
    /// No token, no session.
    Unknown,
    /// A wrong token.
    Token,
    /// Too many wrong ones.
    Locked(Duration),
    /// A session without the word that our own page knows.
    Csrf,
    /// The reading token wants something changed.
    Role,
}

/// How our own verbs begin to say who they are.
const CLI: &str = "lockstep/";

/// Without secrets: probes and the login.
const OPEN: [&str; 5] = ["/healthz", "/readyz", "/login", "/login.css", "/api/session"];

impl Guard {
    pub(super) fn new(access: &Access, loopback: bool) -> Self {
        let digest = |token: &Option<SecretString>| token.as_ref().map(|token| digest(token.expose_secret()));
        Self {
            operate: digest(&access.token),
            read: digest(&access.read_token),
            loopback,
            behind_tls: access.behind_tls,
            doors: Mutex::default(),
        }
    }

    /// Whether somebody must say who they are.
    pub(super) fn login_needed(&self) -> bool {
        self.operate.is_some()
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        // Nothing in there breaks half way.
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds for every request, whoever sends it.
    fn address(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // A browser sends a page's own requests with the login it knows, whoever's page it is, and says whose it is.
        let host = text(header::HOST).unwrap_or_default();
        let own = |origin: &str| origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host));
        if headers.contains_key(header::ORIGIN) && !text(header::ORIGIN).is_some_and(own) {
            return Err(Refusal::Origin);
        }
        let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
        if !method.is_safe() && site.is_some_and(|site| site != b"same-origin" && site != b"none") {
            return Err(Refusal::Origin);
        }
        // By any name only behind a token and TLS: a proxy on this host passes its own name on.
        let by_name = |host| self.operate.is_some() && self.behind_tls || names_this_host(host);
        if self.loopback && !text(header::HOST).is_some_and(by_name) {
            return Err(Refusal::Host);
        }
        Ok(())
    }

    /// Who sends this.
    pub(super) fn caller(&self, headers: &HeaderMap, peer: IpAddr, now: Instant) -> Result<Caller, Refusal> {
        if self.operate.is_none() {
            return Ok(Caller::anybody());
        }
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let token = value.to_str().ok().and_then(shown);
            return self.token(token.as_deref(), peer, now).map(|role| Caller::new(role, "bearer"));
        }
        let mut doors = self.doors();
        // A name may be set twice, from another path: the one that is ours counts.
        let session = cookies(headers, self.cookie()).find_map(|number| doors.sessions.find(number, now));
        session.map(Caller::of).ok_or(Refusal::Unknown)
    }

    /// What a token opens. A wrong one makes its sender wait.
    pub(super) fn token(&self, token: Option<&str>, peer: IpAddr, now: Instant) -> Result<Role, Refusal> {
        let mut doors = self.doors();
        if let Some(wait) = doors.lockout.wait(peer, now) {
            return Err(Refusal::Locked(wait));
        }
        let shown = digest(token.unwrap_or_default());
        let opens = |known: &Option<[u8; 32]>| known.as_ref().is_some_and(|known| bool::from(shown.ct_eq(known)));
        let (operate, read) = (opens(&self.operate), opens(&self.read));
        let role = if operate { Role::Operate } else { Role::Read };
        match token.is_some() && (operate || read) {
            true => doors.lockout.right(peer),
            false => {
                doors.lockout.wrong(peer, now);
                return Err(Refusal::Token);
            }
        }
        Ok(role)
    }

    /// Opens a session: its number for the cookie, and what it is.
    pub(super) fn open(&self, role: Role, now: Instant) -> Option<(String, Session)> {
        self.doors().sessions.open(role, now).ok()
    }

    pub(super) fn close(&self, id: &Id) {
        self.doors().sessions.close(id);
    }

    /// Whether a session that was let in is one still.
    pub(super) fn still(&self, caller: &Caller) -> bool {
        caller.session.as_ref().is_none_or(|session| self.doors().sessions.seen(&session.id, Instant::now()).is_some())
    }

    /// The cookie's name. The browser itself holds the longer one to https and to this host.
    pub(super) fn cookie(&self) -> &'static str {
        if self.behind_tls { "__Host-lockstep_session" } else { "lockstep_session" }
    }

    /// Lets a request pass, with who sent it where somebody must be known.
    fn check(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        peer: IpAddr,
        now: Instant,
    ) -> Result<Option<Caller>, Refusal> {
        self.address(method, headers)?;
        if OPEN.contains(&path) {
            return Ok(None);
        }
        let mut caller = self.caller(headers, peer, now)?;
        if headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(CLI.as_bytes())) {
            caller.who = format!("cli ({})", caller.who);
        }
        if method.is_safe() {
            return Ok(Some(caller));
        }
        own_page(&caller, headers)?;
        match caller.role {
            Role::Operate => Ok(Some(caller)),
            Role::Read => Err(Refusal::Role),
        }
    }
}

/// A session changes something only with the word that our own page knows.
pub(super) fn own_page(caller: &Caller, headers: &HeaderMap) -> Result<(), Refusal> {
    let word = headers.get("x-csrf-token").and_then(|word| word.to_str().ok()).unwrap_or_default();
    match caller.session.as_ref().is_none_or(|session| session.knows(word)) {
        true => Ok(()),
        false => Err(Refusal::Csrf),
    }
}

/// Of a request that has a body: a command and its names.
const BODY_BYTES: usize = 64 << 10;
/// Lets a request through, with who sent it and its whole body, or answers it.
pub(super) async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let peer = peer(&parts.extensions);
    let path = parts.uri.path();
    let checked = shared.guard.check(&parts.method, path, &parts.headers, peer, Instant::now());
    let mut answer = match checked {
        Err(refusal) => {
            let page = parts.method == Method::GET && !path.starts_with("/api/") && wants_a_page(&parts.headers);
            refused(refusal, page)
        }
        Ok(caller) => match whole(body, BODY_BYTES, shared.body_time).await {
            Err(answer) => *answer,
            Ok(body) => {
                let (method, path) = (parts.method.clone(), path.to_owned());
                if let Some(caller) = &caller {
                    parts.extensions.insert(caller.clone());
                }
                let answer = next.run(Request::from_parts(parts, body)).await;
                if let Some(caller) = &caller {
                    record::action(&shared.window.timeline, &method, &path, caller, &answer);
                }
                answer
            }
        },
    };
    let headers = answer.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    answer
}

/// Whose tries are counted: behind a proxy on this host, the address that the proxy saw. Of a list its own is the last.
pub(super) async fn visitor(State(shared): State<Arc<Shared>>, mut request: Request) -> Request {
    let all = request.headers().get_all("x-forwarded-for").iter().next_back();
    let last = all.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse::<IpAddr>().ok());
    if let Some(visitor) = last.filter(|_| shared.guard.behind_tls && peer(request.extensions()).is_loopback()) {
        request.extensions_mut().insert(Peer(visitor));
    }
    request
}

pub(super) fn peer(extensions: &axum::http::Extensions) -> IpAddr {
    extensions.get().copied().unwrap_or(Peer::unknown()).0
}

/// The whole body, within its limits: what works on it afterwards waits for nobody.
async fn whole(body: Body, most: usize, time: Duration) -> Result<Body, Box<Response>> {
    match tokio::time::timeout(time, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(Body::from(bytes)),
        Ok(Err(_)) => {
            let cause = format!("the body is larger than {most} bytes, or it broke off");
            Err(Box::new(say(StatusCode::PAYLOAD_TOO_LARGE, &cause)))
        }
        Err(_) => Err(Box::new(say(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))),
    }
}

fn wants_a_page(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|kinds| kinds.to_str().ok()).is_some_and(|kinds| kinds.contains("text/html"))
}

pub(super) fn refused(refusal: Refusal, page: bool) -> Response {
    match refusal {
        Refusal::Host => {
            let why = "this address answers only to localhost; set LOCKSTEP_LISTEN and LOCKSTEP_TOKEN to open it";
            say(StatusCode::MISDIRECTED_REQUEST, why)
        }
        Refusal::Origin => say(StatusCode::FORBIDDEN, "a page from elsewhere may not ask for this"),
        Refusal::Unknown if page => Redirect::to("/login").into_response(),
        Refusal::Unknown | Refusal::Token => {
            let ask = [(header::WWW_AUTHENTICATE, "Bearer realm=\"Lockstep\"")];
            let why = match refusal {
                Refusal::Token => "this is not the token",
                _ => "show the token: log in at /login, or send Authorization: Bearer TOKEN",
            };
            (ask, say(StatusCode::UNAUTHORIZED, why)).into_response()
        }
        Refusal::Locked(wait) => {
            let seconds = wait.as_secs() + 1;
            let why = format!("too many wrong tokens; try again in {seconds} s");
            let after = [(header::RETRY_AFTER, seconds.to_string())];
            (after, say(StatusCode::TOO_MANY_REQUESTS, &why)).into_response()
        }
        Refusal::Csrf => {
            let why = "a session needs the header x-csrf-token for this; GET /api/session tells its value";
            say(StatusCode::FORBIDDEN, why)
        }
        Refusal::Role => {
            say(StatusCode::FORBIDDEN, "this token may only look; log in with the token that may change things")
        }
    }
}

/// The token that an Authorization header shows, as a bearer token or as the password of a login.
fn shown(value: &str) -> Option<String> {
    let (scheme, rest) = value.split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Some(rest.trim().to_owned()),
        "basic" => {
            let login = String::from_utf8(BASE64_STANDARD.decode(rest.trim()).ok()?).ok()?;
            login.split_once(':').map(|(_, password)| password.to_owned())
        }
        _ => None,
    }
}

/// The values of a cookie; of a browser there are a few at most.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(known, _)| *known == name).map(|(_, value)| value).take(4)
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
#[path = "guard_tests.rs"]
mod tests;
