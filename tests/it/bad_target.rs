//! What is wrong on Supabase's side: each message names it, and the statement that it prints mends it.

use lockstep::lab::PairOptions;
use lockstep::ledger::install;

use super::bad_input::{refused, statement, supabase};
use super::rig::{Rig, public, until};

/// The same seven tables on both sides; then each loses something over there.
const TABLES: &str = r#"
    create table fine (id int primary key);
    create table a_missing (id int primary key, at timestamptz);
    create table b_column (id int primary key, "Say ""hi""" numeric(10, 2)[], more text);
    create table c_key (id int primary key, x text);
    create table d_rights (id int primary key);
    create table e_generated (id int primary key, twice int);
    create table f_required (id int primary key);
    create table g_rows (id int primary key, x text);
"#;
const ALL: [&str; 8] = ["fine", "a_missing", "b_column", "c_key", "d_rights", "e_generated", "f_required", "g_rows"];

const BREAK: &str = r#"
    drop table a_missing;
    alter table b_column drop column "Say ""hi""", drop column more;
    alter table c_key drop constraint c_key_pkey;
    revoke all on d_rights from service_role;
    alter table e_generated drop column twice;
    alter table e_generated add column twice int generated always as (id * 2) stored;
    alter table f_required add column extra text not null;
    insert into g_rows values (1, 'theirs'), (7, 'kept');
"#;

async fn broken() -> Rig {
    let rig = Rig::with(PairOptions { supabase: supabase(), ..PairOptions::default() }, TABLES).await;
    let rows = "insert into fine values (1); insert into a_missing values (1, now());
        insert into b_column values (1, '{1.50,NULL}', 'm'); insert into c_key values (1, 'x');
        insert into d_rights values (1); insert into e_generated values (1, 5); insert into f_required values (1);
        insert into g_rows values (1, 'ours')";
    rig.pair.source.execute(rows).await.unwrap();
    rig.pair.supabase.execute(BREAK).await.unwrap();
    rig
}

async fn on_the_target(rig: &Rig, sql: &str) {
    rig.pair.supabase.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fix_as_printed_leads_to_the_next_until_it_runs() {
    let mut rig = broken().await;
    let before = refused(&rig, &[], 1).await;
    assert!(before.contains("table public.a_missing is missing in Supabase"), "{before}");
    assert!(before.contains("lockstep schema --table public.a_missing"), "{before}");
    let (code, sql, _) = rig.verb(&["schema", "--table", "public.a_missing"]).await;
    assert_eq!(code, Some(0));
    on_the_target(&rig, &sql).await;
    for (cause, fix) in [
        (r#"public.b_column lacks columns in Supabase: Say "hi", more"#, r#"add column "more" text;"#),
        ("public.c_key has no unique key", r#"alter table "public"."c_key" add primary key ("id");"#),
        ("may not select, insert, update, delete, truncate on public.d_rights", "to service_role;"),
        ("public.e_generated computes columns in Supabase", r#"alter column "twice" drop expression;"#),
        ("public.f_required demands values in Supabase", r#"alter column "extra" drop not null;"#),
        ("public.g_rows holds rows in Supabase", "LOCKSTEP_EXISTING=keep"),
    ] {
        let said = refused(&rig, &[], 1).await;
        assert!(said.contains(cause) && said.contains(fix), "{cause}: {said}");
        assert_eq!(rig.pair.supabase.cluster.value("select count(*) from fine").await.unwrap(), "0");
        if cause.contains("g_rows") {
            break;
        }
        on_the_target(&rig, &statement(&said)).await;
    }
    let said = refused(&rig, &[], 1).await;
    // Either of the two ways works: here the rows that are there stay.
    let keep = said.split_whitespace().find_map(|word| word.strip_prefix("LOCKSTEP_EXISTING=")).unwrap();
    rig.env = vec![("LOCKSTEP_EXISTING".into(), keep.into())];
    rig.start();
    rig.settled().await;
    let rows =
        rig.pair.supabase.cluster.value("select string_agg(id || x, ' ' order by id) from g_rows").await.unwrap();
    assert_eq!(rows, "1ours 7kept");
    assert_eq!(rig.terminate().await, Some(0));
    on_the_target(&rig, "delete from g_rows where id = 7").await;
    rig.assert_equal(&public(&ALL)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_may_be_left_out_and_rows_emptied_as_the_message_says() {
    let mut rig = broken().await;
    on_the_target(&rig, "create table a_missing (id int primary key, at timestamptz)").await;
    let said = refused(&rig, &[], 1).await;
    let toml = said.lines().find_map(|line| line.split_once("lockstep.toml: ")).unwrap().1;
    assert_eq!(toml, r#"table."public.b_column".columns = ["id"]"#);
    let exclude = r#"tables.exclude = ["public.c_key", "public.d_rights", "public.e_generated", "public.f_required"]"#;
    std::fs::write(rig.dir.path().join("lockstep.toml"), format!("{toml}\n{exclude}\n")).unwrap();
    let said = refused(&rig, &[], 1).await;
    let sql = statement(&said);
    assert_eq!(sql, r#"truncate "public"."g_rows""#);
    on_the_target(&rig, &sql).await;
    rig.start();
    rig.settled().await;
    rig.pair.source.execute("update b_column set more = 'n'; insert into b_column values (2)").await.unwrap();
    rig.settled().await;
    rig.assert_equal(&public(&["fine", "a_missing", "g_rows"])).await;
    let ids = rig.pair.supabase.cluster.value("select string_agg(id::text, ' ' order by id) from b_column").await;
    assert_eq!(ids.unwrap(), "1 2");
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn our_sql_that_is_missing_or_of_another_version_is_installed_as_the_message_says() {
    let options = PairOptions { supabase: supabase(), ..PairOptions::default() };
    let mut rig = Rig::with(options, "create table fine (id int primary key)").await;
    on_the_target(&rig, lockstep::ledger::teardown::SUPABASE).await;
    rig.env = vec![("LOCKSTEP_APPLY".into(), "rpc".into())];
    let said = refused(&rig, &[], 1).await;
    assert!(said.contains("our SQL is not installed in Supabase"), "{said}");
    assert!(said.contains("`lockstep setup supabase --print`"), "{said}");
    let (code, script, _) = rig.verb(&["setup", "supabase", "--print"]).await;
    assert_eq!((code, script == install::script()), (Some(0), true));
    on_the_target(&rig, &script).await;
    on_the_target(&rig, "insert into lockstep.version (version) values (99)").await;
    let said = refused(&rig, &[], 1).await;
    assert!(said.contains("has version 99, newer than") && said.contains("fix: install"), "{said}");
    on_the_target(&rig, "truncate lockstep.version; insert into lockstep.version (version) values (0)").await;
    let said = refused(&rig, &[], 1).await;
    assert!(said.contains("has version 0, older than") && said.contains("setup supabase --print"), "{said}");
    let newest = install::MIGRATIONS.iter().map(|migration| migration.version).max().unwrap();
    let as_it_was = format!(
        "truncate lockstep.version; insert into lockstep.version (version) select generate_series(1, {newest})"
    );
    on_the_target(&rig, &as_it_was).await;
    on_the_target(&rig, "revoke execute on function public.lockstep_hello(jsonb) from service_role").await;
    let said = refused(&rig, &[], 1).await;
    assert!(said.contains("may not call our functions") && said.contains("setup supabase"), "{said}");
    on_the_target(&rig, &script).await;
    rig.start();
    rig.settled().await;
    assert_eq!(rig.terminate().await, Some(0));
    // What was exactly once does not become at least once because the functions are out of sight.
    on_the_target(&rig, lockstep::ledger::teardown::SUPABASE).await;
    rig.env.clear();
    let (code, _, said) = rig.verb(&["run"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("our SQL is not installed") && said.contains("LOCKSTEP_APPLY=tables"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_while_it_runs_stops_the_route_until_it_is_given_back() {
    let options = PairOptions { supabase: supabase(), ..PairOptions::default() };
    let mut rig = Rig::with(options, "create table fine (id int primary key)").await;
    rig.env = vec![("LOCKSTEP_LOOK_AGAIN".into(), "1s".into())];
    rig.start();
    rig.settled().await;
    let ready = async |rig: &Rig| rig.get("/readyz").await.map(|answer| answer.status().as_u16()).ok();
    until("it is ready", async || ready(&rig).await == Some(200)).await;
    on_the_target(&rig, "revoke insert on fine from service_role").await;
    rig.pair.source.execute("insert into fine values (1)").await.unwrap();
    let mut fix = String::new();
    until("it says that it is stopped", async || {
        let Some(status) = rig.status().await else { return false };
        fix = format!("fix: {}", status["fix"].as_str().unwrap_or_default());
        status["state"] == "stopped" && fix.contains("grant ")
    })
    .await;
    assert_eq!(ready(&rig).await, Some(503));
    assert!(rig.pid().is_some(), "the process stays");
    rig.pair.source.execute("insert into fine values (2)").await.unwrap();
    on_the_target(&rig, &statement(&fix)).await;
    rig.settled().await;
    rig.assert_equal(&public(&["fine"])).await;
    until("it is ready again", async || ready(&rig).await == Some(200)).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}
