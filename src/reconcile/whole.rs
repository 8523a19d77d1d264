//! A table without a key. Its rows cannot be told apart by anything, so the stream could not find them, and it is not
//! replicated. Whether both sides hold the same rows can be said all the same, of the table as a whole.

use std::time::Duration;

use super::check::Check;
use super::target::Trouble;
use crate::types::Fault;

/// How often it is looked at, because it changed meanwhile.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

impl Check<'_> {
    pub(super) async fn whole_table(&mut self) -> Result<(), Trouble> {
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let before = self.source.whole().await?;
            let Some(there) = self.target.whole().await? else {
                let cause = "it has no key, by which plain PostgREST could read it page by page";
                return Err(Fault::stop(cause, "install our SQL in Supabase: lockstep setup supabase").into());
            };
            let after = self.source.whole().await?;
            let equal = there == before || there == after;
            if !equal && before != after {
                continue;
            }
            self.report.rows = after.rows;
            self.report.missing = after.rows.saturating_sub(there.rows);
            self.report.surplus = there.rows.saturating_sub(after.rows);
            self.left = u64::from(!equal);
            let counts =
                if equal { String::new() } else { format!(" ({} rows here, {} there)", after.rows, there.rows) };
            self.report.note = Some(format!(
                "it has no key, so it is not replicated; it was compared as a whole{counts}, and neither can single \
                 rows be named nor repaired"
            ));
            return Ok(());
        }
        self.report.unsettled = 1;
        Ok(())
    }
}
