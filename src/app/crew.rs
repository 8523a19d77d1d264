//! What works beside the route for as long as the service lives: the runner of jobs, the keeper of sync states, and the
//! desk where commands are taken. It is made before anything starts, so that the window can show it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::commands::Commands;
use super::preflight;
use super::pulse::Pulse;
use super::route::Control;
use super::source_watch::SourceWatch;
use super::tables::Again;
use super::timeline;
use super::workflows::{self, Office};
use crate::config::Settings;
use crate::jobs::history::History;
use crate::jobs::{Entry, Keeper, Runner};
use crate::pg::Url;
use crate::scheduler::Timetable;
use crate::status::{Jobs, Status, Synced};
use crate::types::{Fault, JobView, Order, Timeline, Told};

pub struct Crew {
    runner: Runner,
    commands: Commands,
    ordered: Arc<Mutex<mpsc::Receiver<Order>>>,
    keeper: Option<Keeper>,
    source_watch: SourceWatch,
    office: Office,
    timeline: Option<(Url, bool, Boards, watch::Receiver<Status>)>,
}

/// What the window shows of it, and the commands that come through it. They outlive a crew.
#[derive(Clone)]
pub struct Boards {
    pub jobs: watch::Sender<Jobs>,
    pub book: watch::Sender<Vec<JobView>>,
    pub ordered: Arc<Mutex<mpsc::Receiver<Order>>>,
    pub pulse: Pulse,
    /// What is known to be in the target.
    pub synced: watch::Sender<Synced>,
    /// How many live views are open.
    pub watchers: watch::Sender<usize>,
    /// Wishes about workflows, which have a desk of their own.
    pub wishes: Arc<Mutex<mpsc::Receiver<Order>>>,
    pub timeline: Timeline,
    pub told: Arc<Mutex<Told>>,
}

/// The crew at work.
pub struct AtWork {
    others: JoinSet<()>,
    keeper: Option<(JoinHandle<()>, watch::Sender<bool>)>,
    office: workflows::AtWork,
}

/// The route waits so long for the sync states to be marked as unknown; a source that does not answer is not its fault.
const BEGIN: Duration = Duration::from_secs(3);
/// The keeper's last word has a limit of its own below this.
const END: Duration = Duration::from_secs(3);

impl Crew {
    pub fn new(settings: &Settings, status: &watch::Sender<Status>, boards: &Boards) -> Result<(Self, Control), Fault> {
        let url = preflight::source_url(settings)?;
        let create = settings.source.create;
        // One table at a time is worked on; the next is handed over when it is done.
        let (work, works) = mpsc::channel(1);
        let (asks, asked) = mpsc::channel(4);
        let Boards { jobs, book, ordered, synced, watchers, wishes, timeline, told: _, pulse } = boards.clone();
        let kept = settings.state.activity.then(|| (url.clone(), create, boards.clone(), status.subscribe()));
        let (look_again, _) = watch::channel(0);
        let bell = crate::workflows::Bell::default();
        let office = Office::new(settings, bell.clone(), timeline.clone(), wishes)?;
        let again = Again::default();
        let commands = Commands {
            settings: settings.clone(),
            status: status.subscribe(),
            asks,
            look_again: look_again.clone(),
            again: again.clone(),
        };
        let keeper = settings.state.enabled.then(|| Keeper {
            url: url.clone(),
            table: settings.state.table.clone(),
            create,
            within: settings.http.in_step_within,
            status: status.subscribe(),
            jobs: jobs.subscribe(),
            shown: synced,
        });
        let (clock, known) = watch::channel(None);
        let source_watch = SourceWatch {
            url: url.clone(),
            slot: settings.source.slot.clone(),
            capture: settings.source.capture,
            status: status.subscribe(),
            clock,
        };
        let runner = Runner {
            asks: asked,
            work,
            status: status.subscribe(),
            jobs: jobs.clone(),
            book,
            history: History::new(url, create),
            entries: entries(settings)?,
            jitter: settings.schedule.jitter,
            catch_up: settings.schedule.catch_up,
            seen_to: BTreeSet::new(),
        };
        let (watchers, work) = (watchers.subscribe(), Arc::new(Mutex::new(works)));
        let rulebook = crate::workflows::Rulebook::default();
        let control =
            Control { look_again, again, clock: known, pulse, work, watchers, jobs, timeline, bell, rulebook };
        Ok((Self { runner, commands, ordered, keeper, source_watch, office, timeline: kept }, control))
    }

    /// Sets to work; returns when no sync state says any more what an earlier process knew.
    pub async fn begin(self) -> AtWork {
        let mut others = JoinSet::new();
        others.spawn(self.runner.run());
        others.spawn(async { match self.source_watch.keep().await {} });
        others.spawn(self.commands.serve(self.ordered));
        if let Some((url, create, Boards { book, timeline, told, .. }, status)) = self.timeline {
            others.spawn(timeline::write(url, create, told));
            others.spawn(timeline::observe(timeline, status, book.subscribe()));
        }
        let office = self.office.begin();
        let Some(keeper) = self.keeper else { return AtWork { others, keeper: None, office } };
        let (begun, mut seen) = watch::channel(false);
        let (close, closing) = watch::channel(false);
        let keeper = tokio::spawn(keeper.run(begun, closing));
        let _ = tokio::time::timeout(BEGIN, seen.wait_for(|&begun| begun)).await;
        AtWork { others, keeper: Some((keeper, close)), office }
    }
}

impl AtWork {
    /// The route has ended: jobs end with it, and the sync states say so.
    pub async fn end(mut self) {
        self.others.abort_all();
        self.office.end().await;
        if let Some((keeper, close)) = self.keeper {
            close.send_replace(true);
            let _ = tokio::time::timeout(END, keeper).await;
        }
    }
}

/// The timetables of the settings: the common one, and one for each list that tables have of their own.
fn entries(settings: &Settings) -> Result<Vec<Entry>, Fault> {
    let schedule = &settings.schedule;
    let entry = |tables: Option<Vec<String>>, expressions: &[String]| {
        // The settings were checked when they were read.
        let timetable = Timetable::parse(expressions, &schedule.timezone)
            .map_err(|cause| Fault::stop(format!("schedule: {cause}"), "correct it in lockstep.toml"))?;
        Ok(Entry { tables, timetable, label: expressions.join(" | ") })
    };
    let mut own: Vec<(&Vec<String>, Vec<String>)> = Vec::new();
    for (name, one) in &settings.table {
        let Some(expressions) = &one.reconcile else { continue };
        match own.iter_mut().find(|(known, _)| *known == expressions) {
            Some((_, tables)) => tables.push(name.clone()),
            None => own.push((expressions, vec![name.clone()])),
        }
    }
    let common = entry(None, &schedule.reconcile);
    let own = own.into_iter().map(|(expressions, tables)| entry(Some(tables), expressions));
    std::iter::once(common).chain(own).collect()
}
