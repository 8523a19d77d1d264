//! Requests to a table itself, as anybody may send them who has the key: no function of ours is needed.

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::{Class, Client, Failure, chain, read, retry_after};
use crate::types::TableName;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Read,
    /// Reads none, and says how many there are.
    Count,
    /// Insert, or write over the row with the same key.
    Upsert,
    Patch,
    Delete,
}

/// One request to one table.
#[derive(Clone, Debug)]
pub struct TableRequest {
    pub verb: Verb,
    pub table: TableName,
    /// What follows the question mark, encoded: see [`encoded`].
    pub query: String,
    pub body: Bytes,
}

#[derive(Debug)]
pub struct TableAnswer {
    /// How many rows were touched, where PostgREST says it.
    pub rows: Option<u64>,
    pub body: Bytes,
}

impl Client {
    /// Sends it and reads the answer.
    pub async fn table(&self, request: &TableRequest) -> Result<TableAnswer, Failure> {
        let TableRequest { verb, table, query, body } = request;
        let (method, profile, prefer) = match verb {
            // Times are written in the zone of the session, which the database's settings choose otherwise.
            Verb::Read => (Method::GET, "accept-profile", "timezone=UTC"),
            Verb::Count => (Method::GET, "accept-profile", "count=exact"),
            Verb::Upsert => (Method::POST, "content-profile", "resolution=merge-duplicates,return=minimal"),
            // Counted, since a row that is not there is no error to PostgREST.
            Verb::Patch => (Method::PATCH, "content-profile", "return=minimal,count=exact"),
            Verb::Delete => (Method::DELETE, "content-profile", "return=minimal"),
        };
        let url = format!("{}/rest/v1/{}?{query}", self.url, encoded(&table.name));
        // Named always: without it PostgREST takes the first of its schemas, which need not be `public`.
        let schema = HeaderValue::from_bytes(table.schema.as_bytes()).map_err(|_| Failure {
            class: Class::SetUp,
            ..Failure::unanswered(format!("no header can hold the name of schema {}", table.schema))
        })?;
        let mut request = self.http.request(method, url).header("prefer", prefer).header(profile, schema);
        // By it the triggers of `lockstep setup webhooks` know what is no news to us.
        request = request.header("x-lockstep", "applying");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        let answer = request.send().await.map_err(|e| Failure::unanswered(format!("{}: {}", self.url, chain(&e))))?;
        let status = answer.status();
        let retry_after = retry_after(answer.headers());
        let rows = rows(answer.headers());
        let body = read(answer).await?;
        if !status.is_success() {
            return Err(Failure::read(status.as_u16(), retry_after, &body));
        }
        Ok(TableAnswer { rows, body })
    }
}

impl Client {
    /// How many rows a table has; `None` where the answer does not say it.
    pub async fn count(&self, table: &TableName) -> Result<Option<u64>, Failure> {
        let (query, body) = ("limit=0".to_owned(), Bytes::new());
        self.table(&TableRequest { verb: Verb::Count, table: table.clone(), query, body })
            .await
            .map(|answer| answer.rows)
    }
}

/// `0-4/5`, `*/0`, and, where nothing was counted, `0-4/*` or `*/*`.
fn rows(headers: &HeaderMap) -> Option<u64> {
    let (range, total) = headers.get("content-range")?.to_str().ok()?.split_once('/')?;
    total.parse().ok().or_else(|| {
        let (first, last) = range.split_once('-')?;
        Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
    })
}

/// Text as a part of an address. Everything that has a meaning there is spelt out, and more: `+` would be read as a
/// blank, and of the rest no gateway can make anything else.
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            // Harmless in a query, and long filters are full of them.
            b',' | b'(' | b')' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_nothing_that_something_on_the_way_could_misread() {
        assert_eq!(encoded("a b+c&d=e/f?g#h%\"ü"), "a%20b%2Bc%26d%3De%2Ff%3Fg%23h%25%22%C3%BC");
        assert_eq!(encoded("or(and(a.eq.1,b.eq.2))"), "or(and(a.eq.1,b.eq.2))");
    }

    #[test]
    fn the_number_of_rows_is_read_from_whatever_postgrest_says() {
        for (text, expected) in [
            ("0-4/5", Some(5)),
            ("*/0", Some(0)),
            ("*/3000", Some(3000)),
            ("0-0/*", Some(1)),
            ("*/*", None),
            ("?", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("content-range", text.parse().unwrap());
            assert_eq!(rows(&headers), expected, "{text}");
        }
    }
}
