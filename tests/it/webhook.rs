//! The way in for Supabase's webhooks: what it starts, and what it refuses.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::rig::{Rig, until};
use super::workflows::{AGENTS, rig, runs, settings, streaming};

const SECRET: &str = "0123456789abcdef-webhook";

const WORKFLOW: &str = r#"insert into supabase_sync_workflows (workflow_name, trigger_table, trigger_event, action_config) values
    ('From there', 'agents', 'INSERT', '{"type": "trigger_agent_task", "side": "target", "agent_id": "a", "action": "{{new.name}}"}'),
    ('Only theirs', 'profiles', 'DELETE', '{"type": "notify", "side": "target", "channel": "c"}')"#;

fn inserted(name: &str) -> Value {
    json!({"type": "INSERT", "table": "agents", "schema": "public", "record": {"id": 7, "name": name}, "old_record": null})
}

async fn knock(rig: &Rig, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let mut request = rig.web.post(format!("http://127.0.0.1:{}/webhooks/supabase", rig.http)).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_with_the_secret_starts_workflows_of_its_side_once_and_anything_else_is_refused() {
    let (mut rig, receiver) = rig(AGENTS).await;
    rig.env.push(("LOCKSTEP_WEBHOOK_SECRET".into(), SECRET.into()));
    settings(&rig, "[webhook]\nmax_bytes = \"64KiB\"\n");
    streaming(&mut rig).await;
    rig.pair.source.execute(WORKFLOW).await.unwrap();
    let good = [("x-lockstep-secret", SECRET)];
    // As VACUUM FULL holds it: neither the way in nor the courier needs a published table itself.
    let held = rig.pair.source.connect().await.unwrap();
    held.batch_execute("begin; lock table tasks in access exclusive mode").await.unwrap();
    let (status, answer) = knock(&rig, &good, &inserted("greet").to_string()).await;
    assert_eq!((status, answer), (200, json!({"runs": 1, "duplicates": 0})));
    let (status, answer) = knock(&rig, &good, &inserted("greet").to_string()).await;
    assert_eq!((status, answer), (200, json!({"runs": 0, "duplicates": 1})), "the same again");
    // With ids of their own, two that look the same are two.
    for (id, expected) in [("d1", 1), ("d2", 1), ("d1", 0)] {
        let named = [("x-lockstep-secret", SECRET), ("webhook-id", id)];
        let (_, answer) = knock(&rig, &named, &inserted("greet").to_string()).await;
        assert_eq!(answer["runs"], expected, "{id}");
    }
    let theirs = json!({"type": "DELETE", "table": "profiles", "record": null, "old_record": {"id": 1}});
    assert_eq!(knock(&rig, &good, &theirs.to_string()).await.1["runs"], 1);
    until("they are delivered", async || receiver.hits().len() == 3 && runs(&rig, "state=delivered").await.len() == 4)
        .await;
    assert_eq!(receiver.hits()[0].json()["action"], "greet");
    held.batch_execute("rollback").await.unwrap();

    for headers in [vec![], vec![("x-lockstep-secret", "0123456789abcdef-webhooK")], vec![("x-lockstep-secret", "")]] {
        assert_eq!(knock(&rig, &headers, &inserted("evil").to_string()).await.0, 401, "{headers:?}");
    }
    // Of a body whose sender does not know the secret nothing is waited for.
    let mut stream = TcpStream::connect(("127.0.0.1", rig.http)).await.unwrap();
    let head = "POST /webhooks/supabase HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 401");
    let refused = [
        ("{", 400, "body"),
        ("[]", 400, "body"),
        ("null", 400, "body"),
        (r#"{"table": "agents"}"#, 400, "type"),
        (r#"{"type": "TRUNCATE", "table": "agents"}"#, 400, "type"),
        (r#"{"type": 7, "table": "agents"}"#, 400, "type"),
        (r#"{"type": "INSERT"}"#, 400, "table"),
        (r#"{"type": "INSERT", "table": ["agents"], "record": {}}"#, 400, "table"),
        (r#"{"type": "INSERT", "table": "agents"}"#, 400, "record"),
        (r#"{"type": "INSERT", "table": "agents", "record": [1]}"#, 400, "record"),
        (r#"{"type": "INSERT", "table": "agents", "record": {"name": "\u0000"}}"#, 400, "record"),
        (r#"{"type": "INSERT", "table": "agents", "record": {}, "old_record": {}}"#, 400, "old_record"),
        (r#"{"type": "DELETE", "table": "agents", "record": {}}"#, 400, "record"),
        (r#"{"type": "INSERT", "table": "agents", "schema": 1, "record": {}}"#, 400, "schema"),
    ];
    for (body, expected, field) in refused {
        let (status, answer) = knock(&rig, &good, body).await;
        assert_eq!((status, answer["field"].as_str()), (expected, Some(field)), "{body}: {answer}");
    }
    for table in ["nothing", "agents; drop table agents", "\"'<script>alert(1)</script>", "pg_catalog.pg_class"] {
        let body = json!({"type": "INSERT", "table": table, "record": {"id": 1}});
        assert_eq!(knock(&rig, &good, &body.to_string()).await.0, 404, "{table}");
    }
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    assert_eq!(knock(&rig, &good, &deep).await.0, 400);
    assert_eq!(knock(&rig, &good, &" ".repeat(100_000)).await.0, 413);
    // Names and values of any kind are only values.
    let odd = inserted("'; drop table agents; --<img src=x onerror=alert(1)>");
    assert_eq!(knock(&rig, &good, &odd.to_string()).await.1["runs"], 1);
    until("that is delivered too", async || receiver.hits().len() == 4).await;
    assert_eq!(rig.pair.source.value("select count(*) from agents").await.unwrap(), "0");
    assert_eq!(runs(&rig, "").await.len(), 5, "nothing that was refused started anything");
    let log = std::fs::read_to_string(rig.log()).unwrap();
    assert!(!log.contains(SECRET), "the log shows the secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_secret_only_this_host_may_call_and_nobody_may_be_slow_or_many() {
    let (mut rig, _receiver) = rig(AGENTS).await;
    settings(&rig, "[webhook]\nper_second = 20\n");
    streaming(&mut rig).await;
    rig.pair.source.execute(WORKFLOW).await.unwrap();
    assert_eq!(knock(&rig, &[], &inserted("a").to_string()).await.0, 200);
    let elsewhere = [
        ("host", "evil.example"),
        ("origin", "https://evil.example"),
        ("x-forwarded-for", "9.9.9.9"),
        ("forwarded", "for=9.9.9.9"),
    ];
    for header in elsewhere {
        assert_eq!(knock(&rig, &[header], &inserted("b").to_string()).await.0, 403, "{header:?}");
    }
    // A body that comes a byte at a time.
    let mut stream = TcpStream::connect(("127.0.0.1", rig.http)).await.unwrap();
    let head = "POST /webhooks/supabase HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let begun = Instant::now();
    let (mut read, mut write) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(20), read.read_to_string(&mut answer)).await.unwrap().ok();
    dripping.abort();
    assert!(answer.contains("connection: close"), "what comes late is not taken for a request: {answer}");
    assert!(answer.starts_with("HTTP/1.1 408") && begun.elapsed() < Duration::from_secs(10), "{answer}");
    // Many at a time: some are asked to come back, and the window answers all the while.
    let knocks: Vec<_> = (0..80).map(|n| inserted(&format!("n{n}")).to_string()).collect();
    let statuses = futures_util::future::join_all(knocks.iter().map(|body| knock(&rig, &[], body))).await;
    let count = |wanted: u16| statuses.iter().filter(|(status, _)| *status == wanted).count();
    assert!(count(200) >= 20 && count(429) > 0, "{} taken, {} sent away", count(200), count(429));
    assert_eq!(count(200) + count(429), 80);
    assert!(rig.status().await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_triggers_tell_of_changes_in_supabase() {
    let (mut rig, _receiver) = rig(AGENTS).await;
    rig.env.push(("LOCKSTEP_WEBHOOK_SECRET".into(), SECRET.into()));
    let url = "https://lockstep.example.com";
    let print = ["setup", "webhooks", "--print", "--url", url, "--table", "agents"];
    let (code, sql, error) = rig.verb(&print).await;
    assert_eq!(code, Some(0), "{error}");
    // In place of pg_net: a function of the same name that writes down what it is asked to post.
    let net = "create schema net; create table net.posted (url text, body jsonb, headers jsonb);
        create function net.http_post(url text, body jsonb, params jsonb default '{}', headers jsonb default '{}',
            timeout_milliseconds int default 1000) returns bigint language sql as
          $$ insert into net.posted values ($1, $2, $4); select 1::bigint $$";
    let target = &rig.pair.supabase.cluster;
    target.execute(net).await.unwrap();
    let here = sql.replace("create extension if not exists pg_net;", "");
    target.execute(&here).await.unwrap();
    target.execute(&here).await.unwrap();
    target
        .execute("insert into agents (id, name) values (1, 'Ann'); update agents set name = 'Bo'; delete from agents")
        .await
        .unwrap();
    let posted = target.rows("select url, body, headers from net.posted order by body->>'type'").await.unwrap();
    assert_eq!(posted.len(), 3);
    let cell = |row: usize, at: usize| posted[row][at].clone().unwrap();
    assert_eq!(cell(0, 0), format!("{url}/webhooks/supabase"));
    let insert: Value = serde_json::from_str(&cell(1, 1)).unwrap();
    assert_eq!((&insert["type"], &insert["record"]["name"]), (&json!("INSERT"), &json!("Ann")));
    let headers: Value = serde_json::from_str(&cell(1, 2)).unwrap();
    assert_eq!(headers["x-lockstep-secret"], SECRET);
    // What Lockstep writes itself is no news to it, row by row through the tables too.
    rig.env.push(("LOCKSTEP_APPLY".into(), "tables".into()));
    streaming(&mut rig).await;
    rig.pair.source.execute("insert into agents (id, name) values (2, 'Cy')").await.unwrap();
    let target = &rig.pair.supabase.cluster;
    until("it is there", async || target.value("select count(*) from agents").await.unwrap() == "1").await;
    assert_eq!(target.value("select count(*) from net.posted").await.unwrap(), "3");
    // By Lockstep's role, that is: its header alone can be sent by anybody who has a key of the API.
    for (role, id, told) in [("service_role", 3, "3"), ("authenticated", 4, "4"), ("anon", 5, "5")] {
        let sql = format!(
            "begin; set local role {role}; set local request.headers = '{{\"x-lockstep\": \"applying\"}}';
             insert into agents (id, name) values ({id}, 'Di'); commit"
        );
        target.execute(&sql).await.unwrap();
        assert_eq!(target.value("select count(*) from net.posted").await.unwrap(), told, "{role}");
    }
    // What they send is what we take.
    rig.pair.source.execute(WORKFLOW).await.unwrap();
    let sent =
        [("x-lockstep-secret", SECRET), ("x-lockstep-delivery", headers["x-lockstep-delivery"].as_str().unwrap())];
    assert_eq!(knock(&rig, &sent, &cell(1, 1)).await.1["runs"], 1);
    assert_eq!(knock(&rig, &sent, &cell(1, 1)).await.1["duplicates"], 1);
    let (code, gone, _) = rig.verb(&["setup", "webhooks", "--print", "--remove", "--table", "agents"]).await;
    assert_eq!(code, Some(0));
    target.execute(&gone).await.unwrap();
    rig.env.clear();
    let (code, _, error) = rig.verb(&print).await;
    assert!(code == Some(2) && error.contains("LOCKSTEP_WEBHOOK_SECRET"), "{error}");
}
