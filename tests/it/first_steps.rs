//! What a newcomer sees in the first minute.

use super::rig::{Rig, public};

const TABLES: &str = "
    create table person (id int primary key, name text not null, tags text[], doc jsonb default '{}', n numeric(12, 4));
    create table note (a int, b text, body text, primary key (a, b));
";

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_there_and_rows_that_come_arrive_whole() {
    let mut rig = Rig::new(TABLES).await;
    rig.pair
        .source
        .execute(
            r#"insert into person select i, 'name ' || i, array['a"b', null, '{x,\}'], '{"k": [1, null]}', i / 7.0
               from generate_series(1, 5000) i;
               insert into note values (1, 'x', null), (1, '', E'tab\tnew\nline\\ "quote" {brace}, ''single'''), (2, 'NULL', 'null')"#,
        )
        .await
        .unwrap();
    rig.start();
    rig.settled().await;
    let tables = public(&["person", "note"]);
    rig.assert_equal(&tables).await;

    for sql in [
        "insert into person values (0, 'zero', '{}', 'null', 'NaN')",
        "update person set name = name || '!', n = -n where id % 3 = 0",
        "delete from person where id % 5 = 0",
        "update person set id = id + 100000 where id between 1 and 3",
        "begin; insert into note values (9, 'n', 'nine'); update note set body = 'ten' where a = 9; commit",
        "begin; delete from note where a = 1; insert into note values (1, 'x', 'again'); commit",
        "truncate note",
        "insert into note values (3, 'z', 'after')",
    ] {
        rig.pair.source.execute(sql).await.unwrap();
    }
    rig.settled().await;
    rig.assert_equal(&tables).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_target_lost_is_read_again_when_its_change_holds_only_a_part_of_it() {
    let mut rig = Rig::new("create table doc (id int primary key, big text, small int)").await;
    // Random text, so that it is stored out of line and an update of `small` does not bring it.
    let big = "(select string_agg(md5(random()::text), '') from generate_series(1, 400))";
    rig.pair
        .source
        .execute(&format!("insert into doc select i, {big}, 0 from generate_series(1, 20) i"))
        .await
        .unwrap();
    rig.start();
    rig.settled().await;
    rig.pair.supabase.execute("delete from doc where id in (3, 4, 5)").await.unwrap();
    for sql in [
        "update doc set small = small + 1",
        "begin; update doc set small = 7 where id = 4; delete from doc where id = 4; commit",
        "update doc set id = 103 where id = 3",
    ] {
        rig.pair.source.execute(sql).await.unwrap();
    }
    rig.settled().await;
    rig.assert_equal(&public(&["doc"])).await;
    let log = std::fs::read_to_string(rig.log()).unwrap();
    assert!(log.contains("read again from the source"), "{log}");
}
