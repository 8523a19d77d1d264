//! The laboratory keeps its word: what the other tests stand on is itself tested, on the real thing.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lockstep::lab::{
    Cluster, ClusterOptions, Mishap, Owner, Pair, PairOptions, Stop, Supabase, SupabaseOptions, TcpProxy, logged,
    repeats, runs,
};
use lockstep::types::TableName;
use reqwest::{Client, RequestBuilder, Response, StatusCode};

fn client() -> Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::new()
}

const NOTES: &str = "create table note (id int primary key, body text); alter table note enable row level security;";

async fn project_with_notes(options: SupabaseOptions) -> Supabase {
    let project = Supabase::temp(options).await.unwrap();
    project.execute(NOTES).await.unwrap();
    project
}

fn client_for(project: &Supabase) -> Client {
    client(); // the provider
    let builder = Client::builder();
    match project.ca_pem() {
        Some(pem) => builder.tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes()).unwrap()]).build().unwrap(),
        None => builder.build().unwrap(),
    }
}

async fn status_and_body(request: RequestBuilder) -> (u16, serde_json::Value) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn the_gateway_takes_both_kinds_of_keys_where_supabase_takes_them() {
    let project = project_with_notes(SupabaseOptions::default()).await;
    let client = client();
    let url = format!("{}/rest/v1/note?select=id", project.rest_url());
    let get = |key: &str| client.get(&url).header("apikey", key);

    let (status, body) = status_and_body(client.get(&url)).await;
    assert_eq!((status, body["message"].as_str()), (401, Some("No API key found in request")));
    let (status, body) = status_and_body(get("nonsense")).await;
    assert_eq!((status, body["message"].as_str()), (401, Some("Invalid API key")));
    let (status, body) = status_and_body(client.get(project.rest_url() + "/elsewhere")).await;
    assert_eq!((status, body["message"].as_str()), (404, Some("no Route matched with those values")));

    let insert =
        |key: &str, id: i32| client.post(&url).header("apikey", key).json(&serde_json::json!({"id": id, "body": "x"}));
    for (id, key) in [(1, project.service_key()), (2, project.secret_key())] {
        let answer = insert(key, id).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED, "{}", answer.text().await.unwrap());
        assert_eq!(insert(key, id + 10).bearer_auth(project.service_key()).send().await.unwrap().status(), 201);
    }
    for key in [project.anon_key(), project.publishable_key()] {
        // Row level security without a policy: anon reads nothing and writes nothing.
        assert_eq!(status_and_body(get(key)).await, (200, serde_json::json!([])));
        let (status, body) = status_and_body(insert(key, 3)).await;
        assert_eq!((status, body["code"].as_str()), (401, Some("42501")));
    }
    // What is given as Authorization is passed on, and rules.
    let (_, body) = status_and_body(get(project.anon_key()).bearer_auth(project.service_key())).await;
    assert_eq!(body.as_array().map(Vec::len), Some(4));

    for apikey in [project.service_key(), project.publishable_key()] {
        let (status, body) = status_and_body(get(apikey).bearer_auth(project.secret_key())).await;
        assert_eq!((status, body["message"].as_str()), (401, Some("Invalid API key")));
    }
    let (status, body) = status_and_body(get(project.secret_key()).bearer_auth(project.secret_key())).await;
    assert_eq!((status, body["code"].as_str()), (401, Some("PGRST301")));
}

#[tokio::test]
async fn every_fault_does_what_its_name_says() {
    let project = project_with_notes(SupabaseOptions { tls: true, ..Default::default() }).await;
    let (client, faults) = (client_for(&project), project.faults());
    let url = format!("{}/rest/v1/note", project.rest_url());
    assert!(url.starts_with("https://"));
    let insert = async |id: i32| -> reqwest::Result<Response> {
        let row = serde_json::json!({"id": id, "body": "x".repeat(100)});
        let request =
            client.post(&url).header("apikey", project.secret_key()).header("prefer", "return=representation");
        request.json(&row).send().await
    };
    let there = async |id: i32| project.cluster.value(&format!("select id from note where id = {id}")).await.unwrap();
    let before = faults.counts();

    faults.next(Mishap::RequestLost, 1);
    assert!(insert(1).await.is_err());
    assert_eq!(there(1).await, "");

    faults.next(Mishap::AnswerLost, 1);
    assert!(insert(2).await.is_err());
    assert_eq!(there(2).await, "2");

    faults.next(Mishap::CutMidBody, 1);
    let answer = insert(3).await.unwrap();
    assert_eq!(answer.status(), 201);
    assert!(answer.text().await.is_err());
    assert_eq!(there(3).await, "3");

    faults.next(Mishap::TooMany { retry_after: 7 }, 1);
    let answer = insert(4).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "7"));

    for status in [500, 503, 504] {
        faults.next(Mishap::Status(status), 1);
        let answer = insert(4).await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.json::<serde_json::Value>().await.unwrap().get("code"), None);
    }
    assert_eq!(there(4).await, "");

    faults.next(Mishap::StatusAfter(504), 1);
    assert_eq!(insert(5).await.unwrap().status(), 504);
    assert_eq!(there(5).await, "5");

    faults.next(Mishap::Slow(Duration::from_millis(150)), 1);
    let start = Instant::now();
    assert_eq!(insert(6).await.unwrap().status(), 201);
    assert!(start.elapsed() >= Duration::from_millis(150));

    let counts = faults.counts();
    assert_eq!((counts.injected(), counts.requests - before.requests), (9, 9));
    assert!(counts.bytes_in - before.bytes_in >= 400 && counts.bytes_out > before.bytes_out);
    assert_eq!((counts.answers_lost, counts.statuses, counts.statuses_after), (1, 3, 1));

    faults.aim("rpc/");
    faults.random(Mishap::RequestLost, 1.0, 1);
    assert_eq!(insert(7).await.unwrap().status(), 201);
    faults.clear();

    faults.down().await;
    // The first one may still take a connection that was kept, and find it cut.
    assert!(insert(8).await.is_err());
    assert!(insert(8).await.unwrap_err().is_connect());
    faults.up().await;
    assert_eq!(insert(8).await.unwrap().status(), 201);
    project.postgrest.kill9().await;
    assert_eq!(insert(9).await.unwrap().status(), 502);
    project.postgrest.restart().await.unwrap();
    assert_eq!(insert(9).await.unwrap().status(), 201);
}

#[tokio::test]
async fn the_same_seed_brings_the_same_faults() {
    let project = project_with_notes(SupabaseOptions::default()).await;
    let (client, faults) = (client(), project.faults());
    let url = format!("{}/rest/v1/note?id=eq.0", project.rest_url());
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        faults.random(Mishap::Status(503), 0.5, seed);
        let mut statuses = Vec::new();
        for _ in 0..40 {
            statuses.push(client.get(&url).header("apikey", project.secret_key()).send().await.unwrap().status());
        }
        faults.clear();
        runs.push(statuses);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test]
async fn a_cluster_comes_back_with_its_data_on_the_same_port_after_every_kind_of_end() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    cluster.execute("create table t (id int primary key)").await.unwrap();
    let (url, mut pid) = (cluster.url("postgres"), cluster.pid().await);
    for (row, end) in ["fast", "immediate", "kill -9"].into_iter().enumerate() {
        cluster.execute(&format!("insert into t values ({row})")).await.unwrap();
        match end {
            "fast" => cluster.stop(Stop::Fast).await.unwrap(),
            "immediate" => cluster.stop(Stop::Immediate).await.unwrap(),
            _ => cluster.kill9().await,
        }
        assert!(cluster.connect().await.is_err(), "still answers after {end}");
        cluster.start().await.unwrap();
        assert_ne!(cluster.pid().await, pid);
        pid = cluster.pid().await;
        assert_eq!(cluster.value("select count(*) from t").await.unwrap(), (row + 1).to_string());
    }
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(client.query_one("show wal_level", &[]).await.unwrap().get::<_, String>(0), "logical");
    let wrong = cluster.url_as("postgres", "wrong", "postgres");
    let error = tokio_postgres::connect(&wrong, tokio_postgres::NoTls).await.err().unwrap();
    assert_eq!(error.code().map(|code| code.code()), Some("28P01"));
}

#[tokio::test]
async fn a_project_in_a_folder_is_the_same_one_next_time() {
    let temp = lockstep::lab::Temp::new("again").unwrap();
    let first = Supabase::open(temp.path(), SupabaseOptions::default()).await.unwrap();
    first.execute(NOTES).await.unwrap();
    let before =
        (first.rest_url(), first.database_url(), first.secret_key().to_owned(), first.service_key().to_owned());
    drop(first);
    let second = Supabase::open(temp.path(), SupabaseOptions::default()).await.unwrap();
    let after =
        (second.rest_url(), second.database_url(), second.secret_key().to_owned(), second.service_key().to_owned());
    assert_eq!(before, after);
    assert_eq!(second.cluster.value("select count(*) from note").await.unwrap(), "0");
}

#[tokio::test]
async fn the_owner_may_suppress_triggers_only_if_it_is_allowed_to() {
    for (owner, may) in [(Owner::Plain, false), (Owner::SetReplicationRole, true), (Owner::Superuser, true)] {
        let project = Supabase::temp(SupabaseOptions { owner, ..Default::default() }).await.unwrap();
        let client = project.connect_owner().await.unwrap();
        let set = client.batch_execute("set session_replication_role = replica").await;
        assert_eq!(set.is_ok(), may, "{owner:?}: {set:?}");
    }
}

#[tokio::test]
async fn the_proxy_cuts_refuses_and_stalls() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let proxy = TcpProxy::start(cluster.port()).await.unwrap();
    let url = proxy.url(&cluster, "postgres");
    let connect = async || {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok::<_, tokio_postgres::Error>(client)
    };
    let client = connect().await.unwrap();
    client.batch_execute("select 1").await.unwrap();

    proxy.stall();
    let mut asked = Box::pin(client.batch_execute("select 1"));
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut asked).await.is_err());
    proxy.resume();
    asked.await.unwrap();

    proxy.cut();
    assert!(client.batch_execute("select 1").await.is_err());
    let client = connect().await.unwrap();
    proxy.refuse();
    assert!(client.batch_execute("select 1").await.is_err());
    assert!(connect().await.is_err());
    proxy.resume();
    connect().await.unwrap().batch_execute("select 1").await.unwrap();
    assert!(proxy.bytes() > 0);
}

#[tokio::test]
async fn a_pair_names_every_difference_and_the_log_names_what_came_twice() {
    let pair = Pair::temp(PairOptions::default()).await.unwrap();
    let tables = [TableName::new("public", "T o"), TableName::new("public", "keyless")];
    let make = r#"create table "T o" (a int, "B" text, v jsonb, n numeric, t timestamptz, c text[], primary key ("B", a));
        create table keyless (x text);"#;
    pair.execute(make).await.unwrap();
    pair.log_changes(&tables).await.unwrap();
    let rows = r#"insert into "T o" select i, 'k' || i, '{"a": 1}', i / 3.0, 'epoch', array['x', null, '']
          from generate_series(1, 1000) i;
        insert into keyless values ('a'), ('a'), (null)"#;
    pair.execute(rows).await.unwrap();
    assert_eq!(pair.differences(&tables).await.unwrap(), Vec::<String>::new());

    pair.supabase
        .execute(
            r#"update "T o" set n = 1.0 where a = 3; update "T o" set c = array['x', '', ''] where a = 4;
            delete from "T o" where a = 5; insert into "T o" values (0, 'new'); update keyless set x = '' where x is null;"#,
        )
        .await
        .unwrap();
    let found = pair.differences(&tables).await.unwrap();
    let expected = [
        r#"public.T o {k3,3}: n: `1.00000000000000000000` -> `1.0`"#,
        r#"public.T o {k4,4}: c: `{x,NULL,""}` -> `{x,"",""}`"#,
        r#"public.T o {k5,5}: missing in the target: a=`5` B=`k5`"#,
        r#"public.T o {new,0}: only in the target: a=`0` B=`new` v=null"#,
        r#"public.keyless {"": only in the target"#,
        r#"public.keyless {NULL}: missing in the target: x=null"#,
    ];
    for (line, part) in found.iter().zip(&expected) {
        assert!(line.starts_with(&part.replace(r#"{"":"#, r#"{""}:"#)), "{line}\n{part}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");

    let target = pair.supabase.cluster.connect().await.unwrap();
    assert_eq!(repeats(&target).await.unwrap(), Vec::<String>::new());
    let log = logged(&target).await.unwrap();
    assert_eq!(log.len(), 1003 + 5);
    let deleted = log.iter().find(|change| change.op == "DELETE").unwrap();
    assert_eq!((&deleted.table, deleted.key.as_str()), (&tables[0], r#"["k5", 5]"#));
    pair.supabase
        .cluster
        .execute(r#"set session_replication_role = replica; update "T o" set a = a where a = 7"#)
        .await
        .unwrap();
    assert_eq!(repeats(&target).await.unwrap().len(), 1);
}

#[test]
fn nothing_is_left_running_after_kill_9() {
    let this = std::env::current_exe().unwrap();
    let mut victim = Command::new(this)
        .args(["--exact", "the_victim_of_the_test_above", "--ignored", "--nocapture"])
        .env("LOCKSTEP_LAB_VICTIM", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pids = lines.filter_map(|line| Some(line.split_once("pids:")?.1.to_owned())).next().unwrap();
    let pids: Vec<u32> = pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3);
    let alive = || pids.iter().filter(|&&pid| runs(pid)).count();
    assert_eq!(alive(), 3);
    victim.kill().unwrap();
    victim.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while alive() > 0 {
        assert!(Instant::now() < deadline, "{} of {pids:?} live on", alive());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
#[ignore = "only another test runs it, in a process that it then kills"]
async fn the_victim_of_the_test_above() {
    assert!(std::env::var_os("LOCKSTEP_LAB_VICTIM").is_some(), "not on its own");
    let pair = Pair::temp(PairOptions::default()).await.unwrap();
    let supabase = &pair.supabase;
    let pids = (pair.source.pid().await, supabase.cluster.pid().await, supabase.postgrest.pid().await);
    println!("pids: {} {} {}", pids.0.unwrap(), pids.1.unwrap(), pids.2.unwrap());
    std::future::pending::<()>().await;
}
