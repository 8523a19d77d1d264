//! Where the journal's order and what a reader sees are not one: transactions that stand early and end late, commits that
//! a crash takes back.

use lockstep::lab::{Mishap, PairOptions};

use super::journal::{capture_by, rig, session, source, target};
use super::rig::{Rig, public, until};

/// A transaction stands where its last statement does. Of one that stands before a range's mark and is open while the range
/// is read, the range would have the rows of before, and write them over what the stream brings.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_read_only_once_all_that_stands_before_its_mark_has_ended() {
    let schema = "create table t (id int primary key, n int not null, body text default repeat('wide ', 40))";
    let mut rig = rig("replica", schema, "journal").await;
    source(&rig, "insert into t select i, 0 from generate_series(1, 20000) i").await;
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[copy]\nchunk_bytes = \"16 KiB\"\n").unwrap();
    // Held up, so that the copy is in the middle when the transaction comes.
    let faults = rig.pair.supabase.faults().clone();
    faults.aim("rpc/lockstep_apply");
    faults.random(Mishap::Slow(std::time::Duration::from_millis(200)), 1.0, 1);
    rig.start();
    let copied = "select coalesce(max(rows), 0) from lockstep.copy";
    until("a part is copied", async || target(&rig, copied).await.parse::<u32>().is_ok_and(|rows| rows > 200)).await;
    let open = session(&rig).await;
    open.batch_execute("begin; update t set n = 1 where id % 5 = 0; delete from t where id % 7 = 0").await.unwrap();
    faults.clear();
    // The copy waits for it; one that did not would read what is to come until its ranges are in flight.
    let waits = "select count(*) from pg_stat_activity where application_name = 'lockstep reconcile' \
                 and query ~ 'journal_(passed|mark)' and state = 'idle' and clock_timestamp() - state_change > '20 ms'";
    until("the copy waits", async || rig.pair.source.value(waits).await.unwrap() == "1").await;
    open.batch_execute("commit").await.unwrap();
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
