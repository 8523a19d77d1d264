//! The live view: server-sent events, a whole status and then what is new. A client that is slow or gone costs one
//! buffer.

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
use super::live::Seen;

/// Between two events: twice a second looks live, and spares the rest.
const PACE: Duration = Duration::from_millis(500);
/// Without news a message is sent all the same: a view that hears nothing for two seconds knows that it has lost us, and
/// one that hears of an old status sees a stuck replicator turn grey.
const HEARTBEAT: Duration = Duration::from_secs(1);

pub(super) async fn stream(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(permit) = shared.live.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many live views are open\n").into_response();
    };
    let news = (shared.window.status.clone(), shared.window.jobs.clone());
    let begun = (shared, news, Seen::default(), None::<Instant>);
    let events = stream::unfold(begun, |(shared, mut news, mut seen, last)| async move {
        let (status, jobs) = &mut news;
        if let Some(last) = last {
            let wait = async {
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
                () = wait => {}
            }
        }
        status.borrow_and_update();
        jobs.borrow_and_update();
        let event = Event::default().json_data(seen.message(shared.view())).ok()?;
        Some((Ok::<_, Infallible>(event), (shared, news, seen, Some(Instant::now()))))
    });
    let events = stream::StreamExt::inspect(events, move |_| _ = &permit);
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
