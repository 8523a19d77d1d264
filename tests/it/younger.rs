//! What is read again from the source is younger than the change it completes. By then the key may be another row's, and a
//! large value that the stream leaves out must not go along to the key that the first row gets next.

use lockstep::lab::{Owner, PairOptions, SupabaseOptions};

use super::rig::{Rig, public, says_nothing_of_a_journal};
use super::tables::bare;

const TABLE: &str = "create table item (id int primary key, n int, body text);
    alter table item alter body set storage external;
    create table filler (id serial primary key, body text)";
/// A change of a row that Supabase may lack, another key for it, and another row under the first one; and once more.
async fn told(rig: &Rig, id: u32, apart: bool) {
    // Each change in a batch of its own, or all in one.
    let filler = if apart { "; insert into filler (body) values (repeat('x', 20000))" } else { "" };
    for sql in [
        format!("update item set n = 1 where id = {id}"),
        format!("update item set id = {id} + 1 where id = {id}"),
        format!("insert into item values ({id}, 7, 'of another row')"),
        format!("update item set id = {id} + 2 where id = {id}"),
        format!("insert into item values ({id}, 8, 'of a third row')"),
    ] {
        let sql = format!("{sql}{filler}");
        rig.pair.source.execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

async fn first_row(rig: &Rig, id: u32) {
    let sql = format!("insert into item values ({id}, 0, repeat('the first row', 500))");
    rig.pair.source.execute(&sql).await.unwrap();
}

async fn equal(rig: &mut Rig) {
    rig.settled().await;
    rig.assert_equal(&public(&["item"])).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

async fn streaming(mut rig: Rig) -> Rig {
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[apply]\nmax_batch_bytes = \"16 KiB\"\n").unwrap();
    rig.env.push(("LOCKSTEP_ON_REFUSAL".into(), "strict".into()));
    first_row(&rig, 1).await;
    rig.start();
    rig.settled().await;
    rig
}

async fn with_our_sql(owner: Owner) -> Rig {
    let supabase = SupabaseOptions { owner, ..SupabaseOptions::default() };
    streaming(Rig::with(PairOptions { supabase, ..PairOptions::default() }, TABLE).await).await
}

/// The row is missing in Supabase, and the story is over before Supabase hears of it.
async fn a_row_that_was_lost(mut rig: Rig) {
    for (id, apart) in [(1, true), (11, true), (21, false)] {
        if id > 1 {
            first_row(&rig, id).await;
            rig.settled().await;
        }
        rig.pair.supabase.cluster.execute(&format!("delete from item where id = {id}")).await.unwrap();
        rig.pair.supabase.faults().down().await;
        told(&rig, id, apart).await;
        rig.pair.supabase.faults().up().await;
        rig.settled().await;
        rig.assert_equal(&public(&["item"])).await;
    }
    equal(&mut rig).await;
}

/// An earlier start read the row again and was killed: Supabase holds what the key's row is by now.
async fn a_row_that_was_read_before_the_start(mut rig: Rig) {
    rig.kill9().await;
    told(&rig, 1, true).await;
    rig.pair.supabase.cluster.execute("update item set n = 8, body = 'of a third row'").await.unwrap();
    rig.start();
    equal(&mut rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_stays_with_its_row_when_its_key_is_anothers_by_the_time_it_is_read_again() {
    if says_nothing_of_a_journal("its lines are whole rows, and it needs our SQL") {
        return;
    }
    tokio::join!(
        async { a_row_that_was_lost(with_our_sql(Owner::SetReplicationRole).await).await },
        async { a_row_that_was_lost(with_our_sql(Owner::Plain).await).await },
        async { a_row_that_was_lost(streaming(bare(TABLE).await).await).await },
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_stays_with_its_row_when_it_was_read_again_before_a_kill() {
    if says_nothing_of_a_journal("its lines are whole rows, and it needs our SQL") {
        return;
    }
    tokio::join!(
        async { a_row_that_was_read_before_the_start(with_our_sql(Owner::SetReplicationRole).await).await },
        async { a_row_that_was_read_before_the_start(with_our_sql(Owner::Plain).await).await },
        async { a_row_that_was_read_before_the_start(streaming(bare(TABLE).await).await).await },
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_stored_apart_stands_in_no_ones_way() {
    let table = "create table item (id text primary key, n int, body text);
        alter table item alter id set storage external; alter table item alter body set storage external";
    let supabase = SupabaseOptions { owner: Owner::SetReplicationRole, ..SupabaseOptions::default() };
    let mut rig = Rig::with(PairOptions { supabase, ..PairOptions::default() }, table).await;
    let fill = "insert into item select repeat(i::text, 2300), 0, repeat('b', 5000) from generate_series(1, 9) i";
    rig.pair.source.execute(fill).await.unwrap();
    rig.start();
    rig.settled().await;
    rig.pair.supabase.cluster.execute("delete from item where id like '1%'").await.unwrap();
    rig.pair
        .source
        .execute("update item set n = 1; update item set id = 'short' || n where id like '2%'")
        .await
        .unwrap();
    rig.settled().await;
    rig.assert_equal(&public(&["item"])).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}
