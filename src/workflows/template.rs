//! Templates: texts with `{{new.name}}` in them, alone or anywhere in a JSON value. A field that the change does not tell
//! is an error, never an empty text. Pure.

use serde_json::Value;

use super::change::Sides;
use super::condition::{Field, Wrong};
use super::row::{plain, string};

/// What a template may name beside the rows.
#[derive(Clone, Debug)]
pub struct Facts {
    pub run_id: String,
    pub workflow_id: String,
    pub workflow_name: String,
    pub event: String,
    pub table: String,
    /// The values of the key's columns, as a JSON list.
    pub key: String,
    /// When the change was committed, in ISO 8601.
    pub committed_at: Option<String>,
    pub new: Option<String>,
    pub old: Option<String>,
    pub sides: Sides,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    Field(Field),
    New,
    Old,
    Event,
    Table,
    Key,
    Workflow,
    WorkflowId,
    RunId,
    CommittedAt,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name(Name),
}

impl Facts {
    /// The JSON text that a name stands for.
    fn json(&self, name: &Name) -> Result<String, Wrong> {
        let row = |row: &Option<String>| row.clone().unwrap_or_else(|| "null".into());
        Ok(match name {
            Name::Field(field) => self.sides.get(field)?.to_owned(),
            Name::New => row(&self.new),
            Name::Old => row(&self.old),
            Name::Event => string(&self.event),
            Name::Table => string(&self.table),
            Name::Key => self.key.clone(),
            Name::Workflow => string(&self.workflow_name),
            Name::WorkflowId => string(&self.workflow_id),
            Name::RunId => string(&self.run_id),
            Name::CommittedAt => self.committed_at.as_deref().map_or_else(|| "null".into(), string),
        })
    }
}

/// A text with its names filled in. Null is an empty text.
pub fn text(template: &str, facts: &Facts) -> Result<String, Wrong> {
    fill(template, facts, |text| text)
}

/// The same for a URL: what is filled in cannot leave its place in the path or the query.
pub fn url(template: &str, facts: &Facts) -> Result<String, Wrong> {
    let filled = fill(template, facts, |text| percent(&text))?;
    // `.` and `..` alone are taken for directories, and nothing in them can be escaped.
    match climbs(&filled) > climbs(template) {
        true => Err(Wrong::new("a segment of the path", "becomes `.` or `..` with this row's values")),
        false => Ok(filled),
    }
}

/// Segments of a URL's path that a parser takes for directories.
fn climbs(url: &str) -> usize {
    let path = url.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase().replace("%2e", ".");
    path.split(['/', '\\']).filter(|segment| matches!(*segment, "." | "..")).count()
}

/// A text with every name replaced by this value.
pub fn sample(template: &str, value: &str) -> Result<String, Wrong> {
    let text = |piece| match piece {
        Piece::Text(text) => text,
        Piece::Name(_) => value.to_owned(),
    };
    Ok(pieces(template)?.into_iter().map(text).collect())
}

/// A JSON value with the templates in its texts filled in. A text that is nothing but one name becomes that value.
pub fn json(template: &Value, facts: &Facts) -> Result<String, Wrong> {
    Ok(match template {
        Value::String(text_) => match &pieces(text_)?[..] {
            [Piece::Name(name)] => facts.json(name)?,
            _ => string(&text(text_, facts)?),
        },
        Value::Array(items) => {
            let items = items.iter().map(|item| json(item, facts)).collect::<Result<Vec<_>, _>>()?;
            format!("[{}]", items.join(","))
        }
        Value::Object(map) => {
            let one = |(name, value): (&String, &Value)| Ok(format!("{}:{}", string(name), json(value, facts)?));
            let fields = map.iter().map(one).collect::<Result<Vec<_>, Wrong>>()?;
            format!("{{{}}}", fields.join(","))
        }
        other => other.to_string(),
    })
}

/// The names in a value's texts, or what is wrong with them.
pub fn names(template: &Value) -> Result<Vec<Name>, Wrong> {
    let mut found = Vec::new();
    match template {
        Value::String(text) => found.extend(pieces(text)?.into_iter().filter_map(|piece| match piece {
            Piece::Name(name) => Some(name),
            Piece::Text(_) => None,
        })),
        Value::Array(items) => {
            for item in items {
                found.extend(names(item)?);
            }
        }
        Value::Object(map) => {
            for item in map.values() {
                found.extend(names(item)?);
            }
        }
        _ => {}
    }
    Ok(found)
}

/// Everything but what RFC 3986 leaves unreserved.
pub fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

fn fill(template: &str, facts: &Facts, clean: fn(String) -> String) -> Result<String, Wrong> {
    let mut out = String::with_capacity(template.len());
    for piece in pieces(template)? {
        match piece {
            Piece::Text(text) => out += &text,
            Piece::Name(name) => {
                let value = facts.json(&name)?;
                out += &clean(if value == "null" { String::new() } else { plain(&value) });
            }
        }
    }
    Ok(out)
}

fn pieces(template: &str) -> Result<Vec<Piece>, Wrong> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find("{{") {
        let (before, behind) = rest.split_at(at);
        let Some(end) = behind.find("}}") else {
            return Err(Wrong::new("template", format!("`{}` is not closed with }}}}", cut(behind))));
        };
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        pieces.push(Piece::Name(name(behind[2..end].trim())?));
        rest = &behind[end + 2..];
    }
    if !rest.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

fn name(text: &str) -> Result<Name, Wrong> {
    Ok(match text {
        "new" => Name::New,
        "old" => Name::Old,
        "event" => Name::Event,
        "table" => Name::Table,
        "key" => Name::Key,
        "workflow" => Name::Workflow,
        "workflow_id" => Name::WorkflowId,
        "run_id" => Name::RunId,
        "committed_at" => Name::CommittedAt,
        other => Name::Field(Field::parse(other).ok_or_else(|| {
            let known =
                "new.COLUMN, old.COLUMN, new, old, event, table, key, workflow, workflow_id, run_id, committed_at";
            Wrong::new(format!("{{{{{}}}}}", cut(other)), format!("is not known: a template may name {known}"))
        })?),
    })
}

fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as value;

    fn facts() -> Facts {
        let new = r#"{"id":7,"name":"Ann \"A\" & Bo","note":null,"tags":["x","y"]}"#;
        Facts {
            run_id: "r".into(),
            workflow_id: "w".into(),
            workflow_name: "Greet".into(),
            event: "INSERT".into(),
            table: "public.agents".into(),
            key: "[\"7\"]".into(),
            committed_at: None,
            new: Some(new.into()),
            old: None,
            sides: Sides::parse(Some(new), None).unwrap(),
        }
    }

    #[test]
    fn a_name_alone_keeps_its_type_and_within_a_text_it_is_text() {
        let template = value!({"id": "{{new.id}}", "hello": "Hi {{ new.name }}!", "tags": ["{{new.tags}}"],
                               "n": 3, "note": "{{new.note}}", "empty": "[{{new.note}}]", "plain": "", "all": "{{new}}"});
        let filled: Value = serde_json::from_str(&json(&template, &facts()).unwrap()).unwrap();
        assert_eq!(
            filled,
            value!({"id": 7, "hello": "Hi Ann \"A\" & Bo!", "tags": [["x", "y"]], "n": 3, "note": null, "empty": "[]",
                    "plain": "", "all": {"id": 7, "name": "Ann \"A\" & Bo", "note": null, "tags": ["x", "y"]}})
        );
    }

    #[test]
    fn what_is_filled_into_a_url_stays_in_its_place() {
        let filled = url("https://x.example/{{new.name}}?id={{new.id}}", &facts()).unwrap();
        assert_eq!(filled, "https://x.example/Ann%20%22A%22%20%26%20Bo?id=7");
        let with = |value: &str| Facts {
            sides: Sides::parse(Some(&value!({ "x": value, "dot": "." }).to_string()), None).unwrap(),
            ..facts()
        };
        for (template, value) in [
            ("https://x.example/users/{{new.x}}/disable", ".."),
            ("https://x.example/users/{{new.x}}", "."),
            ("https://x.example/{{new.x}}{{new.dot}}/y", "."),
            ("https://x.example/%2E{{new.x}}/y", "."),
        ] {
            assert!(url(template, &with(value)).is_err(), "{template} with {value}");
        }
        assert_eq!(
            url("https://x.example/../v{{new.x}}?q={{new.x}}", &with("..")).unwrap(),
            "https://x.example/../v..?q=.."
        );
    }

    #[test]
    fn a_missing_field_and_a_name_that_nobody_knows_are_errors() {
        assert_eq!(text("Hi {{new.nobody}}", &facts()).unwrap_err().field, "new.nobody");
        assert_eq!(text("Hi {{old.name}}", &facts()).unwrap_err().field, "old.name");
        for bad in ["{{name}}", "{{new.}}", "{{", "{{ }}", "{{env.HOME}}"] {
            assert!(names(&value!([{"a": bad}])).is_err(), "{bad}");
        }
    }
}
