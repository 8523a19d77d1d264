//! Where the journal's order and what a reader sees are not one: transactions that stand early and end late, commits that
//! a crash takes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use lockstep::lab::{PairOptions, Seeded};

use super::journal::{capture_by, rig, session, source, target};
use super::rig::{Rig, public, until};

/// A transaction stands where its last statement does. Of one that stands before a range's mark and is open while the range
/// is read, the range would have the rows of before, and write them over what the stream brings.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_read_only_once_all_that_stands_before_its_mark_has_ended() {
    let schema = "create table t (id int primary key, n int not null, body text default repeat('wide ', 40))";
    let mut rig = rig("replica", schema, "journal").await;
    source(&rig, "insert into t select i, 0 from generate_series(1, 6000) i").await;
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[copy]\nchunk_bytes = \"16 KiB\"\n").unwrap();
    let (cursor, written) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (client, cursor, written) = (session(&rig).await, cursor.clone(), written.clone());
        let mut chance = Seeded::new(n);
        writers.spawn(async move {
            loop {
                // In the range that is read next, and open for a moment behind its only statement.
                let id = cursor.load(Relaxed) + chance.below(200);
                let sql = format!("begin; update t set n = n + 1 where id = {id}");
                client.batch_execute(&sql).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                client.batch_execute("commit").await.unwrap();
                written.fetch_add(1, Relaxed);
            }
        });
    }
    rig.start();
    until("all of it is copied", async || {
        let rows = rig.pair.supabase.cluster.rows("select rows, done from lockstep.copy").await.unwrap();
        let Some([Some(rows), Some(done)]) = rows.first().map(Vec::as_slice) else { return false };
        cursor.store(rows.parse().unwrap(), Relaxed);
        done == "t"
    })
    .await;
    writers.shutdown().await;
    assert!(written.load(Relaxed) > 50, "hardly anything was written beside the copy");
    rig.settled().await;
    rig.assert_equal(&public(&["t"])).await;
}

/// A commit that waits for no disk is seen at once, and taken back by a crash: the target must not have it before.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_of_the_source_takes_back_was_not_handed_on() {
    let mut options = PairOptions::default();
    // Nobody else brings it to the disk meanwhile.
    for (name, value) in [("synchronous_commit", "off"), ("wal_writer_delay", "10s"), ("wal_level", "replica")] {
        options.source = options.source.set(name, value);
    }
    options.source = options.source.set("autovacuum", "off").set("bgwriter_lru_maxpages", "0");
    let mut rig = Rig::with(options, "create table t (id int primary key)").await;
    capture_by(&mut rig, "journal");
    rig.start();
    rig.settled().await;
    for id in 1..=2 {
        source(&rig, &format!("insert into t values ({id})")).await;
        until("it arrived", async || target(&rig, &format!("select count(*) from t where id = {id}")).await == "1")
            .await;
        rig.pair.source.kill9().await;
        rig.pair.source.start().await.unwrap();
        let found = rig.pair.source.value(&format!("select count(*) from t where id = {id}")).await.unwrap();
        assert_eq!(found, "1", "row {id} is in the target, and the source lost it");
    }
    rig.settled().await;
    rig.assert_equal(&public(&["t"])).await;
}
