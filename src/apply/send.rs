//! Sends one batch until it is answered: the same bytes under the same base, for as long as it takes.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use super::answer::{Answer, Wire};
use super::encode::Group;
use super::plan::Plan;
use super::{Event, Settings, seconds};
use crate::rest::{Body, Class, Client, Failure};
use crate::types::{Batch, Fault, Position};

/// One request's body: four bytes with the header's length, the header, the values.
pub struct Request(Bytes);

#[derive(Serialize)]
struct Header<'a> {
    route: &'a str,
    base: [u64; 2],
    upto: [u64; 2],
    /// Answer only once it is on disk, with all that came before.
    durable: bool,
    triggers: &'a str,
    groups: &'a [Group],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copies: Vec<Copied<'a>>,
}

#[derive(Serialize)]
struct Copied<'a> {
    schema: &'a str,
    table: &'a str,
    oid: u32,
    cursor: &'a [String],
    done: bool,
    rows: u64,
}

impl Request {
    pub fn new(settings: &Settings, base: Position, durable: bool, batch: &Batch, plan: &Plan) -> Self {
        let copies = batch.copied.iter().map(|mark| Copied {
            schema: &mark.table.schema,
            table: &mark.table.name,
            oid: mark.oid,
            cursor: &mark.cursor,
            done: mark.done,
            rows: mark.rows,
        });
        let header = Header {
            route: &settings.route,
            base: [base.major, base.minor],
            upto: [batch.upto.major, batch.upto.minor],
            durable,
            triggers: if settings.suppress { "suppress" } else { "fire" },
            groups: &plan.groups,
            copies: copies.collect(),
        };
        // Names, numbers and texts: there is nothing in it that JSON cannot hold.
        let header = serde_json::to_vec(&header).unwrap_or_default();
        let mut body = BytesMut::with_capacity(4 + header.len() + plan.values.len());
        body.put_u32(header.len() as u32);
        body.put_slice(&header);
        body.put_slice(&plan.values);
        Self(body.freeze())
    }
}

/// Waits between attempts: from a moment to half a minute, with jitter, for ever.
pub fn waits() -> impl Iterator<Item = Duration> {
    let backoff = ExponentialBuilder::default().with_jitter().without_max_times();
    backoff.with_min_delay(Duration::from_millis(50)).with_max_delay(Duration::from_secs(30)).build()
}

/// A server may ask for patience, but not for a day of it.
pub const LONGEST_ASKED: Duration = Duration::from_secs(300);

pub async fn until_answered(
    client: Client,
    Request(body): Request,
    events: mpsc::UnboundedSender<Event>,
) -> Result<Answer, Fault> {
    let metrics = crate::metrics::get();
    let mut waits = waits();
    let mut failed = false;
    loop {
        let sent = Instant::now();
        metrics.in_flight_bytes.set(body.len() as i64);
        let answer = client.rpc::<Wire>("lockstep_apply", Body::Bytes(body.clone())).await;
        metrics.in_flight_bytes.set(0);
        metrics.bytes.inc_by(body.len() as u64);
        let (cause, retry_after) = match answer.map(Wire::read) {
            Ok(Ok(answer)) => {
                metrics.apply_seconds.observe(seconds(sent));
                if failed {
                    let _ = events.send(Event::Trouble(None));
                }
                return Ok(answer);
            }
            Ok(Err(cause)) => (cause, None),
            Err(failure) => match failure.class {
                Class::Transient => (failure.to_string(), failure.retry_after),
                _ => return Err(fault(&failure, body.len())),
            },
        };
        let wait = waits.next().unwrap_or_default().max(retry_after.unwrap_or_default().min(LONGEST_ASKED));
        // The key is in the headers, never in the cause; the batch is the same one, so nothing can be applied twice.
        warn!(%cause, retry_in = ?wait, "Supabase did not take the batch; the same one is sent again");
        metrics.retries.with_label_values(&["transient"]).inc();
        let _ = events.send(Event::Trouble(Some(cause)));
        failed = true;
        tokio::time::sleep(wait).await;
    }
}

/// What a refusal of the whole request means; also for the first call of a start.
pub fn fault(failure: &Failure, bytes: usize) -> Fault {
    let cause = format!("Supabase refused the request: {failure}");
    match (failure.class, failure.code.as_deref(), failure.status) {
        (Class::Transient, ..) => Fault::retry(format!("Supabase does not answer: {failure}")),
        (Class::TooLarge, ..) => Fault::stop(
            format!("a request of {bytes} bytes is too large for something before Supabase: {failure}"),
            format!("set [apply] max_batch_bytes = {}", bytes / 2),
        ),
        (_, Some("PGRST202"), _) | (_, Some("42883"), _) => Fault::stop(
            "our SQL is not installed in Supabase (or PostgREST has not seen it yet)",
            "run in Supabase's SQL editor what `lockstep setup supabase --print` prints",
        ),
        (_, Some("PGRST301" | "PGRST302" | "PGRST303"), _) | (_, None, Some(401)) => Fault::stop(
            format!("Supabase refused the key: {failure}"),
            "set SUPABASE_KEY to a secret key (sb_secret_…) of this project: Project Settings > API Keys",
        ),
        (_, Some("42501"), _) => Fault::stop(
            format!("the key's role may not call our functions: {failure}"),
            "set SUPABASE_KEY to a secret key, or run lockstep setup supabase again for its grants",
        ),
        // An answer that is not PostgREST's: a page, a redirection, nothing under that path.
        (_, None, _) => Fault::stop(
            format!("what answers at SUPABASE_URL is not a Supabase project: {failure}"),
            "set SUPABASE_URL to the project's address: https://PROJECT.supabase.co",
        ),
        _ => Fault::stop(cause, "change what the message names"),
    }
}
