//! The Postgres that is installed here: its programs, the user it runs as, and clusters to copy.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::place::{make_folder, random_hex, root};
use super::process::command;
use super::{Doing, LabError, Result};

/// The programs of one Postgres version.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    bin: PathBuf,
    /// As `postgres --version` says it.
    pub(super) version: String,
    /// Servers refuse root; then they run as this user.
    pub(super) user: Option<User>,
}

#[derive(Clone, Debug)]
pub(super) struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Programs {
    /// In `bin` if given, else `LOCKSTEP_PG_BIN`, else the newest that is installed.
    pub(super) fn find(bin: Option<&Path>) -> Result<Self> {
        let bin = match bin.map(Path::to_owned).or_else(|| std::env::var_os("LOCKSTEP_PG_BIN").map(PathBuf::from)) {
            Some(bin) => bin,
            None => newest().ok_or_else(|| {
                LabError(
                    "no PostgreSQL server found; on Debian: apt-get install postgresql, or set LOCKSTEP_PG_BIN".into(),
                )
            })?,
        };
        let version = output(Command::new(bin.join("postgres")).arg("--version"))?.trim().to_owned();
        Ok(Self { bin, version, user: User::needed()? })
    }

    pub(super) fn major(&self) -> &str {
        // "postgres (PostgreSQL) 15.14 (Debian …)", "… 18beta1"
        let number = self.version.split_whitespace().nth(2).unwrap_or_default();
        number.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default()
    }

    /// A command of this version that dies with us.
    pub(super) fn command(&self, program: &str, death: &str) -> Command {
        let mut command = command(&self.bin.join(program), death, self.user.as_ref().map(|user| user.name.as_str()));
        // Its own user may not be able to stand where we stand.
        command.current_dir("/");
        command
    }

    /// Gives a folder or file to the user the server runs as.
    pub(super) fn hand_over(&self, path: &Path) -> Result<()> {
        match &self.user {
            Some(user) => std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
                .doing(|| format!("cannot give {} to {}", path.display(), user.name)),
            None => Ok(()),
        }
    }

    /// Copies a fresh cluster to `data`, which does not exist yet. Running initdb takes seconds, copying its result a
    /// tenth of one, so its result is kept per version and options.
    pub(super) fn new_cluster(&self, data: &Path, superuser: &str, locale: &str) -> Result<()> {
        let template = self.template(superuser, locale)?;
        output(Command::new("cp").args(["-a", "--reflink=auto"]).arg(template).arg(data)).map(drop)
    }

    fn template(&self, superuser: &str, locale: &str) -> Result<PathBuf> {
        let bin = fs::canonicalize(&self.bin).unwrap_or_else(|_| self.bin.clone());
        let name = format!("{}\n{}\n{superuser}\n{locale}", bin.display(), self.version);
        let name: String = Sha256::digest(name).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let folder = root()?.join("templates");
        make_folder(&folder)?;
        self.hand_over(&folder)?;
        let ready = folder.join(name);
        // One makes it, the others wait; the rename shows it only when it is whole.
        let lock = File::create(ready.with_extension("lock")).doing(|| "cannot lock the template".into())?;
        lock.lock().doing(|| "cannot lock the template".into())?;
        if !ready.join("PG_VERSION").exists() {
            let fresh = folder.join(format!("new-{}", random_hex(4)));
            let mut initdb = self.command("initdb", "KILL");
            initdb.arg("--pgdata").arg(&fresh).args(["--username", superuser, "--locale", locale]);
            initdb.args(["--encoding=UTF8", "--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256"]);
            output(&mut initdb)?;
            fs::rename(&fresh, &ready).doing(|| "cannot keep the template".into())?;
        }
        Ok(ready)
    }
}

impl User {
    /// Only root must become somebody else.
    fn needed() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let name = std::env::var("LOCKSTEP_LAB_USER").unwrap_or_else(|_| "postgres".into());
        let id = |flag: &str| {
            let text = output(Command::new("id").args([flag, &name]))?;
            text.trim().parse().doing(|| format!("the user {name} has no id"))
        };
        Ok(Some(Self { uid: id("-u")?, gid: id("-g")?, name }))
    }

    /// Whether this user may pass through every folder on the way to `dir`; the one that is in the way if not.
    pub(super) fn barred_by(&self, dir: &Path) -> Option<PathBuf> {
        dir.ancestors().filter(|folder| folder.exists()).find_map(|folder| {
            let meta = fs::metadata(folder).ok()?;
            let open = meta.mode() & 0o001 != 0
                || meta.uid() == self.uid && meta.mode() & 0o100 != 0
                || meta.gid() == self.gid && meta.mode() & 0o010 != 0;
            (!open).then(|| folder.to_owned())
        })
    }
}

fn newest() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .max();
    newest.map(|(_, bin)| bin).or_else(|| in_path("initdb")?.parent().map(Path::to_owned))
}

/// A program on the search path.
pub(super) fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn output(command: &mut Command) -> Result<String> {
    let name = |command: &Command| -> String {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    };
    let out = command.output().doing(|| format!("cannot run `{}`", name(command)))?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(LabError(format!("`{}` failed: {}", name(command), String::from_utf8_lossy(&out.stderr).trim()))),
    }
}
