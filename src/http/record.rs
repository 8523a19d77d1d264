//! Every action of a person or a script goes into the time line: who, what, and what became of it. Looking is no action.

use axum::http::{Method, StatusCode};
use axum::response::Response;

use super::guard::Caller;
use crate::types::{Activity, Timeline};

/// What a handler knows better than its path.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub what: String,
    pub tables: Vec<String>,
    /// Why it was refused.
    pub why: Option<String>,
}

/// Tells the time line of a request that was answered.
pub(super) fn action(timeline: &Timeline, method: &Method, path: &str, caller: &Caller, answer: &Response) {
    if !method.is_safe() {
        timeline.tell(line(method, path, caller, answer.status(), answer.extensions().get()));
    }
}

fn line(method: &Method, path: &str, caller: &Caller, status: StatusCode, said: Option<&Said>) -> Activity {
    let what = match said {
        Some(said) if !said.what.is_empty() => said.what.clone(),
        _ => by_path(method, path),
    };
    let end = match (status, said.and_then(|said| said.why.as_deref())) {
        (status, _) if status.is_success() || status.is_redirection() => "done".to_owned(),
        (status, Some(why)) => format!("refused ({}): {why}", status.as_u16()),
        (status, None) => format!("refused ({})", status.as_u16()),
    };
    let tables = said.map_or(&[][..], |said| &said.tables);
    let line = Activity::new(kind(path), caller.who.clone(), what);
    match tables {
        [one] => line.at(one.clone()).because(end),
        [] => line.because(end),
        [first, ..] => line.because(format!("{end}; {first} and {} more", tables.len() - 1)),
    }
}

/// What a path is about.
fn kind(path: &str) -> &'static str {
    match path.split('/').nth(2).unwrap_or("") {
        "verify" | "sync" => "job",
        "tables" => "table",
        "parked" => "parked",
        "settings" => "settings",
        "session" => "session",
        "workflows" | "workflow-runs" => "workflow",
        _ => "command",
    }
}

/// `POST /api/workflows/7/disable` is `disable workflows 7`.
fn by_path(method: &Method, path: &str) -> String {
    let parts: Vec<&str> = path.trim_start_matches("/api/").split('/').collect();
    let verb = match *method {
        Method::DELETE => "delete",
        Method::PUT => "change",
        _ => "create",
    };
    match parts[..] {
        ["session"] if *method == Method::DELETE => "log out".into(),
        ["session"] => "log in".into(),
        ["settings"] => "save the project's address and key".into(),
        ["settings", "test"] => "test a project".into(),
        [what, id, action] => format!("{action} {what} {id}"),
        [what, action] if *method == Method::POST => format!("{action} {what}"),
        [what, id] => format!("{verb} {what} {id}"),
        _ => format!("{verb} {}", parts.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_told_in_words_with_who_and_what_became_of_it() {
        let caller = Caller::anybody();
        let told = |method: Method, path: &str, status: u16, said: Option<Said>| {
            let line = line(&method, path, &caller, StatusCode::from_u16(status).unwrap(), said.as_ref());
            assert_eq!(line.who, "this host");
            (line.kind, line.what, line.table, line.detail.unwrap())
        };
        let said = Said { what: "pause".into(), tables: vec!["agents".into()], why: Some("it is paused".into()) };
        assert_eq!(
            told(Method::POST, "/api/tables/agents/pause", 409, Some(said)),
            ("table".into(), "pause".into(), Some("agents".into()), "refused (409): it is paused".into())
        );
        for (method, path, what) in [
            (Method::POST, "/api/workflows", "create workflows"),
            (Method::PUT, "/api/workflows/7", "change workflows 7"),
            (Method::POST, "/api/workflows/7/disable", "disable workflows 7"),
            (Method::POST, "/api/workflow-runs/replay", "replay workflow-runs"),
            (Method::DELETE, "/api/session", "log out"),
        ] {
            assert_eq!(told(method, path, 200, None).1, what);
        }
    }
}
