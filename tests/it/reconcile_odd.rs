//! What a comparison could get wrong: values that servers write in many ways, keys at the ends of ranges, columns that
//! are not replicated, partitions, names, rows of many megabytes.

use std::collections::BTreeSet;

use lockstep::lab::PairOptions;
use lockstep::types::{DifferenceKind, TableReport, Verdict};
use serde_json::Value;

use super::in_process::{Route, verify};
use super::rig::{Rig, public, says_nothing_of_a_journal};

fn keys(report: &TableReport, kind: DifferenceKind) -> BTreeSet<String> {
    report.keys.iter().filter(|found| found.kind == kind).map(|found| found.key.join("|")).collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

const VALUES: &str = "create table v (id int primary key, at timestamptz, t timestamp, d date, i interval, f float8, r real,
      b bytea, m money, tr tstzrange, ta timestamptz[], fa float8[], j json, n numeric(10,2), c char(6), ok bool, ip inet, x text)";
const ROWS: &str = r#"insert into v select i, '2020-01-02 03:04:05.678+09'::timestamptz + i * interval '1 day', '2020-12-01 13:00',
      '2020-12-01'::date + i, '1 year 2 mons -3 days 04:05:06.7', 0.1::float8 + i / 3.0::float8, 0.1, '\x00ff5c', 1234.5,
      '[2020-01-01 00:00+00,)', array['2020-05-06 07:08+00'::timestamptz], array[0.1::float8, 1e300, 'nan'],
      '{"a":  1}', i, 'ab', i % 2 = 0, '10.0.0.1', '(' || i from generate_series(1, 300) i"#;

/// Both servers write every one of these in their own way to whoever does not say otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_change_how_values_are_written_make_no_difference() {
    let mut rig = Rig::new(VALUES).await;
    rig.pair.source.execute(ROWS).await.unwrap();
    let here = "alter database postgres set datestyle = 'German'; alter database postgres set timezone = 'Asia/Kolkata';
                alter database postgres set intervalstyle = 'iso_8601'; alter database postgres set bytea_output = 'escape';
                alter database postgres set extra_float_digits = -2";
    rig.pair.source.execute(here).await.unwrap();
    let there = "alter database postgres set datestyle = 'SQL, DMY'; alter role authenticator set timezone = 'America/Lima';
                 alter role authenticator set intervalstyle = 'sql_standard'; alter role authenticator set bytea_output = 'escape';
                 alter role authenticator set extra_float_digits = 0";
    rig.pair.supabase.cluster.execute(there).await.unwrap();
    rig.pair.supabase.postgrest.restart().await.unwrap();
    rig.start();
    rig.settled().await;
    let tables = public(&["v"]);
    let report = verify(&rig, &tables).await.remove(0);
    assert_eq!((&report.verdict, report.rows), (&Verdict::Equal, 300), "{report:?}");
    rig.pair.supabase.cluster.execute("update v set at = at + interval '1 us' where id = 7").await.unwrap();
    let report = verify(&rig, &tables).await.remove(0);
    assert_eq!(keys(&report, DifferenceKind::Different), set(&["7"]), "{report:?}");
}

/// Without our SQL it is the server's default that counts, but for the time zone, which PostgREST is told.
#[tokio::test(flavor = "multi_thread")]
async fn without_our_sql_another_time_zone_and_rows_of_megabytes_make_no_difference() {
    if says_nothing_of_a_journal("without our SQL in Supabase there is no checkpoint for it") {
        return;
    }
    let mut rig = Rig::bare(PairOptions::default(), VALUES).await;
    rig.pair
        .execute("create table wide (id int primary key, body text); alter table wide alter body set storage external")
        .await
        .unwrap();
    rig.pair.source.execute(ROWS).await.unwrap();
    // All of them are more than one answer may be.
    let wide = "insert into wide select i, repeat('x', 2500000) from generate_series(1, 14) i;
                insert into wide select i, 'small' from generate_series(100, 1100) i";
    rig.pair.source.execute(wide).await.unwrap();
    rig.pair.supabase.cluster.execute("alter role authenticator set timezone = 'America/Lima'").await.unwrap();
    rig.pair.supabase.postgrest.restart().await.unwrap();
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[schedule]\nreconcile = []\n").unwrap();
    rig.start();
    rig.settled().await;
    rig.pair.supabase.cluster.execute("update wide set body = body || 'y' where id in (14, 500)").await.unwrap();
    let (code, out, err) = rig.verb(&["verify", "--json"]).await;
    assert_eq!(code, Some(1), "{out}{err}\n{}", rig.tail());
    let answer: Value = serde_json::from_str(&out).unwrap();
    let of = |at: usize, name: &str| answer["tables"][at][name].as_u64().unwrap();
    assert_eq!((&answer["tables"][0]["verdict"], of(0, "rows")), (&"equal".into(), 300), "{answer}");
    assert_eq!((of(1, "different"), of(1, "missing"), of(1, "surplus")), (2, 0, 0), "{answer}");
}

/// Every row is the end of a range: parts are as small as they get.
#[tokio::test(flavor = "multi_thread")]
async fn keys_at_the_ends_of_ranges_are_compared_whatever_they_are() {
    const TABLES: &str = "
        create table num (k numeric primary key, n int);
        create table moment (at timestamptz, d date, n int, primary key (d, at));
        create table bin (b bytea, ok bool, u uuid, n int, primary key (ok, b, u));
        create table txt (a text, c char(5), n int, primary key (c, a))";
    let mut rig = Rig::new(TABLES).await;
    let zero = "00000000-0000-0000-0000-000000000000";
    rig.pair
        .source
        .execute(&format!(
            r#"insert into num select unnest(array['NaN', '-Infinity', 'Infinity', '-0.00', '0.10', '1e-30', '1e30', '-7', '99999999999999999999.5']::numeric[]), 0;
              insert into moment select at, d, 0 from unnest(array['infinity', '-infinity', '0044-03-15 12:00+00 BC', '2020-01-01']::timestamptz[]) at,
                unnest(array['infinity', '-infinity', '0001-01-01 BC', '2020-01-01']::date[]) d;
              insert into bin select b, ok, '{zero}', 0 from unnest(array['', '\x00', '\x0000', '\xff', '\x5c6e']::bytea[]) b, unnest(array[true, false]) ok;
              insert into txt select a, c, 0 from unnest(array['', ' ', 'NULL', 'null', '\N', '(', '"', '[null]', '{{}}']) a, unnest(array['', 'a', 'a''b']) c;
              analyze"#
        ))
        .await
        .unwrap();
    rig.start();
    rig.settled().await;
    rig.terminate().await;
    let names = ["num", "moment", "bin", "txt"];
    let tables = public(&names);
    let mut route = Route::start(&rig, 21).await;
    route.settings.rows_per_second = 20; // two rows a part
    for report in route.verify(&tables).await {
        assert_eq!((&report.verdict, report.differences()), (&Verdict::Equal, 0), "{report:?}");
    }
    rig.pair
        .supabase
        .cluster
        .execute(&format!(
            r"delete from num where k in ('NaN', '-Infinity'); update num set n = 1 where k = 'Infinity'; insert into num values ('2', 1);
              delete from moment where d = 'infinity' and at = 'infinity'; update moment set n = 1 where d = '-infinity' and at = '-infinity';
              insert into moment values ('infinity', '4000-01-01', 1);
              delete from bin where b = '' and ok; update bin set n = 1 where b = '\xff' and not ok; insert into bin values ('\xffff', true, '{zero}', 1);
              delete from txt where a = '' and c = ''; update txt set n = 1 where a = '\N' and c = 'a'; insert into txt values ('n', '', 1)"
        ))
        .await
        .unwrap();
    let reports = verify(&rig, &tables).await;
    let of = |table: &str| reports.iter().find(|report| report.table.name == table).unwrap();
    let kinds = [DifferenceKind::Missing, DifferenceKind::Different, DifferenceKind::Surplus];
    let found = |table: &str| kinds.map(|kind| keys(of(table), kind));
    assert_eq!(found("num"), [set(&["NaN", "-Infinity"]), set(&["Infinity"]), set(&["2"])]);
    let moments = [set(&["infinity|infinity"]), set(&["-infinity|-infinity"]), set(&["4000-01-01|infinity"])];
    assert_eq!(found("moment"), moments);
    let bins = [format!("t|\\x|{zero}"), format!("f|\\xff|{zero}"), format!("t|\\xffff|{zero}")];
    assert_eq!(found("bin"), bins.map(|key| set(&[&key])));
    assert_eq!(found("txt"), [set(&["     |"]), set(&["a    |\\N"]), set(&["     |n"])]);
    for report in route.sync(&tables).await {
        assert_eq!(
            (&report.verdict, report.repaired()),
            (&Verdict::Equal, if report.table.name == "num" { 4 } else { 3 })
        );
    }
    rig.assert_equal(&tables).await;
}

/// Only what is replicated is compared, and nothing of what is not is touched by a repair.
#[tokio::test(flavor = "multi_thread")]
async fn columns_that_are_not_replicated_generated_ones_partitions_and_names_are_no_difference() {
    let mut rig = Rig::new("select").await;
    let odd = r#""Odd ""T"" (x), é""#;
    rig.pair
        .source
        .execute(&format!(
            r#"create table {odd} ("Key, 1" int, "select" text, secret text, "sum""" int generated always as ("Key, 1" * 2) stored,
                 primary key ("select", "Key, 1"));
               create table parts (id int, k text, v text, primary key (id, k)) partition by list (id);
               create table parts_1 partition of parts for values in (1, 2, 3);
               create table parts_2 partition of parts default;
               insert into {odd} select i, 'k' || i, 'hidden' from generate_series(1, 400) i;
               insert into parts select i % 9, 'k' || i, 'v' from generate_series(1, 2000) i; analyze"#
        ))
        .await
        .unwrap();
    // Over there other columns, and other partitions.
    rig.pair
        .supabase
        .execute(&format!(
            r#"create table {odd} (own text default 'mine', "select" text, "Key, 1" int, "sum""" int generated always as ("Key, 1" * 2) stored,
                 secret text default 'theirs', primary key ("select", "Key, 1"));
               create table parts (v text, k text, id int, primary key (id, k)) partition by hash (k);
               create table parts_a partition of parts for values with (modulus 2, remainder 0);
               create table parts_b partition of parts for values with (modulus 2, remainder 1)"#
        ))
        .await
        .unwrap();
    rig.pair.supabase.reload_schema().await.unwrap();
    let toml =
        "[schedule]\nreconcile = []\n[table.\"public.Odd \\\"T\\\" (x), é\"]\ncolumns = [\"Key, 1\", \"select\"]\n";
    std::fs::write(rig.dir.path().join("lockstep.toml"), toml).unwrap();
    rig.start();
    rig.settled().await;
    let (code, out, err) = rig.verb(&["verify"]).await;
    assert_eq!(code, Some(0), "{out}{err}\n{}", rig.tail());
    rig.pair
        .supabase
        .cluster
        .execute(&format!(
            r#"update {odd} set own = 'kept', secret = null; delete from {odd} where "Key, 1" = 7;
               insert into {odd} ("Key, 1", "select") values (-1, '"');
               delete from parts where k = 'k5'; update parts set v = 'w' where k in ('k6', 'k7'); insert into parts values ('x', 'x', 99)"#
        ))
        .await
        .unwrap();
    let (code, out, err) = rig.verb(&["sync", "--json"]).await;
    assert_eq!(code, Some(0), "{out}{err}\n{}", rig.tail());
    let answer: Value = serde_json::from_str(&out).unwrap();
    let of = |at: usize| ["inserted", "updated", "deleted"].map(|name| answer["tables"][at][name].as_u64().unwrap());
    assert_eq!((of(0), of(1)), ([1, 0, 1], [1, 2, 1]), "{answer}");
    let kept = format!("select count(*) filter (where own = 'kept' and secret is null) from {odd}");
    assert_eq!(rig.pair.supabase.cluster.value(&kept).await.unwrap(), "399");
    rig.assert_equal(&public(&["parts"])).await;
}
