//! A client for a Supabase project's REST end: remote procedure calls, requests to tables, and what their failures mean.

mod failure;
mod table;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;

use crate::types::{ApiKey, Fault};
pub use failure::{Class, Failure, sqlstate};
pub use table::{TableAnswer, TableRequest, Verb, encoded};

pub struct Settings {
    /// The project's address without a path: `https://PROJECT.supabase.co`.
    pub url: String,
    pub key: ApiKey,
    /// PEM certificates to trust beside the public roots.
    pub ca_pem: Option<Vec<u8>>,
    /// Longest time for one request, answer included.
    pub timeout: Duration,
}

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// The project's address, which every message about a connection names.
    url: String,
    /// Ends in `rpc/`; what lies before that is the REST end itself.
    rpc: String,
}

/// What a call sends.
pub enum Body {
    Json(serde_json::Value),
    /// For a function with one unnamed `bytea` parameter: PostgREST passes it on unread.
    Bytes(Bytes),
}

/// Bytes of a request's body and of its answer's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub sent: u64,
    pub received: u64,
}

/// Largest answer that is read. Ours are small; the largest lists the state of every table (10,000 make about 5 MB).
const ANSWER_BYTES: usize = 32 << 20;

impl Client {
    pub fn new(settings: &Settings) -> Result<Self, Fault> {
        let fix = "check SUPABASE_URL and [supabase] ca_file";
        let bad = |cause: String| Fault::stop(format!("cannot speak HTTPS: {cause}"), fix);
        let mut http = reqwest::Client::builder()
            .default_headers(headers(&settings.key)?)
            .timeout(settings.timeout)
            // A dead address is known after 10 s; what is behind it may take as long as the settings say.
            .connect_timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none()) // a key goes nowhere but to the address in the settings
            .tcp_nodelay(true)
            .http1_only();
        if let Some(pem) = &settings.ca_pem {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(|e| bad(chain(&e)))?;
            http = certificates.into_iter().fold(http, reqwest::ClientBuilder::add_root_certificate);
        }
        let http = http.build().map_err(|e| bad(chain(&e)))?;
        let url = settings.url.trim_end_matches('/').to_owned();
        Ok(Self { http, rpc: format!("{url}/rest/v1/rpc/"), url })
    }

    /// Calls a function and reads its answer.
    pub async fn rpc<T: DeserializeOwned>(&self, function: &str, body: Body) -> Result<T, Failure> {
        self.rpc_counted(function, body).await.map(|(answer, _)| answer)
    }

    /// The same, and says how large both bodies were.
    pub async fn rpc_counted<T: DeserializeOwned>(&self, function: &str, body: Body) -> Result<(T, Sizes), Failure> {
        let request = self.http.post(format!("{}{function}", self.rpc));
        let (kind, body) = match body {
            Body::Json(value) => ("application/json", Bytes::from(value.to_string())),
            Body::Bytes(bytes) => ("application/octet-stream", bytes),
        };
        let sent = body.len() as u64;
        let request = request.header(CONTENT_TYPE, kind).body(body);
        self.answer(request, function, sent).await
    }

    /// Whether anything answers there. What is asked for does not exist, so the answer costs the project's database
    /// nothing; one that says that the project itself is down counts as none.
    pub async fn reach(&self) -> Result<(), Failure> {
        let request = self.http.get(format!("{}lockstep_pulse", self.rpc));
        let answer = request.send().await.map_err(|e| Failure::unanswered(format!("{}: {}", self.url, chain(&e))))?;
        let status = answer.status();
        let retry_after = retry_after(answer.headers());
        let body = read(answer).await?;
        match status.is_server_error() {
            true => Err(Failure::read(status.as_u16(), retry_after, &body)),
            false => Ok(()),
        }
    }

    /// What PostgREST tells of a schema: its OpenAPI description.
    pub async fn describe(&self, schema: &str) -> Result<serde_json::Value, Failure> {
        let profile = HeaderValue::from_str(schema).map_err(|_| Failure {
            class: Class::SetUp,
            ..Failure::unanswered(format!("schema {schema} cannot be named in a header"))
        })?;
        let root = self.rpc.trim_end_matches("rpc/");
        self.answer(self.http.get(root).header("accept-profile", profile), "the REST end", 0)
            .await
            .map(|(answer, _)| answer)
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
        of: &str,
        sent: u64,
    ) -> Result<(T, Sizes), Failure> {
        let answer = request.send().await.map_err(|e| Failure::unanswered(format!("{}: {}", self.url, chain(&e))))?;
        let status = answer.status();
        let retry_after = retry_after(answer.headers());
        let body = read(answer).await?;
        if !status.is_success() {
            return Err(Failure::read(status.as_u16(), retry_after, &body));
        }
        let sizes = Sizes { sent, received: body.len() as u64 };
        serde_json::from_slice(&body).map(|answer| (answer, sizes)).map_err(|e| Failure {
            class: Class::SetUp,
            ..Failure::unanswered(format!("an answer of {of} that is not ours: {e}"))
        })
    }
}

fn headers(key: &ApiKey) -> Result<HeaderMap, Fault> {
    let secret = |text: &str| {
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| Fault::stop("SUPABASE_KEY holds characters that no key has", "copy the key again"))?;
        value.set_sensitive(true);
        Ok::<_, Fault>(value)
    };
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("apikey"), secret(key.apikey())?);
    if let Some(bearer) = key.authorization() {
        headers.insert(AUTHORIZATION, secret(bearer.expose_secret())?);
    }
    // Our functions are there, wherever in the list of exposed schemas it stands.
    headers.insert(HeaderName::from_static("content-profile"), HeaderValue::from_static("public"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    Ok(headers)
}

/// Seconds, as Supabase sends it; a date is not worth parsing when our own backoff serves as well.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

async fn read(mut answer: reqwest::Response) -> Result<Bytes, Failure> {
    let mut body = BytesMut::new();
    while let Some(part) = answer.chunk().await.map_err(|e| Failure::unanswered(chain(&e)))? {
        if body.len() + part.len() > ANSWER_BYTES {
            return Err(Failure { class: Class::TooLarge, ..Failure::unanswered("an answer of more than 32 MiB") });
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// An error with its causes: reqwest's own text only says that something went wrong. Its address is left out.
fn chain(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        causes.push(error.to_string());
        next = error.source();
    }
    causes.dedup();
    match (causes.is_empty(), error.is_timeout()) {
        (_, true) => "no answer in time".into(),
        (true, _) => "the request failed".into(),
        (false, _) => causes.join(": "),
    }
}
