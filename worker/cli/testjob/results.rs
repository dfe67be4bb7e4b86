//! Results as a table, JSON lines, CSV or JUnit XML, page by page: memory does not grow with their number.

use std::io::{self, BufWriter, Write};

use quick_xml::escape::escape;

use super::super::Failure;
use crate::store::{MetricView, Store, TestJobFilter, TestJobView, TestPage, TestView};

/// Rows of one read.
const PAGE: i64 = 5000;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Format {
    /// For people.
    Table,
    /// One JSON object a line.
    Json,
    /// With a header.
    Csv,
    /// JUnit XML, one `testsuite` a suite as they come.
    Junit,
}

/// Prints what is published.
pub(super) async fn print(
    store: &Store,
    job: &TestJobView,
    format: Format,
    result: Option<String>,
    metrics: bool,
) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = if metrics {
        print_metrics(store, job, format, &mut out).await
    } else {
        print_tests(store, job, format, result, &mut out).await
    };
    // Pages are read one after another: a generation that replaced the first pages' would be another result.
    let filter = TestJobFilter {
        id: Some(job.id),
        most: 1,
        ..TestJobFilter::default()
    };
    let now = store.testjobs(&filter).await?.pop();
    if done.is_ok() && now.is_none_or(|now| now.visible != job.visible) {
        return Err(Failure::Failed(anyhow::anyhow!(
            "print results that stay the same: the test job was collected anew meanwhile; run it again"
        )));
    }
    match done.and_then(|()| Ok(out.flush()?)) {
        // `longshore … | head` ends like this.
        Err(Failure::Failed(error))
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        other => other,
    }
}

async fn print_tests(
    store: &Store,
    job: &TestJobView,
    format: Format,
    result: Option<String>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut page = TestPage {
        result,
        logs: format != Format::Table,
        most: PAGE,
        ..TestPage::default()
    };
    let mut suite = None;
    match format {
        Format::Junit => writeln!(
            out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{}\">",
            escape(format!("{}/{}", job.backend, job.remote_id))
        )?,
        Format::Csv => writeln!(out, "part,suite,name,result,log")?,
        Format::Table => writeln!(out, "{:<6} {:<12} TEST", "RESULT", "PART")?,
        Format::Json => {}
    }
    loop {
        let tests = store.tests(job.id, &page).await?;
        let Some(last) = tests.last() else { break };
        (page.run, page.seq) = (last.run, last.seq);
        match format {
            Format::Table => {
                for test in &tests {
                    writeln!(
                        out,
                        "{:<6} {:<12} {}/{}",
                        test.result, test.part, test.suite, test.name
                    )?;
                }
            }
            Format::Json => {
                for test in &tests {
                    writeln!(out, "{}", serde_json::to_string(test)?)?;
                }
            }
            Format::Csv => csv_rows(
                out,
                tests.iter().map(|test| {
                    [
                        test.part.as_str(),
                        &test.suite,
                        &test.name,
                        &test.result,
                        test.log.as_deref().unwrap_or_default(),
                    ]
                }),
            )?,
            Format::Junit => tests
                .iter()
                .try_for_each(|test| junit_case(out, &mut suite, test))?,
        }
    }
    if format == Format::Junit {
        if suite.is_some() {
            writeln!(out, "  </testsuite>")?;
        }
        writeln!(out, "</testsuites>")?;
    }
    Ok(())
}

fn csv_rows<'a, const N: usize>(
    out: &mut impl Write,
    rows: impl Iterator<Item = [&'a str; N]>,
) -> Result<(), Failure> {
    let mut writer = csv::Writer::from_writer(out);
    for row in rows {
        writer.write_record(row)?;
    }
    Ok(writer.flush()?)
}

fn junit_case(out: &mut impl Write, open: &mut Option<String>, test: &TestView) -> io::Result<()> {
    if open.as_deref() != Some(test.suite.as_str()) {
        if open.is_some() {
            writeln!(out, "  </testsuite>")?;
        }
        writeln!(out, "  <testsuite name=\"{}\">", escape(&test.suite))?;
        *open = Some(test.suite.clone());
    }
    let (name, suite) = (escape(&test.name), escape(&test.suite));
    // XML 1.0 has no way to write most control characters.
    let log = test.log.as_deref().unwrap_or_default().replace(
        |c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\r'),
        "\u{fffd}",
    );
    let log = escape(&log);
    match test.result.as_str() {
        "pass" => writeln!(out, "    <testcase name=\"{name}\" classname=\"{suite}\"/>"),
        "fail" => writeln!(
            out,
            "    <testcase name=\"{name}\" classname=\"{suite}\"><failure>{log}</failure></testcase>"
        ),
        "xfail" => writeln!(
            out,
            "    <testcase name=\"{name}\" classname=\"{suite}\"><skipped message=\"expected failure\"/></testcase>"
        ),
        _ => writeln!(
            out,
            "    <testcase name=\"{name}\" classname=\"{suite}\"><skipped/></testcase>"
        ),
    }
}

async fn print_metrics(
    store: &Store,
    job: &TestJobView,
    format: Format,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut page = TestPage {
        most: PAGE,
        ..TestPage::default()
    };
    match format {
        Format::Junit => {
            return Err(Failure::Wrong(
                "JUnit has no metrics: use --format csv or json".into(),
            ));
        }
        Format::Csv => writeln!(out, "part,suite,name,value,unit")?,
        Format::Table => writeln!(out, "{:>16} {:<10} METRIC", "VALUE", "UNIT")?,
        Format::Json => {}
    }
    loop {
        let metrics = store.metrics(job.id, &page).await?;
        let Some(last) = metrics.last() else {
            return Ok(());
        };
        (page.run, page.seq) = (last.run, last.seq);
        for MetricView {
            part,
            suite,
            name,
            value,
            unit,
            ..
        } in &metrics
        {
            match format {
                Format::Table | Format::Junit => {
                    writeln!(out, "{value:>16} {unit:<10} {suite}/{name}")?
                }
                Format::Json => writeln!(
                    out,
                    "{}",
                    serde_json::json!({ "part": part, "suite": suite, "name": name, "value": value, "unit": unit })
                )?,
                Format::Csv => csv_rows(
                    out,
                    std::iter::once([part.as_str(), suite, name, &value.to_string(), unit]),
                )?,
            }
        }
    }
}
