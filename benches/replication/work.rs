//! The backlogs. They are made with nobody reading and without waiting for the disk: how fast the source took them is
//! not measured. The last transaction of each is a row in `goal`, for which the targets are asked.

use lockstep::lab::Result;

use crate::stage::{Stage, failed};

#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// One row each, of about 150 bytes: of ten, six inserts, three updates, one delete.
    Small { transactions: u64 },
    /// Inserts in transactions of 10,000 rows of about 100 bytes.
    Bulk { rows: u64 },
}

/// Where a backlog ends: the row in `goal`, and the WAL's end.
#[derive(Clone, Debug)]
pub struct Goal {
    pub id: i64,
    pub lsn: String,
}

const BULK_ROWS: u64 = 10_000;

/// Ids are spread over a wide range, so that rows that follow each other do not lie on one page.
const SMALL: &str = "
do $$
declare
  first bigint := (select coalesce(max(id), 0) + 1 from goal) * 10000000;
  made bigint := 0;
begin
  for i in 1..{transactions} loop
    if i % 10 in (3, 6, 9) then
      update account set balance = balance + i, seen_at = clock_timestamp() where id = first + (i * 7919::bigint) % made;
    elsif i % 10 = 0 then
      delete from account where id = first + made - 3;
    else
      insert into account values (first + made, md5(i::text)::uuid, 'account ' || i, repeat('note ' || i || ' ', 6),
                                  i / 7.0, i % 2 = 0, clock_timestamp());
      made := made + 1;
    end if;
    commit;
  end loop;
end $$";

const BULK: &str = "
do $$
declare
  first bigint := (select coalesce(max(id), 0) + 1 from event);
begin
  for i in 0..{transactions} - 1 loop
    insert into event select first + i * {rows} + n, 'kind ' || n % 10, repeat(md5(n::text), 2), clock_timestamp()
                      from generate_series(0, {rows} - 1) n;
    commit;
  end loop;
end $$";

impl Work {
    pub fn rows(&self) -> u64 {
        match self {
            Self::Small { transactions } => *transactions,
            Self::Bulk { rows } => rows.div_ceil(BULK_ROWS) * BULK_ROWS,
        }
    }

    /// Makes the backlog on the source.
    pub async fn make(&self, stage: &mut Stage) -> Result<Goal> {
        let sql = match self {
            Self::Small { transactions } => SMALL.replace("{transactions}", &transactions.to_string()),
            Self::Bulk { rows } => BULK
                .replace("{transactions}", &rows.div_ceil(BULK_ROWS).to_string())
                .replace("{rows}", &BULK_ROWS.to_string()),
        };
        let run = async |sql: &str| stage.source.batch_execute(sql).await.map_err(|error| failed(&error));
        run("set synchronous_commit = off").await?;
        run(&sql).await?;
        run("reset synchronous_commit").await?;
        goal(stage).await
    }
}

/// A row after all others.
pub async fn goal(stage: &mut Stage) -> Result<Goal> {
    stage.goals += 1;
    let id = stage.goals;
    stage.source.execute("insert into goal values ($1)", &[&id]).await.map_err(|error| failed(&error))?;
    let row = stage.source.query_one("select pg_current_wal_flush_lsn()::text", &[]).await;
    let lsn = row.and_then(|row| row.try_get(0)).map_err(|error| failed(&error))?;
    Ok(Goal { id, lsn })
}
