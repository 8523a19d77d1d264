//! Workflows under fire: whatever is killed, down or silent, every matching change leads to one run, the order of each
//! key is kept, and all tries of a run carry one id.

use std::collections::BTreeMap;
use std::time::Instant;

use lockstep::lab::Seeded;
use serde_json::Value;

use super::receiver::{Hit, Mood, Receiver};
use super::rig::{Rig, seed, until};
use super::workflows::{ask, rig, runs, settings, streaming};

const SCHEMA: &str = "
    create table events (key int primary key, version int not null);
    create table other (id serial primary key, body text);
";

const WORKFLOWS: &str = r#"
    insert into supabase_sync_workflows (workflow_name, trigger_table, trigger_event, action_config) values
      ('Even', 'events', 'UPDATE', '{"type": "trigger_agent_task", "agent_id": "even", "action": "look",
         "payload": "{{new.version}}", "condition": {"field": "new.version", "op": "gt", "value": 0}}'),
      ('Born', 'events', 'INSERT', '{"type": "trigger_agent_task", "agent_id": "born", "action": "look"}')"#;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_or_down_every_matching_change_leads_to_one_run_in_the_order_of_its_key() {
    let (mut rig, mut receiver) = rig(SCHEMA).await;
    // Parts of large transactions count on where the part before ended.
    settings(&rig, "[apply]\nmax_batch_bytes = \"16KiB\"\n");
    streaming(&mut rig).await;
    rig.pair.source.execute(WORKFLOWS).await.unwrap();
    let seed = seed();
    println!("LOCKSTEP_SEED={seed}");
    let mut chance = Seeded::new(seed);
    let mut expected = 0;
    let rounds = std::env::var("LOCKSTEP_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    receiver.mood(Mood::Answers(503)); // until the first misfortune is over
    for round in 0..rounds {
        write(&rig, round, &mut chance, &mut expected).await;
        if round == 0 {
            until("a try has failed", async || !receiver.hits().is_empty()).await;
        }
        misfortune(&mut rig, &mut receiver, &mut chance).await;
        write(&rig, rounds + round, &mut chance, &mut expected).await;
    }
    if rig.has_ended() || rig.pid().is_none() {
        rig.start();
    }
    receiver.up().await;
    receiver.mood(Mood::Answers(200));
    rig.pair.supabase.faults().clear();
    let count = |state: &'static str| {
        let source = &rig.pair.source;
        async move {
            let sql = format!("select count(*) from lockstep.workflow_run where {state}");
            source.value(&sql).await.unwrap().parse::<i64>().unwrap()
        }
    };
    until("every run is delivered", async || {
        count("state <> 'delivered'").await == 0 && count("true").await >= expected
    })
    .await;
    assert_eq!(count("true").await, expected, "seed {seed}: as many runs as changes\n{}", rig.tail());
    let hits = receiver.hits();
    one_id_and_in_order(&hits, seed);
    let delivered = hits.iter().map(|hit| hit.id.clone()).collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(delivered as i64, expected, "seed {seed}: every run arrived");
    println!("{expected} runs, {} tries", hits.len());
    assert!(hits.len() as i64 > expected, "seed {seed}: nothing was ever tried again");
}

/// One transaction: rows are born and change, now and then a thousand at once.
async fn write(rig: &Rig, round: u64, chance: &mut Seeded, expected: &mut i64) {
    let (from, changes) = (round * 10_000, 1 + chance.below(4) as i64);
    let many = if chance.below(4) == 0 { 600 } else { 6 };
    let mut sql = format!(
        "begin; insert into other (body) select repeat('x', 100) from generate_series(1, 20);
         insert into events select {from} + i, 0 from generate_series(1, {many}) i;"
    );
    for version in 1..=changes {
        sql += &format!("update events set version = {version} where key > {from} and key <= {from} + 3;");
    }
    sql += "commit";
    rig.pair.source.execute(&sql).await.unwrap();
    let more = format!("update events set version = {} where key = {from} + 1", changes + 1);
    rig.pair.source.execute(&more).await.unwrap();
    *expected += many + 3 * changes + 1;
}

async fn misfortune(rig: &mut Rig, receiver: &mut Receiver, chance: &mut Seeded) {
    let pause = std::time::Duration::from_millis(chance.below(400));
    match chance.below(6) {
        0 => receiver.down().await,
        1 => receiver.mood(Mood::Silent),
        2 => receiver.mood(Mood::Answers(500)),
        3 => {
            receiver.up().await;
            receiver.mood(Mood::Answers(200));
        }
        _ => {
            // At whatever it is just now: recording, applying, delivering, noting.
            tokio::time::sleep(pause).await;
            rig.kill9().await;
            rig.start();
        }
    }
    tokio::time::sleep(pause).await;
}

/// Of each run one id; of each workflow and key, versions never go back.
fn one_id_and_in_order(hits: &[Hit], seed: u64) {
    let mut bodies: BTreeMap<&str, Value> = BTreeMap::new();
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for hit in hits {
        let body = hit.json();
        assert_eq!(body["run_id"], hit.id.as_str());
        let known = bodies.entry(&hit.id).or_insert_with(|| body.clone());
        assert_eq!(known, &body, "seed {seed}: one id, one change");
        let key = format!("{} {}", body["workflow"], body["key"]);
        let version = body["new"]["version"].as_i64().unwrap();
        let before = last.insert(key.clone(), version);
        assert!(before.is_none_or(|before| before <= version), "seed {seed}: {key} went from {before:?} to {version}");
    }
    let changes: std::collections::BTreeSet<String> = bodies
        .values()
        .map(|body| format!("{} {} {}", body["workflow"], body["key"], body["new"]["version"]))
        .collect();
    assert_eq!(changes.len(), bodies.len(), "seed {seed}: no change led to two runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_were_recorded_and_not_applied_when_it_was_killed_come_again_and_lead_to_no_second_run() {
    let (mut rig, receiver) = rig(SCHEMA).await;
    streaming(&mut rig).await;
    rig.pair.source.execute(WORKFLOWS).await.unwrap();
    // Supabase is away: what comes is recorded and delivered, and stays to be applied.
    rig.pair.supabase.postgrest.kill9().await;
    rig.pair.source.execute("insert into events select i, 0 from generate_series(1, 900) i").await.unwrap();
    rig.pair.source.execute("update events set version = 1 where key < 11").await.unwrap();
    until("all is delivered", async || receiver.hits().len() == 910).await;
    rig.kill9().await;
    rig.pair.supabase.postgrest.restart().await.unwrap();
    rig.start();
    let target = &rig.pair.supabase.cluster;
    until("all is applied", async || target.value("select sum(version) from events").await.unwrap() == "10").await;
    // One more behind them all: when it is there, everything before it was looked at.
    rig.pair.source.execute("insert into events values (1000, 0)").await.unwrap();
    until("it goes on", async || receiver.hits().iter().any(|hit| hit.json()["key"] == serde_json::json!(["1000"])))
        .await;
    let runs = rig.pair.source.value("select count(*) from lockstep.workflow_run").await.unwrap();
    // What was answered and not noted is delivered again, under the id it had.
    let delivered: std::collections::BTreeSet<String> = receiver.hits().into_iter().map(|hit| hit.id).collect();
    assert_eq!((runs.as_str(), delivered.len()), ("911", 911));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_runs_cannot_be_recorded_the_stream_waits_and_nothing_is_lost() {
    let (mut rig, receiver) = rig(SCHEMA).await;
    streaming(&mut rig).await;
    rig.pair.source.execute(WORKFLOWS).await.unwrap();
    rig.pair.source.execute("insert into events values (1, 0)").await.unwrap();
    // And noted: what is answered and not noted is delivered again.
    until("the first is delivered", async || runs(&rig, "state=delivered").await.len() == 1).await;
    let other = rig.pair.source.connect().await.unwrap();
    other.batch_execute("begin; lock table lockstep.workflow_run in exclusive mode").await.unwrap();
    rig.pair.source.execute("insert into other (body) values ('before')").await.unwrap();
    let target = &rig.pair.supabase.cluster;
    let there = async |sql: &str| target.value(sql).await.unwrap();
    until("others pass", async || there("select count(*) from other").await == "1").await;
    rig.pair
        .source
        .execute("insert into events values (2, 0); insert into other (body) values ('behind')")
        .await
        .unwrap();
    // Longer than a lock is waited for, so that it is tried again.
    let begun = Instant::now();
    until("it says so in the log", async || {
        std::fs::read_to_string(rig.log()).unwrap().contains("cannot be recorded") && begun.elapsed().as_secs() > 6
    })
    .await;
    assert_eq!(there("select count(*) from events").await, "1", "what is not recorded is not applied");
    assert_eq!(there("select count(*) from other").await, "1");
    other.batch_execute("commit").await.unwrap();
    until("all of it comes", async || {
        there("select count(*) from events").await == "2" && there("select count(*) from other").await == "2"
    })
    .await;
    until("and is delivered", async || receiver.hits().len() == 2).await;
    assert_eq!(runs(&rig, "").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_keeps_other_workflows_and_other_keys_from_nothing() {
    let (mut rig, receiver) = rig(SCHEMA).await;
    settings(&rig, "allow = [\"127.0.0.0/8\"]\n");
    streaming(&mut rig).await;
    let silent = Receiver::start().await;
    silent.mood(Mood::Silent);
    let hook = format!(
        r#"insert into supabase_sync_workflows (workflow_name, trigger_table, trigger_event, action_config) values
           ('Hangs', 'events', 'INSERT', '{{"type": "webhook", "url": "{}/x"}}')"#,
        silent.url()
    );
    rig.pair.source.execute(&hook).await.unwrap();
    rig.pair.source.execute(WORKFLOWS).await.unwrap();
    rig.pair.source.execute("insert into events select i, 0 from generate_series(1, 200) i").await.unwrap();
    until("the others are delivered", async || receiver.hits().len() == 200).await;
    assert!(silent.hits().len() < 150, "it had no more than its room: {}", silent.hits().len());
    let (_, list) = ask(&rig, "GET", "/api/workflows", None).await;
    let hangs = list["workflows"].as_array().unwrap().iter().find(|one| one["workflow_name"] == "Hangs").unwrap();
    assert!(hangs["runs"]["waiting"].as_i64().unwrap() > 100, "{hangs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_late_with_an_earlier_place_waits_for_what_is_on_its_way() {
    let (mut rig, receiver) = rig(SCHEMA).await;
    receiver.mood(Mood::Answers(503));
    streaming(&mut rig).await;
    rig.pair.source.execute(WORKFLOWS).await.unwrap();
    rig.pair.source.execute("insert into events values (1, 0)").await.unwrap();
    until("it is tried", async || !receiver.hits().is_empty()).await;
    // As when a replay takes its places, and commits after a change behind it was lined up.
    let late = "insert into lockstep.workflow_run (id, seq, workflow_id, workflow_name, side, table_name, event, key,
            order_key, new_row)
        select gen_random_uuid(), -1, workflow_id, workflow_name, side, table_name, event, key, order_key, new_row
        from lockstep.workflow_run";
    rig.pair.source.execute(late).await.unwrap();
    let head = "select coalesce(head::text, 'unknown') from lockstep.workflow_run where seq = -1";
    until("it was lined up", async || rig.pair.source.value(head).await.unwrap() != "unknown").await;
    assert_eq!(rig.pair.source.value(head).await.unwrap(), "false", "two of one key are on their way");
    receiver.mood(Mood::Answers(200));
    until("both are delivered", async || runs(&rig, "state=delivered").await.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_long_history_lists_stay_quick_and_what_is_old_is_forgotten() {
    let (mut rig, receiver) = rig(SCHEMA).await;
    streaming(&mut rig).await;
    rig.pair.source.execute(WORKFLOWS).await.unwrap();
    // Old, and yet the source may send its change again: a slot has not confirmed it. Places that it has, of another
    // source, and of no source keep none.
    let old = "select pg_create_logical_replication_slot('kept', 'pgoutput');
        insert into lockstep.workflow_run (id, workflow_id, workflow_name, side, table_name, event, key, order_key, state,
           head, finished_at, position)
         select gen_random_uuid(), 'w', 'w', 'source', 't', 'INSERT', '[]', gen_random_uuid(), 'delivered', false,
           now() - interval '1 hour', p
         from unnest(array['0/1+0', pg_current_wal_insert_lsn() || '+7', '7FFFFFFF/0+0', null]) p";
    rig.pair.source.execute(old).await.unwrap();
    let client = rig.pair.source.connect().await.unwrap();
    assert_eq!(lockstep::ledger::workflow_runs::forget(&client, 60, "kept").await, Ok(3));
    rig.pair.source.value("select pg_drop_replication_slot('kept')").await.unwrap();
    assert_eq!(
        lockstep::ledger::workflow_runs::forget(&client, 60, "kept").await,
        Ok(0),
        "nobody knows what will come"
    );
    let many = std::env::var("LOCKSTEP_TEST_RUNS").unwrap_or_else(|_| "100000".into());
    let fill = format!(
        "insert into lockstep.workflow_run (id, workflow_id, workflow_name, side, table_name, event, key, order_key, state,
           head, finished_at, created_at)
         select gen_random_uuid(), w.id::text, w.workflow_name, 'source', 'public.events', 'INSERT', '[\"1\"]',
           gen_random_uuid(), case when i % 1000 = 0 then 'dead' else 'delivered' end, false,
           now() - i % 40 * interval '1 day', now()
         from generate_series(1, {many}) i join supabase_sync_workflows w
           on w.workflow_name = case when i % 50000 = 7 then 'Born' else 'Even' end;
         analyze lockstep.workflow_run"
    );
    rig.pair.source.execute(&fill).await.unwrap();
    let (_, list) = ask(&rig, "GET", "/api/workflows", None).await;
    let rare = list["workflows"].as_array().unwrap().iter().find(|one| one["workflow_name"] == "Born").unwrap();
    let id = rare["id"].as_str().unwrap().to_owned();
    let begun = Instant::now();
    rig.pair.source.value("select count(distinct (id, state, key)) from lockstep.workflow_run").await.unwrap();
    let whole = begun.elapsed();
    for path in [
        "/api/workflows".to_owned(),
        "/api/workflow-runs".to_owned(),
        "/api/workflow-runs?state=dead".to_owned(),
        "/api/workflow-runs?state=waiting".to_owned(),
        format!("/api/workflow-runs?workflow={id}"),
        format!("/api/workflow-runs?workflow={id}&state=dead"),
    ] {
        let begun = Instant::now();
        assert_eq!(ask(&rig, "GET", &path, None).await.0, 200, "{path}");
        println!("{path}: {:?}, all runs: {whole:?}", begun.elapsed());
        assert!(begun.elapsed() < whole, "{path} takes {:?}, reading every run {whole:?}", begun.elapsed());
    }
    // Page by page, each run once.
    let mut seen = std::collections::BTreeSet::new();
    let mut next = String::new();
    for _ in 0..5 {
        let (_, page) = ask(&rig, "GET", &format!("/api/workflow-runs?limit=100&before={next}"), None).await;
        seen.extend(page["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()));
        next = page["next"].as_str().unwrap().to_owned();
    }
    assert_eq!(seen.len(), 500);
    rig.pair.source.execute("insert into events values (1, 0)").await.unwrap();
    until("a new one is delivered at once", async || receiver.hits().len() == 1).await;
    // It looks for old ones once a minute, and when it begins anew.
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'lockstep courier'";
    rig.pair.source.value(cut).await.unwrap();
    until("the oldest are forgotten", async || {
        let sql = "select exists (select from lockstep.workflow_run where finished_at < now() - interval '31 days')";
        rig.pair.source.value(sql).await.unwrap() == "f"
    })
    .await;
}
