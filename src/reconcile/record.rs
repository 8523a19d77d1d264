//! Puts comparisons that end a copy (after a recovery, a pause, a resync) on record beside the runs that the schedule and
//! people make. A history that cannot be written is a warning, and no reason not to compare.

use std::time::Duration;

use tracing::warn;

use crate::ledger::runs;
use crate::pg::Client;
use crate::types::{Fault, TableName, TableReport, Verdict};

/// What stands in the history beside each table.
#[derive(Clone, Debug)]
pub struct Record {
    /// The tables of one life of the route have it in common.
    pub job: String,
    /// `recovery: the slot is gone from the source`.
    pub why: String,
    /// Whether the history's tables may be made.
    pub create: bool,
}

/// The history is not waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

impl Record {
    pub(super) async fn begin(&self, client: &Client, table: &TableName) {
        told(async {
            runs::ensure(client, self.create).await?;
            runs::interrupted(client, &self.why).await?;
            runs::begin(client, &self.job, &self.why, true, std::slice::from_ref(table)).await
        })
        .await;
    }

    pub(super) async fn end(&self, client: &Client, report: &TableReport) {
        let why = match &report.verdict {
            Verdict::Unknown { why } => Some(why.as_str()),
            _ => None,
        };
        told(runs::end(client, &self.job, report, runs::result(report), why)).await;
    }
}

async fn told(write: impl Future<Output = Result<(), Fault>>) {
    let end = tokio::time::timeout(PATIENCE, write).await.unwrap_or_else(|_| Err(Fault::retry("it takes too long")));
    if let Err(cause) = end {
        warn!(%cause, "the history of runs cannot be kept now");
    }
}
