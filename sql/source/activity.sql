-- What people, scripts, the schedule and the service itself did: one time line. Dropped with the schema by
-- `lockstep setup teardown`.
create schema if not exists lockstep;
create table if not exists lockstep.activity (
  id bigint generated always as identity primary key,
  at timestamptz not null,
  kind text not null,                      -- service, route, recovery, table, parked, job, settings, session, workflow, ..
  who text not null,                       -- a session, a script, the schedule, the service
  what text not null,
  table_name text,
  detail text
);
create index if not exists activity_kind on lockstep.activity (kind, id);
