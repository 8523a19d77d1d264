//! What the settings mean for workflows, and the people who work on them beside the route.

use std::sync::Arc;

use secrecy::ExposeSecret;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::preflight;
use crate::config::Settings;
use crate::types::{Fault, Order, Refusal, Timeline, WorkflowWish};
use crate::workflows::{self, Bell, Courier, Desk};

/// The settings of workflows, as they are needed at work.
pub fn settings(settings: &Settings) -> Result<workflows::Settings, Fault> {
    let config = &settings.workflows;
    // They were checked when they were read.
    let bad = |name: &str, cause: String| Fault::stop(format!("{name}: {cause}"), "correct it in lockstep.toml");
    let secrets = [&config.signing_secret, &config.signing_secret_before].into_iter().flatten();
    let secrets = secrets.map(|secret| secret.expose_secret().parse()).collect::<Result<_, _>>();
    let allowed = config.allow.iter().map(|text| text.parse()).collect::<Result<_, _>>();
    let api = &settings.agent_api;
    Ok(workflows::Settings {
        source: preflight::source_url(settings)?,
        publication: settings.source.publication.clone(),
        slot: settings.source.slot.clone(),
        table: config.table.clone(),
        create: settings.source.create,
        agents: api.url.clone().map(|url| workflows::AgentApi {
            url,
            token: api.token.clone(),
            path: api.path.clone(),
        }),
        secrets: secrets.map_err(|cause| bad("workflows.signing_secret", cause))?,
        allowed: allowed.map_err(|cause| bad("workflows.allow", cause))?,
        timeout: config.timeout,
        attempts: config.attempts,
        first_wait: config.first_wait,
        max_wait: config.max_wait,
        concurrency: config.concurrency,
        per_workflow: config.per_workflow,
        per_second: config.per_second,
        kept_bytes: config.kept_bytes,
        keep: config.keep,
    })
}

/// Courier and desk, before they begin.
pub struct Office {
    courier: Option<Courier>,
    desk: Option<Desk>,
    orders: Arc<Mutex<mpsc::Receiver<Order>>>,
}

/// The office at work.
pub struct AtWork {
    courier: Option<(JoinHandle<()>, watch::Sender<bool>)>,
    desk: JoinHandle<()>,
}

impl Office {
    /// `orders` outlive it.
    pub fn new(
        config: &Settings,
        bell: Bell,
        timeline: Timeline,
        orders: Arc<Mutex<mpsc::Receiver<Order>>>,
    ) -> Result<Self, Fault> {
        let (mut courier, mut desk) = (None, None);
        if config.workflows.enabled {
            let settings = settings(config)?;
            desk = Some(Desk::new(settings.clone(), bell.clone())?);
            courier = Some(Courier { settings, bell, timeline });
        }
        Ok(Self { courier, desk, orders })
    }

    pub fn begin(self) -> AtWork {
        let courier = self.courier.map(|courier| {
            let (close, closing) = watch::channel(false);
            (tokio::spawn(courier.run(closing)), close)
        });
        let desk = match self.desk {
            Some(desk) => tokio::spawn(desk.serve(self.orders)),
            None => tokio::spawn(closed(self.orders)),
        };
        AtWork { courier, desk }
    }
}

impl AtWork {
    /// What is on its way is waited for, for a moment.
    pub async fn end(self) {
        self.desk.abort();
        if let Some((mut courier, close)) = self.courier {
            close.send_replace(true);
            if tokio::time::timeout(std::time::Duration::from_secs(6), &mut courier).await.is_err() {
                courier.abort();
            }
        }
        // Whoever begins next says what is true then.
        crate::metrics::get().workflows_working.reset();
    }
}

/// Where workflows are switched off, that is the answer.
async fn closed(orders: Arc<Mutex<mpsc::Receiver<Order>>>) {
    let mut orders = orders.lock().await;
    while let Some(order) = orders.recv().await {
        let cause = "workflows are switched off: set workflows.enabled, or LOCKSTEP_WORKFLOWS=true";
        let _ = order.reply.send(Err(Refusal::Unavailable(cause.into())));
    }
}

/// Answers one wish over a connection of its own, for the command line.
pub async fn ask(config: &Settings, wish: &WorkflowWish) -> Result<Result<serde_json::Value, Refusal>, Fault> {
    let mut desk = Desk::new(settings(config)?, Bell::default())?;
    Ok(desk.answer(wish).await)
}
