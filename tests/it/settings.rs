//! Settings through the window: a service without a project waits for one, tests what it is given line by line, keeps it
//! in `.env`, and goes on with it; the key is never seen again.

use std::os::unix::fs::PermissionsExt;

use lockstep::lab::{PairOptions, SupabaseOptions};
use reqwest::Method;
use serde_json::{Value, json};

use super::bad_input::supabase;
use super::rig::{Rig, public, until};

const TABLES: &str = "create table person (id int primary key, name text not null)";

/// A request to the window: (status, answer).
pub async fn ask(rig: &Rig, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let mut request = rig.web.request(method, format!("http://127.0.0.1:{}{path}", rig.http));
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn test(rig: &Rig, url: &str, key: &str) -> Vec<Value> {
    let body = json!({"supabase_url": url, "supabase_key": key});
    let (status, answer) = ask(rig, Method::POST, "/api/settings/test", Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    let checks = answer["checks"].as_array().unwrap().clone();
    let codes: Vec<&str> = checks.iter().map(|check| check["code"].as_str().unwrap()).collect();
    let all = ["address", "dns", "tls", "key", "role", "schema", "sql", "version", "grants", "tables"];
    assert_eq!(codes, all);
    checks
}

/// The first check that fails is this one, those before it pass, and it names what to do.
fn fails_at(checks: &[Value], code: &str, word: &str) {
    let first = checks.iter().find(|check| check["state"] == "fail").unwrap_or(&Value::Null);
    assert_eq!(first["code"], code, "{checks:#?}");
    let said = format!("{} {}", first["line"], first["fix"]);
    assert!(said.contains(word) && first["fix"].is_string(), "{first}");
    let after = checks.iter().skip_while(|check| check["code"] != code).skip(1);
    // The key can be judged without the project.
    assert!(after.filter(|check| check["code"] != "key").all(|check| check["state"] == "skipped"), "{checks:#?}");
}

fn states<'a>(checks: &'a [Value], state: &str) -> Vec<&'a str> {
    checks.iter().filter(|check| check["state"] == state).map(|check| check["code"].as_str().unwrap()).collect()
}

/// Starts without the project's address and key.
fn without_a_project(rig: &mut Rig) {
    for name in ["SUPABASE_URL", "SUPABASE_KEY"] {
        rig.env.push((name.into(), String::new())); // an empty variable counts as not set
    }
    rig.start();
}

async fn waits(rig: &Rig) {
    let state = async || rig.status().await.is_some_and(|status| status["state"] == "not_configured");
    until("the window says that it is not configured", state).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_a_project_waits_in_the_window_and_goes_on_with_what_it_is_given() {
    let options = PairOptions { supabase: supabase(), ..PairOptions::default() };
    let mut rig = Rig::with(options, TABLES).await;
    rig.pair.source.execute("insert into person values (1, 'Ada')").await.unwrap();
    let env = rig.dir.path().join(".env");
    std::fs::write(&env, "# ours\nLOCKSTEP_LOG=info # stays\n").unwrap();
    without_a_project(&mut rig);
    waits(&rig).await;
    let status = rig.status().await.unwrap();
    assert_eq!(status["missing"], json!(["SUPABASE_URL", "SUPABASE_KEY"]));
    assert_eq!(status["verdict"], "broken");
    assert_eq!(ask(&rig, Method::GET, "/readyz", None).await, (503, json!("not configured\n")));
    let (code, said) = ask(&rig, Method::POST, "/api/sync", None).await;
    assert!(code == 503 && said["error"].as_str().unwrap().contains("not configured"), "{said}");
    assert!(rig.tail().contains("SUPABASE_URL: is not set"), "{}", rig.tail());

    let (url, key) = (rig.pair.supabase.rest_url(), rig.pair.supabase.secret_key().to_owned());
    let wrong = "sb_secret_wrong_hush";
    fails_at(&test(&rig, "nonsense", &key).await, "address", "https://");
    fails_at(&test(&rig, "https://no-such-host.invalid", &key).await, "dns", "no host");
    fails_at(&test(&rig, "http://127.0.0.1:1", &key).await, "tls", "cannot be reached");
    fails_at(&test(&rig, &url, rig.pair.supabase.publishable_key()).await, "key", "publishable");
    fails_at(&test(&rig, &url, wrong).await, "role", "key");
    let checks = test(&rig, &url, &key).await;
    assert_eq!(states(&checks, "ok").len(), checks.len(), "{checks:#?}");
    assert_eq!(std::fs::read_to_string(&env).unwrap(), "# ours\nLOCKSTEP_LOG=info # stays\n", "a test writes nothing");

    let save = async |key: &str| {
        ask(&rig, Method::PUT, "/api/settings", Some(json!({"supabase_url": url, "supabase_key": key}))).await
    };
    let (code, said) = save(rig.pair.supabase.anon_key()).await;
    assert_eq!((code, &said["field"]), (400, &json!("supabase_key")), "{said}");
    let (code, said) = save("sb_secret_x'; touch /tmp/x").await;
    assert_eq!((code, &said["field"]), (400, &json!("supabase_key")), "{said}");
    // One that the project refuses is kept, and told: the project may only be away.
    assert_eq!(save(wrong).await.0, 200);
    let stopped = async || rig.status().await.is_some_and(|status| status["state"] == "stopped");
    until("the wrong key is told", stopped).await;
    assert!(rig.status().await.unwrap()["cause"].as_str().unwrap().contains("refused the key"));
    let (code, shown) = save(&key).await;
    assert_eq!((code, &shown["key_set"], &shown["key_kind"]), (200, &json!(true), &json!("secret")), "{shown}");
    rig.settled().await;
    rig.assert_equal(&public(&["person"])).await;

    assert_eq!(
        std::fs::read_to_string(&env).unwrap(),
        format!("# ours\nLOCKSTEP_LOG=info # stays\nSUPABASE_URL={url}\nSUPABASE_KEY={key}\n")
    );
    assert_eq!(std::fs::metadata(&env).unwrap().permissions().mode() & 0o777, 0o600);
    let mut said = std::fs::read_to_string(rig.log()).unwrap();
    for path in ["/api/settings", "/api/status", "/metrics", "/"] {
        said += &ask(&rig, Method::GET, path, None).await.1.to_string();
    }
    for secret in [&key, wrong, rig.pair.source.password()] {
        assert!(!said.contains(secret), "{secret} is shown");
    }
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
    // The next start has it from the file.
    rig.start();
    rig.settled().await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_in_use_is_sent_to_no_other_address_and_the_environment_is_not_overruled() {
    let mut rig = Rig::new(TABLES).await;
    rig.start();
    rig.settled().await;
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = format!("http://{}", elsewhere.local_addr().unwrap());
    for (method, path) in [(Method::POST, "/api/settings/test"), (Method::PUT, "/api/settings")] {
        let (code, said) = ask(&rig, method, path, Some(json!({"supabase_url": other}))).await;
        assert_eq!((code, &said["field"]), (400, &json!("supabase_key")), "{said}");
    }
    let asked = tokio::time::timeout(std::time::Duration::from_millis(100), elsewhere.accept()).await;
    assert!(asked.is_err(), "somebody came");
    // For the address in use no key is to be given again.
    let url = rig.pair.supabase.rest_url();
    let (code, answer) = ask(&rig, Method::POST, "/api/settings/test", Some(json!({"supabase_url": url}))).await;
    assert!(code == 200 && answer["checks"].as_array().unwrap().iter().all(|c| c["state"] != "fail"), "{answer}");
    let new = json!({"supabase_url": other, "supabase_key": "sb_secret_new"});
    let (code, said) = ask(&rig, Method::PUT, "/api/settings", Some(new)).await;
    assert!(
        code == 409 && said["error"].as_str().unwrap().contains("SUPABASE_URL is set in the environment"),
        "{said}"
    );
    assert!(!rig.dir.path().join(".env").exists());
    assert_eq!(rig.status().await.unwrap()["state"], "streaming", "nothing was disturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_over_there_is_listed_with_the_sql_that_makes_it() {
    let tls = SupabaseOptions { tls: true, ..supabase() };
    let mut rig = Rig::bare(PairOptions { supabase: tls, ..PairOptions::default() }, "").await;
    rig.pair.source.execute(TABLES).await.unwrap();
    without_a_project(&mut rig);
    waits(&rig).await;
    let (url, key) = (rig.pair.supabase.rest_url(), rig.pair.supabase.secret_key().to_owned());
    fails_at(&test(&rig, &url, &key).await, "tls", "SUPABASE_CA_FILE");
    assert_eq!(rig.terminate().await, Some(0));

    let ca = rig.dir.path().join("ca.pem");
    std::fs::write(&ca, rig.pair.supabase.ca_pem().unwrap()).unwrap();
    rig.env.push(("SUPABASE_CA_FILE".into(), ca.display().to_string()));
    rig.start();
    waits(&rig).await;
    let checks = test(&rig, &url, &key).await;
    assert_eq!((states(&checks, "fail"), states(&checks, "warn")), (vec!["tables"], vec!["sql"]), "{checks:#?}");
    // What is to be pasted is pasted, as it stands there.
    let owner = rig.pair.supabase.connect_owner().await.unwrap();
    for code in ["sql", "tables"] {
        let check = checks.iter().find(|check| check["code"] == code).unwrap();
        owner.batch_execute(check["sql"].as_str().unwrap()).await.unwrap();
    }
    rig.pair.supabase.reload_schema().await.unwrap();
    let checks = test(&rig, &url, &key).await;
    assert_eq!(states(&checks, "ok").len(), checks.len(), "{checks:#?}");
}
