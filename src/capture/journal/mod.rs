//! Reads committed changes from the journal that triggers write, where the source gives no slot.
//!
//! The truth is the table `lockstep.journal`; a notification is only a bell, and a poll finds what rang for nobody. The
//! order is that of the WAL: a transaction stands where its last statement stands (sql/source/journal.sql says why that
//! is right). What is read lies before a *horizon*: an end of the WAL of which it is known that every transaction that
//! stands before it has ended. So nothing can appear behind the reader, a position says it all, and it lies on the same
//! line as the positions of a slot.

pub mod assemble;
mod horizon;
mod prune;
mod read;
pub mod record;
mod shapes;
mod window;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::Progress;
use crate::pg::{self, Client, client};
use crate::types::{Fault, Lsn, Position, Sender, Transaction};

/// How to read.
#[derive(Clone, Debug)]
pub struct Settings {
    pub url: pg::Url,
    /// The longest that a change waits whose bell was lost.
    pub poll: Duration,
    /// WAL without anything for us moves the checkpoint this often.
    pub mark_interval: Duration,
    /// A transaction larger than this travels in parts, and is no longer applied atomically.
    pub part_bytes: usize,
    pub lost: Lost,
}

/// What to make of statements of which is only known that they were: their table was altered before its triggers were.
/// Whoever meets one that is news must have both sides looked at again.
#[derive(Clone, Debug, Default)]
pub struct Lost {
    /// Tables, by oid, whose lost statements up to here are no news: they are compared.
    pub known: HashSet<u32>,
    pub upto: Lsn,
    /// Tables that are followed, and their partitions; others are compared before they are (again).
    pub watched: HashSet<u32>,
}

impl Settings {
    pub fn new(url: pg::Url, lost: Lost) -> Self {
        Self {
            url,
            poll: Duration::from_secs(1), // one small query; less than what people call late
            mark_interval: Duration::from_secs(10),
            part_bytes: 4 << 20,
            lost,
        }
    }
}

/// The reader's windows on the other parts.
pub struct Watches {
    pub checkpoint: watch::Receiver<Position>,
    pub stop: watch::Receiver<bool>,
    pub progress: watch::Sender<Progress>,
    /// Which transaction holds the reader up, while one does.
    pub held_up: watch::Sender<Option<String>>,
}

/// A journal has one reader, whatever its slot would be called: what one has confirmed is gone for all.
const LOCK: &str = "select pg_try_advisory_lock(hashtext('lockstep journal'), 0)";
const HOLDER: &str = "select pid::text from pg_locks where locktype = 'advisory' and granted and objsubid = 2 \
     and database = (select oid from pg_database where datname = current_database()) \
     and classid = hashtext('lockstep journal')::oid and objid = 0";
/// The plans must read by the index however small the tables look; and a flush is the local disk's.
const SESSION: &str = "set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off; \
     set enable_mergejoin = off; set jit = off; set synchronous_commit = local; \
     set default_transaction_isolation = 'read committed'; set default_transaction_read_only = off; \
     listen lockstep_journal";

/// Reads from `resume` into `out` until `stop` turns true; then drops `out`, and goes on forgetting what is confirmed
/// until the sender of `checkpoint` is gone. An error ends it at once.
pub async fn run(
    settings: &Settings,
    resume: Position,
    out: Sender<Transaction>,
    watches: Watches,
) -> Result<(), Fault> {
    let bell = Arc::new(Notify::new());
    let client = client::listen(&settings.url, "lockstep", bell.clone()).await?;
    alone(&client).await?;
    client.batch_execute(SESSION).await.map_err(|error| client::fault(&error))?;
    let silent = client.query_one(SILENT, &[]).await.map_err(|error| client::fault(&error))?.get(0);
    let poll = if silent { settings.poll.min(OFTEN) } else { settings.poll };
    let settings = &Settings { poll, ..settings.clone() };
    tracing::info!(from = %resume, "capture reads the journal");
    let pruning = prune::run(&settings.url, watches.checkpoint.clone());
    let reading = read::Reader::new(settings, &client, bell, resume, watches).run(out);
    tokio::try_join!(reading, pruning)?;
    tracing::info!("capture ends its stream");
    Ok(())
}

/// Where transactions may be prepared, triggers ring no bell.
const SILENT: &str = "select current_setting('max_prepared_transactions') <> '0'";
const OFTEN: Duration = Duration::from_millis(100);

async fn alone(client: &Client) -> Result<(), Fault> {
    let fault = |error: tokio_postgres::Error| client::fault(&error);
    if client.query_one(LOCK, &[]).await.map_err(fault)?.get(0) {
        return Ok(());
    }
    // One that was killed holds its lock until its connection is seen to be gone.
    let holder = client.query_opt(HOLDER, &[]).await.map_err(fault)?;
    let pid = holder.map_or_else(|| "gone by now".to_owned(), |row| row.get(0));
    Err(Fault::retry(format!("the journal is read by another Lockstep (pid {pid})")))
}
