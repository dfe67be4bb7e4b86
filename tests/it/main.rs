//! The one integration test binary: conformance of every store and every broker, and the real program.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper may panic; the lints only spare #[test] functions"
)]
mod crash;
mod demo;
mod drain;
mod harness;
mod inside;
mod scene;
mod zombie;
