//! The front door of a Supabase project: serves PostgREST under `/rest/v1/`, checks keys as Supabase does, and lets
//! faults happen on demand. It stands in the benchmark's path, so bodies stream and upstream connections are kept.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::place::Port;
use super::{Certificates, Doing, Faults, Keys, LabError, Mishap, Result};

#[derive(Clone, Copy, Debug, Default)]
pub struct GatewayOptions {
    /// Serve HTTPS only, with a certificate of our own authority: [`Gateway::ca_pem`].
    pub tls: bool,
    /// The port to have again if it is free.
    pub port: Option<u16>,
}

/// A running gateway. Dropped, it closes its port and every connection.
pub struct Gateway {
    port: Port,
    keys: Arc<RwLock<Keys>>,
    certificates: Option<Certificates>,
    faults: Faults,
    /// Dropped, it ends the thread.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Starts it before the PostgREST that listens on 127.0.0.1 at port `upstream`.
    pub async fn start(upstream: u16, keys: Keys, options: GatewayOptions) -> Result<Self> {
        let port = Port::again(options.port)?;
        let certificates = options.tls.then(Certificates::new).transpose()?;
        let tls = certificates.as_ref().map(Certificates::server).transpose()?.map(TlsAcceptor::from);
        let authority = Authority::try_from(format!("127.0.0.1:{upstream}")).doing(|| "bad upstream".into())?;
        let faults = Faults::new();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
        let seen = faults.clone();
        let keys = Arc::new(RwLock::new(keys));
        let held = keys.clone();
        let serving = async move {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            let client = Client::builder(TokioExecutor::new()).build(connector);
            serve(address, tls, Arc::new(Desk { keys: held, authority, client, faults: seen })).await;
        };
        // A thread of its own: a request passes through several tasks, and each hop from one worker to another waits
        // until that one wakes. A real gateway does not add that, nor stands still while a test is busy.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.doing(|| "no runtime for the gateway".into())?;
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serving => {}
                    _ = stopped => {}
                }
            });
        });
        faults.up().await;
        Ok(Self { port, keys, certificates, faults, stop: Some(stop), thread: Some(thread) })
    }

    /// From now on this secret key is good, and the one before is not.
    pub fn rotate(&self, secret: String) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).secret = secret;
    }

    /// What a client calls the project's URL.
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port())
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn ca_pem(&self) -> Option<&str> {
        self.certificates.as_ref().map(|certificates| certificates.ca_pem.as_str())
    }

    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It ends within a moment: what it does never blocks.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Body = UnsyncBoxBody<Bytes, LabError>;

/// What every connection needs.
struct Desk {
    keys: Arc<RwLock<Keys>>,
    authority: Authority,
    client: Client<HttpConnector, Body>,
    faults: Faults,
}

/// Listens while it is wanted open. Leaving the inner loop drops the listener and every connection with it.
async fn serve(address: SocketAddr, tls: Option<TlsAcceptor>, desk: Arc<Desk>) {
    let mut wanted = desk.faults.wanted_open();
    while wanted.wait_for(|&open| open).await.is_ok() {
        let Ok(listener) = listen(address) else {
            tokio::time::sleep(Duration::from_millis(10)).await; // the old sockets are on their way out
            continue;
        };
        desk.faults.is_listening(true);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                _ = wanted.wait_for(|&open| !open) => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(connection(stream, tls.clone(), desk.clone()));
                    }
                }
            }
        }
        drop(listener);
        connections.shutdown().await;
        desk.faults.is_listening(false);
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, desk: Arc<Desk>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let desk = desk.clone();
        async move { desk.answer(request).await }
    });
    let http = hyper::server::conn::http1::Builder::new();
    // An error is a client that went away, or a cut that was ordered: nobody to tell.
    match tls {
        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                drop(http.serve_connection(TokioIo::new(stream), service).await);
            }
        }
    }
}

const PREFIX: &str = "/rest/v1";

impl Desk {
    /// The answer, or an error: then the connection is cut.
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        let path = request.uri().path();
        let Some(path) = path.strip_prefix(PREFIX).filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
            return Ok(own(404, r#"{"message":"no Route matched with those values"}"#));
        };
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        let authorization = match keys.authorize(request.headers(), request.uri().query()) {
            Ok(authorization) => authorization,
            Err(refusal) => return Ok(own(401, refusal.body())),
        };
        let length =
            request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if length.is_some_and(|length| self.faults.is_too_large(length)) {
            return Ok(own(413, r#"{"message":"Request size limit exceeded"}"#));
        }
        let Some(mishap) = self.faults.draw(path) else { return Ok(self.forward(request, authorization).await) };
        match mishap {
            Mishap::RequestLost => Err(cut()),
            Mishap::TooMany { retry_after } => {
                let mut answer = own(429, r#"{"message":"API rate limit exceeded"}"#);
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
                Ok(answer)
            }
            Mishap::Status(status) => Ok(own_status(status)),
            Mishap::Slow(delay) => {
                tokio::time::sleep(delay).await;
                Ok(self.forward(request, authorization).await)
            }
            // PostgREST answers after its commit: the whole answer is proof that it happened.
            Mishap::AnswerLost => {
                self.forward(request, authorization).await.into_body().collect().await?;
                Err(cut())
            }
            Mishap::StatusAfter(status) => {
                self.forward(request, authorization).await.into_body().collect().await?;
                Ok(own_status(status))
            }
            Mishap::CutMidBody => half(self.forward(request, authorization).await).await,
        }
    }

    async fn forward(&self, request: Request<Incoming>, authorization: HeaderValue) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        let rest = head.uri.path_and_query().map_or("/", |whole| &whole.as_str()[PREFIX.len()..]);
        let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
        let uri = PathAndQuery::try_from(rest).map_err(http::Error::from).and_then(|rest| {
            Uri::builder().scheme(Scheme::HTTP).authority(self.authority.clone()).path_and_query(rest).build()
        });
        let Ok(uri) = uri else { return own(400, r#"{"message":"Bad request"}"#) };
        head.uri = uri;
        end_to_end(&mut head.headers);
        head.headers.remove(header::HOST);
        head.headers.insert(header::AUTHORIZATION, authorization);
        let faults = self.faults.clone();
        let body = counted(body, move |bytes| faults.came_in(bytes));
        match self.client.request(Request::from_parts(head, body)).await {
            Ok(answer) => {
                let (mut head, body) = answer.into_parts();
                end_to_end(&mut head.headers);
                let faults = self.faults.clone();
                Response::from_parts(head, counted(body, move |bytes| faults.went_out(bytes)))
            }
            Err(_) => own_status(502),
        }
    }
}

/// Leaves out what concerns one connection only.
fn end_to_end(headers: &mut HeaderMap) {
    const HOP: [HeaderName; 5] =
        [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE, header::PROXY_AUTHORIZATION];
    HOP.iter().for_each(|name| drop(headers.remove(name)));
    headers.remove("keep-alive");
}

fn counted(body: Incoming, count: impl Fn(usize) + Send + Sync + 'static) -> Body {
    body.map_frame(move |frame| {
        if let Some(data) = frame.data_ref() {
            count(data.len());
        }
        frame
    })
    .map_err(|error| LabError(error.to_string()))
    .boxed_unsync()
}

/// The head and the first half of the body, then the end of the connection.
async fn half(answer: Response<Body>) -> Result<Response<Body>> {
    let (mut head, body) = answer.into_parts();
    let whole = body.collect().await?.to_bytes();
    // The client must be able to see that the rest is missing.
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len().max(1)));
    let first = futures_util::stream::iter([Ok(Frame::data(whole.slice(..whole.len() / 2)))]);
    let then_cut = futures_util::stream::once(async {
        // What is written is sent only when the body pauses; an error at once would take it along.
        tokio::time::sleep(Duration::from_millis(10)).await;
        Err(cut())
    });
    Ok(Response::from_parts(head, BodyExt::boxed_unsync(StreamBody::new(first.chain(then_cut)))))
}

fn cut() -> LabError {
    LabError("cut".into())
}

/// An answer of the gateway's own, with the words that Supabase's uses.
fn own_status(status: u16) -> Response<Body> {
    own(
        status,
        match status {
            502 => r#"{"message":"An invalid response was received from the upstream server"}"#,
            503 => r#"{"message":"name resolution failed"}"#,
            504 => r#"{"message":"The upstream server is timing out"}"#,
            _ => r#"{"message":"An unexpected error occurred"}"#,
        },
    )
}

fn own(status: u16, body: &'static str) -> Response<Body> {
    let body = Full::new(Bytes::from_static(body.as_bytes())).map_err(|never| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    answer
}
