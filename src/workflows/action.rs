//! What a workflow does: read from `action_config`, checked by its kind, and turned into the request that leaves. Pure.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::{Map, Value};
use url::Url;

use super::condition::Wrong;
use super::row::string;
use super::template::{self, Facts, Name};

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A task for an agent, told to the agent API of the settings.
    TriggerAgentTask {
        agent_id: String,
        action: String,
        payload: Option<Value>,
    },
    Webhook {
        url: String,
        method: String,
        headers: BTreeMap<String, String>,
        body: Option<Value>,
    },
    /// A notification on a channel of the source.
    Notify {
        channel: String,
        payload: Option<Value>,
    },
}

/// Where tasks for agents go.
#[derive(Clone, Debug)]
pub struct AgentApi {
    pub url: Url,
    pub token: Option<SecretString>,
    /// `{agent_id}` and `{action}` stand for the workflow's.
    pub path: String,
}

/// What leaves.
#[derive(Clone, Debug)]
pub enum Request {
    Http(Outgoing),
    Notify { channel: String, payload: String },
}

#[derive(Clone, Debug)]
pub struct Outgoing {
    pub method: String,
    pub url: Url,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// To the agent API, wherever the settings say that it is; anything else must not be a private address.
    pub to_agents: bool,
}

/// Keys of `action_config` that say when, not what.
pub const WHEN: [&str; 3] = ["side", "watched_columns", "condition"];

/// Bytes that Postgres takes as the payload of a notification.
const NOTIFY_BYTES: usize = 7999;
/// Headers that we set ourselves, or that belong to the connection.
const OURS: [&str; 10] = [
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "content-length",
    "transfer-encoding",
    "connection",
    "host",
    "upgrade",
    "te",
    "trailer",
];

impl Action {
    /// Reads one, or says which of its fields is wrong.
    pub fn parse(config: &Map<String, Value>) -> Result<Self, Wrong> {
        let kind = config.get("type").and_then(Value::as_str).unwrap_or_default();
        let known: &[&str] = match kind {
            "trigger_agent_task" => &["agent_id", "action", "payload"],
            "webhook" => &["url", "method", "headers", "body"],
            "notify" => &["channel", "payload"],
            _ => return Err(wrong("type", "must be trigger_agent_task, webhook or notify")),
        };
        let foreign = |key: &&String| *key != "type" && !known.contains(&key.as_str()) && !WHEN.contains(&key.as_str());
        if let Some(key) = config.keys().find(foreign) {
            return Err(wrong(key, &format!("is not known: {kind} takes {}", known.join(", "))));
        }
        for (key, value) in config.iter().filter(|(key, _)| !WHEN.contains(&key.as_str())) {
            template::names(value).map_err(|bad| wrong(key, &bad.to_string()))?;
        }
        let text = |key: &str| match config.get(key) {
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.clone()),
            Some(_) => Err(wrong(key, "must be a text that is not empty")),
            None => Err(wrong(key, &format!("is missing: {kind} needs it"))),
        };
        match kind {
            "trigger_agent_task" => Ok(Self::TriggerAgentTask {
                agent_id: text("agent_id")?,
                action: text("action")?,
                payload: config.get("payload").cloned(),
            }),
            "notify" => {
                let channel = text("channel")?;
                if channel.len() > 63 || channel.contains("{{") || channel.contains('\0') {
                    return Err(wrong("channel", "must be the name of a channel: at most 63 bytes, and no template"));
                }
                Ok(Self::Notify { channel, payload: config.get("payload").cloned() })
            }
            _ => webhook(config, text("url")?),
        }
    }

    /// The fields of the rows that its templates name.
    pub fn names(&self) -> Vec<Name> {
        let of =
            |value: &Option<Value>| value.iter().flat_map(|value| template::names(value).unwrap_or_default()).collect();
        let texts = |texts: &[&String]| -> Vec<Name> {
            texts.iter().flat_map(|text| template::names(&Value::from(text.as_str())).unwrap_or_default()).collect()
        };
        let (mut names, more): (Vec<Name>, Vec<Name>) = match self {
            Self::TriggerAgentTask { agent_id, action, payload } => (of(payload), texts(&[agent_id, action])),
            Self::Webhook { url, headers, body, .. } => {
                (of(body), texts(&headers.values().chain([url]).collect::<Vec<_>>()))
            }
            Self::Notify { payload, .. } => (of(payload), Vec::new()),
        };
        names.extend(more);
        names
    }

    /// What leaves for this change.
    pub fn render(&self, facts: &Facts, agents: Option<&AgentApi>) -> Result<Request, Wrong> {
        match self {
            Self::TriggerAgentTask { agent_id, action, payload } => {
                let api = agents.ok_or_else(|| {
                    Wrong::new("agent_api.url", "is not set: the agent API's address, LOCKSTEP_AGENT_API_URL")
                })?;
                let (agent_id, action) = (template::text(agent_id, facts)?, template::text(action, facts)?);
                if agent_id.is_empty() || action.is_empty() {
                    return Err(wrong(
                        if agent_id.is_empty() { "agent_id" } else { "action" },
                        "is empty for this row",
                    ));
                }
                let payload = payload.as_ref().map(|payload| template::json(payload, facts)).transpose()?;
                let mut body = format!("{{\"agent_id\":{},\"action\":{},", string(&agent_id), string(&action));
                if let Some(payload) = payload {
                    body += &format!("\"payload\":{payload},");
                }
                body += &event(facts)[1..];
                let url = api.task(&agent_id, &action)?;
                let headers = BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]);
                Ok(Request::Http(Outgoing { method: "POST".into(), url, headers, body, to_agents: true }))
            }
            Self::Webhook { url, method, headers, body } => {
                let body = match body {
                    Some(body) => template::json(body, facts)?,
                    None => event(facts),
                };
                let url = template::url(url, facts).map_err(|bad| wrong("url", &bad.to_string()))?;
                let url = Url::parse(&url).map_err(|error| wrong("url", &error.to_string()))?;
                let mut filled = BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]);
                for (name, value) in headers {
                    let value = template::text(value, facts)?;
                    if http::HeaderValue::from_str(&value).is_err() {
                        return Err(wrong(&format!("headers.{name}"), "has characters that no header may have"));
                    }
                    filled.insert(name.to_ascii_lowercase(), value);
                }
                let method = method.clone();
                Ok(Request::Http(Outgoing { method, url, headers: filled, body, to_agents: false }))
            }
            Self::Notify { channel, payload } => {
                let payload = match payload {
                    // A text is sent as it is, anything else as JSON.
                    Some(Value::String(text)) => template::text(text, facts)?,
                    Some(payload) => template::json(payload, facts)?,
                    None => short(facts),
                };
                if payload.len() > NOTIFY_BYTES {
                    let cause = format!("has {} bytes, and a notification takes {NOTIFY_BYTES}", payload.len());
                    return Err(wrong("payload", &cause));
                }
                Ok(Request::Notify { channel: channel.clone(), payload })
            }
        }
    }
}

impl AgentApi {
    fn task(&self, agent_id: &str, action: &str) -> Result<Url, Wrong> {
        let path = self.path.replace("{agent_id}", &template::percent(agent_id));
        let path = path.replace("{action}", &template::percent(action));
        // `.` and `..` alone would be taken for directories.
        if [agent_id, action].iter().any(|name| matches!(*name, "." | "..")) {
            return Err(wrong("agent_id", "cannot be `.` or `..`"));
        }
        let text = format!("{}{path}", self.url.as_str().trim_end_matches('/'));
        Url::parse(&text).map_err(|error| Wrong::new("agent_api.path", error.to_string()))
    }
}

fn webhook(config: &Map<String, Value>, url: String) -> Result<Action, Wrong> {
    // Who fills the host in from a row lets whoever writes rows choose where we go.
    // Parsed as it will be, so that whatever a parser forgives is forgiven here too.
    let filled = |value: &str| Url::parse(&template::sample(&url, value).ok()?).ok();
    let (Some(parsed), Some(other)) = (filled("a"), filled("b")) else {
        return Err(wrong("url", "is not an address such as https://example.com/hook"));
    };
    let host_is_fixed = parsed.host() == other.host() && parsed.scheme() == other.scheme();
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
        return Err(wrong("url", "must begin with https:// or http://"));
    }
    if !host_is_fixed {
        return Err(wrong("url", "may hold templates only behind the host: https://example.com/{{new.id}}"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(wrong("url", "holds a password; put it into headers.authorization"));
    }
    let method = match config.get("method") {
        None => "POST".to_owned(),
        Some(Value::String(method)) if matches!(method.as_str(), "POST" | "PUT" | "PATCH" | "DELETE") => method.clone(),
        Some(_) => return Err(wrong("method", "must be POST, PUT, PATCH or DELETE")),
    };
    let mut headers = BTreeMap::new();
    match config.get("headers") {
        None => {}
        Some(Value::Object(map)) if map.len() <= 30 => {
            for (name, value) in map {
                let place = format!("headers.{name}");
                let text = value.as_str().ok_or_else(|| wrong(&place, "must be a text"))?;
                if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                    return Err(wrong(&place, "is not the name of a header"));
                }
                if OURS.contains(&name.to_ascii_lowercase().as_str()) {
                    return Err(wrong(&place, "is set by Lockstep"));
                }
                if http::HeaderValue::from_str(text).is_err() {
                    return Err(wrong(&place, "has characters that no header may have"));
                }
                headers.insert(name.clone(), text.to_owned());
            }
        }
        Some(_) => return Err(wrong("headers", "must be an object of at most 30 names and texts")),
    }
    Ok(Action::Webhook { url, method, headers, body: config.get("body").cloned() })
}

/// The whole change: what is sent where the workflow says nothing else.
fn event(facts: &Facts) -> String {
    let none = || "null".to_owned();
    format!(
        "{{\"run_id\":{},\"workflow\":{},\"workflow_id\":{},\"event\":{},\"table\":{},\"key\":{},\"committed_at\":{},\
         \"new\":{},\"old\":{}}}",
        string(&facts.run_id),
        string(&facts.workflow_name),
        string(&facts.workflow_id),
        string(&facts.event),
        string(&facts.table),
        facts.key,
        facts.committed_at.as_deref().map_or_else(none, string),
        facts.new.clone().unwrap_or_else(none),
        facts.old.clone().unwrap_or_else(none),
    )
}

/// The change without its rows: a notification is small.
fn short(facts: &Facts) -> String {
    format!(
        "{{\"run_id\":{},\"workflow\":{},\"event\":{},\"table\":{},\"key\":{}}}",
        string(&facts.run_id),
        string(&facts.workflow_name),
        string(&facts.event),
        string(&facts.table),
        facts.key,
    )
}

fn wrong(field: &str, cause: &str) -> Wrong {
    Wrong::new(format!("action_config.{field}"), cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflows::change::Sides;
    use serde_json::json;

    fn parse(config: Value) -> Result<Action, Wrong> {
        Action::parse(config.as_object().unwrap())
    }

    fn facts() -> Facts {
        let new = r#"{"id":7,"agent_id":"a/../b","name":"Ann"}"#;
        Facts {
            run_id: "r".into(),
            workflow_id: "w".into(),
            workflow_name: "Greet".into(),
            event: "INSERT".into(),
            table: "public.agents".into(),
            key: "[\"7\"]".into(),
            committed_at: None,
            new: Some(new.into()),
            old: None,
            sides: Sides::parse(Some(new), None).unwrap(),
        }
    }

    #[test]
    fn the_example_of_the_mission_becomes_a_task_for_its_agent() {
        let config =
            json!({"type": "trigger_agent_task", "agent_id": "central_orchestrator", "action": "onboard_new_agent"});
        let api = AgentApi {
            url: Url::parse("http://127.0.0.1:8000/api/").unwrap(),
            token: None,
            path: "/agents/{agent_id}/tasks".into(),
        };
        let Request::Http(request) = parse(config).unwrap().render(&facts(), Some(&api)).unwrap() else { panic!() };
        assert_eq!(request.url.as_str(), "http://127.0.0.1:8000/api/agents/central_orchestrator/tasks");
        let body: Value = serde_json::from_str(&request.body).unwrap();
        assert_eq!(
            (&body["action"], &body["new"]["name"], &body["event"]),
            (&json!("onboard_new_agent"), &json!("Ann"), &json!("INSERT"))
        );
    }

    #[test]
    fn a_name_from_a_row_cannot_climb_out_of_the_agents_path() {
        let config = json!({"type": "trigger_agent_task", "agent_id": "{{new.agent_id}}", "action": "x"});
        let api =
            AgentApi { url: Url::parse("http://h/").unwrap(), token: None, path: "/agents/{agent_id}/tasks".into() };
        let Request::Http(request) = parse(config).unwrap().render(&facts(), Some(&api)).unwrap() else { panic!() };
        assert_eq!(request.url.path(), "/agents/a%2F..%2Fb/tasks");
    }

    #[test]
    fn what_is_wrong_with_an_action_is_named() {
        for (config, field) in [
            (json!({}), "type"),
            (json!({"type": "shell"}), "type"),
            (json!({"type": "trigger_agent_task", "action": "x"}), "agent_id"),
            (json!({"type": "trigger_agent_task", "agent_id": "", "action": "x"}), "agent_id"),
            (json!({"type": "trigger_agent_task", "agent_id": "a", "action": "x", "agent": 1}), "agent"),
            (json!({"type": "trigger_agent_task", "agent_id": "{{agent}}", "action": "x"}), "agent_id"),
            (json!({"type": "webhook"}), "url"),
            (json!({"type": "webhook", "url": "ftp://x/y"}), "url"),
            (json!({"type": "webhook", "url": "https://{{new.host}}/x"}), "url"),
            (json!({"type": "webhook", "url": "https://example.com{{new.host}}/x"}), "url"),
            (json!({"type": "webhook", "url": "https:///{{new.host}}/x"}), "url"),
            (json!({"type": "webhook", "url": "https:{{new.host}}/x"}), "url"),
            (json!({"type": "webhook", "url": "https:\\\\{{new.host}}/x"}), "url"),
            (json!({"type": "webhook", "url": "{{new.scheme}}://example.com/x"}), "url"),
            (json!({"type": "webhook", "url": "https://{{new.user}}@example.com/x"}), "url"),
            (json!({"type": "webhook", "url": "https://u:p@example.com/x"}), "url"),
            (json!({"type": "webhook", "url": "https://example.com", "method": "GET"}), "method"),
            (json!({"type": "webhook", "url": "https://example.com", "headers": {"a b": "c"}}), "headers.a b"),
            (json!({"type": "webhook", "url": "https://example.com", "headers": {"Host": "c"}}), "headers.Host"),
            (json!({"type": "webhook", "url": "https://example.com", "headers": {"x": "a\r\nb: c"}}), "headers.x"),
            (json!({"type": "notify", "channel": 7}), "channel"),
            (json!({"type": "notify", "channel": "{{new.id}}"}), "channel"),
            (json!({"type": "notify", "channel": "a\u{0}"}), "channel"),
        ] {
            assert_eq!(parse(config.clone()).unwrap_err().field, format!("action_config.{field}"), "{config}");
        }
        assert!(parse(json!({"type": "webhook", "url": "https://example.com/{{new.id}}", "condition": {}})).is_ok());
    }

    #[test]
    fn a_notification_too_large_for_postgres_is_an_error() {
        let action = parse(json!({"type": "notify", "channel": "c", "payload": "x".repeat(8000)})).unwrap();
        assert_eq!(action.render(&facts(), None).unwrap_err().field, "action_config.payload");
    }
}
