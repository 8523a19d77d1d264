//! The API, fuzzed from its own description by schemathesis (`make test-api`; not part of `make test`: it takes minutes and
//! needs Python). A live service over a real pair: no answer may be a 5xx but 503 and 504, which mean what they say, and
//! every answer must be one that the description knows.

use std::process::Stdio;

use super::rig::{Rig, public};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make test-api: it takes minutes and needs Python"]
async fn what_the_description_allows_and_what_it_does_not_is_answered_as_described() {
    let program = std::env::var("LOCKSTEP_SCHEMATHESIS").expect("make test-api says where schemathesis is");
    let examples = std::env::var("LOCKSTEP_FUZZ_EXAMPLES").unwrap_or_else(|_| "60".into());
    let tables = "create table agents (id int primary key, name text not null)";
    let mut rig = Rig::new(tables).await;
    rig.env.retain(|(name, _)| !["LOCKSTEP_ACTIVITY", "LOCKSTEP_WORKFLOWS"].contains(&name.as_str()));
    rig.pair.source.execute("insert into agents select i, 'n' || i from generate_series(1, 100) i").await.unwrap();
    rig.start();
    rig.settled().await;
    let hooks = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/checks.py");
    let base = format!("http://127.0.0.1:{}", rig.http);
    let end = tokio::process::Command::new(program)
        .args(["run", &format!("{base}/api/openapi.json"), "--no-color"])
        .args(["--checks", "only_meant_server_errors,status_code_conformance,content_type_conformance"])
        .args(["--checks", "response_schema_conformance,unsupported_method"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", &examples, "--continue-on-failure"])
        // A live view never ends; tests/it/door.rs opens many.
        .args(["--exclude-path", "/api/events", "--request-timeout", "90"])
        .env("SCHEMATHESIS_HOOKS", hooks)
        .current_dir(rig.dir.path())
        .stdin(Stdio::null())
        .status()
        .await
        .unwrap();
    assert!(end.success(), "schemathesis found something; see above\n{}", rig.tail());
    let log = std::fs::read_to_string(rig.log()).unwrap();
    assert!(!rig.has_ended() && !log.contains("panicked"), "{}", rig.tail());
    // Whatever was paused is brought back, and both sides hold the same.
    let _ = rig.verb(&["tables", "resume", "agents"]).await;
    rig.settled().await;
    rig.assert_equal(&public(&["agents"])).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}
