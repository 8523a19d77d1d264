//! The rows that Supabase refused, over HTTP: listed, tried again, given up.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::Shared;
use super::api::{order, say, wrong};
use super::asked::{Named, Question};
use crate::types::{Command, ParkedAction, ParkedChoice, ParkedWish};

#[derive(Deserialize)]
pub(super) struct Asked {
    table: Option<String>,
    limit: Option<u32>,
}

/// Which rows; nothing at all means every one.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Chosen {
    table: Option<String>,
    key: Vec<String>,
    all: bool,
}

/// `GET /api/parked?table=public.agents&limit=100`: what is parked and why, the oldest first.
pub(super) async fn list(State(shared): State<Arc<Shared>>, Question(asked): Question<Asked>) -> Response {
    if let Err(refusal) = postgres_takes(asked.table.iter()) {
        return *refusal;
    }
    let action = ParkedAction::List { limit: asked.limit.unwrap_or(100).clamp(1, 1000) };
    let choice = ParkedChoice::of(asked.table.as_deref(), Vec::new());
    order(&shared, Command::Parked(ParkedWish { action, choice })).await
}

/// `POST /api/parked/{retry|reread|discard}` with `{"table": "public.agents", "key": ["7"]}`. To discard everything
/// takes `{"all": true}`.
pub(super) async fn act(State(shared): State<Arc<Shared>>, Named(action): Named<String>, body: Bytes) -> Response {
    let chosen: Chosen = match body.is_empty() {
        true => Chosen::default(),
        false => match serde_json::from_slice(&body) {
            Ok(chosen) => chosen,
            Err(error) => {
                let cause =
                    format!("the body is not as it should be ({error}); write {{\"table\": \"public.agents\"}}");
                return say(StatusCode::BAD_REQUEST, &cause);
            }
        },
    };
    if let Err(refusal) = postgres_takes(chosen.table.iter().chain(&chosen.key)) {
        return *refusal;
    }
    if !chosen.key.is_empty() && chosen.table.is_none() {
        return say(StatusCode::BAD_REQUEST, "a key says nothing without its table: add \"table\"");
    }
    let action = match action.as_str() {
        // What was kept may be old: a retry reads the row again.
        "retry" | "reread" => ParkedAction::Retry,
        "discard" if chosen.table.is_some() != chosen.all => ParkedAction::Discard,
        "discard" => {
            return say(StatusCode::BAD_REQUEST, "say which: {\"table\": \"public.agents\"} or {\"all\": true}");
        }
        _ => return say(StatusCode::NOT_FOUND, "parked rows can be told to retry, reread or discard"),
    };
    let choice = ParkedChoice::of(chosen.table.as_deref(), chosen.key);
    order(&shared, Command::Parked(ParkedWish { action, choice })).await
}

/// No text in Postgres holds a zero byte, so nothing there can have such a name or key.
fn postgres_takes<'a>(mut texts: impl Iterator<Item = &'a String>) -> Result<(), Box<Response>> {
    match texts.any(|text| text.contains('\0')) {
        true => Err(Box::new(wrong("table", "no name and no key holds a zero byte"))),
        false => Ok(()),
    }
}
