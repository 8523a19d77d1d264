//! Writes settings into `.env`, and leaves everything else in it as it is: other lines, comments, their order. What would
//! come out is read again before it is written, so a file that is understood in another way than we think stays untouched.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::problem::Problem;

/// The text with these variables set.
pub fn edit(text: &str, set: &[(&str, &str)]) -> Result<String, Problem> {
    if let Some((name, _)) = set.iter().find(|(_, value)| !value.bytes().all(plain)) {
        return Err(Problem::new(*name, "holds characters that cannot be written into .env"));
    }
    let ending = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    for (name, value) in set {
        let places: Vec<usize> = (0..lines.len()).filter(|&at| names(&lines[at]) == Some(name)).collect();
        match places.split_last() {
            // The last one counts; an older key has no business behind it.
            Some((&last, older)) => {
                lines[last] = changed(&lines[last], name, value);
                older.iter().rev().for_each(|&at| _ = lines.remove(at));
            }
            None => {
                if let Some(last) = lines.last_mut().filter(|line| !line.ends_with('\n')) {
                    last.push_str(ending);
                }
                lines.push(format!("{name}={value}{ending}"));
            }
        }
    }
    let new = lines.concat();
    let (before, after) = (parse(text)?, parse(&new)?);
    let set: HashMap<&str, &str> = set.iter().copied().collect();
    let kept = before.iter().all(|(name, value)| set.contains_key(name.as_str()) || after.get(name) == Some(value));
    let there = set.iter().all(|(name, value)| after.get(*name).is_some_and(|found| found == value));
    let nothing_new = after.keys().all(|name| before.contains_key(name) || set.contains_key(name.as_str()));
    match kept && there && nothing_new {
        true => Ok(new),
        false => Err(Problem::new(".env", "is written in a way that cannot be changed from here; change it by hand")),
    }
}

/// What needs no quotes for any of those that read such files: us, a shell, Docker, systemd.
fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._~:/[]@%+=-".contains(&byte)
}

/// The variable that a line sets.
fn names(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("export ").unwrap_or(line);
    line.split_once('=').map(|(name, _)| name.trim())
}

/// The line with another value; what stands before the name, a comment behind the value and the ending stay.
fn changed(line: &str, name: &str, value: &str) -> String {
    let before = &line[..line.find(name).unwrap_or(0)];
    let body = line.trim_end_matches(['\n', '\r']);
    let ending = &line[body.len()..];
    let old = body.split_once('=').map_or("", |(_, old)| old).trim_start();
    let rest = match old.chars().next() {
        Some(quote @ ('\'' | '"')) => old[1..].split_once(quote).map_or("", |(_, rest)| rest),
        _ => old.find(" #").map_or("", |at| &old[at..]),
    };
    let comment = if rest.trim_start().starts_with('#') { rest } else { "" };
    format!("{before}{name}={value}{comment}{ending}")
}

fn parse(text: &str) -> Result<HashMap<String, String>, Problem> {
    let read = dotenvy::from_read_iter(text.as_bytes()).collect::<Result<HashMap<_, _>, _>>();
    read.map_err(|_| Problem::new(".env", "cannot be read; mend it by hand"))
}

/// Puts `text` in the place of the file, for its owner only. Whoever reads it meanwhile sees the old one or the new one,
/// and after a power cut it is one of them too.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A link stays one.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    let new = folder.join(format!("{}.new-{}", name.to_string_lossy(), std::process::id()));
    let written = write(&new, text).and_then(|()| std::fs::rename(&new, &path));
    if written.is_err() {
        let _ = std::fs::remove_file(&new); // it holds a key
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write(path: &PathBuf, text: &str) -> io::Result<()> {
    let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match open() {
        // Left by one that was killed in the midst of it and had our number.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            open()?
        }
        other => other?,
    };
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const BOTH: [(&str, &str); 2] = [("SUPABASE_URL", "https://b.supabase.co"), ("SUPABASE_KEY", "sb_secret_new")];

    #[test]
    fn what_is_not_meant_stays_as_it_is() {
        let text = "# the source\nDATABASE_URL='postgres://u:p@h/d' # ours\n\nexport SUPABASE_KEY=\"sb_secret_old\" # 2026\n\
                    LOCKSTEP_TOKEN=0123456789abcdef";
        let new = edit(text, &BOTH).unwrap();
        assert_eq!(
            new,
            "# the source\nDATABASE_URL='postgres://u:p@h/d' # ours\n\nexport SUPABASE_KEY=sb_secret_new # 2026\n\
             LOCKSTEP_TOKEN=0123456789abcdef\nSUPABASE_URL=https://b.supabase.co\n"
        );
        assert_eq!(edit(&new, &BOTH).unwrap(), new, "twice is as once");
        assert_eq!(edit("", &BOTH).unwrap(), "SUPABASE_URL=https://b.supabase.co\nSUPABASE_KEY=sb_secret_new\n");
        let windows = edit("A=1\r\nSUPABASE_KEY=x\r\n", &BOTH[1..]).unwrap();
        assert_eq!(windows, "A=1\r\nSUPABASE_KEY=sb_secret_new\r\n");
    }

    #[test]
    fn of_a_variable_that_is_set_twice_no_old_value_stays() {
        let new = edit("SUPABASE_KEY=sb_secret_1\nA=1\n#SUPABASE_KEY=said\nSUPABASE_KEY='sb_secret_2'\n", &BOTH[1..]);
        assert_eq!(new.unwrap(), "A=1\n#SUPABASE_KEY=said\nSUPABASE_KEY=sb_secret_new\n");
    }

    #[test]
    fn a_file_that_is_understood_otherwise_and_a_value_that_would_be_are_refused() {
        // The second line is within a value.
        let within = "NOTE=\"first\nSUPABASE_KEY=not a variable\"\n";
        assert!(edit(within, &BOTH[1..]).is_err(), "{:?}", edit(within, &BOTH[1..]));
        for value in ["a b", "a\nB=c", "a'b", "a\"b", "$HOME", "a#b", "a\\b", "`x`", "é"] {
            assert!(edit("", &[("SUPABASE_KEY", value)]).is_err(), "{value}");
        }
    }

    #[test]
    fn the_file_is_its_owners_only_and_a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real"), folder.path().join(".env"));
        std::fs::write(&file, "A=1\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, "A=2\n").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "A=2\n");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    }
}
