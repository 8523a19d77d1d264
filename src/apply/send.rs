//! Sends one batch until it is answered: the same bytes under the same base, for as long as it takes.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use super::answer::{Answer, Wire};
use super::encode::Group;
use super::plan::Plan;
use super::{Event, Settings, seconds, stage};
use crate::rest::{Body, Class, Client, Failure};
use crate::types::{Batch, Fault, Position};

/// One request's body: four bytes with the header's length, the header, the values.
pub struct Request {
    body: Bytes,
    /// Where it begins and ends, for a request that only points to it.
    base: Position,
    upto: Position,
    /// It applies what lies in the target.
    staged: bool,
    repair: bool,
}

#[derive(Serialize)]
struct Header<'a> {
    route: &'a str,
    base: [u64; 2],
    upto: [u64; 2],
    /// Answer only once it is on disk, with all that came before.
    durable: bool,
    triggers: &'a str,
    groups: &'a [Group],
    /// What becomes of a row that is refused: `park`, or the batch is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    park_rows: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    repair: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copies: Vec<Copied<'a>>,
    /// Comes behind these parts, which lie in the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    staged: Option<&'a stage::Header>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All of it, or nothing.
    Whole,
    /// Row by row; a row that is refused is set aside.
    Park { rows: u64 },
    /// As `Park`, with rows that were read again: the checkpoint stays where it is.
    Repair { rows: u64 },
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
    pub fn new(settings: &Settings, base: Position, durable: bool, batch: &Batch, plan: &Plan, mode: Mode) -> Self {
        Self::of(settings, base, durable, batch, plan, mode, None)
    }

    /// Behind what lies in the target.
    pub fn behind(
        settings: &Settings,
        base: Position,
        durable: bool,
        batch: &Batch,
        plan: &Plan,
        staged: &stage::Header,
    ) -> Self {
        Self::of(settings, base, durable, batch, plan, Mode::Whole, Some(staged))
    }

    fn of(
        settings: &Settings,
        base: Position,
        durable: bool,
        batch: &Batch,
        plan: &Plan,
        mode: Mode,
        staged: Option<&stage::Header>,
    ) -> Self {
        let copies = batch.copied.iter().map(|mark| Copied {
            schema: &mark.table.schema,
            table: &mark.table.name,
            oid: mark.oid,
            cursor: &mark.cursor,
            done: mark.done,
            rows: mark.rows,
        });
        let park_rows = match mode {
            Mode::Whole => None,
            Mode::Park { rows } | Mode::Repair { rows } => Some(rows),
        };
        let header = Header {
            refused: park_rows.map(|_| "park"),
            park_rows,
            repair: matches!(mode, Mode::Repair { .. }),
            route: &settings.route,
            base: [base.major, base.minor],
            upto: [batch.upto.major, batch.upto.minor],
            durable,
            triggers: if settings.suppress { "suppress" } else { "fire" },
            groups: &plan.groups,
            copies: copies.collect(),
            staged,
        };
        let (staged, repair) = (staged.is_some(), header.repair);
        Self { body: framed(&header, &plan.values), base, upto: batch.upto, staged, repair }
    }
}

/// Four bytes with the header's length, the header, what follows it.
fn framed(header: &impl Serialize, rest: &[u8]) -> Bytes {
    // Names, numbers and texts: there is nothing in it that JSON cannot hold.
    let header = serde_json::to_vec(header).unwrap_or_default();
    let mut body = BytesMut::with_capacity(4 + header.len() + rest.len());
    body.put_u32(header.len() as u32);
    body.put_slice(&header);
    body.put_slice(rest);
    body.freeze()
}

/// Waits between attempts: from a moment to half a minute, with jitter, for ever.
pub fn waits() -> impl Iterator<Item = Duration> {
    let backoff = ExponentialBuilder::default().with_jitter().without_max_times();
    backoff.with_min_delay(Duration::from_millis(50)).with_max_delay(Duration::from_secs(30)).build()
}

/// A server may ask for patience, but not for a day of it.
pub const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// Sends a request until it is answered. One that is too large for the way travels in pieces.
pub async fn until_answered(
    client: Client,
    settings: Settings,
    request: Request,
    events: mpsc::UnboundedSender<Event>,
) -> Result<Answer, Fault> {
    let metrics = crate::metrics::get();
    let limits = &settings.limits;
    let mut way = Way { client: &client, events: &events, failed: false };
    let mut waits = waits();
    loop {
        let whole = request.body.len() <= limits.request_bytes();
        let body = if whole { request.body.clone() } else { in_pieces(&mut way, &settings, &request).await? };
        let sent = Instant::now();
        metrics.in_flight_bytes.set(body.len() as i64);
        let answer = way.call::<Wire>("lockstep_apply", body.clone(), request.staged).await;
        metrics.in_flight_bytes.set(0);
        match answer {
            Ok(wire) => match wire.read() {
                Ok(answer) => {
                    metrics.apply_seconds.observe(seconds(sent));
                    return Ok(answer);
                }
                Err(cause) => way.pause(cause, waits.next().unwrap_or_default()).await,
            },
            Err(Refused::Late) => return Ok(Answer::Late),
            Err(Refused::TooLarge(failure)) => too_large(limits, &failure, body.len())?,
            Err(Refused::Fault(fault)) => return Err(fault),
        }
    }
}

/// Lays a request's body down in the target, as part `part` of what is staged as `run`. Says in how many pieces.
pub async fn stage(
    client: &Client,
    settings: &Settings,
    request: Request,
    run: &str,
    part: u32,
    events: &mpsc::UnboundedSender<Event>,
) -> Result<u32, Fault> {
    lay_down(&mut Way { client, events, failed: false }, settings, &request.body, run, part).await
}

/// What a piece says of itself.
#[derive(Serialize)]
struct Piece<'a> {
    route: &'a str,
    run: &'a str,
    part: u32,
    number: u32,
}

async fn lay_down(way: &mut Way<'_>, settings: &Settings, body: &Bytes, run: &str, part: u32) -> Result<u32, Fault> {
    #[derive(serde::Deserialize)]
    struct Laid {}
    'again: loop {
        // Room for what the piece says of itself.
        let size = settings.limits.request_bytes().saturating_sub(512).max(1);
        for (number, at) in (0..body.len()).step_by(size).enumerate() {
            let piece = Piece { route: &settings.route, run, part, number: number as u32 };
            let piece = framed(&piece, &body[at..body.len().min(at + size)]);
            match way.call::<Laid>("lockstep_stage", piece.clone(), false).await {
                Ok(Laid {}) => {}
                Err(Refused::TooLarge(failure)) => {
                    too_large(&settings.limits, &failure, piece.len())?;
                    continue 'again;
                }
                Err(Refused::Late) => {}
                Err(Refused::Fault(fault)) => return Err(fault),
            }
        }
        return Ok(body.len().div_ceil(size) as u32);
    }
}

/// Lays the request itself down; what is sent then only points there.
async fn in_pieces(way: &mut Way<'_>, settings: &Settings, request: &Request) -> Result<Bytes, Fault> {
    #[derive(Serialize)]
    struct Pointer<'a> {
        route: &'a str,
        base: [u64; 2],
        upto: [u64; 2],
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        repair: bool,
        pieces: Pieces<'a>,
    }
    #[derive(Serialize)]
    struct Pieces<'a> {
        run: &'a str,
        count: u32,
    }
    let run = settings.limits.ticket();
    let count = lay_down(way, settings, &request.body, &run, 0).await?;
    let Request { base, upto, repair, .. } = *request;
    let (base, upto) = ([base.major, base.minor], [upto.major, upto.minor]);
    let pieces = Pieces { run: &run, count };
    Ok(framed(&Pointer { route: &settings.route, base, upto, repair, pieces }, &[]))
}

fn too_large(limits: &super::Limits, failure: &Failure, bytes: usize) -> Result<(), Fault> {
    let Some(limit) = limits.shrink(bytes) else { return Err(fault(failure, bytes)) };
    warn!(cause = %failure, bytes, limit, "a request was too large for something before Supabase; smaller ones from now on");
    crate::metrics::get().retries.with_label_values(&["too_large"]).inc();
    Ok(())
}

/// The way to the target, with its patience: what passes is waited for, and nothing is sent but the same bytes.
struct Way<'a> {
    client: &'a Client,
    events: &'a mpsc::UnboundedSender<Event>,
    failed: bool,
}

enum Refused {
    TooLarge(Failure),
    /// The target's own time limit.
    Late,
    Fault(Fault),
}

impl Way<'_> {
    async fn call<T: DeserializeOwned>(&mut self, function: &str, body: Bytes, in_time: bool) -> Result<T, Refused> {
        let mut waits = waits();
        loop {
            let answer = self.client.rpc::<T>(function, Body::Bytes(body.clone())).await;
            crate::metrics::get().bytes.inc_by(body.len() as u64);
            let failure = match answer {
                Ok(answer) => {
                    if std::mem::take(&mut self.failed) {
                        let _ = self.events.send(Event::Trouble(None));
                    }
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            match failure.class {
                Class::Transient if in_time && failure.code.as_deref() == Some("57014") => return Err(Refused::Late),
                Class::Transient => {}
                Class::TooLarge => return Err(Refused::TooLarge(failure)),
                _ => return Err(Refused::Fault(fault(&failure, body.len()))),
            }
            let asked = failure.retry_after.unwrap_or_default().min(LONGEST_ASKED);
            let wait = waits.next().unwrap_or_default().max(asked);
            self.pause(failure.to_string(), wait).await;
        }
    }

    /// An answer that asks for patience.
    async fn pause(&mut self, cause: String, wait: Duration) {
        // The key is in the headers, never in the cause; the batch is the same one, so nothing can be applied twice.
        warn!(%cause, retry_in = ?wait, "Supabase did not take the batch; the same one is sent again");
        crate::metrics::get().retries.with_label_values(&["transient"]).inc();
        let _ = self.events.send(Event::Trouble(Some(cause)));
        self.failed = true;
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
            "run in Supabase's SQL editor what `lockstep setup supabase --print` prints; or, to do without it, at least \
             once instead of exactly once: LOCKSTEP_APPLY=tables",
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
