//! Answers what people ask about workflows, and takes what Supabase's webhooks tell. It works on a connection of its own,
//! so it also serves the command line, whether or not a service runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, mpsc};
use tracing::info;

use super::action::Request;
use super::asked;
use super::catalog;
use super::change::Sides;
use super::condition::Wrong;
use super::courier::facts;
use super::fit;
use super::incoming::{Seen, hash, random, record};
use super::post::Post;
use super::row::{Row, plain};
use super::rule::{Event, Side, Workflow, draft, view};
use super::told::told;
use super::{Bell, SESSION, Settings, redact};
use crate::ledger::workflow_runs::{self as runs, Claimed};
use crate::ledger::workflows::{self, Stored, Workflows};
use crate::pg::{self, Client};
use crate::types::{Command, Fault, FireAsked, Order, Refusal, ReplayAsked, RunsAsked, TableName, WorkflowWish};

pub struct Desk {
    settings: Settings,
    bell: Bell,
    post: Post,
    open: Option<(Client, Workflows)>,
}

/// Two deliveries of the same change without an id of their own are taken for one within this time, and for two beyond
/// twice that: the same row may well change the same way again.
const SAME: i64 = 300;
/// A wish of ours is a few statements.
const PATIENCE: Duration = Duration::from_secs(40);

impl Desk {
    pub fn new(settings: Settings, bell: Bell) -> Result<Self, Fault> {
        Ok(Self { post: Post::new(&settings)?, settings, bell, open: None })
    }

    pub async fn serve(mut self, orders: Arc<Mutex<mpsc::Receiver<Order>>>) {
        let mut orders = orders.lock().await;
        while let Some(Order { command, reply }) = orders.recv().await {
            let Command::Workflow(wish) = command else {
                let _ = reply.send(Err(Refusal::Unavailable("this is no wish about workflows".into())));
                continue;
            };
            let answer = tokio::time::timeout(PATIENCE, self.answer(&wish)).await;
            let answer = answer.unwrap_or_else(|_| Err(Refusal::Unavailable("the source does not answer".into())));
            if let Err(Refusal::Unavailable(_)) = &answer {
                self.open = None;
            }
            match (&answer, &wish) {
                (_, wish) if wish.only_looks() => {}
                (_, WorkflowWish::Receive { .. }) => {}
                (Ok(_), wish) => info!(wish = what(wish), "a wish about workflows was carried out"),
                (Err(refusal), wish) => {
                    info!(wish = what(wish), cause = %refusal, "a wish about workflows was refused")
                }
            }
            let _ = reply.send(answer); // who asked may be gone
        }
    }

    pub async fn answer(&mut self, wish: &WorkflowWish) -> Result<Value, Refusal> {
        if self.open.as_ref().is_none_or(|(client, _)| client.is_closed()) {
            self.open = Some(open(&self.settings).await.map_err(unavailable)?);
        }
        named(wish)?;
        match wish {
            WorkflowWish::List => self.list().await,
            WorkflowWish::Create(body) => self.create(body).await,
            WorkflowWish::Replace { id, draft } => self.replace(id, draft).await,
            WorkflowWish::Delete { id } => self.delete(id).await,
            WorkflowWish::Enable { id, enabled } => self.enable(id, *enabled).await,
            WorkflowWish::Test { id } => self.test(id).await,
            WorkflowWish::Fire(asked) => self.fire(asked).await,
            WorkflowWish::DryRun(body) => self.dry_run(body).await,
            WorkflowWish::Runs(asked) => self.runs(asked).await,
            WorkflowWish::Run { id } => self.run(id).await,
            WorkflowWish::Replay(asked) => self.replay(asked).await,
            WorkflowWish::Receive { payload, delivery } => self.receive(payload, delivery.as_deref()).await,
        }
    }

    fn tools(&mut self) -> Result<(&mut Client, &Workflows), Refusal> {
        match &mut self.open {
            Some((client, table)) => Ok((client, table)),
            None => Err(Refusal::Unavailable("the source does not answer".into())),
        }
    }

    async fn stored(&mut self) -> Result<Vec<Stored>, Refusal> {
        let (client, table) = self.tools()?;
        table.read(client).await.map_err(unavailable)
    }

    async fn find(&mut self, id: &str) -> Result<Stored, Refusal> {
        let stored = self.stored().await?;
        let found = stored.into_iter().find(|stored| stored.id == id);
        found.ok_or_else(|| Refusal::NotFound(format!("there is no workflow {id}")))
    }

    async fn list(&mut self) -> Result<Value, Refusal> {
        let stored = self.stored().await?;
        self.views(&stored).await
    }

    async fn views(&mut self, stored: &[Stored]) -> Result<Value, Refusal> {
        let parsed: Vec<Result<Workflow, Wrong>> = stored.iter().map(Workflow::parse).collect();
        let names: BTreeSet<TableName> = parsed.iter().flatten().map(|workflow| workflow.table.clone()).collect();
        let ids: Vec<String> = stored.iter().map(|stored| stored.id.clone()).collect();
        let publication = self.settings.publication.clone();
        let (client, _) = self.tools()?;
        let tables = catalog::tables(client, &publication, &names).await.map_err(unavailable)?;
        let tallies = runs::tallies(client, &ids).await.map_err(unavailable)?;
        let mut views = Vec::new();
        for (stored, parsed) in stored.iter().zip(parsed) {
            let problem = match &parsed {
                Err(wrong) => Some(wrong.to_string()),
                Ok(workflow) => self.problem(workflow, tables.get(&workflow.table)).map(|wrong| wrong.to_string()),
            };
            let mut view = view(stored);
            view["problem"] = json!(problem);
            let tally = tallies.iter().find(|tally| tally.workflow == stored.id);
            view["runs"] = json!({
                "delivered": tally.map_or(0, |tally| tally.delivered),
                "waiting": tally.map_or(0, |tally| tally.waiting),
                "dead": tally.map_or(0, |tally| tally.dead),
            });
            view["last_run"] = tally.map_or(Value::Null, |tally| tally.last.clone());
            views.push(view);
        }
        Ok(json!({ "workflows": views }))
    }

    /// Why a workflow that is understood cannot do its work.
    fn problem(&self, workflow: &Workflow, table: Option<&catalog::Table>) -> Option<Wrong> {
        fit::problem(workflow, table, &self.settings, self.post.guard())
    }

    /// Reads a draft; refuses one that could never run. What a list hid of `before` may come back hidden.
    async fn fit(&mut self, id: &str, body: &Value, before: Option<&Stored>) -> Result<(Stored, Workflow), Refusal> {
        let mut body = body.clone();
        let known = before.and_then(|before| before.action_config.as_ref());
        if body.get_mut("action_config").is_some_and(|config| !redact::reveal(config, known)) {
            let cause = format!("holds {}, where nothing is stored that could stand for it", redact::HIDDEN);
            return Err(Refusal::invalid("action_config", cause));
        }
        let (stored, workflow) = draft(id, &body).map_err(refused)?;
        let publication = self.settings.publication.clone();
        let (client, _) = self.tools()?;
        let names = BTreeSet::from([workflow.table.clone()]);
        let tables = catalog::tables(client, &publication, &names).await.map_err(unavailable)?;
        match self.problem(&workflow, tables.get(&workflow.table)) {
            Some(wrong) => Err(refused(wrong)),
            None => Ok((stored, workflow)),
        }
    }

    async fn create(&mut self, body: &Value) -> Result<Value, Refusal> {
        let (stored, _) = self.fit("", body, None).await?;
        let (client, table) = self.tools()?;
        let id = table.insert(client, &stored).await.map_err(unavailable)?;
        self.shown(&id).await
    }

    async fn replace(&mut self, id: &str, body: &Value) -> Result<Value, Refusal> {
        let before = self.find(id).await?;
        let (stored, _) = self.fit(id, body, Some(&before)).await?;
        let (client, table) = self.tools()?;
        table.update(client, &stored).await.map_err(unavailable)?;
        self.shown(id).await
    }

    /// The workflow as a list shows it.
    async fn shown(&mut self, id: &str) -> Result<Value, Refusal> {
        let stored = self.find(id).await?;
        let mut views = self.views(&[stored]).await?;
        Ok(views["workflows"][0].take())
    }

    async fn delete(&mut self, id: &str) -> Result<Value, Refusal> {
        let (client, table) = self.tools()?;
        match table.delete(client, id).await.map_err(unavailable)? {
            true => Ok(json!({"deleted": id})),
            false => Err(Refusal::NotFound(format!("there is no workflow {id}"))),
        }
    }

    async fn enable(&mut self, id: &str, enabled: bool) -> Result<Value, Refusal> {
        let stored = self.find(id).await?;
        if enabled {
            Workflow::parse(&stored).map_err(refused)?;
        }
        let (client, table) = self.tools()?;
        table.enable(client, id, enabled).await.map_err(unavailable)?;
        self.bell.notify_one();
        self.shown(id).await
    }

    /// A change to try a workflow on: the newest real one of its kind, or a row of the table as if it had just come.
    async fn sample(&mut self, workflow: &Workflow) -> Result<Option<(Seen, &'static str)>, Refusal> {
        let (client, _) = self.tools()?;
        let table = workflow.table.to_string();
        let recent = runs::recent(client, &table, workflow.event.word(), workflow.side.word()).await;
        if let Some((key, new, old)) = recent.map_err(unavailable)? {
            let key = serde_json::from_str(&key).unwrap_or_default();
            return Ok(seen(workflow.event, new, old, key).map(|seen| (seen, "the newest change of this kind")));
        }
        let table = catalog::table(client, &workflow.table).await.map_err(unavailable)?;
        let Some(table) = table else { return Ok(None) };
        let row = catalog::newest_row(client, &workflow.table, &table.key).await.map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        let key = key_of(&row, &table.key);
        let old = Some(row.clone()).filter(|_| workflow.event == Event::Delete || table.known.full);
        let (new, old) = match workflow.event {
            Event::Insert => (Some(row), None),
            Event::Update => (Some(row), old),
            Event::Delete => (None, old),
        };
        Ok(seen(workflow.event, new, old, key).map(|seen| (seen, "a row of the table, as if it had just changed")))
    }

    async fn test(&mut self, id: &str) -> Result<Value, Refusal> {
        let stored = self.find(id).await?;
        let workflow = Workflow::parse(&stored).map_err(refused)?;
        let Some((seen, _)) = self.sample(&workflow).await? else {
            return Err(Refusal::Conflict(format!("{} has no row to try it on", workflow.table)));
        };
        let run = record(&workflow, workflow.side, &workflow.table.to_string(), &seen, random());
        let run = runs::NewRun { test: true, order_key: random(), ..run };
        let (client, _) = self.tools()?;
        let id = run.id.clone();
        runs::record(client, &[run]).await.map_err(unavailable)?;
        self.bell.notify_one();
        Ok(json!({"run": id}))
    }

    async fn fire(&mut self, asked: &FireAsked) -> Result<Value, Refusal> {
        let stored = self.find(&asked.id).await?;
        let workflow = Workflow::parse(&stored).map_err(refused)?;
        let (client, _) = self.tools()?;
        let (rows, fired) = asked::fire(client, &workflow, asked).await?;
        self.bell.notify_one();
        Ok(json!({"rows": rows, "runs": fired}))
    }

    async fn dry_run(&mut self, body: &Value) -> Result<Value, Refusal> {
        let (_, workflow) = draft("00000000-0000-0000-0000-000000000000", body).map_err(refused)?;
        let Some((seen, from)) = self.sample(&workflow).await? else {
            let why = format!("{} has no row to try it on", workflow.table);
            return Ok(json!({"change": null, "matches": false, "why": why, "request": null}));
        };
        let row = |json: &Option<Arc<str>>| {
            let mut row = json.as_deref().and_then(|json| serde_json::from_str(json).ok()).unwrap_or(Value::Null);
            redact::hide(&mut row);
            row
        };
        let table = workflow.table.to_string();
        let change = json!({"table": table, "event": workflow.event.word(), "key": seen.key, "from": from,
            "new": row(&seen.new), "old": row(&seen.old)});
        let (matches, why) = match workflow.matches(&seen.sides) {
            Ok(true) => (true, "it would act on this change".to_owned()),
            Ok(false) => (false, "its condition or its watched columns leave this change out".to_owned()),
            Err(wrong) => (false, wrong.to_string()),
        };
        let run = record(&workflow, workflow.side, &table, &seen, random());
        let (request, why) = match self.rendered(&workflow, &run) {
            Ok(request) => (request, why),
            Err(wrong) => (Value::Null, format!("{why}; and it could not: {wrong}")),
        };
        Ok(json!({"change": change, "matches": matches, "why": why, "request": request}))
    }

    fn rendered(&self, workflow: &Workflow, run: &runs::NewRun) -> Result<Value, String> {
        let claimed = Claimed {
            id: run.id.clone(),
            workflow_id: workflow.id.clone(),
            workflow_name: workflow.name.clone(),
            test: true,
            side: run.side.into(),
            table: run.table.clone(),
            event: run.event.into(),
            key: run.key.clone(),
            committed_at: Some(jiff::Timestamp::now().to_string()),
            new: run.new.as_deref().map(str::to_owned),
            old: run.old.as_deref().map(str::to_owned),
            left_out: Vec::new(),
            attempts: 1,
        };
        let facts = facts(&claimed)?;
        match workflow.action.render(&facts, self.settings.agents.as_ref()).map_err(|wrong| wrong.to_string())? {
            Request::Http(request) => {
                let headers = self.post.headers(&run.id, jiff::Timestamp::now().as_second(), &request);
                Ok(self.post.kept(&headers, &request))
            }
            Request::Notify { channel, payload } => {
                let body = redact::body(&payload, self.settings.kept_bytes);
                Ok(json!({"method": "NOTIFY", "url": channel, "headers": {}, "body": body}))
            }
        }
    }

    async fn runs(&mut self, asked: &RunsAsked) -> Result<Value, Refusal> {
        known_state(asked.state.as_deref())?;
        let (client, _) = self.tools()?;
        runs::list(client, asked).await.map_err(unavailable)
    }

    async fn run(&mut self, id: &str) -> Result<Value, Refusal> {
        let (client, _) = self.tools()?;
        let mut run = runs::get(client, id).await.map_err(unavailable)?;
        if let Some(run) = &mut run {
            ["new", "old"].iter().for_each(|side| redact::hide(&mut run[*side]));
        }
        run.ok_or_else(|| Refusal::NotFound(format!("there is no run {id} (any more)")))
    }

    async fn replay(&mut self, asked: &ReplayAsked) -> Result<Value, Refusal> {
        match (asked.ids.is_empty(), &asked.workflow) {
            (true, None) => return Err(Refusal::invalid("ids", "say which: ids, or workflow and state")),
            (false, Some(_)) => return Err(Refusal::invalid("workflow", "cannot stand beside ids")),
            _ => {}
        }
        match asked.state.as_deref() {
            None | Some("dead" | "delivered") => {}
            Some(_) => return Err(Refusal::invalid("state", "must be dead or delivered: the others are on their way")),
        }
        let (client, _) = self.tools()?;
        let replayed = runs::replay(client, asked).await.map_err(unavailable)?;
        self.bell.notify_one();
        Ok(json!({"replayed": replayed}))
    }

    /// What one of Supabase's webhooks tells.
    async fn receive(&mut self, payload: &str, delivery: Option<&str>) -> Result<Value, Refusal> {
        let told = told(payload).map_err(refused)?;
        let stored = self.stored().await?;
        let workflows: Vec<Workflow> = stored.iter().filter_map(|stored| Workflow::parse(stored).ok()).collect();
        let of_table = |workflow: &&Workflow| workflow.table == told.table;
        let (client, _) = self.tools()?;
        let table = catalog::table(client, &told.table).await.map_err(unavailable)?;
        let known = table.is_some() || workflows.iter().filter(of_table).any(|workflow| workflow.side == Side::Target);
        if !known {
            return Err(Refusal::NotFound(format!("table: {} is not known here", told.table)));
        }
        let mut key_names = table.map(|table| table.key).unwrap_or_default();
        if key_names.is_empty() {
            key_names.push("id".into());
        }
        let row = told.new.as_ref().or(told.old.as_ref()).cloned().unwrap_or_default();
        let key = key_of(&row, &key_names);
        let Some(seen) = seen(told.event, told.new, told.old, key) else {
            return Err(Refusal::invalid("record", "cannot be read as a row"));
        };
        // Without an id of its own, a delivery is known by its content, for a while.
        let now = jiff::Timestamp::now().as_second() / SAME;
        let digest = format!("{:x?}", Sha256::digest(payload.as_bytes()).as_slice());
        let (mut new, mut before) = (Vec::new(), Vec::new());
        let acting = workflows
            .iter()
            .filter(of_table)
            .filter(|workflow| workflow.enabled && workflow.side == Side::Target && workflow.event == told.event);
        for workflow in acting {
            match workflow.matches(&seen.sides) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => {
                    crate::metrics::get().workflow_undecided.inc();
                    continue;
                }
            }
            let id = |bucket: i64| match delivery {
                Some(delivery) => hash(&["webhook", &workflow.id, delivery]),
                None => hash(&["webhook", &workflow.id, &digest, &bucket.to_string()]),
            };
            before.push(id(now - 1));
            let at = jiff::Timestamp::now().as_microsecond();
            let run = record(workflow, Side::Target, &told.table.to_string(), &seen, id(now));
            new.push(runs::NewRun { committed_at: Some(at), ..run });
        }
        let (client, _) = self.tools()?;
        let matched = new.len() as u64;
        let recorded = runs::record_unless(client, &new, &before).await.map_err(unavailable)?;
        crate::metrics::get().workflow_runs_recorded.inc_by(recorded);
        self.bell.notify_one();
        Ok(json!({"runs": recorded, "duplicates": matched - recorded}))
    }
}

fn seen(event: Event, new: Option<String>, old: Option<String>, key: Vec<String>) -> Option<Seen> {
    let sides = Sides::parse(new.as_deref(), old.as_deref())?.with(event == Event::Update, Vec::new());
    Some(Seen { event, new: new.map(Arc::from), old: old.map(Arc::from), left_out: Vec::new(), key, sides })
}

/// The values of the key's columns, as texts; of a row without them all of it.
pub(super) fn key_of(row: &str, names: &[String]) -> Vec<String> {
    let read = Row::parse(row).unwrap_or_default();
    let text = |name: &String| read.get(name).map(plain);
    names.iter().map(text).collect::<Option<Vec<_>>>().unwrap_or_else(|| vec![hash(&[row])])
}

fn known_state(state: Option<&str>) -> Result<(), Refusal> {
    match state {
        None | Some("waiting" | "delivering" | "delivered" | "dead") => Ok(()),
        Some(_) => Err(Refusal::invalid("state", "must be waiting, delivering, delivered or dead")),
    }
}

/// No name in Postgres holds a NUL, and none is that long.
fn named(wish: &WorkflowWish) -> Result<(), Refusal> {
    let odd = |text: &str| text.contains('\0') || text.len() > 255;
    match wish {
        WorkflowWish::Replace { id, .. }
        | WorkflowWish::Delete { id }
        | WorkflowWish::Enable { id, .. }
        | WorkflowWish::Test { id }
        | WorkflowWish::Fire(FireAsked { id, .. })
            if odd(id) =>
        {
            Err(Refusal::NotFound("there is no such workflow".into()))
        }
        WorkflowWish::Fire(FireAsked { keys, .. }) if keys.iter().flatten().any(|text| text.contains('\0')) => {
            Err(Refusal::invalid("keys", "hold the character \\u0000, which no key has"))
        }
        WorkflowWish::Runs(RunsAsked { workflow: Some(id), .. })
        | WorkflowWish::Replay(ReplayAsked { workflow: Some(id), .. })
            if odd(id) =>
        {
            Err(Refusal::invalid("workflow", "is not the id of a workflow"))
        }
        _ => Ok(()),
    }
}

/// For the log: which wish, without what it holds.
fn what(wish: &WorkflowWish) -> &'static str {
    match wish {
        WorkflowWish::List => "list",
        WorkflowWish::Create(_) => "create",
        WorkflowWish::Replace { .. } => "replace",
        WorkflowWish::Delete { .. } => "delete",
        WorkflowWish::Enable { enabled: true, .. } => "enable",
        WorkflowWish::Enable { .. } => "disable",
        WorkflowWish::Test { .. } => "test",
        WorkflowWish::Fire(_) => "fire",
        WorkflowWish::DryRun(_) => "dry run",
        WorkflowWish::Runs(_) | WorkflowWish::Run { .. } => "runs",
        WorkflowWish::Replay(_) => "replay",
        WorkflowWish::Receive { .. } => "receive",
    }
}

async fn open(settings: &Settings) -> Result<(Client, Workflows), Fault> {
    let client = pg::connect(&settings.source, "lockstep desk").await?;
    client.batch_execute(SESSION).await.map_err(|error| pg::client::fault(&error))?;
    runs::ensure(&client, settings.create).await?;
    let table = workflows::adopt(&client, &settings.table, settings.create).await?;
    Ok((client, table))
}

pub(super) fn refused(wrong: Wrong) -> Refusal {
    Refusal::invalid(wrong.field, wrong.cause)
}

pub(super) fn unavailable(fault: Fault) -> Refusal {
    Refusal::Unavailable(fault.to_string())
}
