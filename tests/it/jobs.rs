//! Runs of comparison and repair, as people and the schedule ask for them: exit codes, JSON, the history, a run that was
//! missed.

use serde_json::{Value, json};

use super::rig::{Rig, public, until};

const TABLES: &str = "
    create table agents (id int primary key, name text);
    create table tasks (id int primary key, v text);
";

async fn streaming(toml: &str) -> Rig {
    let mut rig = Rig::new(TABLES).await;
    std::fs::write(rig.dir.path().join("lockstep.toml"), toml).unwrap();
    let fill = "insert into agents select i, 'a' || i from generate_series(1, 500) i;
                insert into tasks select i, 't' from generate_series(1, 500) i";
    rig.pair.source.execute(fill).await.unwrap();
    rig.start();
    rig.settled().await;
    rig
}

const BY_HAND: &str = "[schedule]\nreconcile = []\n";

const DAMAGE: &str = "delete from agents where id in (7, 8); update agents set name = 'wrong' where id = 9;
                      insert into agents values (1000, 'strange')";

async fn history(rig: &Rig, what: &str) -> String {
    rig.pair.source.value(&format!("select {what} from lockstep.reconcile_run")).await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_and_sync_say_what_differs_repair_it_and_leave_a_history() {
    let mut rig = streaming(BY_HAND).await;
    rig.env.clear(); // with the table of sync states
    assert_eq!(rig.terminate().await, Some(0));
    rig.start();
    // Before that a verb would do without the service, and without its history.
    until("the service answers", async || rig.status().await.is_some_and(|it| it["state"] == "streaming")).await;
    let (code, out, err) = rig.verb(&["verify"]).await;
    assert_eq!(code, Some(0), "{out}{err}\n{}", rig.tail());
    assert!(out.contains("public.agents  equal") && out.contains("500"), "{out}");

    rig.pair.supabase.execute(DAMAGE).await.unwrap();
    let (code, out, err) = rig.verb(&["verify", "--limit", "3", "agents"]).await;
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("public.agents  different") && !out.contains("tasks"), "{out}");
    assert!(out.contains("missing    7") && out.contains("and 1 more"), "{out}");
    // Known to differ, it is not called completed, and a restart does not forget it.
    let state = "select sync_status || ': ' || coalesce(error_message, '') from supabase_sync_state where table_name = 'agents'";
    let differs = "in_progress: 4 rows differ until a run repairs them";
    until("the sync state says so", async || rig.pair.source.value(state).await.unwrap() == differs).await;
    rig.kill9().await;
    rig.start();
    rig.streams().await; // what it said before the kill still stands there
    until("the other one is completed", async || {
        rig.pair.source.value("select sync_status from supabase_sync_state where table_name = 'tasks'").await.unwrap()
            == "completed"
    })
    .await;
    until("the sync state still says so", async || rig.pair.source.value(state).await.unwrap() == differs).await;
    until("the metric says so", async || rig.metric("lockstep_tables_different").await == 1.0).await;

    let (code, out, _) = rig.verb(&["sync", "--dry-run", "--json"]).await;
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &answer["verdict"]), (Some(1), &json!("different")), "{out}");
    let agents = &answer["tables"][0];
    assert_eq!(
        json!([agents["missing"], agents["different"], agents["surplus"], agents["inserted"]]),
        json!([2, 1, 1, 0])
    );
    assert_eq!(rig.pair.supabase.cluster.value("select count(*) from agents where id = 1000").await.unwrap(), "1");

    let (code, out, err) = rig.verb(&["sync"]).await;
    assert_eq!(code, Some(0), "{out}{err}\n{}", rig.tail());
    rig.assert_equal(&public(&["agents", "tasks"])).await;
    until("it is completed", async || rig.pair.source.value(state).await.unwrap() == "completed: ").await;
    assert_eq!(rig.metric("lockstep_reconcile_rows_repaired_total{kind=\"delete\"}").await, 1.0);
    assert!(rig.metric("lockstep_reconcile_last_success_timestamp_seconds").await > 1.7e9);
    assert!(rig.metric("lockstep_table_equal_timestamp_seconds{table=\"public.agents\"}").await > 1.7e9);
    // Found by `verify`, by the dry run and by `sync`, since the last start.
    assert_eq!(rig.metric("lockstep_table_mismatches_total{table=\"public.agents\"}").await, 8.0);
    assert_eq!(rig.metric("lockstep_table_mismatches_total{table=\"public.tasks\"}").await, 0.0);

    let results =
        history(&rig, "string_agg(result, ' ' order by id) filter (where table_name = 'public.agents')").await;
    assert_eq!(results, "equal different different repaired");
    let counts = "concat_ws(' ', missing, different, surplus, inserted, updated, deleted, rows_compared)";
    assert_eq!(history(&rig, &format!("max({counts}) filter (where result = 'repaired')")).await, "2 1 1 2 1 1 500");
    let (code, out, err) = rig.verb(&["runs", "--limit", "2"]).await;
    assert!(code == Some(0) && out.lines().count() == 3 && out.contains("repaired"), "{out}{err}");
    let (_, out, _) = rig.verb(&["status"]).await;
    assert!(out.contains("compared") && out.contains("equal"), "{out}");

    // Without a service: `verify` compares by itself, `runs` reads the source, `sync` says what it lacks.
    assert_eq!(rig.terminate().await, Some(0));
    let (code, out, err) = rig.verb(&["runs", "--json"]).await;
    assert!(code == Some(0) && err.contains("no Lockstep is running"), "{out}{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["runs"][0]["result"], "equal");
    let (code, out, err) = rig.verb(&["sync"]).await;
    assert!(code == Some(2) && err.contains("no Lockstep is running") && out.is_empty(), "{out}{err}");
    let (code, _, err) = rig.verb(&["verify", "nothing"]).await;
    assert!(code == Some(2) && err.contains("there is no replicated table nothing"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_exit_2_and_a_paused_table_is_one_such() {
    let rig = streaming(BY_HAND).await;
    let (code, out, err) = rig.verb(&["tables", "pause", "tasks"]).await;
    assert_eq!(code, Some(0), "{out}{err}\n{}", rig.tail());
    let (code, out, err) = rig.verb(&["verify"]).await;
    assert_eq!(code, Some(2), "{out}{err}");
    assert!(out.contains("public.tasks: it is paused") && out.contains("public.agents  equal"), "{out}");
    let (code, _, err) = rig.verb(&["verify", "nothing"]).await;
    assert!(code == Some(2) && err.contains("there is no replicated table nothing"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_finds_and_repairs_damage_by_itself_and_a_table_may_have_its_own() {
    let toml =
        "[schedule]\nreconcile = [\"*/2 * * * * *\"]\njitter = \"0s\"\n[table.\"public.tasks\"]\nreconcile = []\n";
    let rig = streaming(toml).await;
    rig.pair.supabase.execute(DAMAGE).await.unwrap();
    rig.pair.supabase.execute("delete from tasks where id = 1").await.unwrap();
    until("the schedule has repaired it", async || history(&rig, "bool_or(result = 'repaired')::text").await == "true")
        .await;
    rig.assert_equal(&public(&["agents"])).await;
    until("it goes on", async || history(&rig, "(count(*) > 3)::text").await == "true").await;
    assert_eq!(history(&rig, "string_agg(distinct table_name, ' ')").await, "public.agents");
    assert_eq!(history(&rig, "min(why)").await, "schedule */2 * * * * *");
    assert_eq!(
        rig.pair.supabase.cluster.value("select count(*) from tasks").await.unwrap(),
        "499",
        "it has no schedule"
    );
    let status = rig.status().await.unwrap();
    assert!(status["jobs"]["next_at"].is_string(), "{status}");
    assert!(rig.metric("lockstep_reconcile_next_timestamp_seconds").await > 1.7e9);
    assert!(rig.metric("lockstep_table_next_run_timestamp_seconds{table=\"public.agents\"}").await > 1.7e9);
    assert_eq!(rig.metric("lockstep_table_next_run_timestamp_seconds{table=\"public.tasks\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_missed_while_the_service_was_down_is_made_up_for_once() {
    // Never today: only what was missed can make a run.
    let toml = "[schedule]\nreconcile = [\"0 0 29 2 *\"]\njitter = \"0s\"\n";
    let mut rig = streaming(toml).await;
    let (code, out, err) = rig.verb(&["verify"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(rig.terminate().await, Some(0));
    let long_ago = "update lockstep.reconcile_run set why = 'schedule 0 0 29 2 *', started_at = '2024-02-28'";
    rig.pair.source.execute(long_ago).await.unwrap();
    rig.start();
    let missed =
        "count(*) filter (where why = 'schedule 0 0 29 2 *, missed at 2024-02-29T00:00:00Z' and result = 'equal')";
    until("it is made up for", async || history(&rig, missed).await == "2").await;
    // It is not missed any more.
    assert_eq!(rig.terminate().await, Some(0));
    rig.start();
    let (code, out, err) = rig.verb(&["verify"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(history(&rig, missed).await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_takes_commands_from_who_shows_the_token_and_not_from_another_page() {
    let mut rig = streaming(BY_HAND).await;
    rig.env.push(("LOCKSTEP_TOKEN".into(), "0123456789abcdef".into()));
    assert_eq!(rig.terminate().await, Some(0));
    rig.start();
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", rig.http);
    let client =
        reqwest::Client::builder().no_proxy().read_timeout(std::time::Duration::from_secs(30)).build().unwrap();
    let post = |path: &str| client.post(url(path)).bearer_auth("0123456789abcdef");
    until("it listens", async || post("/api/verify").body("{}x").send().await.is_ok()).await;
    assert_eq!(client.post(url("/api/verify")).send().await.unwrap().status(), 401);
    assert_eq!(post("/api/sync").header("origin", "https://evil.example").send().await.unwrap().status(), 403);
    assert_eq!(post("/api/sync").body("{\"tabels\": []}").send().await.unwrap().status(), 400);
    assert_eq!(client.get(url("/api/sync")).bearer_auth("0123456789abcdef").send().await.unwrap().status(), 405);
    until("the tables are known", async || post("/api/tables/nothing/pause").send().await.unwrap().status() == 404)
        .await;
    assert_eq!(post("/api/tables/tasks/dance").send().await.unwrap().status(), 404);
    assert_eq!(post("/api/tables/tasks/resume").send().await.unwrap().status(), 409);
    let answer = post("/api/verify").body(r#"{"tables": ["public.tasks"]}"#).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let job: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let path = format!("/api/jobs/{}", job["job"].as_str().unwrap());
    until("the job is done", async || {
        let text = client.get(url(&path)).bearer_auth("0123456789abcdef").send().await.unwrap().text().await.unwrap();
        let view: Value = serde_json::from_str(&text).unwrap();
        view["state"] == "done" && view["reports"][0]["verdict"] == "equal"
    })
    .await;
    assert_eq!(client.get(url("/api/jobs/0")).bearer_auth("0123456789abcdef").send().await.unwrap().status(), 404);
}

/// Such a table is not replicated; what somebody else brings there can be compared, as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_is_compared_as_a_whole_and_that_is_said() {
    let mut rig = Rig::new("create table agents (id int primary key); create table log (at date, line text)").await;
    rig.pair
        .execute("insert into log select '2020-01-01', 'line ' || i % 50 from generate_series(1, 300) i")
        .await
        .unwrap();
    rig.start();
    rig.settled().await;
    let (code, out, err) = rig.verb(&["verify", "agents", "log"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("public.log     equal") && out.contains("public.agents  equal"), "{out}");
    assert!(out.contains("public.log: it has no key, so it is not replicated; it was compared as a whole"), "{out}");
    // As many rows, and not the same.
    rig.pair.supabase.cluster.execute("update log set line = 'line 9' where line = 'line 8'").await.unwrap();
    let (code, out, err) = rig.verb(&["verify", "log"]).await;
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("(300 rows here, 300 there)"), "{out}");
    let (code, out, err) = rig.verb(&["verify"]).await;
    assert!(code == Some(0) && !out.contains("log"), "{out}{err}");
}
