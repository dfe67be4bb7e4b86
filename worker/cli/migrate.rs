//! `longshore migrate`: the store's schema, up to this program's version.

use std::process::ExitCode;
use std::sync::Arc;

use super::{Answer, open_store, print};
use crate::config::Config;
use crate::store::VERSION;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Also lets this PostgreSQL role read (and only read) our tables, for store.reader_url
    #[arg(long)]
    grant_reader: Option<String>,
}

pub(super) async fn run(config: Arc<Config>, Arguments { grant_reader }: Arguments) -> Answer {
    let store = open_store(&config)?;
    let steps = store.migrate().await?;
    if let Some(role) = grant_reader {
        store.grant_reader(&role).await?;
        print(&format!("role {role} may read"));
    }
    print(&match steps {
        0 => format!("the schema is version {VERSION} already"),
        _ => format!("the schema is version {VERSION} now"),
    });
    store.close().await;
    Ok(ExitCode::SUCCESS)
}
