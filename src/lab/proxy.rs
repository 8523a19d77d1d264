//! A TCP proxy before Postgres, for the ways in which a network fails.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::access::tcp_url;
use super::place::Port;
use super::{Cluster, Doing, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Fair,
    /// New connections are closed as soon as they are made.
    Refusing,
    /// Connections stay, nothing moves.
    Stalled,
}

#[derive(Clone, Copy, Debug)]
struct State {
    weather: Weather,
    /// Connections of an earlier age are cut.
    age: u64,
}

/// A running proxy. Dropped, it cuts everything.
pub struct TcpProxy {
    port: Port,
    state: Arc<watch::Sender<State>>,
    bytes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl TcpProxy {
    /// Before the server on 127.0.0.1 at port `upstream`.
    pub async fn start(upstream: u16) -> Result<Self> {
        let port = Port::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).await;
        let listener = listener.doing(|| "the proxy cannot listen".into())?;
        let state = Arc::new(watch::Sender::new(State { weather: Weather::Fair, age: 0 }));
        let bytes = Arc::new(AtomicU64::new(0));
        let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, upstream));
        let task = tokio::spawn(serve(listener, upstream, state.clone(), bytes.clone()));
        Ok(Self { port, state, bytes, task })
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// As [`Cluster::url`], through here.
    pub fn url(&self, cluster: &Cluster, database: &str) -> String {
        tcp_url(self.port(), cluster.superuser(), cluster.password(), database)
    }

    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        tcp_url(self.port(), user, password, database)
    }

    /// Cuts every connection; new ones are welcome.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.age += 1);
    }

    /// Cuts every connection, and closes new ones at once, until [`TcpProxy::resume`].
    pub fn refuse(&self) {
        self.state.send_modify(|state| *state = State { weather: Weather::Refusing, age: state.age + 1 });
    }

    /// Keeps connections and moves nothing, until [`TcpProxy::resume`].
    pub fn stall(&self) {
        self.state.send_modify(|state| state.weather = Weather::Stalled);
    }

    pub fn resume(&self) {
        self.state.send_modify(|state| state.weather = Weather::Fair);
    }

    /// Bytes moved so far, both ways.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, upstream: SocketAddr, state: Arc<watch::Sender<State>>, bytes: Arc<AtomicU64>) {
    let mut connections = JoinSet::new(); // dropped with this task, and every connection with it
    loop {
        let client = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => client,
                Err(_) => continue,
            },
        };
        let now = *state.borrow();
        if now.weather != Weather::Refusing {
            connections.spawn(connection(client, upstream, state.subscribe(), now.age, bytes.clone()));
        }
    }
}

async fn connection(
    client: TcpStream,
    upstream: SocketAddr,
    mut state: watch::Receiver<State>,
    age: u64,
    bytes: Arc<AtomicU64>,
) {
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        _ = pump(client_read, server_write, state.clone(), &bytes) => {}
        _ = pump(server_read, client_write, state.clone(), &bytes) => {}
        _ = state.wait_for(|state| state.age != age) => {}
    }
}

/// Moves bytes one way, as long as they may move.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut state: watch::Receiver<State>,
    bytes: &AtomicU64,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        // What was read when the stall began waits with the rest.
        let moving = state.wait_for(|state| state.weather != Weather::Stalled).await.is_ok();
        match read {
            Ok(n) if n > 0 && moving && to.write_all(&buffer[..n]).await.is_ok() => {
                bytes.fetch_add(n as u64, Relaxed);
            }
            _ => return,
        }
    }
}
