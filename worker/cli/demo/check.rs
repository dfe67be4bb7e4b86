//! At the end: every published result against what was served, one by one.

use std::collections::HashMap;

use super::jobs::{Everything, Expected};
use crate::store::{Store, TestJobFilter, TestJobView, TestPage, TestView};
use crate::testjob::item::{Test, TestResult};

/// Rows of one read.
const PAGE: i64 = 10_000;
/// So many tests of the CTS result may be missing in a row, and those behind are still found.
const LOOK_AHEAD: u64 = 1000;
/// Differences that are told; all are counted.
const TOLD: usize = 10;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Test jobs that are complete.
    pub(super) complete: u64,
    /// Test jobs that are not, and results that are missing or different.
    pub(super) lost: u64,
    /// Results that nobody served.
    pub(super) surplus: u64,
    /// What the first differences were.
    pub(super) told: Vec<String>,
}

/// How often something was served, less how often it was found.
type Balance<K> = HashMap<K, i64>;

/// Compares all that is published.
pub(super) async fn all(store: &Store, everything: &Everything) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for (id, expected) in everything {
        let filter = TestJobFilter {
            remote_id: Some(id.clone()),
            most: 1,
            ..TestJobFilter::default()
        };
        let Some(job) = store.testjobs(&filter).await?.into_iter().next() else {
            found.lost(1, || format!("test job {id} is not there"));
            continue;
        };
        if job.state == "complete" {
            found.complete += 1;
        } else {
            let reason = job.reason.as_deref().unwrap_or("no reason is given");
            found.lost(1, || format!("test job {id} is {}: {reason}", job.state));
        }
        found.tests(store, &job, expected).await?;
        found.metrics(store, &job, expected).await?;
    }
    Ok(found)
}

impl Found {
    async fn tests(
        &mut self,
        store: &Store,
        job: &TestJobView,
        expected: &Expected,
    ) -> anyhow::Result<()> {
        let mut fetched: Balance<Test> = HashMap::new();
        for test in &expected.tests {
            *fetched.entry(test.clone()).or_default() += 1;
        }
        let mut findings: Balance<String> = HashMap::new();
        for slug in &expected.findings {
            *findings.entry(slug.clone()).or_default() += 2;
        }
        let mut index = 0;
        let mut page = TestPage {
            logs: true,
            most: PAGE,
            ..TestPage::default()
        };
        loop {
            let rows = store.tests(job.id, &page).await?;
            let Some(last) = rows.last() else { break };
            (page.run, page.seq) = (last.run, last.seq);
            for row in rows {
                match row.part.as_str() {
                    "fetch" => *fetched.entry(test(row)).or_default() -= 1,
                    "tradefed" => {
                        index = self.cts_test(index, row, expected);
                    }
                    _ => *findings.entry(slug(&row.name)).or_default() -= 1,
                }
            }
        }
        if let Some(plan) = expected.cts {
            let missing = plan.tests.saturating_sub(index);
            self.lost(missing, || {
                format!("{missing} tests of the CTS result are missing")
            });
        }
        self.settle(fetched, &job.remote_id);
        self.settle(findings, &job.remote_id);
        Ok(())
    }

    /// Compares a test with the one at `index`, as the results of `tradefed` stand in the order of its
    /// file. Returns the index of the next one.
    fn cts_test(&mut self, index: u64, row: TestView, expected: &Expected) -> u64 {
        let row = test(row);
        let ahead = (index..index + LOOK_AHEAD)
            .map_while(|index| Some((index, expected.cts_test(index)?)))
            .find(|(_, wanted)| wanted.suite == row.suite && wanted.name == row.name);
        let Some((at, wanted)) = ahead else {
            self.surplus += 1;
            self.tell(format!(
                "{}/{} of the CTS result was not served there",
                row.suite, row.name
            ));
            return index;
        };
        let missing = at - index;
        self.lost(missing, || {
            format!(
                "{missing} tests before {}/{} of the CTS result are missing",
                row.suite, row.name
            )
        });
        self.lost(u64::from(wanted != row), || {
            format!(
                "the result or log of {}/{} of the CTS result is another",
                row.suite, row.name
            )
        });
        at + 1
    }

    async fn metrics(
        &mut self,
        store: &Store,
        job: &TestJobView,
        expected: &Expected,
    ) -> anyhow::Result<()> {
        let mut balance: Balance<(String, String, u64)> = HashMap::new();
        for (suite, name, value) in &expected.metrics {
            *balance
                .entry((suite.clone(), name.clone(), value.to_bits()))
                .or_default() += 1;
        }
        let page = TestPage {
            most: PAGE,
            ..TestPage::default()
        };
        for row in store.metrics(job.id, &page).await? {
            *balance
                .entry((row.suite, row.name, row.value.to_bits()))
                .or_default() -= 1;
        }
        self.settle(balance, &job.remote_id);
        Ok(())
    }

    /// What was served and not found is lost; what was found and not served is surplus.
    fn settle<K: std::fmt::Debug>(&mut self, balance: Balance<K>, job: &str) {
        for (what, count) in balance {
            self.lost(u64::try_from(count).unwrap_or_default(), || {
                format!("test job {job}: {what:?} is missing")
            });
            if count < 0 {
                self.surplus += count.unsigned_abs();
                self.tell(format!("test job {job}: {what:?} was never served"));
            }
        }
    }

    fn lost(&mut self, count: u64, what: impl FnOnce() -> String) {
        if count > 0 {
            self.lost += count;
            self.tell(what());
        }
    }

    fn tell(&mut self, text: String) {
        if self.told.len() < TOLD {
            self.told.push(text);
        }
    }
}

/// A published test as the server's side knows it.
fn test(row: TestView) -> Test {
    Test {
        suite: row.suite,
        name: row.name,
        result: match row.result.as_str() {
            "pass" => TestResult::Pass,
            "fail" => TestResult::Fail,
            "xfail" => TestResult::Xfail,
            _ => TestResult::Skip,
        },
        log: row.log,
    }
}

/// A finding's name without the hash that half of them end with.
fn slug(name: &str) -> String {
    match name.rsplit_once('-') {
        Some((slug, hash)) if hash.len() == 64 => slug.to_owned(),
        Some(_) | None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testjob::format::generate::Plan;

    fn expected() -> Expected {
        Expected {
            target: String::new(),
            tests: Vec::new(),
            metrics: Vec::new(),
            findings: Vec::new(),
            cts: Some(Plan::new(10, 1)),
        }
    }

    fn row(index: u64) -> TestView {
        let Test {
            suite, name, log, ..
        } = expected().cts_test(index).unwrap();
        TestView {
            run: 1,
            part: "tradefed".into(),
            seq: 1,
            suite,
            name,
            result: "pass".into(),
            log,
        }
    }

    /// What is lost and surplus, and what comes next.
    fn compared(row: TestView) -> (u64, u64, u64) {
        let mut found = Found::default();
        let next = found.cts_test(3, row, &expected());
        (found.lost, found.surplus, next)
    }

    #[test]
    fn a_test_as_it_was_served_is_neither_lost_nor_surplus() {
        assert_eq!(compared(row(3)), (0, 0, 4));
    }

    #[test]
    fn a_test_with_another_result_or_log_is_lost() {
        let result = "fail".into();
        assert_eq!(compared(TestView { result, ..row(3) }), (1, 0, 4));
        let log = Some("x".into());
        assert_eq!(compared(TestView { log, ..row(3) }), (1, 0, 4));
    }

    #[test]
    fn tests_that_are_left_out_are_lost_and_those_behind_them_are_not() {
        assert_eq!(compared(row(5)), (2, 0, 6));
    }

    #[test]
    fn a_test_that_comes_twice_or_was_never_served_is_surplus() {
        assert_eq!(compared(row(2)), (0, 1, 3));
        let name = "other".into();
        assert_eq!(compared(TestView { name, ..row(3) }), (0, 1, 3));
    }

    #[test]
    fn what_was_served_and_not_found_is_lost_and_the_reverse_is_surplus() {
        let mut found = Found::default();
        found.settle(HashMap::from([("a", 2), ("b", 0), ("c", -1)]), "7");
        assert_eq!((found.lost, found.surplus), (2, 1));
        assert_eq!(found.told.len(), 2);
    }
}
