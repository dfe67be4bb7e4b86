//! Reading what is published, and what a plugin works on.

use bytes::Bytes;
use longshore::store::{StagedRow, TestJobFilter, TestPage};

use super::{a_test, fetch, tests, visible};
use crate::harness::{Bench, on_both};

on_both!(
    every_kind_of_row_comes_back_as_it_was_staged,
    pages_of_tests_neither_repeat_nor_miss_one,
    pages_of_metrics_neither_repeat_nor_miss_one,
    pages_of_metrics_that_go_on_stay_in_their_generation,
    a_page_may_be_of_one_result_and_with_logs,
    a_file_comes_back_byte_for_byte_and_in_order,
    a_listing_selects_and_pages,
    a_plugin_reads_its_own_generation_before_readers_do,
);

fn rows() -> Vec<StagedRow> {
    vec![
        a_test("tab\tquote\"backslash\\ ä 😀 \\N \\."),
        StagedRow::Test {
            suite: String::new(),
            name: "no log".into(),
            result: "skip",
            log: None,
        },
        StagedRow::Metric {
            suite: "perf".into(),
            name: "time".into(),
            value: 1.5,
            unit: "ms".into(),
            measurements: vec![1.0, 2.0],
        },
        StagedRow::Fact {
            kind: "metadata",
            key: "os".into(),
            value: "\"linux\"".into(),
        },
        StagedRow::Fact {
            kind: "problem",
            key: String::new(),
            value: "cut off".into(),
        },
        StagedRow::File {
            name: "log".into(),
            mimetype: "text/plain".into(),
        },
        StagedRow::Data {
            file: 6,
            data: Bytes::from_static(b"\0\xff bytes"),
        },
    ]
}

async fn every_kind_of_row_comes_back_as_it_was_staged(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    fetch.stage(&bench, 1, &rows()).await;
    let (store, testjob) = (&bench.store, fetch.testjob);
    assert!(store.facts(testjob, "metadata").await.unwrap().is_empty());
    assert!(store.files(testjob).await.unwrap().is_empty());
    let page = TestPage {
        logs: true,
        most: 9,
        ..TestPage::default()
    };
    assert!(store.metrics(testjob, &page).await.unwrap().is_empty());
    fetch.publish(&bench, 2, &[]).await.unwrap();

    let found = store.tests(testjob, &page).await.unwrap();
    for (test, row) in found.iter().zip(rows()) {
        let StagedRow::Test {
            suite,
            name,
            result,
            log,
        } = row
        else {
            panic!("two tests")
        };
        assert_eq!((&test.suite, &test.name, &test.log), (&suite, &name, &log));
        assert_eq!(
            (test.result.as_str(), test.part.as_str()),
            (result, "fetch")
        );
    }
    assert_eq!(found.len(), 2);
    let metrics = store.metrics(testjob, &page).await.unwrap();
    assert_eq!(
        (metrics.len(), metrics[0].value, metrics[0].unit.as_str()),
        (1, 1.5, "ms")
    );
    assert_eq!(metrics[0].measurements, "[1.0,2.0]");
    let metadata = store.facts(testjob, "metadata").await.unwrap();
    assert_eq!(metadata, [("os".to_owned(), "\"linux\"".to_owned())]);
    assert_eq!(
        store.facts(testjob, "problem").await.unwrap()[0].1,
        "cut off"
    );
    let files = store.files(testjob).await.unwrap();
    assert_eq!(
        (files.len(), files[0].name.as_str(), files[0].seq),
        (1, "log", 6)
    );
    let data = store.file_data(&files[0], 0).await.unwrap();
    assert_eq!(data, [(7, b"\0\xff bytes".to_vec())]);
}

async fn pages_of_tests_neither_repeat_nor_miss_one(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    fetch.stage(&bench, 1, &tests("a", 25)).await;
    fetch.publish(&bench, 25, &["p"]).await.unwrap();
    let plugin = fetch.plugin(&bench, "p").await;
    plugin.stage(&bench, &tests("p", 17)).await;
    plugin.publish(&bench.store, 17).await.unwrap();
    let mut page = TestPage {
        most: 10,
        ..TestPage::default()
    };
    let mut names = Vec::new();
    loop {
        let found = bench.store.tests(fetch.testjob, &page).await.unwrap();
        let Some(last) = found.last() else { break };
        (page.run, page.seq) = (last.run, last.seq);
        names.extend(found.into_iter().map(|test| test.name));
    }
    assert_eq!(names, visible(&bench, fetch.testjob).await);
    assert_eq!(names.len(), 42);
}

/// `count` metrics, whose names begin with `prefix`.
fn metrics(prefix: &str, count: i64) -> Vec<StagedRow> {
    let metric = |n| StagedRow::Metric {
        suite: "perf".into(),
        name: format!("{prefix}{n}"),
        value: 1.0,
        unit: String::new(),
        measurements: vec![1.0],
    };
    (0..count).map(metric).collect()
}

/// The names on all pages of ten, from `page` on.
async fn names_of_metrics(bench: &Bench, testjob: i64, mut page: TestPage) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let found = bench.store.metrics(testjob, &page).await.unwrap();
        let Some(last) = found.last() else {
            return names;
        };
        (page.run, page.seq) = (last.run, last.seq);
        names.extend(found.into_iter().map(|metric| metric.name));
    }
}

async fn pages_of_metrics_neither_repeat_nor_miss_one(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    fetch.stage(&bench, 1, &tests("a", 3)).await;
    fetch.stage(&bench, 4, &metrics("f", 25)).await;
    fetch.publish(&bench, 3, &["none", "p"]).await.unwrap();
    let none = fetch.plugin(&bench, "none").await;
    none.stage(&bench, &tests("n", 2)).await;
    none.publish(&bench.store, 2).await.unwrap();
    let plugin = fetch.plugin(&bench, "p").await;
    plugin.stage(&bench, &metrics("p", 17)).await;
    plugin.publish(&bench.store, 0).await.unwrap();
    let page = TestPage {
        most: 10,
        ..TestPage::default()
    };
    let first = bench.store.metrics(fetch.testjob, &page).await.unwrap();
    assert_eq!((first.len(), first[0].part.as_str()), (10, "fetch"));
    let names = names_of_metrics(&bench, fetch.testjob, page).await;
    let of_fetch = (0..25).map(|n| format!("f{n}"));
    let of_plugin = (0..17).map(|n| format!("p{n}"));
    let expected: Vec<_> = of_fetch.chain(of_plugin).collect();
    assert_eq!(names, expected);
}

async fn pages_of_metrics_that_go_on_stay_in_their_generation(bench: Bench) {
    let first = fetch(&bench, "f", false).await;
    first.stage(&bench, 1, &metrics("old", 25)).await;
    first.publish(&bench, 0, &[]).await.unwrap();
    let mut page = TestPage {
        most: 10,
        ..TestPage::default()
    };
    let found = bench.store.metrics(first.testjob, &page).await.unwrap();
    let second = fetch(&bench, "g", true).await;
    second.stage(&bench, 1, &metrics("new", 25)).await;
    second.publish(&bench, 0, &[]).await.unwrap();
    (page.run, page.seq) = (found[9].run, found[9].seq);
    let rest = names_of_metrics(&bench, first.testjob, page.clone()).await;
    assert_eq!(rest, [""; 0], "half of one and half of another");
    (page.run, page.seq) = (0, 0);
    let names = names_of_metrics(&bench, first.testjob, page).await;
    assert_eq!((names.len(), names[0].as_str()), (25, "new0"));
}

async fn a_page_may_be_of_one_result_and_with_logs(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    fetch.stage(&bench, 1, &rows()).await;
    fetch.publish(&bench, 2, &[]).await.unwrap();
    let mut page = TestPage {
        result: Some("pass".into()),
        most: 9,
        ..TestPage::default()
    };
    let found = bench.store.tests(fetch.testjob, &page).await.unwrap();
    assert_eq!((found.len(), &found[0].log), (1, &None));
    page.logs = true;
    let found = bench.store.tests(fetch.testjob, &page).await.unwrap();
    assert!(found[0].log.as_deref().unwrap().starts_with("log of"));
}

async fn a_file_comes_back_byte_for_byte_and_in_order(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    let mut rows = vec![StagedRow::File {
        name: "big".into(),
        mimetype: "application/x".into(),
    }];
    let mut whole = Vec::new();
    for piece in 0..20_u8 {
        let data = vec![piece; 1000];
        whole.extend_from_slice(&data);
        rows.push(StagedRow::Data {
            file: 1,
            data: data.into(),
        });
    }
    fetch.stage(&bench, 1, &rows).await;
    fetch.publish(&bench, 0, &[]).await.unwrap();
    let file = bench.store.files(fetch.testjob).await.unwrap().remove(0);
    let (mut read, mut after) = (Vec::new(), 0);
    loop {
        let pieces = bench.store.file_data(&file, after).await.unwrap();
        let Some((last, _)) = pieces.last() else {
            break;
        };
        after = *last;
        read.extend(pieces.into_iter().flat_map(|(_, data)| data));
    }
    assert_eq!(read, whole);
}

async fn a_listing_selects_and_pages(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    let list = async |filter: TestJobFilter| bench.store.testjobs(&filter).await.unwrap().len();
    let all = || TestJobFilter {
        most: 9,
        ..TestJobFilter::default()
    };
    assert_eq!(list(all()).await, 1);
    assert_eq!(
        list(TestJobFilter {
            id: Some(fetch.testjob),
            ..all()
        })
        .await,
        1
    );
    assert_eq!(
        list(TestJobFilter {
            id: Some(fetch.testjob + 1),
            ..all()
        })
        .await,
        0
    );
    assert_eq!(
        list(TestJobFilter {
            backend: Some("lab".into()),
            ..all()
        })
        .await,
        1
    );
    assert_eq!(
        list(TestJobFilter {
            remote_id: Some("43".into()),
            ..all()
        })
        .await,
        0
    );
    assert_eq!(
        list(TestJobFilter {
            project: Some("other".into()),
            ..all()
        })
        .await,
        0
    );
    assert_eq!(
        list(TestJobFilter {
            after: fetch.testjob,
            ..all()
        })
        .await,
        0
    );
    assert_eq!(list(TestJobFilter { most: 0, ..all() }).await, 0);
}

async fn a_plugin_reads_its_own_generation_before_readers_do(bench: Bench) {
    let first = fetch(&bench, "f", false).await;
    first.stage(&bench, 1, &rows()).await;
    let (store, testjob) = (&bench.store, first.testjob);
    assert!(
        store.fetched_files(testjob, 1).await.unwrap().is_empty(),
        "staged only"
    );
    first.publish(&bench, 2, &[]).await.unwrap();
    let second = fetch(&bench, "g", true).await;
    let metadata = StagedRow::Fact {
        kind: "metadata",
        key: "os".into(),
        value: "\"new\"".into(),
    };
    let file = StagedRow::File {
        name: "new log".into(),
        mimetype: "text/plain".into(),
    };
    second.stage(&bench, 1, &[metadata, file]).await;
    second.publish(&bench, 0, &["p"]).await.unwrap();
    let facts = store.fetched_facts(testjob, 2).await.unwrap();
    assert_eq!(facts, [("os".to_owned(), "\"new\"".to_owned())]);
    assert_eq!(
        store.fetched_files(testjob, 2).await.unwrap()[0].name,
        "new log"
    );
    assert_eq!(
        store.fetched_files(testjob, 1).await.unwrap()[0].name,
        "log"
    );
    assert_eq!(
        store.files(testjob).await.unwrap()[0].name,
        "log",
        "readers wait"
    );
}
