//! The settings, over HTTP: seen without the key, tested, saved. Who asks is answered by whoever owns them.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::Shared;
use super::api::{answer, say};
use crate::types::{SettingsAsk, SettingsOrder};

/// A test asks a project that may not answer; it has limits of its own below this.
const PATIENCE: Duration = Duration::from_secs(75);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Project {
    supabase_url: Option<String>,
    supabase_key: Option<String>,
}

/// `GET /api/settings`: what they are, without the key.
pub(super) async fn show(State(shared): State<Arc<Shared>>) -> Response {
    order(&shared, SettingsAsk::Show).await
}

/// `POST /api/settings/test {"supabase_url": "…", "supabase_key": "…"}`: a checklist. Without a key, the one in use.
pub(super) async fn test(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    match read(&body) {
        Ok((url, key)) => order(&shared, SettingsAsk::Test { url, key }).await,
        Err(refusal) => *refusal,
    }
}

/// `PUT /api/settings {"supabase_url": "…", "supabase_key": "…"}`: into `.env`, and on with them.
pub(super) async fn save(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    match read(&body) {
        Ok((url, key)) => order(&shared, SettingsAsk::Save { url, key }).await,
        Err(refusal) => *refusal,
    }
}

type Both = (Option<String>, Option<SecretString>);

fn read(body: &[u8]) -> Result<Both, Box<Response>> {
    // What a parser says of the place may hold the text that is there: a key.
    let read = serde_json::from_slice(body)
        .map(|Project { supabase_url, supabase_key }| (supabase_url, supabase_key.map(SecretString::from)));
    read.map_err(|_| {
        let cause = "the body is not as it should be; write {\"supabase_url\": \"https://…\", \"supabase_key\": \"…\"}";
        Box::new(say(StatusCode::BAD_REQUEST, cause))
    })
}

async fn order(shared: &Shared, ask: SettingsAsk) -> Response {
    let (reply, answered) = oneshot::channel();
    if shared.window.settings.try_send(SettingsOrder { ask, reply }).is_err() {
        return say(StatusCode::SERVICE_UNAVAILABLE, "this service's settings cannot be changed while it runs");
    }
    answer(answered, PATIENCE).await
}
