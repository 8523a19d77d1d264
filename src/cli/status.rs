//! `lockstep status`: asks the running service and prints its answer. Exit 0 in step, 1 not.

use std::io::IsTerminal;

use jiff::Timestamp;

use super::Failure;
use super::output::{Paint, align, size, span, thousands};
use super::service;
use crate::config::Settings;
use crate::status::{End, Jobs, State, Status, TableState, Verdict, View};
use crate::types::Fault;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print the service's answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, settings: &Settings) -> Result<(), Failure> {
    let text = service::get(settings, "/api/status").await?.answered()?;
    let view: View = serde_json::from_str(&text)
        .map_err(|error| Fault::retry(format!("the answer of {} is not a status: {error}", settings.http.listen)))?;
    if args.json {
        println!("{text}");
    } else {
        let paint = Paint::new(std::io::stdout().is_terminal());
        print!("{}", show(&view, Timestamp::now(), paint));
    }
    if view.verdict == Verdict::InStep { Ok(()) } else { Err(Failure::No) }
}

/// The whole answer, for people.
fn show(view: &View, now: Timestamp, paint: Paint) -> String {
    let status = &view.status;
    let mut out = format!("{}\n\n", headline(&view.verdict, paint));
    let mut known = facts(status, now);
    known.extend(jobs(&view.jobs, now));
    for line in align(&known) {
        out += &format!("{line}\n");
    }
    if let State::Stopped { fix, .. } = &status.state {
        out += &format!("{}  {fix}\n", paint.yellow("fix"));
    }
    if matches!(status.state, State::NotConfigured { .. }) {
        out += &format!("{}  set the project's address and key on the page, or in .env\n", paint.yellow("fix"));
    }
    let mut rows = vec![["table", "state", "rows", "last change"].map(str::to_owned).to_vec()];
    rows.extend(status.tables.iter().map(|table| {
        let when = table.changed_at.map_or("-".into(), |at| ago(at, now));
        vec![table.name.clone(), words(&table.state), thousands(table.rows), when]
    }));
    if rows.len() > 1 {
        out += "\n";
        for (index, line) in align(&rows).iter().enumerate() {
            let parked = index > 0 && matches!(status.tables[index - 1].state, TableState::Parked { .. });
            let line = match (index, parked) {
                (0, _) => paint.faint(line),
                (_, true) => paint.red(line),
                _ => line.clone(),
            };
            out += &format!("{line}\n");
        }
    }
    out
}

fn headline(verdict: &Verdict, paint: Paint) -> String {
    match verdict {
        Verdict::InStep => paint.green("in step"),
        Verdict::Behind(why) => format!("{}: {why}", paint.yellow("behind")),
        Verdict::Broken(why) => format!("{}: {why}", paint.red("not in step")),
        Verdict::Unknown(why) => format!("{}: {why}", paint.yellow("unknown")),
    }
}

fn facts(status: &Status, now: Timestamp) -> Vec<Vec<String>> {
    let lag = match (status.lag.seconds, status.lag.bytes) {
        (Some(seconds), Some(bytes)) => format!("{}, {}", span(seconds), size(bytes)),
        (Some(seconds), None) => span(seconds),
        _ => "not known".into(),
    };
    let place =
        |position: Option<_>| position.map_or("-".into(), |position: crate::types::Position| position.to_string());
    let mut rows = vec![
        vec!["source".into(), end(&status.source, now)],
        vec!["target".into(), end(&status.target, now)],
        vec!["apply".into(), status.way.clone().unwrap_or_else(|| "not known".into())],
        vec!["capture".into(), status.capture.clone().unwrap_or_else(|| "not known".into())],
        vec!["lag".into(), lag],
        vec!["rate".into(), format!("{:.0} rows/s", status.rows_per_second)],
        vec!["checkpoint".into(), place(status.checkpoint)],
        vec!["running".into(), format!("{}, version {}", ago(status.started_at, now), status.version)],
    ];
    if let Some(error) = &status.last_error {
        rows.push(vec!["last error".into(), format!("{} ago: {}", ago(error.at, now), error.cause)]);
    }
    rows
}

/// What is compared now, and when it was and will be.
fn jobs(jobs: &Jobs, now: Timestamp) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    if let Some(running) = &jobs.running {
        let table = running.table.as_deref().unwrap_or("-");
        let what = if running.repair { "comparing and repairing" } else { "comparing" };
        let place = format!("{} of {}", running.tables_done + 1, running.tables);
        rows.push(vec!["run".into(), format!("{what} {table} ({place}), {}", running.why)]);
    }
    let last = jobs.last_success_at.map(|at| format!("equal {} ago", ago(at, now)));
    let next = jobs.next_at.map(|at| format!("next in {}", ago(now, at)));
    let known: Vec<String> = last.into_iter().chain(next).collect();
    if !known.is_empty() {
        rows.push(vec!["compared".into(), known.join(", ")]);
    }
    if !jobs.different.is_empty() {
        let tables: Vec<&str> = jobs.different.keys().map(String::as_str).collect();
        rows.push(vec!["different".into(), format!("{}: `lockstep sync` repairs them", tables.join(", "))]);
    }
    rows
}

fn end(end: &End, now: Timestamp) -> String {
    let what = if end.connected { "connected" } else { "not connected" };
    match end.since {
        Some(since) => format!("{what} for {} ({})", ago(since, now), end.address),
        None => format!("{what} ({})", end.address),
    }
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    span(now.duration_since(at).as_secs_f64().max(0.0))
}

pub(super) fn words(state: &TableState) -> String {
    match state {
        TableState::Copying { copied, estimated } if *estimated > 0 => {
            format!("copying {} of about {}", thousands(*copied), thousands(*estimated))
        }
        TableState::Copying { copied, .. } => format!("copying {}", thousands(*copied)),
        TableState::Parked { cause } => format!("parked: {cause}"),
        other => other.word().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::status::{LastError, TableStatus};

    #[test]
    fn the_answer_says_what_is_wrong_and_what_to_do_and_has_no_colours_in_a_pipe() {
        let mut status = Status::starting("to_supabase", "db:5432/shop", "https://abc.supabase.co");
        let now = status.started_at;
        let (cause, fix) = ("the slot is gone".to_owned(), "lockstep setup source --apply".to_owned());
        status.last_error = Some(LastError { at: now, cause: cause.clone(), fix: Some(fix.clone()) });
        status.state = State::Stopped { cause, fix };
        let state = TableState::Copying { copied: 1_200, estimated: 5_000 };
        status.tables = vec![TableStatus { name: "public.agents".into(), state, rows: 1_200, changed_at: None }];
        let text = show(&View::new(status, now, Duration::from_secs(10)), now, Paint::new(false));
        for part in [
            "not in step: the slot is gone\n",
            "source      not connected (db:5432/shop)\n",
            "lag         not known\n",
            "fix  lockstep setup source --apply\n",
            "public.agents  copying 1,200 of about 5,000  1,200  -\n",
        ] {
            assert!(text.contains(part), "no `{part}` in:\n{text}");
        }
        assert!(!text.contains('\x1b'));
    }
}
