//! The tap between a queue and a recorder that only counts.

use serde_json::json;

use super::*;
use crate::ledger::workflows::Stored;
use crate::types::{Cell, Lsn, Relation, RelationColumn, TableName, TupleBuilder, queue};

fn workflow(id: &str, config: serde_json::Value) -> Workflow {
    let event = if config["watched_columns"].is_null() { "INSERT" } else { "UPDATE" };
    let stored = Stored {
        id: id.into(),
        workflow_name: id.into(),
        trigger_table: "t".into(),
        trigger_event: event.into(),
        action_config: Some(config),
        enabled: true,
        ..Stored::default()
    };
    Workflow::parse(&stored).unwrap()
}

fn relation() -> Arc<Relation> {
    let column = |name: &str, key, type_oid| RelationColumn { name: name.into(), key, type_oid, type_modifier: -1 };
    let columns = vec![column("id", true, 23), column("body", false, 25), column("status", false, 25)];
    Arc::new(Relation { oid: 1, name: TableName::new("public", "t"), identity: b'f', columns })
}

fn row(id: usize, body: &str, status: &str) -> crate::types::Tuple {
    let mut row = TupleBuilder::new();
    row.push(Cell::Text(id.to_string().as_bytes()));
    row.push(Cell::Text(body.as_bytes()));
    row.push(Cell::Text(status.as_bytes()));
    row.finish()
}

fn inserts(ids: std::ops::Range<usize>) -> Vec<Change> {
    let relation = relation();
    ids.map(|id| Change::Insert { relation: relation.clone(), new: row(id, "", "") }).collect()
}

fn part(commit: u64, minor: u64, changes: Vec<Change>) -> Transaction {
    let end = Position { major: commit, minor };
    Transaction { xid: 1, commit: Lsn(commit), end, committed_at: 0, changes, bytes: 100 }
}

/// What was recorded, statement by statement, until all of it has passed.
async fn passed(workflows: Vec<Workflow>, transactions: Vec<Transaction>) -> Vec<Vec<NewRun>> {
    let (send, receive) = queue(1 << 20);
    let (asks, mut asked) = mpsc::channel(1);
    let rules = watch::channel(Arc::new(Rules::new(workflows))).1;
    let link = Link { asks, rules, keys: HashMap::from([(1, vec!["id".to_owned()])]) };
    let mut tap = Tap::new(receive, Some(link), Position { major: 0, minor: 0 });
    let many = transactions.len();
    let recorder = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(asked) = asked.recv().await {
            let Asked::Record(runs, reply) = asked else { continue };
            all.push(runs);
            let _ = reply.send(());
        }
        all
    });
    for transaction in transactions {
        let bytes = transaction.bytes;
        send.send(transaction, bytes).await.unwrap();
    }
    for _ in 0..many {
        tap.recv().await.unwrap();
    }
    drop(tap);
    recorder.await.unwrap()
}

#[tokio::test]
async fn every_part_of_an_echo_is_an_echo_and_the_transaction_behind_it_is_none() {
    let mut first = inserts(0..3);
    first.insert(0, Change::Message { content: "from_supabase".into() });
    let notify = json!({"type": "notify", "channel": "c"});
    let all = vec![part(10, 4, first), part(10, 0, inserts(3..6)), part(20, 0, inserts(6..7))];
    let runs = passed(vec![workflow("w", notify)], all).await.concat();
    assert_eq!(runs.iter().map(|run| run.key.as_str()).collect::<Vec<_>>(), ["[\"6\"]"]);
}

#[tokio::test]
async fn what_leads_to_many_runs_is_recorded_in_slices_each_run_once_and_the_rows_are_shared() {
    let notify = json!({"type": "notify", "channel": "c"});
    let workflows = vec![workflow("a", notify.clone()), workflow("b", notify)];
    let all = vec![part(10, 4_000, inserts(0..4_000)), part(10, 0, inserts(4_000..4_001))];
    let slices = passed(workflows, all).await;
    assert!(slices.iter().all(|runs| runs.len() <= HELD_RUNS + 2), "{:?}", slices.iter().map(Vec::len));
    let runs = slices.concat();
    assert_eq!(runs.len(), 8_002);
    let ids: std::collections::BTreeSet<&str> = runs.iter().map(|run| run.id.as_str()).collect();
    assert_eq!(ids.len(), 8_002);
    assert!(Arc::ptr_eq(runs[0].new.as_ref().unwrap(), runs[1].new.as_ref().unwrap()));
    assert_eq!(runs[8_001].position.as_deref(), Some(format!("{}+4000", Lsn(10)).as_str()));
}

#[tokio::test]
async fn a_value_too_large_to_be_kept_decides_all_the_same() {
    let watched = json!({"type": "notify", "channel": "c", "watched_columns": ["body"]});
    let mut failed = watched.clone();
    failed["condition"] = json!({"field": "new.status", "op": "eq", "value": "failed"});
    let large = "x".repeat(300 << 10);
    let update =
        |new: &str| Change::Update { relation: relation(), old: Some(row(1, "x", "")), new: row(1, new, "failed") };
    let workflows = vec![workflow("grown", watched), workflow("failed", failed)];
    let runs = passed(workflows, vec![part(10, 0, vec![update(&large), update("x")])]).await.concat();
    assert_eq!(runs.len(), 2, "it grew, and the column behind it is known");
    assert_eq!(runs[0].left_out, ["new.body"]);
    assert!(runs[0].new.as_ref().unwrap().len() < 1000, "and it is not kept");
}
