//! What an answer that is not a success means, decided by its body's `code` and never by the HTTP status alone.

use std::time::Duration;

use serde::Deserialize;

/// Who must act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It passes by itself: wait, send the same again.
    Transient,
    /// The request is larger than something on the way lets through.
    TooLarge,
    /// A row was refused: by its value or by a constraint.
    Row,
    /// Rights, schema, key or installation: somebody must change something.
    SetUp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub class: Class,
    /// SQLSTATE or PostgREST's own code.
    pub code: Option<String>,
    pub status: Option<u16>,
    pub message: String,
    pub retry_after: Option<Duration>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match (self.status, &self.code) {
            (Some(status), Some(code)) => write!(f, " (HTTP {status}, code {code})"),
            (Some(status), None) => write!(f, " (HTTP {status})"),
            (None, _) => Ok(()),
        }
    }
}

impl Failure {
    /// There was no answer, or none to the end: the request may or may not have been carried out.
    pub fn unanswered(message: impl Into<String>) -> Self {
        Self { class: Class::Transient, code: None, status: None, message: message.into(), retry_after: None }
    }

    /// Reads PostgREST's error body; what stands before it (a gateway, a proxy) may answer in any other form.
    pub fn read(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        #[derive(Deserialize, Default)]
        struct Body {
            code: Option<String>,
            message: Option<String>,
            details: Option<serde_json::Value>,
            hint: Option<serde_json::Value>,
        }
        let read: Body = serde_json::from_slice(body).unwrap_or_default();
        let mut message = read.message.filter(|message| !message.is_empty()).unwrap_or_else(|| excerpt(body));
        for more in [read.details, read.hint].into_iter().flatten() {
            if let Some(more) = more.as_str().filter(|more| !more.is_empty()) {
                message = format!("{message}; {more}");
            }
        }
        Self {
            class: classify(status, read.code.as_deref()),
            code: read.code,
            status: Some(status),
            message,
            retry_after,
        }
    }
}

/// The beginning of a body that is not PostgREST's, on one line.
fn excerpt(body: &[u8]) -> String {
    let text: String =
        String::from_utf8_lossy(&body[..body.len().min(200)]).split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { "an answer without a body".into() } else { text }
}

/// The class of an HTTP answer.
fn classify(status: u16, code: Option<&str>) -> Class {
    match code {
        Some(code) if code.starts_with("PGRST") => match &code[5..] {
            "000" | "001" | "002" | "003" => Class::Transient, // no connection, no pool slot, schema cache not loaded
            other if other.starts_with('X') => Class::Transient, // an error inside PostgREST
            _ => Class::SetUp,
        },
        Some(code) if is_sqlstate(code) => sqlstate(code),
        // PostgREST lost its database in the middle of the request, and passes on that there is no SQLSTATE.
        Some("") => Class::Transient,
        _ => match status {
            413 => Class::TooLarge,
            408 | 425 | 429 | 500.. => Class::Transient,
            _ => Class::SetUp,
        },
    }
}

/// The class of an SQLSTATE.
pub fn sqlstate(code: &str) -> Class {
    match code {
        // XX000, "internal error", is what a server that is going down or a broken index says: waiting harms nothing.
        _ if ["08", "40", "53", "57P0", "58", "XX"].iter().any(|class| code.starts_with(class)) => Class::Transient,
        "55P03" | "57014" => Class::Transient,
        "P0001" | "428C9" | "21000" => Class::Row,
        _ if code.starts_with("22") || code.starts_with("23") => Class::Row,
        _ => Class::SetUp,
    }
}

fn is_sqlstate(code: &str) -> bool {
    code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_decides_and_only_without_one_the_status() {
        use Class::{Row, SetUp, TooLarge, Transient};
        for (status, code, class) in [
            (500, None, Transient),
            (504, None, Transient),
            (521, None, Transient),
            (429, None, Transient),
            (408, None, Transient),
            (413, None, TooLarge),
            (401, None, SetUp),
            (404, None, SetUp),
            (503, Some("PGRST002"), Transient),
            (504, Some("PGRST003"), Transient),
            (404, Some("PGRST202"), SetUp),
            (404, Some("PGRST205"), SetUp),
            (401, Some("PGRST301"), SetUp),
            (401, Some("PGRST303"), SetUp),
            (400, Some("40001"), Transient),
            (400, Some(""), Transient),
            (500, Some("57014"), Transient),
            (500, Some("53100"), Transient),
            (409, Some("23505"), Row),
            (400, Some("22P02"), Row),
            (400, Some("P0001"), Row),
            (400, Some("21000"), Row),
            (500, Some("21000"), Row),
            (404, Some("42P01"), SetUp),
            (403, Some("42501"), SetUp),
            (500, Some("weird"), Transient),
        ] {
            assert_eq!(classify(status, code), class, "{status} {code:?}");
        }
    }

    #[test]
    fn a_page_from_something_on_the_way_is_quoted_in_one_short_line() {
        let failure = Failure::read(502, None, b"<html>\n <h1>Bad gateway</h1>\n</html>");
        assert_eq!(failure.to_string(), "<html> <h1>Bad gateway</h1> </html> (HTTP 502)");
        let failure =
            Failure::read(404, None, br#"{"code":"PGRST202","message":"no function","hint":"none","details":null}"#);
        assert_eq!(failure.to_string(), "no function; none (HTTP 404, code PGRST202)");
    }
}
