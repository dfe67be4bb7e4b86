//! One CTS result of a million tests, from the enqueueing of its fetch to the state `complete`.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use longshore::lab::{LabAttachment, LabJob};
use longshore::testjob::format::generate::{Plan, tarball};

use crate::scene::{Back, Scene};
use crate::servers::Servers;
use crate::{Figure, figure, median};

const TESTS: u64 = 1_000_000;
const RUNS: usize = 3;

pub(crate) async fn run(servers: &Servers) -> Vec<Figure> {
    let file = std::env::temp_dir().join(format!("bench-cts-{}.tar.xz", std::process::id()));
    tarball(File::create(&file).unwrap(), &Plan::new(TESTS, 42)).unwrap();
    let mut figures = Vec::new();
    for back in Back::BOTH {
        let (mut seconds, mut peaks) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (time, peak) = once(servers, back, &file).await;
            eprintln!("  {time:.1} s, {peak:.0} MiB");
            seconds.push(time);
            peaks.push(peak);
        }
        figures.push(figure(
            format!("CTS result of {TESTS} tests, {}", back.as_str()),
            format!(
                "{:.1} s, pinned worker's peak {:.0} MiB",
                median(&mut seconds),
                peaks.iter().copied().fold(0.0, f64::max)
            ),
        ));
    }
    std::fs::remove_file(&file).unwrap();
    figures
}

async fn once(servers: &Servers, back: Back, file: &Path) -> (f64, f64) {
    let scene = Scene::new(servers, back, 4, "[\"tradefed\"]").await;
    let attachment = LabAttachment {
        name: "tradefed-output.tar.xz".into(),
        path: file.to_owned(),
        definition: "cts".into(),
        results_format: "aggregated".into(),
        rate: None,
    };
    let job = LabJob::new("1").attachment(attachment, scene.lab.url());
    let task = scene.fetch_task(&job.id);
    scene.lab.put(job);
    let fetch = scene.joined("fetch").await;
    let pinned = scene.joined("postprocess").await;
    let begun = Instant::now();
    scene.enqueue(&[task]).await;
    scene.complete(1).await;
    let seconds = begun.elapsed().as_secs_f64();
    let peak = pinned.memory("VmHWM");
    drop((fetch, pinned));
    let filter = longshore::store::TestJobFilter {
        most: 1,
        ..Default::default()
    };
    let tests = scene.store.testjobs(&filter).await.unwrap()[0].tests;
    assert!(tests >= TESTS as i64, "only {tests} tests were published");
    scene.end().await;
    (seconds, peak)
}
