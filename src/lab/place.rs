//! Where things live: folders that go away again, ports that nobody else takes, and chance that can be repeated.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use super::{Doing, LabError, Result};

/// Everything temporary of ours, of this user: `<tmp>/lockstep-lab-<uid>`.
pub(super) fn root() -> Result<PathBuf> {
    let root = std::env::temp_dir().join(format!("lockstep-lab-{}", rustix::process::getuid().as_raw()));
    make_folder(&root)?;
    Ok(root)
}

/// Makes a folder that the server's own user may pass through; what is secret inside has its own mode.
pub(super) fn make_folder(dir: &Path) -> Result<()> {
    if !dir.is_dir() {
        fs::create_dir_all(dir).doing(|| format!("cannot make the folder {}", dir.display()))?;
        fs::set_permissions(dir, Permissions::from_mode(0o755))
            .doing(|| format!("cannot open up {}", dir.display()))?;
    }
    Ok(())
}

/// Writes a file that only its owner reads, all of it or nothing.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let fresh = path.with_extension("new");
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        fs::rename(&fresh, path)
    };
    write().doing(|| format!("cannot write {}", path.display()))
}

/// A folder that is removed when dropped. What a killed process left behind is swept by the next one.
#[derive(Debug)]
pub struct Temp(PathBuf);

impl Temp {
    pub fn new(what: &str) -> Result<Self> {
        static SWEEP: Once = Once::new();
        let folders = root()?.join("run");
        make_folder(&folders)?;
        SWEEP.call_once(|| sweep(&folders));
        let dir = folders.join(format!("{}-{what}-{}", std::process::id(), random_hex(4)));
        make_folder(&dir)?;
        Ok(Self(dir))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // What cannot be removed now is swept later.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn sweep(folders: &Path) {
    for entry in fs::read_dir(folders).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_string_lossy().split('-').next().and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A port on 127.0.0.1 that no other lab on this machine is given while this value lives: a locked file stands for it,
/// and the kernel unlocks that when the process ends, however it ends.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

// Below lie the well-known ones; from 32768 on the kernel hands them out for outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

impl Port {
    pub fn free() -> Result<Self> {
        let width = u64::from(PORTS.end - PORTS.start);
        let mut chance = Seeded::new(random_u64());
        (0..1000)
            .find_map(|_| Self::claim(PORTS.start + (chance.next() % width) as u16))
            .ok_or_else(|| LabError(format!("no free port found between {} and {}", PORTS.start, PORTS.end)))
    }

    /// The port that was used before if it is still free, else another one.
    pub fn again(wanted: Option<u16>) -> Result<Self> {
        match wanted.and_then(Self::claim) {
            Some(port) => Ok(port),
            None => Self::free(),
        }
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    fn claim(number: u16) -> Option<Self> {
        let folder = root().ok()?.join("ports");
        make_folder(&folder).ok()?;
        let lock = File::create(folder.join(number.to_string())).ok()?;
        lock.try_lock().ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _lock: lock })
    }
}

fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    // Without the kernel's chance there is still the clock: this names folders and picks ports. Passwords use
    // `random_hex`, which insists.
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => std::time::UNIX_EPOCH.elapsed().map_or(1, |now| now.as_nanos() as u64),
    }
}

/// `bytes` random bytes, as hex.
pub fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    #[expect(clippy::expect_used, reason = "a guessable password is worse than no laboratory")]
    getrandom::fill(&mut buffer).expect("the kernel gives random bytes");
    buffer.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Chance that the same seed repeats (splitmix64).
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[expect(clippy::should_implement_trait, reason = "it never ends, so it is no iterator to loop over")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn happens(&mut self, probability: f64) -> bool {
        ((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len() as u64) as usize)
    }
}
