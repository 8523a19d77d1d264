//! The history of runs, as the runner writes it: a history that cannot be written is a warning, and no reason not to
//! compare.

use std::time::Duration;

use tracing::{debug, warn};

use crate::ledger::runs::{self, Past};
use crate::pg::{self, Client, Url};
use crate::types::{Fault, Job, RunRow, TableName, TableReport, Verdict};

pub struct History {
    url: Url,
    /// Whether its tables may be made.
    create: bool,
    client: Option<Client>,
    told: String,
}

/// A source that does not answer is not waited for: the history is not what people run this for.
const PATIENCE: Duration = Duration::from_secs(10);

impl History {
    pub fn new(url: Url, create: bool) -> Self {
        Self { url, create, client: None, told: String::new() }
    }

    /// What is known of the past. Waits for the source; without the right to a history there is none.
    pub async fn begin(&mut self) -> Past {
        loop {
            let read = async {
                let client = self.connected().await?;
                // Its tables are made with the first run, not with the first start.
                if !runs::exist(client).await? {
                    return Ok(Past::default());
                }
                let closed = runs::close_old(client).await?;
                if closed > 0 {
                    warn!(tables = closed, "a run was cut off when the service ended; the next one begins anew");
                }
                runs::past(client).await
            };
            match read.await {
                Ok(past) => return past,
                Err(fault @ Fault::Retry { .. }) => {
                    self.failed_to(&fault);
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
                Err(fault) => {
                    self.failed_to(&fault);
                    return Past::default();
                }
            }
        }
    }

    /// A run of these tables begins.
    pub async fn run(&mut self, id: &str, job: &Job, tables: &[TableName]) {
        let write = async {
            let client = self.open().await?;
            runs::begin(client, id, &job.why, job.repair, tables).await
        };
        let end = tokio::time::timeout(PATIENCE, write).await;
        self.ended(end);
    }

    pub async fn table(&mut self, id: &str, report: &TableReport) {
        let why = match &report.verdict {
            Verdict::Unknown { why } => Some(why.as_str()),
            Verdict::Equal | Verdict::Different => None,
        };
        let write = async {
            let client = self.open().await?;
            runs::end(client, id, report, report.result(), why).await
        };
        let end = tokio::time::timeout(PATIENCE, write).await;
        self.ended(end);
    }

    /// What is left of a run is not done.
    pub async fn failed(&mut self, id: &str, why: &str) {
        let write = async {
            let client = self.open().await?;
            runs::fail(client, id, why).await
        };
        let end = tokio::time::timeout(PATIENCE, write).await;
        self.ended(end);
    }

    /// A connection to tables that are there.
    async fn open(&mut self) -> Result<&Client, Fault> {
        let create = self.create;
        let client = self.connected().await?;
        runs::ensure(client, create).await?;
        Ok(client)
    }

    async fn connected(&mut self) -> Result<&Client, Fault> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let client = pg::connect(&self.url, "lockstep jobs").await?;
            let bounds = "set lock_timeout = '5s'; set statement_timeout = '10s'";
            client.batch_execute(bounds).await.map_err(|error| pg::client::fault(&error))?;
            self.client = Some(client);
        }
        self.client.as_ref().ok_or_else(|| Fault::retry("no connection"))
    }

    fn ended(&mut self, end: Result<Result<(), Fault>, tokio::time::error::Elapsed>) {
        match end {
            Ok(Ok(())) => self.told.clear(),
            Ok(Err(fault)) => self.failed_to(&fault),
            Err(_) => {
                self.client = None; // what it still does there must not come later
                self.failed_to(&Fault::retry("the source does not answer"));
            }
        }
    }

    fn failed_to(&mut self, fault: &Fault) {
        let cause = fault.to_string();
        if cause != self.told {
            match &self.client {
                Some(_) => warn!(%cause, "the history of runs cannot be kept now"),
                // A source that lets nobody in is told by the route.
                None => debug!(%cause, "the history of runs cannot be kept now"),
            }
            self.told = cause;
        }
    }
}

/// The newest runs, read over a connection of its own: nobody waits for a run that writes.
pub async fn list(url: &Url, limit: u32) -> Result<Vec<RunRow>, Fault> {
    let client = pg::connect(url, "lockstep runs").await?;
    match runs::exist(&client).await? {
        true => runs::list(&client, i64::from(limit)).await,
        false => Ok(Vec::new()), // there was no run yet
    }
}
