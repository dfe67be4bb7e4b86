//! How long a task stands still when its worker dies while another worker of the pool is there: from the signal to the
//! next epoch in state `running`, as a connection of its own sees it.

use std::time::{Duration, Instant};

use longshore::lab::LabJob;
use rustix::process::Signal;

use crate::scene::{Back, Scene, epoch};
use crate::servers::Servers;
use crate::{Figure, figure, quantile};

const ROUNDS: usize = 100;
/// A log that nobody sees the end of.
const LINES: u64 = 100_000;
const BYTES_A_SECOND: u64 = 50_000;

pub(crate) async fn run(servers: &Servers) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::KILL, "SIGKILL")] {
        let mut times = rounds(servers, signal).await;
        figures.push(figure(
            format!("{name} → resumed, {}", Back::Servers.as_str()),
            format!(
                "median {:.0} ms, p99 {:.0} ms, worst {:.0} ms of {ROUNDS}",
                quantile(&mut times, 0.5),
                quantile(&mut times, 0.99),
                quantile(&mut times, 1.0)
            ),
        ));
    }
    figures
}

async fn rounds(servers: &Servers, signal: Signal) -> Vec<f64> {
    let scene = Scene::new(servers, Back::Servers, 4, "[]").await;
    let mut workers = vec![scene.joined("fetch").await, scene.joined("fetch").await];
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let job = LabJob::new((1000 + round).to_string())
            .log(LINES)
            .throttled(BYTES_A_SECOND);
        let task = scene.fetch_task(&job.id);
        scene.lab.put(job);
        scene.enqueue(std::slice::from_ref(&task)).await;
        let before = scene.running(&task, 0).await;
        // At another moment of every periodic look each time.
        tokio::time::sleep(Duration::from_millis(150 + (round as u64 * 37) % 400)).await;
        let owner = scene.owner(&before).await;
        let index = workers
            .iter()
            .position(|worker| worker.pid == owner)
            .unwrap();
        let dying = workers.swap_remove(index);
        let begun = Instant::now();
        dying.signal(signal);
        let _after = scene.running(&task, epoch(&before)).await;
        let time = begun.elapsed().as_secs_f64() * 1000.0;
        if time > 400.0 {
            eprintln!("  {signal:?}, round {round}: {time:.0} ms");
        }
        times.push(time);
        scene
            .store
            .cancel(task.id.as_str(), "measured")
            .await
            .unwrap();
        dying.ended().await;
        workers.push(scene.joined("fetch").await);
    }
    drop(workers);
    scene.end().await;
    times
}
