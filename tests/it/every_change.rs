//! Changes of every other kind: identity by a unique index, tables without a key, inheritance, partitions that come and
//! go, schemas outside `public`, columns that come and go in mid-stream, a table under another name.

use lockstep::types::TableName;

use super::rig::{Rig, public, until};

async fn steps(rig: &mut Rig, tables: &[TableName], all: &[&str]) {
    for sql in all {
        rig.pair.source.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        rig.settled().await;
        let differences = rig.pair.differences(tables).await.unwrap();
        assert!(differences.is_empty(), "after {sql}:\n{}\n{}", differences.join("\n"), rig.tail());
    }
}

const IDENTITIES: &str = "
    create table by_index (note text, code text not null, n int not null, big text);
    create unique index by_index_key on by_index (n, code);
    alter table by_index replica identity using index by_index_key;
    alter table by_index alter big set storage external;
    create table beside_key (id int primary key, code text not null unique, v text);
    alter table beside_key replica identity using index beside_key_code_key;
    create table whole (id int primary key, v text, big text);
    alter table whole replica identity full; alter table whole alter big set storage external;
";

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_found_by_whatever_index_a_table_names_as_its_identity() {
    let mut rig = Rig::new(IDENTITIES).await;
    let fill = "insert into by_index select 'n', 'c' || i % 3, i, repeat('big', 2000) from generate_series(1, 50) i;
        insert into beside_key select i, 'c' || i, 'v' from generate_series(1, 50) i;
        insert into whole select i, 'v', repeat('big', 2000) from generate_series(1, 50) i";
    rig.pair.source.execute(fill).await.unwrap();
    rig.start();
    rig.settled().await;
    let tables = public(&["by_index", "beside_key", "whole"]);
    rig.assert_equal(&tables).await;
    steps(
        &mut rig,
        &tables,
        &[
            "insert into by_index values (null, '', 0, null); update by_index set note = 'x' where n % 5 = 0",
            "update by_index set n = n + 100, code = 'moved' where n < 10; delete from by_index where n % 7 = 0",
            "update by_index set code = 'y', big = null where n = 20",
            // The key of the target is the identity; the primary key is a column like any other.
            "update beside_key set id = -id where id % 2 = 0; update beside_key set v = 'w' where id % 3 = 0",
            "update beside_key set code = code || '!' where id < 9; delete from beside_key where id = 21",
            "begin; delete from beside_key where id = 11; insert into beside_key values (11, 'new', 'n'); commit",
            "update whole set v = null where id < 9; update whole set id = id + 100 where id between 10 and 20;
             delete from whole where id % 7 = 0",
            "truncate by_index, whole; insert into by_index values ('a', 'b', 1, 'c')",
        ],
    )
    .await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

/// `replica identity` is not handed down: old rows are written as the partition says, and told as if by the root.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_with_another_identity_than_their_table_lose_nothing_or_are_named() {
    const SCHEMA: &str = "
        create table whole (id int, d int, big text, primary key (id, d)) partition by range (d);
        create table whole_1 partition of whole for values from (0) to (100);
        alter table whole_1 alter big set storage external; alter table whole replica identity full;
        create table named (id int, d int, code text not null, primary key (id, d)) partition by range (d);
        create table named_1 partition of named for values from (0) to (100);
        create unique index named_code on named (code, d); alter table named replica identity using index named_code";
    let mut rig = Rig::new(SCHEMA).await;
    let fill = "insert into whole select i, i, repeat('big' || i, 3000) from generate_series(1, 5) i;
        insert into named select i, i, 'c' || i from generate_series(1, 5) i";
    rig.pair.source.execute(fill).await.unwrap();
    rig.start();
    rig.settled().await;
    let change = "update whole set id = id + 10 where id < 4; update whole set id = -id where id = 5;
        update named set code = 'x' where id = 1; update named set id = 20 where id = 2; delete from named where id = 3";
    rig.pair.source.execute(change).await.unwrap();
    rig.settled().await;
    rig.assert_equal(&public(&["whole"])).await;
    let log = std::fs::read_to_string(rig.log()).unwrap();
    assert!(log.contains("public.named has a partition with another replica identity"), "{log}");
    // As it says, and the table takes part.
    let index = "select format('alter table named_1 replica identity using index %I', c.relname) from pg_index i
        join pg_class c on c.oid = i.indexrelid where i.indrelid = 'named_1'::regclass and not i.indisprimary";
    let sql = rig.pair.source.value(index).await.unwrap();
    rig.pair.source.execute(&sql).await.unwrap();
    until("it takes part", async || {
        rig.status().await.is_some_and(|status| status["tables"].as_array().is_some_and(|tables| tables.len() == 2))
    })
    .await;
    rig.settled().await;
    // Taken back in mid-stream, old rows lack the key; the table is set aside, not guessed at.
    rig.pair
        .source
        .execute("alter table named_1 replica identity default; delete from named where id = 4")
        .await
        .unwrap();
    until("it is left out", async || {
        rig.status().await.is_some_and(|status| status["tables"].as_array().is_some_and(|tables| tables.len() == 1))
    })
    .await;
    rig.pair.supabase.execute("truncate named").await.unwrap(); // as is asked of a table that was left out
    rig.pair.source.execute(&sql).await.unwrap();
    until("it takes part again", async || {
        rig.status().await.is_some_and(|status| status["tables"].as_array().is_some_and(|tables| tables.len() == 2))
    })
    .await;
    rig.settled().await;
    rig.assert_equal(&public(&["whole", "named"])).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_is_named_and_left_out_and_its_source_goes_on_as_before() {
    let schema = "create table keyless (a int, b text); create table full_keyless (a int);
        alter table full_keyless replica identity full; create table with_key (id int primary key)";
    let mut rig = Rig::new(schema).await;
    rig.start();
    rig.settled().await;
    // Published, it would refuse these.
    let sql = "insert into keyless values (1, 'x'); update keyless set b = 'y'; delete from keyless;
        insert into full_keyless values (1); update full_keyless set a = 2; insert into with_key values (1)";
    rig.pair.source.execute(sql).await.unwrap();
    rig.settled().await;
    rig.assert_equal(&public(&["with_key"])).await;
    let log = std::fs::read_to_string(rig.log()).unwrap();
    for table in ["public.keyless", "public.full_keyless"] {
        assert!(log.contains(&format!("{table} has no primary key")), "{table} is not named:\n{log}");
    }
    // Asked for by name, it is refused with the SQL that makes it possible, and that SQL does.
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[tables]\ninclude = [\"public.keyless\"]\n").unwrap();
    let (code, _, said) = rig.verb(&["run"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("alter table \"public\".\"keyless\" replica identity using index"), "{said}");
    let sql = "alter table keyless alter a set not null; create unique index keyless_key on keyless (a);
        alter table keyless replica identity using index keyless_key";
    rig.pair.execute(sql).await.unwrap();
    rig.pair.source.execute("insert into keyless values (1, 'x'), (2, 'y')").await.unwrap();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["keyless"])).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_tables_that_inherit_stay_in_their_own_table() {
    let schema = "create table animal (id int primary key, name text);
        create table dog (breed text, primary key (id)) inherits (animal);
        create table puppy (weeks int, primary key (id)) inherits (dog)";
    let mut rig = Rig::new(schema).await;
    let fill =
        "insert into animal values (1, 'cat'), (2, 'cow'); insert into dog values (1, 'rex', 'a'), (10, 'bo', 'b');
        insert into puppy values (1, 'pip', 'a', 3), (20, 'pop', 'c', 5)";
    rig.pair.source.execute(fill).await.unwrap();
    rig.start();
    rig.settled().await;
    let tables = public(&["animal", "dog", "puppy"]);
    rig.assert_equal(&tables).await;
    // Each of them alone too: a row in the wrong table is still a row of its parent.
    let alone = "select (select count(*) from only animal) || ' ' || (select count(*) from only dog) || ' '
        || (select count(*) from puppy)";
    for sql in [
        "update animal set name = name || '!'",
        "update only animal set id = 3 where id = 1; insert into dog values (2, 'z', null)",
        "delete from animal where id = 1; insert into puppy values (30, 'x', null, 1)",
        "delete from only dog where id = 10; update dog set id = id + 100",
        "truncate only animal",
        "truncate animal", // those that inherit from it too
    ] {
        steps(&mut rig, &tables, &[sql]).await;
        let both = [rig.pair.source.value(alone).await.unwrap(), rig.pair.supabase.cluster.value(alone).await.unwrap()];
        assert_eq!(both[0], both[1], "after {sql}");
    }
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

/// PostgreSQL 18 refuses to update a published table whose identity holds a column that is not published.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_identity_with_a_generated_column_never_stops_the_source() {
    let schema = "create table computed (id int primary key, twice int generated always as (id * 2) stored, v text);
        alter table computed replica identity full; create table beside (id int primary key)";
    let mut rig = Rig::new(schema).await;
    rig.start();
    rig.settled().await;
    let sql =
        "insert into computed (id) values (1), (2); update computed set v = 'x'; delete from computed where id = 2;
        insert into beside values (1)";
    rig.pair.source.execute(sql).await.unwrap();
    rig.settled().await;
    if rig.pair.source.major() >= 18 {
        let log = std::fs::read_to_string(rig.log()).unwrap();
        assert!(log.contains("public.computed has replica identity full and a generated column"), "{log}");
        rig.assert_equal(&public(&["beside"])).await;
    } else {
        rig.assert_equal(&public(&["beside", "computed"])).await;
    }
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

/// ATTACH, DETACH and the truncation of a single partition change no row as far as Postgres' stream is concerned.
/// What is stated in docs/guarantees.md is what happens: such rows are not brought or taken away, every later change
/// to a row arrives whole, and the tables' next comparison repairs the rest.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_partition_that_is_attached_arrive_with_their_next_change_and_sync_repairs_the_rest() {
    let schema = "create table event (id int, day int, v text, primary key (id, day)) partition by range (day);
        create table event_1 partition of event for values from (0) to (10);
        create table event_2 partition of event for values from (10) to (20)";
    let mut rig = Rig::new(schema).await;
    rig.pair.source.execute("insert into event select i, i % 20, 'v' from generate_series(1, 100) i").await.unwrap();
    rig.start();
    rig.settled().await;
    let tables = public(&["event"]);
    rig.assert_equal(&tables).await;
    // A partition that is made, and filled, under its root is nothing special, where the target has a place for it.
    let add = "create table event_3 partition of event for values from (20) to (30)";
    rig.pair.execute(add).await.unwrap();
    // Before version 15 the stream would not notice other partitions at all: the table is compared at once.
    let compared = rig.pair.source.major() < 15;
    let noticed = async |rig: &Rig, times: usize| {
        let said = async || {
            let log = std::fs::read_to_string(rig.log()).unwrap();
            ["has other partitions", "compared and repaired"].iter().all(|words| log.matches(words).count() >= times)
        };
        until("the partitions are noticed and the table is compared", said).await;
    };
    if compared {
        noticed(&rig, 1).await;
        rig.settled().await;
    }
    steps(
        &mut rig,
        &tables,
        &[
            "insert into event select i, 25, 'new' from generate_series(200, 220) i",
            "update event set day = 3 where id = 200; update event set v = 'w' where day > 20; delete from event where id = 219",
            "insert into event_2 values (300, 15, 'by its own name'); update event_2 set v = 'x' where id = 300",
        ],
    )
    .await;

    let attach = "create table event_4 (id int not null, day int not null, v text, primary key (id, day));
        insert into event_4 select i, 35, 'before' from generate_series(400, 410) i;
        alter table event attach partition event_4 for values from (30) to (40)";
    rig.pair.source.execute(attach).await.unwrap();
    rig.pair.supabase.execute("create table event_4 partition of event for values from (30) to (40)").await.unwrap();
    rig.settled().await;
    if compared {
        noticed(&rig, 2).await; // the one of before is the first
        rig.settled().await;
        rig.assert_equal(&tables).await;
    } else {
        assert_eq!(rig.pair.differences(&tables).await.unwrap().len(), 11, "attached rows are not in the stream");
    }
    let sql =
        "update event set v = 'after' where id <= 405 and day = 35; delete from event where id > 405 and day = 35";
    steps(&mut rig, &tables, &[sql]).await;

    rig.pair
        .source
        .execute("alter table event detach partition event_4; drop table event_4; truncate event_3")
        .await
        .unwrap();
    rig.pair.source.execute("insert into event values (500, 5, 'goes on')").await.unwrap();
    rig.settled().await;
    if compared {
        noticed(&rig, 3).await; // a truncation alone it would not see
    }
    rig.settled().await;
    let differences = rig.pair.differences(&tables).await.unwrap();
    assert!(
        compared || differences.len() == 20 && differences.iter().all(|line| line.contains("only in the target")),
        "{}",
        differences.join("\n")
    );
    let (code, out, err) = rig.verb(&["sync"]).await;
    assert_eq!(code, Some(0), "{out}\n{err}\n{}", rig.tail());
    rig.settled().await;
    rig.assert_equal(&tables).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_outside_public_and_two_of_one_name_are_kept_apart() {
    let schema = r#"create schema sales; create schema "Old Sales"; create table orders (id int primary key, v text);
        create table sales.orders (id int primary key, v text, w text);
        create table "Old Sales".orders (id int primary key, v text);
        create type sales.state as enum ('new', 'paid');
        create table sales.refs (id int primary key references sales.orders, state sales.state, all_states sales.state[])"#;
    let mut rig = Rig::new(schema).await;
    let grants = r#"grant usage on schema sales, "Old Sales" to service_role;
        grant all on all tables in schema sales, "Old Sales" to service_role"#;
    rig.pair.supabase.execute(grants).await.unwrap();
    let settings = "[tables]\nschemas = [\"public\", \"sales\", \"Old Sales\"]\n";
    std::fs::write(rig.dir.path().join("lockstep.toml"), settings).unwrap();
    rig.pair.source.execute("insert into sales.orders values (1, 'before', 'w')").await.unwrap();
    rig.start();
    rig.settled().await;
    let mut tables = public(&["orders"]);
    tables.extend([("sales", "orders"), ("Old Sales", "orders"), ("sales", "refs")].map(|(s, n)| TableName::new(s, n)));
    steps(
        &mut rig,
        &tables,
        &[
            r#"insert into orders values (1, 'p'); insert into sales.orders values (2, 's', 'w');
               insert into "Old Sales".orders values (1, 'o')"#,
            "insert into sales.refs values (1, 'new', '{paid,NULL}'); update sales.refs set state = 'paid'",
            r#"update orders set id = 7; delete from "Old Sales".orders; update sales.orders set v = null where id = 2"#,
            "truncate sales.orders cascade",
        ],
    )
    .await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

/// Each column comes on both sides, in either order, while rows change; nobody restarts anything.
#[tokio::test(flavor = "multi_thread")]
async fn columns_that_come_and_go_on_both_sides_in_mid_stream_are_followed() {
    let mut rig =
        Rig::new("create table thing (id int primary key, v text, old text, n int); create sequence ids start 100")
            .await;
    rig.env = vec![("LOCKSTEP_LOOK_AGAIN".into(), "1s".into())];
    rig.pair.source.execute("insert into thing select i, 'v', 'old', i from generate_series(1, 50) i").await.unwrap();
    rig.start();
    rig.settled().await;
    let tables = public(&["thing"]);
    let traffic = "insert into thing (id, v) select nextval('ids'), 'more' from generate_series(1, 5);
        update thing set v = v || '.' where id % 5 = 1; update thing set id = -id where id > 0 and id % 17 = 3;
        delete from thing where id % 13 = 2";
    let source = async |rig: &Rig, sql: &str| rig.pair.source.execute(sql).await.unwrap();
    for (first_target, killed, alter, used) in [
        (
            true,
            false,
            "alter table thing add column added int default 7",
            "update thing set added = id where id % 4 = 0",
        ),
        (false, false, "alter table thing add column late text", "update thing set late = 'l' || id where id % 4 = 1"),
        (false, false, "alter table thing drop column old", "select 1"),
        (
            true,
            false,
            "alter table thing add column \"odd name\" jsonb default '{}'",
            "update thing set \"odd name\" = to_jsonb(id) where id % 4 = 2",
        ),
        // What was not read yet when both sides were looked at still has the column.
        (true, true, "alter table thing drop column late", "select 1"),
    ] {
        source(&rig, traffic).await;
        if killed {
            rig.kill9().await;
        }
        if first_target {
            rig.pair.supabase.execute(alter).await.unwrap();
        }
        source(&rig, &format!("begin; {traffic}; {alter}; {used}; {traffic}; commit; {traffic}")).await;
        match killed {
            true => rig.start(),
            false => rig.has_read().await,
        }
        if !first_target {
            rig.pair.supabase.execute(alter).await.unwrap();
        }
        source(&rig, &format!("{traffic}; {used}")).await;
        rig.settled().await;
        let differences = rig.pair.differences(&tables).await.unwrap();
        assert!(differences.is_empty(), "after {alter}:\n{}\n{}", differences.join("\n"), rig.tail());
    }
    // Followed, not compared: the stream itself brought each value.
    assert_eq!(rig.metric("lockstep_parked_rows{table=\"public.thing\"}").await, 0.0);
    assert_eq!(rig.metric("lockstep_rows_dropped_total").await, 0.0);
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}
