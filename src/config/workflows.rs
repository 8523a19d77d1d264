//! What the operator says of workflows: how runs are delivered, where tasks for agents go, who may call the webhook.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de::Error};
use url::Url;

use super::settings::{hidden, table_name};
use super::units::{read_bytes, read_duration};
use crate::types::TableName;

/// How runs of workflows are recorded and delivered.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workflows {
    /// Let workflows act. It costs three connections to the source.
    pub enabled: bool,
    /// The table of workflows, as `schema.table`. One that is there already is adopted with its rows.
    #[serde(deserialize_with = "table_name")]
    pub table: TableName,
    /// Signs every delivery: `whsec_` and the base64 of 24 to 64 bytes.
    #[serde(deserialize_with = "signing_secret")]
    pub signing_secret: Option<SecretString>,
    /// The one before: while receivers change over, both sign.
    #[serde(deserialize_with = "signing_secret")]
    pub signing_secret_before: Option<SecretString>,
    /// Private addresses that webhooks may reach all the same: networks, addresses, host names.
    pub allow: Vec<String>,
    /// How long a receiver may take for its answer.
    #[serde(deserialize_with = "read_duration")]
    pub timeout: Duration,
    /// Tries before a run is given up and waits for a replay. With the waits below, 24 last for about an hour.
    pub attempts: u32,
    /// The wait after the first try that failed; it doubles with every further one.
    #[serde(deserialize_with = "read_duration")]
    pub first_wait: Duration,
    /// The longest wait between two tries.
    #[serde(deserialize_with = "read_duration")]
    pub max_wait: Duration,
    /// Deliveries on their way at a time.
    pub concurrency: usize,
    /// Of these so many of one workflow: a receiver that hangs leaves room for the others.
    pub per_workflow: usize,
    /// Deliveries begun in a second at most.
    pub per_second: u32,
    /// So much of the body of a request and of its answer is kept in the history.
    #[serde(deserialize_with = "read_bytes")]
    pub kept_bytes: usize,
    /// Finished runs are forgotten after this, and not before their change is confirmed: it may be sent again.
    #[serde(deserialize_with = "read_duration")]
    pub keep: Duration,
}

impl Default for Workflows {
    fn default() -> Self {
        Self {
            enabled: true,
            table: TableName::new("public", "supabase_sync_workflows"),
            signing_secret: None,
            signing_secret_before: None,
            allow: Vec::new(),
            timeout: Duration::from_secs(10),
            attempts: 24,
            first_wait: Duration::from_secs(1),
            max_wait: Duration::from_secs(300),
            concurrency: 16,
            per_workflow: 4,
            per_second: 50,
            kept_bytes: 4096,
            keep: Duration::from_secs(720 * 3600),
        }
    }
}

/// The API that agents listen on.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentApi {
    /// Its address. It may be a private one, since it stands here.
    #[serde(deserialize_with = "address")]
    pub url: Option<Url>,
    /// Shown as a bearer token.
    #[serde(deserialize_with = "token")]
    pub token: Option<SecretString>,
    /// Where tasks are posted, below the address; `{agent_id}` and `{action}` stand for the workflow's.
    #[serde(deserialize_with = "path")]
    pub path: String,
}

impl Default for AgentApi {
    fn default() -> Self {
        Self { url: None, token: None, path: "/agents/{agent_id}/tasks".into() }
    }
}

/// The way in for Supabase's webhooks.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// What a webhook must show. Without one, only this host may call.
    #[serde(deserialize_with = "secret")]
    pub secret: Option<SecretString>,
    /// The header in which it shows it.
    #[serde(deserialize_with = "header")]
    pub header: String,
    /// Largest body.
    #[serde(deserialize_with = "read_bytes")]
    pub max_bytes: usize,
    /// Webhooks taken in a second at most; more are asked to come back.
    pub per_second: u32,
}

impl Default for Webhook {
    fn default() -> Self {
        Self { secret: None, header: "x-lockstep-secret".into(), max_bytes: 1 << 20, per_second: 100 }
    }
}

fn signing_secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretString>, D::Error> {
    let text = hidden(from)?;
    text.expose_secret().parse::<crate::workflows::Secret>().map_err(D::Error::custom)?;
    Ok(Some(text))
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Url>, D::Error> {
    let text = String::deserialize(from)?;
    let url = Url::parse(text.trim()).ok().filter(|url| {
        let plain = url.query().is_none() && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && plain && url.username().is_empty()
    });
    url.map(Some)
        .ok_or_else(|| D::Error::custom("is not an address such as http://127.0.0.1:8000, without a query or a login"))
}

fn token<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretString>, D::Error> {
    let text = hidden(from)?;
    match !text.expose_secret().is_empty() && text.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Some(text)),
        false => Err(D::Error::custom("holds characters that no token has (a line break, a space?)")),
    }
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretString>, D::Error> {
    let text = hidden(from)?;
    match text.expose_secret().len() >= 16 && text.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Some(text)),
        false => {
            Err(D::Error::custom("needs at least 16 visible ASCII characters; `openssl rand -hex 24` makes a good one"))
        }
    }
}

fn path<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    match text.starts_with('/') && !text.contains(['?', '#', ' ']) {
        true => Ok(text),
        false => Err(D::Error::custom(format!("`{text}` is not a path such as /agents/{{agent_id}}/tasks"))),
    }
}

fn header<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?.to_ascii_lowercase();
    match http::HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text),
        Err(_) => Err(D::Error::custom(format!("`{text}` is not the name of a header"))),
    }
}
