-- The journal: what committed transactions changed, written by triggers where no slot is to be had. Installed by
-- `lockstep setup source --capture journal`, dropped with the schema by `lockstep setup teardown`.
do $$ begin
  -- `if not exists` asks for the right to create one, even where it is there.
  if to_regnamespace('lockstep') is null then
    create schema lockstep;
  end if;
end $$;
-- One row for each row that a statement touched. `lsn` orders everything: each statement writes an empty message into the
-- WAL (at any wal_level) and takes its address, which no other has. A transaction stands where its last statement stands:
-- whoever touches a row later had to wait for it, and so stands behind it, whatever the order of their numbers.
create table if not exists lockstep.journal (
  xid xid8 not null,                       -- of the top transaction, 64 bits wide: it does not wrap
  lsn pg_lsn not null,
  n bigint not null,                       -- within the statement; 0 is there once for each
  shape int,                               -- the columns of `line`
  op "char" not null,                      -- i, u, d; k: an update that left a key; t: truncate; m: a mark; x: lost track
  depth int not null default 0,            -- of triggers around the statement
  key text,                                -- that is gone, as text of a record
  line text,                               -- the row as the statement leaves it; the text of a mark; x: whose
  at timestamptz,
  primary key (xid, lsn, n)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0);
create index if not exists journal_statement on lockstep.journal (lsn) where n = 0;
create index if not exists journal_lost on lockstep.journal (lsn) where op = 'x';
-- What a line of the journal holds.
create table if not exists lockstep.journal_shape (
  id int generated always as identity primary key,
  relation oid not null,                   -- the table, or the root of its partitions
  schema_name text not null,
  table_name text not null,
  columns text[] not null,
  types oid[] not null,
  key text[] not null
);
-- Where the journal begins, and up to where it may be forgotten.
create table if not exists lockstep.journal_state (
  one boolean primary key default true check (one),
  version int not null,
  began pg_lsn not null,
  confirmed pg_lsn not null
);
insert into lockstep.journal_state (version, began, confirmed)
select {version}, l, l from pg_current_wal_insert_lsn() l on conflict (one) do update set version = excluded.version;

-- A mark in its place among the commits. Whoever reads the WAL instead meets it there too.
create or replace function lockstep.journal_mark(content text) returns pg_lsn language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
  l pg_lsn := pg_logical_emit_message(true, 'lockstep', content);
begin
  insert into lockstep.journal (xid, lsn, n, op, line, at) values (pg_current_xact_id(), l, 0, 'm', content, clock_timestamp());
  perform pg_notify('lockstep_journal', '');
  return l;
end
$$;

-- The horizon, in this order: an end of the WAL, and then a number of our own. Whatever stands before the end has taken
-- its number earlier, so that it has a smaller one: once all smaller ones have ended, nothing can appear before the end
-- any more. (The snapshot's xmax will not do: a transaction that runs may have a larger number than that.)
create or replace function lockstep.journal_fence(
  out upto pg_lsn, out xid xid8, out passed boolean, out flushed boolean, out clock bigint
) language plpgsql as $$
declare
  written pg_lsn;
begin
  upto := pg_current_wal_insert_lsn();
  xid := pg_current_xact_id();
  passed := pg_snapshot_xmin(pg_current_snapshot()) >= xid;
  written := pg_current_wal_insert_lsn();
  flushed := pg_current_wal_flush_lsn() >= written;
  clock := (extract(epoch from clock_timestamp()) * 1000000)::bigint;
end
$$;
create or replace function lockstep.journal_passed(
  fence xid8, out passed boolean, out flushed boolean, out clock bigint
) language plpgsql as $$
declare
  written pg_lsn;
begin
  passed := pg_snapshot_xmin(pg_current_snapshot()) > fence;
  written := pg_current_wal_insert_lsn();
  flushed := pg_current_wal_flush_lsn() >= written;
  clock := (extract(epoch from clock_timestamp()) * 1000000)::bigint;
end
$$;

-- The transactions that ended with a statement in (behind, upto], in their order; `cut` is how far this reaches, as at most
-- so many statements are looked at.
create or replace function lockstep.journal_window(
  behind pg_lsn, upto pg_lsn, most int, out cut pg_lsn, out ends pg_lsn[], out xids text[], out at bigint[]
) language plpgsql stable set enable_seqscan = off as $$
begin
  select j.lsn into cut from lockstep.journal j
  where j.n = 0 and j.lsn > behind and j.lsn <= upto order by j.lsn offset most - 1 limit 1;
  cut := coalesce(cut, upto);
  select array_agg(s.ends order by s.ends), array_agg(s.xid::text order by s.ends), array_agg(s.at order by s.ends)
  into ends, xids, at from (
    select j.xid, max(j.lsn) as ends, (extract(epoch from max(j.at)) * 1000000)::bigint as at
    from lockstep.journal j where j.n = 0 and j.lsn > behind and j.lsn <= cut group by j.xid
  ) s where not exists (select from lockstep.journal l where l.xid = s.xid and l.lsn > cut);
end
$$;

-- Forgets some of what ended before `confirmed`; says whether there may be more. A statement's first row goes last.
create or replace function lockstep.journal_prune(upto pg_lsn, most int) returns boolean language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  gone bigint;
begin
  delete from lockstep.journal where ctid = any (array(
    select r.ctid from (
      select distinct j.xid from (
        select h.xid from lockstep.journal h where h.n = 0 and h.lsn < upto order by h.lsn limit most) j
      where not exists (select from lockstep.journal l where l.xid = j.xid and l.lsn >= upto)
    ) done, lateral (
      select j.ctid from lockstep.journal j where j.xid = done.xid order by j.lsn desc, j.n desc limit most) r
    limit most));
  get diagnostics gone = row_count;
  if gone > 0 then
    update lockstep.journal_state s set confirmed = upto where s.confirmed < upto;
  end if;
  return gone >= most;
end
$$;

-- Gives the space back of a journal that has grown and is empty now, if nobody holds it this moment.
create or replace function lockstep.journal_shrink(larger_than bigint) returns boolean language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if pg_total_relation_size('lockstep.journal') <= larger_than then
    return false;
  end if;
  lock table lockstep.journal in access exclusive mode nowait;
  if exists (select from lockstep.journal) then
    return false;
  end if;
  truncate lockstep.journal;
  return true;
exception when lock_not_available then
  return false;
end
$$;
revoke all on function lockstep.journal_mark(text), lockstep.journal_prune(pg_lsn, int), lockstep.journal_shrink(bigint)
from public;
