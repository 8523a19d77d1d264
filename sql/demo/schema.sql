-- The demo's tables: an ecosystem of AI agents that talk, work together, take on tasks and learn from it.
-- Between them they hold what real schemas hold: enums, arrays, jsonb, numerics, a composite key, an identity,
-- a self reference, checks, cascades, and triggers that write into other tables.

create type session_status as enum ('active', 'idle', 'closed');
create type conversation_status as enum ('open', 'waiting', 'resolved', 'archived');
create type message_kind as enum ('request', 'response', 'inform', 'error');
create type collaboration_status as enum ('planning', 'running', 'completed', 'cancelled');
create type task_status as enum ('pending', 'assigned', 'in_progress', 'blocked', 'completed', 'failed');
create type task_priority as enum ('low', 'normal', 'high', 'urgent');
create type training_status as enum ('collecting', 'training', 'evaluated', 'rejected');

create table agents (
  id uuid primary key default gen_random_uuid(),
  agent_id varchar(255) unique not null,
  name varchar(255) not null,
  type varchar(100) not null,
  status varchar(50) default 'idle' check (status in ('idle', 'busy', 'offline', 'error')),
  capabilities jsonb not null default '[]',
  skills text[] not null default '{}',
  metrics jsonb not null default '{}',
  metadata jsonb not null default '{}',
  last_seen_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create table sessions (
  id uuid primary key default gen_random_uuid(),
  session_id varchar(255) unique not null,
  name varchar(255) not null,
  status session_status not null default 'active',
  context jsonb not null default '{}',
  started_at timestamptz not null default now(),
  ended_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  check (ended_at is null or ended_at >= started_at)
);

create table agent_sessions (
  id uuid primary key default gen_random_uuid(),
  agent_id uuid not null references agents on delete cascade,
  session_id uuid not null references sessions on delete cascade,
  role varchar(50) not null default 'member',
  state jsonb not null default '{}',
  heartbeat_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  unique (agent_id, session_id)
);

create table a2a_conversations (
  id uuid primary key default gen_random_uuid(),
  conversation_id varchar(255) unique not null,
  topic text not null,
  initiator_id uuid not null references agents on delete cascade,
  participants uuid[] not null check (cardinality(participants) >= 2),
  status conversation_status not null default 'open',
  tags text[] not null default '{}',
  message_count integer not null default 0 check (message_count >= 0),
  last_message_at timestamptz,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create table a2a_messages (
  id uuid primary key default gen_random_uuid(),
  message_id varchar(255) unique not null,
  conversation_id uuid not null references a2a_conversations on delete cascade,
  sender_id uuid not null references agents on delete cascade,
  recipient_id uuid references agents on delete cascade,
  in_reply_to uuid references a2a_messages on delete set null,
  kind message_kind not null default 'inform',
  priority smallint not null default 5 check (priority between 1 and 9),
  body text not null,
  payload jsonb not null default '{}',
  tokens integer not null default 0,
  cost_usd numeric(10,6) not null default 0 check (cost_usd >= 0),
  sent_at timestamptz not null default now(),
  read_at timestamptz,
  check (read_at is null or read_at >= sent_at)
);
create index on a2a_messages (conversation_id, sent_at);
create index on a2a_messages (in_reply_to);

create table llm_collaborations (
  id uuid primary key default gen_random_uuid(),
  collaboration_id varchar(255) unique not null,
  title varchar(255) not null,
  lead_agent_id uuid not null references agents on delete cascade,
  participant_ids uuid[] not null default '{}',
  models text[] not null default '{}',
  status collaboration_status not null default 'planning',
  prompt text not null,
  result jsonb,
  quality numeric(4,3) check (quality between 0 and 1),
  total_cost numeric(10,6) not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  check (status <> 'completed' or result is not null)
);

create table collaboration_sessions (
  id uuid primary key default gen_random_uuid(),
  collaboration_id uuid not null references llm_collaborations on delete cascade,
  session_id uuid not null references sessions on delete cascade,
  round integer not null default 1 check (round > 0),
  transcript jsonb not null default '[]',
  created_at timestamptz not null default now(),
  unique (collaboration_id, session_id, round)
);

create table tasks (
  id uuid primary key default gen_random_uuid(),
  task_id varchar(255) unique not null,
  session_id uuid not null references sessions on delete cascade,
  assigned_to uuid references agents on delete cascade,
  title varchar(255) not null,
  description text not null default '',
  status task_status not null default 'pending',
  priority task_priority not null default 'normal',
  labels text[] not null default '{}',
  input jsonb not null default '{}',
  output jsonb,
  estimated_cost numeric(10,6) not null default 0.010000,
  due_at timestamptz,
  completed_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  check ((status = 'completed') = (completed_at is not null))
);
create index on tasks (status, priority desc);

create table task_dependencies (
  task_id uuid not null references tasks on delete cascade,
  depends_on uuid not null references tasks on delete cascade,
  reason text,
  created_at timestamptz not null default now(),
  primary key (task_id, depends_on),
  check (task_id <> depends_on)
);
create index on task_dependencies (depends_on);

create table task_queue (
  id uuid primary key default gen_random_uuid(),
  task_id uuid not null unique references tasks on delete cascade,
  place bigint generated always as identity,
  queue varchar(100) not null default 'default',
  attempts integer not null default 0,
  locked_by uuid references agents on delete set null,
  available_at timestamptz not null default now()
);

create table local_llm_training_batches (
  id uuid primary key default gen_random_uuid(),
  batch_id varchar(255) unique not null,
  model varchar(255) not null,
  status training_status not null default 'collecting',
  hyperparameters jsonb not null default '{"epochs": 3, "learning_rate": 2e-5}',
  example_count integer not null default 0,
  loss numeric(10,6),
  started_at timestamptz,
  finished_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create table local_llm_learning_examples (
  id uuid primary key default gen_random_uuid(),
  batch_id uuid references local_llm_training_batches on delete cascade,
  agent_id uuid not null references agents on delete cascade,
  prompt text not null,
  completion text not null,
  score double precision check (score between 0 and 1),
  token_ids integer[] not null default '{}',
  context jsonb not null default '{}',
  created_at timestamptz not null default now()
);
create index on local_llm_learning_examples (batch_id);

-- A neighbour with a vector, where the extension is to be had.
do $$
begin
  if exists (select from pg_available_extensions where name = 'vector')
     and exists (select from pg_roles where rolname = current_user and rolsuper) then
    create extension if not exists vector;
    create table agent_memories (
      id uuid primary key default gen_random_uuid(),
      agent_id uuid not null references agents on delete cascade,
      content text not null,
      embedding vector(8),
      created_at timestamptz not null default now()
    );
  end if;
end $$;

create function touch_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at := clock_timestamp();
  return new;
end $$;

create trigger touch before update on agents for each row execute function touch_updated_at();
create trigger touch before update on sessions for each row execute function touch_updated_at();
create trigger touch before update on a2a_conversations for each row execute function touch_updated_at();
create trigger touch before update on llm_collaborations for each row execute function touch_updated_at();
create trigger touch before update on tasks for each row execute function touch_updated_at();
create trigger touch before update on local_llm_training_batches for each row execute function touch_updated_at();

-- A message counts in its conversation.
create function count_message() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    update a2a_conversations
       set message_count = message_count + 1, last_message_at = greatest(last_message_at, new.sent_at)
     where id = new.conversation_id;
  else
    update a2a_conversations set message_count = greatest(message_count - 1, 0) where id = old.conversation_id;
  end if;
  return null;
end $$;
create trigger count_message after insert or delete on a2a_messages for each row execute function count_message();

-- A new task waits in the queue; one that ends leaves it and counts for its agent.
create function queue_task() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    if new.status not in ('completed', 'failed') then
      insert into task_queue (task_id, queue, available_at)
      values (new.id, case when new.priority = 'urgent' then 'express' else 'default' end, new.created_at);
    end if;
  elsif new.status in ('completed', 'failed') and old.status <> new.status then
    delete from task_queue where task_id = new.id;
    update agents
       set metrics = jsonb_set(metrics, array['tasks_' || new.status],
                               to_jsonb(coalesce((metrics ->> ('tasks_' || new.status))::int, 0) + 1))
     where id = new.assigned_to;
  end if;
  return null;
end $$;
create trigger queue_task after insert or update of status on tasks for each row execute function queue_task();

-- A batch knows how many examples it holds.
create function count_example() returns trigger language plpgsql as $$
begin
  update local_llm_training_batches b
     set example_count = (select count(*) from local_llm_learning_examples e where e.batch_id = b.id)
   where b.id = coalesce(new.batch_id, old.batch_id);
  return null;
end $$;
create trigger count_example after insert or delete on local_llm_learning_examples
  for each row execute function count_example();

