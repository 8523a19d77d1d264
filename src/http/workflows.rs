//! Workflows and their runs, over HTTP. What a body says is read by the desk, which knows what it means.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post, put};
use serde::Deserialize;
use serde_json::Value;

use super::Shared;
use super::api::{order, say, wrong};
use super::asked::{Named, Question};
use crate::types::{Command, FireAsked, ReplayAsked, RunsAsked, WorkflowWish};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/workflows", get(list).post(create))
        .route("/api/workflows/dry-run", post(dry_run))
        .route("/api/workflows/{id}", put(replace).delete(delete))
        .route("/api/workflows/{id}/fire", post(fire))
        .route("/api/workflows/{id}/{action}", post(act))
        .route("/api/workflow-runs", get(runs))
        .route("/api/workflow-runs/replay", post(replay))
        .route("/api/workflow-runs/{id}", get(run))
}

#[derive(Deserialize)]
struct Asked {
    workflow: Option<String>,
    state: Option<String>,
    before: Option<String>,
    limit: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Chosen {
    ids: Vec<String>,
    workflow: Option<String>,
    state: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rows {
    keys: Vec<Vec<String>>,
    round: String,
}

async fn ask(shared: &Shared, wish: WorkflowWish) -> Response {
    order(shared, Command::Workflow(wish)).await
}

/// `GET /api/workflows`
async fn list(State(shared): State<Arc<Shared>>) -> Response {
    ask(&shared, WorkflowWish::List).await
}

/// `POST /api/workflows` with a draft.
async fn create(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let draft = match json(&body) {
        Ok(draft) => draft,
        Err(refusal) => return *refusal,
    };
    let mut answer = ask(&shared, WorkflowWish::Create(draft)).await;
    if answer.status() == StatusCode::OK {
        *answer.status_mut() = StatusCode::CREATED;
    }
    answer
}

/// `POST /api/workflows/dry-run` with a draft: what it would send, which is not sent.
async fn dry_run(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    match json(&body) {
        Ok(draft) => ask(&shared, WorkflowWish::DryRun(draft)).await,
        Err(refusal) => *refusal,
    }
}

/// `PUT /api/workflows/{id}` with a draft.
async fn replace(State(shared): State<Arc<Shared>>, Named(id): Named<String>, body: Bytes) -> Response {
    match json(&body) {
        Ok(draft) => ask(&shared, WorkflowWish::Replace { id, draft }).await,
        Err(refusal) => *refusal,
    }
}

async fn delete(State(shared): State<Arc<Shared>>, Named(id): Named<String>) -> Response {
    ask(&shared, WorkflowWish::Delete { id }).await
}

/// `POST /api/workflows/{id}/{enable|disable|test}`
async fn act(State(shared): State<Arc<Shared>>, Named((id, action)): Named<(String, String)>) -> Response {
    let wish = match action.as_str() {
        "enable" => WorkflowWish::Enable { id, enabled: true },
        "disable" => WorkflowWish::Enable { id, enabled: false },
        "test" => WorkflowWish::Test { id },
        _ => return say(StatusCode::NOT_FOUND, "a workflow can be told to enable, disable or test"),
    };
    ask(&shared, wish).await
}

/// `POST /api/workflows/{id}/fire` with `{"keys": [["42"]], "round": "…"}`, or without a body: for rows that are there.
async fn fire(State(shared): State<Arc<Shared>>, Named(id): Named<String>, body: Bytes) -> Response {
    let read = if body.is_empty() { Ok(Rows::default()) } else { serde_json::from_slice(&body) };
    let Rows { keys, round } = match read {
        Ok(rows) => rows,
        Err(error) => {
            return wrong("body", &format!("is not as it should be ({error}); write {{\"keys\": [[\"…\"]]}}"));
        }
    };
    if round.len() > 255 {
        return wrong("round", "has more than 255 bytes");
    }
    ask(&shared, WorkflowWish::Fire(FireAsked { id, keys, round })).await
}

/// `GET /api/workflow-runs?workflow=&state=&before=&limit=`
async fn runs(State(shared): State<Arc<Shared>>, Question(asked): Question<Asked>) -> Response {
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let before = match some(asked.before).map(|text| text.parse::<i64>()).transpose() {
        Ok(before) => before,
        Err(_) => return wrong("before", "is not a cursor: take `next` of the page before"),
    };
    let limit = asked.limit.unwrap_or(50).clamp(1, 500);
    let asked = RunsAsked { workflow: some(asked.workflow), state: some(asked.state), before, limit };
    ask(&shared, WorkflowWish::Runs(asked)).await
}

/// `GET /api/workflow-runs/{id}`: with its rows, what was sent last, and what came back.
async fn run(State(shared): State<Arc<Shared>>, Named(id): Named<String>) -> Response {
    ask(&shared, WorkflowWish::Run { id }).await
}

/// `POST /api/workflow-runs/replay` with `{"ids": […]}` or `{"workflow": id, "state": "dead"}`
async fn replay(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let Chosen { ids, workflow, state } = match serde_json::from_slice(&body) {
        Ok(chosen) => chosen,
        Err(error) => return wrong("body", &format!("is not as it should be ({error}); write {{\"ids\": [\"…\"]}}")),
    };
    if ids.len() > 1000 {
        return wrong("ids", "names more than 1000 runs: name a workflow and a state");
    }
    ask(&shared, WorkflowWish::Replay(ReplayAsked { ids, workflow, state })).await
}

fn json(body: &[u8]) -> Result<Value, Box<Response>> {
    serde_json::from_slice(body).map_err(|error| Box::new(wrong("body", &format!("is not JSON ({error})"))))
}
