//! TLS and passwords, for ordinary SQL and for replication alike.

use std::path::{Path, PathBuf};
use std::process::Command;

use lockstep::pg::replication::Connection;
use lockstep::pg::{self, Url};

use super::cluster::{as_postgres, run};
use super::*;

/// A certificate authority and a certificate for `localhost` signed by it.
fn certificates(dir: &Path) -> PathBuf {
    let openssl = |arguments: &[&str]| run(as_postgres("openssl").current_dir(dir).args(arguments));
    for ca in ["ca", "stranger"] {
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={ca}"),
            "-keyout",
            &format!("{ca}.key"),
            "-out",
            &format!("{ca}.pem"),
        ]);
    }
    openssl(&[
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ]);
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-copy_extensions",
        "copyall",
        "-out",
        "server.pem",
    ]);
    dir.to_path_buf()
}

/// A cluster whose only TCP door is TLS with a password.
async fn guarded() -> Cluster {
    let cluster = Cluster::start(&[]).await;
    let dir = certificates(cluster.dir.path());
    let hba = "local all all trust\nlocal replication all trust\nhostssl all scram all scram-sha-256\n\
               hostssl all plain all password\nhostssl all old all md5\nhostnossl all all all reject\n";
    std::fs::write(dir.join("data/pg_hba.conf"), hba).unwrap();
    let sql = cluster.sql().await;
    for (file, setting) in [("server.pem", "ssl_cert_file"), ("server.key", "ssl_key_file")] {
        sql.batch_execute(&format!("alter system set {setting} = '{}'", dir.join(file).display())).await.unwrap();
    }
    for statement in [
        "alter system set ssl = on",
        "create role scram login replication password 'p''a ss%'",
        "create role plain login replication password 'secret'",
        "set password_encryption = 'md5'",
        "create role old login replication password 'secret'",
        "select pg_reload_conf()",
    ] {
        sql.batch_execute(statement).await.unwrap();
    }
    speaks_tls(&cluster).await;
    cluster
}

/// A reload reaches the sessions before the server itself has read its certificate; so ask at the door.
async fn speaks_tls(cluster: &Cluster) {
    let url = format!("postgresql://postgres@127.0.0.1:{}/postgres?sslmode=require", cluster.port);
    let url = Url::parse(&url).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while matches!(Connection::open(&url, "test").await, Err(fault) if fault.to_string().contains("speaks no TLS")) {
        assert!(Instant::now() < deadline, "the server does not take its certificate");
    }
}

/// Both ways in, which must agree.
async fn both(url: &Url) -> Result<(), Fault> {
    let sql = pg::connect(url, "test").await.map(|_| ());
    let replication = Connection::open(url, "test").await.map(|_| ());
    assert_eq!(sql, replication);
    sql
}

#[tokio::test]
async fn a_certificate_and_a_password_are_checked_as_the_url_asks() {
    let cluster = guarded().await;
    let (port, dir) = (cluster.port, cluster.dir.path().display());
    let url = |login: &str, host: &str, query: &str| {
        Url::parse(&format!("postgresql://{login}@{host}:{port}/postgres?{query}")).unwrap()
    };
    let good = "scram:p%27a%20ss%25";
    let full = url(good, "localhost", &format!("sslmode=verify-full&sslrootcert={dir}/ca.pem&channel_binding=require"));
    assert_eq!(both(&full).await, Ok(()));
    for (query, host) in [("sslmode=require", "127.0.0.1"), ("", "localhost"), ("channel_binding=disable", "localhost")]
    {
        assert_eq!(both(&url(good, host, query)).await, Ok(()), "{query}");
    }
    for login in ["plain:secret", "old:secret"] {
        assert_eq!(both(&url(login, "localhost", "sslmode=require")).await, Ok(()), "{login}");
    }
    let by_address = format!("sslmode=verify-ca&sslrootcert={dir}/ca.pem");
    assert_eq!(both(&url(good, "127.0.0.1", &by_address)).await, Ok(()));

    for (login, host, query, words) in [
        (
            good,
            "localhost",
            format!("sslmode=verify-full&sslrootcert={dir}/stranger.pem"),
            ["not signed by", "stranger.pem"],
        ),
        (good, "localhost", "sslrootcert=system".into(), ["not signed by", "sslrootcert=FILE"]),
        (good, "127.0.0.1", format!("sslmode=verify-full&sslrootcert={dir}/ca.pem"), ["127.0.0.1", "verify-ca"]),
        (good, "localhost", format!("sslmode=verify-ca&sslrootcert={dir}/none.pem"), ["none.pem", "cannot be used"]),
        (good, "localhost", "sslmode=disable".into(), ["scram", "pg_hba.conf"]),
        ("scram:wrong", "localhost", "sslmode=require".into(), ["password of user scram", "alter role"]),
        ("scram", "localhost", "sslmode=require".into(), ["asks for a password of user scram", "URL"]),
        ("plain:secret", "localhost", "channel_binding=require".into(), ["no channel binding", "scram-sha-256"]),
    ] {
        let fault = both(&url(login, host, &query)).await.unwrap_err();
        let said = fault.to_string();
        assert!(matches!(fault, Fault::Stop { .. }), "{query}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{query}: {said:?} lacks one of {words:?}");
        assert!(!said.contains("secret") && !said.contains("wrong"), "{said}");
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_taken_if_it_is_pinned() {
    let cluster = Cluster::start(&[]).await;
    let dir = cluster.dir.path();
    // As every guide does it: an authority's certificate, used as the server's.
    run(as_postgres("openssl").current_dir(dir).args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        "self.key",
        "-out",
        "self.pem",
    ]));
    run(Command::new("chmod").arg("600").arg(dir.join("self.key")));
    let sql = cluster.sql().await;
    let set = |name: &str, value: String| format!("alter system set {name} = '{value}'");
    sql.batch_execute(&set("ssl_cert_file", dir.join("self.pem").display().to_string())).await.unwrap();
    sql.batch_execute(&set("ssl_key_file", dir.join("self.key").display().to_string())).await.unwrap();
    sql.batch_execute("alter system set ssl = on").await.unwrap();
    sql.batch_execute("select pg_reload_conf()").await.unwrap();
    speaks_tls(&cluster).await;
    let url = format!(
        "postgresql://postgres@localhost:{}/postgres?sslmode=verify-full&sslrootcert={}/self.pem",
        cluster.port,
        dir.display()
    );
    let mut connection = Connection::open(&Url::parse(&url).unwrap(), "test").await.unwrap();
    assert!(connection.encrypted());
    assert!(!connection.identify().await.unwrap().identifier.is_empty());
    assert!(pg::connect(&Url::parse(&url).unwrap(), "test").await.is_ok());
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let cluster = Cluster::start(&[]).await;
    let url =
        |mode: &str| Url::parse(&format!("postgresql://postgres@127.0.0.1:{}/postgres?{mode}", cluster.port)).unwrap();
    assert_eq!(both(&url("sslmode=prefer")).await, Ok(()));
    let said = both(&url("sslmode=require")).await.unwrap_err().to_string();
    assert!(said.contains("speaks no TLS") && said.contains("sslmode=prefer"), "{said}");
}
