//! Proof and repair: what was damaged by hand is named and made good, row for row, beside traffic; nothing else is
//! written; what is equal costs next to nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lockstep::lab::{ClusterOptions, Mishap, PairOptions, Seeded, SupabaseOptions, logged, repeats};
use lockstep::types::{DifferenceKind, TableReport, Verdict};
use tokio::task::JoinHandle;

use super::in_process::{Route, slot_is_free, verify};
use super::rig::{Rig, public, until};

fn keys(report: &TableReport, kind: DifferenceKind) -> BTreeSet<String> {
    report.keys.iter().filter(|found| found.kind == kind).map(|found| found.key.join("|")).collect()
}

async fn column(rig: &Rig, sql: &str) -> BTreeSet<String> {
    let rows = rig.pair.supabase.cluster.rows(sql).await.unwrap();
    rows.into_iter().map(|row| row[0].clone().unwrap()).collect()
}

/// Statements at the source, one after the other, until it is stopped: how many there were.
fn traffic(rig: &Rig, seed: u64, statement: impl Fn(&mut Seeded, u64) -> String + Send + 'static) -> Traffic {
    let (stop, went) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let url = rig.pair.source.url("postgres");
    let (stopped, counted) = (stop.clone(), went.clone());
    let task = tokio::spawn(async move {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let mut chance = Seeded::new(seed);
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while !stopped.load(Relaxed) {
            pace.tick().await;
            let sql = statement(&mut chance, counted.fetch_add(1, Relaxed));
            client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    });
    Traffic { stop, went, task }
}

struct Traffic {
    stop: Arc<AtomicBool>,
    went: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Traffic {
    async fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.task.await.unwrap();
        self.went.load(Relaxed)
    }
}

/// Of a table of so many rows; a million with LOCKSTEP_TEST_ROWS=1000000.
fn size() -> u64 {
    std::env::var("LOCKSTEP_TEST_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(60_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_what_was_damaged_is_named_and_repaired_beside_traffic_and_nothing_else_is_written() {
    let rows = size();
    let damaged = (rows / 1000).min(1000);
    let mut rig = Rig::new(
        "create table big (id bigint primary key, n int not null, email text unique, body text);
         create table words (word text primary key, n int not null, body text)",
    )
    .await;
    rig.pair
        .source
        .execute(&format!(
            "insert into big select i, 0, 'mail' || i, 'row ' || i || repeat(' and more', 10) from generate_series(1, {rows}) i;
             insert into words select 'wörd ' || i, 0, 'row ' || i from generate_series(1, {rows}) i; analyze"
        ))
        .await
        .unwrap();
    rig.start();
    let copied = "select count(*) from lockstep.copy where done";
    let begun = Instant::now();
    while rig.pair.supabase.cluster.value(copied).await.unwrap() != "2" {
        assert!(begun.elapsed() < Duration::from_secs(600), "the first copy does not end:\n{}", rig.tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rig.settled().await;
    rig.terminate().await;
    let mut route = Route::start(&rig, 7).await;
    let tables = public(&["big", "words"]);

    for report in route.verify(&tables).await {
        let bytes = report.sent_bytes + report.received_bytes;
        println!(
            "{}: {} equal rows in {:.1} s, {} requests, {bytes} bytes; {} bytes for a million",
            report.table,
            report.rows,
            report.seconds,
            report.requests,
            bytes * 1_000_000 / report.rows
        );
        assert_eq!((&report.verdict, report.rows, report.keys.len()), (&Verdict::Equal, rows, 0), "{report:?}");
        // A look, and one request for ten parts of 5,000 to 20,000 rows, or for 2,048 blocks; on a busy machine the parts
        // are smaller, since a request is meant to take a second.
        assert!(report.requests <= 4 + rows / 10_000, "{report:?}");
        assert!(bytes < 5_000 + rows / 20, "{report:?}");
    }

    // Damage in rows that the traffic leaves alone, all over the tables.
    let step = rows / damaged / 10 * 10;
    rig.pair.log_changes(&tables).await.unwrap();
    for (table, strange) in [("big", "select -i, 1, 'strange' || i, 'x'"), ("words", "select 'strange ' || i, 1, 'x'")]
    {
        let number = if table == "big" { "id".to_owned() } else { "substr(word, 6)::bigint".to_owned() };
        rig.pair
            .supabase
            .cluster
            .execute(&format!(
                "delete from {table} where {number} % {step} = 1;
                 update {table} set body = 'other' where {number} % {step} = 2;
                 insert into {table} {strange} from generate_series(1, {damaged}) i"
            ))
            .await
            .unwrap();
    }
    let busy = traffic(&rig, 7, move |chance, _| {
        let id = chance.below(rows / 10) * 10 + 5;
        format!(
            "update big set n = n + 1 where id in ({id}, {id} + 50); update words set n = n + 1 where word = 'wörd {id}'"
        )
    });
    let damage = logged(&rig.pair.supabase.cluster.connect().await.unwrap()).await.unwrap().len();

    let expected =
        |of: u64| -> BTreeSet<String> { (1..=rows).filter(|i| i % step == of).map(|i| i.to_string()).collect() };
    let begun = Instant::now();
    for report in verify(&rig, &tables).await {
        println!(
            "{}: {} differences named beside traffic in {:.1?}",
            report.table,
            report.differences(),
            begun.elapsed()
        );
        let (missing, different) = (keys(&report, DifferenceKind::Missing), keys(&report, DifferenceKind::Different));
        let surplus = keys(&report, DifferenceKind::Surplus);
        let words = |set: BTreeSet<String>| -> BTreeSet<String> { set.iter().map(|i| format!("wörd {i}")).collect() };
        let (one, two, three): (BTreeSet<_>, BTreeSet<_>, BTreeSet<_>) = match report.table.name.as_str() {
            "big" => (expected(1), expected(2), (1..=damaged).map(|i| format!("-{i}")).collect()),
            _ => (words(expected(1)), words(expected(2)), (1..=damaged).map(|i| format!("strange {i}")).collect()),
        };
        assert_eq!((missing, different, surplus), (one, two, three));
        assert_eq!((&report.verdict, report.unsettled), (&Verdict::Different, 0));
    }
    for report in route.sync(&tables).await {
        println!("{report:?}");
        let each = expected(1).len() as u64;
        let done = (report.inserted, report.updated, report.deleted);
        assert_eq!((&report.verdict, done), (&Verdict::Equal, (each, expected(2).len() as u64, damaged)));
    }
    let statements = busy.end().await;
    assert!(statements > 10, "there was hardly any traffic: {statements} statements");
    let client = rig.pair.supabase.cluster.connect().await.unwrap();
    let all = logged(&client).await.unwrap();
    // What the traffic changed ends in 5.
    let repaired = all[damage..].iter().filter(|one| !one.key.trim_end_matches(['"', ']']).ends_with('5')).count();
    println!("{repaired} writes reached the target beside those of {statements} statements");
    let each = expected(1).len() + expected(2).len() + damaged as usize;
    assert_eq!(repaired, 2 * each - count_of_fives(&tables, damaged), "writes on the target");
    assert_eq!(repeats(&client).await.unwrap(), [""; 0], "a row was written as it was");
    for report in verify(&rig, &tables).await {
        assert_eq!(report.verdict, Verdict::Equal, "{report:?}");
    }
    rig.assert_equal(&tables).await;
}

/// Strange rows of both tables whose number ends in 5, which the count above takes for traffic's.
fn count_of_fives(tables: &[lockstep::types::TableName], damaged: u64) -> usize {
    tables.len() * (1..=damaged).filter(|i| i % 10 == 5).count()
}

/// Text keys in many scripts, sorted by two clusters that agree on nothing; keys of every other kind beside them.
#[tokio::test(flavor = "multi_thread")]
async fn keys_in_twenty_scripts_are_compared_between_clusters_that_sort_them_differently() {
    const SCRIPTS: [&str; 20] = [
        "zebra",
        "Ärger",
        "żółw",
        "Ελλάδα",
        "Москва",
        "Հայաստան",
        "שלום",
        "سلام",
        "नमस्ते",
        "বাংলা",
        "ਪੰਜਾਬੀ",
        "ગુજરાતી",
        "தமிழ்",
        "తెలుగు",
        "ไทย",
        "ລາວ",
        "မြန်မာ",
        "ქართული",
        "日本語",
        "한국어",
    ];
    let locale = |locale: &str| ClusterOptions { locale: locale.into(), ..ClusterOptions::default() };
    let options = PairOptions {
        source: locale("C"),
        supabase: SupabaseOptions { cluster: locale("C.UTF-8"), ..SupabaseOptions::default() },
    };
    let mut rig = Rig::with(options, "select").await;
    let table = |collation: &str| {
        format!(
            r#"create table t (word text collate "{collation}" primary key, n int);
               create table pair (a varchar(40) collate "{collation}", b int, n int, primary key (b, a));
               create type mood as enum ({}); create table feels (m mood, d date, n int, primary key (d, m))"#,
            if collation == "C" { "'sad', 'glad', 'mad'" } else { "'mad', 'sad', 'glad'" }
        )
    };
    rig.pair.source.execute(&table("C")).await.unwrap();
    rig.pair.supabase.execute(&table("sv-x-icu")).await.unwrap();
    let values: Vec<String> = SCRIPTS.iter().map(|word| format!("('{word}')")).collect();
    rig.pair
        .source
        .execute(&format!(
            "create temp table w (w text); insert into w values {};
             insert into t select w || i, i from w, generate_series(1, 40) i;
             insert into t select upper(w) || '-' || i, i from w, generate_series(1, 40) i on conflict do nothing;
             insert into pair select w, i, i from w, generate_series(1, 40) i;
             insert into feels select m, date '0044-03-15 BC' + i, i from unnest(enum_range(null::mood)) m, generate_series(1, 200) i;
             insert into feels values ('sad', 'infinity', 1), ('sad', '-infinity', 1)",
            values.join(", ")
        ))
        .await
        .unwrap();
    rig.start();
    rig.settled().await;
    rig.terminate().await;
    let tables = public(&["t", "pair", "feels"]);
    let mut route = Route::start(&rig, 9).await;
    for report in verify(&rig, &tables).await {
        assert_eq!((&report.verdict, report.differences()), (&Verdict::Equal, 0), "{report:?}");
        assert!(report.rows > 500, "{report:?}");
    }
    for sql in [
        "delete from t where word = '日本語7'; update t set n = -1 where word = 'Москва9'; insert into t values ('~', 1)",
        "delete from pair where a = 'ไทย' and b = 7; update pair set n = -1 where a = 'שלום'; insert into pair values ('', 1, 1)",
        "delete from feels where d = 'infinity'; update feels set n = -1 where d = '-infinity';
         insert into feels values ('mad', 'infinity', 1)",
    ] {
        rig.pair.supabase.cluster.execute(sql).await.unwrap();
    }
    for report in verify(&rig, &tables).await {
        let different = if report.table.name == "pair" { 40 } else { 1 };
        let counts = (report.missing, report.different, report.surplus);
        assert_eq!((&report.verdict, counts), (&Verdict::Different, (1, different, 1)), "{report:?}");
    }
    let ours = column(&rig, "select word from t where word ~ '日本語' or word = '~'").await;
    assert!(ours.contains("~") && !ours.contains("日本語7"));
    for report in route.sync(&tables).await {
        assert_eq!(report.verdict, Verdict::Equal, "{report:?}");
    }
    rig.assert_equal(&tables).await;
}

/// Random traffic, random damage, kills in the middle: equal in the end, and no row was written that was right.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_damaged_beside_whatever_traffic_and_kills_it_ends_equal_without_a_needless_write() {
    let seed = std::env::var("LOCKSTEP_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_123);
    println!("LOCKSTEP_TEST_SEED={seed}");
    const BIG: &str = "(select string_agg(md5(random()::text), '') from generate_series(1, 100) where i > 0)";
    let schema = "create table num (id int primary key, n int not null, u int unique, big text);
                  create table txt (a text, b int, n int not null, primary key (a, b))";
    let mut rig = Rig::new(schema).await;
    rig.pair
        .source
        .execute(&format!(
            "insert into num select i, 0, i, case when i % 20 = 0 then {BIG} end from generate_series(1, 4000) i;
             insert into txt select 'k' || i % 50, i, 0 from generate_series(1, 4000) i; analyze"
        ))
        .await
        .unwrap();
    rig.start();
    rig.settled().await;
    rig.terminate().await;
    let tables = public(&["num", "txt"]);
    rig.pair.log_changes(&tables).await.unwrap();
    let busy = traffic(&rig, seed, |chance, went| {
        let (id, other) = (1 + chance.below(4000), 10_000 + went);
        match chance.below(20) {
            0..8 => format!("update num set n = n + 1 where id between {id} and {id} + 5"),
            8 | 9 => format!("delete from num where id = {id}"),
            10 | 11 => format!("insert into num values ({other}, 1, {other})"),
            12 => format!("update num set id = {other} where id = {id}"),
            13..16 => format!("update txt set n = n + 1 where b between {id} and {id} + 3"),
            16 | 17 => format!("delete from txt where b = {id}; insert into txt values ('n{other}', {id}, -1)"),
            18 => format!("update txt set a = a || 'x' where b = {id}"),
            _ => format!("begin; delete from num where id > {id}; delete from txt; rollback"),
        }
    });
    let mut chance = Seeded::new(seed ^ 1);
    let damager = rig.pair.supabase.cluster.connect().await.unwrap();
    let mut repaired = 0;
    for round in 0..6 {
        let mut route = Route::start(&rig, 100 + round).await;
        for _ in 0..2 {
            for _ in 0..1 + chance.below(12) {
                let (from, size) = (chance.below(4000), chance.below(40));
                let to = from + size;
                let sql = match chance.below(6) {
                    0 => format!("delete from num where id between {from} and {to}"),
                    1 => format!("update num set n = -{from} where id between {from} and {to}"),
                    2 => format!(
                        "insert into num select -i, 0, -i from generate_series({from}, {to}) i on conflict do nothing"
                    ),
                    3 => format!("delete from txt where b between {from} and {to}"),
                    4 => format!("update txt set n = -{from} where b between {from} and {to}"),
                    _ => format!(
                        "insert into txt select 'strange', i, 7 from generate_series({from}, {to}) i on conflict do nothing"
                    ),
                };
                damager.batch_execute(&sql).await.unwrap();
            }
            let limit = Duration::from_millis(200 + chance.below(3000));
            match tokio::time::timeout(limit, route.sync(&tables)).await {
                Ok(reports) => repaired += reports.iter().map(TableReport::repaired).sum::<u64>(),
                Err(_) => println!("round {round}: killed after {limit:?}"),
            }
        }
        drop(route);
        slot_is_free(&rig).await;
    }
    println!("{} statements beside, {repaired} rows repaired where it came to an end", busy.end().await);
    let mut route = Route::start(&rig, 99).await;
    for report in route.sync(&tables).await {
        assert_eq!(report.verdict, Verdict::Equal, "{report:?}");
    }
    rig.assert_equal(&tables).await;
    assert_eq!(repeats(&damager).await.unwrap(), [""; 0], "a row was written as it was");
}

/// The stream goes first: nothing is asked of a target that lags.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_waits_while_the_stream_is_behind() {
    let mut rig = Rig::new("create table t (id int primary key, n int); create table w (k text primary key)").await;
    rig.pair
        .source
        .execute("insert into t select i, 0 from generate_series(1, 1000) i; insert into w select id from t; analyze")
        .await
        .unwrap();
    rig.start();
    rig.settled().await;
    rig.terminate().await;
    let mut route = Route::start(&rig, 12).await;
    let faults = rig.pair.supabase.faults().clone();
    faults.aim("rpc/lockstep_apply");
    faults.random(Mishap::Status(503), 1.0, 1);
    rig.pair.source.execute("update t set n = 1").await.unwrap();
    let held = async {
        until("the stream was refused several times", async || faults.counts().statuses >= 4).await;
        let others = faults.counts().requests - faults.counts().statuses;
        faults.clear();
        others
    };
    let before = faults.counts();
    let (reports, asked) = tokio::join!(route.verify(&[]), held);
    assert!(reports.iter().all(|report| report.verdict == Verdict::Equal), "{reports:?}");
    // A look at the first table, and no more before the stream had caught up.
    assert!(asked - before.requests <= 1, "{asked} {before:?}");
}

/// `reconcile.max_rows_per_second`, for both ways in which tables are divided.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_is_no_faster_than_it_may_be() {
    let mut rig = Rig::new("create table t (id int primary key, n int); create table w (k text primary key)").await;
    rig.pair
        .source
        .execute("insert into t select i, 0 from generate_series(1, 6000) i; insert into w select id from t; analyze")
        .await
        .unwrap();
    rig.start();
    rig.settled().await;
    rig.terminate().await;
    let mut route = Route::start(&rig, 13).await;
    for (rate, least, most) in [(0, 0.0, 1.5), (3_000, 1.9, 8.0)] {
        route.settings.rows_per_second = rate;
        for report in route.verify(&[]).await {
            println!("{} at {rate} rows a second: {} rows in {:.2} s", report.table, report.rows, report.seconds);
            assert_eq!((&report.verdict, report.rows), (&Verdict::Equal, 6000), "{report:?}");
            assert!(report.seconds >= least && report.seconds < most, "{rate} rows a second: {report:?}");
        }
    }
}
