//! Durations and sizes as people write them: `30s`, `500ms`, `64 MiB`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// `500ms`, `30s`, `5m`, `2h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let millis = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" | "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let whole = number.parse::<u64>().ok();
    match whole.zip(millis).and_then(|(number, millis)| number.checked_mul(millis)) {
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err(format!("`{text}` is not a duration such as 500ms, 30s, 5m or 2h")),
    }
}

/// `4096`, `64 KiB`, `1 MB`: decimal units are thousands, binary ones 1024s.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "kb" => Some(1_000),
        "mb" => Some(1_000_000),
        "gb" => Some(1_000_000_000),
        "kib" => Some(1 << 10),
        "mib" => Some(1 << 20),
        "gib" => Some(1 << 30),
        _ => None,
    };
    let whole = number.parse::<usize>().ok();
    whole
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| format!("`{text}` is not a size such as 65536, 64 KiB or 1 MB"))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// A number of seconds is refused: `30` might as well mean milliseconds.
pub(super) fn read_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    match toml::Value::deserialize(from)? {
        toml::Value::String(text) => duration(&text).map_err(D::Error::custom),
        other => Err(D::Error::custom(format!("`{other}` has no unit; write \"{other}s\" for seconds"))),
    }
}

pub(super) fn read_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    match toml::Value::deserialize(from)? {
        toml::Value::Integer(number) if number >= 0 => {
            usize::try_from(number).map_err(|_| D::Error::custom(format!("{number} bytes are too many")))
        }
        toml::Value::String(text) => bytes(&text).map_err(D::Error::custom),
        other => Err(D::Error::custom(format!("`{other}` is not a size such as 65536, \"64 KiB\" or \"1 MB\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_with_their_units_and_never_without() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5 m"), Ok(Duration::from_secs(300)));
        for bad in ["", "30", "s", "-1s", "1.5s", "3 days", "99999999999999999999s", "9999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!((bytes("64 KiB"), bytes("1MB"), bytes("7")), (Ok(65_536), Ok(1_000_000), Ok(7)));
        for bad in ["", "KiB", "1 XB", "-1", "99999999999999 GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
