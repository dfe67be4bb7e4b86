//! JUnit XML as cargo-nextest, pytest, Maven Surefire, Gradle and GoogleTest write it.
//!
//! There is no one specification; this follows the Jenkins/Ant schema and what those tools do. The
//! suite is the innermost `testsuite`'s name. The reader never lets a re-run hide the outcome: a
//! test that passed in the end (`flakyFailure`) passed, one with a `failure` or `error` failed.

use std::io::Read;

use serde_json::Value;

use super::xml::{Document, Element, Piece};
use super::{Counts, Emit, FormatError, Limits, MAX_VALUE, Text, shortened};
use crate::testjob::item::{Item, Metric, Test, TestResult};

/// Properties kept as metadata: enough for what a build says of itself; Surefire writes all of
/// Java's into every suite.
const MAX_PROPERTIES: usize = 256;

/// Reads a JUnit file and emits its properties (as metadata) and tests; with `durations` also each
/// test's `time` as a metric of the same suite and name, in seconds. Returns what it counted.
///
/// A test is named `<classname>.<name>`, or `<name>` where the class is missing or the suite itself.
/// A failed test's log is its message, its text and its captured output.
///
/// # Errors
///
/// [`FormatError`]; what was emitted by then is not the whole.
pub fn read(
    input: &mut dyn Read,
    durations: bool,
    limits: &Limits,
    emit: &mut Emit<'_>,
) -> Result<Counts, FormatError> {
    let mut document = Document::new(input, limits);
    let mut report = Report {
        durations,
        path: Vec::new(),
        suites: Vec::new(),
        case: None,
        detail: Text::new(limits.text),
        log: Text::new(limits.text),
        output: Text::new(limits.text),
        properties: 0,
        counts: Counts::default(),
        emit,
    };
    loop {
        match document.next()? {
            Piece::Open(element) => report.open(&element)?,
            Piece::Close => report.close()?,
            Piece::Text(text) => report.text(&text),
            Piece::End => return Ok(report.counts),
        }
    }
}

/// The elements that matter, where they are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `testsuites` or `testsuite`.
    Suite,
    Case,
    /// `failure` or `error`.
    Failure,
    Skipped,
    /// A test's `system-out` or `system-err`.
    Output,
    Properties,
    Property,
    Other,
}

impl Kind {
    fn of(parent: Option<Self>, name: &str) -> Self {
        match (parent, name) {
            (None | Some(Self::Suite), "testsuites" | "testsuite") => Self::Suite,
            (Some(Self::Suite), "testcase") => Self::Case,
            (Some(Self::Suite), "properties") => Self::Properties,
            (Some(Self::Properties), "property") => Self::Property,
            (Some(Self::Case), "failure" | "error") => Self::Failure,
            (Some(Self::Case), "skipped") => Self::Skipped,
            (Some(Self::Case), "system-out" | "system-err") => Self::Output,
            _ => Self::Other,
        }
    }
}

/// The open `testcase`.
struct Case {
    name: String,
    result: TestResult,
    time: Option<String>,
    /// The message of the open failure or skip.
    message: Option<String>,
}

struct Report<'a, 'e> {
    durations: bool,
    /// The open elements, outermost first.
    path: Vec<Kind>,
    /// The names of the open suites, outermost first.
    suites: Vec<String>,
    case: Option<Case>,
    /// The text of the open failure or skip.
    detail: Text,
    /// What the finished failures and skips of the open test said.
    log: Text,
    output: Text,
    properties: usize,
    counts: Counts,
    emit: &'a mut Emit<'e>,
}

impl Report<'_, '_> {
    fn open(&mut self, element: &Element<'_>) -> Result<(), FormatError> {
        let parent = self.path.last().copied();
        let kind = Kind::of(parent, element.name());
        if parent.is_none() && kind != Kind::Suite {
            let name = shortened(element.name(), 100);
            let what = format!(
                "not a JUnit file: the root element is <{name}>, not <testsuites> or <testsuite>"
            );
            return Err(FormatError::malformed(what, element.at()));
        }
        self.path.push(kind);
        match kind {
            Kind::Suite => {
                // `testsuites` often bears the whole run's name, which is no suite's.
                let own = if element.name() == "testsuite" {
                    element.attribute("name")?
                } else {
                    None
                };
                let own = own
                    .as_deref()
                    .map(|name| name.trim_end_matches('/'))
                    .filter(|name| !name.is_empty());
                self.suites
                    .push(own.unwrap_or_else(|| self.suite()).to_owned());
                Ok(())
            }
            Kind::Case => self.open_case(element),
            Kind::Failure => self.open_detail(element, TestResult::Fail),
            Kind::Skipped => {
                let expected = element.attribute("type")?.as_deref() == Some("pytest.xfail");
                self.open_detail(
                    element,
                    if expected {
                        TestResult::Xfail
                    } else {
                        TestResult::Skip
                    },
                )
            }
            Kind::Property => self.property(element),
            Kind::Output | Kind::Properties | Kind::Other => Ok(()),
        }
    }

    fn open_case(&mut self, element: &Element<'_>) -> Result<(), FormatError> {
        let name = element.attribute("name")?;
        if name.is_none() {
            (self.emit)(Item::Problem(format!(
                "a testcase has no name, at byte {}",
                element.at()
            )))?;
        }
        let name = name.unwrap_or_default();
        let class = element
            .attribute("classname")?
            .filter(|class| !class.is_empty() && class != self.suite());
        // GoogleTest's way of saying that a test is disabled or filtered out.
        let run = element
            .attribute("status")?
            .is_none_or(|status| status != "notrun" && status != "disabled");
        self.case = Some(Case {
            name: class.map_or_else(|| name.clone(), |class| format!("{class}.{name}")),
            result: if run {
                TestResult::Pass
            } else {
                TestResult::Skip
            },
            time: element.attribute("time")?,
            message: None,
        });
        Ok(())
    }

    fn open_detail(
        &mut self,
        element: &Element<'_>,
        result: TestResult,
    ) -> Result<(), FormatError> {
        let message = element.attribute("message")?;
        if let Some(case) = &mut self.case {
            // A failure in the tear-down of a skipped test is a failure.
            if case.result != TestResult::Fail {
                case.result = result;
            }
            case.message = message;
        }
        Ok(())
    }

    fn property(&mut self, element: &Element<'_>) -> Result<(), FormatError> {
        let (Some(name), Some(value)) = (element.attribute("name")?, element.attribute("value")?)
        else {
            return Ok(());
        };
        self.properties += 1;
        if self.properties <= MAX_PROPERTIES {
            let value = Value::String(shortened(&value, MAX_VALUE));
            (self.emit)(Item::Metadata(shortened(&name, MAX_VALUE), value))?;
        } else if self.properties == MAX_PROPERTIES + 1 {
            let what = format!(
                "the file has more than {MAX_PROPERTIES} properties; the others are left out"
            );
            (self.emit)(Item::Problem(what))?;
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        match self.path.last() {
            Some(Kind::Failure | Kind::Skipped) => self.detail.push(text),
            Some(Kind::Output) => self.output.push(text),
            Some(Kind::Suite | Kind::Case | Kind::Properties | Kind::Property | Kind::Other)
            | None => {}
        }
    }

    fn close(&mut self) -> Result<(), FormatError> {
        match self.path.pop() {
            Some(Kind::Suite) => {
                self.suites.pop();
                Ok(())
            }
            Some(Kind::Case) => self.close_case(),
            Some(Kind::Failure | Kind::Skipped) => {
                self.close_detail();
                Ok(())
            }
            Some(Kind::Output | Kind::Properties | Kind::Property | Kind::Other) | None => Ok(()),
        }
    }

    fn close_detail(&mut self) {
        let detail = self.detail.take().filter(|text| !text.trim().is_empty());
        let message = self.case.as_mut().and_then(|case| case.message.take());
        // Most tools repeat the message in the text; some have one only.
        let message =
            message.filter(|message| !detail.as_ref().is_some_and(|text| text.contains(message)));
        for part in [message, detail]
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty())
        {
            if !self.log.is_empty() {
                self.log.push("\n");
            }
            self.log.push(&part);
        }
    }

    fn close_case(&mut self) -> Result<(), FormatError> {
        let output = self
            .output
            .take()
            .filter(|output| !output.trim().is_empty());
        let Some(case) = self.case.take() else {
            return Ok(());
        };
        if case.result == TestResult::Fail
            && let Some(output) = output
        {
            self.log.push("\n\n");
            self.log.push(&output);
        }
        let suite = self.suite().to_owned();
        if self.durations
            && let Some(time) = &case.time
        {
            self.duration(&suite, &case.name, time)?;
        }
        self.counts.add(case.result);
        let log = self.log.take();
        (self.emit)(Item::Test(Test {
            suite,
            name: case.name,
            result: case.result,
            log,
        }))?;
        Ok(())
    }

    fn duration(&mut self, suite: &str, name: &str, time: &str) -> Result<(), FormatError> {
        // Surefire groups thousands: `1,234.5`.
        let item = match time.replace(',', "").trim().parse::<f64>() {
            Ok(value) if value.is_finite() => Item::Metric(Metric {
                suite: suite.to_owned(),
                name: name.to_owned(),
                value,
                unit: "seconds".to_owned(),
                measurements: vec![value],
            }),
            Ok(_) | Err(_) => {
                let (name, time) = (shortened(name, MAX_VALUE), shortened(time, 100));
                Item::Problem(format!(
                    "the time of {suite}/{name}: \"{time}\" is no number"
                ))
            }
        };
        Ok((self.emit)(item)?)
    }

    /// The innermost suite's name.
    fn suite(&self) -> &str {
        self.suites.last().map_or("/", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(bytes: &[u8], durations: bool) -> (Vec<Item>, Result<Counts, FormatError>) {
        let mut items = Vec::new();
        let counts = read(&mut &*bytes, durations, &Limits::default(), &mut |item| {
            items.push(item);
            Ok(())
        });
        (items, counts)
    }

    fn tests(text: &str) -> Vec<Test> {
        let (items, counts) = read_all(text.as_bytes(), false);
        counts.unwrap();
        items
            .into_iter()
            .filter_map(|item| {
                if let Item::Test(test) = item {
                    Some(test)
                } else {
                    None
                }
            })
            .collect()
    }

    #[test]
    fn a_nextest_report_is_read() {
        let tests = tests(
            r#"<?xml version="1.0" encoding="UTF-8"?><testsuites name="nextest-run" tests="3">
            <testsuite name="krate::bin"><testcase name="a::works" classname="krate::bin" time="0.010"/>
            <testcase name="a::fails" classname="krate::bin"><failure type="test failure" message="boom">thread
panicked: boom</failure><system-out>out</system-out></testcase>
            <testcase name="a::flaky" classname="krate::bin"><flakyFailure message="x">y</flakyFailure></testcase>
            </testsuite></testsuites>"#,
        );
        assert_eq!(tests[0].suite, "krate::bin");
        assert_eq!(
            (tests[0].name.as_str(), tests[0].result),
            ("a::works", TestResult::Pass)
        );
        assert_eq!(
            tests[1].log.as_deref(),
            Some("thread\npanicked: boom\n\nout")
        );
        assert_eq!((tests[2].result, &tests[2].log), (TestResult::Pass, &None));
    }

    #[test]
    fn a_pytest_report_is_read() {
        let tests = tests(
            r#"<testsuites><testsuite name="pytest"><testcase classname="tests.test_a" name="test_x[a/b]" time="1">
            <skipped type="pytest.xfail" message="known">r</skipped></testcase>
            <testcase classname="tests.test_a" name="t2"><skipped type="pytest.skip" message="no net"/></testcase>
            <testcase classname="tests.test_a" name="t3"><skipped message="s"/><error message="teardown"/></testcase>
            <testcase classname="tests.test_a" name="t4"><system-out>chatty</system-out></testcase>
            </testsuite></testsuites>"#,
        );
        assert_eq!(tests[0].name, "tests.test_a.test_x[a/b]");
        assert_eq!(
            (tests[0].result, tests[0].log.as_deref()),
            (TestResult::Xfail, Some("known\nr"))
        );
        assert_eq!(
            (tests[1].result, tests[1].log.as_deref()),
            (TestResult::Skip, Some("no net"))
        );
        assert_eq!(
            (tests[2].result, tests[2].log.as_deref()),
            (TestResult::Fail, Some("s\nteardown"))
        );
        assert_eq!(
            (tests[3].result, &tests[3].log),
            (TestResult::Pass, &None),
            "the output of a passed test"
        );
    }

    #[test]
    fn suites_within_suites_name_their_own_tests() {
        let tests = tests(
            "<testsuite name='outer'><testcase name='a'/><testsuite name='inner/'><testcase name='b' status='notrun'/>\
             </testsuite><testsuite><testcase name='c' classname='outer'/></testsuite></testsuite>",
        );
        let names: Vec<_> = tests
            .iter()
            .map(|test| (test.suite.as_str(), test.name.as_str()))
            .collect();
        assert_eq!(names, [("outer", "a"), ("inner", "b"), ("outer", "c")]);
        assert_eq!(tests[1].result, TestResult::Skip);
    }

    #[test]
    fn durations_are_metrics_when_asked_for_and_a_bad_one_is_a_problem() {
        let text = b"<testsuite name='s'><testcase name='a' time='1,234.5'/><testcase name='b' time='NaN'/></testsuite>";
        assert_eq!(read_all(text, false).0.len(), 2);
        let (items, _) = read_all(text, true);
        assert!(
            matches!(&items[0], Item::Metric(metric) if metric.value == 1234.5 && metric.name == "a")
        );
        assert_eq!(
            items[2],
            Item::Problem("the time of s/b: \"NaN\" is no number".to_owned())
        );
    }

    #[test]
    fn properties_are_metadata_up_to_a_limit() {
        let text = format!(
            "<testsuite><properties>{}</properties></testsuite>",
            "<property name='k' value='v'/>".repeat(1000)
        );
        let (items, _) = read_all(text.as_bytes(), false);
        assert_eq!(items.len(), MAX_PROPERTIES + 1);
        assert_eq!(items[0], Item::Metadata("k".into(), "v".into()));
        assert!(matches!(&items[MAX_PROPERTIES], Item::Problem(_)));
    }

    #[test]
    fn a_cut_report_is_truncated_and_another_root_refused() {
        let error = read_all(b"<testsuite><testcase name='a'/>", false)
            .1
            .unwrap_err();
        assert!(matches!(error, FormatError::Truncated { .. }), "{error}");
        let error = read_all(b"<html/>", false).1.unwrap_err();
        assert!(error.to_string().contains("<html>"), "{error}");
    }

    proptest! {
        #[test]
        fn mixed_up_tags_never_panic(
            tags in prop::collection::vec(prop::sample::select(vec![
                "<testsuite name='a'>", "</testsuite>", "<testcase name='b' time='1'>", "</testcase>", "<failure>",
                "</failure>", "<skipped/>", "text", "<system-out>", "</system-out>", "<property name='' value=''/>", "&lt;",
            ]), 0..40),
        ) {
            let text = format!("<testsuites>{}</testsuites>", tags.concat());
            let (_, outcome) = read_all(text.as_bytes(), true);
            prop_assert!(!matches!(outcome, Err(FormatError::Io(_))), "{outcome:?}");
        }
    }
}
