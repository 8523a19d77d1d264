//! What may happen to triggers and to their journal: it is right, or it is noticed and compared.

use super::doctor::{examine, troubles};
use super::journal::{capture_by, rig, session, source, target};
use super::rig::{Rig, peak_rss, public, until};

const STARTS: &str = "lockstep_route_starts_total";
const TABLES: &str = "create table a (id int primary key, body text); create table b (id int primary key)";

async fn streaming(schema: &str) -> Rig {
    let mut rig = rig("replica", schema, "journal").await;
    rig.start();
    rig.settled().await;
    rig
}

async fn equal_in_the_end(rig: &Rig, tables: &[&str]) {
    until(&format!("both sides are equal (log: {})", rig.log().display()), async || {
        rig.pair.differences(&public(tables)).await.is_ok_and(|differences| differences.is_empty())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_that_were_switched_off_for_a_moment_have_their_table_compared() {
    let mut rig = streaming(TABLES).await;
    source(&rig, "insert into a select i, 'seen' from generate_series(1, 10) i").await;
    rig.settled().await;
    // Faster than anybody looks; and while nobody looks.
    let unseen = |id: u32| {
        format!(
            "alter table a disable trigger user; insert into a values ({id}, 'unseen'); alter table a enable trigger user"
        )
    };
    source(&rig, &unseen(100)).await;
    equal_in_the_end(&rig, &["a", "b"]).await;
    rig.terminate().await;
    source(&rig, &unseen(200)).await;
    rig.start();
    equal_in_the_end(&rig, &["a", "b"]).await;
    rig.settled().await;
    assert_eq!(target(&rig, "select count(*) from a where body = 'unseen'").await, "2");
    // What only a comparison can find: sessions whose triggers sleep.
    source(&rig, "set session_replication_role = replica; insert into a values (300, 'unseen')").await;
    source(&rig, "insert into a values (301, 'seen')").await;
    rig.settled().await;
    assert_eq!(target(&rig, "select count(*) from a where id >= 300").await, "1");
    let (code, out, err) = rig.verb(&["sync"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    rig.settled().await;
    rig.assert_equal(&public(&["a", "b"])).await;
    // What was compared once is known: neither that, nor a table that came later, is compared at each start.
    let later = "create table c (id int primary key)";
    rig.pair.supabase.execute(later).await.unwrap();
    source(&rig, &format!("{later}; insert into c values (1)")).await;
    until("the new table arrives", async || target(&rig, "select count(*) from c").await == "1").await;
    rig.settled().await;
    rig.terminate().await;
    std::fs::remove_file(rig.log()).unwrap();
    rig.start();
    rig.settled().await;
    let log = std::fs::read_to_string(rig.log()).unwrap();
    assert!(log.contains("capture reads the journal") && !log.contains("comparing what"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_behind_an_alter_is_compared_wherever_its_transaction_ends() {
    let mut rig = streaming(TABLES).await;
    source(&rig, "insert into a select i, 'before' from generate_series(1, 10) i").await;
    rig.settled().await;
    rig.pair.supabase.execute("alter table a add column more text").await.unwrap();
    // It loses track first; another transaction stands between; and it ends behind that one.
    let (altering, between) = (session(&rig).await, session(&rig).await);
    altering.batch_execute("begin; alter table a add column more text; update a set more = 'new'").await.unwrap();
    between.batch_execute("insert into b values (1)").await.unwrap();
    altering.batch_execute("insert into b values (2); commit").await.unwrap();
    equal_in_the_end(&rig, &["a", "b"]).await;
    source(&rig, "update a set more = 'newer' where id = 1; insert into b values (3)").await;
    rig.settled().await;
    rig.assert_equal(&public(&["a", "b"])).await;
    // To one that sees only what was before, the table is as its triggers know it; and it writes the new column.
    rig.pair.supabase.execute("alter table a add column last text").await.unwrap();
    let earlier = session(&rig).await;
    earlier.batch_execute("begin isolation level repeatable read; select count(*) from b").await.unwrap();
    source(&rig, "alter table a add column last text").await;
    earlier.batch_execute("insert into a values (20, 'a', 'b', 'unseen'); commit").await.unwrap();
    equal_in_the_end(&rig, &["a", "b"]).await;
    rig.settled().await;
    assert_eq!(target(&rig, "select last from a where id = 20").await, "unseen");
    // One that is set aside, as Supabase lacks its column, holds nobody up.
    source(&rig, "alter table a add column lacking text; update a set lacking = 'x'").await;
    let parked = async || rig.status().await.is_some_and(|status| status["tables"][0]["state"] == "parked");
    until("it is set aside", parked).await;
    let starts = rig.metric(STARTS).await;
    for id in 10..13 {
        source(&rig, &format!("update a set lacking = 'y'; insert into b values ({id})")).await;
        until("the other goes on", async || {
            target(&rig, &format!("select count(*) from b where id = {id}")).await == "1"
        })
        .await;
    }
    assert_eq!(rig.metric(STARTS).await, starts, "{}", rig.tail());
    rig.terminate().await;
    rig.pair.supabase.execute("alter table a add column lacking text").await.unwrap();
    rig.start();
    equal_in_the_end(&rig, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_detached_is_not_its_former_roots_any_more() {
    let schema = "create table part (id int, at int, primary key (id, at)) partition by range (at);
        create table part_1 partition of part for values from (0) to (10);
        create table part_2 partition of part for values from (10) to (20);
        create table alone (id int, at int, primary key (id, at))";
    let mut rig = streaming(schema).await;
    source(&rig, "insert into part select i, i from generate_series(1, 15) i").await;
    rig.settled().await;
    source(&rig, "alter table part detach partition part_1; insert into part_1 values (100, 1); insert into part values (101, 11)")
        .await;
    equal_in_the_end(&rig, &["part"]).await;
    source(
        &rig,
        "insert into part_1 values (102, 2); update part_1 set id = id + 1000; insert into part values (103, 12)",
    )
    .await;
    until("the root goes on", async || target(&rig, "select count(*) from part where id = 103").await == "1").await;
    rig.assert_equal(&public(&["part"])).await;
    // A replicated table becomes a part: what empties it empties nothing else, and nobody begins anew again and again.
    let follow = "alter table part detach partition part_1; create table part_rest partition of part default";
    rig.pair.supabase.execute(follow).await.unwrap();
    source(
        &rig,
        "insert into alone values (200, 21); alter table part attach partition alone for values from (20) to (30)",
    )
    .await;
    until("its rows are the root's", async || target(&rig, "select count(*) from part where id = 200").await == "1")
        .await;
    let made = "select count(*) from pg_trigger where tgrelid = 'alone'::regclass";
    until("it has the triggers of a part", async || rig.pair.source.value(made).await.unwrap() == "3").await;
    rig.streams().await;
    let starts = rig.metric(STARTS).await;
    source(&rig, "truncate alone; insert into part values (201, 22); insert into part_1 values (104, 3)").await;
    until("the root goes on", async || target(&rig, "select count(*) from part where id = 201").await == "1").await;
    source(&rig, "insert into part values (200, 21), (202, 23)").await; // emptied parts are not seen, as with a slot
    until("the root goes on", async || target(&rig, "select count(*) from part where id = 202").await == "1").await;
    rig.assert_equal(&public(&["part"])).await;
    assert_eq!(rig.metric(STARTS).await, starts, "{}", rig.tail());
}

/// Where keys act in the target too, a key that was deleted there would take rows along that nobody writes again.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_change_take_along_what_refers_to_them_where_foreign_keys_act() {
    let schema = "create table parent (id int primary key, body text);
        create table child (id int primary key, parent int references parent on update cascade on delete cascade);
        create table grand (id int primary key, child int references child on update cascade on delete cascade)";
    let mut rig = streaming(schema).await;
    let tables = ["parent", "child", "grand"];
    for sql in [
        "insert into parent select 10 * i, 'p' from generate_series(1, 9) i;
         insert into child select i, 10 * (i % 9 + 1) from generate_series(1, 30) i;
         insert into grand select i, i % 30 + 1 from generate_series(1, 90) i",
        "update parent set id = id + 1 where id = 10",
        "update parent set id = id + 1, body = 'all'",
        "update child set id = id + 1000 where id < 20",
        "begin; insert into parent values (7, 'new'); update parent set id = 8 where id = 7;
         update parent set id = id + 5 where id > 40; update child set id = -id; commit",
        "update parent set id = id + 1 where id = 12; delete from parent where id > 80",
    ] {
        source(&rig, sql).await;
        rig.settled().await;
        let differences = rig.pair.differences(&public(&tables)).await.unwrap();
        assert!(differences.is_empty(), "after {sql}:\n{}\n{}", differences.join("\n"), rig.tail());
    }
    assert_eq!(target(&rig, "select count(*) from lockstep.parked").await, "0");
}

/// `LOCKSTEP_TEST_JOURNAL_ROWS=5000000` for the whole of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_has_grown_without_a_reader_is_read_in_little_memory_and_gives_its_space_back() {
    let rows = std::env::var("LOCKSTEP_TEST_JOURNAL_ROWS").ok().and_then(|rows| rows.parse().ok());
    let rows: u64 = rows.unwrap_or(30_000);
    let mut rig = streaming(TABLES).await;
    source(&rig, "insert into a select i, '' from generate_series(1, 1000) i").await;
    rig.settled().await;
    rig.terminate().await;
    let client = session(&rig).await;
    for _ in 0..rows / 1000 {
        client.batch_execute("update a set body = 'row ' || random() where id <= 1000").await.unwrap();
    }
    // Small rows say nothing of the size of those behind them.
    client
        .batch_execute("insert into a select i, repeat('wide', 500000) from generate_series(2000, 2060) i")
        .await
        .unwrap();
    let there = || rig.pair.source.value("select count(*) >= 1000 from lockstep.journal");
    assert_eq!(there().await.unwrap(), "t");
    rig.start();
    rig.settled_within(std::time::Duration::from_secs(90 + rows / 2_000)).await;
    rig.assert_equal(&public(&["a"])).await;
    let peak = peak_rss(rig.pid().unwrap()) >> 20;
    println!("{rows} rows of the journal were read, peak {peak} MiB");
    assert!(peak < 160, "{peak} MiB");
    until("the space comes back", async || {
        let size = rig.pair.source.value("select pg_total_relation_size('lockstep.journal')").await.unwrap();
        size.parse::<u64>().unwrap() < 64 << 20
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_takes_a_slot_where_it_can_be_had_and_else_the_journal_and_tells_which() {
    for (wal_level, way) in [("logical", "wal"), ("replica", "journal")] {
        let mut rig = rig(wal_level, TABLES, "auto").await;
        rig.start();
        let streams = async || rig.status().await.is_some_and(|status| status["state"] == "streaming");
        until("it streams", streams).await;
        assert_eq!(rig.status().await.unwrap()["capture"], way, "{}", rig.tail());
        source(&rig, "insert into a values (1, 'x')").await;
        until("it arrives", async || target(&rig, "select count(*) from a").await == "1").await;
        // Of the other one nothing is told, so that no alert speaks of it.
        let text = async || rig.get("/metrics").await.unwrap().text().await.unwrap();
        let shown = format!("lockstep_{}{{", if way == "wal" { "slot_active" } else { "journal_bytes" });
        let other = format!("lockstep_{}{{", if way == "wal" { "journal_bytes" } else { "slot_active" });
        until("the source is looked at", async || text().await.contains(&shown)).await;
        let text = text().await;
        assert!(!text.contains(&other), "{text}");
        let missing = text.lines().find(|line| line.contains("slot_status") && line.contains("missing")).unwrap();
        assert!(missing.ends_with(" 0"), "{missing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_what_the_journal_lacks_and_who_may_make_it() {
    let mut rig = rig("replica", TABLES, "journal").await;
    rig.pair
        .source
        .execute("create role reader login password 'reader'; create table heir () inherits (b)")
        .await
        .unwrap();
    let of_journal = async |rig: &Rig| {
        let (_, report) = examine(rig, &[]).await;
        let all = troubles(&report);
        all.into_iter().filter(|line| line.starts_with("journal ") || line.contains("inheritance")).collect::<Vec<_>>()
    };
    let found = of_journal(&rig).await;
    assert!(found.len() == 1 && found[0].contains("public.b is part of an inheritance tree"), "{found:?}");
    let owner = std::mem::replace(&mut rig.source_url, rig.pair.source.url_as("reader", "reader", "postgres"));
    let found = of_journal(&rig).await;
    assert!(
        found.iter().any(|line| line.contains("role reader may not") && line.contains("setup source --capture")),
        "{found:?}"
    );
    rig.source_url = owner;
    source(&rig, "drop table heir").await;
    rig.start();
    rig.settled().await;
    assert_eq!(of_journal(&rig).await, [""; 0]);
    rig.terminate().await;
    source(&rig, "alter table a disable trigger user").await;
    let found = of_journal(&rig).await;
    assert!(found.len() == 1 && found[0].contains("public.a lacks triggers of the journal"), "{found:?}");
    // A role that a policy binds would fail the writes of everybody.
    source(&rig, "drop trigger lockstep_journal_insert on b; alter table b enable row level security; grant all on a, b to reader;
        grant all on schema lockstep to reader; grant all on all tables in schema lockstep to reader").await;
    rig.source_url = rig.pair.source.url_as("reader", "reader", "postgres");
    let found = of_journal(&rig).await;
    assert!(found.iter().any(|line| line.contains("may not read all rows of public.b")), "{found:?}");
    capture_by(&mut rig, "wal");
}
