//! The live view: server-sent events, a whole status and then what is new. A client that is slow or gone costs one
//! buffer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::Shared;
use super::guard::Caller;
use super::live::Seen;

/// Between two events: twice a second looks live, and spares the rest.
const PACE: Duration = Duration::from_millis(500);
/// Without news a message is sent all the same: a view that hears nothing for two seconds knows that it has lost us, and
/// one that hears of an old status sees a stuck replicator turn grey.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// One open view.
struct Live {
    shared: Arc<Shared>,
    caller: Option<Caller>,
    seen: Seen,
    last: Option<Instant>,
}

pub(super) async fn stream(State(shared): State<Arc<Shared>>, caller: Option<Extension<Caller>>) -> Response {
    let Ok(permit) = shared.live.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many live views are open\n").into_response();
    };
    let watcher = Watcher::new(&shared.window.watchers);
    let caller = caller.map(|Extension(caller)| caller);
    let news = (shared.window.status.clone(), shared.window.jobs.clone());
    let live = Live { shared, caller, seen: Seen::default(), last: None };
    let events = stream::unfold((live, news), |(mut live, mut news)| async move {
        if let Some(last) = live.last {
            let mut shutdown = live.shared.shutdown.clone();
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return None,
                () = wait(&mut news, last) => {}
            }
        }
        news.0.borrow_and_update();
        news.1.borrow_and_update();
        // Who has logged out elsewhere sees nothing more.
        if live.caller.as_ref().is_some_and(|caller| !live.shared.guard.still(caller)) {
            return None;
        }
        let synced = live.shared.window.synced.borrow().clone();
        let message = live.seen.message(live.shared.view(), &synced, live.shared.window.in_step_within);
        let event = Event::default().json_data(message).ok()?;
        live.last = Some(Instant::now());
        Some((Ok::<_, Infallible>(event), (live, news)))
    });
    let events = stream::StreamExt::inspect(events, move |_| _ = (&permit, &watcher));
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

type News = (watch::Receiver<crate::status::Status>, watch::Receiver<crate::status::Jobs>);

/// Until there is something to say, or it is time to say that there is nothing.
async fn wait((status, jobs): &mut News, last: Instant) {
    // A publisher that is gone will not send news; the heartbeat shows the age of what it left.
    let news = async {
        tokio::select! {
            Ok(()) = status.changed() => {}
            Ok(()) = jobs.changed() => {}
            else => std::future::pending().await,
        }
    };
    timeout(HEARTBEAT, news).await.ok();
    sleep_until(last + PACE).await;
}

/// Counts as a view that is open, for as long as it lives.
struct Watcher(watch::Sender<usize>);

impl Watcher {
    fn new(watchers: &watch::Sender<usize>) -> Self {
        watchers.send_modify(|many| *many += 1);
        Self(watchers.clone())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.send_modify(|many| *many = many.saturating_sub(1));
    }
}
