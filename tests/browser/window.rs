//! The page in front of a window that nothing works behind: what it shows is what the test publishes.

use std::net::SocketAddr;
use std::time::Duration;

use lockstep::http::{self, Window};
use lockstep::status::{State, Status, TableState, TableStatus};
use lockstep::types::Fault;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::browser::Browser;

const SOON: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(30);

struct Open {
    base: String,
    publish: watch::Sender<Status>,
    stop: watch::Sender<bool>,
    served: JoinHandle<Result<(), Fault>>,
}

fn streaming(tables: usize) -> Status {
    let mut status = Status::starting("to_supabase", "db:5432/shop", "https://abc.supabase.co");
    let now = status.updated_at;
    status.state = State::Streaming;
    status.source.set(true, now);
    status.target.set(true, now);
    status.lag.seconds = Some(0.001);
    status.lag.bytes = Some(0);
    let table = |n: usize| TableStatus {
        name: format!("public.table_{n:04}"),
        state: TableState::Streaming,
        rows: n as u64,
        changed_at: Some(now),
    };
    status.tables = (0..tables).map(table).collect();
    status
}

async fn open(status: Status, port: u16) -> Open {
    open_to(status, port, http::Access::default()).await
}

/// A window at `port`, or at a free one; it publishes a fresh status for as long as it is open.
async fn open_to(status: Status, port: u16, access: http::Access) -> Open {
    rustls::crypto::ring::default_provider().install_default().ok();
    let listener = http::bind(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (publish, status) = watch::channel(status);
    let (stop, shutdown) = watch::channel(false);
    let window = Window { access, ..Window::to_look_at(status, None, Duration::from_secs(10)) };
    let served = tokio::spawn(http::serve(listener, window, shutdown));
    let fresh = publish.clone();
    let mut end = stop.subscribe();
    tokio::spawn(async move {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        while !*end.borrow_and_update() {
            second.tick().await;
            fresh.send_modify(|status| status.updated_at = jiff::Timestamp::now());
        }
    });
    Open { base, publish, stop, served }
}

/// What every window without an engine lacks.
const EXPECTED: [&str; 4] = ["/api/settings", "/api/activity", "/api/runs", "ERR_CONNECTION_REFUSED"];

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_goes_away_is_said_within_three_seconds_and_comes_back_by_itself() {
    let first = open(streaming(3), 0).await;
    let port: u16 = first.base.rsplit(':').next().unwrap().parse().unwrap();
    let mut browser = Browser::open(&first.base).await;
    browser.until("document.body.dataset.tone === 'good'", LONG).await;
    browser.see_in("#view", "All 3 tables are in step.").await;
    first.stop.send_replace(true);
    first.served.await.unwrap().unwrap();
    browser.until("document.querySelector('h1').textContent === 'Not connected to Lockstep'", SOON).await;
    assert_eq!(browser.evaluate("document.body.dataset.tone").await, "off", "never green when it is not known");
    assert_eq!(browser.evaluate("document.querySelectorAll('.dot.good').length").await, 0);
    let second = open(streaming(3), port).await;
    browser.until("document.body.dataset.tone === 'good'", LONG).await;
    second.publish.send_modify(|status| status.lag.seconds = None);
    browser.until("document.querySelector('h1').textContent === 'Not known'", SOON).await;
    assert_eq!(browser.problems(&EXPECTED).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_paint_waits_for_no_data() {
    let open = open(streaming(3), 0).await;
    let mut browser = Browser::open("about:blank").await;
    browser.wish("hold", serde_json::json!({"text": "/api/"})).await;
    browser.go(&open.base).await;
    browser.see_in("#view", "Connecting").await;
    browser.see_in("nav", "Workflows").await;
    browser.click("link", "Tables").await;
    browser.see_in("#view", "Asking Lockstep").await;
    let weight = "performance.getEntriesByType('resource').reduce((sum, one) => sum + one.decodedBodySize, 0)";
    let weight = browser.evaluate(weight).await.as_u64().unwrap();
    assert!(weight > 10_000 && weight < 150_000, "{weight} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_tables_are_quick() {
    let open = open(streaming(2000), 0).await;
    let mut browser = Browser::open(&format!("{}/#/tables", open.base)).await;
    browser.see_in("#view", "table_0000").await;
    let rows = "document.querySelectorAll('tbody tr').length";
    let drawn = browser.evaluate(rows).await.as_u64().unwrap();
    assert!((10..80).contains(&drawn), "{drawn} rows are in the document");
    // Everything changes all the time, for some seconds.
    for round in 1..=30 {
        open.publish.send_modify(|status| status.tables.iter_mut().for_each(|table| table.rows += round));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    browser.evaluate("scrollTo(0, 1e6); 0").await;
    browser.see_in("#view", "table_1999").await;
    let drawn = browser.evaluate(rows).await.as_u64().unwrap();
    assert!((10..80).contains(&drawn), "{drawn} rows are in the document");
    open.publish.send_modify(|status| status.tables[1234].state = TableState::Parked { cause: "23505".into() });
    browser.fill("Filter tables by name", "table_1234").await;
    browser.see_in("#view", "Parked: 23505").await;
    assert_eq!(browser.evaluate("document.querySelectorAll('tbody tr:not(.gap)').length").await, 1);
    browser.accessible("two thousand tables").await;
    assert_eq!(browser.problems(&EXPECTED).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_reached_by_keyboard_and_names_are_text_whatever_they_hold() {
    let mut status = streaming(2);
    status.tables[0].name = "public.<img src=x onerror=alert(1)>".into();
    let open = open(status, 0).await;
    let mut browser = Browser::open(&format!("{}/#/tables", open.base)).await;
    browser.see_in("#view", "<img src=x onerror=alert(1)>").await;
    browser.wish("press", serde_json::json!({"key": "Tab"})).await;
    assert_eq!(browser.evaluate("document.activeElement.textContent").await, "Skip to the content");
    browser.wish("press", serde_json::json!({"key": "Enter"})).await;
    assert_eq!(browser.evaluate("document.activeElement.id").await, "main");
    let names = "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent";
    let mut reached = Vec::new();
    for _ in 0..24 {
        browser.wish("press", serde_json::json!({"key": "Tab"})).await;
        reached.push(browser.evaluate(names).await.as_str().unwrap().to_owned());
    }
    for wanted in ["Verify all", "Sync all tables", "Filter tables by name", "Pause public.table_0001"] {
        assert!(reached.iter().any(|name| name == wanted), "{wanted} is not reached: {reached:?}");
    }
    browser.click("button", "Pause public.table_0001").await;
    browser.see_in("dialog", "Its changes are skipped").await;
    assert_eq!(browser.evaluate("document.querySelector('dialog').contains(document.activeElement)").await, true);
    browser.wish("press", serde_json::json!({"key": "Escape"})).await;
    browser.until("!document.querySelector('dialog')", SOON).await;
    assert_eq!(browser.evaluate(names).await, "Pause public.table_0001", "focus goes back to where it came from");
    assert_eq!(browser.problems(&EXPECTED).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn states_of_trouble_are_plain_in_words_and_serious_for_nobody() {
    let open = open(streaming(3), 0).await;
    let mut browser = Browser::open(&open.base).await;
    browser.see_in("#view", "All 3 tables are in step.").await;
    open.publish.send_modify(|status| {
        status.tables[0].state = TableState::Parked { cause: "too many rows were refused".into() };
        status.tables[1].state = TableState::Copying { copied: 500, estimated: 1000 };
    });
    browser.see_in("#view", "public.table_0000 is parked.").await;
    browser.see_in("#view", "500 of about 1,000 rows").await;
    browser.accessible("a parked table, a copy").await;
    open.publish.send_modify(|status| {
        let (cause, fix) = ("the slot is gone".into(), "select pg_drop_replication_slot('lockstep')".into());
        status.state = State::Stopped { cause, fix };
    });
    browser.see_in("#view", "Stopped, and looked at again every minute").await;
    browser.see_in("pre", "pg_drop_replication_slot").await;
    browser.accessible("stopped").await;
    for view in ["tables", "workflows", "runs", "parked", "activity", "settings", "workflows/new"] {
        browser.view(&format!("#/{view}")).await;
        browser.until("document.querySelector('#view h1')", SOON).await;
        browser.accessible(view).await;
    }
}

const OPERATE: &str = "operate-0123456789abcdef";
const READ: &str = "read-0123456789abcdef";

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_ends_is_said_and_who_may_only_look_is_offered_nothing_else() {
    let access = http::Access { token: Some(OPERATE.into()), read_token: Some(READ.into()), ..http::Access::default() };
    let open = open_to(streaming(3), 0, access).await;
    let mut browser = Browser::open(&open.base).await;
    browser.see("Token").await;
    browser.accessible("the login").await;
    browser.fill("Token", OPERATE).await;
    browser.click("button", "Log in").await;
    browser.see_in("#view", "All 3 tables are in step.").await;
    browser.view("#/tables").await;
    browser.see_in("#view", "Sync all tables").await;
    // Another page of the same browser logs out.
    let logout = "fetch('/api/session').then((answer) => answer.json()).then(({ csrf }) => \
        fetch('/api/session', { method: 'DELETE', headers: { 'x-csrf-token': csrf } })).then(() => 0)";
    browser.evaluate(logout).await;
    browser.see_in("#banner", "Your login has ended.").await;
    assert_eq!(browser.evaluate("document.querySelectorAll('.dot.good').length").await, 0);
    browser.accessible("a login that ended").await;
    browser.click("link", "Log in again").await;
    browser.fill("Token", READ).await;
    browser.click("button", "Log in").await;
    browser.see_in("#banner", "to look").await;
    browser.view("#/tables").await;
    browser.see_in("#view", "table_0000").await;
    let offered = "[...document.querySelectorAll('#view button')].filter((one) => one.offsetParent && \
        /^(Sync|Verify|Pause|Resume|Sync all tables|Verify all)$/.test(one.textContent)).length";
    assert_eq!(browser.evaluate(offered).await, 0);
    browser.accessible("a login that only looks").await;
}
