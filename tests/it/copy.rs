//! The first copy: large tables in little memory, beside traffic on the very rows that are copied, through a kill.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use lockstep::lab::{Mishap, PairOptions, Seeded};
use lockstep::types::TableName;

use super::rig::{PATIENCE, Rig, peak_rss, public, says_nothing_of_a_journal, until};

/// What `lockstep.copy` says of a table: rows so far, and whether that was all.
async fn progress(rig: &Rig, table: &str) -> (u64, bool) {
    let sql = format!("select rows, done from lockstep.copy where table_name = '{table}'");
    let rows = rig.pair.supabase.cluster.rows(&sql).await.unwrap();
    let Some(row) = rows.first() else { return (0, false) };
    (row[0].as_deref().unwrap().parse().unwrap(), row[1].as_deref() == Some("t"))
}

/// Rows that were copied already when the service started for the last time, by its log.
fn resumed_at(rig: &Rig, table: &str) -> Option<u64> {
    let log = std::fs::read_to_string(rig.log()).unwrap();
    let line = log.lines().rev().find(|line| line.contains("copying") && line.contains(table))?;
    line.split_once("already=")?.1.split_whitespace().next()?.parse().ok()
}

const ROWS: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_are_copied_beside_traffic_in_little_memory_and_a_kill_does_not_start_it_over() {
    const BOUND: u64 = 150 << 20;
    let mut rig = Rig::new("create table big (id bigint primary key, n int not null, body text, toast text)").await;
    // Each thousandth has a value out of line, which an update of the others does not bring.
    rig.pair
        .source
        .execute(&format!(
            "insert into big select i, 0, 'row ' || i || repeat(' and more', 10), case when i % 1000 = 0
               then (select string_agg(md5(random()::text), '') from generate_series(1, 100) where i > 0) end
             from generate_series(1, {ROWS}) i; analyze big"
        ))
        .await
        .unwrap();
    rig.start();
    let stop = Arc::new(AtomicBool::new(false));
    let went = Arc::new(AtomicU64::new(0));
    let client = rig.pair.source.connect().await.unwrap();
    let (stopped, counted) = (stop.clone(), went.clone());
    let traffic = tokio::spawn(async move {
        let mut chance = Seeded::new(7);
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        while !stopped.load(Relaxed) {
            pace.tick().await;
            // Anywhere in the table: behind the cursor, before it, and in the range that is being read.
            let id = 1 + chance.below(ROWS);
            let sql = match chance.below(8) {
                0..3 => format!("update big set n = n + 1 where id between {id} and {id} + 20"),
                3 => format!("update big set n = n + 1 where id = ({id} / 1000 + 1) * 1000"),
                4 => format!("delete from big where id = {id}"),
                5 => format!("insert into big values ({}, 1, 'new')", ROWS + 1 + counted.load(Relaxed)),
                6 => format!("update big set id = -id where id = {id}"),
                _ => format!("update big set id = -id where id = ({id} / 1000 + 1) * 1000 and id > 0"),
            };
            client.batch_execute(&sql).await.unwrap();
            counted.fetch_add(1, Relaxed);
        }
    });

    let mut last = 0;
    let mut peak = 0;
    let mut killed_at = None;
    let deadline = std::time::Instant::now() + PATIENCE * 2;
    loop {
        let (rows, done) = progress(&rig, "big").await;
        assert!(rows >= last, "the copy went back from {last} to {rows}");
        last = rows;
        if let Some(pid) = rig.pid() {
            peak = peak.max(peak_rss(pid));
        }
        if killed_at.is_none() && rows > ROWS * 2 / 5 {
            assert!(!done);
            rig.kill9().await;
            killed_at = Some(rows);
            rig.start();
        }
        if done {
            break;
        }
        assert!(!rig.has_ended(), "the service ended:\n{}", rig.tail());
        assert!(std::time::Instant::now() < deadline, "copied {rows} rows only:\n{}", rig.tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Relaxed);
    traffic.await.unwrap();
    rig.settled().await;
    peak = peak.max(peak_rss(rig.pid().unwrap()));
    println!("{last} rows copied, {} statements beside, peak {} MiB", went.load(Relaxed), peak >> 20);
    assert!(went.load(Relaxed) > 100, "there was hardly any traffic");
    let killed_at = killed_at.expect("the kill came in the middle");
    assert!(resumed_at(&rig, "public.big").is_some_and(|rows| rows >= killed_at), "{}", rig.tail());
    // New rows and new keys shift it a little; twice would be a start from the beginning.
    assert!(last.abs_diff(ROWS) < ROWS / 20, "{last} rows copied of {ROWS}");
    assert!(peak > 0 && peak < BOUND, "the process took {} MiB", peak >> 20);
    rig.assert_equal(&public(&["big"])).await;
}

/// Every kind of key, with changes everywhere in the tables while they are copied in small ranges.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_every_shape_are_copied_while_every_part_of_them_changes() {
    const TABLES: &str = r#"
        create table "Odd ""Name" ("Key" text, "select" char(4), "a b" int, body text, primary key ("Key", "select"));
        create table nothing (id int primary key, body text);
        create table few (id uuid primary key default gen_random_uuid(), at timestamptz not null default now());
        create table doc (id int primary key, n int not null default 0, big text);
        create table ledger (id bigint generated always as identity primary key, n numeric, doubled numeric generated always as (n * 2) stored);
    "#;
    // Random, so that it is stored out of line.
    const BIG: &str = "(select string_agg(md5(random()::text), '') from generate_series(1, 100) where i > 0)";
    let mut rig = Rig::new(TABLES).await;
    let odd = TableName::new("public", "Odd \"Name");
    rig.pair
        .source
        .execute(&format!(
            r#"insert into "Odd ""Name" select chr(65 + i % 26) || case i % 3 when 0 then 'ä' when 1 then '''' else '\' end
                 || i / 26, chr(97 + i % 7), i, 'body' from generate_series(1, 4000) i;
               insert into few select from generate_series(1, 3);
               insert into doc select i, 0, {BIG} from generate_series(2, 1000, 2) i;
               insert into ledger (n) select i from generate_series(1, 3000) i"#
        ))
        .await
        .unwrap();
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[copy]\nchunk_bytes = \"16 KiB\"\n").unwrap();
    // Each batch takes a while, so that many changes fall between the marks of a range.
    rig.pair.supabase.faults().aim("rpc/lockstep_apply");
    rig.pair.supabase.faults().random(Mishap::Slow(Duration::from_millis(20)), 1.0, 3);
    rig.start();
    let mut chance = Seeded::new(11);
    let client = rig.pair.source.connect().await.unwrap();
    let mut refused = 0;
    let mut sent = 0;
    loop {
        let (letter, number, i) = (chance.below(26), chance.below(150), 1 + chance.below(1000));
        let odd = format!(r#"where "Key" like chr({letter} + 65) || '_{number}'"#);
        let sql = match chance.below(14) {
            0 => format!(r#"update "Odd ""Name" set body = body || '!' {odd}"#),
            1 => format!(r#"delete from "Odd ""Name" {odd}"#),
            2 => format!(r#"update "Odd ""Name" set "Key" = '{i} ' || "Key" {odd}"#),
            3 => format!(r#"update "Odd ""Name" set "select" = 'z' {odd}"#),
            4 => format!(r#"insert into "Odd ""Name" values (chr({letter} + 65) || 'new{number}', 'n', {i})"#),
            5 => format!("update doc set n = n + 1 where id between {i} and {i} + 10"),
            6 => format!("update doc set id = 1001 - id where id = {i}"),
            7 => format!("update doc set id = id + 1, n = -1 where id = {i}"),
            8 => format!("delete from doc where id = {i}"),
            9 => format!("insert into doc select {i}, 5, {BIG} from generate_series(1, 1) i"),
            10 => {
                format!("begin; delete from doc where id = {i}; insert into doc values ({i}, 7, 'small now'); commit")
            }
            11 => format!("update ledger set n = n + 1 where id between {i} and {i} + 5"),
            12 => format!("delete from ledger where id = {i}; insert into ledger (n) values ({i})"),
            _ => format!("begin; update doc set n = -9 where id > 500; delete from ledger where id < {i}; rollback"),
        };
        sent += 1;
        if client.batch_execute(&sql).await.is_err() {
            refused += 1;
            client.batch_execute("rollback").await.unwrap();
        }
        let copied = "select count(*) from lockstep.copy where done";
        if sent % 10 == 0 && rig.pair.supabase.cluster.value(copied).await.unwrap() == "5" {
            break;
        }
        assert!(!rig.has_ended(), "the service ended:\n{}", rig.tail());
        assert!(sent < 100_000, "the copy does not end:\n{}", rig.tail());
    }
    rig.pair.supabase.faults().clear();
    rig.settled().await;
    println!("{sent} statements beside the copy, {refused} of them refused");
    assert!(sent > 50, "the copy was over before anything happened");
    let mut tables = public(&["nothing", "few", "doc", "ledger"]);
    tables.push(odd);
    rig.assert_equal(&tables).await;
}

/// The target is away while a copy is in the middle: what changes meanwhile on both sides of its cursor is merged in.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_before_and_behind_the_cursor_while_the_copy_is_held_up_arrive_as_they_are() {
    let mut rig =
        Rig::new("create table t (id int primary key, n int not null, body text default repeat('wide ', 40))").await;
    rig.pair.source.execute("insert into t select i, 0 from generate_series(10, 40000, 10) i").await.unwrap();
    rig.pair.log_changes(&public(&["t"])).await.unwrap();
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[copy]\nchunk_bytes = \"16 KiB\"\n").unwrap();
    rig.start();
    // Held up a little, so that the target goes away in the middle.
    let faults = rig.pair.supabase.faults().clone();
    faults.aim("rpc/lockstep_apply");
    faults.random(Mishap::Slow(Duration::from_millis(50)), 1.0, 1);
    until("a part is copied", async || progress(&rig, "t").await.0 > 200).await;
    faults.down().await;
    let (copied, done) = progress(&rig, "t").await;
    assert!(!done, "the copy was over too soon");
    let at = copied * 10;
    for sql in [
        format!("insert into t values (1, 1), ({at} + 1, 1), ({at} + 305, 1), (39999, 1), (50000, 1)"),
        format!("update t set n = 2 where id in (10, {at}, {at} + 10, {at} + 300, {at} + 3000, 40000)"),
        format!("delete from t where id in (20, {at} - 10, {at} + 20, {at} + 310, 39990)"),
        "update t set id = 39995 where id = 30; update t set id = 15 where id = 39980".to_owned(),
        format!("update t set id = {at} + 15 where id = {at} - 20; update t set id = {at} - 5 where id = {at} + 30"),
    ] {
        rig.pair.source.execute(&sql).await.unwrap();
    }
    faults.up().await;
    rig.settled().await;
    rig.assert_equal(&public(&["t"])).await;
}

/// While one table is copied, the stream writes into the others already. After a kill these rows are known for ours.
#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_copy_of_a_table_has_begun_it_does_not_take_its_own_rows_for_a_strangers() {
    let mut rig = Rig::new("create table a (id int primary key, body text); create table b (id int primary key)").await;
    let rows = "insert into a select i, repeat('wide ', 40) from generate_series(1, 20000) i;
                insert into b select i from generate_series(1, 100) i";
    rig.pair.source.execute(rows).await.unwrap();
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[copy]\nchunk_bytes = \"16 KiB\"\n").unwrap();
    let faults = rig.pair.supabase.faults().clone();
    faults.aim("rpc/lockstep_apply");
    faults.random(Mishap::Slow(Duration::from_millis(500)), 1.0, 1);
    rig.start();
    until("a part is copied", async || progress(&rig, "a").await.0 > 0).await;
    rig.pair.source.execute("insert into b values (1000)").await.unwrap();
    until("the stream has written", async || {
        rig.pair.supabase.cluster.value("select count(*) from b").await.unwrap() != "0"
    })
    .await;
    rig.kill9().await;
    assert_eq!(rig.pair.supabase.cluster.value("select count(*) from b").await.unwrap(), "1", "its copy has begun");
    faults.clear();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["a", "b"])).await;
}

/// A commit that waits for a synchronous standby is in the WAL already, but nobody sees it. What the stream has brought
/// must not be undone by a read that does not see it yet, nor a row be taken for gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_stream_brings_before_it_is_visible_is_not_lost() {
    if says_nothing_of_a_journal("what is not visible is not in the journal either") {
        return;
    }
    let mut options = PairOptions::default();
    options.source = options.source.set("synchronous_standby_names", "nobody").set("synchronous_commit", "local");
    let mut rig = Rig::with(options, "create table t (id int primary key, n int not null, big text)").await;
    // Random, so that it is stored out of line.
    const BIG: &str = "(select string_agg(md5(random()::text), '') from generate_series(1, 100) where i > 0)";
    let rows = format!("insert into t select i, 0, {BIG} from generate_series(1, 2000) i");
    rig.pair.source.execute(&rows).await.unwrap();
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[copy]\nchunk_bytes = \"64 KiB\"\n").unwrap();
    let faults = rig.pair.supabase.faults().clone();
    faults.aim("rpc/lockstep_apply");
    faults.random(Mishap::Slow(Duration::from_millis(30)), 1.0, 1);
    rig.start();
    until("a part is copied", async || progress(&rig, "t").await.0 > 100).await;
    const WAITING: &str = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    const RELEASE: &str = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'";
    for sql in [
        "update t set n = 1",                                   // everywhere
        "update t set id = -1, n = 2 where id = 1",             // a new key where the copy has been
        "update t set id = -id where id between 1990 and 2000", // from where it has not been
    ] {
        let client = rig.pair.source.connect().await.unwrap();
        client.batch_execute("set synchronous_commit = on").await.unwrap();
        let hidden = tokio::spawn(async move { client.batch_execute(sql).await });
        until("the commit waits", async || rig.pair.source.value(WAITING).await.unwrap() == "1").await;
        rig.has_read().await;
        rig.pair.source.execute(RELEASE).await.unwrap();
        hidden.await.unwrap().unwrap();
    }
    assert!(!progress(&rig, "t").await.1, "the copy was over too soon");
    faults.clear();
    rig.settled().await;
    rig.assert_equal(&public(&["t"])).await;
    let log = std::fs::read_to_string(rig.log()).unwrap();
    assert!(log.contains("reading it again"), "no range was read while a commit was hidden:\n{log}");
}

/// The copy of one table stands still between two marks; nothing else waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_range_is_in_flight_the_stream_goes_on() {
    if says_nothing_of_a_journal("who locks a table has a number, and the journal waits for its end") {
        return;
    }
    let mut rig = Rig::new("create table a (id int primary key, body text); create table b (id int primary key)").await;
    let rows = "insert into a select i, repeat('wide ', 40) from generate_series(1, 20000) i";
    rig.pair.source.execute(rows).await.unwrap();
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[copy]\nchunk_bytes = \"16 KiB\"\n").unwrap();
    let faults = rig.pair.supabase.faults().clone();
    faults.aim("rpc/lockstep_apply");
    faults.random(Mishap::Slow(Duration::from_millis(500)), 1.0, 1);
    rig.start();
    until("a part is copied", async || progress(&rig, "a").await.0 > 0).await;
    // Whoever reads the table now waits for this, behind the mark at which its range begins.
    let holder = rig.pair.source.connect().await.unwrap();
    holder.batch_execute("begin; lock table a in access exclusive mode").await.unwrap();
    let waits =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name ~ 'reconcile'";
    until("the copy waits", async || {
        assert!(!progress(&rig, "a").await.1, "the copy was over too soon:\n{}", rig.tail());
        rig.pair.source.value(waits).await.unwrap() == "1"
    })
    .await;
    faults.clear();
    let before = progress(&rig, "a").await;
    rig.pair.source.execute("insert into b select generate_series(1, 10)").await.unwrap();
    let there = async || rig.pair.supabase.cluster.value("select count(*) from b").await.unwrap() == "10";
    until("the others' changes arrive", there).await;
    assert!(!before.1 && !progress(&rig, "a").await.1, "the copy is not over");
    assert_eq!(rig.pair.source.value(waits).await.unwrap(), "1", "it waits still");
    // Whoever holds it may change it too.
    holder.batch_execute("update a set body = 'new' where id in (1, 10000, 20000); commit").await.unwrap();
    rig.settled().await;
    rig.assert_equal(&public(&["a", "b"])).await;
}
