//! What the demo shows: its steps with the time they took, one screen, a line that lives, a summary.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::Failure;
use super::probe::{Probe, Timed};
use super::stage::Stage;
use super::traffic::Traffic;
use crate::lab::{counts, differences};
use crate::types::TableName;

pub(super) struct Steps(());

impl Steps {
    pub(super) fn start(dir: &Path) -> Self {
        println!("Lockstep's demo, in {}\n", dir.display());
        Self(())
    }

    /// Says what is being done, then how long it took.
    pub(super) async fn step<T, E>(&mut self, what: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        print!("  {what:<58}");
        flush();
        let start = Instant::now();
        let done = work.await;
        println!(
            "{}",
            if done.is_ok() { format!("{:>7.2} s", start.elapsed().as_secs_f64()) } else { "failed".into() }
        );
        done
    }
}

/// The screen: where everything is, and what to try.
pub(super) async fn show(stage: &Stage, timed: &Timed, short: bool) -> Result<(), Failure> {
    println!(
        "\n  In step. From commit to visible: median {}, p99 {}, over {} changes.\n",
        milliseconds(timed.percentile(0.5)),
        milliseconds(timed.percentile(0.99)),
        timed.count()
    );
    if short {
        return Ok(());
    }
    let note = &stage.note;
    summary(stage).await?;
    println!("\n  source    {}", note.source_url);
    println!("  target    {}", note.target_url);
    println!("  REST      {}/rest/v1/", note.supabase_url);
    println!("  page      {}", note.page_url);
    println!("  metrics   {}", note.metrics_url);
    println!("  keys      {}", stage.dir.join("demo.json").display());
    println!("  log       {}", stage.dir.join("lockstep.log").display());
    println!("\n  Change something in the source, look at it in the target:\n");
    println!(
        "    psql '{}' \\\n      -c \"update agents set status = 'busy' where agent_id = 'night_watch'\"",
        note.source_url
    );
    println!(
        "    psql '{}' \\\n      -c \"select name, status from agents where agent_id = 'night_watch'\"",
        note.target_url
    );
    println!("\n  Ctrl-C stops everything; the next start finds it again.\n");
    Ok(())
}

/// Rows per table on both sides; whether all of them are equal.
pub(super) async fn summary(stage: &Stage) -> Result<bool, Failure> {
    let (source, target) = tokio::try_join!(stage.source.connect(), stage.supabase.cluster.connect())?;
    let (here, there) = tokio::try_join!(counts(&source, &stage.tables), counts(&target, &stage.tables))?;
    println!("  {:<32}{:>9}{:>9}", "table", "source", "target");
    let mut equal = true;
    for (table, (here, there)) in stage.tables.iter().zip(here.iter().zip(&there)) {
        let differ = differences(&source, &target, std::slice::from_ref::<TableName>(table)).await?;
        equal &= differ.is_empty();
        let verdict = if differ.is_empty() { "equal" } else { "DIFFERENT" };
        println!("  {:<32}{here:>9}{there:>9}   {verdict}", table.name);
        differ.iter().for_each(|line| println!("    {line}"));
    }
    println!("  {:<32}{:>9}{:>9}", "in all", here.iter().sum::<i64>(), there.iter().sum::<i64>());
    Ok(equal)
}

/// The line that lives: how much is going on, how long the last change took.
pub(super) async fn line(traffic: Option<&Traffic>, probe: &mut Probe) -> String {
    let made = traffic.map(|traffic| format!("   {} changes made, {}/s", traffic.made(), traffic.rate()));
    // A second passes between looks; a change that takes longer is behind.
    let lag = match probe.once(Duration::from_secs(1)).await {
        Ok(time) => format!("in step, the last change took {}", milliseconds(time)),
        Err(_) => "behind, or one side is away".to_owned(),
    };
    format!("  {lag}{}", made.unwrap_or_default())
}

pub(super) fn redraw(line: &str) {
    print!("\r\x1b[K{line}");
    flush();
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn flush() {
    // Nobody to tell when the terminal is gone.
    let _ = std::io::stdout().flush();
}
