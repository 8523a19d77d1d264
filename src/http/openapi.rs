//! Every route in one list, and the description that `/api/openapi.json` makes of it. The handlers answer what parts below
//! give them, so their forms are written down here and nowhere else; tests hold the list against the router and the forms
//! against a running service.

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// `GET /api/openapi.json`
pub(super) async fn show() -> Response {
    ([(header::CACHE_CONTROL, "no-cache")], Json(document())).into_response()
}

/// One route as it is described.
struct Route {
    method: &'static str,
    path: &'static str,
    tag: &'static str,
    says: &'static str,
    /// In the path or the query: (name, schema, what it says).
    asks: Vec<(&'static str, Value, &'static str)>,
    body: Option<Value>,
    /// What a success is, and of which kind.
    answer: (u16, &'static str, Value),
    /// Other ends that have a meaning.
    also: &'static [u16],
    open: bool,
}

const JSON: &str = "application/json";

impl Route {
    fn new(method: &'static str, path: &'static str, tag: &'static str, says: &'static str) -> Self {
        let answer = (200, JSON, json!({"type": "object"}));
        Self { method, path, tag, says, asks: Vec::new(), body: None, answer, also: &[], open: false }
    }

    fn ask(mut self, name: &'static str, schema: Value, says: &'static str) -> Self {
        self.asks.push((name, schema, says));
        self
    }

    fn body(mut self, schema: Value) -> Self {
        self.body = Some(schema);
        self
    }

    fn answer(mut self, status: u16, schema: Value) -> Self {
        self.answer = (status, JSON, schema);
        self
    }

    fn text(mut self, kind: &'static str) -> Self {
        self.answer = (200, kind, json!({"type": "string"}));
        self
    }

    fn also(mut self, also: &'static [u16]) -> Self {
        self.also = also;
        self
    }

    fn open(mut self) -> Self {
        self.open = true;
        self
    }

    fn describe(&self) -> Value {
        let parameters: Vec<Value> = self.asks.iter().map(|ask| self.parameter(ask)).collect();
        let (status, kind, schema) = &self.answer;
        let mut responses = Map::new();
        let content = if *status == 204 { json!(null) } else { json!({ *kind: {"schema": schema} }) };
        responses.insert(status.to_string(), response("It is done.", content));
        let mut ends = self.also.to_vec();
        if !self.open {
            ends.push(401);
        }
        if !self.open && self.method != "get" {
            ends.push(403);
        }
        if self.body.is_some() {
            ends.extend([400, 408, 413]);
        }
        if self.asks.iter().any(|(name, ..)| !self.path.contains(&format!("{{{name}}}"))) {
            ends.push(400);
        }
        ends.extend([421, 429]);
        ends.sort_unstable();
        ends.dedup();
        for end in ends {
            let content = match end {
                303 | 304 => json!(null),
                // A probe says what is wrong in a word.
                503 if *kind == "text/plain" => json!({ *kind: {"schema": schema} }),
                _ => json!({ JSON: {"schema": {"$ref": "#/components/schemas/Error"}} }),
            };
            responses.insert(end.to_string(), response(meaning(end), content));
        }
        let mut operation = json!({
            "operationId": self.id(),
            "tags": [self.tag],
            "summary": self.says,
            "parameters": parameters,
            "responses": responses,
        });
        if let Some(schema) = &self.body {
            let required = schema["required"].is_array();
            operation["requestBody"] = json!({"required": required, "content": {JSON: {"schema": schema}}});
        }
        operation["security"] = match self.open {
            true => json!([]),
            false => json!([{}, {"bearer": []}, {"session": []}]), // none at all where no token is set
        };
        operation
    }

    fn parameter(&self, (name, schema, says): &(&str, Value, &str)) -> Value {
        let within = self.path.contains(&format!("{{{name}}}"));
        let place = if within { "path" } else { "query" };
        json!({"name": name, "in": place, "required": within, "schema": schema, "description": says})
    }

    /// `post_api_tables_name_action`
    fn id(&self) -> String {
        let words = self.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        std::iter::once(self.method).chain(words).collect::<Vec<_>>().join("_")
    }
}

fn response(says: &str, content: Value) -> Value {
    match content {
        Value::Null => json!({"description": says}),
        content => json!({"description": says, "content": content}),
    }
}

fn meaning(status: u16) -> &'static str {
    match status {
        303 => "Look elsewhere.",
        304 => "It is what it was.",
        400 => "The request is not as it should be.",
        401 => "The token or the session is missing or wrong.",
        403 => "The token may only look, the session's word is missing, or a page from elsewhere asked.",
        404 => "There is no such thing.",
        408 => "The body did not come in time.",
        409 => "It makes no sense now; the message says why.",
        413 => "The body is too large.",
        421 => "On loopback, unless a proxy with TLS stands before a token: by another name than this host's.",
        429 => "Too many wrong tokens, or too much at once.",
        503 => "Not now: not configured yet, stopping, too much at once, or the other side is away.",
        504 => "No answer in time; it may still be done.",
        _ => "Refused.",
    }
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({"type": "object", "required": required, "properties": properties})
}

fn list(of: &str, name: &str) -> Value {
    let items = json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{of}")}});
    object(&[name], json!({ name: items, "next": {"type": ["integer", "string", "null"]} }))
}

fn reference(of: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{of}")})
}

/// What a command may end with, whatever it is.
const COMMAND: &[u16] = &[404, 409, 503, 504];
const LOOK: &[u16] = &[503, 504];

fn routes() -> Vec<Route> {
    let text = || json!({"type": "string"});
    let limit = || json!({"type": "integer", "minimum": 1, "maximum": 4_294_967_295_u32});
    let names = || json!({"type": "array", "items": {"type": "string"}});
    let tables = || json!({"type": "object", "properties": {"tables": names()}, "additionalProperties": false});
    let project = || {
        let key =
            json!({"type": ["string", "null"], "description": "Left out: the one in use, at the address in use."});
        json!({"type": "object", "additionalProperties": false, "required": [],
            "properties": {"supabase_url": {"type": ["string", "null"]}, "supabase_key": key}})
    };
    let mut sync = tables();
    sync["properties"]["dry_run"] = json!({"type": "boolean"});
    let chosen = json!({"type": "object", "additionalProperties": false, "properties":
        {"table": {"type": ["string", "null"]}, "key": names(), "all": {"type": "boolean"}}});
    let job = object(&["job"], json!({"job": text()}));
    let table = object(&["table", "state"], json!({"table": text(), "state": text()}));
    let checks = json!({"type": "array", "items": reference("Check")});
    vec![
        Route::new("get", "/", "page", "The page").text("text/html"),
        Route::new("get", "/page/{name}", "page", "What it loads")
            .ask("name", text(), "of a style or a script")
            .text("*/*")
            .also(&[304, 404]),
        Route::new("get", "/runbook", "page", "What each alert means, and what to do").text("text/html"),
        Route::new("get", "/login", "session", "The login page; leads on where none is needed")
            .text("text/html")
            .also(&[303])
            .open(),
        Route::new("get", "/login.css", "session", "Its style").text("text/css").open(),
        Route::new("get", "/healthz", "probes", "Whether it is alive").text("text/plain").open(),
        Route::new("get", "/readyz", "probes", "Whether both sides are in step").text("text/plain").also(&[503]).open(),
        Route::new("get", "/metrics", "probes", "For Prometheus").text("text/plain"),
        Route::new("get", "/api/openapi.json", "page", "This description"),
        Route::new("get", "/api/session", "session", "Who asks, and what they may do")
            .answer(200, reference("Session"))
            .also(&[401])
            .open(),
        Route::new("post", "/api/session", "session", "Show a token, and have a session by cookie")
            .body(object(&["token"], json!({"token": text()})))
            .answer(200, reference("Session"))
            .also(&[303, 401, 403, 503])
            .open(),
        Route::new("delete", "/api/session", "session", "End the session").answer(204, json!(null)),
        Route::new("get", "/api/status", "route", "What goes on").answer(200, reference("Status")),
        Route::new("get", "/api/events", "route", "The same, live: each event is a status")
            .text("text/event-stream")
            .also(&[503]),
        Route::new("post", "/api/verify", "jobs", "Compare both sides; no table means all")
            .body(tables())
            .answer(200, job.clone())
            .also(COMMAND),
        Route::new("post", "/api/sync", "jobs", "Compare both sides and repair what differs")
            .body(sync)
            .answer(200, job)
            .also(COMMAND),
        Route::new("get", "/api/jobs/{id}", "jobs", "How far a job is, and what it found")
            .ask("id", text(), "as /api/verify and /api/sync answer it")
            .answer(200, reference("Job"))
            .also(&[404]),
        Route::new("get", "/api/runs", "jobs", "What runs compared and repaired, the newest first")
            .ask("limit", limit(), "lines; 100 without it, 1000 at most")
            .answer(200, list("Run", "runs"))
            .also(LOOK),
        Route::new("post", "/api/tables/{name}/{action}", "tables", "Set a table aside, bring it back, begin it anew")
            .ask("name", text(), "`agents` or `public.agents`")
            .ask("action", json!({"type": "string", "enum": ["pause", "resume", "resync"]}), "what to do")
            .answer(200, table)
            .also(COMMAND),
        Route::new("get", "/api/parked", "parked", "Rows that Supabase refused, the oldest first")
            .ask("table", text(), "of this table only")
            .ask("limit", limit(), "rows; 100 without it, 1000 at most")
            .also(LOOK),
        Route::new("post", "/api/parked/{action}", "parked", "Try refused rows again, or give them up")
            .ask("action", json!({"type": "string", "enum": ["retry", "reread", "discard"]}), "what to do")
            .body(chosen)
            .also(COMMAND),
        Route::new("get", "/api/activity", "activity", "Who did what, and what happened, the newest first")
            .ask("kind", text(), "of this kind only")
            .ask("before", json!({"type": "integer", "format": "int64"}), "`next` of the page before")
            .ask("limit", limit(), "lines; 100 without it, 1000 at most")
            .answer(200, list("Entry", "entries"))
            .also(LOOK),
        Route::new("get", "/api/settings", "settings", "What they are; never a key")
            .answer(200, reference("Settings"))
            .also(LOOK),
        Route::new("put", "/api/settings", "settings", "Save the project's address and key, and go on with them")
            .body(project())
            .answer(200, reference("Settings"))
            .also(COMMAND),
        Route::new("post", "/api/settings/test", "settings", "Whether a project would do, as a checklist")
            .body(project())
            .answer(200, object(&["checks"], json!({"checks": checks})))
            .also(COMMAND),
    ]
}

/// Of workflows, and what Supabase sends.
fn workflow_routes() -> Vec<Route> {
    let text = || json!({"type": "string"});
    let run_state = || json!({"type": "string", "enum": ["waiting", "delivering", "delivered", "dead"]});
    let ids = json!({"type": "array", "items": text(), "maxItems": 1000});
    let replay = json!({"type": "object", "additionalProperties": false,
        "properties": {"ids": ids, "workflow": {"type": ["string", "null"]}, "state": {"type": ["string", "null"]}}});
    let fire = json!({"type": "object", "additionalProperties": false, "properties": {
        "keys": {"type": "array", "items": {"type": "array", "items": text()}}, "round": {"type": "string", "maxLength": 60}}});
    let payload = object(
        &["type", "table", "schema"],
        json!({"type": {"type": "string", "enum": ["INSERT", "UPDATE", "DELETE"]},
        "table": text(), "schema": text(), "record": {"type": ["object", "null"]},
        "old_record": {"type": ["object", "null"]}}),
    );
    let tag = "workflows";
    vec![
        Route::new("get", "/api/workflows", tag, "All of them, with how their runs stand")
            .answer(200, list("Workflow", "workflows"))
            .also(COMMAND),
        Route::new("post", "/api/workflows", tag, "Make one")
            .body(draft())
            .answer(201, reference("Workflow"))
            .also(COMMAND),
        Route::new("put", "/api/workflows/{id}", tag, "Change one")
            .ask("id", text(), "of the workflow")
            .body(draft())
            .answer(200, reference("Workflow"))
            .also(COMMAND_400),
        Route::new("delete", "/api/workflows/{id}", tag, "Take one away")
            .ask("id", text(), "of the workflow")
            .also(COMMAND_400),
        Route::new("post", "/api/workflows/{id}/{action}", tag, "Switch one on or off, or have it send a test")
            .ask("id", text(), "of the workflow")
            .ask("action", json!({"type": "string", "enum": ["enable", "disable", "test"]}), "what to do")
            .also(COMMAND_400),
        Route::new("post", "/api/workflows/{id}/fire", tag, "Fire one for rows that are there")
            .ask("id", text(), "of the workflow")
            .body(fire)
            .also(COMMAND_400),
        Route::new(
            "post",
            "/api/workflows/dry-run",
            tag,
            "What a draft would send for a change that was; nothing is sent",
        )
        .body(draft())
        .also(COMMAND),
        Route::new("get", "/api/workflow-runs", tag, "Their runs, the newest first")
            .ask("workflow", text(), "of this workflow only")
            .ask("state", run_state(), "in this state only")
            .ask("before", text(), "`next` of the page before")
            .ask(
                "limit",
                json!({"type": "integer", "minimum": 1, "maximum": 4_294_967_295_u32}),
                "50 without it, 500 at most",
            )
            .answer(200, list("WorkflowRun", "runs"))
            .also(COMMAND),
        Route::new("get", "/api/workflow-runs/{id}", tag, "One run, with what was sent and what came back")
            .ask("id", text(), "of the run")
            .also(COMMAND_400),
        Route::new(
            "post",
            "/api/workflow-runs/replay",
            tag,
            "Deliver runs again: these, or those of a workflow in a state",
        )
        .body(replay)
        .also(COMMAND),
        Route::new("post", "/webhooks/supabase", tag, "What Supabase's database webhooks send")
            .body(payload)
            .also(&[401, 403, 404, 409, 503, 504])
            .open(),
    ]
}

/// As `COMMAND`, where a name in the path may be none.
const COMMAND_400: &[u16] = &[400, 404, 409, 503, 504];

/// A workflow as somebody writes it (docs/workflows.md).
fn draft() -> Value {
    let text = || json!({"type": "string"});
    object(
        &["workflow_name", "trigger_table", "trigger_event", "action_config"],
        json!({
        "workflow_name": text(), "trigger_table": text(),
        "trigger_event": {"type": "string", "enum": ["INSERT", "UPDATE", "DELETE"]},
        "side": {"type": "string", "enum": ["source", "target"]},
        "watched_columns": {"type": ["array", "null"], "items": text()},
        "condition": {"type": ["object", "null"]}, "action_config": {"type": "object"},
        "enabled": {"type": ["boolean", "null"]}}),
    )
}

fn schemas() -> Value {
    let text = || json!({"type": "string"});
    let maybe = || json!({"type": ["string", "null"]});
    let number = || json!({"type": "number"});
    let count = || json!({"type": "integer", "minimum": 0});
    let words = |all: &[&str]| json!({"type": "string", "enum": all});
    let end = || {
        object(
            &["address", "connected"],
            json!({"address": text(), "connected": {"type": "boolean"}, "since": maybe()}),
        )
    };
    json!({
        "Error": object(&["error"], json!({"error": text(), "field": text()})),
        "Session": object(&["role", "who", "csrf", "login_needed"], json!({
            "role": {"type": ["string", "null"], "enum": ["read", "operate", null]}, "who": maybe(), "csrf": maybe(),
            "login_needed": {"type": "boolean"}})),
        "Status": object(&["verdict", "now", "state", "source", "target", "lag", "tables", "jobs"], json!({
            "verdict": words(&["in_step", "behind", "broken", "unknown"]), "why": text(), "now": text(),
            "state": words(&["starting", "not_configured", "copying", "streaming", "waiting", "stopped", "draining"]),
            "cause": text(), "fix": text(), "missing": {"type": "array", "items": text()},
            "version": text(), "route": text(), "started_at": text(), "updated_at": text(), "way": maybe(),
            "capture": maybe(), "source": end(), "target": end(), "checkpoint": maybe(), "received": maybe(), "held": maybe(),
            "lag": object(&["seconds", "bytes"], json!({"seconds": {"type": ["number", "null"]},
                "bytes": {"type": ["integer", "null"]}})),
            "rows_per_second": number(), "last_error": {"type": ["object", "null"]},
            "tables": {"type": "array", "items": reference("Table")}, "parked": {"type": "array"},
            "jobs": {"type": "object"}})),
        "Table": object(&["name", "state", "rows"], json!({"name": text(), "rows": count(), "changed_at": maybe(),
            "state": words(&["pending", "copying", "streaming", "parked", "paused"]), "cause": text(),
            "copied": count(), "estimated": count()})),
        "Job": object(&["id", "state", "reports"], json!({"id": text(), "why": text(), "repair": {"type": "boolean"},
            "state": words(&["queued", "running", "done", "failed"]), "reports": {"type": "array"}})),
        "Run": object(&["job", "table_name", "result"], json!({"job": text(), "table_name": text(),
            "result": words(&["running", "equal", "repaired", "different", "unknown", "failed"]),
            "rows_compared": count(), "missing": count(), "different": count(), "surplus": count(),
            "inserted": count(), "updated": count(), "deleted": count(), "seconds": number()})),
        "Entry": object(&["id", "at", "kind", "who", "what", "table", "detail"], json!({"id": {"type": "integer"},
            "at": text(), "kind": text(), "who": text(), "what": text(), "table": maybe(), "detail": maybe()})),
        "Settings": object(&["supabase_url", "key_set", "key_kind", "env_file", "listen", "apply", "schedule"], json!({
            "supabase_url": maybe(), "key_set": {"type": "boolean"}, "key_kind": maybe(), "env_file": text(),
            "missing": {"type": "array", "items": text()}, "set_by_environment": {"type": "array", "items": text()},
            "listen": text(), "apply": text(), "schedule": {"type": "object"}})),
        "Workflow": object(&["id", "workflow_name", "trigger_table", "trigger_event", "action_config", "enabled"], json!({
            "id": text(), "workflow_name": text(), "trigger_table": text(), "trigger_event": text(),
            "side": text(), "action_config": {}, "enabled": {"type": ["boolean", "null"]}, "problem": maybe()})),
        "WorkflowRun": object(&["id", "workflow_id", "state", "attempts"], json!({"id": text(), "workflow_id": maybe(),
            "workflow_name": maybe(), "table": maybe(), "event": maybe(), "attempts": count(), "error": maybe(),
            "state": words(&["waiting", "delivering", "delivered", "dead"])})),
        "Check": object(&["code", "title", "state", "line", "fix", "sql"], json!({"code": text(), "title": text(),
            "state": words(&["ok", "warn", "fail", "skipped"]), "line": text(), "fix": maybe(), "sql": maybe()})),
    })
}

/// The description of every route.
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in routes().into_iter().chain(workflow_routes()) {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = route.describe();
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Lockstep", "version": env!("CARGO_PKG_VERSION"),
            "description": "Keeps a Supabase project in lockstep with a Postgres database.",
            "license": {"name": "MIT", "identifier": "MIT"}},
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "lockstep_session"},
            },
        },
    })
}
