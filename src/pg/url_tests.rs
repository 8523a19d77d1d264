use super::*;

fn refusal(text: &str) -> String {
    Url::parse(text).unwrap_err()
}

#[test]
fn every_part_of_a_url_is_read() {
    let url = Url::parse(
        "postgres://m%40x:p%2Fw%3A%25@db.example.org:6543/my%20db?sslmode=verify-full&sslrootcert=/ca.pem\
         &application_name=me&connect_timeout=3&channel_binding=require",
    )
    .unwrap();
    assert_eq!(url.host, Host::Tcp("db.example.org".into()));
    assert_eq!((url.port, url.user.as_str(), url.database.as_str()), (6543, "m@x", "my db"));
    assert_eq!(url.password.as_ref().unwrap().expose_secret(), "p/w:%");
    assert_eq!((url.ssl_mode, url.ssl_root.clone()), (SslMode::VerifyFull, SslRoot::File("/ca.pem".into())));
    assert_eq!((url.application.as_deref(), url.connect_timeout), (Some("me"), Duration::from_secs(3)));
    assert_eq!(url.channel_binding, ChannelBinding::Require);
}

#[test]
fn a_socket_is_named_in_the_host_or_in_the_query() {
    for text in ["postgresql://me@%2Frun%2Fpg:5433/db", "postgresql://me@/db?host=/run/pg&port=5433"] {
        let url = Url::parse(text).unwrap();
        assert_eq!((url.host.clone(), url.port), (Host::Unix("/run/pg".into()), 5433), "{text}");
        assert_eq!(url.encryption(), Encryption::Never);
    }
}

#[test]
fn what_is_left_out_gets_libpqs_default() {
    let url = Url::parse("postgresql://me@[::1]").unwrap();
    assert_eq!((url.host.clone(), url.port, url.database.as_str()), (Host::Tcp("::1".into()), 5432, "me"));
    assert_eq!((url.ssl_mode, url.address().as_str()), (SslMode::Prefer, "[::1]:5432"));
    let mode = |query: &str| Url::parse(&format!("postgresql://me@h/?{query}")).unwrap().ssl_mode;
    assert_eq!(mode("sslrootcert=system"), SslMode::VerifyFull);
    assert_eq!(mode("sslmode=require&sslrootcert=/ca.pem"), SslMode::VerifyCa);
    assert_eq!(mode("sslmode=require"), SslMode::Require);
}

#[test]
fn what_is_not_understood_is_refused_with_its_place() {
    assert!(refusal("postgresql://me@h/d?port=1&sslmod=require").contains("parameter 2 of the URL"));
    assert!(refusal("postgresql://me@h/d?sslmod=require").contains("did you mean `sslmode`?"));
    assert!(refusal("postgresql://me@h/d?sslmode=full").contains("sslmode is none of disable, "));
    assert!(refusal("postgresql://me@h:0/d").contains("not a port"));
    assert!(refusal("postgresql://h/d").contains("no user"));
    assert!(refusal("postgresql://me@a,b/d").contains("several hosts"));
    assert!(refusal("mysql://me@h/d").contains("postgresql://"));
    assert!(refusal("postgresql://me@h/d?sslrootcert=system&sslmode=require").contains("verify-full"));
    let message = refusal("postgresql://me:hunter2%@h/d");
    assert!(message.contains("%25") && !message.contains("hunter2"), "{message}");
}

#[test]
fn the_password_is_never_shown() {
    let url = Url::parse("postgresql://me:hunter2@h/d?password=hunter3").unwrap();
    assert_eq!(url.to_string(), "postgresql://me@h:5432/d");
    assert!(!format!("{url:?} {url:#?}").contains("hunter"));
}

#[test]
fn a_message_never_repeats_what_may_be_the_rest_of_a_password() {
    for text in [
        "postgres://u:hush",
        "postgres://u:hush/d",
        "postgres://u:a?hush@h/d",
        "postgres://u:a/hush@h/d",
        "postgres://u:a@b/hush@h/d",
        "postgres://u:a@b?hush@h/d",
        "postgres://u:a@b?hush=1@h/d",
        "postgres://u:a@b?sslmode=hush@h/d",
        "postgres://u:a@b?connect_timeout=hush@h/d",
        "postgres://u:a@[hush/d",
        "postgres://u:a@[::1]hush/d",
        "postgres://u:a@h,hush/d",
        "postgres://u:a@h:hush/d",
        "postgres://u:%hush@h/d",
    ] {
        let message = refusal(text);
        assert!(!message.contains("hush"), "{text}: {message}");
    }
}
