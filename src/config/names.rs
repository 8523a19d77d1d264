//! Every setting's name, in one list: what a file may hold, which variable overrides it, what a typo is compared to.
//! `tests/house` keeps the example file and the page on settings in step with it.

#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its path in `lockstep.toml`; `*` stands for a name of the operator's own.
    pub key: &'static str,
    /// The variable that overrides it, in the environment or in `.env`.
    pub env: Option<&'static str>,
    /// Yes or no: a variable's text is read as `true` or `false`.
    pub switch: bool,
}

const fn plain(key: &'static str) -> Setting {
    Setting { key, env: None, switch: false }
}

const fn with(key: &'static str, env: &'static str) -> Setting {
    Setting { key, env: Some(env), switch: false }
}

const fn switch(key: &'static str, env: &'static str) -> Setting {
    Setting { key, env: Some(env), switch: true }
}

pub const SETTINGS: &[Setting] = &[
    with("source.url", "DATABASE_URL"),
    with("source.slot", "LOCKSTEP_SLOT"),
    with("source.publication", "LOCKSTEP_PUBLICATION"),
    switch("source.create", "LOCKSTEP_CREATE"),
    with("source.capture", "LOCKSTEP_CAPTURE"),
    with("supabase.url", "SUPABASE_URL"),
    with("supabase.key", "SUPABASE_KEY"),
    with("supabase.ca_file", "SUPABASE_CA_FILE"),
    with("supabase.timeout", "SUPABASE_TIMEOUT"),
    switch("supabase.allow_http", "SUPABASE_ALLOW_HTTP"),
    plain("tables.schemas"),
    plain("tables.include"),
    plain("tables.exclude"),
    plain("table.*.columns"),
    plain("table.*.reconcile"),
    with("apply.way", "LOCKSTEP_APPLY"),
    with("apply.triggers", "LOCKSTEP_TRIGGERS"),
    plain("apply.max_batch_bytes"),
    plain("apply.queue_bytes"),
    plain("apply.whole_bytes"),
    with("apply.on_refusal", "LOCKSTEP_ON_REFUSAL"),
    plain("apply.park_rows"),
    with("copy.existing", "LOCKSTEP_EXISTING"),
    plain("copy.chunk_bytes"),
    with("schema.evolve", "LOCKSTEP_EVOLVE"),
    plain("reconcile.max_rows_per_second"),
    plain("reconcile.listed"),
    plain("schedule.reconcile"),
    with("schedule.timezone", "LOCKSTEP_TIMEZONE"),
    plain("schedule.jitter"),
    plain("schedule.catch_up"),
    switch("state.enabled", "LOCKSTEP_STATE"),
    plain("state.table"),
    switch("state.activity", "LOCKSTEP_ACTIVITY"),
    switch("workflows.enabled", "LOCKSTEP_WORKFLOWS"),
    plain("workflows.table"),
    with("workflows.signing_secret", "LOCKSTEP_SIGNING_SECRET"),
    with("workflows.signing_secret_before", "LOCKSTEP_SIGNING_SECRET_BEFORE"),
    plain("workflows.allow"),
    plain("workflows.timeout"),
    plain("workflows.attempts"),
    plain("workflows.first_wait"),
    plain("workflows.max_wait"),
    plain("workflows.concurrency"),
    plain("workflows.per_workflow"),
    plain("workflows.per_second"),
    plain("workflows.kept_bytes"),
    plain("workflows.keep"),
    with("agent_api.url", "LOCKSTEP_AGENT_API_URL"),
    with("agent_api.token", "LOCKSTEP_AGENT_API_TOKEN"),
    plain("agent_api.path"),
    with("webhook.secret", "LOCKSTEP_WEBHOOK_SECRET"),
    plain("webhook.header"),
    plain("webhook.max_bytes"),
    plain("webhook.per_second"),
    with("retry.look_again", "LOCKSTEP_LOOK_AGAIN"),
    with("http.listen", "LOCKSTEP_LISTEN"),
    with("http.token", "LOCKSTEP_TOKEN"),
    with("http.read_token", "LOCKSTEP_READ_TOKEN"),
    switch("http.behind_tls", "LOCKSTEP_BEHIND_TLS"),
    plain("http.in_step_within"),
    with("log.format", "LOCKSTEP_LOG_FORMAT"),
    with("log.level", "LOCKSTEP_LOG"),
    with("shutdown.deadline", "LOCKSTEP_SHUTDOWN_DEADLINE"),
];

/// The setting of this path, where `table."public.agents".columns` is written `table.*.columns`.
pub(super) fn find(path: &[&str]) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| {
        let parts = setting.key.split('.');
        parts.clone().count() == path.len() && parts.zip(path).all(|(part, name)| part == "*" || part == *name)
    })
}

/// The name most like `word` among `names`, when it is near enough to be a slip of the hand.
pub(super) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
        .min()
        .map(|(_, name)| name)
}
