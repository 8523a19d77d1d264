//! Ways into a cluster: as its superuser over the socket, and URLs over TCP for everybody else.

use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::{Cluster, Doing, LabError, Result};

impl Cluster {
    /// A connection as superuser, over the Unix socket, to database `postgres`.
    pub async fn connect(&self) -> Result<Client> {
        self.connect_to("postgres").await
    }

    pub async fn connect_to(&self, database: &str) -> Result<Client> {
        self.connect_as(self.superuser(), database).await
    }

    /// The socket trusts: no password is asked.
    pub async fn connect_as(&self, user: &str, database: &str) -> Result<Client> {
        let mut config = Config::new();
        config.host_path(self.sockets()).port(self.port()).user(user).dbname(database);
        let (client, connection) = config.connect(NoTls).await.doing(|| format!("cannot connect to {database}"))?;
        tokio::spawn(connection); // ends with the client
        Ok(client)
    }

    /// Runs a script as superuser in database `postgres`.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.connect().await?.batch_execute(sql).await.map_err(|error| sql_error(&error, sql))
    }

    /// Every row of a query, every column as text.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let messages = self.ask(sql).await?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Over a connection that is kept for the next question: for whoever polls, the server would start a process each time.
    async fn ask(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        let kept = self.idle().take();
        if let Some(client) = kept {
            match client.simple_query(sql).await {
                Ok(answer) => {
                    *self.idle() = Some(client);
                    return Ok(answer);
                }
                // Its server has ended since.
                Err(_) if client.is_closed() => {}
                Err(error) => return Err(sql_error(&error, sql)),
            }
        }
        let client = self.connect().await?;
        let answer = client.simple_query(sql).await.map_err(|error| sql_error(&error, sql))?;
        *self.idle() = Some(client);
        Ok(answer)
    }

    /// The first column of a query's first row; empty if there is none or it is NULL.
    pub async fn value(&self, sql: &str) -> Result<String> {
        let first = self.rows(sql).await?.into_iter().next();
        Ok(first.and_then(|row| row.into_iter().next().flatten()).unwrap_or_default())
    }
}

/// A URL with everything that needs it escaped.
pub(super) fn tcp_url(port: u16, user: &str, password: &str, database: &str) -> String {
    let escaped = |text: &str| -> String { url::form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let escaped = |text: &str| escaped(text).replace('+', "%20");
    format!("postgresql://{}:{}@127.0.0.1:{port}/{}", escaped(user), escaped(password), escaped(database))
}

pub(super) fn sql_error(error: &tokio_postgres::Error, sql: &str) -> LabError {
    let Some(db) = error.as_db_error() else { return LabError(error.to_string()) };
    let start: String = sql.trim().chars().take(200).collect();
    let more = [db.detail(), db.hint(), db.where_()].into_iter().flatten().collect::<Vec<_>>().join("; ");
    LabError(format!("{}: {} {more}\n  in: {start}", db.code().code(), db.message()))
}
