//! Takes connections, each within limits: whoever opens many, or says nothing, costs little and keeps nobody out.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::guard::Peer;
use super::patient::Patient;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long a request's head may take, from the moment it may come.
    pub head: Duration,
    /// How long its body may take. It is a few packets; whoever needs longer holds a place that others may want.
    pub body: Duration,
    /// How long it may take nothing of an answer.
    pub answer: Duration,
    /// Open at a time. The next one is closed at once: a probe that waits behind silent ones would learn nothing.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // A head is one packet; whoever needs ten seconds for it is no browser and no probe. 32 live views, some
        // scrapers and people leave most of the 256 free.
        let few = Duration::from_secs(10);
        // A network that comes back takes seconds; who reads nothing for half a minute does not read.
        Self { head: few, body: few, answer: Duration::from_secs(30), connections: 256 }
    }
}

/// A head of ours has a few hundred bytes; a token, a cookie of a proxy and its headers fit many times.
const HEAD_BYTES: usize = 32 << 10;

/// Serves until `shutdown` turns true and what is in flight is answered.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut open = JoinSet::new();
    let mut stop = shutdown.clone();
    loop {
        let stream = tokio::select! {
            stream = next(&listener) => stream,
            _ = stop.wait_for(|stop| *stop) => break,
            // Those that have ended are forgotten.
            Some(_) = open.join_next() => continue,
        };
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let connection = connection(stream, router.clone(), limits, shutdown.clone());
        open.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

async fn next(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Out of file descriptors, or the client is gone again: neither mends by asking at once.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, mut shutdown: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true); // it is only slower without
    let peer = stream.peer_addr().map_or(Peer::unknown(), |address| Peer(address.ip()));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream, limits.answer)), service);
    let mut connection = pin!(connection);
    // How a client's connection ends is its own affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = shutdown.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
