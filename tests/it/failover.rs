//! The slot that lives on after a switch to a standby, where the source's version knows such slots.

use std::path::{Path, PathBuf};
use std::process::Command;

use lockstep::lab::{Cluster, ClusterOptions, Stop};

use super::rig::{Rig, public, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_is_one_that_standbys_keep_where_the_version_knows_such() {
    let mut rig = Rig::new("create table thing (id int primary key)").await;
    rig.start();
    rig.settled().await;
    // Read as JSON: before version 17 there is no such column.
    let slots = "select string_agg(slot_name || ' ' || coalesce(to_jsonb(s)->>'failover', 'unknown'), ',')
        from pg_replication_slots s";
    let expected = if rig.pair.source.major() >= 17 { "lockstep true" } else { "lockstep unknown" };
    assert_eq!(rig.pair.source.value(slots).await.unwrap(), expected);
    rig.pair.source.execute("insert into thing values (1)").await.unwrap();
    rig.settled().await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

/// A standby of the source: a base backup in the place of a fresh cluster.
async fn standby_of(source: &Cluster, programs: &Path) -> Cluster {
    let options = ClusterOptions { bin: Some(programs.to_owned()), ..ClusterOptions::default() }
        .set("hot_standby_feedback", "on")
        .set("primary_slot_name", "standby");
    let standby = Cluster::temp(options).await.unwrap();
    standby.stop(Stop::Fast).await.unwrap();
    source.value("select pg_create_physical_replication_slot('standby', true)").await.unwrap();
    let (data, backup) = (standby.dir().join("data"), standby.dir().join("backup"));
    let done = Command::new(programs.join("pg_basebackup"))
        .args(["--checkpoint=fast", "--dbname", &source.url("postgres"), "--pgdata"])
        .arg(&backup)
        .status();
    assert!(done.unwrap().success());
    std::fs::write(backup.join("standby.signal"), "").unwrap();
    let settings = format!("primary_conninfo = '{}'\nsync_replication_slots = on\n", source.url("postgres"));
    std::fs::write(backup.join("postgresql.auto.conf"), settings).unwrap();
    let owner = Command::new("chown").arg("-R").arg("--reference").args([&data, &backup]).status();
    assert!(owner.unwrap().success());
    std::fs::set_permissions(&backup, std::fs::metadata(&data).unwrap().permissions()).unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&backup, &data).unwrap();
    standby.start().await.unwrap();
    standby
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_switch_to_a_standby_the_slot_goes_on_there_and_both_sides_end_equal() {
    let mut rig = Rig::new("create table thing (id int primary key, v text)").await;
    let programs = std::env::var_os("LOCKSTEP_TEST_SOURCE_BIN").map(PathBuf::from);
    let Some(programs) = programs.filter(|_| rig.pair.source.major() >= 17) else {
        return println!("skipped: no slot of a version before 17 lives on on a standby; make test-matrix runs this");
    };
    rig.pair.source.execute("insert into thing select i, 'first' from generate_series(1, 1000) i").await.unwrap();
    rig.start();
    rig.settled().await;
    let standby = standby_of(&rig.pair.source, &programs).await;
    let synced = "select coalesce(bool_or(synced and not temporary), false)::text from pg_replication_slots
        where slot_name = 'lockstep'";
    // The slot must have moved on from where the standby began: over a note in the WAL of what runs, with nothing behind.
    let kept = async || {
        rig.pair.source.value("select pg_log_standby_snapshot()").await.unwrap();
        rig.settled().await;
        standby.value(synced).await.unwrap() == "true"
    };
    until("the standby keeps the slot", kept).await;
    // What both have, and what neither the standby nor Supabase has any more when the source dies.
    let sql =
        "insert into thing select i, 'second' from generate_series(1001, 2000) i; delete from thing where id < 50";
    rig.pair.source.execute(sql).await.unwrap();
    rig.settled().await;
    let end = rig.pair.source.value("select pg_current_wal_flush_lsn()").await.unwrap();
    until("the standby has it", async || {
        standby.value(&format!("select (pg_last_wal_replay_lsn() >= '{end}')::text")).await.unwrap() == "true"
    })
    .await;
    rig.pair.source.kill9().await;
    standby.value("select pg_promote()::text").await.unwrap();
    let place = |cluster: &Cluster| format!("127.0.0.1:{}", cluster.port());
    rig.source_url = rig.source_url.replace(&place(&rig.pair.source), &place(&standby));
    let made = |rig: &Rig| std::fs::read_to_string(rig.log()).unwrap().matches("made the slot").count();
    let before = made(&rig);
    rig.kill9().await;
    rig.pair.source = standby;
    rig.pair
        .source
        .execute("insert into thing values (5000, 'after'); update thing set v = 'w' where id = 60")
        .await
        .unwrap();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["thing"])).await;
    assert_eq!(made(&rig), before, "it took the slot that the standby kept");
    assert_eq!(rig.metric("lockstep_recoveries_total{reason=\"other_timeline\"}").await, 1.0, "{}", rig.tail());
    rig.pair.source.execute("insert into thing values (5001, 'and on')").await.unwrap();
    rig.settled().await;
    rig.assert_equal(&public(&["thing"])).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}
