//! `lockstep workflow`: what workflows there are and what became of their runs. It asks the source itself, so it works
//! whether or not a service runs; deliveries are made by the service.

use std::io::IsTerminal;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Failure;
use super::output::{Paint, align, thousands};
use crate::app;
use crate::config::{Problem, Settings};
use crate::types::{Fault, FireAsked, Refusal, ReplayAsked, RunsAsked, WorkflowWish};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Show every workflow, whether it can run, and how its runs went
    List,
    /// Create one: when TABLE has EVENT, do ACTION
    Create(Box<Create>),
    /// Send one once, for its newest change or a row of its table; the run's answer is in `workflow runs`
    Test {
        /// The workflow's id
        id: String,
    },
    /// Fire one for rows that are there: after a first copy or a repair, which fire nothing by themselves
    Fire {
        /// The workflow's id
        id: String,
        /// Only the row with this key: its value, or a JSON list of them where the key has several columns
        #[arg(long = "key", value_name = "KEY")]
        keys: Vec<String>,
        /// A row is fired once in each round
        #[arg(long, value_name = "NAME", default_value = "")]
        round: String,
    },
    /// Show runs, the newest first
    Runs(Runs),
    /// Deliver runs again, under their old ids
    Replay {
        /// The runs' ids
        #[arg(required_unless_present = "workflow", conflicts_with = "workflow")]
        ids: Vec<String>,
        /// All runs of this workflow that are in --state
        #[arg(long, value_name = "ID")]
        workflow: Option<String>,
        /// dead or delivered
        #[arg(long, default_value = "dead", requires = "workflow")]
        state: String,
    },
}

#[derive(clap::Args)]
struct Create {
    /// Its name
    #[arg(long)]
    name: String,
    /// The table: name or schema.name
    #[arg(long)]
    table: String,
    /// INSERT, UPDATE or DELETE
    #[arg(long)]
    event: String,
    /// What to do, as JSON: {"type": "trigger_agent_task", "agent_id": "…", "action": "…"}
    #[arg(long, value_name = "JSON")]
    action: String,
    /// Only when this holds, as JSON: {"field": "new.status", "op": "eq", "value": "failed"}
    #[arg(long, value_name = "JSON")]
    condition: Option<String>,
    /// Only when one of these columns has changed (UPDATE)
    #[arg(long = "watch", value_name = "COLUMN")]
    watched: Vec<String>,
    /// Where the change is made: source or target
    #[arg(long, default_value = "source")]
    side: String,
    /// Create it switched off
    #[arg(long)]
    disabled: bool,
}

#[derive(clap::Args)]
struct Runs {
    /// One run, with its rows, what was sent last and what came back
    id: Option<String>,
    /// Only of this workflow
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
    /// waiting, delivering, delivered or dead
    #[arg(long)]
    state: Option<String>,
    /// The page behind this cursor
    #[arg(long, value_name = "CURSOR")]
    before: Option<i64>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "RUNS", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
}

pub(super) async fn run(args: Args, settings: &Settings) -> Result<(), Failure> {
    let one = matches!(&args.verb, Verb::Runs(Runs { id: Some(_), .. }));
    let wish = wish(&args.verb)?;
    let answer = app::ask_workflows(settings, &wish).await?.map_err(failed)?;
    if args.json || one {
        println!("{}", if args.json { answer.to_string() } else { format!("{answer:#}") });
        return Ok(());
    }
    let paint = Paint::new(std::io::stdout().is_terminal());
    match args.verb {
        Verb::List => print!("{}", workflows(&answer, paint)),
        Verb::Runs(_) => print!("{}", runs(&answer, paint)),
        Verb::Create(_) => println!("created {}", text(&answer["id"])),
        Verb::Test { .. } => {
            println!("run {}: `lockstep workflow runs {0}` shows its answer", text(&answer["run"]));
        }
        Verb::Fire { .. } => {
            let count = |name: &str| thousands(answer[name].as_u64().unwrap_or(0));
            println!("{} rows fit, {} runs are new", count("rows"), count("runs"));
        }
        Verb::Replay { .. } => match answer["replayed"].as_u64().unwrap_or(0) {
            0 => return Err(Fault::stop("no such run is finished", "`lockstep workflow runs` shows them").into()),
            many => println!("{} will be delivered again", thousands(many)),
        },
    }
    Ok(())
}

fn wish(verb: &Verb) -> Result<WorkflowWish, Failure> {
    Ok(match verb {
        Verb::List => WorkflowWish::List,
        Verb::Create(create) => WorkflowWish::Create(draft(create)?),
        Verb::Test { id } => WorkflowWish::Test { id: id.clone() },
        Verb::Fire { id, keys, round } => {
            let list = |key: &String| match key.starts_with('[') {
                true => serde_json::from_str(key).unwrap_or_else(|_| vec![key.clone()]),
                false => vec![key.clone()],
            };
            WorkflowWish::Fire(FireAsked {
                id: id.clone(),
                keys: keys.iter().map(list).collect(),
                round: round.clone(),
            })
        }
        Verb::Runs(Runs { id: Some(id), .. }) => WorkflowWish::Run { id: id.clone() },
        Verb::Runs(Runs { workflow, state, before, limit, .. }) => WorkflowWish::Runs(RunsAsked {
            workflow: workflow.clone(),
            state: state.clone(),
            before: *before,
            limit: *limit,
        }),
        Verb::Replay { ids, workflow, state } => WorkflowWish::Replay(ReplayAsked {
            ids: ids.clone(),
            workflow: workflow.clone(),
            state: workflow.is_some().then(|| state.clone()),
        }),
    })
}

fn draft(create: &Create) -> Result<Value, Problem> {
    let read = |flag: &str, text: &str| {
        serde_json::from_str::<Value>(text).map_err(|error| Problem::new(flag, format!("is not JSON ({error})")))
    };
    let condition = create.condition.as_deref().map(|text| read("--condition", text)).transpose()?;
    Ok(json!({
        "workflow_name": create.name,
        "trigger_table": create.table,
        "trigger_event": create.event,
        "side": create.side,
        "watched_columns": create.watched,
        "condition": condition,
        "action_config": read("--action", &create.action)?,
        "enabled": !create.disabled,
    }))
}

fn failed(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Invalid { field, cause } => Problem::new(field, cause).into(),
        other => Fault::retry(other.to_string()).into(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn workflows(answer: &Value, paint: Paint) -> String {
    let list = answer["workflows"].as_array().cloned().unwrap_or_default();
    if list.is_empty() {
        return "there is no workflow; `lockstep workflow create --help` says how to make one\n".into();
    }
    let head = ["id", "name", "when", "action", "state", "delivered", "waiting", "dead"].map(str::to_owned).to_vec();
    let line = |one: &Value| {
        let side = if one["side"] == "target" { " in Supabase" } else { "" };
        let when = format!("{} {}{side}", text(&one["trigger_event"]), text(&one["trigger_table"]));
        let state = match (one["problem"].is_string(), one["enabled"].as_bool()) {
            (true, _) => "cannot run",
            (false, Some(true)) => "on",
            (false, _) => "off",
        };
        let count = |name: &str| thousands(one["runs"][name].as_u64().unwrap_or(0));
        let (id, name, action) = (text(&one["id"]), text(&one["workflow_name"]), text(&one["action_config"]["type"]));
        vec![id, name, when, action, state.into(), count("delivered"), count("waiting"), count("dead")]
    };
    let mut out = table(std::iter::once(head).chain(list.iter().map(line)).collect(), paint);
    for one in list.iter().filter(|one| one["problem"].is_string()) {
        out += &format!("{} {}: {}\n", paint.red("cannot run"), text(&one["workflow_name"]), text(&one["problem"]));
    }
    out
}

fn runs(answer: &Value, paint: Paint) -> String {
    let list = answer["runs"].as_array().cloned().unwrap_or_default();
    if list.is_empty() {
        return "there is no such run\n".into();
    }
    let head = ["id", "workflow", "change", "key", "state", "tries", "recorded (UTC)", "answer", "error"];
    let line = |one: &Value| {
        let at: String = text(&one["created_at"]).replace('T', " ").chars().take(19).collect();
        let key: Vec<String> = one["key"].as_array().map(|key| key.iter().map(text).collect()).unwrap_or_default();
        let took = one["latency_ms"].as_i64().map_or_else(String::new, |ms| format!(" in {ms} ms"));
        let answer = one["status_code"].as_i64().map_or_else(String::new, |status| format!("HTTP {status}{took}"));
        let change = format!("{} {}", text(&one["event"]), text(&one["table"]));
        let (id, name, state) = (text(&one["id"]), text(&one["workflow_name"]), text(&one["state"]));
        vec![id, name, change, key.join(" "), state, text(&one["attempts"]), at, answer, text(&one["error"])]
    };
    let rows = std::iter::once(head.map(str::to_owned).to_vec()).chain(list.iter().map(line)).collect();
    let mut out = table(rows, paint);
    if let Some(next) = answer["next"].as_str() {
        out += &format!("more: --before {next}\n");
    }
    out
}

fn table(rows: Vec<Vec<String>>, paint: Paint) -> String {
    // A name from a row may hold anything: no control character reaches the terminal.
    let clean = |cell: &String| cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(clean).collect()).collect();
    let lines = align(&rows);
    let line = |(index, line): (usize, &String)| match index {
        0 => format!("{}\n", paint.faint(line)),
        _ => format!("{line}\n"),
    };
    lines.iter().enumerate().map(line).collect()
}
