//! `lockstep doctor`: looks at both sides and prints what it found. Exit 0 all is well, 1 something is to be mended,
//! 2 a side could not be looked at.

use std::io::IsTerminal;
use std::path::Path;

use super::Failure;
use super::address::Address;
use super::output::{Paint, align};
use crate::config::{self, Problem, Settings};
use crate::doctor::{Ask, Finding, Group, Level, Mended, Needs, Report, examine, mend};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    /// Run the fixes that take nothing away, then look again; print the others
    #[arg(long)]
    fix: bool,
    /// A direct connection to Supabase's Postgres: to look closer, and for --fix
    #[arg(long, value_name = "URL", env = "SUPABASE_DB_URL", hide_env_values = true)]
    database_url: Option<Address>,
}

pub(super) async fn run(args: Args, file: Option<&Path>) -> Result<(), Failure> {
    let (settings, key) = settings(file)?;
    let target_url = args.database_url.map(|url| url.read("--database-url")).transpose()?;
    let file = file.unwrap_or(Path::new("lockstep.toml")).to_owned();
    let ask = Ask { settings, key, target_url, file };
    let paint = Paint::new(std::io::stdout().is_terminal());
    let mut report = examine(ask.clone()).await;
    if args.fix {
        let done = mend(&ask, &report).await?;
        // What is printed as JSON is one document.
        match args.json {
            true => eprint!("{}", mended(&done, Paint::new(std::io::stderr().is_terminal()))),
            false => print!("{}", mended(&done, paint)),
        }
        if !done.is_empty() {
            report = examine(ask).await;
        }
    }
    match args.json {
        true => println!("{}", json(&report)?),
        false => print!("{}", show(&report, paint)),
    }
    match report.exit_code() {
        0 => Ok(()),
        1 => Err(Failure::No),
        _ => Err(Failure::CannotTell),
    }
}

/// A key that will not do is a finding like any other; everything else about the settings must be right first.
fn settings(file: Option<&Path>) -> Result<(Settings, Option<Problem>), Problem> {
    match config::load(file) {
        Ok(settings) => Ok((settings, None)),
        Err(problem) => match config::load_without(file, "supabase.key") {
            Ok(settings) => Ok((settings, Some(problem))),
            Err(_) => Err(problem),
        },
    }
}

fn json(report: &Report) -> Result<String, crate::types::Fault> {
    serde_json::to_string_pretty(report).map_err(|error| crate::types::Fault::stop(error.to_string(), "report this"))
}

fn mended(done: &[Mended], paint: Paint) -> String {
    let mut out = String::new();
    for one in done {
        let first = one.sql.lines().find(|line| !line.starts_with("--") && !line.is_empty()).unwrap_or("");
        out += &match &one.result {
            Ok(()) => format!("{} {}, {}: {first}\n", paint.green("fixed"), one.code, one.side),
            Err(why) => format!("{} {}, {}: {first}: {why}\n", paint.red("not fixed"), one.code, one.side),
        };
    }
    if done.is_empty() { "nothing was run: no fix is safe to run by itself\n\n".into() } else { out + "\n" }
}

/// The whole report, for people.
fn show(report: &Report, paint: Paint) -> String {
    let rows: Vec<Vec<String>> = report
        .findings
        .iter()
        .map(|finding| vec![format!("{:4}", word(finding.level)), finding.code.into(), finding.what.clone()])
        .collect();
    let mut out = String::new();
    let mut group = None;
    for (line, finding) in align(&rows).iter().zip(&report.findings) {
        if group.replace(finding.group) != Some(finding.group) {
            let gap = if out.is_empty() { "" } else { "\n" };
            out += &format!("{gap}{}\n", paint.faint(title(finding.group)));
        }
        let word = word(finding.level);
        out += &format!("{}{}\n", coloured(finding.level, word, paint), &line[word.len()..]);
        out += &fix(finding, paint);
    }
    let count = |level| report.count(level);
    let sum = [
        (count(Level::Ok), "ok"),
        (count(Level::Warn), "to know"),
        (count(Level::Bad), "to fix"),
        (count(Level::Unknown), "could not be told"),
    ];
    let sum: Vec<String> = sum.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    out + &format!("\n{}\n", sum.join(", "))
}

fn fix(finding: &Finding, paint: Paint) -> String {
    let Some(fix) = &finding.fix else { return String::new() };
    let note = match fix.needs {
        Needs::Lock => " (locks the table while it runs)",
        Needs::Nothing | Needs::Restart => "",
    };
    format!("      {} {}{note}\n", paint.yellow("fix:"), fix.text)
}

fn title(group: Group) -> &'static str {
    match group {
        Group::Settings => "SETTINGS",
        Group::Source => "SOURCE",
        Group::Target => "SUPABASE",
        Group::Tables => "TABLES",
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Unknown => "?",
        Level::Warn => "warn",
        Level::Bad => "FAIL",
    }
}

fn coloured(level: Level, word: &str, paint: Paint) -> String {
    match level {
        Level::Ok => paint.green(word),
        Level::Unknown | Level::Warn => paint.yellow(word),
        Level::Bad => paint.red(word),
    }
}
