//! What other gates have been tested for: Zuul's scenarios, each under the name it has there, on both stores.
//!
//! The words of this project for theirs: a change is an entry, a build or job is a test, merging is publishing, a reporter is the
//! `report` task, the check and independent pipelines are gates of other names, an executor is a worker, the scheduler is whoever
//! steps a gate (any worker, and the maintenance leader), its ZooKeeper is the store, a semaphore is a lane.
//!
//! The tests play the workers; those of 25 to 27 are there a second time with real ones ([`workers`]).
//!
//! What has no meaning here: a *paused* job that stays up for its children (`job_pause_retry`): tasks of a test do not wait for others
//! while they run. What is tested in its place: tests that got the results of an entry ahead run again when that one does.

mod dependencies;
mod failures;
mod order;
mod outages;
mod thread;
mod windows;
mod workers;
