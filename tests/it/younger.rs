//! What is read again from the source is younger than the change it completes. By then the key may be another row's, and a
//! large value that the stream leaves out must not go along to the key that the first row gets next.

use lockstep::lab::{Owner, PairOptions, SupabaseOptions};

use super::rig::{Rig, public};
use super::tables::bare;

const TABLE: &str = "create table item (id int primary key, n int, body text);
    alter table item alter body set storage external;
    create table filler (id serial primary key, body text)";
/// The first one loses its row in Supabase, the second one moves it, the third one takes its key.
const STORY: [&str; 5] = [
    "update item set n = 1 where id = 1",
    "update item set id = 2 where id = 1",
    "insert into item values (1, 7, 'of another row')",
    "update item set id = 3 where id = 1",
    "insert into item values (1, 8, 'of a third row')",
];

/// Each change in a batch of its own.
async fn told(rig: &Rig, story: &[&str]) {
    for sql in story {
        let sql = format!("{sql}; insert into filler (body) values (repeat('x', 20000))");
        rig.pair.source.execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

async fn equal(rig: &mut Rig) {
    rig.settled().await;
    rig.assert_equal(&public(&["item"])).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

async fn streaming(mut rig: Rig) -> Rig {
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[apply]\nmax_batch_bytes = \"16 KiB\"\n").unwrap();
    rig.env.push(("LOCKSTEP_ON_REFUSAL".into(), "strict".into()));
    rig.pair.source.execute("insert into item values (1, 0, repeat('the first row', 500))").await.unwrap();
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
    rig.pair.supabase.cluster.execute("delete from item").await.unwrap();
    rig.pair.supabase.faults().down().await;
    told(&rig, &STORY).await;
    rig.pair.supabase.faults().up().await;
    equal(&mut rig).await;
}

/// An earlier start read the row again and was killed: Supabase holds what the key's row is by now.
async fn a_row_that_was_read_before_the_start(mut rig: Rig) {
    rig.kill9().await;
    told(&rig, &STORY).await;
    rig.pair.supabase.cluster.execute("update item set n = 8, body = 'of a third row'").await.unwrap();
    rig.start();
    equal(&mut rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_stays_with_its_row_when_its_key_is_anothers_by_the_time_it_is_read_again() {
    tokio::join!(
        async { a_row_that_was_lost(with_our_sql(Owner::SetReplicationRole).await).await },
        async { a_row_that_was_lost(with_our_sql(Owner::Plain).await).await },
        async { a_row_that_was_lost(streaming(bare(TABLE).await).await).await },
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_stays_with_its_row_when_it_was_read_again_before_a_kill() {
    tokio::join!(
        async { a_row_that_was_read_before_the_start(with_our_sql(Owner::SetReplicationRole).await).await },
        async { a_row_that_was_read_before_the_start(with_our_sql(Owner::Plain).await).await },
        async { a_row_that_was_read_before_the_start(streaming(bare(TABLE).await).await).await },
    );
}
