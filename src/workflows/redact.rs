//! What of requests, answers and rows is kept and shown: cut to a size, and without what looks like a secret. Pure.

use std::collections::BTreeMap;

use serde_json::Value;
use url::Url;

/// What stands where something was hidden.
pub const HIDDEN: &str = "(hidden)";

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
        || ["pwd", "sig"].contains(&name.as_str())
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

/// What a workflow does, for who may only look: also without the secrets of its address.
pub fn action(action: &mut Value) {
    let url = action.get("url").and_then(Value::as_str).map(address);
    hide(action);
    if let Some(url) = url {
        action["url"] = url.into();
    }
}

/// Of every secret name the value, however deep, and what looks like a secret in texts.
pub fn hide(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.iter_mut().for_each(|(name, value)| match is_secret(name) && !value.is_null() && !is_template(value) {
                true => *value = HIDDEN.into(),
                false => hide(value),
            })
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::String(text) if looks_like_a_key(text) => *text = HIDDEN.into(),
        Value::String(text) => *text = words(text),
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

pub fn url(url: &Url) -> String {
    address(url.as_str())
}

/// An address, or the template of one, without a login, values of secret names in the query, and what looks made by
/// chance: who knows such a path may call it.
fn address(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return words(text) };
    let host = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, behind) = rest.split_at(host);
    let host = host.rsplit_once('@').map_or(host.to_owned(), |(_, host)| format!("{HIDDEN}@{host}"));
    let part = |part: &str| match part.split_once('=') {
        Some((name, value)) if hides(name, value) => format!("{name}={HIDDEN}"),
        None if by_chance(part) => HIDDEN.into(),
        _ => part.to_owned(),
    };
    let ends = |c: char| matches!(c, '/' | '?' | '&' | '#');
    let behind = behind.split_inclusive(ends).map(|with_end| {
        let bare = with_end.trim_end_matches(ends);
        part(bare) + &with_end[bare.len()..]
    });
    format!("{scheme}://{host}{}", behind.collect::<String>())
}

fn hides(name: &str, value: &str) -> bool {
    let value_is_secret = looks_like_a_key(value) || by_chance(value);
    !value.is_empty() && !value.starts_with("{{") && (is_secret(name) || name == "key" || value_is_secret)
}

/// Letters and digits without a meaning, as services put them into addresses. A UUID is the name of a row.
fn by_chance(text: &str) -> bool {
    let has = |kind: fn(&char) -> bool| text.chars().any(|c| kind(&c));
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '.' | '~' | '%'));
    let of_a_row = text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    text.len() >= 20 && plain && !of_a_row && has(char::is_ascii_digit) && has(char::is_ascii_alphabetic)
}

/// It says where the secret comes from, and not what it is.
fn is_template(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.starts_with("{{") && text.find("}}") == Some(text.len() - 2))
}

/// Of a draft in which a hidden value came back as it was shown: the value that is stored there. `false`: there is none.
pub fn reveal(draft: &mut Value, stored: Option<&Value>) -> bool {
    match draft {
        Value::String(text) if text.contains(HIDDEN) => match stored {
            Some(known) if !known.is_null() && is_shown_as(known, text) => {
                *draft = known.clone();
                true
            }
            _ => text != HIDDEN && !text.contains("://") && !text.contains("=(hidden)"),
        },
        Value::Object(map) => {
            map.iter_mut().all(|(name, value)| reveal(value, stored.and_then(|known| known.get(name))))
        }
        Value::Array(items) => {
            items.iter_mut().enumerate().all(|(at, value)| reveal(value, stored.and_then(|known| known.get(at))))
        }
        _ => true,
    }
}

fn is_shown_as(known: &Value, shown: &str) -> bool {
    shown == HIDDEN || known.as_str().is_some_and(|known| address(known) == shown || words(known) == shown)
}

/// As a text that Postgres stores.
pub fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The same of every text in a value.
pub fn storable_json(value: Value) -> Value {
    match value {
        Value::String(text) => storable(&text).into(),
        Value::Array(items) => items.into_iter().map(storable_json).collect(),
        Value::Object(map) => map.into_iter().map(|(name, value)| (storable(&name), storable_json(value))).collect(),
        other => other,
    }
}

/// Of a text that is no JSON (or was cut, and is none any more): the value behind every secret name, and keys by their
/// look.
fn words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let end = rest.find(|c| !of_name(c)).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        out += name;
        rest = match is_secret(name).then(|| assigned(behind)).flatten() {
            Some((between, value, behind)) => {
                out += between;
                out += if value.is_empty() || value.starts_with("{{") { value } else { HIDDEN };
                behind
            }
            None => behind,
        };
        let next = rest.find(of_name).unwrap_or(rest.len());
        out += &rest[..next];
        rest = &rest[next..];
    }
    looks(&out)
}

/// Behind a name: `=` or `:` with what stands around it, the value, and the rest.
fn assigned(text: &str) -> Option<(&str, &str, &str)> {
    let sign = text.find(|c: char| !c.is_whitespace() && !matches!(c, '"' | '\'' | '\\'))?;
    text[sign..].starts_with(['=', ':']).then_some(())?;
    let value = &text[sign + 1..];
    let begin = sign + 1 + value.find(|c: char| !c.is_whitespace()).unwrap_or(value.len());
    let value = &text[begin..];
    let ends = |from: usize, end: &dyn Fn(char) -> bool| value[from..].find(end).map_or(value.len(), |at| from + at);
    let length = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => quoted(value, quote),
        _ => {
            let end = |c: char| c.is_whitespace() || matches!(c, '&' | ',' | ';' | '<' | '>' | '"' | '\'' | '}' | ')');
            let word = ends(0, &end);
            // `Authorization: Bearer …`
            let scheme = ["bearer", "basic", "token"].contains(&value[..word].to_ascii_lowercase().as_str());
            let next = word + value[word..].len() - value[word..].trim_start_matches(' ').len();
            if scheme { ends(next, &end) } else { word }
        }
    };
    Some((&text[..begin], &value[..length], &value[length..]))
}

/// Bytes of a quoted value, its quotes included; one that is cut ends with the text.
fn quoted(value: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in value.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    value.len()
}

fn looks(text: &str) -> String {
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
    fn what_was_hidden_comes_back_as_it_is_stored_and_nothing_is_invented() {
        let stored = serde_json::json!({"headers": {"authorization": "Bearer s3cret", "x": "y"}, "list": [{"token": 7}],
            "url": "https://h/x?a=1&api_key=k3y", "body": {"token": "{{new.token}}"}});
        let mut shown = stored.clone();
        action(&mut shown);
        assert_eq!((&shown["url"], &shown["body"]), (&"https://h/x?a=1&api_key=(hidden)".into(), &stored["body"]));
        assert_eq!(shown["headers"]["authorization"], HIDDEN);
        shown["headers"]["x"] = "z".into();
        assert!(reveal(&mut shown, Some(&stored)));
        assert_eq!(
            (&shown["headers"]["authorization"], &shown["headers"]["x"]),
            (&"Bearer s3cret".into(), &"z".into())
        );
        assert_eq!((&shown["list"][0]["token"], &shown["url"]), (&7.into(), &stored["url"]));
        let mut odd = serde_json::json!({"headers": {"cookie": HIDDEN}});
        assert!(!reveal(&mut odd, Some(&stored)), "nothing is stored there");
        assert!(!reveal(&mut odd, None));
    }

    #[test]
    fn what_postgres_cannot_store_is_replaced() {
        let value = serde_json::json!({"url": "a\u{0}", "headers": {"b\u{0}": ["c\u{0}", 1]}});
        assert!(!crate::workflows::row::holds_nul(&storable_json(value).to_string()));
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
    }

    #[test]
    fn secrets_are_hidden_by_their_names_and_by_their_look_and_long_texts_are_cut() {
        let shown = body(r#"{"name":"Ann","api_key":"k","deep":[{"Password":"p"}],"x":"sb_secret_0123456789"}"#, 1000);
        assert_eq!(shown, r#"{"api_key":"(hidden)","deep":[{"Password":"(hidden)"}],"name":"Ann","x":"(hidden)"}"#);
        let token = "eyJhbGciOi.eyJyb2xlIjo.c2ln";
        assert_eq!(body(&format!("token={token}, bye"), 1000), "token=(hidden), bye");
        assert_eq!(body("größer", 3), "gr… (8 bytes in all)");
        for (text, shown) in [
            ("user=a&password=hunter2&x=1", "user=a&password=(hidden)&x=1"),
            ("Authorization: Bearer abc.def\nx: y", "Authorization: (hidden)\nx: y"),
            (r#"{"a":1,"api_key":"k\"k","b":"größ"#, r#"{"a":1,"api_key":(hidden),"b":"größ"#),
            (r#"{"secret": "cut of"#, r#"{"secret": (hidden)"#),
            ("password=", "password="),
            ("no token here, and ünïcode", "no token here, and ünïcode"),
            (r#"{"message":"password=hunter2"}"#, r#"{"message":"password=(hidden)"}"#),
            (r#""token={{new.token}}&token=x""#, r#""token={{new.token}}&token=(hidden)""#),
        ] {
            assert_eq!(body(text, 1000), shown, "{text}");
        }
        let sent = BTreeMap::from([("Authorization".into(), "x".into()), ("x-plain".into(), "y".into())]);
        assert_eq!(headers(&sent)["Authorization"], HIDDEN);
        assert_eq!(headers(&sent)["x-plain"], "y");
        let shown = url(&Url::parse("https://h/p?a=1&token=t").unwrap());
        assert!(shown.contains("a=1") && !shown.contains("token=t"), "{shown}");
    }

    #[test]
    fn of_addresses_logins_keys_and_paths_made_by_chance_are_hidden_and_come_back() {
        for (stored, expected) in [
            (
                "https://a.example/services/T01/B02/abcdefgh12345678ijklmnop",
                "https://a.example/services/T01/B02/(hidden)",
            ),
            ("https://b.example/bot123456:AAbbCCddEEffGG0011223344/send?x=1", "https://b.example/(hidden)/send?x=1"),
            ("https://me:pw@c.example/p?sig=abc&a=b#f", "https://(hidden)@c.example/p?sig=(hidden)&a=b#f"),
            ("https://token-service:8080/x?key=1", "https://token-service:8080/x?key=(hidden)"),
            ("https://d.example/{{new.id}}?token={{new.t}}", "https://d.example/{{new.id}}?token={{new.t}}"),
            (
                "https://e.example/rows/6f9619ff-8b86-d011-b42d-00c04fc964ff/a-long-path-of-plain-words",
                "https://e.example/rows/6f9619ff-8b86-d011-b42d-00c04fc964ff/a-long-path-of-plain-words",
            ),
        ] {
            let stored = serde_json::json!({"type": "webhook", "url": stored});
            let mut shown = stored.clone();
            action(&mut shown);
            assert_eq!(shown["url"], expected);
            assert!(reveal(&mut shown, Some(&stored)));
            assert_eq!(shown, stored);
            let mut other = serde_json::json!({"url": format!("{expected}(hidden)")});
            assert!(!reveal(&mut other, Some(&stored)), "it stands for nothing that is stored");
        }
    }

    #[test]
    fn an_answer_that_is_made_to_be_slow_is_read_once() {
        // Read again from each word, this would be 10^11 steps.
        let text = "a:".repeat(500_000);
        assert_eq!(body(&text, usize::MAX), text);
        let text = "token:".repeat(200_000);
        assert_eq!(body(&text, usize::MAX), format!("token:{HIDDEN}"));
    }
}
