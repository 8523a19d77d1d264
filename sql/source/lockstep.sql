-- What Lockstep remembers in the source about its work. Dropped with the schema by `lockstep setup teardown`.
do $$ begin
  -- `if not exists` asks for the right to create one, even where it is there.
  if to_regnamespace('lockstep') is null then
    create schema lockstep;
  end if;
end $$;
-- What each run compared and repaired: one row for each table.
create table if not exists lockstep.reconcile_run (
  id bigint generated always as identity primary key,
  job text not null,                       -- the tables of one run have it in common
  why text not null,                       -- who wanted it: a person, the schedule, a recovery
  repair boolean not null,
  table_name text not null,
  started_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  result text not null default 'running'
    check (result in ('running', 'equal', 'repaired', 'different', 'unknown', 'failed')),
  message text,
  rows_compared bigint not null default 0,
  missing bigint not null default 0,
  different bigint not null default 0,
  surplus bigint not null default 0,
  unsettled bigint not null default 0,
  inserted bigint not null default 0,
  updated bigint not null default 0,
  deleted bigint not null default 0,
  sent_bytes bigint not null default 0,
  received_bytes bigint not null default 0,
  requests bigint not null default 0,
  seconds double precision not null default 0
);
create index if not exists reconcile_run_table on lockstep.reconcile_run (table_name, id);
-- Tables that somebody has set aside.
create table if not exists lockstep.paused (
  schema_name text not null,
  table_name text not null,
  since timestamptz not null default now(),
  primary key (schema_name, table_name)
);
