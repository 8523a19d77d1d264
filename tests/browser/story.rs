//! What a person does with a Lockstep that is new to them, from the first look to the repair, in front of a real source, a
//! real Supabase-like target and the real binary.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::routing::any;
use axum::{Json, Router};
use lockstep::lab::{Owner, PairOptions, SupabaseOptions};
use serde_json::{Value, json};

use super::browser::Browser;
use super::rig::{Rig, public, until};

const SCHEMA: &str = include_str!("../../sql/demo/schema.sql");
const DATA: &str = include_str!("../../sql/demo/data.sql");

/// What the page promises of news.
const SOON: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(60);

/// An agent API: takes every task, says so, and remembers it.
async fn agents() -> (String, Arc<Mutex<Vec<Value>>>) {
    let heard: Arc<Mutex<Vec<Value>>> = Arc::default();
    let book = heard.clone();
    let take = move |Json(task): Json<Value>| {
        book.lock().unwrap().push(task);
        async { (axum::http::StatusCode::ACCEPTED, Json(json!({"accepted": true, "task": "onboarding-1"}))) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(any(take))).await });
    (url, heard)
}

/// Whether the row of a table in the view of tables has these words in one of its cells.
fn cell(table: &str, words: &str) -> String {
    format!(
        "[...document.querySelectorAll('tbody tr')].some((row) => row.cells[0].innerText === '{table}' && \
         [...row.cells].some((cell) => cell.innerText.trim() === '{words}'))"
    )
}

fn headline(words: &str) -> String {
    format!("document.querySelector('#view h1').textContent === '{words}'")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sets_it_up_sees_agents_arrive_and_mends_what_goes_wrong() {
    let (agent_api, heard) = agents().await;
    // As on Supabase: the demo's triggers have acted at the source, and do not act again.
    let supabase = SupabaseOptions { owner: Owner::SetReplicationRole, ..SupabaseOptions::default() };
    let mut rig = Rig::with(PairOptions { supabase, ..PairOptions::default() }, SCHEMA).await;
    rig.env = vec![("LOCKSTEP_AGENT_API_URL".into(), agent_api)];
    rig.unset = vec!["SUPABASE_URL", "SUPABASE_KEY"];
    rig.start();
    until("the window is open", async || rig.status().await.is_some()).await;
    let mut page = Browser::open(&format!("http://127.0.0.1:{}", rig.http)).await;

    configure(&mut page, &rig).await;
    watch_them_arrive(&mut page, &rig).await;
    verify_and_repair(&mut page, &rig).await;
    make_a_workflow(&mut page, &rig).await;
    let task = heard.lock().unwrap().first().cloned().expect("the agent API was called");
    assert_eq!((&task["action"], &task["new"]["name"]), (&json!("onboard_new_agent"), &json!("Twenty Five")), "{task}");
    lose_supabase(&mut page, &rig).await;
    park_and_mend(&mut page, &rig).await;
    for (view, words) in [("activity", "Create a workflow"), ("settings", "Supabase project"), ("", "In step")] {
        page.view(&format!("#/{view}")).await;
        page.see_in("#view", words).await;
        page.accessible(view).await;
        page.shot(if view.is_empty() { "overview-end" } else { view }, false, false).await;
    }
    assert_eq!(page.problems(&[]).await, [""; 0]);
    assert_eq!(rig.terminate().await, Some(0));
}

/// The first look asks for the project. A wrong key is told apart from a right one before anything is saved.
async fn configure(page: &mut Browser, rig: &Rig) {
    page.see_in("dialog", "Configure Supabase").await;
    page.see_in("#view", "Not set up yet").await;
    page.fill("Project URL", &rig.pair.supabase.rest_url()).await;
    page.fill("Secret key", "sb_secret_0000000000000000000000_wrong000").await;
    page.press("Test connection").await;
    page.see_in("dialog", "to mend").await;
    page.accessible("a wrong key").await;
    page.shot("configure", false, false).await;
    page.fill("Secret key", rig.pair.supabase.secret_key()).await;
    page.press("Test connection").await;
    page.until("/All is well|It works/.test(document.querySelector('dialog').innerText)", LONG).await;
    page.press("Save").await;
    page.until("!document.querySelector('dialog')", LONG).await;
    page.until(&headline("In step"), LONG).await;
    let file = std::fs::read_to_string(rig.dir.path().join(".env")).unwrap();
    assert!(file.contains(rig.pair.supabase.secret_key()));
    let shown = page.evaluate("document.documentElement.outerHTML").await;
    assert!(!shown.as_str().unwrap().contains(rig.pair.supabase.secret_key()), "the page holds the key");
}

async fn watch_them_arrive(page: &mut Browser, rig: &Rig) {
    page.view("#/tables").await;
    page.until(&cell("agents", "0"), LONG).await;
    rig.pair.source.execute(DATA).await.unwrap();
    page.until(&cell("agents", "24"), SOON + LONG).await;
    page.until(&cell("task_dependencies", "13"), LONG).await;
    page.until(&cell("agents", "In step"), LONG).await;
    until("all of it is there", async || {
        rig.pair
            .differences(&public(&["agents", "tasks", "a2a_messages", "task_dependencies"]))
            .await
            .unwrap()
            .is_empty()
    })
    .await;
    rig.assert_equal(&public(&["agents", "tasks", "a2a_messages"])).await;
    page.accessible("tables").await;
    page.shot("tables", false, false).await;
    page.shot("tables-phone", true, false).await;
}

async fn verify_and_repair(page: &mut Browser, rig: &Rig) {
    let damage = "update agents set name = 'Nobody' where agent_id = 'night_watch'; delete from task_dependencies";
    rig.pair.supabase.cluster.execute(damage).await.unwrap();
    page.click("button", "Verify public.agents").await;
    page.see_in("dialog", "1 row differs.").await;
    page.see_in("dialog", "other values in Supabase").await;
    page.accessible("differences").await;
    page.press("Close").await;
    page.until(&cell("agents", "1 row differs"), SOON).await;
    page.click("button", "Sync all tables").await;
    page.see_in("dialog", "in 2 tables.").await;
    page.shot("repair", false, false).await;
    page.wish("click", json!({"role": "button", "name": "Repair ", "exact": false, "within": "dialog"})).await;
    page.see_in("dialog", "Repaired: both sides are equal.").await;
    page.press("Close").await;
    page.until(&cell("agents", "In step"), LONG).await;
    rig.assert_equal(&public(&["agents", "task_dependencies"])).await;
    page.view("#/").await;
    page.until(&headline("In step"), LONG).await;
    page.shot("overview", false, false).await;
    page.shot("overview-dark", false, true).await;
    page.shot("overview-phone", true, false).await;
}

async fn make_a_workflow(page: &mut Browser, rig: &Rig) {
    page.view("#/workflows").await;
    page.see_in("#view", "No workflow yet").await;
    page.accessible("no workflow").await;
    page.click("link", "Make the first one").await;
    page.fill("Name", "Process New Agents").await;
    page.fill("Table", "agents").await;
    page.click("button", "Create workflow").await;
    page.see_in("#view", "is missing").await; // the action's field is named
    page.fill("Agent", "central_orchestrator").await;
    page.fill("Action", "onboard_new_agent").await;
    page.click("button", "Dry run").await;
    page.see_in(".preview", "It would run").await;
    page.see_in(".preview", "central_orchestrator").await;
    page.accessible("the builder").await;
    page.shot("workflow", false, false).await;
    page.click("button", "Create workflow").await;
    page.see_in("#view", "No runs yet").await;
    let agent = "insert into agents (agent_id, name, type) values ('agent_25', 'Twenty Five', 'worker')";
    rig.pair.source.execute(agent).await.unwrap();
    page.see_in("#view", "1 delivered").await;
    page.accessible("workflows").await;
    page.shot("workflows", false, false).await;
    page.click("link", "All runs").await;
    page.see_in("#view", "202 in").await;
    page.accessible("runs").await;
    page.wish("evaluate", json!({"script": "void document.querySelector('.runs tbody button.link').click()"})).await;
    page.see_in("dialog", "onboarding-1").await;
    page.accessible("a run").await;
    page.shot("run", false, false).await;
    page.wish("press", json!({"key": "Escape"})).await;
    // The field that was left out was refused, which the browser notes.
    assert_eq!(page.problems(&["/api/workflows"]).await, [""; 0]);
}

async fn lose_supabase(page: &mut Browser, rig: &Rig) {
    page.view("#/").await;
    page.until(&headline("In step"), LONG).await;
    rig.pair.supabase.faults().down().await;
    page.until("document.querySelectorAll('.end')[1].innerText.includes('Not connected')", SOON).await;
    page.until(&headline("Not in step"), SOON).await;
    assert_eq!(page.evaluate("document.body.dataset.tone").await, "bad");
    page.accessible("no Supabase").await;
    page.shot("lost", false, false).await;
    rig.pair.source.execute("update agents set status = 'busy' where agent_id = 'agent_25'").await.unwrap();
    rig.pair.supabase.faults().up().await;
    page.until(&headline("In step"), LONG).await;
    until("what came meanwhile is there", async || {
        let sql = "select status from agents where agent_id = 'agent_25'";
        rig.pair.supabase.cluster.value(sql).await.is_ok_and(|status| status == "busy")
    })
    .await;
}

async fn park_and_mend(page: &mut Browser, rig: &Rig) {
    let stricter = "alter table agents add constraint no_long_names check (length(name) < 40)";
    rig.pair.supabase.execute(stricter).await.unwrap();
    let long = "update agents set name = repeat('long ', 20) where agent_id = 'agent_25'";
    rig.pair.source.execute(long).await.unwrap();
    page.see_in("nav", "1").await;
    page.until(&headline("Not in step"), LONG).await;
    page.click("link", "See what is parked").await;
    page.see_in("#view", "no_long_names").await;
    page.see_in("mark", "Twenty Five").await;
    page.accessible("parked").await;
    page.shot("parked", false, false).await;
    rig.pair.supabase.execute("alter table agents drop constraint no_long_names").await.unwrap();
    page.click("button", "Re-read and try again").await;
    page.see_in("#view", "Nothing is parked").await;
    page.accessible("nothing parked").await;
    rig.assert_equal(&public(&["agents"])).await;
}
