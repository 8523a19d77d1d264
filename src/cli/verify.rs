//! `lockstep verify` compares both sides, `lockstep sync` repairs what differs too. Exit 0: equal, 1: different,
//! 2: it could not be told.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;

use super::Failure;
use super::output::{Paint, align, size, span, thousands};
use super::service::{self, Asked};
use crate::config::Settings;
use crate::types::{DifferenceKind, Fault, JobState, JobView, Phase, Progress, TableReport, Verdict};

#[derive(clap::Args)]
pub(super) struct VerifyArgs {
    /// Tables, as `agents` or `public.agents` [default: all that are replicated]
    tables: Vec<String>,
    /// Print the reports as JSON
    #[arg(long)]
    json: bool,
    /// Keys of different rows to list for each table
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

#[derive(clap::Args)]
pub(super) struct SyncArgs {
    /// Tables, as `agents` or `public.agents` [default: all that are replicated]
    tables: Vec<String>,
    /// Count what differs, and repair nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the reports as JSON
    #[arg(long)]
    json: bool,
}

/// How often the service is asked how far it is.
const LOOK: Duration = Duration::from_millis(250);

pub(super) async fn verify(args: VerifyArgs, settings: &Settings) -> Result<(), Failure> {
    // The service knows nothing of tables that are not replicated.
    let whole = match args.tables.is_empty() {
        true => Vec::new(),
        false => crate::app::without_key(settings, &args.tables).await.unwrap_or_default(),
    };
    let named: Vec<String> = args.tables.iter().filter(|name| !whole.contains(name)).cloned().collect();
    let mut reports = match named.is_empty() && !whole.is_empty() {
        true => Vec::new(),
        false => replicated(settings, &named).await?,
    };
    if !whole.is_empty() {
        reports.extend(alone(settings, &whole).await?);
    }
    show(&reports, args.json, args.limit)
}

async fn replicated(settings: &Settings, tables: &[String]) -> Result<Vec<TableReport>, Failure> {
    let asked = service::post(settings, "/api/verify", json!({"tables": tables})).await;
    match asked.map_err(Failure::Unknown)? {
        Asked::Answered(answer) => follow(settings, &answer).await.map_err(Failure::Unknown),
        Asked::Nobody(_) => {
            eprintln!("no Lockstep is running: comparing from here");
            alone(settings, tables).await
        }
    }
}

pub(super) async fn sync(args: SyncArgs, settings: &Settings) -> Result<(), Failure> {
    let body = json!({"tables": args.tables, "dry_run": args.dry_run});
    let asked = service::post(settings, "/api/sync", body).await.and_then(Asked::answered);
    let reports = follow(settings, &asked.map_err(Failure::Unknown)?).await.map_err(Failure::Unknown)?;
    show(&reports, args.json, 20)
}

/// Follows a job of the service to its end.
async fn follow(settings: &Settings, answer: &str) -> Result<Vec<TableReport>, Fault> {
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
    let path = format!("/api/jobs/{}", answer["job"].as_str().unwrap_or_default());
    let line = Line::new();
    loop {
        let text = service::get(settings, &path).await?.answered()?;
        let view: JobView = serde_json::from_str(&text)
            .map_err(|error| Fault::retry(format!("the service's answer is not a job: {error}")))?;
        match view.state {
            JobState::Done => break line.end(view.reports),
            JobState::Failed { why } => {
                line.clear();
                return Err(Fault::retry(format!("the run was given up: {why}")));
            }
            JobState::Queued => line.show("waiting for the runs before it"),
            JobState::Running => line.progress(view.progress.as_ref()),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Without a service: compares over connections of its own.
async fn alone(settings: &Settings, tables: &[String]) -> Result<Vec<TableReport>, Failure> {
    settings.source.url()?;
    settings.supabase.endpoint()?;
    let (progress, seen) = watch::channel(None);
    let mut comparing = std::pin::pin!(crate::app::compare(settings, tables, &progress));
    let line = Line::new();
    loop {
        tokio::select! {
            end = &mut comparing => return end.and_then(|reports| line.end(reports)).map_err(Failure::Unknown),
            () = tokio::time::sleep(LOOK) => line.progress(seen.borrow().as_ref()),
        }
    }
}

/// A line that lives, on a terminal only.
struct Line {
    terminal: bool,
    began: Instant,
}

impl Line {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), began: Instant::now() }
    }

    fn show(&self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[2K{text}");
            let _ = std::io::stderr().flush();
        }
    }

    fn progress(&self, progress: Option<&Progress>) {
        match progress {
            Some(progress) => self.show(&words(progress)),
            None => self.show(&format!("comparing, {}", span(self.began.elapsed().as_secs_f64()))),
        }
    }

    fn clear(&self) {
        self.show("");
    }

    fn end(&self, reports: Vec<TableReport>) -> Result<Vec<TableReport>, Fault> {
        self.clear();
        Ok(reports)
    }
}

/// `public.agents (2 of 12): comparing 120,000 of about 1,000,000 rows, 96,000 rows/s, 9 s left, 3 differ`
fn words(progress: &Progress) -> String {
    let Progress { table, rows_done, rows_estimated, seconds, differences, tables_done, tables, .. } = progress;
    let doing = match progress.phase {
        Phase::Comparing => "comparing",
        Phase::Repairing => "repairing",
        Phase::Finished => "finished",
    };
    let rate = if *seconds > 0.0 { *rows_done as f64 / seconds } else { 0.0 };
    let of = if *rows_estimated > 0 { format!(" of about {}", thousands(*rows_estimated)) } else { String::new() };
    let left = match rows_estimated.saturating_sub(*rows_done) {
        left if left > 0 && rate > 0.0 => format!(", {} left", span(left as f64 / rate)),
        _ => String::new(),
    };
    let place = (tables_done + 1).min((*tables).max(1));
    let found = if *differences > 0 { format!(", {} differ", thousands(*differences)) } else { String::new() };
    let (done, rate) = (thousands(*rows_done), thousands(rate as u64));
    format!("{table} ({place} of {tables}): {doing} {done}{of} rows, {rate} rows/s{left}{found}")
}

/// Prints what was found; the exit code says it too.
fn show(reports: &[TableReport], as_json: bool, limit: usize) -> Result<(), Failure> {
    if as_json {
        println!("{}", json!({"verdict": overall(reports), "tables": reports}));
    } else {
        print!("{}", text(reports, limit, Paint::new(std::io::stdout().is_terminal())));
    }
    match overall(reports) {
        "equal" => Ok(()),
        "different" => Err(Failure::No),
        _ => Err(Failure::CannotTell),
    }
}

/// A difference that was found weighs more than a table of which nothing could be told.
fn overall(reports: &[TableReport]) -> &'static str {
    let any = |is: fn(&Verdict) -> bool| reports.iter().any(|report| is(&report.verdict));
    match () {
        () if any(|verdict| *verdict == Verdict::Different) => "different",
        () if reports.is_empty() || any(|verdict| matches!(verdict, Verdict::Unknown { .. })) => "unknown",
        () => "equal",
    }
}

fn text(reports: &[TableReport], limit: usize, paint: Paint) -> String {
    let heads = ["table", "", "rows", "missing", "different", "surplus", "repaired", "sent", "received", "took"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(reports.iter().map(|report| {
        let verdict = match &report.verdict {
            Verdict::Equal => "equal",
            Verdict::Different => "different",
            Verdict::Unknown { .. } => "unknown",
        };
        let counts = [report.rows, report.missing, report.different, report.surplus, report.repaired()].map(thousands);
        let mut row = vec![report.table.to_string(), verdict.to_owned()];
        row.extend(counts);
        row.extend([size(report.sent_bytes), size(report.received_bytes), span(report.seconds)]);
        row
    }));
    let mut out = String::new();
    for (at, line) in align(&rows).into_iter().enumerate() {
        let verdict = at.checked_sub(1).and_then(|at| reports.get(at)).map(|report| &report.verdict);
        let line = match verdict {
            None => paint.faint(&line),
            Some(Verdict::Equal) => line,
            Some(Verdict::Different) => paint.red(&line),
            Some(Verdict::Unknown { .. }) => paint.yellow(&line),
        };
        out += &format!("{line}\n");
    }
    let mut notes: Vec<(&str, Vec<String>)> = Vec::new();
    for report in reports {
        let Some(note) = report.note.as_deref() else { continue };
        match notes.iter_mut().find(|(known, _)| *known == note) {
            Some((_, tables)) => tables.push(report.table.to_string()),
            None => notes.push((note, vec![report.table.to_string()])),
        }
    }
    for (note, tables) in notes {
        let of = if tables.len() == reports.len() { "all".to_owned() } else { tables.join(", ") };
        out += &paint.faint(&format!("{of}: {note}\n"));
    }
    for report in reports {
        if let Verdict::Unknown { why } = &report.verdict {
            out += &format!("{}: {why}\n", report.table);
        }
        for difference in report.keys.iter().take(limit) {
            let kind = match difference.kind {
                DifferenceKind::Missing => "missing",
                DifferenceKind::Different => "different",
                DifferenceKind::Surplus => "surplus",
            };
            out += &format!("{}  {kind:<9}  {}\n", report.table, difference.key.join(", "));
        }
        let more = report.differences().saturating_sub(report.keys.len().min(limit) as u64);
        if more > 0 && report.differences() > 0 {
            out += &format!("{}  and {} more\n", report.table, thousands(more));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Difference, TableName};

    fn report(verdict: Verdict) -> TableReport {
        TableReport { verdict, ..TableReport::new(TableName::new("public", "agents")) }
    }

    #[test]
    fn a_difference_weighs_more_than_what_could_not_be_told_and_that_more_than_equal() {
        let unknown = || report(Verdict::Unknown { why: "it is paused".into() });
        let (equal, different) = (|| report(Verdict::Equal), || report(Verdict::Different));
        assert_eq!(overall(&[equal(), equal()]), "equal");
        assert_eq!(overall(&[equal(), unknown()]), "unknown");
        assert_eq!(overall(&[unknown(), different(), equal()]), "different");
        assert_eq!(overall(&[]), "unknown", "nothing was compared");
    }

    #[test]
    fn the_keys_are_listed_up_to_the_limit_and_the_rest_is_counted() {
        let mut report = report(Verdict::Different);
        for n in 0..30 {
            report.add(Difference { key: vec![n.to_string(), "b".into()], kind: DifferenceKind::Missing }, 10);
        }
        let shown = text(&[report], 3, Paint::new(false));
        assert!(shown.contains("public.agents  missing    2, b\n"), "{shown}");
        assert!(!shown.contains("3, b") && shown.contains("public.agents  and 27 more\n"), "{shown}");
    }

    #[test]
    fn progress_says_how_far_how_fast_and_how_long() {
        let progress = Progress {
            table: TableName::new("public", "agents"),
            phase: Phase::Comparing,
            rows_done: 200_000,
            rows_estimated: 1_000_000,
            differences: 3,
            seconds: 2.0,
            tables_done: 1,
            tables: 12,
        };
        let expected =
            "public.agents (2 of 12): comparing 200,000 of about 1,000,000 rows, 100,000 rows/s, 8.0 s left, 3 differ";
        assert_eq!(words(&progress), expected);
    }
}
