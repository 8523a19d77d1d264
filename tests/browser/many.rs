//! A history of many runs, as years of workflows leave it: the page shows the newest at once, and older ones a page at a
//! time. A million of them with `LOCKSTEP_LARGE_RUNS=1000000`.

use std::time::{Duration, Instant};

use super::browser::Browser;
use super::rig::{Rig, until};

const WORKFLOW: &str = "insert into supabase_sync_workflows (workflow_name, trigger_table, trigger_event, action_config) \
     values ('Tell', 'agents', 'INSERT', '{\"type\": \"notify\", \"channel\": \"news\"}')";

/// What a person waits for without noticing, with room for a machine that is busy.
const QUICK: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_of_runs_is_as_quick_as_a_short_one() {
    let runs = std::env::var("LOCKSTEP_LARGE_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let mut rig = Rig::new("create table agents (id int primary key, name text)").await;
    rig.env.clear();
    rig.start();
    rig.settled().await;
    until("the table of workflows is there", async || rig.pair.source.execute(WORKFLOW).await.is_ok()).await;
    let fill = format!(
        "insert into lockstep.workflow_run (id, workflow_id, workflow_name, side, table_name, event, key, order_key, \
           state, attempts, status_code, latency_ms, created_at, finished_at) \
         select gen_random_uuid(), (select id::text from supabase_sync_workflows), 'Tell', 'source', 'public.agents', \
           'INSERT', json_build_array(i::text), gen_random_uuid(), case when i % 100 = 7 then 'dead' else 'delivered' end, \
           1, 200, 5, now() - ({runs} - i) * interval '1 second', now() - ({runs} - i) * interval '1 second' \
         from generate_series(1, {runs}) i; analyze lockstep.workflow_run"
    );
    until("the table of runs is there", async || {
        rig.pair.source.value("select to_regclass('lockstep.workflow_run')::text").await.is_ok_and(|it| !it.is_empty())
    })
    .await;
    rig.pair.source.execute(&fill).await.unwrap();

    let mut page = Browser::open(&format!("http://127.0.0.1:{}/#/workflows", rig.http)).await;
    page.see_in("#view", "Tell").await;
    let rows = |wanted: u32| format!("document.querySelectorAll('.runs tbody tr').length === {wanted}");
    let begun = Instant::now();
    page.view("#/runs").await;
    page.until(&rows(50), QUICK).await;
    page.click("button", "Load older").await;
    page.until(&rows(100), QUICK).await;
    page.click("button", "Load older").await;
    page.until(&rows(150), QUICK).await;
    // The rare ones are found as quickly.
    page.view("#/runs?state=dead").await;
    page.until(&rows(50), QUICK).await;
    page.until(
        "[...document.querySelectorAll('.runs tbody .state')].every((one) => one.innerText.includes('Given up'))",
        QUICK,
    )
    .await;
    page.view("#/workflows").await;
    page.see_in("#view", "given up").await;
    println!("{runs} runs: {:?} for five looks", begun.elapsed());
    assert_eq!(page.problems(&[]).await, [""; 0]);
    assert_eq!(rig.terminate().await, Some(0));
}
