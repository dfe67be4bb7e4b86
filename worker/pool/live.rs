//! What attempts begin with, and how it is taken over from the bundle between two of them: by one pointer.
//!
//! Never touches an attempt that runs: it holds what it began with. Never says that something is live while a claim is under way
//! that would begin with what was before it.

use std::sync::{Arc, PoisonError};

use tokio::sync::{RwLockReadGuard, Semaphore};

use super::Worker;
use crate::follow::{Live, Look};
use crate::store::StoreError;

impl Worker {
    /// What an attempt that begins now begins with.
    pub(super) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The right to begin attempts with what is live, which stays that until they have begun. `None`: the worker takes nothing new.
    pub(super) async fn beginning(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let mut outdated = self.outdated.subscribe();
        loop {
            tokio::select! {
                biased;
                () = self.quiet.cancelled() => return None,
                _ = outdated.wait_for(|outdated| !outdated) => {}
            }
            let beginning = self.beginnings.read().await;
            if !*self.outdated.borrow() {
                return Some(beginning);
            }
        }
    }

    /// Enters the store's list again, after it was given up for dead. Meanwhile somebody may have been told that a revision is live
    /// everywhere: nothing begins before the bundle was looked at.
    pub(super) async fn join_again(&self) -> Result<(), StoreError> {
        let following = match &self.setup.following {
            Some(following) => Some(following.lock().await),
            None => None,
        };
        let _alone = self.beginnings.write().await;
        if self.renew().await? {
            // Somebody else was faster.
            return Ok(());
        }
        tracing::warn!(worker = %self.member.id, "the worker was given up for dead while it lived; it joins again");
        self.store.hold(&self.member).await?;
        self.outdated.send_replace(following.is_some());
        self.store
            .join(
                &self.member,
                self.life_told().as_str(),
                self.setup.worker.lease,
            )
            .await
    }

    async fn adopt(&self, live: Arc<Live>) {
        // Once the worker says that it has the new one, nothing is left that would begin with the one before.
        let _alone = self.beginnings.write().await;
        let slots = live.slots;
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
        self.wanted_slots.send_replace(slots);
    }

    /// The worker's first word about the bundle, before it takes any work; what it has may be older than what it is to have by now.
    pub(super) async fn first_word(self: &Arc<Self>) {
        if let Some(following) = &self.setup.following {
            following.lock().await.first_word().await;
            self.outdated.send_replace(true);
            self.look().await;
        }
    }

    async fn look(self: &Arc<Self>) {
        let Some(following) = &self.setup.following else {
            return;
        };
        let mut following = following.lock().await;
        match following.look().await {
            Look::Away => return,
            Look::Same => {}
            Look::Adopt(live) => {
                self.adopt(live).await;
                following.adopted().await;
                // Names that nobody knew before.
                super::keep::unpark(self).await;
            }
            Look::Restart => {
                self.restart.cancel();
                self.stop.cancel();
                return;
            }
        }
        self.outdated.send_replace(false);
    }
}

/// Looks at the bundle until the worker ends.
pub(super) async fn follow(worker: Arc<Worker>) {
    let Some(following) = &worker.setup.following else {
        return;
    };
    let every = following.lock().await.every();
    let mut outdated = worker.outdated.subscribe();
    loop {
        tokio::select! {
            () = worker.quiet.cancelled() => return,
            () = tokio::time::sleep(every) => {}
            _ = outdated.wait_for(|outdated| *outdated) => {}
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
