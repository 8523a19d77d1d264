//! Puts comparisons that end a copy (after a recovery, a pause, a resync) on record beside the runs that the schedule and
//! people make. A history that cannot be written is a warning, and no reason not to compare.

use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;

use crate::ledger::runs;
use crate::pg::Client;
use crate::status::Jobs;
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
    /// What is known of the tables, as it is shown.
    pub jobs: watch::Sender<Jobs>,
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
        // Shown before the table counts as copied: it is never called completed in between.
        self.jobs.send_modify(|jobs| jobs.reported(report));
        crate::metrics::get().tables_different.set(self.jobs.borrow().different.len() as i64);
        told(runs::end(client, &self.job, report, report.result(), why)).await;
    }

    /// The table is copied over what the target holds, unseen: on record as different, and a start knows it too.
    pub(super) async fn unseen(&self, client: &Client, report: &TableReport, why: &str) {
        self.jobs.send_modify(|jobs| _ = jobs.different.insert(report.table.to_string(), 0));
        let why = format!("{why}; it is copied over what was there, and compared then");
        told(runs::end(client, &self.job, report, "different", Some(&why))).await;
    }
}

async fn told(write: impl Future<Output = Result<(), Fault>>) {
    let end = tokio::time::timeout(PATIENCE, write).await.unwrap_or_else(|_| Err(Fault::retry("it takes too long")));
    if let Err(cause) = end {
        warn!(%cause, "the history of runs cannot be kept now");
    }
}
