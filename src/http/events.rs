//! The live view: server-sent events, each a whole status. A client that is slow or gone costs one buffer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::time::{Instant, sleep_until, timeout};

use super::Shared;
use super::guard::Caller;

/// Between two events: twice a second looks live, and spares the rest.
const PACE: Duration = Duration::from_millis(500);
/// Without news the status is sent all the same, so that its age shows and a stuck replicator turns grey.
const HEARTBEAT: Duration = Duration::from_secs(5);

pub(super) async fn stream(State(shared): State<Arc<Shared>>, caller: Option<Extension<Caller>>) -> Response {
    let caller = caller.map(|Extension(caller)| caller);
    let Ok(permit) = shared.live.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many live views are open\n").into_response();
    };
    let seen = (shared.window.status.clone(), shared.window.jobs.clone());
    let events =
        stream::unfold((shared, caller, seen, None::<Instant>), |(shared, caller, mut seen, last)| async move {
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
            // Who has logged out elsewhere sees nothing more.
            if caller.as_ref().is_some_and(|caller| !shared.guard.still(caller)) {
                return None;
            }
            let event = Event::default().json_data(shared.view()).ok()?;
            Some((Ok::<_, Infallible>(event), (shared, caller, seen, Some(Instant::now()))))
        });
    let events = stream::StreamExt::inspect(events, move |_| _ = &permit);
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
