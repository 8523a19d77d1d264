//! What an on-call engineer relies on, with a real Prometheus: every panel shows something, every alert fires when its
//! day has come, and none fires while all is well.

mod panels;
mod picture;
mod prometheus;
mod rights;
mod scrape;
mod service;

use std::time::{Duration, Instant};

use lockstep::lab::{Mishap, PairOptions, Port, Temp};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::Child;

use super::rig::{Rig, until, web_client};
use prometheus::Prometheus;

const TABLES: &str = "
    create table agents (id int primary key, name text not null);
    create table tasks (id int primary key, v text);
    create table strange (id int primary key, v text);
    create table plain (id int primary key, v text);
";

/// One can do nothing where no agent API is set, so its runs are given up; the other's receiver is never there.
const WORKFLOWS: &str = r#"insert into supabase_sync_workflows (workflow_name, trigger_table, trigger_event, action_config)
    values ('Nobody to ask', 'plain', 'INSERT', '{"type": "trigger_agent_task", "agent_id": "a", "action": "b"}'),
           ('Nobody there', 'plain', 'INSERT', '{"type": "webhook", "url": "http://127.0.0.1:9/"}')"#;

/// Comparisons all the time, and one table that only somebody's word compares.
const SETTINGS: &str = "[workflows]\nallow = [\"127.0.0.1\"]\n[schedule]\nreconcile = [\"*/2 * * * * *\"]\njitter = \"0s\"\n\
                        [table.\"public.strange\"]\nreconcile = []\n[table.\"public.plain\"]\nreconcile = []\n";

/// A rig whose source keeps little WAL for a slot.
async fn rig() -> Rig {
    let mut options = PairOptions::default();
    options.source.settings.push(("max_slot_wal_keep_size".into(), "96MB".into()));
    let mut rig = Rig::with(options, TABLES).await;
    std::fs::write(rig.dir.path().join("lockstep.toml"), SETTINGS).unwrap();
    rig.env.retain(|(name, _)| name != "LOCKSTEP_WORKFLOWS");
    rig.env.push(("LOCKSTEP_LOOK_AGAIN".into(), "2s".into()));
    let fill = "insert into agents select i, 'a' || i from generate_series(1, 5000) i;
                insert into tasks select i, 't' from generate_series(1, 500) i;
                insert into strange select i, 's' from generate_series(1, 50) i;
                analyze";
    rig.pair.source.execute(fill).await.unwrap();
    rig
}

/// A service whose source has no slot: triggers write a journal.
async fn by_journal() -> Rig {
    let mut rig = Rig::new("create table notes (id int generated always as identity primary key, v text)").await;
    rig.env.push(("LOCKSTEP_CAPTURE".into(), "journal".into()));
    let (code, out, err) = rig.verb(&["setup", "source", "--apply"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    rig.start();
    rig.settled().await;
    rig
}

/// It has written and does not end, while others commit a megabyte a second.
async fn somebody_forgets_a_transaction(rig: &Rig) -> tokio::task::JoinHandle<()> {
    let url = rig.pair.source.url("postgres");
    let open = "begin; insert into notes (v) values ('and then the telephone rang')";
    let write = "insert into notes (v) select repeat('z', 1000) from generate_series(1, 1000)";
    tokio::spawn(async move {
        let (forgetful, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let (busy, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        forgetful.batch_execute(open).await.unwrap();
        loop {
            busy.batch_execute(write).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
}

/// Rows all the time, until it is dropped.
fn traffic(rig: &Rig) -> tokio::task::JoinHandle<()> {
    let url = rig.pair.source.url("postgres");
    tokio::spawn(async move {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        for id in 10_000.. {
            let sql = format!(
                "insert into tasks values ({id}, 'x'); update agents set name = 'n{id}' where id = {id} % 5000 + 1"
            );
            if client.batch_execute(&sql).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

/// The demo as a newcomer starts it; the address of its page.
async fn demo(temp: &Temp) -> (Child, String) {
    let dir = temp.path().join("here");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.args(["demo", "--traffic", "20", "--dir", dir.to_str().unwrap()]).env_clear();
    for name in ["HOME", "PATH", "XDG_CACHE_HOME"] {
        command.envs(std::env::var(name).map(|value| (name, value)));
    }
    let quiet = std::process::Stdio::null;
    let child = command.stdin(quiet()).stdout(quiet()).stderr(quiet()).kill_on_drop(true).spawn().unwrap();
    let kept = dir.join("demo.json");
    until("the demo is up", async || kept.exists()).await;
    let facts: Value = serde_json::from_str(&std::fs::read_to_string(&kept).unwrap()).unwrap();
    let address = facts["page_url"].as_str().unwrap().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let web = web_client();
    until("the demo is in step", async || {
        let ready = web.get(format!("http://{address}/readyz")).send().await;
        ready.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    (child, address)
}

/// A service whose source takes connections and says nothing: nobody knows where it stands.
async fn deaf(temp: &Temp, port: &Port) -> (Child, TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("127.0.0.1:{}", port.number());
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_lockstep"));
    let source = format!("postgres://u:p@127.0.0.1:{}/db?connect_timeout=20", listener.local_addr().unwrap().port());
    command.arg("run").current_dir(temp.path()).env_clear().env("DATABASE_URL", source);
    command.env("SUPABASE_URL", "http://127.0.0.1:9").env("SUPABASE_KEY", "sb_secret_abcdefghijklmnopqrstuv");
    command.env("LOCKSTEP_LISTEN", &address);
    let quiet = std::process::Stdio::null;
    let child = command.stdin(quiet()).stdout(quiet()).stderr(quiet()).kill_on_drop(true).spawn().unwrap();
    (child, listener, address)
}

fn signal(rig: &Rig, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(rig.pid().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_shows_something_every_alert_fires_on_its_day_and_none_in_the_demo() {
    let began = jiff::Timestamp::now().as_millisecond() as f64 / 1e3;
    let temp = Temp::new("ops").unwrap();
    // Taken before the rig chooses one, and kept: it does not keep its own.
    let (ours, theirs) = (Port::free().unwrap(), Port::free().unwrap());
    let (_deaf, _listener, deaf) = deaf(&temp, &theirs).await;
    let ((_demo, demo), mut rig, journal) = tokio::join!(demo(&temp), rig(), by_journal());
    let [faults, journals] = [&rig, &journal].map(|rig| format!("127.0.0.1:{}", rig.http));
    let scraped = [("demo", demo), ("faults", faults), ("deaf", deaf), ("journal", journals)];
    let mut prometheus = Prometheus::start(ours, &scraped).await;
    rig.start();
    rig.settled().await;
    let _traffic = traffic(&rig);
    // It looks for the first time some seconds after its start: an increase needs a value to rise from.
    until("Prometheus sees all four", async || prometheus.now("lockstep_up").await.len() == 4).await;
    let forgotten = somebody_forgets_a_transaction(&journal).await;

    few_things_go_wrong(&mut rig).await;
    let small = [
        "LockstepRowsParked",
        "LockstepTableParked",
        "LockstepSidesDiffer",
        "LockstepDifferencesFound",
        "LockstepSettingsRefused",
        "LockstepTargetSlow",
        "LockstepWorkflowDeadLetters",
        "LockstepWorkflowUnfit",
        "LockstepWorkflowWaiting",
    ];
    prometheus.fires("faults", &small).await;
    rig.pair.supabase.gateway.faults().clear();

    // Nobody can read the workflows any more; the target is away at the same time, so that it costs no time.
    let unread = "alter table supabase_sync_workflows rename column action_config to was";
    rig.pair.source.execute(unread).await.unwrap();
    let writing = the_target_goes_away(&rig).await;
    let away = [
        "LockstepNotConnected",
        "LockstepLagging",
        "LockstepTargetRefuses",
        "LockstepWalHeld",
        "LockstepSlotAtRisk",
        "LockstepSlotNearlyLost",
        "LockstepReconcileOverdue",
        "LockstepScheduleMissed",
        "LockstepWorkflowsStopped",
    ];
    prometheus.fires("faults", &away).await;
    let mended = "alter table supabase_sync_workflows rename column was to action_config";
    rig.pair.source.execute(mended).await.unwrap();
    writing.abort();
    rig.pair.supabase.gateway.faults().up().await;

    let key = rig.pair.supabase.secret_key().to_owned();
    rig.pair.supabase.gateway.rotate("sb_secret_another-one-altogether-123456".into());
    prometheus.fires("faults", &["LockstepStopped"]).await;
    rig.pair.supabase.gateway.rotate(key);

    starts_again_and_again_without_its_slot(&mut rig).await;
    prometheus.fires("faults", &["LockstepRestarting", "LockstepRecovered"]).await;
    prometheus.fires("deaf", &["LockstepStuck"]).await;
    prometheus.fires("journal", &["LockstepJournalHeldUp", "LockstepJournalGrows"]).await;
    forgotten.abort();
    panels::all_show_something(&prometheus, began).await;
    rig.kill9().await;
    prometheus.fires("faults", &["LockstepDown"]).await;

    let mut fired = prometheus.fired("faults", true).await;
    fired.extend(prometheus.fired("deaf", true).await);
    fired.extend(prometheus.fired("journal", true).await);
    let untold =
        panels::alerts().into_iter().filter(|name| !fired.contains(name) && !CANNOT_BE_MADE.contains(&name.as_str()));
    assert_eq!(untold.collect::<Vec<_>>(), [""; 0], "these never fired");
    assert!(!fired.contains(&"LockstepRowsDropped".to_owned()));
    assert_eq!(prometheus.fired("demo", true).await, [""; 0], "all is well in the demo");
    assert!(prometheus.is_running());
    picture::draw_when_asked(&prometheus, began).await;
}

/// No line of the code counts one up: it would take a broken guarantee. The rules' own tests have it.
const CANNOT_BE_MADE: [&str; 1] = ["LockstepRowsDropped"];

async fn few_things_go_wrong(rig: &mut Rig) {
    let target = &rig.pair.supabase;
    target.execute("alter table plain add constraint short check (length(v) < 9)").await.unwrap();
    rig.pair.source.execute(WORKFLOWS).await.unwrap();
    rig.pair.source.execute("insert into plain values (1, 'far too long')").await.unwrap();
    target.execute("delete from strange where id < 4").await.unwrap();
    let (code, out, err) = rig.verb(&["verify", "strange"]).await;
    assert_eq!(code, Some(1), "{out}{err}\n{}", rig.tail());
    rig.pair
        .source
        .execute("alter table strange add column w int; insert into strange values (99, 'x', 1)")
        .await
        .unwrap();
    std::fs::write(rig.dir.path().join("lockstep.toml"), format!("{SETTINGS}[sourc]\n")).unwrap();
    signal(rig, rustix::process::Signal::HUP);
    until("the settings are refused", async || rig.metric("lockstep_reloads_total{result=\"refused\"}").await == 1.0)
        .await;
    std::fs::write(rig.dir.path().join("lockstep.toml"), SETTINGS).unwrap();
    until("the table is set aside", async || rig.metric("lockstep_tables{state=\"parked\"}").await == 1.0).await;
    let faults = target.gateway.faults();
    faults.aim("rpc/lockstep_apply");
    faults.random(Mishap::Slow(Duration::from_secs(3)), 1.0, 1);
}

/// While no run is half done: one that is would only be late.
async fn the_target_goes_away(rig: &Rig) -> tokio::task::JoinHandle<()> {
    let faults = rig.pair.supabase.gateway.faults();
    loop {
        until("no run is at work", async || rig.metric("lockstep_reconcile_running").await == 0.0).await;
        faults.down().await;
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut running = 0.0;
        while running == 0.0 && Instant::now() < deadline {
            running = rig.metric("lockstep_reconcile_running").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if running == 0.0 {
            break;
        }
        faults.up().await;
    }
    // More WAL than the alerts want, and not more than the limit bears while they are waited for.
    let url = rig.pair.source.url("postgres");
    tokio::spawn(async move {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let wal = "create table if not exists heap (v text); insert into heap select repeat('y', 1000) \
                   from generate_series(1, 1500)";
        for _ in 0..30 {
            client.batch_execute(wal).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
}

async fn starts_again_and_again_without_its_slot(rig: &mut Rig) {
    until("it goes on", async || rig.metric("lockstep_connected{side=\"target\"}").await == 1.0).await;
    for start in 0..4 {
        rig.kill9().await;
        if start == 3 {
            let gone = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active";
            until("the slot is gone", async || {
                let _ = rig.pair.source.execute(gone).await;
                rig.pair.source.value("select count(*) from pg_replication_slots").await.unwrap() == "0"
            })
            .await;
        }
        rig.start();
        until("it answers", async || rig.get("/healthz").await.is_ok()).await;
        tokio::time::sleep(Duration::from_millis(1500)).await; // a scrape sees it
    }
    rig.streams().await;
}
