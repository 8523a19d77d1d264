//! Workflows, from the row that is written to the answer that is on record.

use serde_json::{Value, json};

use super::receiver::{Mood, Receiver};
use super::rig::{Rig, says_nothing_of_a_journal, until};

pub const AGENTS: &str = "
    create table agents (id int primary key, agent_id varchar(255), name varchar(255) not null, status text default 'idle',
        skills text[], metadata jsonb default '{}');
    create table tasks (id int primary key, agent int, body text);
";

const EXAMPLE: &str = r#"insert into supabase_sync_workflows (workflow_name, trigger_table, trigger_event, action_config)
    values ('Process New Agents', 'agents', 'INSERT',
      '{"type": "trigger_agent_task", "agent_id": "central_orchestrator", "action": "onboard_new_agent"}');"#;

/// With workflows, and an agent API.
pub async fn rig(sql: &str) -> (Rig, Receiver) {
    let mut rig = Rig::new(sql).await;
    let receiver = Receiver::start().await;
    rig.env.retain(|(name, _)| name != "LOCKSTEP_WORKFLOWS");
    rig.env.push(("LOCKSTEP_AGENT_API_URL".into(), receiver.url()));
    // Quick to try again, and quick to give a silent receiver up.
    settings(&rig, "");
    (rig, receiver)
}

pub fn settings(rig: &Rig, more: &str) {
    let quick = "[workflows]\ntimeout = \"1s\"\nfirst_wait = \"100ms\"\nmax_wait = \"1s\"\nattempts = 1000\nper_second = 1000\n";
    std::fs::write(rig.dir.path().join("lockstep.toml"), format!("{quick}{more}")).unwrap();
}

pub async fn streaming(rig: &mut Rig) {
    rig.start();
    rig.streams().await;
}

/// Asks the API: status and answer.
pub async fn ask(rig: &Rig, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let url = format!("http://127.0.0.1:{}{path}", rig.http);
    let mut request = rig.web.request(method.parse().unwrap(), url);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

pub async fn runs(rig: &Rig, query: &str) -> Vec<Value> {
    let (_, answer) = ask(rig, "GET", &format!("/api/workflow-runs?{query}"), None).await;
    answer["runs"].as_array().cloned().unwrap_or_default()
}

async fn delivered(rig: &Rig, many: usize) -> Vec<Value> {
    until(&format!("{many} runs are delivered"), async || runs(rig, "state=delivered").await.len() >= many).await;
    runs(rig, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workflow_of_the_mission_calls_the_agents_api_and_the_answer_is_on_record() {
    let (mut rig, receiver) = rig(AGENTS).await;
    rig.env.push(("LOCKSTEP_AGENT_API_TOKEN".into(), "agents-only".into()));
    rig.env.retain(|(name, _)| name != "LOCKSTEP_ACTIVITY");
    rig.pair
        .source
        .execute("insert into agents select i, 'a' || i, 'old' from generate_series(1, 24) i")
        .await
        .unwrap();
    streaming(&mut rig).await;
    // One script: the workflow counts for what commits behind it, and at once.
    let agent = r#"insert into agents values (25, 'agent-25', 'Ann "A"', 'idle', '{rust,"a b"}', '{"region": "eu"}')"#;
    rig.pair.source.execute(EXAMPLE).await.unwrap();
    // As a route writes it that brings changes from the other side.
    let mark = match rig.by_journal() {
        true => "lockstep.journal_mark('from_supabase')",
        false => "pg_logical_emit_message(true, 'lockstep', 'from_supabase')",
    };
    let echo = format!("begin; select {mark}; insert into agents (id, name) values (26, 'Bo'); commit");
    rig.pair.source.execute(&echo).await.unwrap();
    rig.pair.source.execute(agent).await.unwrap();
    rig.pair.source.execute("update agents set status = 'busy'").await.unwrap();
    let all = delivered(&rig, 1).await;
    assert_eq!(all.len(), 1, "neither the first copy nor an echo nor an update is an insert: {all:?}");
    let (run, hits) = (&all[0], receiver.hits());
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].path, "/agents/central_orchestrator/tasks");
    assert_eq!(hits[0].authorization, "Bearer agents-only");
    assert_eq!(run["id"], hits[0].id.as_str());
    let body = hits[0].json();
    assert_eq!((&body["agent_id"], &body["action"]), (&json!("central_orchestrator"), &json!("onboard_new_agent")));
    assert_eq!(
        body["new"],
        json!({"id": 25, "agent_id": "agent-25", "name": "Ann \"A\"", "status": "idle", "skills": ["rust", "a b"],
               "metadata": {"region": "eu"}})
    );
    assert_eq!((&run["state"], &run["status_code"], &run["key"]), (&json!("delivered"), &json!(200), &json!(["25"])));
    let (_, detail) = ask(&rig, "GET", &format!("/api/workflow-runs/{}", hits[0].id), None).await;
    assert_eq!(detail["answer"], r#"{"accepted":true,"api_key":"(hidden)"}"#);
    let shown = detail.to_string();
    assert!(
        !shown.contains("agents-only") && detail["request"]["headers"]["webhook-id"] == hits[0].id.as_str(),
        "{shown}"
    );
    let (_, list) = ask(&rig, "GET", "/api/workflows", None).await;
    let workflow = &list["workflows"][0];
    assert_eq!(workflow["problem"], Value::Null, "{workflow}");
    assert_eq!(workflow["runs"], json!({"delivered": 1, "waiting": 0, "dead": 0}));
    assert_eq!(workflow["last_run"]["id"], run["id"]);
    let (code, out, error) = rig.verb(&["workflow", "list"]).await;
    assert!(code == Some(0) && out.contains("Process New Agents") && out.contains("INSERT agents"), "{out}{error}");
    let (code, out, _) = rig.verb(&["workflow", "runs", "--json"]).await;
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &out["runs"][0]["id"]), (Some(0), &run["id"]));
    assert!(rig.metric("lockstep_workflow_tries_total{result=\"delivered\"}").await >= 1.0);
    // Whatever instant somebody wrote into it, it is read.
    rig.pair.source.execute("update supabase_sync_workflows set created_at = '-infinity'").await.unwrap();
    rig.pair.source.execute("insert into agents (id, name) values (27, 'Cy')").await.unwrap();
    delivered(&rig, 2).await;
    // What plain SQL changes stands in the time line.
    for (sql, line) in [
        ("update supabase_sync_workflows set enabled = false", "workflow Process New Agents: is off"),
        ("delete from supabase_sync_workflows", "workflow Process New Agents: is deleted"),
    ] {
        rig.pair.source.execute(sql).await.unwrap();
        let told = async || ask(&rig, "GET", "/api/activity?kind=workflow", None).await.1.to_string();
        until(line, async || told().await.contains(line)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_an_earlier_system_made_with_text_columns_is_adopted_and_what_cannot_run_says_why() {
    let (mut rig, receiver) = rig(AGENTS).await;
    let old = r#"create table supabase_sync_workflows (id text primary key, workflow_name text, trigger_table text,
            trigger_event text, action_config text, enabled text, created_at text, note text default 'mine');
        insert into supabase_sync_workflows values
            ('w1', 'Greet', 'public.agents', 'insert', '{"type": "trigger_agent_task", "agent_id": "a", "action": "b"}', 't', 'x'),
            ('w2', 'Broken', 'agents', 'INSERT', '{not json', 'true', null),
            ('w3', 'Off', 'agents', 'INSERT', '{"type": "notify", "channel": "c"}', 'false', null),
            ('w4', 'Nowhere', 'nothing', 'INSERT', '{"type": "notify", "channel": "c"}', 'true', null),
            ('w5', 'Left out', 'notes', 'INSERT', '{"type": "notify", "channel": "c"}', 'true', null);
        create table notes (body text)"#;
    rig.pair.source.execute(old).await.unwrap();
    streaming(&mut rig).await;
    rig.pair.source.execute("insert into agents (id, name) values (1, 'Ann')").await.unwrap();
    assert_eq!(delivered(&rig, 1).await.len(), 1);
    assert_eq!(receiver.hits()[0].path, "/agents/a/tasks");
    let (_, list) = ask(&rig, "GET", "/api/workflows", None).await;
    let problem = |id: &str| {
        let one = list["workflows"].as_array().unwrap().iter().find(|one| one["id"] == id).unwrap();
        one["problem"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(problem("w1"), "");
    assert!(problem("w2").contains("action_config"), "{}", problem("w2"));
    assert!(problem("w4").contains("no table public.nothing"), "{}", problem("w4"));
    // Without a key it is not replicated, so nothing would ever tell of its changes.
    assert!(problem("w5").contains("not replicated"), "{}", problem("w5"));
    until("three are counted", async || rig.metric("lockstep_workflows_unfit").await == 3.0).await;
    let mut draft = json!({"workflow_name": "New", "trigger_table": "notes", "trigger_event": "INSERT",
        "action_config": {"type": "notify", "channel": "c"}});
    let (status, refusal) = ask(&rig, "POST", "/api/workflows", Some(draft.clone())).await;
    assert_eq!((status, refusal["field"].as_str()), (400, Some("trigger_table")), "{refusal}");
    (draft["trigger_table"], draft["trigger_event"]) = (json!("agents"), json!("DELETE"));
    let (status, made) = ask(&rig, "POST", "/api/workflows", Some(draft)).await;
    assert_eq!((status, made["enabled"].as_bool()), (201, Some(true)), "{made}");
    let id = made["id"].as_str().unwrap();
    let note = format!("select note || ' ' || enabled from supabase_sync_workflows where id = '{id}'");
    assert_eq!(rig.pair.source.value(&note).await.unwrap(), "mine true");
    let (status, off) = ask(&rig, "POST", &format!("/api/workflows/{id}/disable"), None).await;
    assert_eq!((status, off["enabled"].as_bool()), (200, Some(false)));
    assert_eq!(ask(&rig, "DELETE", &format!("/api/workflows/{id}"), None).await.0, 200);
    assert_eq!(ask(&rig, "DELETE", &format!("/api/workflows/{id}"), None).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_watched_columns_and_templates_decide_and_a_missing_field_is_a_dead_run() {
    if says_nothing_of_a_journal("of the row of before it tells the key only") {
        return;
    }
    let (mut rig, receiver) = rig(AGENTS).await;
    rig.pair.source.execute("alter table agents replica identity full").await.unwrap();
    settings(&rig, "allow = [\"127.0.0.1\"]\n");
    streaming(&mut rig).await;
    let hook = format!("{}/hook/{{{{new.id}}}}", receiver.url());
    let draft = json!({"workflow_name": "Failed", "trigger_table": "agents", "trigger_event": "UPDATE",
        "watched_columns": ["status"], "condition": {"field": "new.status", "op": "eq", "value": "failed"},
        "action_config": {"type": "webhook", "url": hook, "headers": {"authorization": "Bearer s3cret-of-mine"},
            "body": {"text": "{{new.name}} was {{old.status}}", "id": "{{new.id}}"}}});
    let (status, made) = ask(&rig, "POST", "/api/workflows", Some(draft.clone())).await;
    assert_eq!(status, 201, "{made}");
    // Who may look sees no login; what was shown can be sent back, and says what it said.
    assert_eq!(made["action_config"]["headers"]["authorization"], "(hidden)");
    let path = format!("/api/workflows/{}", made["id"].as_str().unwrap());
    let (status, again) = ask(&rig, "PUT", &path, Some(made.clone())).await;
    assert_eq!((status, &again["action_config"]), (200, &made["action_config"]), "{again}");
    let (status, refusal) = ask(&rig, "POST", "/api/workflows", Some(made.clone())).await;
    assert_eq!((status, refusal["field"].as_str()), (400, Some("action_config")), "{refusal}");
    // The other one asks for what a row does not tell.
    let odd = r#"insert into supabase_sync_workflows (workflow_name, trigger_table, trigger_event, action_config) values
        ('Odd', 'agents', 'DELETE', '{"type": "trigger_agent_task", "agent_id": "{{new.id}}", "action": "x"}')"#;
    rig.pair.source.execute(odd).await.unwrap();
    let sql = "insert into agents (id, name) values (1, 'Ann'), (2, 'Bo');
        update agents set name = 'Anna' where id = 1; update agents set status = 'busy';
        update agents set status = 'failed' where id = 1; update agents set name = 'x' where id = 1;
        delete from agents where id = 2";
    rig.pair.source.execute(sql).await.unwrap();
    delivered(&rig, 1).await;
    until("the odd one is dead", async || runs(&rig, "state=dead").await.len() == 1).await;
    let hits = receiver.hits();
    assert_eq!((hits.len(), hits[0].path.as_str()), (1, "/hook/1"));
    assert_eq!(hits[0].json(), json!({"text": "Anna was busy", "id": 1}));
    assert_eq!(hits[0].authorization, "Bearer s3cret-of-mine");
    let dead = &runs(&rig, "state=dead").await[0];
    assert!(dead["error"].as_str().unwrap().contains("new.id"), "{dead}");
    let done = &runs(&rig, "state=delivered").await[0];
    let (_, detail) = ask(&rig, "GET", &format!("/api/workflow-runs/{}", done["id"].as_str().unwrap()), None).await;
    assert!(!detail.to_string().contains("s3cret-of-mine"), "{detail}");

    // Tried on the newest change, and not sent.
    let (status, dry) = ask(&rig, "POST", "/api/workflows/dry-run", Some(draft.clone())).await;
    assert_eq!((status, dry["matches"].as_bool()), (200, Some(true)), "{dry}");
    assert_eq!(dry["request"]["url"], format!("{}/hook/1", receiver.url()));
    assert_eq!(receiver.hits().len(), 1);
    let mut wrong = draft;
    wrong["condition"]["op"] = json!("like");
    let (status, refusal) = ask(&rig, "POST", "/api/workflows", Some(wrong)).await;
    assert_eq!((status, refusal["field"].as_str()), (400, Some("condition.op")), "{refusal}");
    // Sent for real, at a push.
    let id = made["id"].as_str().unwrap();
    let (_, test) = ask(&rig, "POST", &format!("/api/workflows/{id}/test"), None).await;
    let path = format!("/api/workflow-runs/{}", test["run"].as_str().unwrap());
    until("the test is delivered", async || ask(&rig, "GET", &path, None).await.1["state"] == "delivered").await;
    assert_eq!(receiver.hits().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_run_is_replayed_under_its_id_signed_by_both_secrets_and_in_the_order_of_its_key() {
    let (mut rig, receiver) = rig(AGENTS).await;
    let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_cGxKM25teUNER0JLSW5hdmRPSzE1anNsLS0t"];
    rig.env.push(("LOCKSTEP_SIGNING_SECRET".into(), secrets[0].into()));
    rig.env.push(("LOCKSTEP_SIGNING_SECRET_BEFORE".into(), secrets[1].into()));
    streaming(&mut rig).await;
    rig.pair.source.execute(EXAMPLE).await.unwrap();
    receiver.mood(Mood::Answers(422));
    rig.pair.source.execute("insert into agents (id, name) values (1, 'Ann')").await.unwrap();
    until("it is dead", async || runs(&rig, "state=dead").await.len() == 1).await;
    assert_eq!(receiver.hits().len(), 1, "an answer that will not change is not asked for again");
    receiver.mood(Mood::Answers(200));
    let id = runs(&rig, "state=dead").await[0]["id"].as_str().unwrap().to_owned();
    let (code, out, error) = rig.verb(&["workflow", "replay", &id]).await;
    assert_eq!((code, out.trim()), (Some(0), "1 will be delivered again"), "{error}");
    delivered(&rig, 1).await;
    let hits = receiver.hits();
    assert_eq!((hits.len(), &hits[0].id, &hits[1].id), (2, &id, &id));
    for hit in &hits {
        let signatures: Vec<&str> = hit.signature.split(' ').collect();
        assert_eq!(signatures, secrets.map(|secret| signed(secret, hit)), "{hit:?}");
    }
    let (status, refusal) = ask(&rig, "POST", "/api/workflow-runs/replay", Some(json!({}))).await;
    assert_eq!((status, refusal["field"].as_str()), (400, Some("ids")));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_first_copy_fire_when_it_is_asked_for_each_once_a_round_and_too_many_fire_none() {
    let (mut rig, receiver) = rig(AGENTS).await;
    let fill = "insert into agents select i, 'a' || i, 'old', case when i % 2 = 0 then 'busy' end \
                from generate_series(1, 24) i; insert into tasks select i from generate_series(1, 10001) i";
    rig.pair.source.execute(fill).await.unwrap();
    streaming(&mut rig).await;
    let draft = |table: &str| {
        json!({"workflow_name": table, "trigger_table": table, "trigger_event": "INSERT",
            "action_config": {"type": "trigger_agent_task", "agent_id": "a", "action": "b"}})
    };
    let mut busy = draft("agents");
    busy["condition"] = json!({"field": "new.status", "op": "eq", "value": "busy"});
    let id = ask(&rig, "POST", "/api/workflows", Some(busy)).await.1["id"].as_str().unwrap().to_owned();
    let fire = format!("/api/workflows/{id}/fire");
    assert_eq!(ask(&rig, "POST", &fire, None).await, (200, json!({"rows": 12, "runs": 12})));
    assert_eq!(ask(&rig, "POST", &fire, None).await, (200, json!({"rows": 12, "runs": 0})), "none to two");
    delivered(&rig, 12).await;
    assert_eq!(receiver.hits()[0].json()["new"]["status"], "busy");
    // Rows that a repair brought, by their keys; one of them does not fit, one is not there.
    let some = json!({"keys": [["2"], ["3"], ["99"]], "round": "repair of today"});
    assert_eq!(ask(&rig, "POST", &fire, Some(some)).await, (200, json!({"rows": 1, "runs": 1})));
    let (code, out, error) = rig.verb(&["workflow", "fire", &id, "--key", "4", "--round", "by hand"]).await;
    assert_eq!((code, out.trim()), (Some(0), "1 rows fit, 1 runs are new"), "{error}");
    let all = delivered(&rig, 14).await;
    assert_eq!((all.len(), receiver.hits().len()), (14, 14));
    let id = ask(&rig, "POST", "/api/workflows", Some(draft("tasks"))).await.1["id"].as_str().unwrap().to_owned();
    let (status, refusal) = ask(&rig, "POST", &format!("/api/workflows/{id}/fire"), None).await;
    assert!(status == 409 && refusal["error"].as_str().unwrap().contains("nothing was fired"), "{refusal}");
    assert_eq!(runs(&rig, "").await.len(), 14);
}

fn signed(secret: &str, hit: &super::receiver::Hit) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use hmac::{KeyInit, Mac};
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{}.{}.{}", hit.id, hit.timestamp, hit.body).as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_is_refused_before_anything_leaves_and_a_redirect_is_not_followed() {
    let (mut rig, receiver) = rig(AGENTS).await;
    streaming(&mut rig).await;
    let port = receiver.url().rsplit(':').next().unwrap().to_owned();
    let draft = |url: &str| {
        json!({"workflow_name": "x", "trigger_table": "agents", "trigger_event": "INSERT",
               "action_config": {"type": "webhook", "url": url}})
    };
    let (status, refusal) = ask(&rig, "POST", "/api/workflows", Some(draft("http://169.254.169.254/latest"))).await;
    assert_eq!((status, refusal["field"].as_str()), (400, Some("action_config.url")), "{refusal}");
    // A name is known only when it is looked up.
    let (status, made) = ask(&rig, "POST", "/api/workflows", Some(draft(&format!("http://localhost:{port}/")))).await;
    assert_eq!(status, 201, "{made}");
    rig.pair.source.execute("insert into agents (id, name) values (1, 'Ann')").await.unwrap();
    until("it is dead", async || runs(&rig, "state=dead").await.len() == 1).await;
    let dead = &runs(&rig, "state=dead").await[0];
    assert!(dead["error"].as_str().unwrap().contains("private address"), "{dead}");
    assert!(receiver.hits().is_empty());
    // To the agents' API, which the settings name; it points elsewhere.
    receiver.mood(Mood::Answers(307));
    rig.pair.source.execute(EXAMPLE).await.unwrap();
    rig.pair.source.execute("insert into agents (id, name) values (2, 'Bo')").await.unwrap();
    until("that is dead too", async || runs(&rig, "state=dead").await.len() == 3).await;
    assert_eq!(receiver.hits().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_reaches_who_listens_and_a_deleted_workflow_leaves_no_run_waiting() {
    let (mut rig, receiver) = rig(AGENTS).await;
    receiver.mood(Mood::Answers(503));
    streaming(&mut rig).await;
    let notify = r#"insert into supabase_sync_workflows (workflow_name, trigger_table, trigger_event, action_config)
        values ('Bell', 'agents', 'INSERT', '{"type": "notify", "channel": "agents", "payload": "{{new.name}} came"}')"#;
    rig.pair.source.execute(notify).await.unwrap();
    rig.pair.source.execute(EXAMPLE).await.unwrap();
    rig.pair.source.execute("insert into agents (id, name) values (1, 'Ann')").await.unwrap();
    delivered(&rig, 1).await;
    let sent = &runs(&rig, "state=delivered").await[0];
    let (_, detail) = ask(&rig, "GET", &format!("/api/workflow-runs/{}", sent["id"].as_str().unwrap()), None).await;
    assert_eq!((&detail["request"]["method"], &detail["request"]["body"]), (&json!("NOTIFY"), &json!("Ann came")));
    // The type json keeps what jsonb refuses; a run that holds it is shown all the same.
    let id = sent["id"].as_str().unwrap();
    let odd = format!("update lockstep.workflow_run set new_row = '{{\"name\": \"a\\u0000\"}}' where id = '{id}'");
    rig.pair.source.execute(&odd).await.unwrap();
    let (status, detail) = ask(&rig, "GET", &format!("/api/workflow-runs/{id}"), None).await;
    assert_eq!((status, detail["new"]["name"].as_str()), (200, Some("a\0")), "{detail}");
    // Sent again it is no notification, and what became of it is on record; nobody else waits for it.
    assert_eq!(ask(&rig, "POST", "/api/workflow-runs/replay", Some(json!({"ids": [id]}))).await.0, 200);
    until("it is dead", async || runs(&rig, "state=dead").await.iter().any(|run| run["id"] == id)).await;
    let (_, detail) = ask(&rig, "GET", &format!("/api/workflow-runs/{id}"), None).await;
    assert_eq!(detail["request"]["body"], "a\u{fffd} came", "{detail}");
    let tried = receiver.hits().len();
    until("the other is tried again", async || receiver.hits().len() > tried + 2).await;
    rig.pair
        .source
        .execute("delete from supabase_sync_workflows where workflow_name = 'Process New Agents'")
        .await
        .unwrap();
    until("its run is given up", async || runs(&rig, "state=dead").await.len() == 2).await;
    let dead = runs(&rig, "state=dead").await;
    assert!(dead.iter().any(|run| run["error"] == "its workflow was deleted"), "{dead:?}");
    // It waits for nobody; the other one does.
    until("one is counted", async || rig.metric("lockstep_workflow_dead_letters").await == 1.0).await;

    // Switched off in the instant in which it is taken: what was read a moment before says that it is on.
    let off = "create function off() returns trigger language plpgsql as $$ begin
            update supabase_sync_workflows set enabled = false; return new; end $$;
        create trigger off before update on lockstep.workflow_run for each row
            when (old.state = 'waiting' and new.state = 'delivering') execute function off()";
    rig.pair.source.execute(off).await.unwrap();
    receiver.mood(Mood::Answers(200));
    rig.pair.source.execute(EXAMPLE).await.unwrap();
    let tried = receiver.hits().len();
    rig.pair.source.execute("insert into agents (id, name) values (2, 'Bo')").await.unwrap();
    let on = "select count(*) from supabase_sync_workflows where enabled";
    until("they are off", async || rig.pair.source.value(on).await.unwrap() == "0").await;
    let back = "select count(*) from lockstep.workflow_run where state = 'waiting' and attempts = 0";
    until("both wait", async || rig.pair.source.value(back).await.unwrap() == "2").await;
    assert_eq!((receiver.hits().len(), runs(&rig, "state=delivered").await.len()), (tried, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn workflows_that_cannot_be_read_stop_no_replication_and_act_once_they_can() {
    if says_nothing_of_a_journal("it waits for who holds so strong a lock") {
        return;
    }
    let (mut rig, receiver) = rig(AGENTS).await;
    let broken =
        "create table kept (id text, workflow_name text, trigger_table text, trigger_event text, action_config text);
        create view supabase_sync_workflows as select (1 / length(id))::text as id, workflow_name, trigger_table,
            trigger_event, action_config from kept;
        insert into kept values ('')";
    rig.pair.source.execute(broken).await.unwrap();
    streaming(&mut rig).await;
    rig.pair.source.execute("insert into agents (id, name) values (1, 'Ann')").await.unwrap();
    let target = &rig.pair.supabase.cluster;
    until("it is replicated", async || target.value("select count(*) from agents").await.unwrap() == "1").await;
    assert!(std::fs::read_to_string(rig.log()).unwrap().contains("division by zero"), "{}", rig.tail());
    assert!(receiver.hits().is_empty());
    let mended = r#"update kept set id = 'a', workflow_name = 'w', trigger_table = 'agents', trigger_event = 'UPDATE',
        action_config = '{"type": "trigger_agent_task", "agent_id": "a", "action": "b"}'"#;
    rig.pair.source.execute(mended).await.unwrap();
    until("it acts", async || {
        rig.pair.source.execute("update agents set status = status || 'x'").await.unwrap();
        !receiver.hits().is_empty()
    })
    .await;
    // While somebody holds a lock on it, and while it cannot be read at all: what was read goes on, and so it does when
    // the route begins anew meanwhile.
    let other = rig.pair.source.connect().await.unwrap();
    other.batch_execute("begin; lock table kept in access exclusive mode").await.unwrap();
    goes_on(&rig, "locked").await;
    let told = "lockstep_workflows_working{route=\"to_supabase\",work=\"read\"} 0";
    let metrics = async || rig.get("/metrics").await.unwrap().text().await.unwrap();
    until("it is told", async || metrics().await.lines().any(|line| line == told)).await;
    other.batch_execute("commit").await.unwrap();
    let hits = receiver.hits().len();
    until("it is delivered", async || receiver.hits().len() > hits).await;
    rig.pair.source.execute("update kept set id = ''").await.unwrap();
    goes_on(&rig, "broken").await;
}

/// The route begins anew, and a change still leads to a run and arrives.
async fn goes_on(rig: &Rig, name: &str) {
    let starts = rig.metric("lockstep_route_starts_total").await;
    let cut = "select pg_terminate_backend(active_pid) from pg_replication_slots where active_pid is not null";
    rig.pair.source.value(cut).await.unwrap();
    until("the route begins anew", async || rig.metric("lockstep_route_starts_total").await > starts).await;
    rig.pair.source.execute(&format!("update agents set name = '{name}'")).await.unwrap();
    let there = "select name from agents where id = 1";
    let target = &rig.pair.supabase.cluster;
    until("it arrives", async || target.value(there).await.unwrap() == name).await;
    let run = format!("select count(*) from lockstep.workflow_run where new_row ->> 'name' = '{name}'");
    assert_eq!(rig.pair.source.value(&run).await.unwrap(), "1", "it leads to a run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_courier_that_waits_for_another_process_ends_when_the_settings_change() {
    let (mut rig, _receiver) = rig(AGENTS).await;
    let other = rig.pair.source.connect().await.unwrap();
    other.batch_execute("select pg_advisory_lock(hashtext('lockstep'), hashtext('workflows'))").await.unwrap();
    streaming(&mut rig).await;
    until("it waits", async || std::fs::read_to_string(rig.log()).unwrap().contains("another process delivers")).await;
    let couriers = "select coalesce(string_agg(pid::text, ' '), '') from pg_stat_activity \
                    where application_name = 'lockstep courier'";
    let first = rig.pair.source.value(couriers).await.unwrap();
    settings(&rig, "per_workflow = 3\n");
    let pid = rustix::process::Pid::from_raw(rig.pid().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    until("another one waits instead", async || {
        let now = rig.pair.source.value(couriers).await.unwrap();
        !now.is_empty() && now.split(' ').all(|pid| pid != first)
    })
    .await;
}
