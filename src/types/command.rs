//! What people ask of a running service, and what they are told. It travels over a bounded channel: whoever shows the
//! window knows no part that works.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Job, ParkedAction, ParkedWish, Progress, TableReport, WorkflowWish};

/// One wish. Tables are named as people write them: `agents` or `public.agents`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Compare, and repair where `repair`; no table means all of them.
    Reconcile { tables: Vec<String>, repair: bool },
    /// Set a table aside: its changes are skipped.
    Pause { table: String },
    /// Let it take part again: it is compared and repaired, and streams from then on.
    Resume { table: String },
    /// Take nothing of it for granted: compare and repair it as after a first start.
    Resync { table: String },
    /// The history of runs, the newest first.
    Runs { limit: u32 },
    /// The time line, the newest first: of one kind, and before one of its lines.
    Activity { kind: Option<String>, before: Option<i64>, limit: u32 },
    /// Rows that Supabase refused: listed, tried again, given up.
    Parked(ParkedWish),
    /// Workflows and their runs.
    Workflow(WorkflowWish),
}

impl Command {
    /// Whether it changes nothing.
    pub fn only_looks(&self) -> bool {
        match self {
            Self::Runs { .. } | Self::Activity { .. } => true,
            Self::Parked(ParkedWish { action: ParkedAction::List { .. }, .. }) => true,
            Self::Workflow(wish) => wish.only_looks(),
            _ => false,
        }
    }

    /// For the time line: what is wanted, and of which tables.
    pub fn said(&self) -> (&'static str, Vec<String>) {
        match self {
            Self::Reconcile { tables, repair: false } => ("verify", tables.clone()),
            Self::Reconcile { tables, repair: true } => ("sync", tables.clone()),
            Self::Pause { table } => ("pause", vec![table.clone()]),
            Self::Resume { table } => ("resume", vec![table.clone()]),
            Self::Resync { table } => ("resync", vec![table.clone()]),
            Self::Runs { .. } => ("look at the runs", Vec::new()),
            Self::Activity { .. } => ("look at the time line", Vec::new()),
            Self::Workflow(wish) => (wish.said(), Vec::new()),
            Self::Parked(ParkedWish { action, choice }) => {
                let what = match action {
                    ParkedAction::List { .. } => "look at what is parked",
                    ParkedAction::Retry => "retry parked rows",
                    ParkedAction::Discard => "discard parked rows",
                };
                (what, choice.table.iter().map(ToString::to_string).collect())
            }
        }
    }
}

/// A command, and where its answer goes.
#[derive(Debug)]
pub struct Order {
    pub command: Command,
    /// JSON, as the API answers it.
    pub reply: oneshot::Sender<Result<serde_json::Value, Refusal>>,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What it names is not there.
    #[error("{0}")]
    NotFound(String),
    /// It makes no sense now.
    #[error("{0}")]
    Conflict(String),
    /// It cannot be done now, and may be later.
    #[error("{0}")]
    Unavailable(String),
    /// What was sent is wrong, and where.
    #[error("{field}: {cause}")]
    Invalid { field: String, cause: String },
}

impl Refusal {
    pub fn invalid(field: impl Into<String>, cause: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), cause: cause.into() }
    }
}

/// A comparison that was asked for, from the queue to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    pub id: String,
    #[serde(flatten)]
    pub job: Job,
    #[serde(flatten)]
    pub state: JobState,
    pub progress: Option<Progress>,
    /// One for each table that is finished.
    pub reports: Vec<TableReport>,
    pub asked_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    Queued,
    Running,
    /// Every table has its report.
    Done,
    /// It ended before that.
    Failed {
        why: String,
    },
}

/// A row of the history: one table of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    pub job: String,
    pub why: String,
    pub repair: bool,
    pub table_name: String,
    pub started_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// `running`, `equal`, `repaired`, `different`, `unknown`, `failed`.
    pub result: String,
    pub message: Option<String>,
    pub rows_compared: u64,
    pub missing: u64,
    pub different: u64,
    pub surplus: u64,
    pub unsettled: u64,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub requests: u64,
    pub seconds: f64,
}
