//! Settings: from `lockstep.toml`, overridden by `.env`, overridden by the environment. Everything is checked before
//! anything starts, and each mistake is one line that names the setting, where it came from and what to do.

mod load;
mod names;
mod problem;
mod settings;
mod units;
mod urls;

pub use load::{Layers, load, read};
pub use names::{SETTINGS, Setting};
pub use problem::Problem;
pub use settings::{
    Apply, Copy, Existing, Http, Log, LogFormat, OneTable, Settings, Shutdown, Source, Supabase, Tables, Triggers, Way,
};
pub use urls::ProjectUrl;
