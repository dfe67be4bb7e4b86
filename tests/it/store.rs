//! Conformance of the store: every verb, on SQLite and on PostgreSQL, through the public interface alone.

mod bundles;
mod by_hand;
mod claims;
mod enqueue;
mod lanes;
mod leaders;
mod messages;
mod once;
mod outbox;
mod readers;
mod rescue;
mod schema;
mod sections;
mod settle;
mod testjobs;
mod workers;
