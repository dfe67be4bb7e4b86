//! The plugin `kernel-log`: findings in the file `log` that the fetch published.

use super::kernel_log::Scanner;
use super::{Job, send};
use crate::testjob::item::{Item, Sink};

/// Whether a file of a test job is a log: what LAVA's and TuxSuite's are called, and a directory's may be.
pub(crate) fn is_log(name: &str) -> bool {
    name == "log" || name.ends_with(".log")
}

/// Scans every log, which `is_log` tells by the file's name; a test job without one has no findings, and says so.
pub(crate) async fn run(
    job: &Job,
    is_log: impl Fn(&str) -> bool,
    sink: &Sink,
) -> anyhow::Result<()> {
    let store = job.context.store();
    let files = job
        .context
        .patiently(|| store.fetched_files(job.testjob, job.generation))
        .await?;
    let mut found = false;
    for file in files.iter().filter(|file| is_log(&file.name)) {
        found = true;
        let mut scanner = Scanner::new();
        let mut after = 0;
        loop {
            let pieces = job
                .context
                .patiently(|| store.file_data(file, after))
                .await?;
            let Some((last, _)) = pieces.last() else {
                break;
            };
            after = *last;
            for (_, data) in &pieces {
                scanner.feed(data);
                // A long log is scanned in steps, so that other attempts of this worker run too.
                tokio::task::yield_now().await;
            }
        }
        for test in scanner.finish() {
            send(sink, Item::Test(test)).await?;
        }
    }
    if !found {
        send(
            sink,
            Item::Problem("kernel-log: the test job has no log".into()),
        )
        .await?;
    }
    Ok(())
}
