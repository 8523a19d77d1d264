//! What a person sees who types a verb: the real binary, in an empty folder, with an empty environment.

#![allow(clippy::unwrap_used)] // a test that panics has failed, which is what it is for

use std::process::{Command, Output};
use std::time::Duration;

use jiff::Timestamp;
use lockstep::http::{self, Window};
use lockstep::status::{State, Status, Verdict, View};
use tokio::sync::watch;

fn lockstep(args: &[&str], env: &[(&str, &str)], files: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.args(args).current_dir(folder.path()).env_clear().envs(env.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The one line of a refusal that ended with exit code 2.
fn refusal(args: &[&str], env: &[(&str, &str)], files: &[(&str, &str)]) -> String {
    let output = lockstep(args, env, files);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{args:?} {env:?} said: {said}");
    assert_eq!(text(&output.stdout), "");
    said
}

const SOURCE: (&str, &str) = ("DATABASE_URL", "postgres://u:hush@127.0.0.1:1/d");
const TARGET: (&str, &str) = ("SUPABASE_URL", "http://127.0.0.1:1");

#[test]
fn what_is_missing_or_wrong_is_one_line_and_exit_2_before_anything_is_touched() {
    let anon = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.c2ln"; // {"role":"anon"}
    for (env, word) in [
        (vec![], "DATABASE_URL: is not set"),
        (vec![SOURCE, TARGET, ("SUPABASE_KEY", "sb_publishable_x")], "publishable key"),
        (vec![SOURCE, TARGET, ("SUPABASE_KEY", anon)], "`anon` key"),
        (vec![SOURCE, ("SUPABASE_URL", "https://x.supabase.co/rest/v1/")], "leave the path `/rest/v1/` off"),
        (vec![("DATABASE_URL", "mysql://u:hush@h/d")], "DATABASE_URL in the environment"),
        (vec![("LOCKSTEP_LISTEN", "0.0.0.0:9464")], "LOCKSTEP_TOKEN"),
        (vec![("LOCKSTEP_CONFIG", "nowhere.toml")], "nowhere.toml: there is no such file"),
    ] {
        let said = refusal(&["run"], &env, &[]);
        assert!(said.starts_with("error: ") && said.contains(word) && !said.contains("hush"), "{env:?} said: {said}");
    }
    // The window of a service would take these two; who only wants to know is told.
    for (env, word) in [(vec![SOURCE], "SUPABASE_URL: is not set"), (vec![SOURCE, TARGET], "SUPABASE_KEY: is not set")]
    {
        let said = refusal(&["run", "--check"], &env, &[]);
        assert!(said.contains(word), "{env:?} said: {said}");
    }
    let said = refusal(&["run"], &[], &[("lockstep.toml", "[source]\nslto = \"x\"\n")]);
    assert_eq!(said, "error: source.slto in lockstep.toml: there is no such setting; did you mean `slot`?\n");
    for (toml, word) in [
        (
            "[schedule]\nreconcile = [\"0 25 * * *\"]\n",
            "schedule.reconcile in lockstep.toml: `0 25 * * *` is not a cron expression: hour `25`",
        ),
        ("[schedule]\nreconcile = [\"hourly\"]\n", "it has 1 fields"),
        ("[schedule]\ntimezone = \"Berlin\"\n", "schedule.timezone in lockstep.toml: `Berlin` is not a time zone"),
        (
            "[table.\"public.x\"]\nreconcile = [\"0 0 30 2 *\"]\n",
            "[table.\"public.x\"] reconcile: `0 0 30 2 *` never comes",
        ),
    ] {
        let said = refusal(&["run"], &[], &[("lockstep.toml", toml)]);
        assert!(said.contains(word), "{toml} said: {said}");
    }
    let said = refusal(&["--config", "mine.toml", "run"], &[], &[("mine.toml", "[source\n")]);
    assert!(said.contains("mine.toml, line 1: "), "{said}");
    let said = refusal(&["run"], &[SOURCE, TARGET], &[(".env", "SUPABASE_KEY='sb_publishable_x'\n")]);
    assert!(said.contains("SUPABASE_KEY in .env: "), "{said}");
}

#[test]
fn help_and_version_answer_and_an_unknown_verb_is_exit_2() {
    let help = lockstep(&["--help"], &[], &[]);
    assert!(help.status.success());
    for word in ["DATABASE_URL", "SUPABASE_URL", "SUPABASE_KEY", "run", "status"] {
        assert!(text(&help.stdout).contains(word), "--help does not mention {word}");
    }
    let version = lockstep(&["--version"], &[], &[]);
    assert_eq!(text(&version.stdout), format!("lockstep {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(lockstep(&["dance"], &[], &[]).status.code(), Some(2));
}

#[test]
fn status_says_clearly_when_nothing_runs() {
    // Bound and dropped: a port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = lockstep(&["status"], &[("LOCKSTEP_LISTEN", &port.to_string())], &[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("no Lockstep is running at {port}")) && said.contains("lockstep run"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_the_service_knows_and_exits_0_only_in_step() {
    let mut known = Status::starting("to_supabase", "db:5432/shop", "https://abc.supabase.co");
    known.state = State::Streaming;
    known.source.set(true, Timestamp::now());
    known.target.set(true, Timestamp::now());
    known.lag.seconds = Some(0.002);
    let (publish, status) = watch::channel(known);
    let listener = http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let listen = listener.local_addr().unwrap().to_string();
    let token = "0123456789abcdef";
    let window = Window::to_look_at(status, Some(token.into()), Duration::from_secs(10));
    let (_stop, shutdown) = watch::channel(false);
    tokio::spawn(http::serve(listener, window, shutdown));
    let ask =
        |args: &[&str], token: &str| lockstep(args, &[("LOCKSTEP_LISTEN", &listen), ("LOCKSTEP_TOKEN", token)], &[]);

    let output = ask(&["status"], token);
    let said = text(&output.stdout);
    assert!(output.status.success() && said.starts_with("in step\n"), "{said}{}", text(&output.stderr));
    assert!(said.contains("db:5432/shop") && !said.contains('\x1b'), "{said}");

    publish.send_modify(|status| status.target.connected = false);
    let output = ask(&["status", "--json"], token);
    let view: View = serde_json::from_str(&text(&output.stdout)).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(view.verdict, Verdict::Broken("the target is not connected".into()));

    let output = ask(&["status"], "another-token-of-16");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("wants another token"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_fault() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.args(["setup", "supabase", "--print"]).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(141), ""));
}

/// A page that names a verb which is not there, or has another name, fails here.
#[test]
fn every_verb_that_the_readme_names_answers_to_help() {
    let readme = include_str!("../README.md");
    let mut verbs: Vec<&str> = readme
        .match_indices("lockstep ")
        // Only code: at the start of a line or of a code span.
        .filter(|(at, _)| readme[..*at].ends_with(['\n', '`']))
        .filter_map(|(at, found)| readme[at + found.len()..].split(|c: char| !c.is_ascii_lowercase()).next())
        .filter(|verb| !verb.is_empty())
        .collect();
    verbs.sort_unstable();
    verbs.dedup();
    assert!(verbs.contains(&"run") && verbs.contains(&"status"), "{verbs:?}");
    let missing: Vec<_> = verbs.iter().filter(|verb| !lockstep(&[verb, "--help"], &[], &[]).status.success()).collect();
    assert!(missing.is_empty(), "README.md names verbs that are not there: {missing:?}");
}
