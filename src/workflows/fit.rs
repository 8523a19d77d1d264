//! Whether a workflow that is understood can do its work where it is: judged by the source's catalogs and our settings.
//! The page shows it beside the workflow, a draft is refused for it, and a metric counts it.

use std::collections::BTreeSet;

use super::Settings;
use super::action::Action;
use super::catalog::{self, Table};
use super::condition::Wrong;
use super::guard::Guard;
use super::rule::{Workflow, unfit};
use crate::ledger::workflows::Stored;
use crate::pg::Client;
use crate::types::{Fault, TableName};

/// Why it cannot. `table` is what the catalogs say of its table.
pub fn problem(workflow: &Workflow, table: Option<&Table>, settings: &Settings, guard: &Guard) -> Option<Wrong> {
    if let Some(wrong) = unfit(workflow, table.map(|table| &table.known)) {
        return Some(wrong);
    }
    match &workflow.action {
        Action::TriggerAgentTask { .. } if settings.agents.is_none() => {
            let cause = "no agent API is set: agent_api.url, or LOCKSTEP_AGENT_API_URL";
            Some(Wrong::new("action_config.type", cause))
        }
        Action::Webhook { url, .. } => {
            let fixed = url::Url::parse(url.split("{{").next().unwrap_or_default()).ok()?;
            let refused = guard.literal(&fixed).err()?;
            Some(Wrong::new("action_config.url", refused.to_string()))
        }
        _ => None,
    }
}

/// How many of those that are switched on cannot.
pub async fn count(client: &Client, stored: &[Stored], settings: &Settings, guard: &Guard) -> Result<usize, Fault> {
    let on = stored.iter().filter(|stored| stored.enabled);
    let parsed: Vec<Result<Workflow, Wrong>> = on.map(Workflow::parse).collect();
    let names: BTreeSet<TableName> = parsed.iter().flatten().map(|workflow| workflow.table.clone()).collect();
    let tables = catalog::tables(client, &settings.publication, &names).await?;
    let wrong = |parsed: &&Result<Workflow, Wrong>| match parsed {
        Err(_) => true,
        Ok(workflow) => problem(workflow, tables.get(&workflow.table), settings, guard).is_some(),
    };
    Ok(parsed.iter().filter(wrong).count())
}
