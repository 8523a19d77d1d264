//! `--fix`: runs the remedies that take nothing away, each by itself, and says what became of it.

use std::collections::BTreeSet;

use super::finding::{Level, Report, Side};
use super::look::Ask;
use crate::pg::{self, Client, Url};
use crate::types::Fault;

/// What became of one statement.
pub struct Mended {
    pub code: &'static str,
    pub side: Side,
    pub sql: String,
    pub result: Result<(), String>,
}

/// Runs what is safe in the report, where a connection to that side is at hand.
pub async fn mend(ask: &Ask, report: &Report) -> Result<Vec<Mended>, Fault> {
    let mut done = Vec::new();
    for side in [Side::Source, Side::Target] {
        let mut statements = Vec::new();
        let mut seen = BTreeSet::new();
        for finding in report.findings.iter().filter(|finding| finding.level >= Level::Warn) {
            let Some(fix) = finding.fix.as_ref().filter(|fix| fix.safe && fix.side == Some(side)) else { continue };
            // One script makes every missing table.
            statements.extend(fix.sql.iter().filter(|sql| seen.insert((*sql).clone())).map(|sql| (finding.code, sql)));
        }
        let Some(url) = url(ask, side).filter(|_| !statements.is_empty()) else { continue };
        let client = pg::connect(&url, "lockstep doctor").await?;
        for (code, sql) in statements {
            let result = run(&client, sql).await;
            done.push(Mended { code, side, sql: sql.clone(), result });
        }
        if side == Side::Target {
            // It sees new tables and functions only then.
            run(&client, "notify pgrst, 'reload schema'").await.map_err(Fault::retry)?;
        }
    }
    Ok(done)
}

fn url(ask: &Ask, side: Side) -> Option<Url> {
    match side {
        Side::Source => super::look::source_url(ask).ok(),
        Side::Target => ask.target_url.clone(),
    }
}

async fn run(client: &Client, sql: &str) -> Result<(), String> {
    let done = client.batch_execute(sql).await.map_err(|error| pg::client::fault(&error).to_string());
    if done.is_err() {
        client.batch_execute("rollback").await.ok(); // of a script that was a transaction
    }
    done
}
