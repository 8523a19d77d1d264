//! The window: page, status, probes and metrics over HTTP, and a slot for commands. It reads a `watch`, renders metrics
//! and sends commands down a bounded channel; it imports no part that works, so nothing that happens here can slow or
//! break replication.

mod accept;
mod activity;
mod api;
mod asked;
mod assets;
mod events;
mod guard;
mod live;
mod lockout;
mod login;
pub mod openapi;
mod parked;
mod patient;
mod record;
mod runbook;
mod session;
mod settings;
mod webhook;
mod workflows;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{self, DefaultBodyLimit};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::metrics;
use crate::status::{Jobs, State, Status, Synced, Verdict, View};
use crate::types::{Fault, JobView, Order, SettingsOrder, Timeline};
pub use guard::Access;

/// What the window shows, and to whom.
pub struct Window {
    pub status: watch::Receiver<Status>,
    pub jobs: watch::Receiver<Jobs>,
    /// The newest jobs with what they found.
    pub book: watch::Receiver<Vec<JobView>>,
    /// Where commands go.
    pub orders: mpsc::Sender<Order>,
    /// Where questions about settings go.
    pub settings: mpsc::Sender<SettingsOrder>,
    /// What is demanded of those who come.
    pub access: Access,
    /// What is known to be in the target, table by table.
    pub synced: watch::Receiver<Synced>,
    /// Counts the live views that are open.
    pub watchers: watch::Sender<usize>,
    /// Where it is told what people do.
    pub timeline: Timeline,
    /// Where wishes about workflows go.
    pub workflows: mpsc::Sender<Order>,
    /// How Supabase's webhooks are let in: it may change.
    pub webhook: watch::Receiver<Webhook>,
    /// The lag up to which both sides count as in step.
    pub in_step_within: Duration,
}

impl Window {
    /// One behind which nobody takes commands.
    pub fn to_look_at(status: watch::Receiver<Status>, token: Option<SecretString>, in_step_within: Duration) -> Self {
        let (jobs, book) = (watch::channel(Jobs::default()).1, watch::channel(Vec::new()).1);
        let (orders, settings) = (mpsc::channel(1).0, mpsc::channel(1).0);
        let access = Access { token, ..Access::default() };
        let (synced, watchers) = (watch::channel(Synced::default()).1, watch::channel(0).0);
        let timeline = Timeline::new().0;
        let (workflows, webhook) = (mpsc::channel(1).0, watch::channel(Webhook::default()).1);
        Self {
            status,
            jobs,
            book,
            orders,
            settings,
            workflows,
            webhook,
            access,
            synced,
            watchers,
            timeline,
            in_step_within,
        }
    }
}

/// How Supabase's webhooks are let in.
#[derive(Clone, Debug)]
pub struct Webhook {
    pub secret: Option<SecretString>,
    pub header: String,
    pub max_bytes: usize,
    pub per_second: u32,
}

impl Default for Webhook {
    /// Closed to everyone but this host.
    fn default() -> Self {
        Self { secret: None, header: "x-lockstep-secret".into(), max_bytes: 1 << 20, per_second: 100 }
    }
}

/// Takes the address, before anything else starts: one that is taken should say so at once.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(listen).await.map_err(|error| {
        let fix = "stop what listens there, or set LOCKSTEP_LISTEN to another address";
        Fault::stop(format!("cannot listen on {listen}: {error}"), fix)
    })
}

/// Serves until `shutdown` turns true. Give it the end of the draining, not its begin: while the service drains,
/// people want to see it.
pub async fn serve(listener: TcpListener, window: Window, shutdown: watch::Receiver<bool>) -> Result<(), Fault> {
    let local = listener.local_addr().map_err(|error| Fault::retry(error.to_string()))?;
    let limits = accept::Limits::default();
    let router = router(window, local, limits.body, shutdown.clone());
    accept::serve(listener, router, limits, shutdown).await;
    Ok(())
}

/// What every request may see.
struct Shared {
    window: Window,
    guard: guard::Guard,
    shutdown: watch::Receiver<bool>,
    /// Live views that are open.
    live: Arc<Semaphore>,
    /// How long a request's body may take.
    body_time: Duration,
    gate: webhook::Gate,
}

impl Shared {
    fn view(&self) -> View {
        let view = View::new(self.window.status.borrow().clone(), Timestamp::now(), self.window.in_step_within);
        view.with(self.window.jobs.borrow().clone())
    }
}

fn router(window: Window, local: SocketAddr, body_time: Duration, shutdown: watch::Receiver<bool>) -> Router {
    let guard = guard::Guard::new(&window.access, local.ip().is_loopback());
    // Each live view costs a connection and a rendering of the status twice a second; nobody has 32 screens.
    let live = Arc::new(Semaphore::new(32));
    // Behind TLS the world comes in by this host.
    let own = local.ip().is_loopback() && !window.access.behind_tls;
    let gate = webhook::Gate::new(window.webhook.clone(), own);
    let shared = Arc::new(Shared { window, guard, shutdown, live, body_time, gate });
    Router::new()
        .route("/", get(assets::document))
        .route("/page/{name}", get(assets::file))
        .route("/login", get(login::page))
        .route("/login.css", get(login::style))
        .route("/api/session", get(login::show).post(login::open).delete(login::close))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_page))
        .route("/runbook", get(|| async { asset("text/html; charset=utf-8", runbook::page()) }))
        .route("/api/status", get(status))
        .route("/api/events", get(events::stream))
        .route("/api/verify", post(api::verify))
        .route("/api/sync", post(api::sync))
        .route("/api/tables/{name}/{action}", post(api::table))
        .route("/api/jobs/{id}", get(api::job))
        .route("/api/runs", get(api::runs))
        .route("/api/activity", get(activity::list))
        .route("/api/openapi.json", get(openapi::show))
        .route("/api/parked", get(parked::list))
        .route("/api/parked/{action}", post(parked::act))
        .route("/api/settings", get(settings::show).put(settings::save))
        .route("/api/settings/test", post(settings::test))
        .merge(workflows::routes())
        .method_not_allowed_fallback(|| async {
            api::say(StatusCode::METHOD_NOT_ALLOWED, "this is asked in another way; GET /api/openapi.json says how")
        })
        .fallback(|| async { api::say(StatusCode::NOT_FOUND, "there is nothing here") })
        // The guard has read the body, within its limits.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(shared.clone(), guard::admit))
        .layer(middleware::map_request_with_state(shared.clone(), guard::visitor))
        // It has a secret and limits of its own, and no session.
        .route(webhook::PATH, post(webhook::receive).layer(DefaultBodyLimit::disable()))
        .with_state(shared)
}

/// The page may load what this server serves and nothing else, and may not be framed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn asset(kind: &'static str, text: impl IntoResponse) -> Response {
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

async fn status(extract::State(shared): extract::State<Arc<Shared>>) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(shared.view())).into_response()
}

async fn ready(extract::State(shared): extract::State<Arc<Shared>>) -> (StatusCode, String) {
    let view = shared.view();
    let parked = matches!(view.verdict, Verdict::Broken(_));
    // Probes need no token, so the reason names a class and no table, host or message.
    match view.status.stream(view.now, shared.window.in_step_within) {
        // Whoever looks after what is parked does it through this window: a probe must not close it.
        Verdict::InStep if parked => (StatusCode::OK, "in step, but for what is parked\n".into()),
        Verdict::InStep => (StatusCode::OK, "in step\n".into()),
        Verdict::Behind(_) => (StatusCode::SERVICE_UNAVAILABLE, "behind\n".into()),
        Verdict::Unknown(_) => (StatusCode::SERVICE_UNAVAILABLE, "unknown\n".into()),
        Verdict::Broken(_) if matches!(view.status.state, State::NotConfigured { .. }) => {
            (StatusCode::SERVICE_UNAVAILABLE, "not configured\n".into())
        }
        Verdict::Broken(_) => {
            let down: Vec<&str> = [("source", &view.status.source), ("target", &view.status.target)]
                .into_iter()
                .filter(|(_, end)| !end.connected)
                .map(|(side, _)| side)
                .collect();
            let why =
                if down.is_empty() { "not in step".into() } else { format!("not connected: {}", down.join(", ")) };
            (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
        }
    }
}

async fn metrics_page(headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = metrics::Format::asked(accept);
    ([(header::CONTENT_TYPE, format.content_type())], metrics::get().render(format)).into_response()
}

#[cfg(test)]
mod tests;
