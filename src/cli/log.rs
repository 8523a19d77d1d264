//! Logs go to stderr, as text or as JSON, so that what a verb prints can be piped. How much is told can be changed
//! while the service runs.

use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// The filter at work, and what the settings want.
struct Filter {
    handle: reload::Handle<EnvFilter, Registry>,
    wanted: Mutex<Wanted>,
}

struct Wanted {
    level: String,
    /// Somebody looks closely.
    closely: bool,
}

static FILTER: OnceLock<Filter> = OnceLock::new();

/// Starts logging for the rest of the process.
pub(super) fn start(settings: &Log) {
    let (filter, handle) = reload::Layer::new(filter(&settings.level));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.format {
        LogFormat::Text => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    // The only error is that logging runs already, which is what we want.
    let _ = tracing_subscriber::registry().with(filter).with(lines).with(Counted).try_init();
    let wanted = Mutex::new(Wanted { level: settings.level.clone(), closely: false });
    let _ = FILTER.set(Filter { handle, wanted });
}

/// The settings want another level.
pub(super) fn level(level: &str) {
    change(|wanted| wanted.level = level.to_owned());
}

/// Everything at level debug, or as the settings want it again; says which.
pub(super) fn turn() -> &'static str {
    let mut closely = false;
    change(|wanted| {
        wanted.closely = !wanted.closely;
        closely = wanted.closely;
    });
    if closely { "debug" } else { "as the settings say" }
}

fn change(how: impl FnOnce(&mut Wanted)) {
    let Some(Filter { handle, wanted }) = FILTER.get() else { return };
    let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
    how(&mut wanted);
    let next = if wanted.closely { "info,lockstep=debug" } else { wanted.level.as_str() };
    // It fails when logging has ended, with the process.
    let _ = handle.reload(filter(next));
}

fn filter(level: &str) -> EnvFilter {
    // It was checked with the settings.
    EnvFilter::try_new(level).unwrap_or_default()
}

/// Counts what somebody should read.
struct Counted;

impl<S: Subscriber> Layer<S> for Counted {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            _ => return,
        };
        crate::metrics::get().log_messages.with_label_values(&[level]).inc();
    }
}
