//! An ordinary SQL connection, with every setting pinned that changes how a value is written, and with errors that
//! say who must act.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url::{Host, Url};
use super::{quote, tls};
use crate::types::Fault;

pub use tokio_postgres::Client;

/// What makes text output canonical, for SQL and for replication alike.
pub const PINNED: [(&str, &str); 6] = [
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
];

/// After the pins: a role's own timeouts must not cut a long read, and waiting long for a lock makes every later
/// reader of that table wait behind us. A policy that would hide rows from us is an error,
/// never a shorter answer.
const SESSION: &str = "set row_security = off; set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; set lock_timeout = '10s'";

/// Connects, and drives the connection on a task that ends with the client.
pub async fn connect(url: &Url, application: &str) -> Result<Client, Fault> {
    listen(url, application, Arc::default()).await
}

/// The same; the bell rings for each notification that comes to this session.
pub async fn listen(url: &Url, application: &str, bell: Arc<Notify>) -> Result<Client, Fault> {
    let mut config = url.driver_config(application);
    config.keepalives_idle(Duration::from_secs(30)); // a dead server is noticed in minutes, not in the OS's two hours
    let tls = MakeRustlsConnect::new(tls::config(url)?);
    // The driver bounds only the TCP connect; a server that accepts and then says nothing must not hold us either.
    let (client, mut connection) = tokio::time::timeout(url.connect_timeout * 2, config.connect(tls))
        .await
        .map_err(|_| Fault::retry(format!("{} did not answer in time", url.address())))?
        .map_err(|error| connect_fault(url, &error))?;
    tokio::spawn(async move {
        loop {
            match std::future::poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(_))) => bell.notify_one(),
                Some(Ok(AsyncMessage::Notice(notice))) => tracing::info!("{}: {}", notice.severity(), notice.message()),
                Some(Ok(_)) => {}
                // Whoever waits for an answer gets its own error; this is for the log only.
                Some(Err(error)) => {
                    tracing::debug!(cause = %describe(&error), "a Postgres connection ended");
                    return;
                }
                None => return,
            }
        }
    });
    let pins: String = PINNED.iter().map(|(name, value)| format!("set {name} = '{value}'; ")).collect();
    client.batch_execute(&(pins + SESSION)).await.map_err(|error| connect_fault(url, &error))?;
    Ok(client)
}

/// What an error of a statement means: who must act?
pub fn fault(error: &tokio_postgres::Error) -> Fault {
    match error.as_db_error() {
        Some(db) => server_fault(db.code().code(), db.message(), db.hint().or(db.detail())),
        None if error.is_closed() || io_error(error).is_some() => {
            Fault::retry(format!("the connection to Postgres was lost: {}", describe(error)))
        }
        None => Fault::stop(describe(error), "report this as a bug: Postgres answered what was not understood"),
    }
}

/// The same for an error response of any connection, by its SQLSTATE.
pub fn server_fault(code: &str, message: &str, hint: Option<&str>) -> Fault {
    let cause = format!("{message} ({code})");
    let passes = matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58" | "XX")) || code == "55P03";
    match (code, hint) {
        _ if passes => Fault::Retry { cause },
        ("42501", _) => Fault::stop(cause, "grant the connecting role the right it lacks: grant … on … to …"),
        ("25006", _) => Fault::stop(cause, "point the URL at the primary: this server takes no writes"),
        (_, Some(hint)) => Fault::stop(cause, hint),
        (_, None) => Fault::stop(cause, "look at the server's log for the statement that was refused"),
    }
}

/// An error response while logging in: the same wherever we log in.
pub fn login_fault(url: &Url, code: &str, message: &str) -> Fault {
    let (user, at, database) = (&url.user, url.address(), &url.database);
    match code {
        "28P01" => Fault::stop(
            format!("{at} refused the password of user {user}: {message}"),
            format!("put the right password into the URL, or set it: alter role {} password '…'", quote::ident(user)),
        ),
        "28000" => Fault::stop(
            format!("{at} does not let user {user} in: {message}"),
            format!(
                "create the role, or let it in with a line in pg_hba.conf: host {database} {user} <address> scram-sha-256"
            ),
        ),
        "3D000" => Fault::stop(
            format!("{at} has no database {database}: {message}"),
            format!("name an existing one in the URL, or: create database {}", quote::ident(database)),
        ),
        "42501" => Fault::stop(
            format!("{at} does not let user {user} in: {message}"),
            format!("grant connect on database {} to {}", quote::ident(database), quote::ident(user)),
        ),
        "53300" => Fault::retry(format!("{at} has no free connection: {message}; raise max_connections")),
        _ => match server_fault(code, message, None) {
            Fault::Retry { cause } => Fault::retry(format!("{at} cannot be used now: {cause}")),
            other => other,
        },
    }
}

fn connect_fault(url: &Url, error: &tokio_postgres::Error) -> Fault {
    if let Some(db) = error.as_db_error() {
        return login_fault(url, db.code().code(), db.message());
    }
    if let Some(error) = io_error(error) {
        return tls::fault(url, error).unwrap_or_else(|| unreachable(url, error));
    }
    let what = describe(error);
    if what.contains("password missing") {
        return no_password(url);
    }
    if what.contains("does not support TLS") {
        return no_tls(url);
    }
    if what.contains("channel binding") {
        return no_channel_binding(url);
    }
    Fault::retry(format!("cannot connect to {}: {what}", url.address()))
}

pub(super) fn no_password(url: &Url) -> Fault {
    Fault::stop(
        format!("{} asks for a password of user {}, and the URL has none", url.address(), url.user),
        format!("write it into the URL: postgresql://{}:PASSWORD@…", url.user),
    )
}

pub(super) fn no_tls(url: &Url) -> Fault {
    Fault::stop(
        format!("{} speaks no TLS, and the URL's sslmode asks for it", url.address()),
        "turn it on (alter system set ssl = on, with ssl_cert_file and ssl_key_file), or use sslmode=prefer",
    )
}

pub(super) fn no_channel_binding(url: &Url) -> Fault {
    Fault::stop(
        format!("{} offers no channel binding, and the URL asks for channel_binding=require", url.address()),
        "use TLS and scram-sha-256 passwords on the server, or channel_binding=prefer",
    )
}

pub(super) fn unreachable(url: &Url, error: &io::Error) -> Fault {
    let at = url.address();
    match (&url.host, error.kind()) {
        (Host::Unix(_), io::ErrorKind::NotFound) => {
            Fault::retry(format!("cannot reach {at}: there is no socket; is the server running?"))
        }
        (_, io::ErrorKind::PermissionDenied) => Fault::stop(
            format!("cannot reach {at}: {error}"),
            "let this operating-system user open the socket (unix_socket_permissions), or connect over TCP",
        ),
        _ => Fault::retry(format!("cannot reach {at}: {error}")),
    }
}

/// The I/O error that an error of the driver wraps.
fn io_error(error: &tokio_postgres::Error) -> Option<&io::Error> {
    error.source()?.downcast_ref()
}

/// The whole chain of causes on one line: the driver's own text stops at "db error".
fn describe(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_retried_and_what_does_not_names_its_fix() {
        for code in ["08006", "57P01", "57P03", "53300", "40001", "40P01", "55P03", "57014"] {
            assert!(matches!(server_fault(code, "m", None), Fault::Retry { .. }), "{code}");
        }
        for code in ["42501", "42P01", "25006", "22P02"] {
            assert!(matches!(server_fault(code, "m", None), Fault::Stop { .. }), "{code}");
        }
        assert_eq!(server_fault("42P01", "no table", Some("do this")), Fault::stop("no table (42P01)", "do this"));
    }

    #[test]
    fn a_refused_login_names_user_host_and_database_and_never_the_password() {
        let url = Url::parse("postgresql://me:hunter2@db.example.org/shop").unwrap();
        for (code, thing) in [("28P01", "user me"), ("28000", "user me"), ("3D000", "database shop")] {
            let fault = login_fault(&url, code, "why").to_string();
            assert!(fault.contains(thing) && fault.contains("db.example.org:5432"), "{fault}");
            assert!(!fault.contains("hunter2"), "{fault}");
        }
    }
}
