//! Reads `postgresql://` URLs as libpq does, as far as Lockstep uses them. What it does not know it refuses:
//! a parameter that is silently ignored (a misspelt `sslmode`) is worse than one that is refused.
//!
//! A message never repeats what was written: with one character that is not escaped, any part may hold the password's
//! end. It says where the mistake is instead.
//!
//! tokio-postgres has a parser too, but it refuses `sslmode=verify-full` and `sslrootcert`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::{ChannelBinding, SslMode as DriverSslMode};

/// Where a database is and who we are there. Displays and debugs without its password.
#[derive(Clone)]
pub struct Url {
    pub host: Host,
    pub port: u16,
    pub user: String,
    pub password: Option<SecretString>,
    pub database: String,
    pub ssl_mode: SslMode,
    pub ssl_root: SslRoot,
    pub channel_binding: ChannelBinding,
    pub application: Option<String>,
    pub connect_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Tcp(String),
    /// The folder that holds the socket `.s.PGSQL.<port>`.
    Unix(PathBuf),
}

/// As libpq names them. `Allow` acts like `Prefer`: both take either kind of connection, and the one is encrypted
/// more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Whom we trust to sign the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SslRoot {
    /// What the operating system trusts.
    System,
    File(PathBuf),
}

impl Url {
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("postgresql://")
            .or_else(|| text.strip_prefix("postgres://"))
            .ok_or("a Postgres URL starts with postgresql://user@host/database")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        // A password cut in two by a character that should have been escaped: what follows is its rest.
        if database.contains('@') || (query.contains('@') && !authority.contains('@')) {
            return Err("the password holds a `/`, `?` or `#`; write them %2F, %3F and %23 (and @ as %40)".into());
        }
        let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
        let (host, port) = split_port(address)?;
        let mut parts = Parts {
            host: decode(host)?,
            port: port.to_string(),
            user: decode(user)?,
            password: password.map(decode).transpose()?,
            database: decode(database)?,
            ..Parts::default()
        };
        for (number, pair) in query.split('&').enumerate().filter(|(_, pair)| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(key)?;
            let known = PARAMETERS.contains(&key.as_str());
            if !known || !pair.contains('=') {
                return Err(not_supported(number + 1, &key, known));
            }
            parts.set(&key, decode(value)?)?;
        }
        parts.finish()
    }

    /// The address for people: `db.example.org:5432` or `/run/postgresql:5432`.
    pub fn address(&self) -> String {
        match &self.host {
            Host::Tcp(host) if host.contains(':') => format!("[{host}]:{}", self.port),
            Host::Tcp(host) => format!("{host}:{}", self.port),
            Host::Unix(folder) => format!("{}:{}", folder.display(), self.port),
        }
    }

    /// For tokio-postgres. The checks that `verify-*` asks for are in `tls::config`.
    pub fn driver_config(&self, application: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        match &self.host {
            Host::Tcp(host) => config.host(host),
            Host::Unix(folder) => config.host_path(folder),
        };
        if let Some(password) = &self.password {
            config.password(password.expose_secret());
        }
        config
            .port(self.port)
            .user(&self.user)
            .dbname(&self.database)
            .application_name(self.application.as_deref().unwrap_or(application))
            .connect_timeout(self.connect_timeout)
            .channel_binding(self.channel_binding)
            .ssl_mode(match self.encryption() {
                Encryption::Never => DriverSslMode::Disable,
                Encryption::IfOffered => DriverSslMode::Prefer,
                Encryption::Always => DriverSslMode::Require,
            });
        config
    }

    /// Whether to ask for TLS. A Unix socket never leaves the machine and has none.
    pub fn encryption(&self) -> Encryption {
        match (&self.host, self.ssl_mode) {
            (Host::Unix(_), _) | (_, SslMode::Disable) => Encryption::Never,
            (_, SslMode::Allow | SslMode::Prefer) => Encryption::IfOffered,
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => Encryption::Always,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    Never,
    IfOffered,
    Always,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgresql://{}@{}/{}", self.user, self.address(), self.database)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

const PARAMETERS: [&str; 10] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "channel_binding",
    "application_name",
    "connect_timeout",
];

const NOT_A_PORT: &str = "what follows the host's colon in the URL is not a port (1 to 65535); \
                          the whole is postgresql://user:password@host:port/database";

fn not_supported(number: usize, key: &str, known: bool) -> String {
    if known {
        return format!("parameter {number} of the URL, `{key}`, has no value");
    }
    // Only a known name is ever repeated.
    let near = PARAMETERS.iter().find(|known| strsim::damerau_levenshtein(known, key) <= 2);
    let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    format!("parameter {number} of the URL is not supported{near} These are: {}", PARAMETERS.join(", "))
        .replace("supported These", "supported. These")
}

/// What was written, before it is judged as a whole. `ssl_root` decides what a missing `ssl_mode` means.
#[derive(Default)]
struct Parts {
    host: String,
    port: String,
    user: String,
    password: Option<String>,
    database: String,
    ssl_mode: Option<SslMode>,
    ssl_root: Option<SslRoot>,
    channel_binding: Option<ChannelBinding>,
    application: Option<String>,
    connect_timeout: Option<Duration>,
}

impl Parts {
    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "host" => self.host = value,
            "port" => self.port = value,
            "user" => self.user = value,
            "password" => self.password = Some(value),
            "dbname" => self.database = value,
            "sslmode" => self.ssl_mode = Some(ssl_mode(&value)?),
            "sslrootcert" if value == "system" => self.ssl_root = Some(SslRoot::System),
            "sslrootcert" => self.ssl_root = Some(SslRoot::File(value.into())),
            "channel_binding" => self.channel_binding = Some(channel_binding(&value)?),
            "application_name" => self.application = Some(value),
            "connect_timeout" => self.connect_timeout = connect_timeout(&value)?,
            _ => {} // not in PARAMETERS, and refused by its number
        }
        Ok(())
    }

    fn finish(self) -> Result<Url, String> {
        if self.user.is_empty() {
            return Err("the URL names no user: postgresql://user@host/database".into());
        }
        if self.host.contains(',') {
            return Err("the URL names several hosts; name the one that takes writes".into());
        }
        let host = match self.host.as_str() {
            "" => Host::Tcp("localhost".into()),
            path if path.starts_with('/') => Host::Unix(path.into()),
            name => Host::Tcp(name.into()),
        };
        let port = match self.port.as_str() {
            "" => 5432,
            text => text.parse().ok().filter(|&port| port != 0).ok_or(NOT_A_PORT)?,
        };
        let ssl_mode = match (self.ssl_mode, &self.ssl_root) {
            // libpq: the public authorities would vouch for anybody, so their word needs the name check.
            (None, Some(SslRoot::System)) => SslMode::VerifyFull,
            (Some(mode), Some(SslRoot::System)) if mode != SslMode::VerifyFull => {
                return Err("sslrootcert=system needs sslmode=verify-full".into());
            }
            // libpq: require with a root file means verify-ca.
            (Some(SslMode::Require), Some(SslRoot::File(_))) => SslMode::VerifyCa,
            (mode, _) => mode.unwrap_or(SslMode::Prefer),
        };
        Ok(Url {
            host,
            port,
            database: if self.database.is_empty() { self.user.clone() } else { self.database },
            user: self.user,
            password: self.password.map(SecretString::from),
            ssl_mode,
            ssl_root: self.ssl_root.unwrap_or(SslRoot::System),
            channel_binding: self.channel_binding.unwrap_or(ChannelBinding::Prefer),
            application: self.application,
            // Long enough for a far server under load, short enough to try again while somebody watches.
            connect_timeout: self.connect_timeout.unwrap_or(Duration::from_secs(10)),
        })
    }
}

fn ssl_mode(value: &str) -> Result<SslMode, String> {
    Ok(match value {
        "disable" => SslMode::Disable,
        "allow" => SslMode::Allow,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => {
            return Err("the URL's sslmode is none of disable, allow, prefer, require, verify-ca, verify-full".into());
        }
    })
}

fn channel_binding(value: &str) -> Result<ChannelBinding, String> {
    Ok(match value {
        "disable" => ChannelBinding::Disable,
        "prefer" => ChannelBinding::Prefer,
        "require" => ChannelBinding::Require,
        _ => return Err("the URL's channel_binding is none of disable, prefer, require".into()),
    })
}

/// libpq's 0 means "for ever"; we never wait for ever, so it means the default.
fn connect_timeout(value: &str) -> Result<Option<Duration>, String> {
    let seconds: u64 = value.parse().map_err(|_| "the URL's connect_timeout is not a number of seconds")?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
}

/// `host:port`, `[::1]:port`, or either without a port.
fn split_port(address: &str) -> Result<(&str, &str), String> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the URL's host lacks its closing bracket")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if rest.is_empty() => Ok((host, "")),
            None => Err("the URL's host goes on behind its closing bracket".into()),
        };
    }
    Ok(address.split_once(':').unwrap_or((address, "")))
}

fn decode(text: &str) -> Result<String, String> {
    // The text may be a password: the message must not repeat it.
    let bad = || "the URL has a `%` that is not followed by two hex digits of UTF-8; write a real % as %25".to_string();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit)).ok_or_else(bad)?;
            let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    if bytes.contains(&0) {
        return Err("the URL holds a NUL (%00)".into());
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;
