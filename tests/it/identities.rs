//! `generated always` identities that change at the source: no update may set them in the target, so such a row is
//! deleted and inserted there, by the stream as by a repair, unless that would act on other tables.

use lockstep::lab::{Owner, PairOptions, SupabaseOptions};

use super::rig::{Rig, public, until};

/// The identity beside the key, in it, as a part of it, and alone beside it; a row too large to travel whole.
const TABLES: &str = "
    create table beside (id int primary key, n int generated always as identity unique, v text, big text);
    alter table beside alter big set storage external;
    create table inside (id int generated always as identity primary key, v text, big text);
    alter table inside alter big set storage external;
    create table part (a int, id int generated always as identity, v text, primary key (a, id));
    create table bare (id int primary key, n int generated always as identity)";
const NAMES: [&str; 4] = ["beside", "inside", "part", "bare"];

async fn streaming(owner: Owner, more: &str) -> Rig {
    let supabase = SupabaseOptions { owner, ..SupabaseOptions::default() };
    let options = PairOptions { supabase, ..PairOptions::default() };
    let mut rig = Rig::with(options, &format!("{TABLES}; {more}")).await;
    rig.env = vec![("LOCKSTEP_LOOK_AGAIN".into(), "1s".into())];
    let fill = "insert into beside (id, v, big) select i, 'v', repeat('big', 2000) from generate_series(1, 30) i;
        insert into inside (v, big) select 'v', repeat('big', 2000) from generate_series(1, 30) i;
        insert into part (a, v) select i, 'v' from generate_series(1, 30) i;
        insert into bare (id) select i from generate_series(1, 30) i";
    rig.pair.source.execute(fill).await.unwrap();
    rig.start();
    rig.settled().await;
    rig
}

async fn source(rig: &Rig, sql: &str) {
    rig.pair.source.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn target(rig: &Rig, sql: &str) -> String {
    rig.pair.supabase.cluster.value(sql).await.unwrap()
}

async fn assert_equal(rig: &mut Rig, after: &str) {
    rig.settled().await;
    let differences = rig.pair.differences(&public(&NAMES)).await.unwrap();
    assert!(differences.is_empty(), "after {after}:\n{}\n{}", differences.join("\n"), rig.tail());
    let parked = "select coalesce(string_agg(table_name || ' ' || key::text || ': ' || reason, e'\\n'), '') from lockstep.parked";
    assert_eq!(target(rig, parked).await, "", "after {after}");
}

async fn arrive(owner: Owner) {
    let mut rig = streaming(owner, "").await;
    for sql in [
        "update beside set n = default, v = 'w', big = 'b' where id < 5", // whole
        "update beside set n = default where id between 5 and 9",         // in part
        "update beside set n = default, id = id + 100 where id between 10 and 12",
        "begin; delete from beside where id < 3; insert into beside (id, v) values (1, 'x'), (2, 'y'); commit",
        "update inside set id = default where id < 5",
        "update inside set id = default, big = null where id between 5 and 9; update inside set v = 'w'",
        "update part set a = -a where a < 5; update part set id = default where a between 5 and 9",
        "update part set a = -a, id = default, v = 'w' where a between 10 and 12",
        "update bare set n = default where id < 5; update bare set id = -id where id > 20; insert into bare (id) values (99)",
        "begin; update beside set n = default where id = 20; update beside set n = default, v = 'z' where id = 20; commit",
    ] {
        source(&rig, sql).await;
        assert_equal(&mut rig, sql).await;
    }
    // It took no refusal, but for the sets that came in part.
    assert_eq!(rig.metric("lockstep_rows_dropped_total").await, 0.0);
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_changes_at_the_source_arrives_with_an_owner_as_on_supabase() {
    arrive(Owner::SetReplicationRole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_changes_at_the_source_arrives_with_a_plain_owner() {
    arrive(Owner::Plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_replaces_rows_that_came_again_with_another_identity() {
    let mut rig = streaming(Owner::SetReplicationRole, "").await;
    let pause = async |rig: &Rig, what: &str| {
        for table in NAMES {
            let (code, out, err) = rig.verb(&["tables", what, table]).await;
            assert_eq!(code, Some(0), "{out}{err}");
        }
    };
    pause(&rig, "pause").await;
    source(
        &rig,
        "delete from beside where id % 2 = 0; insert into beside (id, v) select i, 'again' from generate_series(2, 30, 2) i;
         delete from bare where id < 9; insert into bare select i from generate_series(1, 8) i;
         update inside set id = default where id < 9; update part set id = default where a < 9;
         update beside set v = 'other' where id = 1",
    )
    .await;
    rig.has_read().await;
    pause(&rig, "resume").await;
    assert_equal(&mut rig, "the repair").await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_delete_would_take_other_rows_along_the_row_is_parked_and_says_why() {
    let more = "create table child (id int primary key, owner int references beside on delete cascade)";
    let mut rig = streaming(Owner::Plain, more).await;
    source(&rig, "insert into child select i, i from generate_series(1, 30) i").await;
    rig.settled().await;
    source(&rig, "update beside set n = default, big = '' where id = 7; update beside set v = 'w' where id <> 7").await;
    rig.settled().await;
    assert_eq!(target(&rig, "select count(*) from child").await, "30", "none went along");
    let parked = "select string_agg(key::text || ' ' || sqlstate || ' ' || reason, ', ') from lockstep.parked";
    let parked = target(&rig, parked).await;
    assert!(parked.starts_with(r#"["7"] 428C9 "#) && parked.contains("would act on others"), "{parked}");
    // What it says is the way out.
    rig.pair.supabase.execute("alter table beside alter n set generated by default").await.unwrap();
    until("it is there", async || target(&rig, "select count(*) from lockstep.parked").await == "0").await;
    assert_equal(&mut rig, "the way out").await;
    assert_eq!(target(&rig, "select count(*) from child").await, "30");
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_that_restarts_identities_restarts_them_in_the_target_too_and_another_one_does_not() {
    let mut rig = streaming(Owner::SetReplicationRole, "").await;
    let set = "select setval(pg_get_serial_sequence('inside', 'id'), 500)";
    let next = "select nextval(pg_get_serial_sequence('inside', 'id'))";
    for (sql, expected) in [("truncate inside", "501"), ("truncate inside, bare restart identity", "1")] {
        target(&rig, set).await;
        source(&rig, sql).await;
        assert_equal(&mut rig, sql).await;
        assert_eq!(target(&rig, next).await, expected, "after {sql}");
    }
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}
