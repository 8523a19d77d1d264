//! What people ask about workflows, and what a webhook brings, on its way from the window to the desk.

use serde_json::Value;

/// One wish. What it brings as JSON is read where workflows are known: the window knows none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkflowWish {
    List,
    /// A draft: see docs/workflows.md.
    Create(Value),
    Replace {
        id: String,
        draft: Value,
    },
    Delete {
        id: String,
    },
    Enable {
        id: String,
        enabled: bool,
    },
    /// Send it once, for a change that was or could have been.
    Test {
        id: String,
    },
    /// Fire it for rows that are there.
    Fire(FireAsked),
    /// Say what a draft would send, and send nothing.
    DryRun(Value),
    Runs(RunsAsked),
    Run {
        id: String,
    },
    Replay(ReplayAsked),
    /// A change in Supabase, as its webhook tells it.
    Receive {
        /// Its JSON, as it came.
        payload: String,
        /// What the sender calls this delivery, if it says so.
        delivery: Option<String>,
    },
}

/// Which runs to list, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunsAsked {
    pub workflow: Option<String>,
    /// `waiting`, `delivering`, `delivered`, `dead`.
    pub state: Option<String>,
    /// The cursor that the page before ended with.
    pub before: Option<i64>,
    pub limit: u32,
}

/// Which runs to deliver again: those that are named, or those of one workflow in one state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayAsked {
    pub ids: Vec<String>,
    pub workflow: Option<String>,
    pub state: Option<String>,
}

/// For which rows a workflow is to be fired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FireAsked {
    pub id: String,
    /// The values of each row's key, as texts; none: all rows.
    pub keys: Vec<Vec<String>>,
    /// A row is fired once in each round.
    pub round: String,
}

impl WorkflowWish {
    /// Whether it changes nothing.
    pub fn only_looks(&self) -> bool {
        matches!(self, Self::List | Self::DryRun(_) | Self::Runs(_) | Self::Run { .. })
    }

    /// For the time line: what is wanted.
    pub fn said(&self) -> &'static str {
        match self {
            Self::List => "look at the workflows",
            Self::Create(_) => "create a workflow",
            Self::Replace { .. } => "change a workflow",
            Self::Delete { .. } => "delete a workflow",
            Self::Enable { enabled: true, .. } => "switch a workflow on",
            Self::Enable { .. } => "switch a workflow off",
            Self::Test { .. } => "test a workflow",
            Self::Fire(_) => "fire a workflow for rows that are there",
            Self::DryRun(_) => "try a workflow without sending",
            Self::Runs(_) | Self::Run { .. } => "look at the runs of workflows",
            Self::Replay(_) => "deliver runs again",
            Self::Receive { .. } => "take a webhook",
        }
    }
}
