//! What the stream cannot bridge: a slot that lost its WAL, a side that came back from a backup, a standby that took over.
//! Each is noticed, told, and ends with both sides equal; rows that only one side had are where this goes wrong.

use std::path::Path;
use std::process::Command;

use lockstep::lab::{Cluster, Stop};

use super::rig::{Rig, public, says_nothing_of_a_journal, until};

const TABLES: &str = "create table ledger (id int primary key, body text);
    create table other (id int primary key, n int)";

async fn streaming() -> Rig {
    let mut rig = Rig::new(TABLES).await;
    rig.pair.source.execute("insert into other select i, i from generate_series(1, 50) i").await.unwrap();
    insert(&rig, 1, 1000).await;
    rig.start();
    rig.settled().await;
    rig
}

async fn insert(rig: &Rig, from: u32, to: u32) {
    let sql = format!("insert into ledger select i, 'row ' || i from generate_series({from}, {to}) i");
    rig.pair.source.execute(&sql).await.unwrap();
}

/// A mix of which each kind shows when it is lost.
async fn change(rig: &Rig) {
    insert(rig, 5001, 5100).await;
    rig.pair.source.execute("update ledger set body = 'changed' where id between 1 and 40").await.unwrap();
    rig.pair.source.execute("delete from ledger where id between 41 and 60").await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Keeps the cluster as it is now. It must be stopped.
fn back_up(cluster: &Cluster) {
    copy(&cluster.dir().join("data"), &cluster.dir().join("kept"));
}

fn restore(cluster: &Cluster) {
    copy(&cluster.dir().join("kept"), &cluster.dir().join("data"));
}

/// The service runs, the source has lost a change that the target has, and is stopped.
async fn source_restored() -> Rig {
    let mut rig = streaming().await;
    rig.terminate().await;
    rig.pair.source.stop(Stop::Fast).await.unwrap();
    back_up(&rig.pair.source);
    rig.pair.source.start().await.unwrap();
    rig.start();
    change(&rig).await;
    rig.settled().await;
    rig.pair.source.stop(Stop::Fast).await.unwrap();
    restore(&rig.pair.source);
    rig
}

/// Healed, told once, and equal; later changes flow.
async fn healed(rig: &mut Rig, reason: &str) {
    rig.settled().await;
    rig.assert_equal(&public(&["ledger", "other"])).await;
    let recoveries = rig.metric(&format!("lockstep_recoveries_total{{reason=\"{reason}\"}}")).await;
    assert_eq!(recoveries, 1.0, "{}", rig.tail());
    assert!(rig.tail().contains("recovering"), "{}", rig.tail());
    rig.pair.source.execute("update ledger set body = 'and on' where id = 7").await.unwrap();
    rig.settled().await;
    rig.assert_equal(&public(&["ledger", "other"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_restored_from_an_older_backup_is_noticed_and_repaired() {
    let mut rig = streaming().await;
    rig.terminate().await;
    rig.pair.supabase.cluster.stop(Stop::Fast).await.unwrap();
    back_up(&rig.pair.supabase.cluster);
    rig.pair.supabase.cluster.start().await.unwrap();
    rig.start();
    change(&rig).await;
    rig.settled().await;
    // The service runs on while it happens.
    rig.pair.supabase.cluster.stop(Stop::Fast).await.unwrap();
    restore(&rig.pair.supabase.cluster);
    rig.pair.supabase.cluster.start().await.unwrap();
    rig.pair.source.execute("delete from ledger where id between 61 and 70").await.unwrap();
    healed(&mut rig, "target_behind").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_restored_from_an_older_backup_takes_back_what_it_lost() {
    let rig = &mut source_restored().await;
    rig.pair.source.start().await.unwrap();
    healed(rig, "target_ahead").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_promoted_standby_never_had_leave_the_target_too() {
    let rig = &mut source_restored().await;
    // Recovery from an archive that holds nothing ends at once, on a timeline of its own.
    let data = rig.pair.source.dir().join("data");
    std::fs::write(data.join("recovery.signal"), "").unwrap();
    let settings = data.join("postgresql.auto.conf");
    let before = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, before + "\nrestore_command = 'false'\n").unwrap();
    rig.pair.source.start().await.unwrap();
    // It outgrows the checkpoint, so that only the timeline tells.
    let grown = "insert into other select i, i from generate_series(1000, 20000) i";
    until("it takes writes", async || rig.pair.source.execute(grown).await.is_ok()).await;
    healed(rig, "other_timeline").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_wal_was_removed_while_supabase_was_away_is_made_anew_and_the_gap_is_repaired() {
    if says_nothing_of_a_journal("it has no slot") {
        return;
    }
    let mut rig = streaming().await;
    for sql in ["alter system set max_slot_wal_keep_size = '16MB'", "select pg_reload_conf()"] {
        rig.pair.source.execute(sql).await.unwrap();
    }
    let faults = rig.pair.supabase.faults().clone();
    faults.down().await;
    change(&rig).await;
    until("the slot is lost", async || {
        for sql in [
            "insert into other select i, i from generate_series(1000, 60000) i",
            "delete from other where id >= 1000",
            "select pg_switch_wal()",
            "checkpoint",
        ] {
            rig.pair.source.execute(sql).await.unwrap();
        }
        rig.pair.source.value("select wal_status from pg_replication_slots").await.unwrap() == "lost"
    })
    .await;
    rig.pair.source.execute("delete from ledger where id between 100 and 120").await.unwrap();
    faults.up().await;
    healed(&mut rig, "slot_lost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_was_dropped_and_a_slot_that_was_dropped_come_back_without_a_person() {
    if says_nothing_of_a_journal("it has neither publication nor slot") {
        return;
    }
    let mut rig = streaming().await;
    rig.pair.source.execute("drop publication lockstep").await.unwrap();
    change(&rig).await;
    healed(&mut rig, "publication_gone").await;
    rig.terminate().await;
    rig.pair.source.execute("select pg_drop_replication_slot('lockstep')").await.unwrap();
    rig.pair.source.execute("delete from ledger where id between 200 and 220").await.unwrap();
    insert(&rig, 6001, 6010).await;
    rig.start();
    healed(&mut rig, "slot_gone").await;
}

/// The publication is altered by `first`, rows change, and it is set back by `then` before anybody could look.
async fn altered_for_a_moment(rig: &Rig, first: &str, then: &str, change: &str) {
    for sql in [first, change, then] {
        rig.pair.source.execute(sql).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_was_altered_for_a_moment_has_its_tables_compared() {
    if says_nothing_of_a_journal("it has no publication") {
        return;
    }
    let mut rig = streaming().await;
    let tables = public(&["ledger", "other"]);
    let less = "alter publication lockstep set (publish = 'insert')";
    let whole = "alter publication lockstep set (publish = 'insert, update, delete, truncate')";
    let (out, back) = ("alter publication lockstep drop table ledger", "alter publication lockstep add table ledger");
    for (first, then, change) in [
        (less, whole, "update other set n = -n where id < 5"),
        (out, back, "insert into ledger values (9001, 'while it was out')"),
    ] {
        altered_for_a_moment(&rig, first, then, change).await;
        until("both sides are equal", async || rig.pair.differences(&tables).await.is_ok_and(|all| all.is_empty()))
            .await;
        rig.settled().await;
    }
    // Nobody could look: it still leaves something out, it was set back, it is another one of the same name.
    let (gone, anew) = (
        "drop publication lockstep",
        "create publication lockstep for table ledger, other with (publish_via_partition_root = true)",
    );
    for (first, then, change) in [
        (less, "select 1", "delete from other where id > 40"),
        (less, whole, "delete from other where id > 30"),
        (out, back, "insert into ledger values (9002, 'while it was out')"),
        (gone, anew, "insert into ledger values (9003, 'while it was not there')"),
    ] {
        rig.terminate().await;
        altered_for_a_moment(&rig, first, then, change).await;
        rig.start();
        rig.settled().await;
        rig.assert_equal(&tables).await;
    }
    let recoveries = rig.metric("lockstep_recoveries_total{reason=\"publication_gone\"}").await;
    assert_eq!(recoveries, 1.0, "{}", rig.tail());
}
