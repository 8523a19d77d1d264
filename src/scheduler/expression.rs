//! Reads one cron expression, and says of a wrong one which field is wrong and what would be right.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// The fields of five, in their order, and what each may hold.
const FIELDS: [(&str, &str); 5] = [
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of month", "1-31, L for the last, 15W for the weekday nearest the 15th"),
    ("month", "1-12 or JAN-DEC"),
    ("day of week", "0-7 (0 and 7 are Sunday) or SUN-SAT, 5L for the last Friday, 1#2 for the second Monday"),
];

/// Five fields, or six with the seconds in front, or a nickname such as `@hourly`.
pub(super) fn parse(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    // The library's own texts tell of its inside; ours tell what to write.
    parser.parse(text).map_err(|_| format!("`{text}` is not a cron expression: {}", why(&parser, text)))
}

fn why(parser: &CronParser, text: &str) -> String {
    let fields: Vec<&str> = text.split_whitespace().collect();
    if let [nickname] = fields[..]
        && nickname.starts_with('@')
    {
        return format!("`{nickname}` is none of @hourly, @daily, @weekly, @monthly, @yearly");
    }
    let (seconds, five) = match fields.len() {
        5 => (None, &fields[..]),
        6 => (Some(fields[0]), &fields[1..]),
        n => return format!("it has {n} fields; minute, hour, day of month, month, day of week make five"),
    };
    // Alone among stars, a field that is wrong is wrong by itself.
    let fits = |at: usize, field: &str| {
        let mut stars = ["*"; 6];
        stars[at] = field;
        parser.parse(&stars.join(" ")).is_ok()
    };
    if let Some(field) = seconds.filter(|field| !fits(0, field)) {
        return format!("second `{field}` is not within 0-59, or not written as 5, 1-4, 1,3 or */10");
    }
    for (at, ((name, range), field)) in FIELDS.iter().zip(five).enumerate() {
        if !fits(at + 1, field) {
            return format!("{name} `{field}` is not within {range}, or not written as 5, 1-4, 1,3 or */10");
        }
    }
    "its fields do not go together".into()
}
