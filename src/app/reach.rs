//! Asks the target now and then whether it is there: without changes nothing is sent, and nobody would notice that it is
//! gone. Only while somebody looks at the page, who sees it then within moments; otherwise the next change tells.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::rest;

/// Whoever looks is told within three seconds: half of it is the page's.
const EVERY: Duration = Duration::from_secs(1);
/// An answer that takes longer than this is none, for somebody who looks.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Keeps `pulse` true: why the target does not answer, or nothing. `watchers` counts the views that are open.
pub async fn watch(
    client: &rest::Client,
    mut watchers: watch::Receiver<usize>,
    pulse: &watch::Sender<Option<String>>,
) -> Infallible {
    loop {
        if *watchers.borrow_and_update() == 0 {
            tell(pulse, None);
            if watchers.wait_for(|&many| many > 0).await.is_err() {
                return std::future::pending().await; // nobody can look any more
            }
        }
        let begun = Instant::now();
        let cause = match tokio::time::timeout(PATIENCE, client.reach()).await {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure.to_string()),
            Err(_) => Some(format!("no answer within {PATIENCE:?}")),
        };
        tell(pulse, cause);
        tokio::time::sleep_until(begun + EVERY).await;
    }
}

fn tell(pulse: &watch::Sender<Option<String>>, cause: Option<String>) {
    pulse.send_if_modified(|known| {
        let news = *known != cause;
        *known = cause;
        news
    });
}
