//! The reader that looks at the published views the whole time, on connections that cannot write.
//!
//! Each look is one snapshot. In each, every published part must have exactly as many results as its run
//! says and as the server served, what was published must still be there, and a test job that is complete
//! must have every part. Whatever deviates is a half-written result.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::jobs::{Count, Everything};
use crate::store::{PublishedPart, StagedRun, Store};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// Deviations that are told; all are counted.
const TOLD: usize = 10;

/// What the reader saw last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// Test jobs that are complete.
    pub(super) complete: u64,
    /// Tests that are published.
    pub(super) tests: i64,
    /// Parts that are published.
    pub(super) parts: usize,
}

/// What the reader saw in all.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Looks.
    pub(super) looks: u64,
    /// Deviations.
    pub(super) half_written: u64,
    /// Rows that were there and were taken away to be written again.
    pub(super) withdrawn: i64,
    /// What the first deviations were.
    pub(super) told: Vec<String>,
    /// Published parts by their runs.
    published: HashSet<i64>,
    /// The most rows that each run ever had.
    most: HashMap<i64, i64>,
}

/// Looks until `enough`, and once more then.
pub(super) async fn run(
    store: Store,
    everything: std::sync::Arc<Everything>,
    enough: CancellationToken,
    seen: watch::Sender<Seen>,
) -> anyhow::Result<Watched> {
    let expected: BTreeMap<String, BTreeMap<&'static str, Count>> = everything
        .iter()
        .map(|(id, expected)| (id.clone(), expected.parts()))
        .collect();
    let mut watched = Watched::default();
    loop {
        let last = enough.is_cancelled();
        match look(&store).await {
            Ok((parts, staged)) => {
                watched.take(&parts, &expected);
                watched.take_staged(&staged);
                seen.send_replace(summary(&parts));
            }
            // A look that was not had is none; the last one must be had.
            Err(error) if error.is_temporary() && !last => {}
            Err(error) => return Err(error.into()),
        }
        if last {
            return Ok(watched);
        }
        tokio::select! {
            () = enough.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn look(
    store: &Store,
) -> Result<(Vec<PublishedPart>, Vec<StagedRun>), crate::store::StoreError> {
    Ok((
        store.published_parts().await?,
        store.staged_sizes(None).await?,
    ))
}

fn summary(parts: &[PublishedPart]) -> Seen {
    let mut complete: Vec<i64> = parts
        .iter()
        .filter(|part| part.state == "complete")
        .map(|part| part.testjob)
        .collect();
    complete.dedup();
    Seen {
        complete: complete.len() as u64,
        tests: parts.iter().map(|part| part.found_tests).sum(),
        parts: parts.iter().filter(|part| part.run.is_some()).count(),
    }
}

impl Watched {
    /// Compares one look with what must be.
    fn take(
        &mut self,
        parts: &[PublishedPart],
        expected: &BTreeMap<String, BTreeMap<&'static str, Count>>,
    ) {
        self.looks += 1;
        let mut published = HashSet::new();
        let mut complete: BTreeMap<&str, usize> = BTreeMap::new();
        for look in parts {
            let Some(wanted) = expected.get(&look.remote_id) else {
                self.deviates(format!("test job {} was never served", look.remote_id));
                continue;
            };
            if look.state == "complete" {
                *complete.entry(&look.remote_id).or_default() += usize::from(look.run.is_some());
            }
            let (Some(run), Some(part)) = (look.run, look.part.as_deref()) else {
                continue;
            };
            published.insert(run);
            let found = Count {
                tests: look.found_tests,
                metrics: look.found_metrics,
            };
            let said = Count {
                tests: look.tests.unwrap_or_default(),
                metrics: look.metrics.unwrap_or_default(),
            };
            let served = wanted.get(part).copied().unwrap_or_default();
            if found != said || found != served || !wanted.contains_key(part) {
                self.deviates(format!(
                    "{part} of test job {}: readers found {found}, its run says {said}, {served} were served",
                    look.remote_id
                ));
            }
        }
        for (id, parts) in complete {
            let wanted = expected.get(id).map_or(0, BTreeMap::len);
            if parts != wanted {
                self.deviates(format!(
                    "test job {id} is complete with {parts} of {wanted} parts"
                ));
            }
        }
        for run in &self.published {
            if !published.contains(run) {
                self.half_written += 1;
            }
        }
        self.published = published;
    }

    /// Rows of a run only ever become more.
    fn take_staged(&mut self, runs: &[StagedRun]) {
        for run in runs {
            let most = self.most.entry(run.run).or_default();
            self.withdrawn += (*most - run.rows()).max(0);
            *most = run.rows();
        }
    }

    fn deviates(&mut self, text: String) {
        self.half_written += 1;
        if self.told.len() < TOLD && !self.told.contains(&text) {
            self.told.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(state: &str, part: Option<&str>, said: i64, found: i64) -> PublishedPart {
        PublishedPart {
            testjob: 1,
            remote_id: "7".into(),
            state: state.into(),
            run: part.map(|part| part.len() as i64),
            part: part.map(str::to_owned),
            tests: part.map(|_| said),
            metrics: part.map(|_| 0),
            found_tests: found,
            found_metrics: 0,
        }
    }

    fn half_written(looks: &[Vec<PublishedPart>]) -> u64 {
        let count = |tests| Count { tests, metrics: 0 };
        let parts = BTreeMap::from([("fetch", count(3)), ("tradefed", count(5))]);
        let expected = BTreeMap::from([("7".to_owned(), parts)]);
        let mut watched = Watched::default();
        for look in looks {
            watched.take(look, &expected);
        }
        watched.half_written
    }

    #[test]
    fn whole_results_are_no_deviation_at_any_stage() {
        let fetched = part("postprocessing", Some("fetch"), 3, 3);
        let done = part("complete", Some("fetch"), 3, 3);
        let plugin = part("complete", Some("tradefed"), 5, 5);
        let looks = [
            vec![],
            vec![part("fetching", None, 0, 0)],
            vec![fetched],
            vec![done, plugin],
        ];
        assert_eq!(half_written(&looks), 0);
    }

    #[test]
    fn fewer_tests_than_the_run_says_are_a_half_written_result() {
        let look = vec![part("postprocessing", Some("tradefed"), 5, 4)];
        assert_eq!(half_written(&[look]), 1);
    }

    #[test]
    fn fewer_tests_than_were_served_are_one_even_if_the_run_agrees() {
        let look = vec![part("postprocessing", Some("tradefed"), 4, 4)];
        assert_eq!(half_written(&[look]), 1);
    }

    #[test]
    fn a_complete_test_job_without_all_parts_is_one() {
        assert_eq!(
            half_written(&[vec![part("complete", Some("fetch"), 3, 3)]]),
            1
        );
        assert_eq!(half_written(&[vec![part("complete", None, 0, 0)]]), 1);
    }

    #[test]
    fn rows_that_are_taken_away_and_written_again_are_counted() {
        let run = |staged_tests, other_rows| StagedRun {
            run: 1,
            testjob: 1,
            part: "tradefed".into(),
            state: "staging".into(),
            tests: 0,
            staged_tests,
            other_rows,
        };
        let mut watched = Watched::default();
        for look in [run(10, 1), run(20, 2), run(0, 0), run(5, 1), run(20, 3)] {
            watched.take_staged(&[look]);
        }
        assert_eq!(watched.withdrawn, 22);
    }

    #[test]
    fn a_part_that_vanishes_is_one() {
        let there = vec![part("postprocessing", Some("fetch"), 3, 3)];
        let gone = vec![part("postprocessing", None, 0, 0)];
        assert_eq!(half_written(&[there, gone]), 1);
    }
}
