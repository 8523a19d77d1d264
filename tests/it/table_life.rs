//! Tables come, go, change their names and are set aside while the service runs, and the others do not notice.

use lockstep::types::TableName;

use super::rig::{Rig, public, says_nothing_of_a_journal, until};

const TABLES: &str = "
    create table stays (id int primary key, v text);
    create table moves (id int primary key, v text);
";

async fn state_of(rig: &Rig, table: &str) -> String {
    let Some(status) = rig.status().await else { return "no answer".into() };
    let tables = status["tables"].as_array().cloned().unwrap_or_default();
    let found = tables.iter().find(|known| known["name"] == format!("public.{table}"));
    found.map_or("none".into(), |table| table["state"].as_str().unwrap_or("?").to_owned())
}

async fn until_state(rig: &Rig, table: &str, state: &str) {
    until(&format!("{table} is {state} (log: {})", rig.log().display()), async || state_of(rig, table).await == state)
        .await;
}

async fn run(rig: &Rig, args: &[&str]) {
    let (code, out, err) = rig.verb(args).await;
    assert_eq!(code, Some(0), "{args:?}: {out}{err}\n{}", rig.tail());
}

async fn streaming() -> Rig {
    let mut rig = Rig::new(TABLES).await;
    rig.env.clear(); // with the table of sync states
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[retry]\nlook_again = \"1s\"\n").unwrap();
    let fill = "insert into stays select i, 'a' from generate_series(1, 50) i; insert into moves select i, 'a' from generate_series(1, 50) i";
    rig.pair.source.execute(fill).await.unwrap();
    rig.pair.log_changes(&public(&["stays", "moves"])).await.unwrap();
    rig.start();
    rig.settled().await;
    rig
}

/// How often rows of the table that nobody touches were written.
async fn written(rig: &Rig, table: &str) -> String {
    let sql = format!("select count(*) from lab.change where table_name = '{table}'");
    rig.pair.supabase.cluster.value(&sql).await.unwrap()
}

async fn target(rig: &Rig, sql: &str) -> String {
    rig.pair.supabase.cluster.value(sql).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_table_misses_its_changes_and_is_compared_and_repaired_when_it_comes_back() {
    let mut rig = streaming().await;
    let pid = rig.pid();
    run(&rig, &["tables", "pause", "moves"]).await;
    let (code, _, err) = rig.verb(&["tables", "pause", "moves"]).await;
    assert!(code == Some(1) && err.contains("public.moves is paused already"), "{err}");
    let state = "select sync_status || ' ' || error_message from supabase_sync_state where table_name = 'moves'";
    until("its sync state says so", async || rig.pair.source.value(state).await.unwrap() == "pending paused").await;

    let change = "update moves set v = 'b' where id < 20; delete from moves where id > 40;
                  insert into moves values (100, 'new'); insert into stays values (100, 'new')";
    rig.pair.source.execute(change).await.unwrap();
    until("the others go on", async || target(&rig, "select count(*) from stays").await == "51").await;
    assert_eq!(target(&rig, "select count(*) || ' ' || max(v) from moves").await, "50 a", "its changes are skipped");
    // It stays paused over a crash.
    rig.kill9().await;
    rig.start();
    until_state(&rig, "moves", "paused").await;
    rig.pair
        .source
        .execute("insert into moves values (101, 'more'); insert into stays values (101, 'more')")
        .await
        .unwrap();
    until("the others go on", async || target(&rig, "select count(*) from stays").await == "52").await;
    assert_eq!(target(&rig, "select count(*) from moves").await, "50");
    assert!(pid != rig.pid());

    run(&rig, &["tables", "resume", "public.moves"]).await;
    until_state(&rig, "moves", "streaming").await;
    rig.settled().await;
    rig.assert_equal(&public(&["stays", "moves"])).await;
    assert_eq!(written(&rig, "stays").await, "52", "of the other table each row was written once");
    let (code, _, err) = rig.verb(&["tables", "resume", "moves"]).await;
    assert!(code == Some(1) && err.contains("is not paused"), "{err}");
    let (code, _, err) = rig.verb(&["tables", "pause", "nothing"]).await;
    assert!(code == Some(1) && err.contains("no replicated table nothing"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_of_one_table_heals_it_and_touches_no_other() {
    let rig = streaming().await;
    let damage = "delete from moves where id < 10; update moves set v = 'wrong' where id = 20; insert into moves values (999, 'strange');
                  insert into stays values (998, 'strange')";
    rig.pair.supabase.execute(damage).await.unwrap();
    let before = written(&rig, "stays").await;
    run(&rig, &["tables", "resync", "moves"]).await;
    until("it is healed", async || {
        state_of(&rig, "moves").await == "streaming"
            && rig.pair.differences(&public(&["moves"])).await.is_ok_and(|differences| differences.is_empty())
    })
    .await;
    assert_eq!(target(&rig, "select count(*) from stays where id = 998").await, "1", "the other one was not looked at");
    assert_eq!(written(&rig, "stays").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_created_dropped_or_renamed_is_taken_up_without_a_restart_and_without_the_others() {
    let mut rig = streaming().await;
    let pid = rig.pid();
    // At the source only: it waits for its twin, and the others go on.
    rig.pair.source.execute("create table comes (id int primary key, v text); insert into comes select i, 'c' from generate_series(1, 30) i").await.unwrap();
    until_state(&rig, "comes", "parked").await;
    let status = rig.status().await.unwrap();
    let cause =
        status["tables"].as_array().unwrap().iter().find(|table| table["name"] == "public.comes").unwrap()["cause"]
            .to_string();
    assert!(cause.contains("is missing in Supabase") && cause.contains("lockstep schema"), "{cause}");
    rig.pair
        .source
        .execute("insert into stays values (200, 'meanwhile'); insert into comes values (31, 'c')")
        .await
        .unwrap();
    until("the others go on", async || target(&rig, "select count(*) from stays").await == "51").await;
    rig.pair.supabase.execute("create table comes (id int primary key, v text)").await.unwrap();
    until_state(&rig, "comes", "streaming").await;
    rig.settled().await;
    rig.assert_equal(&public(&["stays", "moves", "comes"])).await;

    // Renamed on both sides, here first.
    rig.pair
        .source
        .execute("alter table moves rename to moved; insert into moved values (300, 'renamed')")
        .await
        .unwrap();
    until_state(&rig, "moved", "parked").await;
    rig.pair
        .source
        .execute("insert into stays values (201, 'meanwhile'); delete from moved where id = 1")
        .await
        .unwrap();
    until("the others go on", async || target(&rig, "select count(*) from stays").await == "52").await;
    rig.pair.supabase.execute("alter table moves rename to moved").await.unwrap();
    until_state(&rig, "moved", "streaming").await;
    rig.settled().await;
    rig.assert_equal(&public(&["stays", "moved", "comes"])).await;

    // Dropped; and another one under its name.
    rig.pair.source.execute("drop table comes").await.unwrap();
    until_state(&rig, "comes", "none").await;
    rig.pair.source.execute("insert into stays values (202, 'meanwhile')").await.unwrap();
    rig.settled().await;
    assert_eq!(target(&rig, "select count(*) from comes").await, "31", "its rows over there are nobody's to delete");
    rig.assert_equal(&public(&["stays", "moved"])).await;
    assert_eq!(rig.pid(), pid, "it is the same process");
    assert_eq!(written(&rig, "stays").await, "53", "of the other table each row was written once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_taken_out_of_the_publication_is_put_back_and_repaired() {
    if says_nothing_of_a_journal("it has no publication") {
        return;
    }
    let mut rig = streaming().await;
    let missed = "alter publication lockstep drop table moves; update moves set v = 'missed' where id < 9;
                  delete from moves where id = 50";
    rig.pair.source.execute(missed).await.unwrap();
    until("it is published again", async || {
        let sql = "select count(*) from pg_publication_tables where tablename = 'moves'";
        rig.pair.source.value(sql).await.unwrap() == "1"
    })
    .await;
    until_state(&rig, "moves", "streaming").await;
    rig.settled().await;
    rig.assert_equal(&[TableName::new("public", "moves"), TableName::new("public", "stays")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_another_primary_key_tells_apart_are_not_taken_for_one() {
    let mut rig = Rig::new("create table item (tenant int not null default 1, id int primary key, v text)").await;
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[retry]\nlook_again = \"1s\"\n").unwrap();
    rig.pair.source.execute("insert into item (id, v) select i, 'a' from generate_series(1, 5) i").await.unwrap();
    rig.start();
    rig.settled().await;
    let alter = "alter table item drop constraint item_pkey, add primary key (tenant, id)";
    rig.pair.source.execute("update item set v = 'before' where id = 2").await.unwrap();
    rig.pair.source.execute(alter).await.unwrap();
    rig.pair
        .source
        .execute("insert into item values (2, 1, 'b'), (2, 2, 'b'); delete from item where id = 3")
        .await
        .unwrap();
    until_state(&rig, "item", "parked").await;
    assert_eq!(target(&rig, "select count(*) from item where v in ('a', 'before')").await, "5");
    rig.pair.supabase.execute(alter).await.unwrap();
    until_state(&rig, "item", "streaming").await;
    rig.settled().await;
    rig.assert_equal(&public(&["item"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_made_anew_in_supabase_is_filled_again() {
    let mut rig = streaming().await;
    assert_eq!(rig.terminate().await, Some(0));
    let anew =
        "drop table moves cascade; create table moves (id int primary key, v text); notify pgrst, 'reload schema'";
    rig.pair.supabase.execute(anew).await.unwrap();
    rig.pair.supabase.reload_schema().await.unwrap();
    rig.pair.source.execute("insert into moves values (100, 'b')").await.unwrap();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["stays", "moves"])).await;
}
