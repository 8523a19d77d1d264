//! Logs go to stderr, as text or as JSON, so that what a verb prints can be piped.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Log, LogFormat};

/// Starts logging for the rest of the process.
pub(super) fn start(settings: &Log) {
    // The filter was checked with the settings.
    let filter = EnvFilter::try_new(&settings.level).unwrap_or_default();
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // The only error is that logging runs already, which is what we want.
    match settings.format {
        LogFormat::Text => log.with_ansi(colours).try_init().ok(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).try_init().ok(),
    };
}
