//! Settings: from `lockstep.toml`, overridden by `.env`, overridden by the environment. Everything is checked before
//! anything starts, and each mistake is one line that names the setting, where it came from and what to do.

mod choice;
pub mod dotenv;
mod load;
mod names;
mod problem;
mod settings;
mod units;
mod urls;
mod workflows;

pub use choice::not_chosen;
pub use load::{Layers, layers, load, load_without, read};
pub use names::{SETTINGS, Setting};
pub use problem::Problem;
pub use settings::{
    Apply, Capture, Copy, Evolve, Existing, Http, Log, LogFormat, OnRefusal, OneTable, Reconcile, Schedule, Schema,
    Settings, Shutdown, Source, State, Supabase, Tables, Triggers, Way,
};
pub use urls::ProjectUrl;
pub use workflows::{AgentApi, Webhook, Workflows};
