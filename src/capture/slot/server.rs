//! The server as a whole: whether it can replicate at all, and which cluster it is.

use super::refusal;
use crate::pg::replication::{Connection, System};
use crate::pg::{Client, Url, client};
use crate::remedy;
use crate::types::Fault;

const SERVER: &str = "select current_setting('server_version_num')::int4, current_setting('wal_level'), \
     current_setting('max_wal_senders')::int4, current_database()::text, \
     current_setting('max_replication_slots')::int4 - (select count(*) from pg_replication_slots)::int4, \
     pg_is_in_recovery()";

pub(super) struct Server {
    pub(super) version: u32,
    pub(super) wal_level: String,
    pub(super) max_wal_senders: i32,
    pub(super) database: String,
    pub(super) free_slots: i32,
    pub(super) standby: bool,
}

impl Server {
    pub(super) async fn read(client: &Client) -> Result<Self, Fault> {
        let row = client.query_one(SERVER, &[]).await.map_err(|error| client::fault(&error))?;
        Ok(Self {
            version: u32::try_from(row.get::<_, i32>(0)).unwrap_or(0),
            wal_level: row.get(1),
            max_wal_senders: row.get(2),
            database: row.get(3),
            free_slots: row.get(4),
            standby: row.get(5),
        })
    }

    pub(super) fn judge(&self) -> Result<(), Fault> {
        version(self.version)?;
        primary(self.standby)?;
        wal_level(&self.wal_level)?;
        senders(i64::from(self.max_wal_senders))
    }
}

pub(crate) fn version(number: u32) -> Result<(), Fault> {
    if number >= 140_000 {
        return Ok(());
    }
    Err(Fault::stop(
        format!("the source is PostgreSQL {}; logical messages need 14 or newer", number / 10_000),
        "upgrade the source to a supported major version",
    ))
}

pub(crate) fn primary(standby: bool) -> Result<(), Fault> {
    if !standby {
        return Ok(());
    }
    Err(Fault::stop("the source is a standby", "point the URL at the primary: this server takes no writes"))
}

pub(crate) fn wal_level(level: &str) -> Result<(), Fault> {
    if level == "logical" { Ok(()) } else { Err(refusal::wal_level(level)) }
}

pub(crate) fn senders(most: i64) -> Result<(), Fault> {
    if most > 0 {
        return Ok(());
    }
    Err(Fault::stop(
        "the source's max_wal_senders is 0: nobody may replicate",
        format!("{}; {}", remedy::MORE_SENDERS, remedy::RESTART),
    ))
}

pub(super) async fn identify(url: &Url, server: &Server) -> Result<System, Fault> {
    let refused = |fault: Fault| match fault {
        Fault::Retry { cause } if cause.contains("max_wal_senders") => Fault::retry(format!(
            "all {} walsenders of the source are in use; raise max_wal_senders and restart it, or end one of those \
             in pg_stat_replication",
            server.max_wal_senders
        )),
        other => other,
    };
    let mut connection = Connection::open(url, "lockstep").await.map_err(refused)?;
    let system = connection.identify().await.map_err(|failure| failure.fault())?;
    connection.close().await;
    Ok(system)
}
