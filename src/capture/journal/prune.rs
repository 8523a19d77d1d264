//! Forgets what the target holds: a little at a time, beside the reader, so that the journal stays small and a vacuum
//! of it cheap.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::pg::{self, Client, client};
use crate::types::{Fault, Position};

/// Rows that one statement forgets: some milliseconds, for which it holds up the horizon.
const ROWS: i32 = 2_000;
/// Nobody waits for the disk: what a crash takes back is forgotten again.
const SESSION: &str = "set synchronous_commit = off; set default_transaction_read_only = off; \
     set default_transaction_isolation = 'read committed'";
/// Between two looks whether the checkpoint has moved.
const TICK: Duration = Duration::from_secs(1);
/// A journal that is empty and larger than this gives its space back, asked for this often.
const LARGE: i64 = 64 << 20;
const SHRINK: Duration = Duration::from_secs(30);

const PRUNE: &str = "select lockstep.journal_prune($1::text::pg_lsn, $2)";
const SHRINK_IT: &str = "select lockstep.journal_shrink($1)";

/// Goes on until nobody moves the checkpoint any more.
pub(super) async fn run(url: &pg::Url, mut checkpoint: watch::Receiver<Position>) -> Result<(), Fault> {
    let client = pg::connect(url, "lockstep journal").await?;
    client.batch_execute(SESSION).await.map_err(|error| client::fault(&error))?;
    let (mut known, mut shrink_at) = (Position::default(), Instant::now() + SHRINK);
    loop {
        let now = *checkpoint.borrow_and_update();
        if now != known {
            prune(&client, now).await?;
            known = now;
        } else if Instant::now() >= shrink_at {
            let shrunk = client.query_one(SHRINK_IT, &[&LARGE]).await.map_err(|error| client::fault(&error))?;
            if shrunk.get(0) {
                tracing::info!("the journal was empty, and gave its space back");
            }
            shrink_at = Instant::now() + SHRINK;
        }
        tokio::select! {
            () = closed(&mut checkpoint) => {
                let last = *checkpoint.borrow();
                return prune(&client, last).await;
            }
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

async fn prune(client: &Client, confirmed: Position) -> Result<(), Fault> {
    let upto = confirmed.lsn().to_string();
    while client.query_one(PRUNE, &[&upto, &ROWS]).await.map_err(|error| client::fault(&error))?.get(0) {}
    Ok(())
}

async fn closed(checkpoint: &mut watch::Receiver<Position>) {
    while checkpoint.changed().await.is_ok() {}
}
