//! The one integration test binary: conformance of every store and every broker, and the real program.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test helper may panic, print, and wait itself for what it spawns; the lints only spare #[test] functions"
)]
mod apt;
mod broker;
mod bundle;
mod chart;
mod cluster;
mod compile_fail;
mod connections;
mod crash;
mod crash_commands;
mod demo;
mod drain;
mod drain_command;
mod exec;
mod gate;
mod harness;
mod hostile;
mod inside;
mod lane_model;
mod lane_rivals;
mod lanes;
mod layers;
mod model;
mod overrun;
mod pod;
mod program;
mod real_input;
mod scene;
mod site;
mod store;
mod windows;
mod zombie;
