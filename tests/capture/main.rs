//! Capture against real clusters: what commits there arrives here, in order, and nothing is confirmed too early.

#![allow(clippy::unwrap_used, clippy::expect_used)] // in helpers too, a panic is how a test says no

mod captured;
mod cluster;
mod faults;
mod stream;
mod tls;

use std::time::{Duration, Instant};

use cluster::Cluster;
use lockstep::capture::{self, Progress, Settings, slot};
use lockstep::pg::Client;
use lockstep::types::{Cell, Change, Fault, Lsn, Position, Receiver, TableName, Transaction, Tuple, queue};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A running capture, with the ends that the other parts would hold.
struct Route {
    transactions: Receiver<Transaction>,
    checkpoint: watch::Sender<Position>,
    stop: watch::Sender<bool>,
    /// Held, so that capture has somebody to tell.
    _progress: watch::Receiver<Progress>,
    task: JoinHandle<Result<(), Fault>>,
}

impl Route {
    fn start(settings: Settings, resume: Position, queue_bytes: usize) -> Self {
        let (out, transactions) = queue(queue_bytes);
        let (checkpoint, checkpoint_seen) = watch::channel(resume);
        let (stop, stop_seen) = watch::channel(false);
        let (shown, _progress) = watch::channel(Progress::default());
        let task =
            tokio::spawn(async move { capture::run(&settings, resume, out, checkpoint_seen, stop_seen, shown).await });
        Self { transactions, checkpoint, stop, _progress, task }
    }

    /// The next transaction with changes.
    async fn next(&mut self) -> Transaction {
        loop {
            let next = self.any().await;
            if !next.changes.is_empty() {
                return next;
            }
        }
    }

    /// The next transaction or mark.
    async fn any(&mut self) -> Transaction {
        let next = tokio::time::timeout(Duration::from_secs(30), self.transactions.recv()).await;
        match next.expect("nothing arrives") {
            Some(transaction) => transaction,
            None => panic!("capture ended: {:?}", (&mut self.task).await),
        }
    }

    /// As `kill -9` of the process would.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A source with table `t (id, v)`, published, and its slot; and where the slot starts.
async fn source(cluster: &Cluster) -> (Client, Settings, Position) {
    let sql = cluster.sql().await;
    sql.batch_execute("create table t (id int primary key, v text); create table other (v text)").await.unwrap();
    let settings = Settings::new(cluster.url());
    let source = ensure(cluster, &settings, &["t"]).await.unwrap();
    assert!(source.created);
    (sql, settings, Position::at(source.confirmed))
}

async fn ensure(cluster: &Cluster, settings: &Settings, tables: &[&str]) -> Result<slot::Source, Fault> {
    let tables: Vec<_> = tables.iter().map(|&name| TableName::new("public", name)).collect();
    let (slot, publication) = (settings.slot.as_str(), settings.publication.as_str());
    let want = slot::Want { slot, publication, tables: &tables, create: true };
    slot::ensure(&cluster.sql().await, &settings.url, &want).await
}

/// One line for each change.
fn lines(transaction: &Transaction) -> Vec<String> {
    transaction.changes.iter().map(line).collect()
}

fn line(change: &Change) -> String {
    match change {
        Change::Insert { new, .. } => format!("+ {}", values(new)),
        Change::Update { old: None, new, .. } => format!("~ {}", values(new)),
        Change::Update { old: Some(old), new, .. } => format!("~ {} -> {}", values(old), values(new)),
        Change::Delete { old, .. } => format!("- {}", values(old)),
        Change::Truncate { relations, .. } => format!("0 {}", relations[0].name),
        Change::Message { content } => format!("! {}", String::from_utf8_lossy(content)),
    }
}

fn values(row: &Tuple) -> String {
    let cell = |cell: Cell<'_>| match cell {
        Cell::Null => "null".to_owned(),
        Cell::Unchanged => "unchanged".to_owned(),
        Cell::Text(text) => String::from_utf8_lossy(text).into_owned(),
    };
    row.cells().map(cell).collect::<Vec<_>>().join(",")
}

/// Polls a question with one boolean answer until it is true.
async fn until(sql: &Client, question: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !sql.query_one(question, &[]).await.unwrap().get::<_, Option<bool>>(0).unwrap_or(false) {
        assert!(Instant::now() < deadline, "never true: {question}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn lsn(sql: &Client, expression: &str) -> Lsn {
    let row = sql.query_one(&format!("select ({expression})::text"), &[]).await.unwrap();
    row.get::<_, String>(0).parse().unwrap()
}

const CONFIRMED: &str = "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'lockstep'";
