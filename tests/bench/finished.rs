//! What a task costs in a store that already holds a million finished ones.

use sqlx::Executor as _;

use crate::noop;
use crate::servers::{Ledger, Servers};
use crate::{Figure, figure, median};

const FINISHED: u64 = 1_000_000;
const RUNS: usize = 3;

pub(crate) async fn run(servers: &Servers) -> Vec<Figure> {
    let full = servers.ledger().await;
    fill(&full).await;
    let (mut ratios, mut empties, mut fulls) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let empty = noop::longshore(&servers.ledger().await, servers).await;
        let full = noop::longshore(&full, servers).await;
        ratios.push(empty / full);
        empties.push(empty);
        fulls.push(full);
    }
    vec![figure(
        format!("cost of a task at {FINISHED} finished rows, against none"),
        format!(
            "{:.2} × (median of {RUNS}; {:.0} and {:.0} tasks/s)",
            median(&mut ratios),
            median(&mut fulls),
            median(&mut empties)
        ),
    )]
}

/// Rows as a worker leaves them, ended just now, so that the sweep has nothing to do.
async fn fill(ledger: &Ledger) {
    let tasks = sqlx::AssertSqlSafe(format!(
        "insert into {schema}.tasks (id, name, queue, priority, state, epoch, created_at, started_at, ended_at, task)
         select gen_random_uuid()::text, 'noop', 'bench', 0, 'done', 1, now, now, now,
           '{{\"id\": \"' || gen_random_uuid()::text || '\", \"name\": \"noop\", \"queue\": \"bench\", \"kwargs\": {{\"n\": ' || n || '}}}}'
         from generate_series(1, {FINISHED}) n, (select (extract(epoch from now()) * 1000)::bigint as now) t",
        schema = ledger.schema
    ));
    ledger.pool.execute(tasks).await.unwrap();
    let vacuum = sqlx::AssertSqlSafe(format!("vacuum analyze {}.tasks", ledger.schema));
    ledger.pool.execute(vacuum).await.unwrap();
    ledger.pool.execute("checkpoint").await.unwrap();
}
