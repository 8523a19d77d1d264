//! Every change arrives once: whatever is lost, cut or refused on the way, and whoever else is at work.
//!
//! The witness is the target's own log of changes. A change that came twice shows there, even one that changed nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lockstep::lab::{Mishap, PairOptions, Port, logged};

use super::rig::{Rig, public, until};

const LEDGER: &str = "create table ledger (id int primary key, body text not null default '')";

/// A service that streams an empty ledger, and a target that writes down what it sees.
async fn streaming(options: PairOptions) -> Rig {
    let mut rig = Rig::with(options, LEDGER).await;
    rig.pair.log_changes(&public(&["ledger"])).await.unwrap();
    rig.start();
    rig.settled().await;
    rig.pair.supabase.faults().aim("rpc/lockstep_apply");
    rig
}

/// Operations that reached each row of the target, in order: `INSERT UPDATE`.
async fn history(rig: &Rig) -> BTreeMap<String, String> {
    let client = rig.pair.supabase.cluster.connect().await.unwrap();
    let mut history = BTreeMap::<String, Vec<String>>::new();
    for change in logged(&client).await.unwrap() {
        history.entry(change.key).or_default().push(change.op);
    }
    history.into_iter().map(|(key, ops)| (key, ops.join(" "))).collect()
}

fn histories(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|&(key, ops)| (key.to_owned(), ops.to_owned())).collect()
}

async fn source(rig: &Rig, sql: &str) {
    rig.pair.source.execute(sql).await.unwrap();
}

/// Waits until the service says that the target does not take its batches.
async fn is_in_trouble(rig: &Rig) {
    until("the service is in trouble", async || rig.status().await.is_some_and(|status| status["state"] == "waiting"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_lost_after_the_commit_is_asked_for_again_and_nothing_applied_twice() {
    let mut rig = streaming(PairOptions::default()).await;
    let lost = [Mishap::AnswerLost, Mishap::CutMidBody, Mishap::StatusAfter(504), Mishap::StatusAfter(500)];
    let mut expected = Vec::new();
    let keys: Vec<String> = (0..lost.len()).map(|n| format!("[{n}]")).collect();
    for (n, mishap) in lost.into_iter().enumerate() {
        rig.pair.supabase.faults().next(mishap, 1);
        source(&rig, &format!("insert into ledger values ({n})")).await;
        rig.settled().await;
        expected.push((keys[n].as_str(), "INSERT"));
        assert_eq!(history(&rig).await, histories(&expected), "after {mishap:?}\n{}", rig.tail());
    }
    // Even the answer to the second attempt may be lost.
    rig.pair.supabase.faults().next(Mishap::AnswerLost, 3);
    source(&rig, "update ledger set body = 'x' where id = 0").await;
    rig.settled().await;
    expected[0].1 = "INSERT UPDATE";
    assert_eq!(history(&rig).await, histories(&expected));
    assert_eq!(rig.metric("lockstep_duplicates_total").await, lost.len() as f64 + 1.0);
    rig.assert_equal(&public(&["ledger"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_not_carried_out_is_sent_again() {
    let mut rig = streaming(PairOptions::default()).await;
    let refused = [Mishap::RequestLost, Mishap::Status(500), Mishap::Status(503), Mishap::Status(504)];
    for (n, mishap) in refused.into_iter().enumerate() {
        rig.pair.supabase.faults().next(mishap, 2);
        source(&rig, &format!("insert into ledger values ({n})")).await;
        rig.settled().await;
    }
    let expected = histories(&[("[0]", "INSERT"), ("[1]", "INSERT"), ("[2]", "INSERT"), ("[3]", "INSERT")]);
    assert_eq!(history(&rig).await, expected);
    assert_eq!(rig.metric("lockstep_duplicates_total").await, 0.0);
    assert_eq!(rig.metric("lockstep_retries_total{class=\"transient\"}").await, 2.0 * refused.len() as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_pause_is_given_it() {
    let mut rig = streaming(PairOptions::default()).await;
    rig.pair.supabase.faults().next(Mishap::TooMany { retry_after: 2 }, 1);
    let asked = Instant::now();
    source(&rig, "insert into ledger values (1)").await;
    rig.settled().await;
    assert!(asked.elapsed() >= Duration::from_secs(2), "sent again after {:?}", asked.elapsed());
    assert_eq!(rig.pair.supabase.faults().counts().too_many, 1);
    assert_eq!(history(&rig).await, histories(&[("[1]", "INSERT")]));
}

/// Somebody else has applied a part of the batch meanwhile: the batch may not land on top of it, under no base.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_was_moved_forwards_is_not_written_over() {
    let mut rig = streaming(PairOptions::default()).await;
    let faults = rig.pair.supabase.faults().clone();
    faults.down().await;
    source(&rig, "insert into ledger values (1)").await;
    is_in_trouble(&rig).await;
    // The first row is in flight; these two gather behind it in one batch.
    source(&rig, "insert into ledger values (2)").await;
    let between = rig.pair.source.value("select (pg_current_wal_insert_lsn() - '0/0')::bigint").await.unwrap();
    source(&rig, "insert into ledger values (3)").await;
    rig.has_read().await;
    let target = &rig.pair.supabase.cluster;
    let sql =
        format!("insert into ledger values (1), (2); update lockstep.checkpoint set major = {between}, minor = 0");
    target.execute(&sql).await.unwrap();

    faults.up().await;
    rig.settled().await;
    rig.assert_equal(&public(&["ledger"])).await;
    let once = histories(&[("[1]", "INSERT"), ("[2]", "INSERT"), ("[3]", "INSERT")]);
    assert_eq!(history(&rig).await, once, "{}", rig.tail());
    assert_eq!(rig.metric("lockstep_gaps_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_was_moved_backwards_is_noticed_and_built_on() {
    let mut rig = streaming(PairOptions::default()).await;
    let target = &rig.pair.supabase.cluster;
    source(&rig, "insert into ledger values (1)").await;
    let before = target.value("select major from lockstep.checkpoint").await.unwrap();
    rig.settled().await;
    source(&rig, "insert into ledger values (2)").await;
    rig.settled().await;
    let target = &rig.pair.supabase.cluster;
    target.execute(&format!("update lockstep.checkpoint set major = {before}, minor = 0")).await.unwrap();
    source(&rig, "insert into ledger values (3)").await;
    rig.settled().await;
    assert_eq!(rig.metric("lockstep_gaps_total").await, 1.0, "{}", rig.tail());
    rig.assert_equal(&public(&["ledger"])).await;
    assert_eq!(history(&rig).await["[3]"], "INSERT");
}

/// What is read but not yet in the target must not be forgotten by the source.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_and_not_applied_when_the_service_was_killed_is_sent_again() {
    let mut options = PairOptions::default();
    // The service reports to the source at least three times in this span.
    options.source = options.source.set("wal_sender_timeout", "3s");
    let mut rig = streaming(options).await;
    rig.pair.supabase.faults().down().await;
    source(&rig, "insert into ledger select i from generate_series(1, 3) i").await;
    source(&rig, "insert into ledger select i from generate_series(4, 10) i").await;
    is_in_trouble(&rig).await;
    rig.has_read().await;
    // Two more reports: whatever it wanted to confirm, it has.
    const REPORTED: &str = "select coalesce(max(reply_time)::text, '') from pg_stat_replication";
    // A journal is told nothing: what is confirmed is deleted, and the rest is there.
    for _ in 0..if rig.by_journal() { 0 } else { 2 } {
        let last = rig.pair.source.value(REPORTED).await.unwrap();
        until("the service reports", async || rig.pair.source.value(REPORTED).await.unwrap() != last).await;
    }
    rig.kill9().await;
    rig.pair.supabase.faults().up().await;
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["ledger"])).await;
    let history = history(&rig).await;
    assert_eq!(history.len(), 10);
    assert!(history.values().all(|ops| ops == "INSERT"), "{history:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_visible_whole_or_not_at_all() {
    const TABLES: &str = "create table debit (id int primary key, n int, filler text);
                          create table credit (id int primary key, n int, filler text)";
    let mut rig = Rig::new(TABLES).await;
    rig.start();
    rig.settled().await;
    let faults = rig.pair.supabase.faults();
    faults.aim("rpc/lockstep_apply");
    faults.random(Mishap::AnswerLost, 0.1, 1);
    faults.random(Mishap::RequestLost, 0.1, 2);

    // One statement sees one snapshot: both sums must always tell the same story.
    const BOTH: &str =
        "select coalesce((select sum(n) from debit), 0)::int8, coalesce((select sum(n) from credit), 0)::int8";
    let reader = rig.pair.supabase.cluster.connect().await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let reading = tokio::spawn(async move {
        let mut seen = Vec::<i64>::new();
        let mut stopped = stopped;
        while stopped.try_recv().is_err() {
            let row = reader.query_one(BOTH, &[]).await.unwrap();
            let (debit, credit): (i64, i64) = (row.get(0), row.get(1));
            assert_eq!(debit, credit, "a part of a transaction is visible");
            if seen.last() != Some(&debit) {
                seen.push(debit);
            }
        }
        seen
    });
    let client = rig.pair.source.connect().await.unwrap();
    for n in 1..=150 {
        // One in fifty is larger than a request.
        let filler = if n % 50 == 0 { 12_000 } else { 10 };
        let sql = format!(
            "begin; insert into debit select {n} * 1000 + i, 1, repeat('x', {filler}) from generate_series(1, 100) i;
             update debit set n = n + 1 where id = ({n} - 1) * 1000 + 7;
             insert into credit select {n} * 1000 + i, 1, repeat('y', {filler}) from generate_series(1, 100) i;
             update credit set n = n + 1 where id = ({n} - 1) * 1000 + 9; commit"
        );
        client.batch_execute(&sql).await.unwrap();
        if n % 10 == 0 {
            rig.settled().await; // or all of it might arrive in one batch
        }
    }
    stop.send(()).unwrap();
    let seen = reading.await.unwrap();
    assert!(seen.len() >= 15, "the reader saw nothing happen: {seen:?}");
    assert!(seen.is_sorted(), "the target went back: {seen:?}");
    rig.assert_equal(&public(&["debit", "credit"])).await;
    assert!(rig.pair.supabase.faults().counts().injected() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_does_no_harm_and_takes_over_when_the_first_one_dies() {
    let mut rig = streaming(PairOptions::default()).await;
    let port = Port::free().unwrap().number();
    let log = std::fs::File::create(rig.dir.path().join("second.log")).unwrap();
    let mut command = rig.command(&["run"]);
    command.env("LOCKSTEP_LISTEN", format!("127.0.0.1:{port}")).stdout(log.try_clone().unwrap()).stderr(log);
    let mut second = command.spawn().unwrap();
    let log = rig.dir.path().join("second.log");
    let told = || std::fs::read_to_string(&log).unwrap_or_default();
    let refused = if rig.by_journal() { "the journal is read by another" } else { "slot lockstep is in use" };
    until("the second one is refused", async || told().contains(refused)).await;
    for n in 0..50 {
        source(&rig, &format!("insert into ledger values ({n})")).await;
    }
    rig.settled().await;
    assert!(second.try_wait().unwrap().is_none(), "it waits for its turn:\n{}", told());

    rig.kill9().await;
    for n in 50..100 {
        source(&rig, &format!("insert into ledger values ({n})")).await;
    }
    rig.http = port;
    rig.settled().await;
    rig.assert_equal(&public(&["ledger"])).await;
    let history = history(&rig).await;
    assert_eq!(history.len(), 100);
    assert!(history.values().all(|ops| ops == "INSERT"), "{history:?}");
}
