//! As a service manager sees it: it says when it is ready, that it lives, and that it stops; it reads its settings again
//! when told to, and refuses what is wrong with them.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use super::super::rig::{Rig, until};
use super::signal;

/// What was said since the last look.
fn said(manager: &UnixDatagram) -> Vec<String> {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length) = manager.recv(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        heard.extend(text.lines().map(str::to_owned));
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_that_it_is_ready_lives_and_stops() {
    let mut rig = Rig::new("create table item (id int primary key)").await;
    let socket = rig.dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_nonblocking(true).unwrap();
    rig.env.push(("NOTIFY_SOCKET".into(), socket.to_str().unwrap().into()));
    rig.env.push(("WATCHDOG_USEC".into(), "3000000".into()));
    rig.start();
    let mut heard = Vec::new();
    let hears = async |what: &str, least: usize, heard: &mut Vec<String>| {
        until(what, async || {
            heard.extend(said(&manager));
            heard.iter().filter(|line| line.starts_with(what)).count() >= least
        })
        .await;
    };
    hears("READY=1", 1, &mut heard).await;
    hears("STATUS=in step", 1, &mut heard).await;
    hears("WATCHDOG=1", 3, &mut heard).await;
    rig.pair.supabase.gateway.faults().down().await;
    rig.pair.source.execute("insert into item values (1)").await.unwrap();
    hears("STATUS=not in step", 1, &mut heard).await;
    let before = heard.iter().filter(|line| *line == "WATCHDOG=1").count();
    hears("WATCHDOG=1", before + 2, &mut heard).await; // a target that is away is no reason to be started again
    rig.pair.supabase.gateway.faults().up().await;
    signal(&rig, Signal::HUP);
    hears("RELOADING=1", 1, &mut heard).await;
    hears("READY=1", 2, &mut heard).await;
    // A process that does not run does not say that it lives.
    signal(&rig, Signal::STOP);
    said(&manager);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(said(&manager), [""; 0]);
    signal(&rig, Signal::CONT);
    assert_eq!(rig.terminate().await, Some(0));
    assert!(said(&manager).contains(&"STOPPING=1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_read_again_and_what_is_wrong_with_them_is_refused_as_a_whole() {
    let mut rig = Rig::new("create table agents (id int primary key); create table tasks (id int primary key)").await;
    let file = rig.dir.path().join("lockstep.toml");
    std::fs::write(&file, "[tables]\ninclude = [\"public.agents\"]\n").unwrap();
    rig.start();
    rig.settled().await;
    let tables = async |rig: &Rig| rig.status().await.map_or(0, |status| status["tables"].as_array().unwrap().len());
    assert_eq!(tables(&rig).await, 1);
    let pid = rig.pid();

    std::fs::write(&file, "[tables]\nincldue = []\n").unwrap();
    signal(&rig, Signal::HUP);
    until("they are refused", async || rig.metric("lockstep_reloads_total{result=\"refused\"}").await == 1.0).await;
    assert!(rig.tail().contains("did you mean `include`"), "{}", rig.tail());
    assert_eq!(tables(&rig).await, 1, "the ones before are in force");
    let (code, out, err) = rig.verb(&["run", "--check"]).await;
    assert!(code == Some(2) && err.contains("incldue"), "{out}{err}");

    std::fs::write(&file, "[log]\nlevel = \"debug\"\n").unwrap();
    let (code, out, err) = rig.verb(&["run", "--check"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    signal(&rig, Signal::HUP);
    until("both tables take part", async || tables(&rig).await == 2).await;
    assert_eq!(
        (rig.pid(), rig.metric("lockstep_reloads_total{result=\"taken\"}").await),
        (pid, 1.0),
        "the same process"
    );
    rig.pair.source.execute("insert into tasks values (1)").await.unwrap();
    rig.settled().await;

    std::fs::write(&file, "").unwrap();
    signal(&rig, Signal::USR1);
    until("the log tells more", async || rig.tail().contains("level=\"debug\"")).await;
    signal(&rig, Signal::USR1);
    until("and as much as before", async || rig.tail().contains("as the settings say")).await;
}
