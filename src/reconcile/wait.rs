//! Waits for the transactions that were running when a table joined the publication.
//!
//! What such a transaction wrote before is not in the stream, and what it has not committed is not in a range that is
//! read: only once it has ended, every row is in one of the two.

use std::time::Duration;

use tracing::warn;

use crate::pg::{self, Client};
use crate::types::Fault;

const NEXT: &str = "select pg_snapshot_xmax(pg_current_snapshot())::text";
const ENDED: &str = "select pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8";
const OLDEST: &str = "select coalesce((select format('pid %s (%s), open since %s', pid, application_name, xact_start) \
     from pg_stat_activity where backend_xid is not null order by age(backend_xid) desc limit 1), 'a prepared transaction')";

/// Looks again this often; a tenth of a second is lost at most.
const LOOK: Duration = Duration::from_millis(100);
/// Says who is waited for this often.
const SAY: u32 = 100;

const FENCE: &str = "select xid::text, passed from lockstep.journal_fence()";
const PASSED: &str = "select passed from lockstep.journal_passed($1::text::xid8)";
const SOON: Duration = Duration::from_millis(2);

/// Until every transaction that has written into the journal so far has ended.
pub async fn until_the_horizon_passed(client: &Client) -> Result<(), Fault> {
    let fault = |error: tokio_postgres::Error| pg::client::fault(&error);
    let row = client.query_one(FENCE, &[]).await.map_err(fault)?;
    let (fence, mut passed): (String, bool) = (row.get(0), row.get(1));
    let mut wait = SOON;
    while !passed {
        tokio::time::sleep(wait).await; // who holds it up is told by capture
        wait = (wait * 2).min(LOOK);
        passed = client.query_one(PASSED, &[&fence]).await.map_err(fault)?.get(0);
    }
    Ok(())
}

pub async fn until_the_running_ended(client: &Client) -> Result<(), Fault> {
    let fault = |error: tokio_postgres::Error| pg::client::fault(&error);
    let next: String = client.query_one(NEXT, &[]).await.map_err(fault)?.get(0);
    let mut looks: u32 = 0;
    while !client.query_one(ENDED, &[&next]).await.map_err(fault)?.get::<_, bool>(0) {
        looks += 1;
        if looks.is_multiple_of(SAY) {
            let oldest: String = client.query_one(OLDEST, &[]).await.map_err(fault)?.get(0);
            warn!(%oldest, "the first copy waits for a transaction that was open before it; end it, or let it end");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
