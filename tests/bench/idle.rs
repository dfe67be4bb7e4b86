//! A worker without work, and how long one takes from the start of its process to its first claim.

use std::time::{Duration, Instant};

use crate::scene::{Back, Scene};
use crate::servers::Servers;
use crate::{Figure, fetch, figure, median};

const STARTS: usize = 20;
const SETTLING: Duration = Duration::from_secs(4);

pub(crate) async fn run(servers: &Servers) -> Vec<Figure> {
    let mut figures = Vec::new();
    for back in Back::BOTH {
        let scene = Scene::new(servers, back, 4, "[]").await;
        let worker = scene.joined("fetch").await;
        tokio::time::sleep(SETTLING).await;
        figures.push(figure(
            format!("idle worker, resident, {}", back.as_str()),
            format!(
                "{:.1} MiB ({:.1} MiB of it its own, the rest the program's file)",
                worker.memory("VmRSS"),
                worker.memory("RssAnon")
            ),
        ));
        worker.signal(rustix::process::Signal::TERM);
        worker.ended().await;
        let mut times = Vec::with_capacity(STARTS);
        for number in 0..STARTS {
            let job = fetch::small(1000 + number as u64);
            let task = scene.fetch_task(&job.id);
            scene.lab.put(job);
            scene.enqueue(std::slice::from_ref(&task)).await;
            let begun = Instant::now();
            let worker = scene.worker("fetch");
            claimed(&scene, &task).await;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
            scene.complete(number as i64 + 1).await;
            worker.signal(rustix::process::Signal::TERM);
            worker.ended().await;
        }
        figures.push(figure(
            format!("start → first claim, {}", back.as_str()),
            format!(
                "median {:.0} ms, worst {:.0} ms of {STARTS}",
                median(&mut times),
                times.last().unwrap()
            ),
        ));
        scene.end().await;
    }
    figures
}

/// A small test job can be done between two looks.
async fn claimed(scene: &Scene, task: &longshore::task::Task) {
    let filter = longshore::store::Filter {
        id: Some(task.id.to_string()),
        most: 1,
        ..Default::default()
    };
    loop {
        let found = scene.store.tasks(&filter).await.unwrap();
        if found.iter().any(|task| task.started_at.is_some()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
