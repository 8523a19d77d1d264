//! What is asked of the settings through the window. Its answers never hold a key.

use secrecy::SecretString;
use tokio::sync::oneshot;

use super::Refusal;

#[derive(Debug)]
pub enum SettingsAsk {
    /// What they are.
    Show,
    /// Whether a project with this address and key would do. Without a key: the one that is in use, if the address is.
    Test { url: Option<String>, key: Option<SecretString> },
    /// Write both into `.env`, and go on with them.
    Save { url: Option<String>, key: Option<SecretString> },
    /// Read all of them again, and go on with what is there now.
    Reload,
}

/// A wish, and where its answer goes.
#[derive(Debug)]
pub struct SettingsOrder {
    pub ask: SettingsAsk,
    /// JSON, as the API answers it.
    pub reply: oneshot::Sender<Result<serde_json::Value, Refusal>>,
}
