//! What lives as long as the process: the window, and within it one life after the other of the route and its crew.
//! New settings end a life cleanly and begin the next one; the window stays up, and shows that.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc, watch};
use tracing::{info, warn};

use super::crew::{Boards, Crew};
use super::notify::{self, Manager};
use super::pulse::Pulse;
use super::route::ROUTE;
use super::vitals::Vitals;
use super::{preflight, publish, report, supervise, timeline};
use crate::config::Settings;
use crate::http;
use crate::status::{Jobs, State, Status, Synced};
use crate::types::{Activity, Fault, JobState, Order, Refusal, SettingsOrder, Timeline};

/// What reaches a running service from outside.
pub struct Outside {
    /// Settings to go on with.
    pub changes: mpsc::Receiver<Settings>,
    /// Where the window's questions about settings go.
    pub settings: mpsc::Sender<SettingsOrder>,
}

/// How a life of the route ended.
enum Next {
    End(Result<(), Fault>),
    Settings(Box<Settings>),
}

/// What one life hands to the next.
struct Service {
    status: watch::Sender<Status>,
    webhook: watch::Sender<http::Webhook>,
    boards: Boards,
    changes: mpsc::Receiver<Settings>,
    shutdown: watch::Receiver<bool>,
}

/// Replicates until `shutdown` turns true, then finishes what is in flight. A fault that somebody must mend ends it only
/// before the route was up for the first time, with the settings of the start: then somebody is looking.
pub async fn serve(settings: Settings, outside: Outside, shutdown: watch::Receiver<bool>) -> Result<(), Fault> {
    let status = watch::Sender::new(first_status(&settings)?);
    let listener = http::bind(settings.http.listen).await?;
    // More than a few commands at a time are no people.
    let (orders, ordered) = mpsc::channel(16);
    // Webhooks come in bursts; what finds no room is asked to come back.
    let (workflows, wished) = mpsc::channel(64);
    let (timeline, told) = Timeline::new();
    let told = Arc::new(Mutex::new(told));
    let kept = (preflight::source_url(&settings)?, settings.source.create, settings.state.activity);
    timeline.tell(Activity::new("service", "lockstep", format!("started, version {}", env!("CARGO_PKG_VERSION"))));
    let webhook = watch::Sender::new(door(&settings));
    let boards = Boards {
        jobs: watch::Sender::new(Jobs::default()),
        book: watch::Sender::new(Vec::new()),
        ordered: Arc::new(Mutex::new(ordered)),
        pulse: Pulse::default(),
        wishes: Arc::new(Mutex::new(wished)),
        synced: watch::Sender::new(Synced::default()),
        watchers: watch::Sender::new(0),
        timeline: timeline.clone(),
        told: told.clone(),
    };
    let window = http::Window {
        status: status.subscribe(),
        jobs: boards.jobs.subscribe(),
        book: boards.book.subscribe(),
        orders,
        workflows,
        webhook: webhook.subscribe(),
        settings: outside.settings,
        timeline: timeline.clone(),
        access: http::Access {
            token: settings.http.token.clone(),
            read_token: settings.http.read_token.clone(),
            behind_tls: settings.http.behind_tls,
        },
        synced: boards.synced.subscribe(),
        watchers: boards.watchers.clone(),
        in_step_within: settings.http.in_step_within,
    };
    // The window stays open while the route drains, and closes behind it.
    let (close, closing) = watch::channel(false);
    let window = tokio::spawn(http::serve(listener, window, closing));
    let (within, pulse) = (settings.http.in_step_within, boards.pulse.clone());
    let vitals = Vitals { status: status.subscribe(), within, pulse: pulse.clone(), manager: Manager::find() };
    let vitals = tokio::spawn(vitals.keep());
    let mut ending = shutdown.clone();
    tokio::spawn(async move {
        if ending.wait_for(|&stop| stop).await.is_ok() {
            notify::stopping();
        }
    });
    let end = tokio::select! {
        end = Service { status, webhook, boards, changes: outside.changes, shutdown }.lives(settings) => end,
        never = pulse.beat::<Infallible>() => match never {},
    };
    vitals.abort();
    close.send_replace(true);
    let _ = tokio::time::timeout(Duration::from_secs(1), window).await; // a reader that hangs is not waited for
    if let (url, create, true) = kept {
        let why = end.as_ref().err().map(ToString::to_string).unwrap_or_else(|| "asked to".into());
        timeline.tell(Activity::new("service", "lockstep", "ended").because(why));
        timeline::flush(url, create, told).await;
    }
    end
}

/// How Supabase's webhooks are let in.
fn door(settings: &Settings) -> http::Webhook {
    let settings = &settings.webhook;
    http::Webhook {
        secret: settings.secret.clone(),
        header: settings.header.clone(),
        max_bytes: settings.max_bytes,
        per_second: settings.per_second,
    }
}

fn first_status(settings: &Settings) -> Result<Status, Fault> {
    let url = preflight::source_url(settings)?;
    let target = settings.supabase.url.as_ref().map_or(String::new(), |url| url.to_string());
    Ok(Status::starting(ROUTE, url.address(), target))
}

impl Service {
    async fn lives(mut self, mut settings: Settings) -> Result<(), Fault> {
        // Who sends new settings through the window is looking at it, not at the end of a process.
        let mut seen = false;
        loop {
            match self.life(&settings, seen).await {
                Next::End(end) => return end,
                Next::Settings(new) => {
                    if *self.shutdown.borrow() {
                        return Ok(());
                    }
                    info!("new settings: the route begins anew with them");
                    settings = *new;
                    self.webhook.send_replace(door(&settings));
                    seen = true;
                    if let Err(fault) = self.turn(&settings) {
                        publish(&self.status, &fault);
                    }
                }
            }
        }
    }

    /// Nothing of what the former life showed is true of the next.
    fn turn(&self, settings: &Settings) -> Result<(), Fault> {
        let first = first_status(settings)?;
        self.status.send_modify(|status| {
            let started_at = status.started_at;
            *status = Status { started_at, ..first };
        });
        self.boards.jobs.send_replace(Jobs::default());
        self.boards.synced.send_replace(Synced::default());
        self.boards.book.send_modify(|book| {
            for view in book.iter_mut().filter(|view| matches!(view.state, JobState::Queued | JobState::Running)) {
                view.state = JobState::Failed { why: "the settings were changed meanwhile".into() };
                view.finished_at = Some(Timestamp::now());
                view.progress = None;
            }
        });
        report::connected(false, false);
        Ok(())
    }

    async fn life(&mut self, settings: &Settings, seen: bool) -> Next {
        let missing: Vec<String> = settings.supabase.missing().into_iter().map(Into::into).collect();
        if !missing.is_empty() {
            self.status.send_modify(|status| status.state = State::NotConfigured { missing });
            return self.wait("not configured: the project's address and key are to be set first").await;
        }
        let (crew, control) = match Crew::new(settings, &self.status, &self.boards) {
            Ok(crew) => crew,
            Err(fault) if seen => {
                publish(&self.status, &fault);
                return self.wait("the settings will not do; see the status").await;
            }
            Err(fault) => return Next::End(Err(fault)),
        };
        let crew = crew.begin().await;
        let (stop, stopping) = watch::channel(false);
        let mut new = None;
        let end = {
            let mut route = pin!(supervise(settings, &self.status, &control, seen, stopping));
            loop {
                let stopped = *stop.borrow();
                tokio::select! {
                    end = route.as_mut() => break end,
                    _ = self.shutdown.wait_for(|&stop| stop), if !stopped => { stop.send_replace(true); }
                    // The newest counts, should more come while the route drains.
                    Some(settings) = self.changes.recv() => {
                        stop.send_replace(true);
                        new = Some(Box::new(settings));
                    }
                }
            }
        };
        crew.end().await;
        match (new, end) {
            (Some(settings), end) => {
                if let Err(fault) = end {
                    warn!(cause = %fault, "what the former settings left unfinished is looked at with the new ones");
                }
                Next::Settings(settings)
            }
            (None, end) => Next::End(end),
        }
    }

    /// Until somebody changes the settings, or the service is to end.
    async fn wait(&mut self, why: &str) -> Next {
        let (ordered, wishes) = (self.boards.ordered.clone(), self.boards.wishes.clone());
        let (mut ordered, mut wishes) = (ordered.lock().await, wishes.lock().await);
        loop {
            self.status.send_modify(|status| status.updated_at = Timestamp::now());
            tokio::select! {
                Some(settings) = self.changes.recv() => return Next::Settings(Box::new(settings)),
                Some(Order { reply, .. }) = ordered.recv() => {
                    let _ = reply.send(Err(Refusal::Unavailable(why.into())));
                }
                Some(Order { reply, .. }) = wishes.recv() => {
                    let _ = reply.send(Err(Refusal::Unavailable(why.into())));
                }
                _ = self.shutdown.wait_for(|&stop| stop) => return Next::End(Ok(())),
                () = tokio::time::sleep(Duration::from_secs(3)) => {} // the status shows that somebody is here
            }
        }
    }
}
