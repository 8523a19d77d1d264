//! The live view: server-sent events, each a whole status. A client that is slow or gone costs one buffer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::time::{Instant, sleep_until, timeout};

use super::Shared;

/// Between two events: twice a second looks live, and spares the rest.
const PACE: Duration = Duration::from_millis(500);
/// Without news the status is sent all the same, so that its age shows and a stuck replicator turns grey.
const HEARTBEAT: Duration = Duration::from_secs(5);

pub(super) async fn stream(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(permit) = shared.live.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many live views are open\n").into_response();
    };
    let seen = (shared.window.status.clone(), shared.window.jobs.clone());
    let events = stream::unfold((shared, seen, None::<Instant>), |(shared, mut seen, last)| async move {
        let (status, jobs) = &mut seen;
        if let Some(last) = last {
            let news = async {
                // A publisher that is gone will not send news; the heartbeat shows the age of what it left.
                timeout(HEARTBEAT, async {
                    tokio::select! {
                        Ok(()) = status.changed() => {}
                        Ok(()) = jobs.changed() => {}
                        else => std::future::pending().await,
                    }
                })
                .await
                .ok();
                sleep_until(last + PACE).await;
            };
            let mut shutdown = shared.shutdown.clone();
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return None,
                () = news => {}
            }
        }
        status.borrow_and_update();
        jobs.borrow_and_update();
        let event = Event::default().json_data(shared.view()).ok()?;
        Some((Ok::<_, Infallible>(event), (shared, seen, Some(Instant::now()))))
    });
    let events = stream::StreamExt::inspect(events, move |_| _ = &permit);
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
