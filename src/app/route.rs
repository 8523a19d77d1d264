//! One life of the route: from the first look at both sides until a fault or the shutdown ends it.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::capturing::{self, Kind};
use super::judge::Finding;
use super::lane::Lane;
use super::preflight::{self, Greeting, Hello};
use super::pulse::Pulse;
use super::report::Report;
use super::tables::{self, Again, Aside, Refused};
use super::way::{self, Desk, Way};
use super::{evolve, reach, recovery};
use crate::apply::tables::{self as plain, Joints, Tables};
use crate::apply::{Apply, Limits, Parked, Reached, Rereader, Shapes};
use crate::capture::journal::Lost;
use crate::capture::slot::publication::{self, Marks};
use crate::capture::slot::restricted;
use crate::capture::{self, slot};
use crate::clock::SourceClock;
use crate::config::{OnRefusal, Settings, Triggers};
use crate::jobs::Work;
use crate::ledger::{progress, runs};
use crate::pg::{self, Client};
use crate::reconcile;
use crate::status::{Jobs, State, Status};
use crate::types::{Activity, CopyMark, Fault, Job, Position, Table, TableName, Timeline, queue};
use crate::workflows::{Bell, Link, Recorder, Rulebook, Tap};
use crate::{pipeline, rest};

pub const ROUTE: &str = "to_supabase";
/// The name under which the target keeps the marks of either capture; our SQL there lets them change.
const MARKED: &str = "publication";

/// What was found and agreed before anything streams.
struct Ready {
    source: Client,
    target: rest::Client,
    tables: Vec<Table>,
    /// Tables whose changes are skipped.
    aside: Vec<Aside>,
    /// The catalogs were read at this point of the source's history, or later.
    read_at: Position,
    /// Of the publication, from then on.
    marks: Marks,
    hello: Hello,
    way: Way,
    kind: Kind,
    /// What to make of statements that are lost to the journal.
    lost: Lost,
    /// Why the stream begins anew, if it does.
    broken: Option<recovery::Broken>,
}

/// How a life of the route ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Shutdown,
    /// Something has changed about the tables: both sides are looked at again, at once.
    LookAgain,
}

/// What reaches a running route from outside.
pub struct Control {
    /// Counts up when somebody wants both sides to be looked at again.
    pub look_again: watch::Sender<u64>,
    /// Tables that the next look has compared.
    pub again: Again,
    /// The clock by which the source stamps its commits.
    pub clock: watch::Receiver<Option<SourceClock>>,
    /// Says that the stream's thread lives.
    pub pulse: Pulse,
    /// Tables to compare. Whichever life of the route runs takes them.
    pub work: Arc<Mutex<mpsc::Receiver<Work>>>,
    /// How many live views are open.
    pub watchers: watch::Receiver<usize>,
    /// What is known of the tables by comparing.
    pub jobs: watch::Sender<Jobs>,
    /// Where it is told what happens.
    pub timeline: Timeline,
    /// Rung when a run of a workflow was recorded.
    pub bell: Bell,
    /// What was read of the workflows last.
    pub rulebook: Rulebook,
}

/// Runs until the shutdown has drained it (`Ok`) or a fault ends it. `up` turns true once everything streams.
pub async fn run(
    settings: &Settings,
    status: &watch::Sender<Status>,
    up: &mut bool,
    control: &Control,
    refused: &[Refused],
    limits: &Limits,
    shutdown: watch::Receiver<bool>,
) -> Result<Ended, Fault> {
    let mut stopping = shutdown.clone();
    // Who asks from now on may mean what this look has seen already, and is heard all the same.
    let asked = control.look_again.subscribe();
    let ready = tokio::select! {
        ready = look(settings, status, refused, control) => ready?,
        Ok(_) = stopping.wait_for(|&stop| stop) => return Ok(Ended::Shutdown),
    };
    *up = true;
    stream(settings, status, ready, control, limits, asked, shutdown.clone()).await?;
    Ok(if *shutdown.borrow() { Ended::Shutdown } else { Ended::LookAgain })
}

/// Looks at both sides. The slot is made last, when everything else is right: a slot that nobody reads holds WAL.
async fn look(
    settings: &Settings,
    status: &watch::Sender<Status>,
    refused: &[Refused],
    control: &Control,
) -> Result<Ready, Fault> {
    let url = preflight::source_url(settings)?;
    let target = preflight::client(settings)?;
    let source = pg::connect(&url, "lockstep").await?;
    let read_at = progress::wal_end(&source).await?;
    let tables = preflight::tables(&source, settings).await?;
    let greeting = Greeting::new(ROUTE);
    let kind = capturing::choose(settings, &source).await?;
    let way = way::choose(settings, kind, &source, &target).await?;
    capturing::tell(settings, kind);
    let desk = Desk { way, kind, settings, source: &source, target: &target };
    let hello = desk.hello(&Greeting { tables: &tables, ..greeting.clone() }).await?;
    let mut found = recovery::facts(&source, &settings.source.slot, &settings.source.publication).await?;
    let marks = capturing::marks(&desk, &tables).await?;
    let known_marks: Marks = serde_json::from_value(hello.source[MARKED].clone()).unwrap_or_default();
    if let Some(found) = found.as_mut().filter(|_| known_marks.replaced(&marks)) {
        found.publication = false; // one of the same name is not the same
    }
    let mut here = json!({
        "system": slot::system_identifier(&source).await?,
        "slot": settings.source.slot,
        "timeline": found.as_ref().map(|facts| facts.timeline),
    });
    if kind == Kind::Journal {
        here["capture"] = kind.word().into();
    }
    // Before anything is made at the source: it may be the wrong one.
    same_source(&hello.source, &here, hello.checkpoint() == Position::default())?;
    if kind == Kind::Wal {
        not_filtered(&desk, &tables, &greeting).await?;
    }
    if evolve::evolve(&desk, &tables, &hello.tables).await? {
        return Err(Fault::retry("columns were added in Supabase too; both sides are looked at again"));
    }
    let checkpoint = hello.checkpoint();
    let paused = runs::paused(&source).await?;
    let begun = checkpoint != Position::default();
    let sorted = tables::sort_out(settings, &tables, hello.tables.clone(), &paused, refused, begun)?;
    let missed = capturing::missed(&desk, &tables, checkpoint).await?;
    let asked = control.again.all();
    let doubtful = |table: &Table| {
        asked.contains(&table.name) || missed.tables.contains(&table.name) || known_marks.altered(&marks, table.oid)
    };
    let doubtful: Vec<TableName> = tables.iter().filter(|t| doubtful(t)).map(|t| t.name.clone()).collect();
    let hello = mark_missed(&desk, &tables, &sorted.aside, &greeting, hello, &doubtful).await?;
    control.again.done(&asked);
    if way == Way::Rpc && settings.apply.triggers == Triggers::Suppress && !hello.suppress {
        warn!(
            "the owner of our functions in Supabase may not set session_replication_role: triggers and foreign keys \
             act there too, and rows are written in the source's order"
        );
    }
    let known_timeline = hello.source["timeline"].as_u64().and_then(|timeline| u32::try_from(timeline).ok());
    let found = found.map(|facts| recovery::Facts { checkpoint, known_timeline, ..facts });
    let changed = checkpoint != Position::default() && Kind::known(&hello.source) != kind;
    let broken = match (kind, found) {
        _ if changed => Some(recovery::Broken::OtherCapture { is: kind.word() }),
        (Kind::Wal, found) => found.as_ref().and_then(recovery::judge),
        (Kind::Journal, Some(facts)) => capturing::judge_journal(&source, facts).await?,
        (Kind::Journal, None) => {
            return Err(slot::server::primary(true).err().unwrap_or_else(|| Fault::retry("a standby")));
        }
    };
    if let Some(broken) = broken {
        // What was said of the last stream does not hold for the next one.
        status.send_modify(|status| status.state = State::Starting);
        recovery::make_room(&source, &settings.source.slot, broken, settings.source.create).await?;
        let what = "the stream begins anew, and every table is compared and repaired";
        control.timeline.tell(Activity::new("recovery", "lockstep", what).because(broken.to_string()));
    }
    let names = tables::names(&tables, &sorted.aside);
    match way {
        Way::Tables => progress::intend(&source, ROUTE).await?,
        Way::Rpc => progress::forget(&source, ROUTE).await?,
    }
    let from = capturing::begin(&desk, &url, &names).await?;
    // With what was made sure of itself, the marks are what the next look compares with.
    let (before, marks) = (marks, capturing::marks(&desk, &tables).await?);
    let doubtful = |(table, finding): (&Table, &Finding)| finding.copied && before.altered(&marks, table.oid);
    if tables.iter().zip(&hello.tables).any(doubtful) {
        let what = "what is captured was altered in this very moment; both sides are looked at again";
        return Err(Fault::retry(what));
    }
    here[MARKED] = json!(marks);
    let fit = preflight::names(&sorted.active);
    let restart = broken.map(|_| from);
    let first = Greeting { source: here.clone(), begin: &fit, park: &sorted.aside, restart, ..greeting.clone() };
    let known = desk.hello(&first).await?;
    same_source(&known.source, &here, false)?;
    capturing::clean(&source, settings, kind, changed).await;
    capturing::leave_others(&desk, &tables).await;
    // After a recovery no table counts as copied any more.
    let hello = match broken {
        Some(_) => desk.hello(&Greeting { look: true, tables: &tables, ..greeting }).await?,
        None => hello,
    };
    let hello = hello.of(&tables, &sorted.active);
    let watched = capturing::watched(&desk, &sorted.active).await?;
    let lost = Lost { known: missed.lost, upto: read_at.lsn(), watched };
    let (tables, aside) = (sorted.active, sorted.aside);
    Ok(Ready { source, target, tables, aside, read_at, marks, hello, way, kind, lost, broken })
}

/// Refuses a publication that shows only some rows of a table.
async fn not_filtered(desk: &Desk<'_>, tables: &[Table], greeting: &Greeting<'_>) -> Result<(), Fault> {
    let publication = &desk.settings.source.publication;
    let mut restricted = restricted::read(desk.source, publication).await?;
    restricted.retain(|one| one.filter.is_some() && tables.iter().any(|table| table.name == one.table));
    let Some(fault) = restricted.first().and_then(|one| one.refusal(publication)) else { return Ok(()) };
    // They may have missed changes, which is on record before anybody is told.
    let again: Vec<TableName> = restricted.into_iter().map(|one| one.table).collect();
    desk.hello(&Greeting { tables, again: &again, ..greeting.clone() }).await?;
    Err(fault)
}

/// Tables that are set aside miss changes, and so do those that were taken out of the publication: they do not count as
/// copied any more, which is on record before anything is skipped or published again.
async fn mark_missed(
    desk: &Desk<'_>,
    tables: &[Table],
    aside: &[Aside],
    greeting: &Greeting<'_>,
    hello: Hello,
    doubtful: &[TableName],
) -> Result<Hello, Fault> {
    let copied = tables.iter().zip(&hello.tables).filter(|(_, finding)| finding.copied || finding.cursor.is_some());
    let copied: Vec<TableName> = copied.map(|(table, _)| table.name.clone()).collect();
    let (unpublished, all) = match desk.kind {
        Kind::Journal => (Vec::new(), false), // known already
        Kind::Wal => {
            let all = publication::leaves_out(desk.source, &desk.settings.source.publication).await?;
            (tables::unpublished(desk, &copied).await?, all)
        }
    };
    let skipped =
        |name: &TableName| all || unpublished.contains(name) || aside.iter().any(|one| one.table.name == *name);
    // A table that somebody made anew in Supabase holds nothing of what was copied.
    let emptied = |finding: &Finding| finding.copied && finding.empty && finding.rows > 0;
    let emptied = tables.iter().zip(&hello.tables).filter(|(_, finding)| emptied(finding));
    let emptied: Vec<TableName> = emptied.map(|(table, _)| table.name.clone()).collect();
    let wanted = |name: &TableName| skipped(name) || emptied.contains(name) || doubtful.contains(name);
    let again: Vec<TableName> = copied.into_iter().filter(wanted).collect();
    if again.is_empty() {
        return Ok(hello);
    }
    let hello = desk.hello(&Greeting { tables, again: &again, ..greeting.clone() }).await?;
    let still = tables.iter().zip(&hello.tables).any(|(table, finding)| finding.copied && again.contains(&table.name));
    match still {
        true => Err(Fault::stop("our SQL in Supabase is older than this program", crate::remedy::INSTALL)),
        false => Ok(hello),
    }
}

/// Refuses to go on with another source's positions: they mean nothing here.
pub(crate) fn same_source(known: &serde_json::Value, here: &serde_json::Value, fresh: bool) -> Result<(), Fault> {
    let part = |of: &serde_json::Value, name: &str| of[name].as_str().unwrap_or("?").to_owned();
    // While nothing is written it may still become another one.
    if fresh || (known["system"] == here["system"] && known["slot"] == here["slot"]) {
        return Ok(());
    }
    if known["system"] == here["system"] {
        let (known, here) = (part(known, "slot"), part(here, "slot"));
        return Err(Fault::stop(
            format!("Supabase holds what slot {known} of this source brought, and the settings name slot {here}"),
            format!("set LOCKSTEP_SLOT={known} (source.slot in lockstep.toml)"),
        ));
    }
    Err(Fault::stop(
        format!(
            "Supabase holds a copy of another source (system identifier {}), and DATABASE_URL leads to {}",
            part(known, "system"),
            part(here, "system")
        ),
        "point DATABASE_URL at the source that it was copied from; or start afresh: lockstep setup teardown --apply on \
         both sides, lockstep setup supabase, and empty the tables in Supabase",
    ))
}

/// A transaction of up to so many full batches is still one request; a larger one travels in parts of that size. It
/// follows the batch's size, so that whoever makes requests smaller makes all of them smaller.
const WHOLE: usize = 4;

async fn stream(
    settings: &Settings,
    status: &watch::Sender<Status>,
    ready: Ready,
    control: &Control,
    limits: &Limits,
    mut asked: watch::Receiver<u64>,
    mut ending: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let Ready { source, target, tables, aside, read_at, marks, hello, way, kind, lost, broken } = ready;
    let (stop, shutdown) = watch::channel(false);
    let url = preflight::source_url(settings)?;
    let run = random_run();
    let checkpoint = hello.checkpoint();
    let copies = copies(&tables, &hello);
    let suppress = way == Way::Rpc && hello.suppress && settings.apply.triggers == Triggers::Suppress;
    let copying: HashSet<_> = copies.iter().map(|copy| copy.table.name.clone()).collect();

    let (changes, queued) = queue(settings.apply.queue_bytes);
    let (settled, settled_seen) = watch::channel(checkpoint);
    let (durable, confirmable) = watch::channel(checkpoint);
    let held = confirmable.clone();
    let (progress, progress_seen) = watch::channel(capture::Progress::default());
    // Two ranges: one waits for its watermark while the next is read.
    let (ranges, ranges_in) = mpsc::channel(2);
    // Apply asks for one batch, and for one to prepare behind it.
    let (pulls, pulled) = mpsc::channel(2);
    // One row at a time is asked for.
    let (rereads, wanted) = mpsc::channel(1);
    let reader = Rereader::new(rereads);
    // Unbounded: a few small events for each request, read by a task that only counts.
    let (events, happened) = mpsc::unbounded_channel();
    status.send_modify(|status| {
        (status.way, status.capture) = (Some(way.word().into()), Some(kind.word().into()));
    });
    let mut report = Report::new(status, &tables, &hello.tables, &aside, checkpoint, control.clock.clone());
    report.parked(hello.parked.clone(), None);

    let lane = Lane::start()?;
    let pulse = control.pulse.clone();
    lane.handle().spawn(async move { pulse.beat::<Infallible>().await });
    let mut parts = JoinSet::new();
    let stopped = shutdown.clone();
    let (held_up, holder) = watch::channel(None);
    report.held_up_by(holder);
    let part_bytes = settings.apply.max_batch_bytes.saturating_mul(WHOLE);
    match kind {
        Kind::Wal => {
            let reading = capture::Settings {
                slot: settings.source.slot.clone(),
                publication: settings.source.publication.clone(),
                part_bytes,
                ..capture::Settings::new(url.clone())
            };
            let run = async move { capture::run(&reading, checkpoint, changes, confirmable, stopped, progress).await };
            parts.spawn_on(run, lane.handle());
        }
        Kind::Journal => {
            let reading =
                capture::journal::Settings { part_bytes, ..capture::journal::Settings::new(url.clone(), lost) };
            let watches = capture::journal::Watches { checkpoint: confirmable, stop: stopped, progress, held_up };
            let run = async move { capture::journal::run(&reading, checkpoint, changes, watches).await };
            parts.spawn_on(run, lane.handle());
        }
    }

    let keys: HashMap<u32, Vec<String>> = tables.iter().map(|table| (table.oid, table.key.clone())).collect();
    let link = match settings.workflows.enabled {
        true => {
            let wanted = super::workflows::settings(settings)?;
            let (recorder, asks, rules) =
                Recorder::open(wanted, control.bell.clone(), control.rulebook.clone()).await?;
            parts.spawn(recorder.run());
            Some(Link { asks, rules, keys: keys.clone() })
        }
        false => None,
    };
    let queued = Tap::new(queued, link, checkpoint);
    let gathering = pipeline::Settings { run, keys, batch_bytes: limits.batch_bytes() };
    let gathering = async move {
        // The pipeline ends early only when apply is gone, and apply says why.
        let _ = pipeline::run(gathering, queued, ranges_in, pulled).await;
        Ok(())
    };
    parts.spawn_on(gathering, lane.handle());

    // A connection lives where it was made: apply makes one of its own.
    let (client, applying) = (target.clone(), preflight::client(settings)?);
    let shapes = Shapes::new(preflight::shapes(&tables, settings), read_at);
    match way {
        Way::Rpc => {
            let apply = Apply {
                settings: crate::apply::Settings {
                    route: ROUTE.into(),
                    suppress,
                    whole_bytes: settings.apply.whole_bytes,
                    limits: limits.clone(),
                    park_rows: (settings.apply.on_refusal == OnRefusal::Park).then_some(settings.apply.park_rows),
                },
                client: applying,
                shapes,
                copying,
                reached: Reached::new(checkpoint, settled, durable),
                events,
                reader,
                parked: Parked::new(hello.parked.clone()),
                staged: None,
                vain: 0,
            };
            parts.spawn_on(apply.run(pulls), lane.handle());
        }
        Way::Tables => {
            let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
            let facts = plain::facts(&source, &oids).await?;
            let begun = checkpoint > Position::default();
            let request_bytes = settings.apply.max_batch_bytes;
            let how = plain::Settings { route: ROUTE.into(), source: url.clone(), request_bytes, begun };
            let joints = Joints { client: applying, shapes, copying, settled, durable, events, reader };
            parts.spawn_on(Tables::new(how, facts, joints).run(pulls), lane.handle());
        }
    }

    let reading = url.clone();
    parts.spawn(async move { reconcile::reread(&reading, wanted).await });
    let copying = preflight::reconciling(settings, url, client, way, kind);
    let inlet = reconcile::Inlet::new(run, ranges, settled_seen.clone(), kind.marks());
    let record = reconcile::Record {
        job: format!("{:012x}", run >> 16),
        why: broken.map_or_else(|| "its rows were in doubt".to_owned(), |broken| format!("recovery: {broken}")),
        create: settings.source.create,
        jobs: control.jobs.clone(),
    };
    // Ends with the route, whatever it is at: the runner begins the table again.
    let mut beside = JoinSet::new();
    beside.spawn(compare(control.work.clone(), copying.clone(), tables.clone(), inlet.clone()));
    let stopped = shutdown.clone();
    parts.spawn(async move {
        match reconcile::copy(&copying, copies, &record, &inlet).await {
            // The stream ends with the drain, and the copy goes on from its stored mark after the next start.
            Err(Fault::Retry { .. }) if *stopped.borrow() => Ok(()),
            Err(fault) => {
                // It notices first that another part has ended; that one knows why, and is heard first.
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                Err(fault)
            }
            Ok(()) => Ok(()),
        }
    });

    let (felt, feeling) = watch::channel(None);
    let desk = Desk { way, kind, settings, source: &source, target: &target };
    let turning = async {
        tokio::select! {
            _ = ending.wait_for(|&stop| stop) => {}
            Ok(()) = asked.changed() => info!("somebody asked to look at the tables again"),
            why = tables::until_changed(&desk, &tables, &aside, &marks, &control.again) => {
                info!(%why, "looking at both sides again");
            }
        }
        stop.send_replace(true);
        std::future::pending::<Infallible>().await
    };

    let ended = async {
        while let Some(end) = parts.join_next().await {
            // A part that panicked is a bug of ours; the others end with it, and the route starts from the checkpoint.
            end.map_err(|error| Fault::retry(format!("a part of the route broke: {error}")))??;
        }
        Ok(())
    };
    let mut ended = pin!(ended);
    let deadline = deadline(shutdown, settings.shutdown.deadline);
    tokio::select! {
        end = &mut ended => end,
        never = report.keep(progress_seen, settled_seen, held, feeling, happened) => match never {},
        never = reach::watch(&target, control.watchers.clone(), &felt) => match never {},
        never = turning => match never {},
        () = deadline => {
            warn!("not everything in flight was finished in time; it is sent again after the next start");
            Ok(())
        }
    }
}

/// Compares what it is handed, a table at a time, for as long as the route lives.
async fn compare(
    work: Arc<Mutex<mpsc::Receiver<Work>>>,
    settings: reconcile::Settings,
    tables: Vec<Table>,
    inlet: reconcile::Inlet,
) {
    let mut work = work.lock().await;
    while let Some(Work { table, repair, progress, reply }) = work.recv().await {
        let job = Job { tables: vec![table], repair, why: String::new() };
        let end = reconcile::run(&settings, &tables, &job, Some(&inlet), &progress).await;
        let report = end.and_then(|mut reports| reports.pop().ok_or_else(|| Fault::retry("there was no report")));
        let _ = reply.send(report); // the runner may have ended with the service
    }
}

/// Ends `after` the shutdown began.
async fn deadline(mut shutdown: watch::Receiver<bool>, after: std::time::Duration) {
    if shutdown.wait_for(|&stop| stop).await.is_err() {
        std::future::pending::<()>().await; // nobody can ask for a shutdown any more
    }
    tokio::time::sleep(after).await;
}

/// Tables whose first copy is not finished, and how far it is.
fn copies(tables: &[Table], hello: &Hello) -> Vec<reconcile::Copy> {
    let unfinished = tables.iter().zip(&hello.tables).filter(|(_, finding)| !finding.copied);
    let copy = |(table, finding): (&Table, &Finding)| reconcile::Copy {
        table: table.clone(),
        mark: CopyMark {
            table: table.name.clone(),
            oid: table.oid,
            cursor: finding.cursor.clone().unwrap_or_default(),
            done: false,
            rows: finding.rows,
        },
        in_doubt: finding.is_in_doubt(),
    };
    unfinished.map(copy).collect()
}

/// A number that no earlier start has used.
fn random_run() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
