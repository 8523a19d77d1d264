//! Rows that the target has not, or holds otherwise than the stream can know: by a hand in Supabase, or because their table
//! was set aside meanwhile. A change that brings a part of such a row is completed from the source.

use lockstep::lab::{Owner, PairOptions, SupabaseOptions};

use super::rig::{Rig, public, until};

const TABLES: &str = "create table item (id int primary key, n int, body text);
    alter table item alter body set storage external;
    create table other (id int primary key, n int, body text); alter table other alter body set storage external";

async fn streaming(settings: &str, env: &[(&str, &str)], tables: &str, fill: &str) -> Rig {
    let supabase = SupabaseOptions { owner: Owner::SetReplicationRole, ..SupabaseOptions::default() };
    let mut rig = Rig::with(PairOptions { supabase, ..PairOptions::default() }, tables).await;
    std::fs::write(rig.dir.path().join("lockstep.toml"), settings).unwrap();
    rig.env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    rig.env.push(("LOCKSTEP_LOOK_AGAIN".into(), "1s".into()));
    rig.pair.source.execute(fill).await.unwrap();
    rig.start();
    rig.settled().await;
    rig
}

async fn source(rig: &Rig, sql: &str) {
    rig.pair.source.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Long values stay out of the stream while their neighbours change.
const FILL: &str = "insert into item select i, 0, repeat('long', 700) from generate_series(1, 6000) i;
    insert into other select i, 0, repeat('long', 700) from generate_series(1, 100) i";

async fn many_are_completed(strict: bool) {
    let env = [("LOCKSTEP_ON_REFUSAL", if strict { "strict" } else { "park" })];
    let mut rig = streaming("", &env, TABLES, FILL).await;
    let gone = "delete from item where id % 2 = 0; delete from other";
    rig.pair.supabase.execute(gone).await.unwrap();
    let asked = rig.pair.supabase.faults().counts().requests;
    // Some of them change again, get another key, or are gone by the time that they are looked for.
    source(
        &rig,
        "begin; update item set n = 1; update other set n = 1; update item set n = 2 where id % 3 = 0;
         update item set id = -id where id % 10 = 0; delete from item where id % 7 = 0; commit;
         update item set n = 3 where id % 5 = 1; update other set id = -id, body = 'short' where id < 50",
    )
    .await;
    rig.settled().await;
    let asked = rig.pair.supabase.faults().counts().requests - asked;
    rig.assert_equal(&public(&["item", "other"])).await;
    // A thousand rows are told at once, and the rest of the batch is written set by set.
    assert!(asked < 60, "{asked} requests for 3,100 rows");
    assert_eq!(rig.metric("lockstep_replays_total").await, 0.0, "{}", rig.tail());
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_rows_that_were_deleted_by_hand_are_completed_together_when_they_change() {
    many_are_completed(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_strict_too_rows_that_were_deleted_by_hand_are_completed_together() {
    many_are_completed(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_rows_that_are_more_than_memory_should_hold_have_their_table_compared_instead() {
    let settings = "[apply]\nwhole_bytes = \"1 MiB\"\nmax_batch_bytes = \"256 KiB\"\n";
    let mut rig = streaming(settings, &[], TABLES, FILL).await;
    rig.pair.supabase.execute("truncate item").await.unwrap();
    source(&rig, "update item set n = 1; update other set n = 1").await;
    until("it is compared", async || {
        let log = std::fs::read_to_string(rig.log()).unwrap();
        log.contains("so many rows must be read again") && log.contains("takes part again: it is compared")
    })
    .await;
    rig.settled().await;
    rig.assert_equal(&public(&["item", "other"])).await;
    let parked = rig.pair.supabase.cluster.value("select count(*) from lockstep.parked").await.unwrap();
    assert_eq!(parked, "0");
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_values_that_changed_places_while_a_table_was_set_aside_are_repaired() {
    let tables = "create table seat (id int primary key, place int not null unique, code text unique)";
    let fill = "insert into seat select i, i, 'c' || i from generate_series(1, 100) i";
    let mut rig = streaming("", &[], tables, fill).await;
    assert_eq!(rig.verb(&["tables", "pause", "seat"]).await.0, Some(0));
    // Two that swap, a circle of fifty, and one that takes the place of a row that goes.
    source(
        &rig,
        "update seat set place = -place; update seat set place = 3 - id where id < 3;
         update seat set place = 11 + (id - 10) % 50 where id between 11 and 60; update seat set place = -place where place < 0;
         update seat set code = null where id = 70; update seat set code = 'c70' where id = 71; delete from seat where id = 80;
         update seat set place = 80 where id = 81",
    )
    .await;
    rig.has_read().await;
    assert_eq!(rig.verb(&["tables", "resume", "seat"]).await.0, Some(0));
    rig.settled().await;
    rig.assert_equal(&public(&["seat"])).await;
    let parked = "select coalesce(string_agg(key || ' ' || reason, ', '), '') from lockstep.parked";
    let parked = rig.pair.supabase.cluster.value(&parked.replace("key ||", "key::text ||")).await.unwrap();
    assert_eq!(parked, "", "{}", rig.tail());
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_ends_has_what_is_parked_of_its_table_tried_again() {
    let fill = "insert into item select i, i, 'x' from generate_series(1, 100) i";
    let mut rig = streaming("", &[], TABLES, fill).await;
    let closed = "create table closed (id int primary key); insert into closed values (7);
         create function closed() returns trigger language plpgsql security definer as $$ begin
         if exists (select from public.closed c where c.id = new.id) then raise 'closed'; end if; return new; end $$;
         create trigger closed before update on item for each row execute function closed();
         alter table item enable always trigger closed";
    rig.pair.supabase.execute(closed).await.unwrap();
    source(&rig, "update item set n = -1 where id = 7").await;
    rig.settled().await;
    let parked =
        async |rig: &Rig| rig.pair.supabase.cluster.value("select count(*) from lockstep.parked").await.unwrap();
    assert_eq!(parked(&rig).await, "1");
    // A hand has put it right, and its next try is far away.
    let hand = "update lockstep.parked set next_at = now() + interval '1 hour'; truncate closed;
        update item set n = -1 where id = 7";
    rig.pair.supabase.cluster.execute(hand).await.unwrap();
    assert_eq!(rig.verb(&["tables", "resync", "item"]).await.0, Some(0));
    until("it is tried again", async || parked(&rig).await == "0").await;
    rig.settled().await;
    rig.assert_equal(&public(&["item"])).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_repair_that_only_came_too_early_do_not_park_beside_one_that_is_refused() {
    let supabase = SupabaseOptions { owner: Owner::Plain, ..SupabaseOptions::default() };
    let tables = "create table node (id int primary key, behind int references node, n int)";
    let mut rig = Rig::with(PairOptions { supabase, ..PairOptions::default() }, tables).await;
    rig.env = vec![("LOCKSTEP_LOOK_AGAIN".into(), "1s".into())];
    rig.pair.supabase.execute("alter table node add constraint small check (n < 100)").await.unwrap();
    rig.pair.source.execute("insert into node values (1000, null, 1)").await.unwrap();
    rig.start();
    rig.settled().await;
    assert_eq!(rig.verb(&["tables", "pause", "node"]).await.0, Some(0));
    // Each refers to the next one, which a repair brings behind it; and one has nothing to do with them.
    let fill = "insert into node select i, i + 1, 1 from generate_series(49, 1, -1) i";
    source(&rig, &format!("insert into node values (50, null, 1), (500, null, 500); {fill}")).await;
    rig.has_read().await;
    assert_eq!(rig.verb(&["tables", "resume", "node"]).await.0, Some(0));
    rig.settled().await;
    let there = "select count(*) || ' ' || (select string_agg(key::text, ' ') from lockstep.parked) from node";
    assert_eq!(rig.pair.supabase.cluster.value(there).await.unwrap(), r#"51 ["500"]"#);
    let log = std::fs::read_to_string(rig.log()).unwrap();
    let parked: Vec<&str> = log.lines().filter(|line| line.contains("rows are parked")).collect();
    assert!(parked.iter().all(|line| line.ends_with("rows=1")), "{parked:#?}");
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_read_again_by_a_key_whose_type_an_extension_brought() {
    let tables = "create schema ext; create extension ltree schema ext;
        create table tree (path ext.ltree primary key, n int, body text); alter table tree alter body set storage external";
    let fill = "insert into tree values ('a.b', 0, repeat('x', 5000)), ('a.c', 0, repeat('y', 5000))";
    let mut rig = streaming("", &[], tables, fill).await;
    rig.pair.supabase.execute("delete from tree").await.unwrap();
    source(
        &rig,
        "update tree set n = 1 where path::text = 'a.b'; update tree set path = 'a.d' where path::text = 'a.c'",
    )
    .await;
    rig.settled().await;
    rig.assert_equal(&public(&["tree"])).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_read_again_while_its_table_is_rewritten_is_not_taken_for_gone() {
    let mut rig =
        streaming("", &[], TABLES, "insert into item select i, i, repeat('x', 5000) from generate_series(1, 9) i")
            .await;
    rig.pair.supabase.execute("delete from item where id = 1").await.unwrap();
    rig.pair.supabase.faults().down().await;
    source(&rig, "update item set n = 100 where id = 1").await;
    let other = rig.pair.source.connect().await.unwrap();
    other.batch_execute("begin; alter table item alter n type bigint").await.unwrap();
    rig.pair.supabase.faults().up().await;
    let waits =
        "select count(*) from pg_stat_activity where application_name = 'lockstep reread' and wait_event_type = 'Lock'";
    until("the reader waits for the ALTER", async || rig.pair.source.value(waits).await.unwrap() == "1").await;
    other.batch_execute("commit").await.unwrap();
    rig.settled().await;
    rig.assert_equal(&public(&["item"])).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}
