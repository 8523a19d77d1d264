//! Statements at the source, and what triggers add to them.

use std::time::Instant;

use lockstep::lab::{Cluster, ClusterOptions, Result};
use lockstep::ledger::journal;
use lockstep::types::TableName;
use tokio_postgres::Client;

use crate::{Options, failed, median};

const TABLES: &str = "
create table none (id int primary key, name text, amount numeric, at timestamptz default now());
create table ours (like none including all);
create table rows (like none including all);
create table log (seq bigserial primary key, op text, line jsonb);
create function each_row() returns trigger language plpgsql as $$ begin
  insert into log (op, line) values (tg_op, to_jsonb(case when tg_op = 'DELETE' then old else new end)); return null; end $$;
create trigger each_row after insert or update or delete on rows for each row execute function each_row();";

/// Milliseconds of a statement on each of the three tables.
pub async fn run(options: &Options) -> Result<()> {
    let cluster = Cluster::temp(ClusterOptions::default().durable().set("wal_level", "replica")).await?;
    let client = cluster.connect().await?;
    client.batch_execute(TABLES).await.map_err(failed)?;
    let plan = journal::plan(&client, &[TableName::new("public", "ours")], None).await.map_err(failed)?;
    journal::apply(&client, &plan).await.map_err(failed)?;
    println!("what triggers cost the source, in ms for each statement (median of {})", options.rounds);
    println!("{:<24} {:>10} {:>10} {:>12} {:>8}", "", "none", "journal", "each row", "factor");
    for rows in [1, 1_000.min(options.rows), options.rows] {
        for statement in ["insert", "update", "delete"] {
            let mut times = Vec::new();
            for table in ["none", "ours", "rows"] {
                times.push(measure(&client, options, table, statement, rows).await?);
            }
            let (none, ours, each) = (times[0], times[1], times[2]);
            let name = format!("{statement}, {rows} rows");
            println!("{name:<24} {none:>10.2} {ours:>10.2} {each:>12.2} {:>7.1}x", ours / none.max(0.001));
        }
    }
    Ok(())
}

async fn measure(client: &Client, options: &Options, table: &str, statement: &str, rows: u64) -> Result<f64> {
    let insert = format!("insert into {table} select g, 'name ' || g, g * 1.5 from generate_series(1, {rows}) g");
    let (before, timed) = match statement {
        "insert" => (String::new(), insert),
        "update" => (insert, format!("update {table} set name = name || 'x', amount = amount + 1")),
        _ => (insert, format!("delete from {table}")),
    };
    let mut times = Vec::new();
    for _ in 0..=options.rounds {
        let clean = format!("truncate {table}; truncate lockstep.journal, log; {before}");
        client.batch_execute(&clean).await.map_err(failed)?;
        let begun = Instant::now();
        client.batch_execute(&timed).await.map_err(failed)?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    times.remove(0); // it made the plans
    Ok(median(times))
}
