//! A thread of its own for the parts that every change passes: capture, pipeline, apply. A change is handed from one to
//! the next, and on a shared pool each hand-over may wake another thread, which costs more than the part's own work. Here
//! nothing else runs either: a page that is rendered or a range that is compared does not hold a change up.

use std::convert::Infallible;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::types::Fault;

/// Dropped, it ends with all that runs on it.
pub struct Lane {
    handle: Handle,
    _stop: oneshot::Sender<Infallible>,
}

impl Lane {
    pub fn start() -> Result<Self, Fault> {
        let fault = |error: std::io::Error| Fault::retry(format!("no thread for the stream: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(fault)?;
        let handle = runtime.handle().clone();
        let (_stop, stopped) = oneshot::channel::<Infallible>();
        let run = move || {
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background(); // a name that is looked up is not waited for
        };
        thread::Builder::new().name("stream".into()).spawn(run).map_err(fault)?;
        Ok(Self { handle, _stop })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}
