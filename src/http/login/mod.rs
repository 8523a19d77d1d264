//! The way in for people: a page with one field and no script, and the session that the right token opens. Scripts use
//! the same requests with JSON, or send the token each time.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::json;

use super::api::say;
use super::guard::{self, Caller, Peer, Refusal};
use super::session::{SECONDS, Session};
use super::{Shared, asset};
use crate::types::Activity;

/// As `POLICY`, and the form may be sent here.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; \
                      frame-ancestors 'none'";

/// `GET /login`
pub(super) async fn page(State(shared): State<Arc<Shared>>, RawQuery(why): RawQuery) -> Response {
    if !shared.guard.login_needed() {
        return Redirect::to("/").into_response();
    }
    let said = match why.as_deref() {
        Some("why=wrong") => "<p role=\"alert\">This is not the token.</p>",
        Some("why=wait") => "<p role=\"alert\">Too many wrong tokens. Wait a while, and try again.</p>",
        Some("why=elsewhere") => "<p role=\"alert\">The form was not sent from this page. Try again.</p>",
        _ => "",
    };
    let html = include_str!("login.html").replace("<!--why-->", said);
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "same-origin"), // without one a browser hides where the form is from
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, html).into_response()
}

pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("login.css"))
}

#[derive(Deserialize)]
struct Shown {
    token: String,
}

/// `POST /api/session {"token": "…"}`, or the same as a form: opens a session.
pub(super) async fn open(
    State(shared): State<Arc<Shared>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let form = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(FORM));
    let token = match form {
        true => {
            url::form_urlencoded::parse(&body).find(|(name, _)| name == "token").map(|(_, token)| token.into_owned())
        }
        // What the parser would say may hold a part of the token.
        false => serde_json::from_slice(&body).ok().map(|Shown { token }| token),
    };
    let Some(token) = token else {
        return say(StatusCode::BAD_REQUEST, "the body is not as it should be; write {\"token\": \"…\"}");
    };
    let guard = &shared.guard;
    if !guard.login_needed() {
        return match form {
            true => Redirect::to("/").into_response(),
            false => Json(told(&Caller::anybody(), false)).into_response(),
        };
    }
    let peer = peer.map_or(Peer::unknown(), |Extension(peer)| peer);
    let now = Instant::now();
    match guard.token(Some(token.trim()), peer.0, now) {
        Err(refusal) if form => {
            wrong(&shared, refusal, peer);
            let why = if refusal == Refusal::Token { "wrong" } else { "wait" };
            Redirect::to(&format!("/login?why={why}")).into_response()
        }
        Err(refusal) => {
            wrong(&shared, refusal, peer);
            guard::refused(refusal, false)
        }
        Ok(role) => {
            // The one that a browser had before is over: two of them would be one too many to close.
            if let Ok(Caller { session: Some(old), .. }) = guard.caller(&cookies_only(&headers), peer.0, now) {
                guard.close(&old.id);
            }
            let Some((number, session)) = guard.open(role, now) else {
                return say(StatusCode::SERVICE_UNAVAILABLE, "this host has no random numbers");
            };
            let caller = Caller::of(session.clone());
            shared
                .window
                .timeline
                .tell(Activity::new("session", caller.who, "log in").because(format!("from {}", peer.0)));
            let cookie = AppendHeaders([(header::SET_COOKIE, cookie(&shared, &number, SECONDS))]);
            match form {
                true => (cookie, Redirect::to("/")).into_response(),
                false => (cookie, Json(told(&Caller::of(session), true))).into_response(),
            }
        }
    }
}

const FORM: &[u8] = b"application/x-www-form-urlencoded";

/// `GET /api/session`: who asks, and what they may do.
pub(super) async fn show(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let peer = guard::peer(request.extensions());
    let answer = match shared.guard.caller(request.headers(), peer, Instant::now()) {
        Ok(caller) => Json(told(&caller, shared.guard.login_needed())).into_response(),
        Err(Refusal::Unknown) => {
            Json(json!({"role": null, "who": null, "csrf": null, "login_needed": true})).into_response()
        }
        Err(refusal) => return guard::refused(refusal, false),
    };
    ([(header::CACHE_CONTROL, "no-store")], answer).into_response()
}

/// `DELETE /api/session`: the session is over, for every page that has it.
pub(super) async fn close(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let peer = guard::peer(request.extensions());
    let caller = match shared.guard.caller(request.headers(), peer, Instant::now()) {
        Ok(caller) => caller,
        Err(refusal) => return guard::refused(refusal, false),
    };
    if let Err(refusal) = guard::own_page(&caller, request.headers()) {
        return guard::refused(refusal, false);
    }
    if let Some(Session { id, .. }) = &caller.session {
        shared.guard.close(id);
        shared.window.timeline.tell(Activity::new("session", caller.who.clone(), "log out"));
    }
    let gone = AppendHeaders([(header::SET_COOKIE, cookie(&shared, "", 0))]);
    (StatusCode::NO_CONTENT, gone).into_response()
}

/// Tries beyond that are refused unlooked at, and make no line each.
fn wrong(shared: &Shared, refusal: Refusal, Peer(peer): Peer) {
    if refusal == Refusal::Token {
        let line = Activity::new("session", peer.to_string(), "log in").because("refused: not the token");
        shared.window.timeline.tell(line);
    }
}

fn told(caller: &Caller, login_needed: bool) -> serde_json::Value {
    let csrf = caller.session.as_ref().map(|session| &session.csrf);
    json!({"role": caller.role, "who": caller.who, "csrf": csrf, "login_needed": login_needed})
}

fn cookie(shared: &Shared, number: &str, seconds: u64) -> String {
    let secure = if shared.guard.behind_tls { "; Secure" } else { "" };
    format!("{}={number}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}", shared.guard.cookie())
}

fn cookies_only(headers: &HeaderMap) -> HeaderMap {
    let lines = headers.get_all(header::COOKIE).iter();
    lines.map(|line| (header::COOKIE, line.clone())).collect()
}
