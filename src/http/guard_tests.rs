use super::*;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const OPERATE: &str = "0123456789abcdef";
const READ: &str = "fedcba9876543210";

fn guard() -> Guard {
    let access = Access { token: Some(OPERATE.into()), read_token: Some(READ.into()), behind_tls: false };
    Guard::new(&access, false)
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect::<Vec<_>>()
        .into_iter()
        .fold(HeaderMap::new(), |mut map, (name, value): (header::HeaderName, HeaderValue)| {
            map.append(name, value);
            map
        })
}

/// What becomes of a request: the role that it has, or why it is refused.
fn check(guard: &Guard, method: Method, path: &str, pairs: &[(&'static str, &str)]) -> Result<Option<Role>, Refusal> {
    let checked = guard.check(&method, path, &headers(pairs), PEER, Instant::now());
    checked.map(|caller| caller.map(|caller| caller.role))
}

#[test]
fn on_loopback_only_names_of_this_host_are_answered() {
    let guard = Guard::new(&Access::default(), true);
    let get = |host: &str| check(&guard, Method::GET, "/", &[("host", host)]);
    for host in ["localhost:9464", "LOCALHOST", "127.0.0.1:9464", "127.0.0.1", "[::1]:9464", "lockstep.localhost"] {
        assert_eq!(get(host), Ok(Some(Role::Operate)), "{host}");
    }
    for host in ["evil.example:9464", "localhost.evil.example", "10.0.0.5:9464", "", "[::2]:1"] {
        assert_eq!(get(host), Err(Refusal::Host), "{host}");
    }
    assert_eq!(check(&guard, Method::GET, "/healthz", &[]), Err(Refusal::Host), "no Host at all");
    // A proxy on this host that speaks TLS passes on the name that it was asked by, and the token is shown.
    let access = Access { token: Some(OPERATE.into()), read_token: None, behind_tls: true };
    let guard = Guard::new(&access, true);
    let proxied = [("host", "lockstep.example.com"), ("origin", "https://lockstep.example.com")];
    assert_eq!(check(&guard, Method::GET, "/api/status", &proxied), Err(Refusal::Unknown));
    let bearer = format!("Bearer {OPERATE}");
    let shown = [&proxied[..], &[("authorization", &bearer)]].concat();
    assert_eq!(check(&guard, Method::POST, "/api/sync", &shown), Ok(Some(Role::Operate)));
}

#[test]
fn a_page_from_elsewhere_may_ask_for_nothing() {
    let guard = Guard::new(&Access::default(), true);
    let post = |more: &[(&'static str, &str)]| {
        let all = [&[("host", "127.0.0.1:9464")], more].concat();
        check(&guard, Method::POST, "/api/sync", &all)
    };
    assert_eq!(post(&[]), Ok(Some(Role::Operate)));
    assert_eq!(
        post(&[("origin", "http://127.0.0.1:9464"), ("sec-fetch-site", "same-origin")]),
        Ok(Some(Role::Operate))
    );
    for origin in ["https://evil.example", "http://127.0.0.1:8080", "null", ""] {
        assert_eq!(post(&[("origin", origin)]), Err(Refusal::Origin), "{origin}");
    }
    // One that hides where it is from.
    for site in ["cross-site", "same-site", "?"] {
        assert_eq!(post(&[("sec-fetch-site", site)]), Err(Refusal::Origin), "{site}");
    }
    // A link is no wish.
    let link = [("host", "127.0.0.1"), ("sec-fetch-site", "cross-site")];
    assert_eq!(check(&guard, Method::GET, "/", &link), Ok(Some(Role::Operate)));
}

#[test]
fn with_a_token_everything_but_probes_and_login_demands_it() {
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("me:{OPERATE}")));
    let bearer = format!("Bearer {OPERATE}");
    for path in
        ["/", "/page/main.js", "/metrics", "/api/status", "/api/events", "/nothing", "/healthz/", "//healthz", "/LOGIN"]
    {
        for right in [&bearer, &basic] {
            assert_eq!(
                check(&guard(), Method::GET, path, &[("authorization", right)]),
                Ok(Some(Role::Operate)),
                "{path}"
            );
        }
        assert_eq!(check(&guard(), Method::GET, path, &[]), Err(Refusal::Unknown), "{path}");
        for wrong in ["Bearer 0123456789abcdeX", "Bearer ", "Bearer", "0123456789abcdef", "Basic ??", "Basic Og==", ""]
        {
            let refused = check(&guard(), Method::GET, path, &[("authorization", wrong)]);
            assert_eq!(refused, Err(Refusal::Token), "{path} {wrong:?}");
        }
    }
    for path in OPEN {
        assert_eq!(check(&guard(), Method::GET, path, &[]), Ok(None));
    }
}

#[test]
fn the_reading_token_looks_and_changes_nothing() {
    let read = [("authorization", "Bearer fedcba9876543210")];
    assert_eq!(check(&guard(), Method::GET, "/api/status", &read), Ok(Some(Role::Read)));
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::CONNECT] {
        assert_eq!(check(&guard(), method.clone(), "/api/sync", &read), Err(Refusal::Role), "{method}");
    }
}

#[test]
fn a_session_is_let_in_and_changes_something_only_with_the_word_of_its_page() {
    let guard = guard();
    let (number, session) = guard.open(Role::Operate, Instant::now()).unwrap();
    let cookie = format!("other=1; lockstep_session={number}; lockstep_session=x");
    let with = |more: &[(&'static str, &str)], method| {
        check(&guard, method, "/api/sync", &[&[("cookie", cookie.as_str())], more].concat())
    };
    assert_eq!(with(&[], Method::GET), Ok(Some(Role::Operate)));
    assert_eq!(with(&[], Method::POST), Err(Refusal::Csrf));
    assert_eq!(with(&[("x-csrf-token", "guess")], Method::POST), Err(Refusal::Csrf));
    assert_eq!(with(&[("x-csrf-token", &session.csrf)], Method::POST), Ok(Some(Role::Operate)));
    // A header that is wrong is not made good by a cookie that is right.
    assert_eq!(with(&[("authorization", "Bearer no")], Method::GET), Err(Refusal::Token));
    for foreign in ["lockstep_session=", "lockstep_session=AAAA", "Lockstep_Session=1", "lockstep_session", ";;;=;"] {
        assert_eq!(check(&guard, Method::GET, "/", &[("cookie", foreign)]), Err(Refusal::Unknown), "{foreign}");
    }
    guard.close(&session.id);
    assert_eq!(with(&[], Method::GET), Err(Refusal::Unknown));
}

#[test]
fn who_guesses_waits_even_with_the_right_token_and_others_do_not() {
    let guard = guard();
    let now = Instant::now();
    let locked = |n: &u32| matches!(guard.token(Some(&format!("guess {n}")), PEER, now), Err(Refusal::Locked(_)));
    let refused = (0..100).find(locked);
    assert!(refused.is_some_and(|n| n < 10), "{refused:?}");
    assert!(matches!(guard.token(Some(OPERATE), PEER, now), Err(Refusal::Locked(_))));
    assert_eq!(guard.token(Some(OPERATE), "192.0.2.9".parse().unwrap(), now), Ok(Role::Operate));
    assert_eq!(guard.token(Some(OPERATE), PEER, now + Duration::from_secs(400)), Ok(Role::Operate));
}
