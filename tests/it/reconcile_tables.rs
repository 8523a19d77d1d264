//! Comparing and repairing where nothing of ours is installed in the target: by plain requests, which show rows and no
//! digests.

use lockstep::lab::{PairOptions, logged, repeats};
use serde_json::Value;

use super::rig::{Rig, public, until};

const TABLES: &str = r#"
    create table num (id bigint primary key, n int not null, body text);
    create table word (w text primary key, n int not null);
    create table "Odd, ""x"" (é)" ("a.b" varchar(20), "select" bool, at timestamptz, ip inet, f char(6), v text,
      primary key ("a.b", "select", at, ip, f));
    create table parts (id int, day date, v text, primary key (id, day)) partition by range (day);
    create table parts_1 partition of parts for values from ('2020-01-01') to ('2020-07-01');
    create table parts_2 partition of parts for values from ('2020-07-01') to ('2021-01-01');
"#;
const FILL: &str = r#"
    insert into num select i, 0, 'row ' || i from generate_series(1, 5000) i;
    insert into word select 'wörd, "' || i || '"', 0 from generate_series(1, 3000) i;
    insert into "Odd, ""x"" (é)" select 'k(' || i, i % 2 = 0, '2020-01-01 00:00:00.5+03'::timestamptz + i * interval '1 s',
      ('10.0.' || i % 200 || '.1/24')::inet, 'f' || i % 7, 'v' from generate_series(1, 600) i;
    insert into parts select i, '2020-01-01'::date + i % 360, 'v' from generate_series(1, 1500) i;
    analyze
"#;
const NAMES: [&str; 4] = ["num", "word", "Odd, \"x\" (é)", "parts"];

async fn streaming(toml: &str) -> Rig {
    let mut rig = Rig::bare(PairOptions::default(), TABLES).await;
    std::fs::write(rig.dir.path().join("lockstep.toml"), toml).unwrap();
    rig.pair.source.execute(FILL).await.unwrap();
    rig.env.push(("LOCKSTEP_LOOK_AGAIN".into(), "1s".into()));
    rig.start();
    rig.settled().await;
    assert_eq!(rig.status().await.unwrap()["way"], "tables");
    rig
}

const BY_HAND: &str = "[schedule]\nreconcile = []\n";

/// 3 rows missing, 4 different, 2 only there, in each table.
async fn damage(rig: &Rig) {
    for sql in [
        "delete from num where id in (1, 2500, 5000); update num set body = 'other' where id between 1200 and 1203;
         insert into num values (-7, 1, 'strange'), (2000000, 1, null)",
        r#"delete from word where w ~ '"(1|77|3000)"$'; update word set n = 9 where w ~ '"(2|78|2999|5)"$';
           insert into word values ('', 1), ('~,)', 1)"#,
        r#"delete from "Odd, ""x"" (é)" where "a.b" in ('k(1', 'k(2', 'k(600'); update "Odd, ""x"" (é)" set v = null where "a.b" ~ '^k.5[0-3]$';
           insert into "Odd, ""x"" (é)" values ('', true, 'infinity', '::1', 'x', ''), ('z"', false, '-infinity', '1.1.1.1', '', null)"#,
        "delete from parts where id in (1, 700, 1500); update parts set v = 'w' where id between 300 and 303;
         insert into parts values (-1, '2020-01-01', 'x'), (9000, '2020-12-31', 'x')",
    ] {
        rig.pair.supabase.cluster.execute(sql).await.unwrap();
    }
}

fn counts(report: &Value, names: [&str; 3]) -> [u64; 3] {
    names.map(|name| report[name].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_our_sql_what_was_damaged_is_named_and_repaired_and_nothing_else_is_written() {
    let rig = streaming(BY_HAND).await;
    let tables = public(&NAMES);
    let (code, out, err) = rig.verb(&["verify"]).await;
    assert_eq!(code, Some(0), "{out}{err}\n{}", rig.tail());
    rig.pair.log_changes(&tables).await.unwrap();
    damage(&rig).await;
    let client = rig.pair.supabase.cluster.connect().await.unwrap();
    let damaged = logged(&client).await.unwrap().len();

    let (code, out, err) = rig.verb(&["verify", "--json"]).await;
    let answer: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    assert_eq!(code, Some(1), "{out}{err}");
    for report in answer["tables"].as_array().unwrap() {
        assert_eq!(counts(report, ["missing", "different", "surplus"]), [3, 4, 2], "{report}\n{}", rig.tail());
        assert!(report["note"].as_str().unwrap().contains("every row was read"), "{report}");
    }
    // Beside changes of other rows.
    rig.pair
        .source
        .execute("update num set n = n + 1 where id % 50 = 25; delete from word where w ~ '50\"$'")
        .await
        .unwrap();
    let streamed = 100 + 30;
    let (code, out, err) = rig.verb(&["sync", "--json"]).await;
    assert_eq!(code, Some(0), "{out}{err}\n{}", rig.tail());
    let answer: Value = serde_json::from_str(&out).unwrap();
    for report in answer["tables"].as_array().unwrap() {
        assert_eq!(counts(report, ["inserted", "updated", "deleted"]), [3, 4, 2], "{report}");
    }
    rig.assert_equal(&tables).await;
    let writes = logged(&client).await.unwrap().len() - damaged;
    assert_eq!(writes, streamed + 9 * tables.len(), "writes on the target");
    assert_eq!(repeats(&client).await.unwrap(), [""; 0], "a row was written as it was");
}

/// The schedule and the way back after a lost slot are the same comparison.
#[tokio::test(flavor = "multi_thread")]
async fn without_our_sql_the_schedule_repairs_and_a_lost_slot_is_got_over_by_comparing() {
    let mut rig = streaming("[schedule]\nreconcile = [\"*/3 * * * * *\"]\njitter = \"0s\"\n").await;
    damage(&rig).await;
    let tables = public(&NAMES);
    until("the schedule has repaired it", async || rig.pair.differences(&tables).await.unwrap().is_empty()).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
    std::fs::write(rig.dir.path().join("lockstep.toml"), BY_HAND).unwrap();

    // Everything that happens while there is no slot is missed by the stream.
    rig.pair.source.execute("select pg_drop_replication_slot('lockstep')").await.unwrap();
    damage(&rig).await;
    let missed = "delete from num where id between 100 and 110; update word set n = 5 where w ~ '7\"$';
                  insert into parts select i, '2020-03-01', 'new' from generate_series(2001, 2010) i";
    rig.pair.source.execute(missed).await.unwrap();
    rig.pair.log_changes(&tables).await.unwrap();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&tables).await;
    let client = rig.pair.supabase.cluster.connect().await.unwrap();
    let writes = logged(&client).await.unwrap().len();
    assert_eq!(writes, 9 * tables.len() + 11 + 299 + 10, "{}", rig.tail());
    assert_eq!(repeats(&client).await.unwrap(), [""; 0], "a row was written as it was");
    let log = std::fs::read_to_string(rig.log()).unwrap();
    assert!(log.contains("compared and repaired"), "{log}");
}

/// What an equal table costs, by its size; a million with LOCKSTEP_TEST_ROWS=1000000.
#[tokio::test(flavor = "multi_thread")]
async fn without_our_sql_comparing_costs_the_table_over_the_wire_and_says_so() {
    let rows: u64 = std::env::var("LOCKSTEP_TEST_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(30_000);
    let mut rig = Rig::bare(PairOptions::default(), "create table big (id bigint primary key, n int, body text)").await;
    std::fs::write(rig.dir.path().join("lockstep.toml"), BY_HAND).unwrap();
    let fill = format!(
        "insert into big select i, 0, 'row ' || i || repeat(' and more', 10) from generate_series(1, {rows}) i; analyze"
    );
    rig.pair.source.execute(&fill).await.unwrap();
    rig.start();
    rig.settled().await;
    let (code, out, err) = rig.verb(&["verify", "--json"]).await;
    assert_eq!(code, Some(0), "{out}{err}\n{}", rig.tail());
    let report = &serde_json::from_str::<Value>(&out).unwrap()["tables"][0];
    let [read, received, requests] = counts(report, ["rows", "received_bytes", "requests"]);
    println!(
        "{read} equal rows in {} s, {requests} requests, {received} bytes; {} bytes for a million",
        report["seconds"],
        received * 1_000_000 / rows
    );
    assert_eq!(read, rows);
    // Pages of 1,000 rows, as PostgREST cuts them here.
    assert!(requests < rows / 1_000 * 3 / 2 + 30, "{report}");
    assert!(received > rows * 100 && received < rows * 250, "{report}");
}
