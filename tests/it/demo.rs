//! The first thing that a newcomer types: it comes up, is in step, is found healthy, and leaves nothing running.

use std::path::Path;
use std::process::Stdio;

use lockstep::lab::Temp;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::rig::{PATIENCE, until};

fn lockstep(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.args(args).current_dir(dir).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    // Where PostgREST is kept, and programs are found.
    for name in ["HOME", "PATH", "XDG_CACHE_HOME"] {
        command.envs(std::env::var(name).map(|value| (name, value)));
    }
    command
}

/// Runs it to its end: the exit code, and what it printed.
async fn ends(command: &mut Command) -> (Option<i32>, String) {
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

async fn interrupted(mut demo: Child) -> Option<i32> {
    let pid = rustix::process::Pid::from_raw(demo.id()? as i32)?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    tokio::time::timeout(PATIENCE, demo.wait()).await.expect("it ends").unwrap().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_comes_up_healthy_comes_up_again_and_leaves_nothing_running() {
    let temp = Temp::new("demo").unwrap();
    let dir = temp.path().join("here");
    let place = dir.to_str().unwrap();
    let demo =
        lockstep(temp.path(), &["demo", "--dir", place, "--traffic", "20"]).stdout(Stdio::null()).spawn().unwrap();
    let kept = dir.join("demo.json");
    until("the demo is up", async || kept.exists()).await;
    let facts: Value = serde_json::from_str(&std::fs::read_to_string(&kept).unwrap()).unwrap();
    let text = |name: &str| facts[name].as_str().unwrap().to_owned();
    let listen = text("page_url").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let with = |args: &[&str]| {
        let mut command = lockstep(temp.path(), args);
        command.env("DATABASE_URL", text("source_url")).env("SUPABASE_URL", text("supabase_url"));
        command.env("SUPABASE_KEY", text("service_key")).env("LOCKSTEP_LISTEN", &listen);
        command
    };
    until("it is in step", async || ends(&mut with(&["status"])).await.0 == Some(0)).await;
    let (code, said) = ends(&mut with(&["doctor"])).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(", 0 to fix") || said.ends_with(" ok\n"), "{said}");
    assert_eq!(said.lines().find(|line| line.starts_with("FAIL") || line.starts_with("warn")), None, "{said}");
    let (code, said) = ends(&mut with(&["verify"])).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(interrupted(demo).await, Some(0));
    until("nothing of it runs", async || {
        let ours = |pid: &str| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(place))
        };
        let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        !all.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).any(|pid| ours(&pid))
    })
    .await;
    let (code, said) = ends(&mut lockstep(temp.path(), &["demo", "--dir", place, "--exit-when-synced"])).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("   equal").count(), 12, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_is_in_step_with_nothing_of_ours_installed_too() {
    let temp = Temp::new("demo").unwrap();
    let dir = temp.path().join("here");
    let args = ["demo", "--dir", dir.to_str().unwrap(), "--apply", "tables", "--exit-when-synced"];
    let (code, said) = ends(&mut lockstep(temp.path(), &args)).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("   equal").count(), 12, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_is_in_step_by_triggers_too() {
    let temp = Temp::new("demo").unwrap();
    let dir = temp.path().join("here");
    let args = ["demo", "--dir", dir.to_str().unwrap(), "--capture", "journal", "--exit-when-synced"];
    let (code, said) = ends(&mut lockstep(temp.path(), &args)).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("   equal").count(), 12, "{said}");
    let log = std::fs::read_to_string(dir.join("lockstep.log")).unwrap();
    assert!(log.contains("capture reads the journal"), "{log}");
}
