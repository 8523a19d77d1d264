//! The part of the window through which people ask for something. It turns requests into commands and sends them on; what
//! works is at the other end of the channel.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::Shared;
use super::asked::{Named, Question};
use super::record::Said;
use crate::types::{Command, Order, Refusal};

/// A command that writes in Supabase may take as long as a request there.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Tables {
    tables: Vec<String>,
    /// Only count, and repair nothing.
    dry_run: bool,
}

#[derive(Deserialize)]
pub(super) struct Limit {
    limit: Option<u32>,
}

/// `POST /api/verify {"tables": […]}`: compares; answers with the job's id.
pub(super) async fn verify(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    match read(&body) {
        Ok(Tables { tables, .. }) => order(&shared, Command::Reconcile { tables, repair: false }).await,
        Err(refusal) => *refusal,
    }
}

/// `POST /api/sync {"tables": […], "dry_run": false}`: compares and repairs; answers with the job's id.
pub(super) async fn sync(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    match read(&body) {
        Ok(Tables { tables, dry_run }) => order(&shared, Command::Reconcile { tables, repair: !dry_run }).await,
        Err(refusal) => *refusal,
    }
}

/// `POST /api/tables/{name}/{pause|resume|resync}`
pub(super) async fn table(
    State(shared): State<Arc<Shared>>,
    Named((table, action)): Named<(String, String)>,
) -> Response {
    let command = match action.as_str() {
        "pause" => Command::Pause { table },
        "resume" => Command::Resume { table },
        "resync" => Command::Resync { table },
        _ => return say(StatusCode::NOT_FOUND, "a table can be told to pause, resume or resync"),
    };
    order(&shared, command).await
}

/// `GET /api/jobs/{id}`: how far a job is, and what it found.
pub(super) async fn job(State(shared): State<Arc<Shared>>, Named(id): Named<String>) -> Response {
    let view = shared.window.book.borrow().iter().find(|view| view.id == id).cloned();
    match view {
        Some(view) => ([(header::CACHE_CONTROL, "no-store")], Json(view)).into_response(),
        None => say(StatusCode::NOT_FOUND, "this job is not known (any more); GET /api/runs has the history"),
    }
}

/// `GET /api/runs?limit=100`: the history, the newest first.
pub(super) async fn runs(State(shared): State<Arc<Shared>>, Question(Limit { limit }): Question<Limit>) -> Response {
    order(&shared, Command::Runs { limit: limit.unwrap_or(100).min(1000) }).await
}

pub(super) async fn order(shared: &Shared, command: Command) -> Response {
    let (what, tables) = command.said();
    let said = Said { what: what.into(), tables, why: None };
    let (reply, answer) = oneshot::channel();
    // A desk of their own: whoever waits for Supabase keeps no webhook waiting.
    let desk = match command {
        Command::Workflow(_) => &shared.window.workflows,
        _ => &shared.window.orders,
    };
    let sent = desk.try_send(Order { command, reply });
    let mut response = match sent {
        Ok(()) => self::answer(answer, PATIENCE).await,
        Err(_) => say(StatusCode::SERVICE_UNAVAILABLE, "too many commands are waiting, or the service is stopping"),
    };
    // What it was refused for is known already.
    let why = response.extensions_mut().remove::<Said>().and_then(|said| said.why);
    response.extensions_mut().insert(Said { why, ..said });
    response
}

/// The answer to an order, once it comes.
pub(super) async fn answer(
    answer: oneshot::Receiver<Result<serde_json::Value, Refusal>>,
    patience: Duration,
) -> Response {
    match tokio::time::timeout(patience, answer).await {
        Ok(Ok(Ok(answer))) => ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response(),
        Ok(Ok(Err(refusal))) => refused(&refusal),
        Ok(Err(_)) => say(StatusCode::SERVICE_UNAVAILABLE, "the service is stopping"),
        Err(_) => {
            say(StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time; it may still do what was asked")
        }
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::NotFound(_) => StatusCode::NOT_FOUND,
        Refusal::Conflict(_) => StatusCode::CONFLICT,
        Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Invalid { field, cause } => return wrong(field, cause),
    };
    say(status, &refusal.to_string())
}

pub(super) fn say(status: StatusCode, error: &str) -> Response {
    let said = Extension(Said { why: Some(error.into()), ..Said::default() });
    (status, said, [(header::CACHE_CONTROL, "no-store")], Json(json!({"error": error}))).into_response()
}

/// What was sent is wrong, and where.
pub(super) fn wrong(field: &str, cause: &str) -> Response {
    let error = format!("{field}: {cause}");
    let body = Json(json!({"error": error, "field": field}));
    let said = Extension(Said { why: Some(error), ..Said::default() });
    (StatusCode::BAD_REQUEST, said, [(header::CACHE_CONTROL, "no-store")], body).into_response()
}

/// No body at all means all tables.
fn read(body: &[u8]) -> Result<Tables, Box<Response>> {
    if body.is_empty() {
        return Ok(Tables::default());
    }
    serde_json::from_slice(body).map_err(|error| {
        let cause = format!("the body is not as it should be ({error}); write {{\"tables\": [\"public.agents\"]}}");
        Box::new(say(StatusCode::BAD_REQUEST, &cause))
    })
}
