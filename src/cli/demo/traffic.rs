//! Life in the source: agents that talk, plan, finish and forget, at a steady rate, in transactions of several
//! changes. Tables stay bounded: what is added beyond a size is taken away again, oldest first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Statement};

use super::stage::Stage;
use crate::lab::{Seeded, random_hex};

/// Running traffic. Dropped, it ends after its transaction.
pub(super) struct Traffic {
    shared: Arc<Shared>,
    rate: u32,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    made: AtomicU64,
    stop: AtomicBool,
}

pub(super) fn start(stage: &Stage, rate: u32) -> Traffic {
    let mut config = Config::new();
    config.host_path(stage.source.sockets()).port(stage.source.port());
    config.user(stage.source.superuser()).dbname("postgres").application_name("demo traffic");
    let shared = Arc::new(Shared::default());
    let task = tokio::spawn(keep_going(config, rate, shared.clone()));
    Traffic { shared, rate, task }
}

impl Traffic {
    /// Changes committed so far; what triggers change besides is not counted.
    pub(super) fn made(&self) -> u64 {
        self.shared.made.load(Relaxed)
    }

    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    /// Ends it; how many changes it made.
    pub(super) async fn stop(mut self) -> u64 {
        self.shared.stop.store(true, Relaxed);
        let _ = (&mut self.task).await;
        self.made()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
    }
}

/// Goes on after a lost connection: the source may be restarted while somebody plays with it.
async fn keep_going(config: Config, rate: u32, shared: Arc<Shared>) {
    while !shared.stop.load(Relaxed) {
        if let Err(error) = flow(&config, rate, &shared).await {
            tracing::warn!(cause = %error, "the demo's traffic was interrupted; it starts again in a second");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn flow(config: &Config, rate: u32, shared: &Shared) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection); // ends with the client
    let mut life = Life::begin(client).await?;
    let (start, mut made) = (Instant::now(), 0);
    // A commit costs a flush of the disk: above a few hundred a second, transactions grow instead.
    let longest = u64::from(rate / 100).max(5);
    while !shared.stop.load(Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        if made >= due {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        let changes = life.transaction(longest.min(due - made).max(1)).await?;
        made += changes;
        shared.made.fetch_add(changes, Relaxed);
    }
    Ok(())
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stroke {
    Say,
    Read,
    Unsay,
    Beat,
    Measure,
    Plan,
    Progress,
    Abandon,
    Learn,
    Unlearn,
    Spend,
}

/// What the traffic added and has not taken away.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    messages: usize,
    tasks: usize,
    examples: usize,
}

// Enough to scroll in, little enough for a laptop to hold for days.
const MESSAGES: usize = 2_000;
const TASKS: usize = 300;
const EXAMPLES: usize = 200; // each counts its batch anew

impl Stroke {
    /// Which change a roll of 0 to 99 means; at its bound a table gives where it would take.
    fn of(roll: u64, sizes: Sizes) -> Self {
        match roll {
            0..32 if sizes.messages >= MESSAGES => Self::Unsay,
            0..32 => Self::Say,
            32..42 if sizes.messages > 0 => Self::Read,
            42..52 if sizes.messages > 0 => Self::Unsay,
            52..60 if sizes.tasks >= TASKS => Self::Abandon,
            52..60 => Self::Plan,
            60..72 if sizes.tasks > 0 => Self::Progress,
            72..77 if sizes.tasks > 0 => Self::Abandon,
            77..81 if sizes.examples >= EXAMPLES => Self::Unlearn,
            77..81 => Self::Learn,
            81..84 if sizes.examples > 0 => Self::Unlearn,
            84..91 => Self::Measure,
            91..94 => Self::Spend,
            _ => Self::Beat,
        }
    }
}

struct Life {
    client: Client,
    prepared: HashMap<&'static str, Statement>,
    chance: Seeded,
    agents: Vec<String>,
    conversations: Vec<String>,
    messages: VecDeque<String>,
    tasks: VecDeque<String>,
    examples: VecDeque<String>,
}

impl Life {
    async fn begin(client: Client) -> Result<Self, tokio_postgres::Error> {
        let ids = async |sql: &str| -> Result<Vec<String>, tokio_postgres::Error> {
            Ok(client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
        };
        let agents = ids("select id::text from agents order by agent_id").await?;
        let conversations = ids("select id::text from a2a_conversations order by conversation_id").await?;
        // What an earlier run added counts too.
        let messages = ids("select id::text from a2a_messages where message_id like 'live-%' order by sent_at").await?;
        let tasks = ids("select id::text from tasks where task_id like 'live-%' order by created_at").await?;
        let examples =
            ids("select id::text from local_llm_learning_examples where context ? 'live' order by created_at").await?;
        let seed = u64::from_str_radix(&random_hex(8), 16).unwrap_or(1);
        Ok(Self {
            chance: Seeded::new(seed),
            agents,
            conversations,
            messages: messages.into(),
            tasks: tasks.into(),
            examples: examples.into(),
            prepared: HashMap::new(),
            client,
        })
    }

    /// Up to `most` changes in one transaction; how many they were.
    async fn transaction(&mut self, most: u64) -> Result<u64, tokio_postgres::Error> {
        let changes = 1 + self.chance.below(most);
        self.client.batch_execute("begin").await?;
        for _ in 0..changes {
            let sizes = Sizes { messages: self.messages.len(), tasks: self.tasks.len(), examples: self.examples.len() };
            let stroke = Stroke::of(self.chance.below(100), sizes);
            self.change(stroke).await?;
        }
        self.client.batch_execute("commit").await?;
        Ok(changes)
    }

    async fn change(&mut self, stroke: Stroke) -> Result<(), tokio_postgres::Error> {
        let (fresh, agent, other) = (random_hex(16), self.agent(), self.agent());
        let number = self.chance.below(10_000) as i32;
        match stroke {
            Stroke::Say => {
                let talk = self.chance.pick(&self.conversations).cloned().unwrap_or_default();
                let before = self.messages.back().filter(|_| number % 2 == 0).cloned();
                self.run(SAY, &[&fresh, &talk, &agent, &other, &before, &number]).await?;
                self.messages.push_back(fresh);
            }
            Stroke::Read => {
                let message = self.messages[self.chance.below(self.messages.len() as u64) as usize].clone();
                self.run(READ, &[&message]).await?;
            }
            Stroke::Unsay => {
                let message = self.messages.pop_front();
                self.run("delete from a2a_messages where id = $1::text::uuid", &[&message]).await?;
            }
            Stroke::Plan => {
                self.run(PLAN, &[&fresh, &agent, &number]).await?;
                self.tasks.push_back(fresh);
            }
            Stroke::Progress => {
                let task = self.tasks[self.chance.below(self.tasks.len() as u64) as usize].clone();
                self.run(PROGRESS, &[&task]).await?;
            }
            Stroke::Abandon => {
                let task = self.tasks.pop_front();
                self.run("delete from tasks where id = $1::text::uuid", &[&task]).await?;
            }
            Stroke::Learn => {
                self.run(LEARN, &[&fresh, &agent, &number]).await?;
                self.examples.push_back(fresh);
            }
            Stroke::Unlearn => {
                let example = self.examples.pop_front();
                self.run("delete from local_llm_learning_examples where id = $1::text::uuid", &[&example]).await?;
            }
            Stroke::Measure => self.run(MEASURE, &[&agent, &number]).await?,
            Stroke::Spend => self.run(SPEND, &[&number]).await?,
            Stroke::Beat => self.run(BEAT, &[&agent]).await?,
        }
        Ok(())
    }

    fn agent(&mut self) -> String {
        self.chance.pick(&self.agents).cloned().unwrap_or_default()
    }

    async fn run(&mut self, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> Result<(), tokio_postgres::Error> {
        let statement = match self.prepared.get(sql) {
            Some(statement) => statement,
            None => self.prepared.entry(sql).or_insert(self.client.prepare(sql).await?),
        };
        self.client.execute(statement, values).await.map(drop)
    }
}

const SAY: &str = "
    insert into a2a_messages
      (id, message_id, conversation_id, sender_id, recipient_id, in_reply_to, kind, priority, body, payload, tokens, cost_usd)
    select $1::text::uuid, 'live-' || $1::text, $2::text::uuid, $3::text::uuid, $4::text::uuid, $5::text::uuid,
           (array['request', 'response', 'inform', 'error'])[1 + $6::int % 4]::message_kind, 1 + $6::int % 9,
           format('Progress report %s: %s %% done, nothing unexpected.', $6::int, $6::int % 101),
           jsonb_build_object('step', $6::int, 'live', true), $6::int % 900, ($6::int % 900) * 0.0000035";
const READ: &str = "update a2a_messages set read_at = greatest(sent_at, clock_timestamp()) where id = $1::text::uuid";
const PLAN: &str = "
    insert into tasks (id, task_id, session_id, assigned_to, title, priority, labels, input, estimated_cost)
    select $1::text::uuid, 'live-' || $1::text, s.id, $2::text::uuid, 'Follow-up ' || $3::int,
           (array['low', 'normal', 'high', 'urgent'])[1 + $3::int % 4]::task_priority, array['live'],
           jsonb_build_object('number', $3::int), ($3::int % 1000) * 0.00025
      from sessions s where s.session_id = 'week-45'";
const PROGRESS: &str = "
    update tasks
       set status = case when status in ('pending', 'assigned') then 'in_progress'
                         when status = 'in_progress' then 'completed'
                         else 'in_progress' end::task_status,
           completed_at = case when status = 'in_progress' then clock_timestamp() end,
           output = case when status = 'in_progress' then '{\"summary\": \"done\"}'::jsonb end
     where id = $1::text::uuid";
const LEARN: &str = "
    insert into local_llm_learning_examples (id, batch_id, agent_id, prompt, completion, score, token_ids, context)
    select $1::text::uuid, b.id, $2::text::uuid, 'Question ' || $3::int, 'Answer ' || $3::int,
           ($3::int % 101) / 100.0, array[$3::int, $3::int + 1], '{\"live\": true}'
      from local_llm_training_batches b where b.batch_id = 'billing-003'";
const MEASURE: &str = "
    update agents
       set status = (array['idle', 'busy'])[1 + $2::int % 2], last_seen_at = clock_timestamp(),
           metrics = metrics || jsonb_build_object('median_latency_ms', 100 + $2::int % 900)
     where id = $1::text::uuid and agent_id <> 'night_watch'";
const SPEND: &str = "
    update llm_collaborations set total_cost = (total_cost + ($1::int % 100) * 0.000137) % 1000
     where status = 'running'";
const BEAT: &str = "
    update agent_sessions
       set heartbeat_at = clock_timestamp(), state = jsonb_set(state, '{open_threads}', to_jsonb(extract(second from now())::int % 7))
     where agent_id = $1::text::uuid";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_stay_bounded_and_every_change_can_be_made() {
        let (mut sizes, mut chance, mut largest) = (Sizes::default(), Seeded::new(7), Sizes::default());
        for _ in 0..1_000_000 {
            match Stroke::of(chance.below(100), sizes) {
                Stroke::Say => sizes.messages += 1,
                Stroke::Unsay => sizes.messages -= 1, // panics below zero
                Stroke::Read => assert!(sizes.messages > 0),
                Stroke::Plan => sizes.tasks += 1,
                Stroke::Abandon => sizes.tasks -= 1,
                Stroke::Progress => assert!(sizes.tasks > 0),
                Stroke::Learn => sizes.examples += 1,
                Stroke::Unlearn => sizes.examples -= 1,
                Stroke::Beat | Stroke::Measure | Stroke::Spend => {}
            }
            largest.messages = largest.messages.max(sizes.messages);
            largest.tasks = largest.tasks.max(sizes.tasks);
            largest.examples = largest.examples.max(sizes.examples);
        }
        assert_eq!((largest.messages, largest.tasks, largest.examples), (MESSAGES, TASKS, EXAMPLES));
    }
}
