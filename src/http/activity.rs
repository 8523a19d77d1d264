//! The time line, over HTTP.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use super::Shared;
use super::api::order;
use super::asked::Question;
use crate::types::Command;

#[derive(Deserialize)]
pub(super) struct Asked {
    kind: Option<String>,
    before: Option<i64>,
    limit: Option<u32>,
}

/// `GET /api/activity?kind=settings&before=1200&limit=100`: the newest first; `next` is the `before` of the next page.
pub(super) async fn list(State(shared): State<Arc<Shared>>, Question(asked): Question<Asked>) -> Response {
    let Asked { kind, before, limit } = asked;
    let limit = limit.unwrap_or(100).clamp(1, 1000);
    // Postgres takes no such text.
    let kind = kind.filter(|kind| !kind.is_empty()).map(|kind| kind.replace('\0', ""));
    order(&shared, Command::Activity { kind, before, limit }).await
}
