//! A first-in-first-out queue bounded in bytes, between two parts.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The other end is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other end of the queue is gone")]
pub struct Closed;

/// Both ends of a queue that holds at most `bytes` bytes. An item larger than that waits for the queue to be empty
/// and then travels alone, so nothing is too large to pass.
pub fn queue<T>(bytes: usize) -> (Sender<T>, Receiver<T>) {
    let bytes = bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
    // The semaphore is the bound; every item weighs at least one byte.
    let (tx, rx) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(bytes));
    (Sender { tx, room: room.clone(), bytes }, Receiver { rx, room, bytes })
}

pub struct Sender<T> {
    tx: mpsc::UnboundedSender<(T, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    bytes: usize,
}

impl<T> Sender<T> {
    /// Waits for room for `bytes` bytes, then sends. Cancelling the wait loses nothing that was sent before.
    pub async fn send(&self, item: T, bytes: usize) -> Result<(), Closed> {
        let weight = bytes.clamp(1, self.bytes) as u32;
        let permit = self.room.clone().acquire_many_owned(weight).await.map_err(|_| Closed)?;
        self.tx.send((item, permit)).map_err(|_| Closed)
    }
}

pub struct Receiver<T> {
    rx: mpsc::UnboundedReceiver<(T, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    bytes: usize,
}

impl<T> Receiver<T> {
    /// The next item, or `None` when the sender is gone. Its room is free again at once: the receiver bounds what it
    /// holds itself.
    pub async fn recv(&mut self) -> Option<T> {
        self.rx.recv().await.map(|(item, _)| item)
    }

    /// The next item if one is waiting.
    pub fn try_recv(&mut self) -> Option<T> {
        self.rx.try_recv().ok().map(|(item, _)| item)
    }

    /// Bytes that are waiting.
    pub fn queued(&self) -> usize {
        self.bytes - self.room.available_permits()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.room.close(); // a sender that waits for room learns that nobody will make any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_full_queue_holds_its_sender_back_and_an_oversize_item_travels_alone() {
        let (tx, mut rx) = queue(10);
        tx.send('a', 6).await.unwrap();
        assert!(tx.send('b', 6).now_or_never().is_none());
        assert_eq!((rx.recv().await, rx.queued()), (Some('a'), 0));
        tx.send('c', 1_000_000).await.unwrap();
        assert!(tx.send('d', 1).now_or_never().is_none());
        drop(rx);
        assert_eq!(tx.send('e', 1).await, Err(Closed));
    }
}
