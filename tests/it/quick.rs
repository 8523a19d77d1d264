//! Single rows are written by statements that the target keeps (`sql/supabase/quick.sql`): the same outcome as the sets
//! have, and never by a statement that no longer fits the table.

use lockstep::lab::PairOptions;

use super::rig::{Rig, public, until};

const TABLES: &str = r#"
    create type mood as enum ('glad', 'sad');
    create table parent (id int primary key, v text);
    create table "Odd ""one" (id int, "a b" text collate "C", m mood, n numeric(9, 4), tags text[], doc jsonb, raw json,
        at timestamptz, span int4range, "primary" bool, part int references parent on delete cascade,
        primary key (id, "a b"));
    create function shout() returns trigger language plpgsql as $$ begin new.v := upper(new.v); return new; end $$;
    create trigger shout before insert or update on parent for each row execute function shout()"#;

const NAMES: [&str; 2] = ["parent", "Odd \"one"];

async fn streaming() -> Rig {
    let mut rig = Rig::with(PairOptions::default(), TABLES).await;
    rig.env.push(("LOCKSTEP_LOOK_AGAIN".into(), "1s".into()));
    rig.start();
    rig.settled().await;
    rig
}

/// One after the other, so that each travels alone.
async fn each(rig: &mut Rig, statements: &[&str]) {
    for sql in statements {
        rig.pair.source.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        rig.settled().await;
    }
}

async fn kept(rig: &Rig) -> u32 {
    rig.pair.supabase.cluster.value("select count(*)::text from lockstep.shape").await.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_row_is_written_by_a_statement_that_is_kept() {
    let mut rig = streaming().await;
    each(
        &mut rig,
        &[
            "insert into parent values (1, 'one')",
            "insert into parent values (2, null)",
            r#"insert into "Odd ""one" values (1, 'k"\', 'sad', 'NaN', '{a,NULL,"b,\"c\""}', '{"a": null}', ' {"b" : 1.0 } ',
                'infinity', 'empty', false, 1)"#,
            r#"insert into "Odd ""one" values (1, '', null, 12345.6789, '{}', 'null', 'null', '4713-01-01 BC', '[1,)', null, 2)"#,
            r#"update "Odd ""one" set n = -1, tags = '{{1,2},{3,4}}' where "a b" = ''"#,
            r#"delete from "Odd ""one" where n = -1"#,
            "update parent set v = 'Two' where id = 2",
            "delete from parent where id = 1",
        ],
    )
    .await;
    rig.assert_equal(&public(&NAMES)).await;
    // Upserts of both tables and deletes from both: a shape that is there was used, or its making was undone with it.
    assert_eq!(kept(&rig).await, 4, "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_statement_is_not_used_for_a_table_that_became_another() {
    let mut rig = streaming().await;
    each(&mut rig, &["insert into parent values (1, 'one')", "insert into parent values (2, 'two')"]).await;
    // The same names and other types: a number would lose its leading zero, a moment its zone.
    let both = "alter table parent add column t text; alter table parent alter id type bigint";
    rig.pair.supabase.execute(both).await.unwrap();
    rig.pair.source.execute(both).await.unwrap();
    each(&mut rig, &["insert into parent values (5000000000, 'far', '007')"]).await;
    until("the new column takes part", async || {
        rig.pair.source.execute("update parent set t = '008' where id = 1").await.unwrap();
        rig.settled().await;
        rig.pair.supabase.cluster.value("select t from parent where id = 1").await.is_ok_and(|t| t == "008")
    })
    .await;
    rig.assert_equal(&public(&NAMES)).await;
    // Another table under the same name, and the first one under another: rows go where the name says.
    let swap = "alter table parent rename to former; create table parent (like former including all)";
    rig.pair.supabase.execute(&format!("{swap}; grant all on parent to service_role")).await.unwrap();
    rig.pair.supabase.reload_schema().await.unwrap();
    each(&mut rig, &["insert into parent values (9, 'nine', '09')"]).await;
    let value = rig.pair.supabase.cluster.value("select count(*)::text from former where id = 9").await.unwrap();
    assert_eq!(value, "0", "{}", rig.tail());
    assert_eq!(rig.pair.supabase.cluster.value("select t from parent where id = 9").await.unwrap(), "09");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ordinary_is_judged_by_the_other_way() {
    let mut rig = streaming().await;
    each(&mut rig, &["insert into parent values (1, 'one')"]).await;
    // A row that is not there to delete, one that is refused, one that cannot be found by half of it.
    rig.pair.supabase.cluster.execute("delete from parent; alter table parent add check (v <> 'BAD')").await.unwrap();
    each(&mut rig, &["delete from parent where id = 1", "insert into parent values (3, 'bad')"]).await;
    until("the row is parked", async || {
        rig.pair.supabase.cluster.value("select count(*)::text from lockstep.parked").await.unwrap() == "1"
    })
    .await;
    // While a row is parked, what comes for it settles it.
    each(&mut rig, &["update parent set v = 'good' where id = 3", "insert into parent values (4, 'four')"]).await;
    rig.assert_equal(&public(&NAMES)).await;
    assert_eq!(rig.pair.supabase.cluster.value("select count(*)::text from lockstep.parked").await.unwrap(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_two_tables_of_the_target_change_places_each_row_goes_where_its_name_says() {
    let twins =
        "create table left_one (id int primary key, v text); create table right_one (id int primary key, v text)";
    let mut rig = Rig::with(PairOptions::default(), twins).await;
    rig.start();
    rig.settled().await;
    each(&mut rig, &["insert into left_one values (1, 'left')", "insert into right_one values (1, 'right')"]).await;
    assert_eq!(kept(&rig).await, 2, "{}", rig.tail());
    // As whoever exchanges a table for one that was built beside it.
    let exchange = "alter table left_one rename to aside; alter table right_one rename to left_one;
        alter table aside rename to right_one";
    rig.pair.supabase.execute(exchange).await.unwrap();
    each(&mut rig, &["insert into left_one values (2, 'left')"]).await;
    for (table, rows) in [("left_one", "right left"), ("right_one", "left")] {
        let sql = format!("select string_agg(v, ' ' order by id) from {table}");
        assert_eq!(rig.pair.supabase.cluster.value(&sql).await.unwrap(), rows, "{table}\n{}", rig.tail());
    }
}
