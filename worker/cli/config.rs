//! `longshore config`: what the configuration says, before anything relies on it.

use std::process::ExitCode;
use std::sync::Arc;

use super::{Answer, print};
use crate::config::Config;

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Says whether the configuration is valid, and every mistake if not
    Check,
    /// Prints it whole, with defaults, without secrets
    Show,
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the same shape as every verb"
)]
pub(super) fn run(config: Arc<Config>, verb: Verb) -> Answer {
    match verb {
        Verb::Check => print("the configuration is valid"),
        Verb::Show => print(config.redacted_toml().trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}
