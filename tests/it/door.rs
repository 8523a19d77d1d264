//! The door from outside, with what nobody polite sends: wrong and guessed tokens, foreign pages, broken and endless
//! requests, HTML and SQL where names belong. Nothing breaks, nothing leaks, nothing is done that was not asked for.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::rig::{PATIENCE, Rig, public, until};

const TABLES: &str = "create table person (id int primary key, name text not null)";
const OPERATE: &str = "0123456789abcdef-operate";
const READ: &str = "fedcba9876543210-read";

/// A service in step that demands tokens.
async fn guarded() -> Rig {
    let mut rig = Rig::new(TABLES).await;
    rig.env.extend([("LOCKSTEP_TOKEN", OPERATE), ("LOCKSTEP_READ_TOKEN", READ)].map(|(n, v)| (n.into(), v.into())));
    rig.env.retain(|(name, _)| name != "LOCKSTEP_ACTIVITY");
    rig.start();
    let up = async || get(&rig, "/readyz", &[]).await.is_ok_and(|answer| answer.status() == 200);
    until("both sides are in step", up).await;
    rig
}

async fn send(
    rig: &Rig,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> reqwest::Result<Response> {
    let mut request = rig.web.request(method, format!("http://127.0.0.1:{}{path}", rig.http)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await
}

async fn get(rig: &Rig, path: &str, headers: &[(&str, &str)]) -> reqwest::Result<Response> {
    send(rig, Method::GET, path, headers, "").await
}

async fn json_of(answer: Response) -> Value {
    serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Logs in: the cookie as a browser sends it back, and the word of the page.
async fn log_in(rig: &Rig, token: &str, headers: &[(&str, &str)]) -> (String, String) {
    let answer = send(rig, Method::POST, "/api/session", headers, json!({"token": token}).to_string()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let set = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(set.split("; ").any(|found| found == part), "{set}");
    }
    let cookie = set.split(';').next().unwrap().to_owned();
    (cookie, json_of(answer).await["csrf"].as_str().unwrap().to_owned())
}

/// Bytes as they are; what came back before the other side hung up, or nothing after a while.
async fn raw(rig: &Rig, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", rig.http)).await.unwrap();
    let mut said = Vec::new();
    let talk = async {
        stream.write_all(bytes).await?;
        stream.read_to_end(&mut said).await
    };
    let _ = tokio::time::timeout(Duration::from_secs(3), talk).await;
    String::from_utf8_lossy(&said).into_owned()
}

/// It answers, replicates, and nothing of what came was taken for a wish.
async fn unharmed(rig: &mut Rig) {
    assert!(!rig.has_ended(), "{}", rig.tail());
    let log = std::fs::read_to_string(rig.log()).unwrap();
    for bad in ["panicked", OPERATE, READ] {
        assert!(!log.contains(bad), "the log holds `{bad}`");
    }
    rig.pair.source.execute("insert into person select max(id) + 1, 'new' from person").await.unwrap();
    let there = "select count(*)::text from person where name = 'new'";
    let count = rig.pair.source.value(there).await.unwrap();
    until("the row is there", async || rig.pair.supabase.cluster.value(there).await.unwrap() == count).await;
    let runs = json_of(get(rig, "/api/runs", &[("authorization", &bearer(READ))]).await.unwrap()).await;
    assert_eq!(runs["runs"], json!([]), "somebody's request was carried out");
    rig.assert_equal(&public(&["person"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_looks_changes_and_logs_out_and_each_action_has_its_name() {
    let mut rig = guarded().await;
    rig.pair.source.execute("insert into person values (0, 'first')").await.unwrap();
    // A browser is led to the page, a script is told.
    let led = get(&rig, "/", &[("accept", "text/html,*/*")]).await.unwrap();
    assert_eq!((led.status(), led.headers()["location"].to_str().unwrap()), (StatusCode::SEE_OTHER, "/login"));
    assert_eq!(get(&rig, "/api/status", &[("accept", "text/html")]).await.unwrap().status(), 401);
    let page = get(&rig, "/login?why=wrong", &[]).await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && policy.contains("form-action 'self'"), "{policy}");
    let html = page.text().await.unwrap();
    assert!(html.contains("This is not the token.") && !html.contains("<script"), "{html}");
    let strange = get(&rig, "/login?why=<script>alert(1)</script>", &[]).await.unwrap().text().await.unwrap();
    assert!(!strange.contains("alert(1)"));
    // The form itself, as a browser sends it.
    let form = [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "same-origin")];
    let body = format!("token={OPERATE}");
    let answer = send(&rig, Method::POST, "/api/session", &form, body).await.unwrap();
    assert_eq!((answer.status(), answer.headers()["location"].to_str().unwrap()), (StatusCode::SEE_OTHER, "/"));
    assert!(answer.headers().contains_key("set-cookie"));
    let answer = send(&rig, Method::POST, "/api/session", &form, "token=wrong").await.unwrap();
    assert_eq!(answer.headers()["location"].to_str().unwrap(), "/login?why=wrong");

    let (cookie, csrf) = log_in(&rig, OPERATE, &[]).await;
    let who = json_of(get(&rig, "/api/session", &[("cookie", &cookie)]).await.unwrap()).await;
    assert_eq!((&who["role"], &who["csrf"], &who["login_needed"]), (&json!("operate"), &json!(csrf), &json!(true)));
    let nobody = json_of(get(&rig, "/api/session", &[]).await.unwrap()).await;
    assert_eq!((&nobody["role"], &nobody["login_needed"]), (&Value::Null, &json!(true)));
    let pause = "/api/tables/person/pause";
    let refused = send(&rig, Method::POST, pause, &[("cookie", &cookie)], "").await.unwrap();
    assert_eq!(refused.status(), 403, "without the word");
    let done = send(&rig, Method::POST, pause, &[("cookie", &cookie), ("x-csrf-token", &csrf)], "").await.unwrap();
    assert_eq!(done.status(), 200);
    until("it is brought back", async || rig.verb(&["tables", "resume", "person"]).await.0 == Some(0)).await;
    // The reader's word opens nothing more.
    let (reader, word) = log_in(&rig, READ, &[]).await;
    let with = [("cookie", reader.as_str()), ("x-csrf-token", word.as_str())];
    assert_eq!(get(&rig, "/api/status", &with).await.unwrap().status(), 200);
    let refused = send(&rig, Method::POST, pause, &with, "").await.unwrap();
    assert_eq!(refused.status(), 403);
    assert!(json_of(refused).await["error"].as_str().unwrap().contains("may only look"));
    // A live view ends with its session.
    let mut live = get(&rig, "/api/events", &[("cookie", &cookie)]).await.unwrap();
    assert!(live.chunk().await.unwrap().is_some());
    let out = send(&rig, Method::DELETE, "/api/session", &[("cookie", &cookie)], "").await.unwrap();
    assert_eq!(out.status(), 403, "logging out takes the word too");
    let out = [("cookie", cookie.as_str()), ("x-csrf-token", csrf.as_str())];
    let out = send(&rig, Method::DELETE, "/api/session", &out, "").await.unwrap();
    assert!(out.status() == 204 && out.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(get(&rig, "/api/status", &[("cookie", &cookie)]).await.unwrap().status(), 401);
    let end = async { while live.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(PATIENCE, end).await.expect("the live view of a session that is over ends");

    let told = async |kind: &str| -> Vec<Value> {
        let path = format!("/api/activity?kind={kind}&limit=50");
        let answer = json_of(get(&rig, &path, &[("authorization", &bearer(READ))]).await.unwrap()).await;
        answer["entries"].as_array().cloned().unwrap_or_default()
    };
    until("the time line tells of both", async || told("table").await.len() >= 4 && told("session").await.len() >= 5)
        .await;
    let tables = told("table").await;
    let line = |who: &str, what: &str, detail: &str| {
        tables.iter().any(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            text("who").starts_with(who) && text("what") == what && text("detail").starts_with(detail)
        })
    };
    assert!(line("session ", "pause", "done") && line("cli (bearer)", "resume", "done"), "{tables:#?}");
    let sessions = serde_json::to_string(&told("session").await).unwrap();
    assert!(sessions.contains("not the token") && sessions.contains("log out"), "{sessions}");
    for secret in [OPERATE, READ, &csrf, cookie.split_once('=').unwrap().1] {
        assert!(!sessions.contains(secret));
    }
    // Page by page, nothing twice and nothing left out.
    let all = told("").await;
    let (mut paged, mut path) = (Vec::new(), "/api/activity?limit=3".to_owned());
    loop {
        let answer = json_of(get(&rig, &path, &[("authorization", &bearer(READ))]).await.unwrap()).await;
        paged.extend(answer["entries"].as_array().unwrap().clone());
        match answer["next"].as_i64() {
            Some(next) => path = format!("/api/activity?limit=3&before={next}"),
            None => break,
        }
    }
    assert!(all.len() >= 9 && paged.ends_with(&all), "{} and {}", all.len(), paged.len());
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
    let last = "select what from lockstep.activity order by id desc limit 1";
    assert_eq!(rig.pair.source.value(last).await.unwrap(), "ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_is_kept_waiting_and_a_cookie_that_was_planted_opens_nothing() {
    let mut rig = guarded().await;
    rig.pair.source.execute("insert into person values (0, 'first')").await.unwrap();
    // A number that somebody else knows is not taken over.
    let planted = "lockstep_session=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let (cookie, _) = log_in(&rig, OPERATE, &[("cookie", planted)]).await;
    assert_ne!(cookie, planted);
    assert_eq!(get(&rig, "/api/status", &[("cookie", planted)]).await.unwrap().status(), 401);
    // Logging in again ends the session before.
    let (second, _) = log_in(&rig, OPERATE, &[("cookie", &cookie)]).await;
    assert_eq!(get(&rig, "/api/status", &[("cookie", &cookie)]).await.unwrap().status(), 401);
    // A form on a page of somebody else's logs nobody in.
    for foreign in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("origin", "null")] {
        let body = format!("token={OPERATE}");
        let form = [("content-type", "application/x-www-form-urlencoded"), foreign];
        assert_eq!(send(&rig, Method::POST, "/api/session", &form, body).await.unwrap().status(), 403);
        let sync = [("authorization", bearer(OPERATE)), (foreign.0, foreign.1.into())];
        let sync: Vec<(&str, &str)> = sync.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(send(&rig, Method::POST, "/api/sync", &sync, "").await.unwrap().status(), 403);
    }
    let mut seen = Vec::new();
    for n in 0..12 {
        let answer = match n % 2 {
            0 => {
                get(&rig, "/api/status", &[("authorization", &bearer(&format!("guess-{n}-0123456789")))]).await.unwrap()
            }
            _ => send(&rig, Method::POST, "/api/session", &[], json!({"token": format!("guess {n}")}).to_string())
                .await
                .unwrap(),
        };
        seen.push(answer.status().as_u16());
        if answer.status() == 429 {
            assert!(answer.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
        }
    }
    assert!(seen.starts_with(&[401; 5]) && seen.iter().all(|code| [401, 429].contains(code)), "{seen:?}");
    // A slow machine may take longer for a guess than the first wait is; each wrong one doubles it.
    let right_too = async || {
        let _ = get(&rig, "/api/status", &[("authorization", &bearer("guess-again-0123456789"))]).await.unwrap();
        get(&rig, "/api/status", &[("authorization", &bearer(OPERATE))]).await.unwrap().status() == 429
    };
    until("the right token waits too", right_too).await;
    assert_eq!(get(&rig, "/healthz", &[("authorization", &bearer("x"))]).await.unwrap().status(), 200);
    assert_eq!(get(&rig, "/api/status", &[("cookie", &second)]).await.unwrap().status(), 200, "sessions go on");
    // The wait ends.
    let right = async || {
        get(&rig, "/api/status", &[("authorization", &bearer(OPERATE))]).await.is_ok_and(|a| a.status() == 200)
    };
    until("the right token is taken again", right).await;
    unharmed(&mut rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_polite_sends_is_refused_and_harms_nobody() {
    let mut rig = guarded().await;
    rig.pair.source.execute("insert into person values (0, 'first')").await.unwrap();
    let token = bearer(OPERATE);
    let ours = [("authorization", token.as_str())];
    // Bodies that are too large, broken, nested without end, not text, or of another form.
    let deep = "[".repeat(60_000);
    let bodies: [Vec<u8>; 9] = [
        vec![b'x'; 70_000],
        vec![b'{'; 65_000],
        deep.into_bytes(),
        b"\xff\xfe\x00".to_vec(),
        b"null".to_vec(),
        b"{\"tables\": \"person\"}".to_vec(),
        b"{\"tables\": [1]}".to_vec(),
        b"{\"tables\": [], \"more\": 1}".to_vec(),
        b"{\"tables\": [\"person\"]".to_vec(),
    ];
    for path in ["/api/sync", "/api/verify", "/api/parked/discard", "/api/settings/test", "/api/session"] {
        for body in &bodies {
            let answer = send(&rig, Method::POST, path, &ours, body.clone()).await.unwrap();
            let code = answer.status().as_u16();
            let large = body.len() > 64 << 10;
            assert!(
                code == if large { 413 } else { 400 },
                "{path} {:?} gave {code}",
                String::from_utf8_lossy(&body[..body.len().min(40)])
            );
            assert!(json_of(answer).await["error"].is_string());
        }
    }
    // Names that mean something elsewhere.
    for name in [
        "<script>alert(1)</script>",
        "person'; drop table person; --",
        "\"; select pg_sleep(60); --",
        "../../etc/passwd",
        "person\0",
        "😀",
        "%",
        "a.b.c.d",
        &"n".repeat(9_000),
    ] {
        let path = format!("/api/tables/{}/pause", encoded(name));
        let answer = send(&rig, Method::POST, &path, &ours, "").await.unwrap();
        let code = answer.status().as_u16();
        assert!([400, 404, 431, 414].contains(&code), "{name:.40} gave {code}");
        let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        assert!(kind.is_none_or(|kind| !kind.contains("html")), "{name:.40} came back as a page");
        let sync = json!({"tables": [name]}).to_string();
        let code = send(&rig, Method::POST, "/api/sync", &ours, sync).await.unwrap().status().as_u16();
        assert!([400, 404, 409].contains(&code), "{name:.40} gave {code}");
        for query in ["/api/parked?table=", "/api/activity?kind=", "/api/jobs/"] {
            let code = get(&rig, &format!("{query}{}", encoded(name)), &ours).await.unwrap().status().as_u16();
            assert!(code < 500, "{query}{name:.40} gave {code}");
        }
    }
    for query in
        ["/api/runs?limit=-1", "/api/runs?limit=99999999999999999999", "/api/activity?before=x", "/api/runs?limit="]
    {
        assert_eq!(get(&rig, query, &ours).await.unwrap().status(), 400, "{query}");
    }
    // Ways around the guard.
    for path in [
        "/%2e%2e/api/status",
        "//api/status",
        "/api//status",
        "/api/status/",
        "/API/status",
        "/healthz/../api/status",
        "/login/../api/status",
        "/healthz%2f..%2fapi/status",
        "/api/status;x",
        "/./api/status",
        "/healthz?x=/api/status",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
        let said = raw(&rig, request.as_bytes()).await;
        assert!(!said.contains("checkpoint"), "{path} gave {said}");
        assert!(
            ["401", "404", "400", "200 OK\r\n"].iter().any(|code| said.starts_with(&format!("HTTP/1.1 {code}"))),
            "{path}: {said}"
        );
    }
    // Heads that are no heads, or two at once.
    let host = "host: 127.0.0.1\r\n";
    for (what, bytes) in [
        (
            "two lengths",
            format!(
                "POST /api/sync HTTP/1.1\r\n{host}authorization: {token}\r\ncontent-length: 2\r\ncontent-length: 40\r\n\r\n{{}}"
            ),
        ),
        (
            "a length and chunks",
            format!(
                "POST /api/session HTTP/1.1\r\n{host}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /api/status HTTP/1.1\r\n{host}\r\n"
            ),
        ),
        ("a line in a value", format!("GET /api/status HTTP/1.1\r\n{host}authorization: Bearer x\n{token}\r\n\r\n")),
        ("no host", format!("GET /healthz HTTP/1.1\r\nauthorization: {token}\r\n\r\n")),
        ("another host", format!("GET /api/status HTTP/1.1\r\nhost: evil.example\r\nauthorization: {token}\r\n\r\n")),
        (
            "an address as the target",
            format!(
                "GET http://evil.example/api/status HTTP/1.1\r\nhost: evil.example\r\nauthorization: {token}\r\n\r\n"
            ),
        ),
        (
            "forwarded",
            format!(
                "GET /api/status HTTP/1.1\r\n{host}x-forwarded-for: 127.0.0.1\r\nx-forwarded-host: localhost\r\n\r\n"
            ),
        ),
        (
            "another method by a header",
            format!("GET /api/sync HTTP/1.1\r\n{host}x-http-method-override: POST\r\nauthorization: {token}\r\n\r\n"),
        ),
        ("a tunnel", format!("CONNECT 127.0.0.1:5432 HTTP/1.1\r\n{host}authorization: {token}\r\n\r\n")),
        ("TRACE", format!("TRACE /api/status HTTP/1.1\r\n{host}authorization: {token}\r\n\r\n")),
        ("a head without end", format!("GET / HTTP/1.1\r\n{host}x: {}\r\n\r\n", "y".repeat(200_000))),
        ("many heads", format!("GET / HTTP/1.1\r\n{host}{}\r\n", "x: y\r\n".repeat(300))),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".into()),
        ("noise", "\0\r\n\r\n".into()),
    ] {
        let said = raw(&rig, bytes.as_bytes()).await;
        assert!(!said.contains("checkpoint") && !said.contains("\"job\""), "{what}: {said}");
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{what}: {said}");
        assert!(what != "a head without end" || said.starts_with("HTTP/1.1 431"), "{what}: {said}");
        assert!(!said.contains(OPERATE), "{what} is repeated");
    }
    unharmed(&mut rig).await;
}

fn encoded(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn crowds_and_dawdlers_leave_room_for_others() {
    let mut rig = guarded().await;
    rig.pair.source.execute("insert into person values (0, 'first')").await.unwrap();
    let token = bearer(READ);
    // More live views than there may be: those that are too many are told so, the others go on.
    let mut views = Vec::new();
    for _ in 0..40 {
        views.push(get(&rig, "/api/events", &[("authorization", &token)]).await.unwrap());
    }
    let open = views.iter().filter(|view| view.status() == 200).count();
    assert_eq!(open, 32, "{:?}", views.iter().map(Response::status).collect::<Vec<_>>());
    assert!(views.iter().all(|view| [200, 503].contains(&view.status().as_u16())));
    drop(views);
    let again = async || get(&rig, "/api/events", &[("authorization", &token)]).await.is_ok_and(|a| a.status() == 200);
    until("there is room for a live view again", again).await;
    // Bodies that never end hold no place for long.
    let half = b"POST /api/session HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 60\r\n\r\n{\"token\"";
    let mut slow = Vec::new();
    for _ in 0..260 {
        let mut stream = TcpStream::connect(("127.0.0.1", rig.http)).await.unwrap();
        let _ = stream.write_all(half).await; // one that finds no place is hung up on
        slow.push(stream);
    }
    let probe = async || get(&rig, "/healthz", &[]).await.is_ok_and(|answer| answer.status() == 200);
    let alive = async || tokio::time::timeout(Duration::from_secs(2), probe()).await.unwrap_or(false);
    until("a probe gets through", alive).await;
    let mut said = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, slow[0].read_to_end(&mut said)).await.expect("the first is hung up on");
    assert!(String::from_utf8_lossy(&said).starts_with("HTTP/1.1 408"), "{}", String::from_utf8_lossy(&said));
    unharmed(&mut rig).await;
}
