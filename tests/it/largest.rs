//! The largest things that are promised, each once and with its numbers printed: `make test-large`. What came out is
//! written down in docs/limits.md.

use std::time::{Duration, Instant};

use lockstep::lab::{Owner, PairOptions, SupabaseOptions};

use super::rig::{Rig, peak_rss, public};

/// Everything here takes minutes.
const PATIENCE: Duration = Duration::from_secs(900);

async fn rig(sql: &str) -> Rig {
    let supabase = SupabaseOptions { owner: Owner::SetReplicationRole, ..SupabaseOptions::default() };
    Rig::with(PairOptions { supabase, ..PairOptions::default() }, sql).await
}

fn peak(rig: &Rig) -> u64 {
    rig.pid().map_or(0, peak_rss) >> 20
}

/// Seconds until all is there.
async fn takes(rig: &mut Rig, sql: &str) -> f64 {
    rig.pair.source.execute(sql).await.unwrap();
    let begun = Instant::now();
    rig.settled_within(PATIENCE).await;
    begun.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make test-large"]
async fn one_transaction_of_three_million_rows_arrives_in_bounded_memory() {
    let mut rig = rig("create table big (id bigint primary key, n int not null, body text)").await;
    rig.start();
    rig.settled().await;
    let insert = |from: u64, rows: u64| {
        format!(
            "insert into big select i, 0, 'row ' || i || repeat(' more', 8) from generate_series({from}, {from} + {rows} - 1) i"
        )
    };
    for (rows, from) in [(300_000, 10_000_000), (3_000_000, 1)] {
        let seconds = takes(&mut rig, &insert(from, rows)).await;
        let (staged, split) = (
            rig.metric("lockstep_staged_transactions_total").await,
            rig.metric("lockstep_split_transactions_total").await,
        );
        println!("{rows} rows: {seconds:.1} s, peak {} MiB; {staged} staged, {split} split", peak(&rig));
        rig.assert_equal(&public(&["big"])).await;
    }
    let seconds =
        takes(&mut rig, "update big set n = n + 1 where id <= 1000000; delete from big where id > 2000000").await;
    println!("1,000,000 updates and 1,300,000 deletes: {seconds:.1} s, peak {} MiB", peak(&rig));
    rig.assert_equal(&public(&["big"])).await;
    assert!(peak(&rig) < 400, "{} MiB", peak(&rig));
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make test-large"]
async fn one_row_of_a_hundred_megabytes_arrives_and_its_neighbours_with_it() {
    let schema = "create table fat (id int primary key, n int, body text, raw bytea);
        alter table fat alter body set storage external, alter raw set storage external";
    let mut rig = rig(schema).await;
    rig.pair.source.execute("insert into fat values (1, 1, repeat('copied \"🦀\\', 1000000), null)").await.unwrap();
    rig.start();
    rig.settled_within(PATIENCE).await;
    rig.assert_equal(&public(&["fat"])).await;
    for (what, sql) in [
        ("50 MB of text", "insert into fat values (2, 1, repeat('0123456789', 5000000), null)"),
        ("100 MB of text", "insert into fat values (3, 1, repeat('0123456789', 10000000), null), (4, 4, 'after', 'x')"),
        ("50 MB of bytes", "insert into fat values (5, 1, null, convert_to(repeat('0123456789', 5000000), 'UTF8'))"),
        ("its neighbour", "update fat set n = n + 1"),
        ("another key", "update fat set id = 30 where id = 3"),
        ("no more of it", "delete from fat where id > 2"),
    ] {
        let seconds = takes(&mut rig, sql).await;
        println!("{what}: {seconds:.1} s, peak {} MiB", peak(&rig));
        let differences = rig.pair.differences(&public(&["fat"])).await.unwrap();
        assert!(differences.is_empty(), "{what}: {}\n{}", differences.join("\n"), rig.tail());
    }
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make test-large"]
async fn ten_thousand_tables_are_copied_and_streamed() {
    const TABLES: usize = 10_000;
    let mut rig = rig("select 1").await;
    let begun = Instant::now();
    for from in (0..TABLES).step_by(500) {
        let sql: String =
            (from..from + 500).map(|n| format!("create table t{n} (id int primary key, v text);")).collect();
        rig.pair.execute(&sql).await.unwrap();
    }
    println!("made in {:.1} s", begun.elapsed().as_secs_f64());
    let fill: String = (0..TABLES).step_by(10).map(|n| format!("insert into t{n} values (1, 'copied');")).collect();
    rig.pair.source.execute(&fill).await.unwrap();
    let begun = Instant::now();
    rig.start();
    rig.settled_within(PATIENCE).await;
    println!("copied in {:.1} s, peak {} MiB", begun.elapsed().as_secs_f64(), peak(&rig));
    let change: String = (0..TABLES).step_by(7).map(|n| format!("insert into t{n} values (2, 'streamed');")).collect();
    let seconds = takes(&mut rig, &change).await;
    println!("a change to {} tables: {seconds:.1} s", TABLES.div_ceil(7));
    let seconds = takes(&mut rig, "insert into t5 values (3, 'alone')").await;
    println!("a change to one table: {seconds:.2} s, peak {} MiB", peak(&rig));
    rig.kill9().await;
    let begun = Instant::now();
    rig.start();
    let seconds = takes(&mut rig, "insert into t6 values (3, 'after')").await;
    println!("started again in {:.1} s ({seconds:.1} s for a change)", begun.elapsed().as_secs_f64());
    let names: Vec<String> = (0..TABLES).step_by(35).chain([5, 6]).map(|n| format!("t{n}")).collect();
    rig.assert_equal(&public(&names.iter().map(String::as_str).collect::<Vec<_>>())).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make test-large"]
async fn a_table_of_sixteen_hundred_columns_is_copied_and_streamed() {
    let columns: String = (1..1600).map(|n| format!(", c{n} int")).collect();
    let mut rig = rig(&format!("create table wide (id int primary key{columns})")).await;
    let values = |shift: usize| (1..1600).map(|n| format!(", {}", n + shift)).collect::<String>();
    let fill = format!("insert into wide select i{} from generate_series(1, 200) i", values(0));
    rig.pair.source.execute(&fill).await.unwrap();
    let begun = Instant::now();
    rig.start();
    rig.settled_within(PATIENCE).await;
    println!("200 rows copied in {:.1} s, peak {} MiB", begun.elapsed().as_secs_f64(), peak(&rig));
    for (what, sql) in [
        ("1,000 rows", format!("insert into wide select i{} from generate_series(1001, 2000) i", values(7))),
        ("an update", "update wide set c1 = -1, c1599 = null where id % 3 = 0".into()),
        ("another key", "update wide set id = -id where id % 5 = 0".into()),
        ("a delete", "delete from wide where id % 7 = 1".into()),
    ] {
        let seconds = takes(&mut rig, &sql).await;
        println!("{what}: {seconds:.1} s, peak {} MiB", peak(&rig));
        rig.assert_equal(&public(&["wide"])).await;
    }
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}
