//! Carries out what people ask of a running service. Each command is written down where it lasts before it is answered,
//! so a crash right after forgets nothing.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tracing::info;

use super::capturing::Kind;
use super::preflight::{self, Greeting};
use super::route::ROUTE;
use super::tables::Again;
use super::way::{Desk, Way};
use crate::config::Settings;
use crate::jobs::{Ask, history};
use crate::ledger::{activity, parked, runs};
use crate::pg;
use crate::status::{Status, TableState, TableStatus};
use crate::types::{Command, Fault, Job, Order, Refusal, TableName};

pub struct Commands {
    pub settings: Settings,
    pub status: watch::Receiver<Status>,
    pub asks: mpsc::Sender<Ask>,
    pub look_again: watch::Sender<u64>,
    /// Tables to compare, for the next look.
    pub again: Again,
}

impl Commands {
    pub async fn serve(self, orders: Arc<Mutex<mpsc::Receiver<Order>>>) {
        let mut orders = orders.lock().await;
        while let Some(Order { command, reply }) = orders.recv().await {
            let answer = self.answer(&command).await;
            match &answer {
                Ok(_) if command.only_looks() => {}
                Ok(_) => info!(?command, "a command was carried out"),
                // It may repeat what somebody sent: quoted, it makes no line of its own and moves no cursor.
                Err(refusal) => info!(?command, cause = ?refusal.to_string(), "a command was refused"),
            }
            let _ = reply.send(answer); // who asked may be gone
        }
    }

    async fn answer(&self, command: &Command) -> Result<Value, Refusal> {
        match command {
            Command::Reconcile { tables, repair } => self.reconcile(tables, *repair).await,
            Command::Pause { table } => self.pause(table).await,
            Command::Resume { table } => self.resume(table).await,
            Command::Resync { table } => self.resync(table).await,
            Command::Parked(wish) => {
                let client = preflight::client(&self.settings).map_err(unavailable)?;
                let answer = parked::wish(&client, ROUTE, wish).await;
                answer.map_err(|failure| unavailable(crate::apply::request_fault(&failure, 0)))
            }
            Command::Activity { kind, before, limit } => self.activity(kind.as_deref(), *before, *limit).await,
            // They have a desk of their own.
            Command::Workflow(_) => Err(Refusal::Unavailable("workflows have a desk of their own".into())),
            Command::Runs { limit } => {
                let url = preflight::source_url(&self.settings).map_err(unavailable)?;
                let runs = history::list(&url, *limit).await.map_err(unavailable)?;
                Ok(json!({"runs": runs}))
            }
        }
    }

    async fn activity(&self, kind: Option<&str>, before: Option<i64>, limit: u32) -> Result<Value, Refusal> {
        let url = preflight::source_url(&self.settings).map_err(unavailable)?;
        let client = pg::connect(&url, "lockstep commands").await.map_err(unavailable)?;
        if !activity::exists(&client).await.map_err(unavailable)? {
            return Ok(json!({"entries": [], "next": null}));
        }
        let entries = activity::list(&client, kind, before, i64::from(limit)).await.map_err(unavailable)?;
        let more = entries.len() as u64 == u64::from(limit);
        let next = entries.last().map(|last| last.id).filter(|_| more);
        Ok(json!({"entries": entries, "next": next}))
    }

    async fn reconcile(&self, names: &[String], repair: bool) -> Result<Value, Refusal> {
        let tables = names.iter().map(|name| self.find(name).map(|(table, _)| table)).collect::<Result<_, _>>()?;
        let job = Job { tables, repair, why: "asked for".into() };
        let (reply, id) = oneshot::channel();
        let gone = || Refusal::Unavailable("the service is stopping".into());
        self.asks.send(Ask { job, reply }).await.map_err(|_| gone())?;
        let id = id.await.map_err(|_| gone())?.map_err(Refusal::Conflict)?;
        Ok(json!({"job": id}))
    }

    async fn pause(&self, name: &str) -> Result<Value, Refusal> {
        let (table, state) = self.find(name)?;
        if state == TableState::Paused {
            return Err(Refusal::Conflict(format!("{table} is paused already")));
        }
        self.set_paused(&table, true).await?;
        Ok(json!({"table": table.to_string(), "state": "paused"}))
    }

    async fn resume(&self, name: &str) -> Result<Value, Refusal> {
        let (table, state) = self.find(name)?;
        if state != TableState::Paused {
            return Err(Refusal::Conflict(format!("{table} is not paused: it is {}", state.word())));
        }
        self.set_paused(&table, false).await?;
        Ok(json!({"table": table.to_string(), "state": "pending"}))
    }

    /// Before the changes of a paused table are skipped, the route has the target note that it is not copied any more.
    async fn set_paused(&self, table: &TableName, paused: bool) -> Result<(), Refusal> {
        let url = preflight::source_url(&self.settings).map_err(unavailable)?;
        let client = pg::connect(&url, "lockstep commands").await.map_err(unavailable)?;
        runs::ensure(&client, self.settings.source.create).await.map_err(unavailable)?;
        runs::pause(&client, table, paused).await.map_err(unavailable)?;
        self.look_again();
        Ok(())
    }

    async fn resync(&self, name: &str) -> Result<Value, Refusal> {
        let (table, state) = self.find(name)?;
        if state == TableState::Paused {
            return Err(Refusal::Conflict(format!("{table} is paused; resume it, and it is compared and repaired")));
        }
        let way = match self.status.borrow().way.as_deref() {
            Some("tables") => Way::Tables,
            _ => Way::Rpc,
        };
        let kind = match self.status.borrow().capture.as_deref() {
            Some("journal") => Kind::Journal,
            _ => Kind::Wal,
        };
        let url = preflight::source_url(&self.settings).map_err(unavailable)?;
        let source = pg::connect(&url, "lockstep commands").await.map_err(unavailable)?;
        let target = preflight::client(&self.settings).map_err(unavailable)?;
        let desk = Desk { way, kind, settings: &self.settings, source: &source, target: &target };
        let again = [table.clone()];
        // Written down for a crash, and once more by the next look: a range on its way may note the table as copied.
        desk.hello(&Greeting { look: true, again: &again, ..Greeting::new(ROUTE) }).await.map_err(unavailable)?;
        self.again.add(again);
        self.look_again();
        Ok(json!({"table": table.to_string(), "state": "pending"}))
    }

    fn look_again(&self) {
        self.look_again.send_modify(|asked| *asked += 1);
    }

    /// A table by its name as people write it: whole, or without its schema where that is enough.
    fn find(&self, name: &str) -> Result<(TableName, TableState), Refusal> {
        let status = self.status.borrow();
        let tables = &status.tables;
        if tables.is_empty() {
            return Err(Refusal::Unavailable("the tables are not known yet: the route has not been up".into()));
        }
        let whole = tables.iter().find(|table| table.name == name);
        let bare: Vec<&TableStatus> =
            tables.iter().filter(|table| TableName::parse(&table.name).name == name).collect();
        match (whole, &bare[..]) {
            (Some(table), _) | (None, &[table]) => Ok((TableName::parse(&table.name), table.state.clone())),
            (None, []) => Err(Refusal::NotFound(format!("there is no replicated table {name}"))),
            (None, [first, ..]) => {
                Err(Refusal::Conflict(format!("{name} is in several schemas; write {}, or another", first.name)))
            }
        }
    }
}

fn unavailable(fault: Fault) -> Refusal {
    Refusal::Unavailable(fault.to_string())
}
