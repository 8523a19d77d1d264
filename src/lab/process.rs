//! Children that cannot outlive us.
//!
//! Every child asks the kernel for a signal upon its parent's death (`setpriv --pdeathsig`). The kernel means the
//! *thread* that started it, and threads of a runtime come and go, so all children are started by one thread that lives
//! as long as the process: the nursery.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Doing, LabError, Result};

/// A running child. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    log: PathBuf,
    pid: Pid,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `command`, which comes from [`command`], with its output going to the end of `log`.
    pub(super) fn spawn(name: &'static str, mut command: Command, log: &Path) -> Result<Self> {
        let doing = || format!("cannot start {name}");
        let out = File::options().create(true).append(true).open(log).doing(doing)?;
        let err = out.try_clone().doing(doing)?;
        // A group of its own: Ctrl-C at the terminal is ours to pass on, in the right order.
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let child = nursery(command).doing(doing)?;
        let pid = Pid::from_raw(child.id() as i32).ok_or_else(|| LabError(format!("{name} has no process id")))?;
        Ok(Self { name, log: log.to_owned(), pid, child: Mutex::new(child) })
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// Its end, once it has ended.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    pub fn signal(&self, signal: Signal) {
        // Only while it is ours: an id that was reaped may belong to a stranger.
        if self.exited().is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Waits for its end; whether it came in time.
    pub async fn gone_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.exited().is_none() {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        true
    }

    /// The same for `drop`, which cannot await.
    pub(super) fn gone_within_blocking(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.exited().is_none() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        true
    }

    /// Why it is not what it should be: its end and the last lines it wrote.
    pub(super) fn trouble(&self, what: &str) -> LabError {
        let end = self.exited().map_or_else(|| "it still runs".to_owned(), |status| status.to_string());
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n  ");
        LabError(format!("{} {what} ({end}); the end of {}:\n  {tail}", self.name, self.log.display()))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited().is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
            let _ = self.child().wait();
        }
    }
}

// Short against anything a server needs to start or stop, long against the cost of looking.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(4);

/// A command that gets `death` when we die, run as `user` if one is given.
pub(super) fn command(program: &Path, death: &str, user: Option<&str>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", death]);
    if let Some(user) = user {
        command.args(["--reuid", user, "--regid", user, "--init-groups"]);
    }
    command.arg("--").arg(program);
    command
}

/// The ids of a process's children.
pub(super) fn children(parent: u32) -> Vec<Pid> {
    let parent = parent.to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            // pid (name) state parent …: the name may hold anything, so count from its last bracket.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)) == Some(parent.as_str())
        })
        .filter_map(Pid::from_raw)
        .collect()
}

/// Whether a process still does anything. Orphans stay zombies where the first process of a container reaps nobody.
pub fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

type Order = (Command, mpsc::SyncSender<io::Result<Child>>);

fn nursery(command: Command) -> io::Result<Child> {
    static NURSERY: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let orders = NURSERY.get_or_init(|| {
        let (orders, queue) = mpsc::channel::<Order>();
        let run = move || queue.into_iter().for_each(|(mut command, answer)| drop(answer.send(command.spawn())));
        drop(std::thread::Builder::new().name("nursery".into()).spawn(run));
        orders
    });
    let (answer, child) = mpsc::sync_channel(1);
    let gone = |_| io::Error::other("the thread that starts children is gone");
    orders.send((command, answer)).map_err(|_| gone(()))?;
    child.recv().map_err(|_| gone(()))?
}
