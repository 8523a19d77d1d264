-- What Lockstep remembers in the target. The checkpoint moves in the transaction that writes the rows: that is what
-- makes "exactly once" true.
create table lockstep.checkpoint (
  route text primary key,
  major bigint not null,
  minor bigint not null,
  source jsonb not null default '{}',   -- which history the position belongs to: system identifier, slot, ..
  updated_at timestamptz not null default now()
);

-- How far the first copy of each table is.
create table lockstep.copy (
  route text not null,
  schema_name text not null,
  table_name text not null,
  source_oid bigint,                     -- the table at the source: another one of the same name is not copied
  cursor jsonb,                          -- the last key of the last range that arrived
  done boolean not null default false,
  rows bigint not null default 0,
  updated_at timestamptz not null default now(),
  primary key (route, schema_name, table_name)
);
