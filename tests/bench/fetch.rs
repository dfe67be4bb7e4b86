//! Small test jobs fetched by one worker process; the stand-in LAVA server runs in this one, on the same cores.

use std::time::Instant;

use longshore::lab::{LabJob, LabSuite, LabTest};

use crate::scene::{Back, Scene};
use crate::servers::Servers;
use crate::{Figure, figure, median};

const JOBS: u64 = 1000;
const SLOTS: u32 = 32;
const RUNS: usize = 3;

pub(crate) async fn run(servers: &Servers) -> Vec<Figure> {
    let mut figures = Vec::new();
    for back in Back::BOTH {
        let mut rates = Vec::new();
        for _ in 0..RUNS {
            rates.push(once(servers, back).await);
        }
        figures.push(figure(
            format!("fetch, 6 tests and 4 metrics each, {}", back.as_str()),
            format!("{:.0} tasks/s", median(&mut rates)),
        ));
    }
    figures
}

async fn once(servers: &Servers, back: Back) -> f64 {
    let scene = Scene::new(servers, back, SLOTS, "[]").await;
    let tasks = (0..JOBS)
        .map(|number| {
            let job = small(1000 + number);
            let task = scene.fetch_task(&job.id);
            scene.lab.put(job);
            task
        })
        .collect::<Vec<_>>();
    scene.enqueue(&tasks).await;
    let begun = Instant::now();
    let worker = scene.worker("fetch");
    scene.complete(JOBS as i64).await;
    let rate = JOBS as f64 / begun.elapsed().as_secs_f64();
    drop(worker);
    scene.end().await;
    rate
}

/// A finished test job.
pub(crate) fn small(number: u64) -> LabJob {
    let tests = (0..6).map(|index| LabTest::new(format!("test-{index}"), "pass"));
    let metrics = (0..4).map(|index| {
        LabTest::new(format!("speed-{index}"), "pass").measured(format!("{index}.25"), "MB/s")
    });
    let mut job = LabJob::new(number.to_string());
    job.suites.clear();
    job.suite(LabSuite::new("0_smoke", tests.chain(metrics).collect()))
}
