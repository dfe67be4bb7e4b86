//! Measurements, printed as a table: `scripts/bench [SECTION…]`. Never timed tests: ratios and medians of
//! several runs on one machine, beside what is measured against in the same run.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "a program of measurements: it prints, and what goes wrong ends it"
)]

mod bare;
mod bundle;
mod celery;
mod cts;
mod deaths;
mod fetch;
mod finished;
mod gate;
mod idle;
mod lanes;
mod noop;
mod scene;
mod servers;

use std::process::ExitCode;

use servers::Servers;

/// What can be asked for, in the order in which it runs.
const SECTIONS: [&str; 10] = [
    "noop", "celery", "fetch", "cts", "deaths", "idle", "finished", "lanes", "gate", "bundle",
];

/// One line of the table.
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: String,
}

pub(crate) fn figure(what: impl Into<String>, value: impl Into<String>) -> Figure {
    let (what, value) = (what.into(), value.into());
    eprintln!("{what}: {value}");
    Figure { what, value }
}

/// The median of several runs; leaves them sorted.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The smallest value that `part` of the values do not exceed; leaves them sorted.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * part).ceil() as usize;
    values[rank.max(1) - 1]
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("run") {
        return longshore::cli::main_with(lanes::handlers);
    }
    measure();
    ExitCode::SUCCESS
}

#[tokio::main]
async fn measure() {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let wanted = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect::<Vec<_>>();
    let wants = |section: &str| wanted.is_empty() || wanted.iter().any(|word| word == section);
    for word in &wanted {
        assert!(
            SECTIONS.contains(&word.as_str()),
            "no section {word}: there are {SECTIONS:?}"
        );
    }
    let servers = Servers::from_env();
    let mut figures = Vec::new();
    for section in SECTIONS.into_iter().filter(|section| wants(section)) {
        eprintln!("{section} …");
        figures.extend(match section {
            "noop" => noop::run(&servers).await,
            "celery" => celery::run(&servers).await,
            "fetch" => fetch::run(&servers).await,
            "cts" => cts::run(&servers).await,
            "deaths" => deaths::run(&servers).await,
            "idle" => idle::run(&servers).await,
            "finished" => finished::run(&servers).await,
            "lanes" => lanes::run(&servers).await,
            "gate" => gate::run(&servers).await,
            _ => bundle::run(&servers).await,
        });
    }
    println!("\n{}", servers.head().await);
    for Figure { what, value } in figures {
        println!("{what:<58} {value}");
    }
}
