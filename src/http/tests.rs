//! The window, looked through from outside: a real listener and a real client.

use futures_util::StreamExt;
use reqwest::Client;

use super::*;
use crate::status;

struct Open {
    base: String,
    publish: watch::Sender<Status>,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<Result<(), Fault>>,
}

fn streaming() -> Status {
    let mut status = Status::starting("to_supabase", "db:5432/shop", "https://abc.supabase.co");
    let now = status.updated_at;
    status.state = status::State::Streaming;
    status.source.set(true, now);
    status.target.set(true, now);
    status.lag.seconds = Some(0.001);
    status
}

async fn open(status: Status, token: Option<&str>) -> Open {
    open_to(status, token, false).await
}

async fn open_to(status: Status, token: Option<&str>, behind_tls: bool) -> Open {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (publish, status) = watch::channel(status);
    let (stop, shutdown) = watch::channel(false);
    let mut window = Window::to_look_at(status, token.map(Into::into), Duration::from_secs(10));
    window.access.behind_tls = behind_tls;
    let served = tokio::spawn(serve(listener, window, shutdown));
    Open { base, publish, stop, served }
}

fn client() -> Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap()
}

async fn get(url: String) -> (u16, String) {
    let answer = client().get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn ready_means_connected_to_both_sides_and_caught_up_and_alive_means_alive() {
    let open = open(streaming(), None).await;
    let ready = || get(format!("{}/readyz", open.base));
    assert_eq!(ready().await, (200, "in step\n".into()));
    open.publish.send_modify(|status| status.target.connected = false);
    assert_eq!(ready().await, (503, "not connected: target\n".into()));
    open.publish.send_modify(|status| *status = streaming());
    open.publish.send_modify(|status| status.lag.seconds = Some(60.0));
    assert_eq!(ready().await, (503, "behind\n".into()));
    open.publish.send_modify(|status| status.lag.seconds = None);
    assert_eq!(ready().await, (503, "unknown\n".into()));
    // What is parked waits for a person, who comes through this window.
    open.publish.send_modify(|status| *status = streaming());
    let parked = crate::types::ParkedRows { schema: "public".into(), table: "orders".into(), rows: 2, oldest: 0 };
    open.publish.send_modify(|status| status.parked = vec![parked]);
    assert_eq!(ready().await, (200, "in step, but for what is parked\n".into()));
    let (_, said) = get(format!("{}/api/status", open.base)).await;
    assert!(said.contains(r#""verdict":"broken""#) && said.contains("2 rows of public.orders are parked"), "{said}");
    open.publish.send_modify(|status| status.source.connected = false);
    assert_eq!(ready().await, (503, "not connected: source\n".into()));
    assert_eq!(get(format!("{}/healthz", open.base)).await, (200, "alive\n".into()));
}

#[tokio::test]
async fn the_page_comes_under_its_policy_and_is_sent_once() {
    let open = open(streaming(), None).await;
    for path in ["/", "/page/base.css", "/page/main.js"] {
        let ask = || client().get(format!("{}{path}", open.base));
        let answer = ask().send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert!(answer.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
        let tag = answer.headers()["etag"].clone();
        assert!(!answer.text().await.unwrap().is_empty());
        let again = ask().header("if-none-match", tag).send().await.unwrap();
        assert_eq!((again.status().as_u16(), again.text().await.unwrap().len()), (304, 0), "{path}");
    }
    assert_eq!(get(format!("{}/page/..%2Fmod.rs", open.base)).await.0, 404);
}

#[tokio::test]
async fn status_and_metrics_are_there_for_scripts() {
    let open = open(streaming(), None).await;
    let (code, text) = get(format!("{}/api/status", open.base)).await;
    let view: View = serde_json::from_str(&text).unwrap();
    assert_eq!((code, view.verdict, view.status.route.as_str()), (200, Verdict::InStep, "to_supabase"));
    let (code, text) = get(format!("{}/metrics", open.base)).await;
    assert!(code == 200 && text.lines().any(|line| line == "lockstep_up 1"));
}

#[tokio::test]
async fn a_change_shows_live_and_an_open_view_does_not_hold_up_the_end() {
    let open = open(streaming(), None).await;
    let answer = client().get(format!("{}/api/events", open.base)).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut events = answer.bytes_stream();
    let first = String::from_utf8(events.next().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(first.starts_with("data: {") && first.contains("\"verdict\":\"in_step\""), "{first}");
    open.publish.send_modify(|status| status.source.connected = false);
    let second = String::from_utf8(events.next().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(second.contains("the source is not connected"), "{second}");
    open.stop.send_replace(true);
    let ended = tokio::time::timeout(Duration::from_secs(5), open.served).await;
    assert_eq!(ended.expect("an open view keeps the server from ending").unwrap(), Ok(()));
}

#[tokio::test]
async fn a_token_is_demanded_and_without_one_a_foreign_name_is_not_answered() {
    let anybody = open(streaming(), None).await;
    let open = open(streaming(), Some("0123456789abcdef")).await;
    assert_eq!(get(format!("{}/api/status", open.base)).await.0, 401);
    let with = |token: &str| client().get(format!("{}/api/status", open.base)).bearer_auth(token).send();
    assert_eq!(with("0123456789abcdef").await.unwrap().status(), 200);
    assert_eq!(with("0123456789abcdeX").await.unwrap().status(), 401);
    assert_eq!(get(format!("{}/healthz", open.base)).await.0, 200);
    let foreign =
        client().get(format!("{}/healthz", anybody.base)).header("host", "evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), 421);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_with_the_way_out() {
    let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let taken = first.local_addr().unwrap();
    let Err(Fault::Stop { cause, fix }) = bind(taken).await else { panic!("two listeners on {taken}") };
    assert!(cause.contains(&taken.to_string()) && fix.contains("LOCKSTEP_LISTEN"));
}

async fn limited(limits: accept::Limits) -> (SocketAddr, watch::Sender<bool>) {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let local = listener.local_addr().unwrap();
    let (_, status) = watch::channel(streaming());
    let window = Window::to_look_at(status, None, Duration::from_secs(10));
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(accept::serve(listener, router(window, local, limits.body, shutdown.clone()), limits, shutdown));
    (local, stop)
}

#[tokio::test]
async fn who_sends_no_whole_head_in_time_is_hung_up_on() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let limits = accept::Limits { head: Duration::from_millis(200), ..accept::Limits::default() };
    let (local, _stop) = limited(limits).await;
    for half in ["", "GET /healthz HTTP/1.1\r\nHost: local"] {
        let mut slow = tokio::net::TcpStream::connect(local).await.unwrap();
        slow.write_all(half.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let hung_up = tokio::time::timeout(Duration::from_secs(10), slow.read_to_end(&mut answer)).await;
        assert!(hung_up.is_ok(), "`{half}` still holds a connection");
    }
    assert_eq!(get(format!("http://{local}/healthz")).await, (200, "alive\n".into()));
}

#[tokio::test]
async fn a_crowd_of_silent_connections_is_bounded_and_leaves_room_when_it_goes() {
    use tokio::io::AsyncReadExt;
    let limits = accept::Limits { connections: 3, ..accept::Limits::default() };
    let (local, _stop) = limited(limits).await;
    let connect = async || tokio::net::TcpStream::connect(local).await.unwrap();
    let mut crowd = [connect().await, connect().await, connect().await];
    let mut late = connect().await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), late.read_to_end(&mut answer)).await;
    assert!(read.is_ok() && answer.is_empty(), "the fourth is closed at once");
    assert!(tokio::time::timeout(Duration::from_millis(50), crowd[0].read_u8()).await.is_err(), "the first is kept");
    drop(crowd);
    let url = format!("http://{local}/healthz");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while client().get(&url).send().await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "no room though the crowd is gone");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn who_reads_nothing_of_the_answers_makes_room_for_others() {
    use tokio::io::AsyncWriteExt;
    let limits = accept::Limits { answer: Duration::from_millis(500), connections: 1, ..accept::Limits::default() };
    let (local, _stop) = limited(limits).await;
    let mut silent = tokio::net::TcpStream::connect(local).await.unwrap();
    // One after the other until nothing more fits on the way, and no answer is read.
    let asked = "GET /page/base.css HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    let full = async { while silent.write_all(asked.as_bytes()).await.is_ok() {} };
    let hung_up = tokio::time::timeout(Duration::from_secs(20), full).await;
    assert!(hung_up.is_ok(), "who reads nothing still holds a connection");
    let url = format!("http://{local}/healthz");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while client().get(&url).send().await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "no room though it was hung up on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn of_the_visitors_of_a_proxy_on_this_host_one_who_guesses_keeps_out_himself() {
    const TOKEN: &str = "0123456789abcdef";
    for behind_tls in [true, false] {
        let open = open_to(streaming(), Some(TOKEN), behind_tls).await;
        let ask = async |token: &str, visitor: &str| {
            let asked = client().get(format!("{}/metrics", open.base)).bearer_auth(token);
            asked.header("x-forwarded-for", visitor).send().await.unwrap().status().as_u16()
        };
        // What a visitor says of itself stands before what the proxy adds.
        for n in 0..8 {
            ask("a wrong one, of 24 bytes", &format!("10.0.0.{n}, 192.0.2.1")).await;
        }
        assert_eq!(ask(TOKEN, "192.0.2.1").await, 429);
        assert_eq!(ask(TOKEN, "192.0.2.2").await, if behind_tls { 200 } else { 429 });
        // A webhook without a secret may come from this host, but the world comes by the proxy.
        let webhook = client().post(format!("{}/webhooks/supabase", open.base)).body("{}").send().await.unwrap();
        assert_eq!(webhook.status() == 403, behind_tls, "{}", webhook.status());
    }
}
