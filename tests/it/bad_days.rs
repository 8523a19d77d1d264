//! Bad days of the kind that comes to every service once: each heals by itself, or says what to do and goes on once it is
//! done. What the hundred crashes, the lost slots and the bad input cover stands in their own files.

use std::time::{Duration, Instant};

use lockstep::lab::{Mishap, PairOptions, Stop, random_hex};
use lockstep::ledger::install;
use serde_json::Value;

use crate::rig::{Rig, public, until};

const TABLE: &str = "create table t (id int primary key, x text)";

async fn rig() -> Rig {
    let mut rig = Rig::with(PairOptions::default(), TABLE).await;
    rig.env = vec![("LOCKSTEP_LOOK_AGAIN".into(), "1s".into())];
    rig
}

async fn streaming() -> Rig {
    let mut rig = rig().await;
    rig.start();
    rig.settled().await;
    rig
}

async fn insert(rig: &Rig, from: u32, to: u32) {
    rig.pair
        .source
        .execute(&format!("insert into t select g, g::text from generate_series({from}, {to}) g"))
        .await
        .unwrap();
}

/// Waits until the service says this state for a cause that holds `word`; what it says then.
async fn says(rig: &Rig, state: &str, word: &str) -> Value {
    let mut said = Value::Null;
    until(&format!("{state}: {word}"), async || {
        said = rig.status().await.unwrap_or_default();
        said["state"] == state && said["cause"].as_str().is_some_and(|cause| cause.contains(word))
    })
    .await;
    said
}

/// Nothing is lost, nothing is parked, and it ends as it should.
async fn all_is_well(mut rig: Rig) {
    rig.settled().await;
    rig.assert_equal(&public(&["t"])).await;
    let status = rig.status().await.unwrap();
    assert_eq!(status["state"], "streaming", "{status:#}");
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_rotated_while_it_runs_is_named_and_with_the_new_one_it_goes_on() {
    let mut rig = streaming().await;
    let fresh = format!("sb_secret_{}_{}", random_hex(11), random_hex(4));
    rig.pair.supabase.gateway.rotate(fresh.clone());
    insert(&rig, 1, 100).await;
    let said = says(&rig, "stopped", "Supabase refused the key").await;
    assert!(said["fix"].as_str().unwrap().contains("SUPABASE_KEY"), "{said:#}");
    assert!(rig.tail().contains("ERROR"), "{}", rig.tail());
    let keys = [rig.pair.supabase.secret_key(), &fresh];
    assert!(!keys.iter().any(|key| rig.tail().contains(key)), "the log holds a key");
    assert!(!rig.has_ended());
    assert_eq!(rig.terminate().await, Some(0));
    rig.env.push(("SUPABASE_KEY".into(), fresh));
    rig.start();
    all_is_well(rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_nowhere_for_a_while_is_waited_for_on_both_sides() {
    let mut rig = rig().await;
    // In a mount namespace of its own the service has its own list of hosts, and names can come and go.
    let hosts = rig.dir.path().join("hosts");
    let names = "127.0.0.1 localhost\n127.0.0.1 db.lockstep-lab.invalid\n127.0.0.1 project.lockstep-lab.invalid\n";
    std::fs::write(&hosts, names).unwrap();
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let path = hosts.display().to_string();
    rig.through =
        ["/usr/bin/unshare", "--map-root-user", "--mount", "/bin/sh", "-c", script, &path].map(String::from).to_vec();
    rig.source_url = rig.source_url.replace("127.0.0.1", "db.lockstep-lab.invalid");
    let url = rig.pair.supabase.rest_url().replace("127.0.0.1", "project.lockstep-lab.invalid");
    rig.env.extend([("SUPABASE_URL".into(), url), ("SUPABASE_ALLOW_HTTP".into(), "true".into())]);
    rig.start();
    rig.settled().await;

    std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    rig.pair.supabase.faults().cut().await;
    insert(&rig, 1, 100).await;
    says(&rig, "waiting", "project.lockstep-lab.invalid").await;
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'lockstep'";
    rig.pair.source.value(end).await.unwrap();
    says(&rig, "waiting", "db.lockstep-lab.invalid").await;
    insert(&rig, 101, 200).await;
    std::fs::write(&hosts, names).unwrap();
    all_is_well(rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_in_supabase_is_waited_for_and_said() {
    let rig = streaming().await;
    // What a server answers whose disk is full: SQLSTATE 53100, in the middle of a write.
    let full = "create function full_disk() returns trigger language plpgsql as $$ begin
          raise exception 'could not extend file \"base/1/2\": No space left on device' using errcode = '53100'; end $$;
        create trigger full_disk before insert on t for each row execute function full_disk();
        alter table t enable always trigger full_disk";
    rig.pair.supabase.execute(full).await.unwrap();
    insert(&rig, 1, 100).await;
    says(&rig, "waiting", "No space left on device").await;
    let parked = rig.pair.supabase.cluster.value("select count(*) from lockstep.parked").await.unwrap();
    assert_eq!(parked, "0", "a full disk is no fault of the row");
    rig.pair.supabase.execute("drop trigger full_disk on t").await.unwrap();
    all_is_well(rig).await;
}

/// A small disk of its own. Mounting takes root; without it the test says so and ends.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=0777");
        let mounted =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_owned()));
        }
        println!("skipped: a small disk can be mounted by root only");
        None
    }

    /// Leaves no byte of room.
    fn fill(&self) {
        let _ = std::fs::write(self.0.join("ballast"), vec![1; 256 << 20]);
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn hand_over(from: &std::path::Path, to: &std::path::Path) {
    let given = std::process::Command::new("chown").arg("--reference").arg(from).arg(to).status().unwrap();
    assert!(given.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_really_full_in_supabase_is_waited_for_until_there_is_room() {
    let rig = streaming().await;
    let target = &rig.pair.supabase.cluster;
    let folder = target.dir().join("small");
    let Some(disk) = SmallDisk::mount(&folder, "8m") else { return };
    let place = folder.join("space");
    std::fs::create_dir(&place).unwrap();
    hand_over(&target.dir().join("data"), &place);
    target.execute(&format!("create tablespace small location '{}'", place.display())).await.unwrap();
    target.execute("alter table t set tablespace small").await.unwrap();
    disk.fill();
    let rows = "insert into t select g, repeat('x', 500) from generate_series(1, 4000) g";
    rig.pair.source.execute(rows).await.unwrap();
    says(&rig, "waiting", "No space left on device").await;
    assert_eq!(
        target.value("select (select count(*) from lockstep.parked) + (select count(*) from t)").await.unwrap(),
        "0"
    );
    disk.free();
    rig.pair.source.execute("insert into t values (5000, 'after')").await.unwrap();
    all_is_well(rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_disk_fills_with_wal_while_supabase_is_away_goes_on_once_there_is_room() {
    let mut rig = streaming().await;
    let source = &rig.pair.source;
    let (data, folder) = (source.dir().join("data"), source.dir().join("small"));
    let Some(disk) = SmallDisk::mount(&folder, "96m") else { return };
    source.stop(Stop::Fast).await.unwrap();
    let wal = folder.join("wal");
    let moved = std::process::Command::new("mv").arg(data.join("pg_wal")).arg(&wal).status().unwrap();
    assert!(moved.success());
    std::os::unix::fs::symlink(&wal, data.join("pg_wal")).unwrap();
    source.start().await.unwrap();
    rig.settled().await;
    rig.pair.supabase.faults().down().await;
    insert(&rig, 1, 100).await;
    // The slot holds what Supabase has not, until nothing fits any more; then Postgres stops with a PANIC.
    let source = &rig.pair.source;
    disk.fill();
    let mut n = 1000;
    until("the disk is full", async || {
        n += 20_000;
        let sql = format!("insert into t select g, repeat('x', 300) from generate_series({}, {n}) g", n - 19_999);
        source.execute(&sql).await.is_err()
    })
    .await;
    rig.pair.supabase.faults().up().await;
    assert!(!rig.has_ended(), "{}", rig.tail());
    disk.free();
    let source = &rig.pair.source;
    source.stop(Stop::Immediate).await.ok();
    source.start().await.unwrap();
    rig.pair.source.execute("insert into t values (0, 'after')").await.unwrap();
    all_is_well(rig).await;
}

/// A library that lets a program see another time, where it is installed.
fn faketime() -> Option<String> {
    let places = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    ];
    let found = places.into_iter().find(|path| std::path::Path::new(path).exists());
    if found.is_none() {
        println!("skipped: libfaketime is not installed");
    }
    found.map(String::from)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_a_day_on_and_two_back_changes_nothing_that_arrives() {
    let Some(library) = faketime() else { return };
    let mut rig = rig().await;
    let clock = rig.dir.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    rig.env.extend(
        [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"), // that one does not jump on any machine
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    rig.start();
    rig.settled().await;
    let reader = "select pid from pg_stat_replication";
    let before = rig.pair.source.value(reader).await.unwrap();
    let begun = rig.status().await.unwrap()["now"].as_str().unwrap().to_owned();
    for (jump, from) in [("+1d", 1), ("-1d", 101), ("+400d", 201), ("+0", 301)] {
        std::fs::write(&clock, jump).unwrap();
        insert(&rig, from, from + 99).await;
        rig.pair.source.execute("update t set x = x || '.'").await.unwrap();
        rig.settled().await;
        rig.assert_equal(&public(&["t"])).await;
        if jump == "-1d" {
            let now = rig.status().await.unwrap()["now"].as_str().unwrap().to_owned();
            assert!(now < begun, "the clock did not jump: {now}");
        }
        until("it says that both sides are in step", async || {
            rig.status().await.is_some_and(|status| status["verdict"] == "in_step")
        })
        .await;
    }
    assert_eq!(rig.pair.source.value(reader).await.unwrap(), before, "a jump cost the connection");
    all_is_well(rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_wal_sender_timeout_6s_a_target_that_stalls_longer_does_not_cost_the_connection() {
    let mut options = PairOptions::default();
    options.source = options.source.set("wal_sender_timeout", "6s");
    let mut rig = Rig::with(options, TABLE).await;
    // So little that the queue is full at once, and reading stops.
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[apply]\nqueue_bytes = \"1MiB\"\n").unwrap();
    rig.start();
    rig.settled().await;
    let reader = "select pid from pg_stat_replication";
    let before = rig.pair.source.value(reader).await.unwrap();
    // Its parts are laid down one behind the other; the first one takes so long that nothing more is read meanwhile.
    rig.pair.supabase.faults().aim("rpc/lockstep_");
    rig.pair.supabase.faults().next(Mishap::Slow(Duration::from_secs(14)), 1);
    rig.pair
        .source
        .execute("insert into t select g, repeat('x', 1000) from generate_series(1, 40000) g")
        .await
        .unwrap();
    rig.settled().await;
    assert_eq!(rig.pair.supabase.faults().waiting(), 0, "it did not stall");
    assert_eq!(rig.pair.source.value(reader).await.unwrap(), before, "the server cut it: {}", rig.tail());
    let log = std::fs::read_to_string(rig.pair.source.log()).unwrap();
    assert!(!log.contains("terminating walsender process due to replication timeout"), "{log}");
    all_is_well(rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_in_supabase_is_sent_again_until_it_is_through() {
    let rig = streaming().await;
    let owner = rig.pair.supabase.connect_owner().await.unwrap();
    owner.batch_execute("alter function public.lockstep_apply(bytea) set statement_timeout = '1s'").await.unwrap();
    rig.pair.supabase.reload_schema().await.unwrap();
    owner.batch_execute("begin; lock table t in access exclusive mode").await.unwrap();
    insert(&rig, 1, 100).await;
    says(&rig, "waiting", "statement timeout").await;
    owner.batch_execute("rollback").await.unwrap();
    all_is_well(rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_come_back_later_it_comes_back_then_and_not_before() {
    let rig = streaming().await;
    rig.pair.supabase.faults().aim("rpc/lockstep_apply");
    rig.pair.supabase.faults().next(Mishap::TooMany { retry_after: 4 }, 1);
    insert(&rig, 1, 100).await;
    until("it was told", async || rig.pair.supabase.faults().waiting() == 0).await;
    let (told, before) = (Instant::now(), rig.pair.supabase.faults().counts().requests);
    let there = "select count(*) = 100 from t";
    until("the rows are there", async || rig.pair.supabase.cluster.value(there).await.unwrap() == "t").await;
    assert!(told.elapsed() >= Duration::from_millis(3_500), "it came back after {:?}", told.elapsed());
    let asked = rig.pair.supabase.faults().counts().requests - before;
    assert!(asked <= 3, "it asked {asked} times");
    all_is_well(rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_postgrest_does_not_know_stop_it_until_the_schema_is_read_anew() {
    let rig = streaming().await;
    let owner = rig.pair.supabase.connect_owner().await.unwrap();
    owner.batch_execute("drop function public.lockstep_apply(bytea), public.lockstep_hello(jsonb)").await.unwrap();
    rig.pair.supabase.reload_schema().await.unwrap();
    insert(&rig, 1, 100).await;
    let said = says(&rig, "stopped", "PostgREST has not seen it yet").await;
    assert!(said["fix"].as_str().unwrap().contains("lockstep setup supabase --print"), "{said:#}");
    owner.batch_execute(&install::script().replace("notify pgrst, 'reload schema';", "")).await.unwrap();
    says(&rig, "stopped", "PostgREST has not seen it yet").await;
    rig.pair.supabase.reload_schema().await.unwrap();
    all_is_well(rig).await;
}
