-- Where each replicated table stands, for everyone who may read the source. {table} is what the settings call it.
create table if not exists {table} (
  id uuid primary key default gen_random_uuid(),
  table_name varchar(255) not null unique,
  last_sync_at timestamptz,
  last_sync_direction varchar(20) check (last_sync_direction in ('to_supabase', 'from_supabase')),
  records_synced integer not null default 0,
  sync_status varchar(20) not null default 'pending'
    check (sync_status in ('pending', 'in_progress', 'completed', 'failed')),
  error_message text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
