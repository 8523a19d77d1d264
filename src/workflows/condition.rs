//! The condition of a workflow: a small language in JSON over the old and the new row. Pure.
//!
//! ```json
//! {"all": [{"field": "new.status", "op": "eq", "value": "failed"},
//!          {"not": {"field": "old.status", "op": "eq", "value": "failed"}},
//!          {"field": "new.retries", "op": "ge", "value": 3}]}
//! ```

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::change::Sides;
use super::row::plain;

/// Something about a workflow is wrong: which field, and what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {cause}")]
pub struct Wrong {
    pub field: String,
    pub cause: String,
}

impl Wrong {
    pub fn new(field: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { field: field.into(), cause: cause.into() }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Test { field: Field, op: Op, value: Operand },
}

/// `new.status` or `old.status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub old: bool,
    pub column: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    In,
    NotIn,
    Contains,
    StartsWith,
    IsNull,
    NotNull,
    Changed,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    None,
    Value(Value),
    Field(Field),
}

const OPS: [(&str, Op); 13] = [
    ("eq", Op::Eq),
    ("ne", Op::Ne),
    ("gt", Op::Gt),
    ("ge", Op::Ge),
    ("lt", Op::Lt),
    ("le", Op::Le),
    ("in", Op::In),
    ("not_in", Op::NotIn),
    ("contains", Op::Contains),
    ("starts_with", Op::StartsWith),
    ("is_null", Op::IsNull),
    ("not_null", Op::NotNull),
    ("changed", Op::Changed),
];

/// Conditions nest no deeper than anybody can read, and hold no more parts.
const DEPTH: usize = 8;
const PARTS: usize = 100;

impl Condition {
    /// Reads one, or says which part of it is wrong.
    pub fn parse(value: &Value) -> Result<Self, Wrong> {
        let condition = parse(value, "condition", DEPTH)?;
        match condition.fields().len() > PARTS {
            true => Err(Wrong::new("condition", format!("it has more than {PARTS} parts"))),
            false => Ok(condition),
        }
    }

    /// Whether a change fulfils it; an error names the field that the change does not tell.
    pub fn holds(&self, change: &Sides) -> Result<bool, Wrong> {
        Ok(match self {
            Self::All(parts) => {
                for part in parts {
                    if !part.holds(change)? {
                        return Ok(false);
                    }
                }
                true
            }
            Self::Any(parts) => {
                for part in parts {
                    if part.holds(change)? {
                        return Ok(true);
                    }
                }
                false
            }
            Self::Not(part) => !part.holds(change)?,
            Self::Test { field, op, value } => test(field, *op, value, change)?,
        })
    }

    /// Every field that it looks at.
    pub fn fields(&self) -> Vec<Field> {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::fields).collect(),
            Self::Not(part) => part.fields(),
            Self::Test { field, op, value } => {
                let mut fields = vec![field.clone()];
                if *op == Op::Changed {
                    fields.push(Field { old: true, column: field.column.clone() });
                }
                if let Operand::Field(other) = value {
                    fields.push(other.clone());
                }
                fields
            }
        }
    }
}

impl Field {
    pub fn parse(text: &str) -> Option<Self> {
        let (side, column) = text.split_once('.')?;
        let old = match side {
            "old" => true,
            "new" => false,
            _ => return None,
        };
        (!column.is_empty()).then(|| Self { old, column: column.to_owned() })
    }

    pub fn name(&self) -> String {
        format!("{}.{}", if self.old { "old" } else { "new" }, self.column)
    }
}

fn parse(value: &Value, place: &str, depth: usize) -> Result<Condition, Wrong> {
    let wrong = |cause: &str| Err(Wrong::new(place, cause));
    let Some(map) = value.as_object() else {
        return wrong(r#"is not an object such as {"field": "new.status", "op": "eq", "value": "done"}"#);
    };
    if depth == 0 {
        return wrong("nests too deeply");
    }
    let list = |name: &str| -> Result<Vec<Condition>, Wrong> {
        let place = format!("{place}.{name}");
        let parts = map[name].as_array().ok_or_else(|| Wrong::new(&place, "is not a list of conditions"))?;
        let one = |(index, part)| parse(part, &format!("{place}[{index}]"), depth - 1);
        parts.iter().enumerate().map(one).collect()
    };
    let alone = |name: &str| match map.keys().find(|key| *key != name) {
        Some(other) => Err(Wrong::new(format!("{place}.{other}"), format!("cannot stand beside `{name}`"))),
        None => Ok(()),
    };
    if map.contains_key("all") {
        alone("all")?;
        return list("all").map(Condition::All);
    }
    if map.contains_key("any") {
        alone("any")?;
        return list("any").map(Condition::Any);
    }
    if let Some(inner) = map.get("not") {
        alone("not")?;
        return Ok(Condition::Not(Box::new(parse(inner, &format!("{place}.not"), depth - 1)?)));
    }
    comparison(map, place)
}

fn comparison(map: &Map<String, Value>, place: &str) -> Result<Condition, Wrong> {
    if let Some(other) = map.keys().find(|key| !matches!(key.as_str(), "field" | "op" | "value")) {
        let cause = "is not known: a condition has field, op and value, or all, any or not";
        return Err(Wrong::new(format!("{place}.{other}"), cause));
    }
    let field = map.get("field").and_then(Value::as_str).and_then(Field::parse);
    let field = field.ok_or_else(|| {
        Wrong::new(format!("{place}.field"), "must name a column as \"new.status\" or \"old.status\"")
    })?;
    let word = map.get("op").and_then(Value::as_str).unwrap_or_default();
    let op = OPS.iter().find(|(name, _)| *name == word).map(|(_, op)| *op);
    let op = op.ok_or_else(|| {
        let known: Vec<&str> = OPS.iter().map(|(name, _)| *name).collect();
        Wrong::new(format!("{place}.op"), format!("must be one of {}", known.join(", ")))
    })?;
    let bad = |cause: &str| Wrong::new(format!("{place}.value"), cause);
    let value = match (op, map.get("value")) {
        (Op::IsNull | Op::NotNull | Op::Changed, None) => Operand::None,
        (Op::IsNull | Op::NotNull | Op::Changed, Some(_)) => return Err(bad("means nothing with this op")),
        (_, None) => return Err(bad("is missing")),
        (Op::In | Op::NotIn, Some(Value::Array(list))) if !list.iter().any(|v| v.is_array() || v.is_object()) => {
            Operand::Value(Value::Array(list.clone()))
        }
        (Op::In | Op::NotIn, Some(_)) => return Err(bad("must be a list of texts and numbers")),
        (_, Some(Value::Object(other))) => {
            let named = other.get("field").and_then(Value::as_str).and_then(Field::parse);
            Operand::Field(
                named.ok_or_else(|| bad("must be a text, a number, true, false, or {\"field\": \"old.…\"}"))?,
            )
        }
        (_, Some(Value::Array(_))) => return Err(bad("is a list, which only in and not_in take")),
        (Op::Contains | Op::StartsWith, Some(value)) if !value.is_string() => return Err(bad("must be a text")),
        (Op::Gt | Op::Ge | Op::Lt | Op::Le, Some(Value::Null | Value::Bool(_))) => {
            return Err(bad("must be a text or a number"));
        }
        (_, Some(value)) => Operand::Value(value.clone()),
    };
    Ok(Condition::Test { field, op, value })
}

fn test(field: &Field, op: Op, operand: &Operand, change: &Sides) -> Result<bool, Wrong> {
    let left = change.get(field)?;
    let right = match operand {
        Operand::None => "null".to_owned(),
        Operand::Value(value) => value.to_string(),
        Operand::Field(other) => change.get(other)?.to_owned(),
    };
    let ordered = |fits: fn(Ordering) -> bool| compare(left, &right).is_some_and(fits);
    Ok(match op {
        Op::Eq => equal(left, &right),
        Op::Ne => !equal(left, &right),
        Op::Gt => ordered(Ordering::is_gt),
        Op::Ge => ordered(Ordering::is_ge),
        Op::Lt => ordered(Ordering::is_lt),
        Op::Le => ordered(Ordering::is_le),
        Op::In => among(left, operand),
        Op::NotIn => !among(left, operand),
        Op::Contains => left != "null" && plain(left).contains(&plain(&right)),
        Op::StartsWith => left != "null" && plain(left).starts_with(&plain(&right)),
        Op::IsNull => left == "null",
        Op::NotNull => left != "null",
        Op::Changed => {
            // An inserted or deleted row has no other side to differ from.
            !change.is_update() || left != change.get(&Field { old: !field.old, column: field.column.clone() })?
        }
    })
}

fn among(left: &str, operand: &Operand) -> bool {
    let Operand::Value(Value::Array(list)) = operand else { return false };
    list.iter().any(|value| equal(left, &value.to_string()))
}

/// Whether two JSON values are the same; a number and a text are, when they read the same.
fn equal(left: &str, right: &str) -> bool {
    match (left == "null", right == "null") {
        (true, true) => true,
        (false, false) => left == right || compare(left, right) == Some(Ordering::Equal),
        _ => false,
    }
}

/// A number as it is written: `0.DIGITS × 10^exponent`, without zeros at either end of the digits. No float rounds it.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, i64::from(exponent.parse::<i32>().ok()?)),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = || whole.bytes().chain(fraction.bytes());
        if all().next().is_none() || !all().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let zeros = all().take_while(|byte| *byte == b'0').count();
        let mut digits: Vec<u8> = all().skip(zeros).collect();
        digits.truncate(digits.iter().rposition(|byte| *byte != b'0').map_or(0, |last| last + 1));
        if digits.is_empty() {
            return Some(Self { negative: false, digits, exponent: 0 });
        }
        Some(Self { negative, digits, exponent: exponent + whole.len() as i64 - zeros as i64 })
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |one: &Self| if one.digits.is_empty() { 0 } else { 1 - 2 * i8::from(one.negative) };
        let size = (self.exponent, &self.digits).cmp(&(other.exponent, &other.digits));
        sign(self).cmp(&sign(other)).then(if self.negative { size.reverse() } else { size })
    }
}

/// Numbers by their size, whatever they are written as; texts by their bytes; `None` where nothing can be said.
fn compare(left: &str, right: &str) -> Option<Ordering> {
    if left == "null" || right == "null" {
        return None;
    }
    let (a, b) = (plain(left), plain(right));
    let texts = left.starts_with('"') && right.starts_with('"');
    if !texts {
        if let (Some(a), Some(b)) = (Decimal::parse(&a), Decimal::parse(&b)) {
            return Some(a.cmp(&b));
        }
        // Infinity and NaN.
        return match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(a), Ok(b)) => a.partial_cmp(&b),
            // Values of JSON columns and the like: equal when they are the same value.
            _ => {
                let same = serde_json::from_str::<Value>(left).ok() == serde_json::from_str::<Value>(right).ok();
                (a == b || same).then_some(Ordering::Equal)
            }
        };
    }
    Some(a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn change() -> Sides {
        let new = r#"{"id":7,"status":"failed","retries":3,"amount":12.50,"note":null,"ok":true,"tags":{"a":1}}"#;
        let old = r#"{"id":7,"status":"idle","retries":3,"amount":12.50,"note":null,"ok":false,"tags":{"a":1}}"#;
        Sides::parse(Some(new), Some(old)).unwrap()
    }

    fn holds(condition: Value) -> Result<bool, Wrong> {
        Condition::parse(&condition)?.holds(&change())
    }

    #[test]
    fn comparisons_mean_what_they_say() {
        for (field, op, value, expected) in [
            ("new.status", "eq", json!("failed"), true),
            ("new.status", "ne", json!("failed"), false),
            ("new.retries", "ge", json!(3), true),
            ("new.retries", "gt", json!(3), false),
            ("new.retries", "lt", json!(10), true),
            ("new.retries", "eq", json!("3"), true),
            ("new.amount", "eq", json!(12.5), true),
            ("new.amount", "le", json!(12), false),
            ("new.status", "in", json!(["failed", "gone"]), true),
            ("new.status", "not_in", json!(["idle"]), true),
            ("new.retries", "in", json!([1, 3]), true),
            ("new.status", "contains", json!("ail"), true),
            ("new.status", "starts_with", json!("idle"), false),
            ("new.note", "eq", json!(null), true),
            ("new.note", "eq", json!("x"), false),
            ("new.note", "ne", json!("x"), true),
            ("new.note", "gt", json!(1), false),
            ("new.ok", "eq", json!(true), true),
            ("new.status", "eq", json!({"field": "old.status"}), false),
            ("new.retries", "eq", json!({"field": "old.retries"}), true),
        ] {
            let condition = json!({"field": field, "op": op, "value": value});
            assert_eq!(holds(condition.clone()), Ok(expected), "{condition}");
        }
        for (op, field, expected) in [
            ("is_null", "new.note", true),
            ("not_null", "new.note", false),
            ("changed", "new.status", true),
            ("changed", "new.retries", false),
            ("changed", "new.tags", false),
        ] {
            assert_eq!(holds(json!({"field": field, "op": op})), Ok(expected), "{op} {field}");
        }
    }

    #[test]
    fn numbers_are_compared_by_every_digit() {
        for (a, b, expected) in [
            ("9007199254740993", "9007199254740992.5", Ordering::Greater),
            ("12345678901234567890.1234567890", "12345678901234567890.1234567891", Ordering::Less),
            ("12.50", "12.5", Ordering::Equal),
            ("1e+20", "100000000000000000000", Ordering::Equal),
            ("1e-3", "0.001", Ordering::Equal),
            ("-2", "-10", Ordering::Greater),
            ("-0.0", "0", Ordering::Equal),
            ("-1", "0.001", Ordering::Less),
            ("0", "0.001", Ordering::Less),
            ("99", "100", Ordering::Less),
            (r#""Infinity""#, "1e300", Ordering::Greater),
        ] {
            assert_eq!(compare(a, b), Some(expected), "{a} and {b}");
            assert_eq!(compare(b, a), Some(expected.reverse()), "{b} and {a}");
        }
        for none in ["", "-", ".", "1e", "1e1.5", "0x10", "1_000", "1e99999999999"] {
            assert_eq!(Decimal::parse(none), None, "{none}");
        }
    }

    #[test]
    fn all_any_and_not_join_them() {
        let yes = json!({"field": "new.status", "op": "eq", "value": "failed"});
        let no = json!({"field": "new.status", "op": "eq", "value": "idle"});
        assert_eq!(holds(json!({"all": [yes, {"not": no}, {"any": [no, yes]}]})), Ok(true));
        assert_eq!(holds(json!({"all": [yes, no]})), Ok(false));
        assert_eq!(holds(json!({"any": []})), Ok(false));
        assert_eq!(holds(json!({"all": []})), Ok(true));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place() {
        for (condition, place) in [
            (json!("new.status"), "condition"),
            (json!({"field": "status", "op": "eq", "value": 1}), "condition.field"),
            (json!({"field": "new.status", "op": "like", "value": 1}), "condition.op"),
            (json!({"field": "new.status", "op": "eq"}), "condition.value"),
            (json!({"field": "new.status", "op": "in", "value": "x"}), "condition.value"),
            (json!({"field": "new.status", "op": "changed", "value": "x"}), "condition.value"),
            (json!({"field": "new.status", "op": "eq", "value": 1, "and": 2}), "condition.and"),
            (json!({"all": [{"field": "new.a", "op": "is_null"}, {"any": {}}]}), "condition.all[1].any"),
            (json!({"not": {"field": "new.a"}}), "condition.not.op"),
            (json!({"not": {"all": []}, "any": []}), "condition.not"),
        ] {
            assert_eq!(Condition::parse(&condition).unwrap_err().field, place, "{condition}");
        }
        let mut deep = json!({"field": "new.a", "op": "is_null"});
        (0..20).for_each(|_| deep = json!({"not": deep.clone()}));
        assert!(Condition::parse(&deep).is_err());
    }

    #[test]
    fn a_field_that_the_change_does_not_tell_is_an_error_and_no_guess() {
        let wrong = holds(json!({"field": "new.missing", "op": "is_null"})).unwrap_err();
        assert_eq!(wrong.field, "new.missing");
    }
}
