-- The workflows: when TABLE has EVENT, do ACTION. {table} is what the settings call it.
create table if not exists {table} (
  id uuid primary key default gen_random_uuid(),
  workflow_name varchar(255) not null,
  trigger_table varchar(255) not null,
  trigger_event varchar(50) not null check (trigger_event in ('INSERT', 'UPDATE', 'DELETE')),
  action_config jsonb not null default '{}',
  enabled boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
