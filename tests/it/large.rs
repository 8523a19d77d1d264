//! What is too large for one request: transactions that are staged, requests that travel in pieces, rows of many MB.

use std::time::Duration;

use lockstep::lab::{Mishap, PairOptions};

use super::bad_input::supabase;
use super::rig::{Rig, peak_rss, public, until};

const TABLES: &str =
    "create table item (id int primary key, n int, body text); create table other (id int primary key)";

async fn streaming(settings: &str) -> Rig {
    let mut rig = Rig::with(PairOptions { supabase: supabase(), ..PairOptions::default() }, TABLES).await;
    std::fs::write(rig.dir.path().join("lockstep.toml"), settings).unwrap();
    rig.start();
    rig.settled().await;
    rig
}

async fn source(rig: &Rig, sql: &str) {
    rig.pair.source.execute(sql).await.unwrap();
}

async fn count(rig: &Rig) -> u64 {
    rig.pair.supabase.cluster.value("select count(*) from item").await.unwrap().parse().unwrap()
}

/// Every number of rows that somebody saw in the target until `last` were there.
async fn seen(rig: &Rig, last: u64) -> Vec<u64> {
    let client = rig.pair.supabase.cluster.connect().await.unwrap();
    let mut seen = Vec::new();
    until("all rows are there", async || {
        let rows = client.query_one("select count(*) from item", &[]).await.unwrap().get::<_, i64>(0) as u64;
        if seen.last() != Some(&rows) {
            seen.push(rows);
        }
        rows == last
    })
    .await;
    seen
}

const MANY: &str = "insert into item select i, i, 'about a hundred bytes of text in every row, so that it is 30 MB ' || i \
                    from generate_series(1, 300000) i";

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_300000_rows_is_seen_whole_or_not_at_all() {
    let mut rig = streaming("").await;
    source(&rig, MANY).await;
    assert_eq!(seen(&rig, 300_000).await, [0, 300_000]);
    source(&rig, "begin; update item set n = -n; insert into other values (1); commit; insert into other values (2)")
        .await;
    let client = rig.pair.supabase.cluster.connect().await.unwrap();
    until("the second one is there", async || {
        let row = client.query_one(
            "select count(*) filter (where n < 0), (select count(*) from other where id = 1) from item",
            &[],
        );
        let row = row.await.unwrap();
        let (negative, other): (i64, i64) = (row.get(0), row.get(1));
        assert!([(0, 0), (300_000, 1)].contains(&(negative, other)), "{negative} {other}");
        other == 1
    })
    .await;
    rig.settled().await;
    rig.assert_equal(&public(&["item", "other"])).await;
    assert_eq!(rig.metric("lockstep_staged_transactions_total").await, 2.0);
    assert_eq!(rig.metric("lockstep_split_transactions_total").await, 0.0);
    let staged = rig.pair.supabase.cluster.value("select count(*) from lockstep.stage").await.unwrap();
    assert_eq!(staged, "0");
    let peak = peak_rss(rig.pid().unwrap());
    assert!(peak < 200 << 20, "{peak} bytes for parts of 4 MB");
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_transaction_survives_faults_and_kills_at_any_moment() {
    let mut rig = streaming("[apply]\nmax_batch_bytes = \"64 KiB\"\n").await;
    let rows = "insert into item select i, i, repeat('x', 100) from generate_series(1, 20000) i";
    for mishap in [Mishap::AnswerLost, Mishap::Status(503), Mishap::RequestLost] {
        rig.pair.supabase.faults().random(mishap, 0.1, 7);
    }
    for _ in 0..5 {
        source(&rig, rows).await;
        let staged = || async { rig.pair.supabase.cluster.value("select count(*) from lockstep.stage").await.unwrap() };
        until("it is being staged", async || staged().await.parse::<u32>().unwrap() > 3).await;
        rig.kill9().await;
        assert_eq!(count(&rig).await, 0);
        rig.start();
        assert_eq!(seen(&rig, 20_000).await, [0, 20_000]);
        source(&rig, "truncate item").await;
        until("it is empty", async || count(&rig).await == 0).await;
    }
    rig.pair.supabase.faults().clear();
    rig.settled().await;
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_whole_bytes_or_with_a_refused_row_it_arrives_in_parts_and_is_counted() {
    let mut rig = streaming("[apply]\nmax_batch_bytes = \"64 KiB\"\nwhole_bytes = \"1 MiB\"\n").await;
    source(&rig, "insert into item select i, i, repeat('x', 100) from generate_series(1, 40000) i").await;
    rig.settled().await;
    rig.assert_equal(&public(&["item"])).await;
    assert_eq!(rig.metric("lockstep_split_transactions_total").await, 1.0);
    assert_eq!(rig.metric("lockstep_rows_total{kind=\"insert\",table=\"public.item\"}").await, 40_000.0);
    rig.pair.supabase.execute("alter table item add constraint small check (n < 100000)").await.unwrap();
    source(
        &rig,
        "insert into item select i, case i when 44321 then 100000 else i end, 'y' from generate_series(40001, 45000) i",
    )
    .await;
    rig.settled().await;
    assert_eq!(count(&rig).await, 44_999);
    let parked = "select string_agg(key::text, ' ') from lockstep.parked";
    assert_eq!(rig.pair.supabase.cluster.value(parked).await.unwrap(), r#"["44321"]"#);
    assert_eq!(rig.metric("lockstep_split_transactions_total").await, 2.0);
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_the_way_is_made_smaller_and_stays_so() {
    let mut rig = streaming("").await;
    rig.pair.supabase.faults().largest(100_000);
    source(&rig, "insert into item select i, i, repeat('x', 1000) from generate_series(1, 3000) i").await;
    assert_eq!(seen(&rig, 3000).await, [0, 3000]);
    let refused = rig.metric("lockstep_retries_total{class=\"too_large\"}").await;
    assert!((1.0..10.0).contains(&refused), "{refused}");
    let limit = rig.metric("lockstep_request_limit_bytes").await;
    assert!((50_000.0..=100_000.0).contains(&limit), "{limit}");
    source(&rig, "insert into item select i, i, repeat('x', 1000) from generate_series(3001, 6000) i").await;
    source(&rig, "insert into item values (0, 0, repeat('one row of many requests ', 40000))").await;
    rig.settled().await;
    rig.assert_equal(&public(&["item"])).await;
    assert_eq!(rig.metric("lockstep_retries_total{class=\"too_large\"}").await, refused, "{}", rig.tail());
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_100_mb_arrives() {
    let mut rig = streaming("").await;
    source(&rig, "insert into item values (1, 1, repeat('0123456789', 10 * 1024 * 1024))").await;
    rig.settled().await;
    let md5 = "select md5(body) from item where id = 1";
    let there = rig.pair.supabase.cluster.value(md5).await.unwrap();
    assert_eq!(there, rig.pair.source.value(md5).await.unwrap());
    assert!(rig.pid().is_some(), "it lives");
    let peak = peak_rss(rig.pid().unwrap());
    println!("peak {} MB", peak >> 20);
    assert!(peak < 1 << 30, "{peak}");
    tokio::time::timeout(Duration::from_secs(60), rig.terminate()).await.unwrap();
}
