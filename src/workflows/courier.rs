//! Delivers what is recorded: at least once, in order for each key, each workflow within its room, so that one receiver
//! that is down keeps nobody else waiting. One courier at a time works on a source.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::action::Request;
use super::change::Sides;
use super::health::Health;
use super::noted::Noted;
use super::post::{Outcome, Post, Verdict};
use super::rule::Workflow;
use super::template::Facts;
use super::{Bell, SESSION, Settings, fit, redact};
use crate::ledger::workflow_runs::{self as runs, Claimed, Tried, TryEnd};
use crate::ledger::workflows::{self, Stored, Workflows};
use crate::pg::{self, Client};
use crate::types::{Fault, TableName, Timeline};

pub struct Courier {
    pub settings: Settings,
    /// Rung by whoever records a run.
    pub bell: Bell,
    /// Told of workflows that change.
    pub timeline: Timeline,
}

/// How often it looks although nobody rang: while runs wait for their next try, and while none does.
const BUSY: Duration = Duration::from_millis(200);
const IDLE: Duration = Duration::from_secs(1);
/// The definitions are read this often, and what waits is counted.
const READ: Duration = Duration::from_secs(1);
/// Whether they can do their work, and how many runs are dead, is looked at when they change, and this often: tables
/// change too.
const JUDGE: Duration = Duration::from_secs(15);
/// What is old is forgotten this often.
const FORGET: Duration = Duration::from_secs(60);
/// A shutdown waits so long for answers that are on their way; what is cut off is delivered again.
const FAREWELL: Duration = Duration::from_secs(5);

impl Courier {
    /// Until `closing` turns true.
    pub async fn run(self, mut closing: watch::Receiver<bool>) {
        let mut told = String::new();
        let post = match Post::new(&self.settings) {
            Ok(post) => Arc::new(post),
            Err(fault) => {
                crate::metrics::get().workflows_working.set("deliver", 0.0);
                return warn!(cause = %fault, "workflows cannot be delivered");
            }
        };
        let (mut noted, mut health) = (Noted::new(self.timeline.clone()), Health::new("deliver"));
        while !*closing.borrow() {
            let Err(fault) = self.work(&post, &mut noted, &mut health, &mut closing).await else { return };
            health.fails();
            let cause = fault.to_string();
            match cause == told {
                true => debug!(%cause, "workflows are not delivered now"),
                false => info!(%cause, "workflows are not delivered now"),
            }
            told = cause;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = closed(&mut closing) => return,
            }
        }
    }

    async fn work(
        &self,
        post: &Arc<Post>,
        noted: &mut Noted,
        health: &mut Health,
        closing: &mut watch::Receiver<bool>,
    ) -> Result<(), Fault> {
        let client = pg::connect(&self.settings.source, "lockstep courier").await?;
        client.batch_execute(SESSION).await.map_err(|error| pg::client::fault(&error))?;
        tokio::select! {
            made = made(&client, &self.settings.table) => made?,
            () = closed(closing) => return Ok(()),
        }
        let table = workflows::adopt(&client, &self.settings.table, false).await?;
        tokio::select! {
            alone = alone(&client, health) => alone?,
            () = closed(closing) => return Ok(()),
        }
        let again = runs::take_over(&client).await?;
        if again > 0 {
            info!(runs = again, "deliveries were cut off when a process ended; they are made again under their ids");
        }
        let client = Arc::new(client);
        let mut round = Round::new(self.settings.clone(), post.clone(), client, table);
        loop {
            let wait = round.go(noted).await?;
            health.works();
            tokio::select! {
                Some(tried) = round.on_their_way.join_next() => round.end(tried).await?,
                () = self.bell.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = closed(closing) => return round.farewell().await,
            }
        }
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|&close| close).await; // a supervisor that is gone wants it too
}

/// Waits until the tables are there: the route makes them when it begins, and before that there is nothing to deliver.
async fn made(client: &Client, table: &TableName) -> Result<(), Fault> {
    while !(runs::exist(client).await? && workflows::there(client, table).await?) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Waits until no other process delivers. The lock goes with the connection.
async fn alone(client: &Client, health: &mut Health) -> Result<(), Fault> {
    const LOCK: &str = "select pg_try_advisory_lock(hashtext('lockstep'), hashtext('workflows'))";
    let mut told = false;
    loop {
        if client.query_one(LOCK, &[]).await.map_err(|error| pg::client::fault(&error))?.get(0) {
            return Ok(());
        }
        if !told {
            info!("another process delivers this source's workflows; this one waits");
            told = true;
        }
        health.works(); // somebody delivers
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The state of one connection's work.
struct Round {
    settings: Settings,
    post: Arc<Post>,
    client: Arc<Client>,
    table: Workflows,
    /// Every workflow, or why it cannot run.
    known: HashMap<String, Known>,
    read_at: Option<Instant>,
    judged_at: Option<Instant>,
    /// The last time nobody could tell, which was said.
    unjudged: bool,
    forgot_at: Option<Instant>,
    open: runs::Open,
    /// By workflow: deliveries that are on their way.
    busy: HashMap<String, usize>,
    on_their_way: JoinSet<(String, Tried)>,
    /// Deliveries that may begin now; it fills up with time.
    tokens: f64,
    filled_at: Instant,
}

struct Known {
    enabled: bool,
    workflow: Result<Arc<Workflow>, String>,
}

fn known(stored: &Stored) -> (String, Known) {
    let workflow = Workflow::parse(stored).map(Arc::new).map_err(|wrong| wrong.to_string());
    (stored.id.clone(), Known { enabled: stored.enabled, workflow })
}

impl Round {
    fn new(settings: Settings, post: Arc<Post>, client: Arc<Client>, table: Workflows) -> Self {
        let tokens = f64::from(settings.per_second);
        let now = Instant::now();
        let (known, busy, open) = Default::default();
        let on_their_way = JoinSet::new();
        Self {
            settings,
            post,
            client,
            table,
            known,
            read_at: None,
            judged_at: None,
            unjudged: false,
            forgot_at: None,
            open,
            busy,
            on_their_way,
            tokens,
            filled_at: now,
        }
    }

    /// Takes what is due; says how long to wait when nothing happens.
    async fn go(&mut self, noted: &mut Noted) -> Result<Duration, Fault> {
        if self.read_at.is_none_or(|at| at.elapsed() >= READ) {
            self.read(noted).await?;
        }
        while runs::line_up(&self.client).await? > 0 {}
        let most = self.room();
        let mut began = 0;
        if most > 0 {
            let rooms: Vec<(String, i32, bool)> = self
                .known
                .iter()
                .filter_map(|(id, known)| {
                    let room = self.settings.per_workflow.saturating_sub(self.busy.get(id).copied().unwrap_or(0));
                    (room > 0).then(|| (id.clone(), room as i32, known.enabled))
                })
                .collect();
            let claimed = runs::claim(&self.client, &rooms, most as i64).await?;
            for claimed in self.still_wanted(claimed).await? {
                self.begin(claimed);
                began += 1;
            }
        }
        Ok(if began > 0 || self.open.waiting > 0 { BUSY } else { IDLE })
    }

    /// What was switched off, deleted or written anew up to the claim holds for what was claimed: the definitions were
    /// read up to a second ago.
    async fn still_wanted(&mut self, claimed: Vec<Claimed>) -> Result<Vec<Claimed>, Fault> {
        let ids: Vec<&str> = claimed.iter().map(|run| run.workflow_id.as_str()).collect();
        if ids.is_empty() {
            return Ok(claimed);
        }
        let stored = self.table.some(&self.client, &ids).await?;
        self.known.retain(|id, _| !ids.contains(&id.as_str()));
        self.known.extend(stored.iter().map(known));
        let off = |run: &Claimed| !run.test && self.known.get(&run.workflow_id).is_some_and(|known| !known.enabled);
        let (off, wanted): (Vec<Claimed>, Vec<Claimed>) = claimed.into_iter().partition(off);
        if !off.is_empty() {
            let ids: Vec<&str> = off.iter().map(|run| run.id.as_str()).collect();
            runs::put_back(&self.client, &ids).await?;
        }
        Ok(wanted)
    }

    /// How many deliveries may begin now.
    fn room(&mut self) -> usize {
        let per_second = f64::from(self.settings.per_second);
        self.tokens = (self.tokens + self.filled_at.elapsed().as_secs_f64() * per_second).min(per_second.max(1.0));
        self.filled_at = Instant::now();
        self.settings.concurrency.saturating_sub(self.on_their_way.len()).min(self.tokens as usize)
    }

    async fn read(&mut self, noted: &mut Noted) -> Result<(), Fault> {
        let stored = self.table.read(&self.client).await?;
        self.known = stored.iter().map(known).collect();
        // Where not all were read, nobody knows which were deleted.
        let all = stored.len() < workflows::MANY;
        let judge = noted.look(&stored, all) || self.judged_at.is_none_or(|at| at.elapsed() >= JUDGE);
        let orphans = runs::orphans(&self.client, &self.settings.table).await?;
        if orphans > 0 {
            info!(runs = orphans, "runs of deleted workflows were given up");
        }
        let ids: Vec<&str> = stored.iter().map(|stored| stored.id.as_str()).collect();
        let on: Vec<&str> = stored.iter().filter(|stored| stored.enabled).map(|stored| stored.id.as_str()).collect();
        self.open = runs::open(&self.client, &on).await?;
        let metrics = crate::metrics::get();
        metrics.workflow_waiting.set(self.open.waiting);
        metrics.workflow_oldest_seconds.set(self.open.oldest);
        if judge {
            metrics.workflow_dead.set(runs::dead(&self.client, &ids).await?);
            self.judge(&stored).await;
        }
        if self.forgot_at.is_none_or(|at| at.elapsed() >= FORGET) {
            // A bounded bite at a time.
            let keep = i64::try_from(self.settings.keep.as_secs()).unwrap_or(i64::MAX);
            let forgotten = runs::forget(&self.client, keep, &self.settings.slot).await?;
            debug!(runs = forgotten, "old runs were forgotten");
            if forgotten < 5000 {
                self.forgot_at = Some(Instant::now());
            }
        }
        self.read_at = Some(Instant::now());
        Ok(())
    }

    /// Counts those that cannot do their work. Where nobody can tell for now, runs are delivered all the same.
    async fn judge(&mut self, stored: &[Stored]) {
        match fit::count(&self.client, stored, &self.settings, self.post.guard()).await {
            Ok(unfit) => {
                crate::metrics::get().workflows_unfit.set(unfit as i64);
                self.unjudged = false;
            }
            Err(fault) if self.unjudged => debug!(cause = %fault, "nobody can tell which workflows are unfit"),
            Err(fault) => {
                info!(cause = %fault, "nobody can tell now which workflows are unfit");
                self.unjudged = true;
            }
        }
        self.judged_at = Some(Instant::now());
    }

    fn begin(&mut self, run: Claimed) {
        self.tokens -= 1.0;
        *self.busy.entry(run.workflow_id.clone()).or_default() += 1;
        let workflow = match self.known.get(&run.workflow_id) {
            Some(Known { workflow, .. }) => workflow.clone(),
            None => Err("its workflow was deleted".into()),
        };
        let (settings, post, client) = (self.settings.clone(), self.post.clone(), self.client.clone());
        self.on_their_way.spawn(async move {
            let outcome = match workflow {
                Ok(workflow) => deliver(&settings, &post, &client, &workflow, &run).await,
                Err(cause) => never(cause),
            };
            (run.workflow_id.clone(), tried(&settings, &run, outcome))
        });
    }

    async fn end(&mut self, ended: Result<(String, Tried), tokio::task::JoinError>) -> Result<(), Fault> {
        let (workflow, tried) = ended.map_err(|error| Fault::retry(format!("a delivery broke: {error}")))?;
        if let Some(busy) = self.busy.get_mut(&workflow) {
            *busy = busy.saturating_sub(1);
        }
        let metrics = crate::metrics::get();
        let result = match &tried.end {
            TryEnd::Delivered => "delivered",
            TryEnd::Again { .. } => "again",
            TryEnd::Dead { error } => {
                warn!(run = %tried.id, %workflow, cause = %error, "a run of a workflow is dead: replay it once that is mended");
                "dead"
            }
        };
        metrics.workflow_tries.with_label_values(&[result]).inc();
        metrics.workflow_seconds.observe(f64::from(tried.latency_ms) / 1000.0);
        runs::finish(&self.client, &tried).await
    }

    /// Waits a little for the answers that are on their way.
    async fn farewell(mut self) -> Result<(), Fault> {
        let rest = async {
            while let Some(ended) = self.on_their_way.join_next().await {
                self.end(ended).await?;
            }
            Ok(())
        };
        tokio::time::timeout(FAREWELL, rest).await.unwrap_or(Ok(()))
    }
}

/// What templates may name of a run.
pub(super) fn facts(run: &Claimed) -> Result<Facts, String> {
    let sides = Sides::parse(run.new.as_deref(), run.old.as_deref()).ok_or("its rows cannot be read")?;
    let sides = sides.with(run.event == "UPDATE", run.left_out.clone());
    Ok(Facts {
        run_id: run.id.clone(),
        workflow_id: run.workflow_id.clone(),
        workflow_name: run.workflow_name.clone(),
        event: run.event.clone(),
        table: run.table.clone(),
        key: run.key.clone(),
        committed_at: run.committed_at.clone(),
        new: run.new.clone(),
        old: run.old.clone(),
        sides,
    })
}

async fn deliver(settings: &Settings, post: &Post, client: &Client, workflow: &Workflow, run: &Claimed) -> Outcome {
    let facts = match facts(run) {
        Ok(facts) => facts,
        Err(cause) => return never(cause),
    };
    match workflow.action.render(&facts, settings.agents.as_ref()) {
        Err(wrong) => never(wrong.to_string()),
        Ok(Request::Http(request)) => post.send(&run.id, &request).await,
        Ok(Request::Notify { channel, payload }) => notify(settings, client, &channel, &payload).await,
    }
}

async fn notify(settings: &Settings, client: &Client, channel: &str, payload: &str) -> Outcome {
    let begun = Instant::now();
    let sent = client.execute("select pg_notify($1, $2)", &[&channel, &payload]).await;
    let verdict = match sent.map_err(|error| pg::client::fault(&error)) {
        Ok(_) => Verdict::Done,
        Err(Fault::Retry { cause }) => Verdict::Again { cause, wait: None },
        Err(fault) => Verdict::Never { cause: fault.to_string() },
    };
    let body = redact::body(payload, settings.kept_bytes);
    let request = serde_json::json!({"method": "NOTIFY", "url": channel, "headers": {}, "body": body});
    Outcome { verdict, status: None, latency: begun.elapsed(), request, answer: None }
}

fn never(cause: String) -> Outcome {
    let verdict = Verdict::Never { cause };
    Outcome { verdict, status: None, latency: Duration::ZERO, request: serde_json::Value::Null, answer: None }
}

/// What follows from an outcome.
fn tried(settings: &Settings, run: &Claimed, outcome: Outcome) -> Tried {
    let Outcome { verdict, status, latency, request, answer } = outcome;
    let tries = u32::try_from(run.attempts).unwrap_or(1);
    // What a fault says may hold what the row held.
    let verdict = match verdict {
        Verdict::Done => Verdict::Done,
        Verdict::Never { cause } => Verdict::Never { cause: redact::storable(&cause) },
        Verdict::Again { cause, wait } => Verdict::Again { cause: redact::storable(&cause), wait },
    };
    let end = match verdict {
        Verdict::Done => TryEnd::Delivered,
        Verdict::Never { cause } => TryEnd::Dead { error: cause },
        // Whoever pressed the button looks at the answer, and presses it again.
        Verdict::Again { cause, .. } if run.test => TryEnd::Dead { error: cause },
        Verdict::Again { cause, .. } if tries >= settings.attempts => {
            TryEnd::Dead { error: format!("given up after {tries} tries: {cause}") }
        }
        Verdict::Again { cause, wait } => {
            let wait = backoff(settings, tries, chance()).max(wait.unwrap_or_default().min(settings.max_wait));
            TryEnd::Again { error: cause, wait_ms: i64::try_from(wait.as_millis()).unwrap_or(i64::MAX) }
        }
    };
    let latency_ms = i32::try_from(latency.as_millis()).unwrap_or(i32::MAX);
    let request = (!request.is_null()).then(|| redact::storable_json(request));
    let answer = answer.as_deref().map(redact::storable);
    Tried { id: run.id.clone(), end, status, latency_ms, request, answer }
}

/// Twice as long after every try, up to a cap; of that a random half, so that many runs do not come back together.
fn backoff(settings: &Settings, tries: u32, chance: f64) -> Duration {
    let doubled =
        settings.first_wait.saturating_mul(1u32.checked_shl(tries.saturating_sub(1).min(31)).unwrap_or(u32::MAX));
    doubled.min(settings.max_wait).mul_f64(0.5 + chance / 2.0)
}

/// From 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
