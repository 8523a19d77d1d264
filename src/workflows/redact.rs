//! What of requests, answers and rows is kept and shown: cut to a size, and without what looks like a secret. Pure.

use std::collections::BTreeMap;

use serde_json::Value;
use url::Url;

const HIDDEN: &str = "(hidden)";

/// Whether something of this name is better not shown.
fn is_secret(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    [
        "password",
        "passwd",
        "secret",
        "token",
        "apikey",
        "authorization",
        "cookie",
        "privatekey",
        "credential",
        "signature",
    ]
    .iter()
    .any(|word| name.contains(word))
        || name == "pwd"
}

/// A body: of JSON the values of secret names, of anything else the words that are keys by their look.
pub fn body(text: &str, most: usize) -> String {
    let shown = match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            hide(&mut value);
            value.to_string()
        }
        Err(_) => words(text),
    };
    cut(&shown, most)
}

/// Of every secret name the value, however deep.
pub fn hide(value: &mut Value) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(name, value)| match is_secret(name) && !value.is_null() {
            true => *value = HIDDEN.into(),
            false => hide(value),
        }),
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::String(text) if looks_like_a_key(text) => *text = HIDDEN.into(),
        _ => {}
    }
}

pub fn headers(headers: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let shown = |(name, value): (&String, &String)| {
        let value = if is_secret(name) || looks_like_a_key(value) { HIDDEN.into() } else { value.clone() };
        (name.clone(), value)
    };
    headers.iter().map(shown).collect()
}

/// Values of secret names in the query.
pub fn url(url: &Url) -> String {
    let mut shown = url.clone();
    if url.query_pairs().any(|(name, _)| is_secret(&name)) {
        shown.query_pairs_mut().clear().extend_pairs(
            url.query_pairs().map(|(name, value)| if is_secret(&name) { (name, HIDDEN.into()) } else { (name, value) }),
        );
    }
    shown.into()
}

fn words(text: &str) -> String {
    text.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '=' | '<' | '>'))
        .map(|word| {
            let bare = word.trim_end_matches(|c: char| c.is_whitespace() || "\"',;=<>".contains(c));
            if looks_like_a_key(bare) { word.replace(bare, HIDDEN) } else { word.to_owned() }
        })
        .collect()
}

/// A Supabase key, a JWT, a signing secret, a bearer token.
fn looks_like_a_key(text: &str) -> bool {
    let begins = |with: &str| text.len() > with.len() + 8 && text.starts_with(with);
    begins("sb_secret_")
        || begins("sbp_")
        || begins("whsec_")
        || begins("Bearer ")
        || begins("Basic ")
        || (begins("eyJ") && text.matches('.').count() == 2)
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}… ({} bytes in all)", &text[..end], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_by_their_names_and_by_their_look_and_long_texts_are_cut() {
        let shown = body(r#"{"name":"Ann","api_key":"k","deep":[{"Password":"p"}],"x":"sb_secret_0123456789"}"#, 1000);
        assert_eq!(shown, r#"{"api_key":"(hidden)","deep":[{"Password":"(hidden)"}],"name":"Ann","x":"(hidden)"}"#);
        let token = "eyJhbGciOi.eyJyb2xlIjo.c2ln";
        assert_eq!(body(&format!("token={token}, bye"), 1000), "token=(hidden), bye");
        assert_eq!(body("größer", 3), "gr… (8 bytes in all)");
        let sent = BTreeMap::from([("Authorization".into(), "x".into()), ("x-plain".into(), "y".into())]);
        assert_eq!(headers(&sent)["Authorization"], HIDDEN);
        assert_eq!(headers(&sent)["x-plain"], "y");
        let shown = url(&Url::parse("https://h/p?a=1&token=t").unwrap());
        assert!(shown.contains("a=1") && !shown.contains("token=t"), "{shown}");
    }
}
