//! Measurements, printed as a table: `scripts/bench [SECTION…]`. Never timed tests: ratios and medians of
//! several runs on one machine, beside what is measured against in the same run.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "a program of measurements: it prints, and what goes wrong ends it"
)]

mod bare;
mod noop;
mod servers;

use servers::Servers;

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

/// The median and the spread of several runs.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let wanted = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect::<Vec<_>>();
    let wants = |section: &str| wanted.is_empty() || wanted.iter().any(|word| word == section);
    let servers = Servers::from_env();
    let mut figures = Vec::new();
    if wants("noop") {
        figures.extend(noop::run(&servers).await);
    }
    println!(
        "\n{} · {} cores",
        servers::machine(),
        std::thread::available_parallelism().map_or(0, usize::from)
    );
    for Figure { what, value } in figures {
        println!("{what:<58} {value}");
    }
}
