//! What attempts begin with, and how it is taken over from the bundle between two of them: by one pointer.
//!
//! Never touches an attempt that runs: it holds what it began with.

use std::sync::{Arc, PoisonError};

use tokio::sync::Semaphore;

use super::Worker;
use crate::follow::{Live, Look};

impl Worker {
    /// What an attempt that begins now begins with.
    pub(super) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn adopt(&self, live: Arc<Live>) {
        let slots = live.slots;
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
        self.wanted_slots.send_replace(slots);
    }

    /// The worker's first word about the bundle, before it takes any work; what it has may be older than what it is to have by now.
    pub(super) async fn first_word(self: &Arc<Self>) {
        if let Some(following) = &self.setup.following {
            following.lock().await.first_word().await;
            self.look().await;
        }
    }

    async fn look(self: &Arc<Self>) {
        let Some(following) = &self.setup.following else {
            return;
        };
        let mut following = following.lock().await;
        match following.look().await {
            Look::Same => {}
            Look::Adopt(live) => {
                self.adopt(live);
                following.adopted().await;
                // Names that nobody knew before.
                super::keep::unpark(self).await;
            }
            Look::Restart => {
                self.restart.cancel();
                self.stop.cancel();
            }
        }
    }
}

/// Looks at the bundle until the worker ends.
pub(super) async fn follow(worker: Arc<Worker>) {
    let Some(following) = &worker.setup.following else {
        return;
    };
    let every = following.lock().await.every();
    loop {
        tokio::select! {
            () = worker.quiet.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        worker.look().await;
    }
}

/// Makes as many slots as are wanted: more at once, fewer as attempts end.
pub(super) async fn slots(worker: Arc<Worker>) {
    let mut wanted = worker.wanted_slots.subscribe();
    let mut there = worker.live().slots;
    loop {
        let goal = *wanted.borrow_and_update();
        if goal > there {
            worker.slots.add_permits((goal - there) as usize);
            there = goal;
        }
        tokio::select! {
            () = worker.quiet.cancelled() => return,
            Ok(()) = wanted.changed() => {}
            there_is_one_less = take_one(&worker.slots), if goal < there => {
                there -= u32::from(there_is_one_less);
            }
        }
    }
}

async fn take_one(slots: &Semaphore) -> bool {
    match slots.acquire().await {
        Ok(place) => {
            place.forget();
            true
        }
        Err(_) => false,
    }
}
