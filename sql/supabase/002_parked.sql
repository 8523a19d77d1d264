-- Rows that this side refused, set aside with their reason while the rest goes on. An entry is written in the
-- transaction of the batch that held the change: it is as durable as the checkpoint that moved past it.
create table lockstep.parked (
  route text not null,
  schema_name text not null,
  table_name text not null,
  id text not null,                      -- md5 of the key: a key may be longer than an entry of an index
  key jsonb not null,                    -- the key's values as text, in the order of key_names
  key_names jsonb not null,
  operation text not null check (operation in ('write', 'update', 'delete')),
  old jsonb,                             -- the row as this side holds it, column by column as text; none: NULL
  new jsonb,                             -- what came and was refused; a delete brings nothing
  sqlstate text not null,
  reason text not null,
  major bigint not null,                 -- position of the batch that brought it last
  minor bigint not null,
  xid bigint,                            -- the source's transaction that brought it last
  step int,                              -- which group of the last batch it was, while that batch is applied
  shape text,                            -- of the table here, when the row was refused
  attempts int not null default 1,
  first_parked_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  next_at timestamptz not null,          -- then it is read again from the source and written
  primary key (route, schema_name, table_name, id)
);

-- How many entries somebody threw away by hand.
create table lockstep.discarded (
  route text not null,
  schema_name text not null,
  table_name text not null,
  rows bigint not null,
  primary key (route, schema_name, table_name)
);

-- Why a whole table is set aside. It misses changes meanwhile, so it is never `done` then.
alter table lockstep.copy add column parked text;

-- Pieces of a request that is too large to be sent as one; applied together, in one transaction, by the last call.
-- Unlogged: it is no part of the route's state, and what a crash loses is sent again.
create unlogged table lockstep.stage (
  route text not null,
  run text not null,
  part int not null,
  number int not null,
  piece bytea not null,
  primary key (route, run, part, number)
);
alter table lockstep.stage alter column piece set storage external; -- read once, then deleted: not worth packing
