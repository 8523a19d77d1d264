//! Stands between capture and pipeline and holds back what a workflow acts on until its runs are on record. All else
//! passes: without a workflow that costs a glance at each transaction, with some a look-up for each change of a table.
//!
//! Held back, a change is not applied, so it is not confirmed: whatever is killed before the record is made, the source
//! sends the change again, and one that was recorded already gets the same id.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use super::incoming::{Place, run, see, subject};
use super::record::Asked;
use super::rule::{Rules, Workflow};
use crate::ledger::workflow_runs::NewRun;
use crate::pipeline::Feed;
use crate::types::{Change, Position, Receiver, Transaction};

/// Transactions that wait for one record together, so that a busy table does not wait for a commit per transaction:
/// as much as a batch or two, and no more runs than a few statements take.
const HELD_BYTES: usize = 1 << 20;
/// A transaction that leads to more is recorded in slices; a run has its id from its change, so that a slice that was
/// recorded before a crash is there once.
const HELD_RUNS: usize = 2_000;

pub struct Tap {
    queue: Receiver<Transaction>,
    /// `None`: workflows are switched off, and everything passes.
    link: Option<Link>,
    at: At,
    state: State,
    /// On their way out.
    ready: VecDeque<Transaction>,
    /// Taken from the queue and not looked at yet.
    next: Option<Transaction>,
    held_bytes: usize,
}

/// To the recorder.
pub struct Link {
    pub asks: mpsc::Sender<Asked>,
    pub rules: watch::Receiver<Arc<Rules>>,
    /// Names of each table's key columns, by oid.
    pub keys: HashMap<u32, Vec<String>>,
}

enum State {
    Open,
    /// The workflows are read again before this transaction is looked at.
    Reading(oneshot::Receiver<()>, Transaction),
    /// These wait for their record; of the last one there may be more to come.
    Recording(oneshot::Receiver<()>, VecDeque<Transaction>, Option<Rest>),
}

/// What is to be looked at yet of a transaction that leads to many runs.
struct Rest {
    rules: Arc<Rules>,
    part: Part,
    /// The first of its changes that was not looked at.
    from: usize,
}

/// Knows its way in a transaction that travels in parts.
#[derive(Clone, Copy, Debug)]
struct At {
    commit: u64,
    next: u64,
    /// Its first part said that it is an echo.
    echo: bool,
}

/// What a part does not say of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    /// The number of its first change within the transaction.
    first: u64,
    echo: bool,
}

impl At {
    fn pass(&mut self, transaction: &Transaction) -> Part {
        let known = self.commit == transaction.commit.0;
        let first = if known { self.next } else { 0 };
        let echo = (known && self.echo) || is_echo(transaction);
        *self = Self { commit: transaction.commit.0, next: first + transaction.changes.len() as u64, echo };
        Part { first, echo }
    }
}

impl Tap {
    /// `resume` is where the stream begins.
    pub fn new(queue: Receiver<Transaction>, link: Option<Link>, resume: Position) -> Self {
        let at = At { commit: resume.major, next: resume.minor, echo: false };
        Self { queue, link, at, state: State::Open, ready: VecDeque::new(), next: None, held_bytes: 0 }
    }

    /// Looks at a transaction: it passes (`Some`), or is held back.
    fn look(&mut self, transaction: Transaction) -> Option<Transaction> {
        let Some(link) = &self.link else { return Some(transaction) };
        if transaction.changes.iter().any(is_notice) {
            return self.read_again(transaction);
        }
        let (part, mut runs) = (self.at.pass(&transaction), Vec::new());
        let rules = link.rules.borrow().clone();
        if rules.is_empty() {
            return Some(transaction);
        }
        let rest = fired(&rules, &link.keys, &transaction, part, 0, &mut runs);
        if runs.is_empty() {
            return Some(transaction);
        }
        self.hold(rules, transaction, runs, rest);
        None
    }

    /// Workflows have changed at this point of the history: what comes behind it is judged by what they say now.
    fn read_again(&mut self, transaction: Transaction) -> Option<Transaction> {
        let Some(link) = &self.link else { return Some(transaction) };
        let (reply, done) = oneshot::channel();
        let _ = link.asks.try_send(Asked::Read(transaction.xid, reply)); // refused: the recorder is gone, and so is the route
        self.held_bytes = transaction.bytes;
        self.state = State::Reading(done, transaction);
        None
    }

    /// Has runs recorded, with those of the transactions that wait behind.
    fn hold(&mut self, rules: Arc<Rules>, transaction: Transaction, mut runs: Vec<NewRun>, mut rest: Option<Rest>) {
        let Some(link) = &self.link else { return };
        self.held_bytes = transaction.bytes;
        let mut held = VecDeque::from([transaction]);
        while rest.is_none()
            && self.held_bytes < HELD_BYTES
            && runs.len() < HELD_RUNS
            && let Some(transaction) = self.queue.try_recv()
        {
            if transaction.changes.iter().any(is_notice) {
                self.next = Some(transaction);
                break;
            }
            let part = self.at.pass(&transaction);
            rest = fired(&rules, &link.keys, &transaction, part, 0, &mut runs);
            self.held_bytes += transaction.bytes;
            held.push_back(transaction);
        }
        self.record(held, runs, rest);
    }

    fn record(&mut self, held: VecDeque<Transaction>, runs: Vec<NewRun>, rest: Option<Rest>) {
        let Some(link) = &self.link else { return };
        let (reply, done) = oneshot::channel();
        let _ = link.asks.try_send(Asked::Record(runs, reply));
        self.state = State::Recording(done, held, rest);
    }

    /// The next slice of the last one that is held.
    fn go_on(&mut self, held: VecDeque<Transaction>, rest: Rest) {
        let mut runs = Vec::new();
        let rest = match (&self.link, held.back()) {
            (Some(link), Some(last)) => fired(&rest.rules, &link.keys, last, rest.part, rest.from, &mut runs),
            _ => None,
        };
        match runs.is_empty() {
            true => self.let_go(held),
            false => self.record(held, runs, rest),
        }
    }

    fn let_go(&mut self, held: VecDeque<Transaction>) {
        self.ready.extend(held);
        self.held_bytes = 0;
    }

    /// What was waited for has come.
    fn release(&mut self) {
        match std::mem::replace(&mut self.state, State::Open) {
            State::Open => {}
            State::Reading(_, transaction) => {
                // Its notice is dealt with; what else it holds is looked at now.
                let (Some(link), part, mut runs) = (&self.link, self.at.pass(&transaction), Vec::new()) else { return };
                let rules = link.rules.borrow().clone();
                let rest = fired(&rules, &link.keys, &transaction, part, 0, &mut runs);
                self.held_bytes = 0;
                match runs.is_empty() {
                    true => self.ready.push_back(transaction),
                    false => self.hold(rules, transaction, runs, rest),
                }
            }
            State::Recording(_, held, Some(rest)) => self.go_on(held, rest),
            State::Recording(_, held, None) => self.let_go(held),
        }
    }
}

impl Feed for Tap {
    async fn recv(&mut self) -> Option<Transaction> {
        loop {
            if let Some(transaction) = self.ready.pop_front() {
                return Some(transaction);
            }
            match &mut self.state {
                State::Reading(done, _) | State::Recording(done, ..) => match done.await {
                    Ok(()) => self.release(),
                    // The recorder has ended, with a fault that ends the route.
                    Err(_) => std::future::pending().await,
                },
                State::Open => {
                    let transaction = match self.next.take() {
                        Some(transaction) => transaction,
                        None => self.queue.recv().await?,
                    };
                    if let Some(transaction) = self.look(transaction) {
                        return Some(transaction);
                    }
                }
            }
        }
    }

    fn try_recv(&mut self) -> Option<Transaction> {
        if let Some(transaction) = self.ready.pop_front() {
            return Some(transaction);
        }
        match self.state {
            State::Open => {
                let transaction = self.next.take().or_else(|| self.queue.try_recv())?;
                self.look(transaction)
            }
            _ => None,
        }
    }

    fn queued(&self) -> usize {
        self.queue.queued() + self.held_bytes
    }
}

/// Written by the trigger on the table of workflows: see sql/source/workflow_run.sql.
fn is_notice(change: &Change) -> bool {
    matches!(change, Change::Message { content } if content.starts_with(b"{\"workflows\""))
}

/// What a route that writes into this database notes first, with its name: its changes are echoes of the other side's.
fn is_echo(transaction: &Transaction) -> bool {
    matches!(transaction.changes.first(), Some(Change::Message { content }) if !content.starts_with(b"{"))
}

/// Adds the runs that a transaction leads to, from this change on, until they are enough for a record; says what is left.
fn fired(
    rules: &Arc<Rules>,
    keys: &HashMap<u32, Vec<String>>,
    transaction: &Transaction,
    part: Part,
    from: usize,
    runs: &mut Vec<NewRun>,
) -> Option<Rest> {
    if part.echo {
        return None;
    }
    // Changes of one table mostly come together.
    let mut last: Option<(*const crate::types::Relation, Option<&[Arc<Workflow>]>)> = None;
    for (index, change) in transaction.changes.iter().enumerate().skip(from) {
        if runs.len() >= HELD_RUNS {
            return Some(Rest { rules: rules.clone(), part, from: index });
        }
        let Some((relation, event)) = subject(change) else { continue };
        let workflows = match last {
            Some((known, workflows)) if known == Arc::as_ptr(relation) => workflows,
            _ => {
                let workflows = rules.of(&relation.name);
                last = Some((Arc::as_ptr(relation), workflows));
                workflows
            }
        };
        let Some(workflows) = workflows else { continue };
        if workflows.iter().all(|workflow| workflow.event != event) {
            continue;
        }
        let key = keys.get(&relation.oid).map_or(&[][..], Vec::as_slice);
        let Some(seen) = see(change, key) else { continue };
        let table = relation.name.to_string();
        let place = Place {
            commit: transaction.commit.0,
            xid: transaction.xid,
            committed_at: transaction.committed_at,
            index: part.first + index as u64,
        };
        for workflow in workflows.iter().filter(|workflow| workflow.event == event) {
            match run(workflow, &table, &seen, place) {
                Ok(run) => runs.extend(run),
                Err(wrong) => {
                    crate::metrics::get().workflow_undecided.inc();
                    warn!(workflow = %workflow.name, %table, cause = %wrong, "a workflow cannot tell whether to act; it does not");
                }
            }
        }
    }
    None
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
