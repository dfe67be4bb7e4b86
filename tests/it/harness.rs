//! What every test stands on: a store, a broker, the program, all of this test alone, and all gone at its end.
//!
//! Servers come from the environment that `scripts/services` sets; a test that needs one fails without it.

mod bell;
mod bench;
mod child;
mod folder;
mod private;

use std::time::Duration;

pub(crate) use bell::{Bell, Kind, Peer, next};
pub(crate) use bench::{BackEnd, Bench, LONG, id, member, task};
pub(crate) use child::{Child, run, run_with};
pub(crate) use folder::Folder;
pub(crate) use private::Private;

/// How long a test waits for what should take milliseconds: a busy machine of two cores is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Makes of each `async fn(Bench)` two tests, `name::sqlite` and `name::postgres`.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        $(
            mod $name {
                use $crate::harness::{BackEnd, Bench};

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sqlite() {
                    Bench::run(BackEnd::Sqlite, super::$name).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn postgres() {
                    Bench::run(BackEnd::Postgres, super::$name).await;
                }
            }
        )+
    };
}
pub(crate) use on_both;

/// Makes of each `async fn(Bell)` two tests, `name::embedded` and `name::rabbitmq`.
macro_rules! on_both_brokers {
    ($($name:ident),+ $(,)?) => {
        $(
            mod $name {
                use $crate::harness::{Bell, Kind};

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn embedded() {
                    Bell::run(Kind::Embedded, super::$name).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn rabbitmq() {
                    Bell::run(Kind::Rabbit, super::$name).await;
                }
            }
        )+
    };
}
pub(crate) use on_both_brokers;

/// Polls `look` until it finds something; fails after `limit` with `what` was awaited.
pub(crate) async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = tokio::time::Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "waited {limit:?} in vain until {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Polls `holds` until it does; fails after `limit` with `what` was awaited.
pub(crate) async fn wait_until(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    wait_for(what, limit, async || holds().await.then_some(())).await;
}

/// The address of a server that `scripts/services` started.
fn server(variable: &str) -> String {
    private::address(variable).unwrap_or_else(|| {
        panic!(
            "{variable} is not set: run the tests with scripts/test, or with \
             `scripts/services --fast -- cargo nextest run`"
        )
    })
}

/// A name that nothing else has, of letters, digits and `_`.
pub(crate) fn unique() -> String {
    format!(
        "t_{}",
        longshore::id::TaskId::fresh().as_str().replace('-', "")
    )
}
