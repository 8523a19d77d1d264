//! Workflows: when TABLE has EVENT (and CONDITION), do ACTION.
//!
//! ```text
//! capture ─▶ tap ─▶ pipeline          a transaction that a workflow acts on waits here
//!             │ ▲                     until its runs are on record in the source
//!          recorder ─▶ lockstep.workflow_run ─▶ courier ─▶ agent API, webhooks, notify
//! window ─▶ desk ─────────▲           (lists, changes, tests, what Supabase's webhooks tell)
//! ```
//!
//! So a change can be confirmed only when its runs are recorded, and a run is recorded once, whatever is killed: its id
//! is a hash of workflow, position and change. What is recorded is delivered at least once, under that id.

pub mod action;
mod asked;
mod catalog;
mod change;
mod condition;
mod courier;
mod desk;
mod fit;
mod guard;
mod health;
mod incoming;
mod noted;
mod post;
mod record;
mod redact;
mod row;
mod rule;
mod sign;
mod tap;
mod template;
mod told;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

pub use action::AgentApi;
pub use courier::Courier;
pub use desk::Desk;
pub use guard::Allowed;
pub use record::{Recorder, Rulebook};
pub use sign::Secret;
pub use tap::{Link, Tap};

use crate::pg::Url;
use crate::types::TableName;

/// What the settings say of workflows.
#[derive(Clone, Debug)]
pub struct Settings {
    pub source: Url,
    /// The publication that lists the tables whose changes the stream brings.
    pub publication: String,
    /// What it has not confirmed, the source sends again.
    pub slot: String,
    /// The table of workflows.
    pub table: TableName,
    /// Make what is missing in the source.
    pub create: bool,
    pub agents: Option<AgentApi>,
    /// The newest first; each signs.
    pub secrets: Vec<Secret>,
    /// Private addresses that webhooks may reach all the same.
    pub allowed: Vec<Allowed>,
    pub timeout: Duration,
    /// Tries before a run is dead.
    pub attempts: u32,
    pub first_wait: Duration,
    pub max_wait: Duration,
    /// Deliveries on their way at a time: in all, and of one workflow.
    pub concurrency: usize,
    pub per_workflow: usize,
    /// Deliveries begun in a second at most.
    pub per_second: u32,
    /// Of a request's and an answer's body so much is kept.
    pub kept_bytes: usize,
    /// Finished runs are forgotten after this.
    pub keep: Duration,
}

/// Rung when there may be something to deliver.
pub type Bell = Arc<Notify>;

/// A connection whose statements end soon, whoever holds a lock.
pub(crate) const SESSION: &str = "set lock_timeout = '5s'; set statement_timeout = '30s'";
