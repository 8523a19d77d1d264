//! Reads the workflows for the stream and writes its runs. It lives and dies with the route: what cannot be recorded
//! ends the route with the reason, and the source sends the changes again when it begins anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use super::health::Health;
use super::rule::{Rules, Workflow};
use super::{Bell, SESSION, Settings};
use crate::ledger::workflow_runs::{self, NewRun};
use crate::ledger::workflows::{self, Workflows};
use crate::pg::{self, Client};
use crate::types::{Fault, Snapshot};

pub enum Asked {
    /// Read the workflows again, as this transaction left them.
    Read(u32, oneshot::Sender<()>),
    Record(Vec<NewRun>, oneshot::Sender<()>),
}

/// What was read of the workflows last. It outlives the route: where they cannot be read, those that are known go on.
pub type Rulebook = watch::Sender<Arc<Rules>>;

pub struct Recorder {
    settings: Settings,
    client: Client,
    /// `None`: the source has no workflows that we may read.
    table: Option<Workflows>,
    asks: mpsc::Receiver<Asked>,
    rules: Rulebook,
    health: Health,
    bell: Bell,
    told: Vec<String>,
    /// When the tables were looked for last.
    looked: Instant,
}

/// What the stream waits for.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Read(u32),
    Record(&'a [NewRun]),
}

/// A table that cannot tell us that it has changed is looked at this often; it costs one small query.
const LOOK: Duration = Duration::from_secs(1);
/// What somebody must mend first is looked at again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// Records wait behind a look, so a look does not wait long for somebody's lock; a record is tried again.
const LOCKED: &str = "set lock_timeout = '500ms'";
/// The stream is held for so long while the table is locked, where a workflow has just changed or none is known yet.
const BRIEFLY: Duration = Duration::from_secs(5);
/// Without a record for so long, the route ends and says why.
const PATIENCE: Duration = Duration::from_secs(20);

impl Recorder {
    /// Finds or makes the tables, and reads the workflows: before the first change passes, they are known.
    pub async fn open(
        settings: Settings,
        bell: Bell,
        rules: Rulebook,
    ) -> Result<(Self, mpsc::Sender<Asked>, watch::Receiver<Arc<Rules>>), Fault> {
        // The tap waits for each answer before it asks again.
        let (asking, asks) = mpsc::channel(1);
        let seen = rules.subscribe();
        let client = connect(&settings).await?;
        let (health, looked) = (Health::new("read"), Instant::now());
        let mut recorder = Self { settings, client, table: None, asks, rules, health, bell, told: Vec::new(), looked };
        match recorder.adopt().await {
            Ok(()) => recorder.first().await?,
            Err(fault @ Fault::Retry { .. }) => return Err(fault),
            Err(fault) => recorder.unread(fault).await?,
        }
        Ok((recorder, asking, seen))
    }

    async fn adopt(&mut self) -> Result<(), Fault> {
        let Settings { table, create, .. } = &self.settings;
        workflow_runs::ensure(&self.client, *create).await?;
        self.table = Some(workflows::adopt(&self.client, table, *create).await?);
        if let Err(fault) = workflows::announce(&self.client, table).await {
            debug!(cause = %fault, "the table of workflows is looked at every second only");
        }
        self.client.batch_execute(LOCKED).await.map_err(|error| pg::client::fault(&error))
    }

    /// Reads them before anything passes. Where none is known, somebody's lock is worth waiting for, for a moment.
    async fn first(&mut self) -> Result<(), Fault> {
        let begun = Instant::now();
        loop {
            match self.read().await {
                Ok(()) => return Ok(()),
                Err(Fault::Retry { .. }) if self.rules.borrow().is_empty() && begun.elapsed() < BRIEFLY => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                Err(fault) => return self.unread(fault).await,
            }
        }
    }

    /// Until the tap is gone.
    pub async fn run(mut self) -> Result<(), Fault> {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing: Option<Instant> = None;
        loop {
            let asked = tokio::select! {
                biased;
                asked = self.asks.recv() => match asked {
                    Some(asked) => Some(asked),
                    None => return Ok(()),
                },
                _ = tick.tick() => None,
            };
            match asked {
                Some(Asked::Read(xid, reply)) => {
                    self.patiently(Wanted::Read(xid)).await?;
                    let _ = reply.send(());
                }
                Some(Asked::Record(runs, reply)) => {
                    self.patiently(Wanted::Record(&runs)).await?;
                    self.bell.notify_one();
                    let _ = reply.send(());
                }
                None => match self.look().await {
                    Ok(()) => failing = None,
                    // Nothing is held back by it; but workflows that nobody can read any more are no workflows.
                    Err(fault) if failing.get_or_insert_with(Instant::now).elapsed() > PATIENCE => return Err(fault),
                    Err(fault) => {
                        debug!(cause = %fault, "the workflows could not be read");
                        let _ = self.reconnect().await;
                    }
                },
            }
        }
    }

    /// Does what the stream waits for, over a new connection if need be.
    async fn patiently(&mut self, wanted: Wanted<'_>) -> Result<(), Fault> {
        let begun = Instant::now();
        let mut told = false;
        loop {
            let done = match wanted {
                Wanted::Read(xid) => self.read_behind(xid).await,
                Wanted::Record(runs) => workflow_runs::record(&mut self.client, runs).await.map(|new| {
                    crate::metrics::get().workflow_runs_recorded.inc_by(new);
                }),
            };
            let Err(fault) = done else { return Ok(()) };
            let passes = matches!(fault, Fault::Retry { .. });
            let connected = self.connected().await;
            if matches!(wanted, Wanted::Read(_)) && connected && (!passes || begun.elapsed() > BRIEFLY) {
                return self.unread(fault).await;
            }
            if !told {
                warn!(cause = %fault, "the stream waits: runs of workflows cannot be recorded in the source");
                told = true;
            }
            if begun.elapsed() > PATIENCE {
                return Err(Fault::retry(format!("runs of workflows cannot be recorded in the source: {fault}")));
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            if !connected && let Err(fault) = self.reconnect().await {
                debug!(cause = %fault, "no connection yet");
            }
        }
    }

    /// The stream brings a commit a moment before others see it: a read in that moment would miss it.
    async fn read_behind(&mut self, xid: u32) -> Result<(), Fault> {
        const SNAPSHOT: &str = "select pg_current_snapshot()::text";
        loop {
            let row = self.client.query_one(SNAPSHOT, &[]).await.map_err(|error| pg::client::fault(&error))?;
            let snapshot: Snapshot = row.get::<_, String>(0).parse().map_err(|cause: String| Fault::retry(cause))?;
            if snapshot.sees(xid) {
                return self.read().await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn reconnect(&mut self) -> Result<(), Fault> {
        self.client = connect(&self.settings).await?;
        match self.adopt().await {
            Err(fault @ Fault::Retry { .. }) => Err(fault),
            _ => Ok(()),
        }
    }

    /// Whether the connection is well, so that it was the statement that failed.
    async fn connected(&self) -> bool {
        self.client.batch_execute("select 1").await.is_ok()
    }

    /// Reads them. `Err`: there is no connection.
    async fn look(&mut self) -> Result<(), Fault> {
        match self.read().await {
            Ok(()) => Ok(()),
            Err(fault) => self.unread(fault).await,
        }
    }

    /// Somebody holds a lock on the table, or must mend it first. Replication is not to stop for it: what was read last
    /// goes on, and it is looked at again. A metric, the page and the list say it too.
    async fn unread(&mut self, fault: Fault) -> Result<(), Fault> {
        let none = self.rules.borrow().is_empty();
        // Without a table, and where none was known, there is nothing to be read.
        if !none || workflows::there(&self.client, &self.settings.table).await.unwrap_or(true) {
            self.health.fails();
        }
        match matches!(fault, Fault::Retry { .. }) {
            true if !self.connected().await => return Err(fault),
            true => {}
            false => (self.table, self.looked) = (None, Instant::now()),
        }
        let told = vec![fault.to_string()];
        if told != self.told {
            match none {
                true => {
                    warn!(cause = %fault, "the workflows cannot be read, and none is known: no change leads to a run")
                }
                false => warn!(cause = %fault, "the workflows cannot be read; those that are known go on"),
            }
            self.told = told;
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), Fault> {
        if self.table.is_none() {
            if self.looked.elapsed() <= AGAIN {
                return Ok(());
            }
            self.looked = Instant::now();
            self.adopt().await?;
        }
        let Some(table) = &self.table else { return Ok(()) };
        let stored = table.read(&self.client).await?;
        self.health.works();
        let (mut fit, mut wrong) = (Vec::new(), Vec::new());
        for stored in stored.iter().filter(|stored| stored.enabled) {
            match Workflow::parse(stored) {
                Ok(workflow) => fit.push(workflow),
                Err(why) => wrong.push(format!("{} ({}): {why}", stored.workflow_name, stored.id)),
            }
        }
        if wrong != self.told {
            wrong.iter().for_each(|why| warn!(cause = %why, "a workflow cannot run as it is written"));
            self.told = wrong;
        }
        let rules = Rules::new(fit);
        self.rules.send_if_modified(|known| {
            let news = **known != rules;
            if news {
                info!("the workflows have changed");
                *known = Arc::new(rules);
            }
            news
        });
        Ok(())
    }
}

async fn connect(settings: &Settings) -> Result<Client, Fault> {
    let client = pg::connect(&settings.source, "lockstep workflows").await?;
    client.batch_execute(SESSION).await.map_err(|error| pg::client::fault(&error))?;
    Ok(client)
}
