//! Who workflows call: a small HTTP server that writes down what it gets, and can be made to misbehave.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

#[derive(Clone, Debug)]
pub struct Hit {
    pub path: String,
    pub id: String,
    pub timestamp: String,
    pub signature: String,
    pub authorization: String,
    pub body: String,
}

impl Hit {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    Answers(u16),
    /// Takes the request and never answers.
    Silent,
}

#[derive(Clone)]
struct Book {
    hits: Arc<Mutex<Vec<Hit>>>,
    mood: Arc<Mutex<Mood>>,
}

pub struct Receiver {
    address: SocketAddr,
    book: Book,
    server: Option<JoinHandle<()>>,
}

impl Receiver {
    pub async fn start() -> Self {
        let book = Book { hits: Arc::default(), mood: Arc::new(Mutex::new(Mood::Answers(200))) };
        // Below the range from which the system takes ports by itself, so that nobody has it when we are down.
        let port = lockstep::lab::Port::free().unwrap().number();
        let mut receiver = Self { address: SocketAddr::from(([127, 0, 0, 1], port)), book, server: None };
        receiver.up().await;
        receiver
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn mood(&self, mood: Mood) {
        *self.book.mood.lock().unwrap() = mood;
    }

    /// Nobody listens any more.
    pub async fn down(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
    }

    pub async fn up(&mut self) {
        if self.server.is_some() {
            return;
        }
        let router = Router::new().fallback(take).with_state(self.book.clone());
        let deadline = std::time::Instant::now() + super::rig::PATIENCE;
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) => assert!(std::time::Instant::now() < deadline, "{}: {error}", self.address),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.server = Some(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }));
    }

    pub fn hits(&self) -> Vec<Hit> {
        self.book.hits.lock().unwrap().clone()
    }
}

async fn take(State(book): State<Book>, request: Request) -> impl IntoResponse {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let header = |name: &str| head.headers.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    let mood = *book.mood.lock().unwrap();
    book.hits.lock().unwrap().push(Hit {
        path: head.uri.to_string(),
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        authorization: header("authorization"),
        body: String::from_utf8(body.to_vec()).unwrap(),
    });
    match mood {
        // Whoever follows it is seen here again.
        Mood::Answers(status @ 300..400) => {
            (StatusCode::from_u16(status).unwrap(), [("location", "/elsewhere")]).into_response()
        }
        Mood::Answers(status) => {
            (StatusCode::from_u16(status).unwrap(), "{\"accepted\": true, \"api_key\": \"must-not-show\"}")
                .into_response()
        }
        Mood::Silent => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            StatusCode::OK.into_response()
        }
    }
}
