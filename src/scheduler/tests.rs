use super::*;

fn table(expression: &str, zone: &str) -> Timetable {
    Timetable::parse(&[expression.to_owned()], zone).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// All that is due between two instants, in UTC.
fn due(expression: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
    let table = table(expression, zone);
    let mut found = Vec::new();
    let mut now = at(from);
    while let Some(next) = table.next(now).filter(|&next| next < at(to)) {
        found.push(next.strftime("%d %H:%M").to_string());
        now = next;
    }
    found
}

/// 2027-03-28 in Berlin: at 01:00 UTC the clocks go from 02:00 to 03:00.
#[test]
fn when_the_clocks_go_forward_a_time_that_does_not_exist_comes_once_and_hours_go_on() {
    let day = |cron| due(cron, "Europe/Berlin", "2027-03-27T22:59:59Z", "2027-03-28T22:00:00Z");
    assert_eq!(day("0 2 * * *"), ["28 01:00"], "02:00 does not exist; the clocks say 03:00 then");
    assert_eq!(day("30 2 * * *"), ["28 01:00"]);
    assert_eq!(day("0 3 * * *"), ["28 01:00"]);
    assert_eq!(day("0 * * * *").len(), 23, "an hour is missing in this day, and no hour is skipped or doubled");
    assert_eq!(day("*/30 * * * *").len(), 46);
    assert_eq!(day("0 2 29 * *"), [""; 0]);
}

/// 2026-10-25 in Berlin: at 01:00 UTC the clocks go from 03:00 back to 02:00.
#[test]
fn when_the_clocks_go_back_a_time_that_comes_twice_comes_once_and_hours_go_on() {
    let day = |cron| due(cron, "Europe/Berlin", "2026-10-24T21:59:59Z", "2026-10-25T23:00:00Z");
    assert_eq!(day("0 2 * * *"), ["25 00:00"], "the first of the two 02:00");
    assert_eq!(day("30 2 * * *"), ["25 00:30"]);
    assert_eq!(day("0 3 * * *"), ["25 02:00"]);
    assert_eq!(day("0 * * * *").len(), 25, "this day has an hour more, and each is due");
    assert_eq!(day("*/30 * * * *").len(), 50);
}

/// In New York the clocks change at other dates, and in UTC never; Lord Howe moves by half an hour.
#[test]
fn every_zone_has_its_own_days() {
    let york = |cron, from, to| due(cron, "America/New_York", from, to);
    assert_eq!(york("30 2 * * *", "2027-03-14T05:00:00Z", "2027-03-15T04:00:00Z"), ["14 07:00"]);
    assert_eq!(york("30 1 * * *", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"), ["01 05:30"]);
    assert_eq!(york("0 * * * *", "2026-11-01T03:59:59Z", "2026-11-02T05:00:00Z").len(), 25);
    assert_eq!(due("0 2 * * *", "UTC", "2027-03-27T12:00:00Z", "2027-03-29T12:00:00Z"), ["28 02:00", "29 02:00"]);
    let howe = due("0 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", "2026-10-04T12:00:00Z");
    assert_eq!(howe, ["03 15:30"], "02:00 does not exist there, the clocks say 02:30");
}

#[test]
fn two_expressions_that_name_one_instant_make_it_due_once() {
    let both = Timetable::parse(&["0 * * * *".into(), "0 2 * * *".into()], "UTC").unwrap();
    assert_eq!(both.next(at("2026-11-23T01:30:00Z")), Some(at("2026-11-23T02:00:00Z")));
    assert_eq!(both.next(at("2026-11-23T02:00:00Z")), Some(at("2026-11-23T03:00:00Z")));
    assert_eq!(Timetable::parse(&[], "UTC").unwrap().next(at("2026-11-23T01:30:00Z")), None, "none: never");
}

#[test]
fn a_run_that_was_missed_while_the_service_was_down_is_known_and_is_the_latest_one() {
    let daily = table("0 2 * * *", "Europe/Berlin");
    let missed = |last, now| daily.missed(at(last), at(now));
    // Down for three days: one run, not three.
    assert_eq!(missed("2026-11-20T01:00:00Z", "2026-11-23T12:00:00Z"), Some(at("2026-11-23T01:00:00Z")));
    assert_eq!(missed("2026-11-23T01:00:00Z", "2026-11-23T12:00:00Z"), None, "made on time");
    assert_eq!(missed("2026-11-23T01:04:11Z", "2026-11-23T12:00:00Z"), None, "made with jitter");
    assert_eq!(missed("2026-11-23T00:59:00Z", "2026-11-23T01:00:00Z"), Some(at("2026-11-23T01:00:00Z")));
    // Down over the night in which 02:00 does not exist.
    assert_eq!(missed("2027-03-27T12:00:00Z", "2027-03-28T12:00:00Z"), Some(at("2027-03-28T01:00:00Z")));
}

#[test]
fn a_wrong_expression_names_its_field_and_what_it_may_hold() {
    for (text, part) in [
        ("61 * * * *", "minute `61` is not within 0-59"),
        ("0 24 * * *", "hour `24` is not within 0-23"),
        ("0 2 32 * *", "day of month `32`"),
        ("0 2 * FOO *", "month `FOO` is not within 1-12 or JAN-DEC"),
        ("0 2 * * MONDAY-X", "day of week `MONDAY-X`"),
        ("75 0 2 * * *", "second `75`"),
        ("0 2 * *", "it has 4 fields"),
        ("", "it has 0 fields"),
        ("@nightly", "`@nightly` is none of @hourly"),
        ("0 0 30 2 *", "never comes"),
    ] {
        let error = Timetable::parse(&[text.to_owned()], "UTC").unwrap_err();
        assert!(error.contains(part) && error.contains(text), "{text}: {error}");
    }
    assert!(Timetable::parse(&[], "Europe/Berln").unwrap_err().contains("`Europe/Berln` is not a time zone"));
    for good in ["@hourly", "0 2 L * *", "*/15 8-18 * * MON-FRI", "*/5 * * * * *"] {
        table(good, "Europe/Berlin");
    }
}

#[test]
fn jitter_stays_below_its_bound_and_differs() {
    let most = Duration::from_secs(60);
    let some: Vec<Duration> = (0..100).map(|_| jitter(most)).collect();
    assert!(some.iter().all(|delay| *delay < most));
    assert!(some.iter().min() != some.iter().max());
    assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
}
