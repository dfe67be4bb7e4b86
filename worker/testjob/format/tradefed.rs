//! Android's CTS and VTS results: `test_result.xml` as tradefed's compatibility reporter writes it.
//!
//! A suite is `<abi>.<Module>`, a test `<TestCase>.<Test>`. Every stack trace is whole, in however
//! many pieces it arrives, up to [`Limits::text`]. The reader never trusts the file's own totals:
//! it counts, and says so in an [`Item::Problem`] if the `Summary` says otherwise.

use std::io::Read;

use serde_json::Value;

use super::xml::{Document, Element, Piece};
use super::{Counts, Emit, FormatError, Limits, MAX_VALUE, Text, shortened};
use crate::testjob::item::{Item, Test, TestResult};

/// Attributes of `Result` that become metadata of the same name.
const OF_RESULT: [&str; 7] = [
    "suite_name",
    "suite_version",
    "suite_plan",
    "suite_variant",
    "suite_build_number",
    "start_display",
    "end_display",
];

/// Attributes of `Build` that become metadata of the same name.
const OF_BUILD: [&str; 10] = [
    "build_fingerprint",
    "build_id",
    "build_type",
    "build_product",
    "build_device",
    "build_model",
    "build_abis",
    "build_version_release",
    "build_version_sdk",
    "build_version_security_patch",
];

/// Attributes of `Summary` that become metadata, under these names.
const OF_SUMMARY: [(&str, &str); 4] = [
    ("pass", "summary_pass"),
    ("failed", "summary_failed"),
    ("modules_done", "modules_done"),
    ("modules_total", "modules_total"),
];

/// Reads a `test_result.xml` and emits its metadata and tests; suites are named
/// `<prefix>/<abi>.<Module>`, without the slash where `prefix` is empty. Returns what it counted.
///
/// `pass` and `fail` mean themselves, `ASSUMPTION_FAILURE` is [`TestResult::Xfail`], everything else
/// (`IGNORED`, `not_executed`, …) is [`TestResult::Skip`].
///
/// # Errors
///
/// [`FormatError`]; what was emitted by then is not the whole.
pub fn read(
    input: &mut dyn Read,
    prefix: &str,
    limits: &Limits,
    emit: &mut Emit<'_>,
) -> Result<Counts, FormatError> {
    let mut document = Document::new(input, limits);
    let mut results = Results {
        prefix,
        path: Vec::new(),
        suite: String::new(),
        case: String::new(),
        test: None,
        message: None,
        trace: Text::new(limits.text),
        counts: Counts::default(),
        summary: Summary::default(),
        emit,
    };
    loop {
        match document.next()? {
            Piece::Open(element) => results.open(&element)?,
            Piece::Close => results.close()?,
            Piece::Text(text) => {
                if results.path.last() == Some(&Kind::StackTrace) {
                    results.trace.push(&text);
                }
            }
            Piece::End => return results.finish(),
        }
    }
}

/// The elements that matter, where they are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Result,
    Build,
    Summary,
    Module,
    TestCase,
    Test,
    Failure,
    StackTrace,
    Other,
}

impl Kind {
    fn of(parent: Option<Self>, name: &str) -> Self {
        match (parent, name) {
            (None, "Result") => Self::Result,
            (Some(Self::Result), "Build") => Self::Build,
            (Some(Self::Result), "Summary") => Self::Summary,
            (Some(Self::Result), "Module") => Self::Module,
            (Some(Self::Module), "TestCase") => Self::TestCase,
            (Some(Self::TestCase), "Test") => Self::Test,
            (Some(Self::Test), "Failure") => Self::Failure,
            (Some(Self::Failure), "StackTrace") => Self::StackTrace,
            _ => Self::Other,
        }
    }
}

/// What the file says of itself.
#[derive(Default)]
struct Summary {
    pass: Option<u64>,
    failed: Option<u64>,
}

struct Results<'a, 'e> {
    prefix: &'a str,
    /// The open elements, outermost first.
    path: Vec<Kind>,
    suite: String,
    case: String,
    test: Option<(String, TestResult)>,
    message: Option<String>,
    trace: Text,
    counts: Counts,
    summary: Summary,
    emit: &'a mut Emit<'e>,
}

impl Results<'_, '_> {
    fn open(&mut self, element: &Element<'_>) -> Result<(), FormatError> {
        let parent = self.path.last().copied();
        let kind = Kind::of(parent, element.name());
        if parent.is_none() && kind != Kind::Result {
            let name = shortened(element.name(), 100);
            let what = format!("not a tradefed result: the root element is <{name}>, not <Result>");
            return Err(FormatError::malformed(what, element.at()));
        }
        self.path.push(kind);
        match kind {
            Kind::Result => self.metadata(element, OF_RESULT.map(|key| (key, key))),
            Kind::Build => self.metadata(element, OF_BUILD.map(|key| (key, key))),
            Kind::Summary => {
                let number = |key| {
                    Ok::<_, FormatError>(element.attribute(key)?.and_then(|text| text.parse().ok()))
                };
                self.summary = Summary {
                    pass: number("pass")?,
                    failed: number("failed")?,
                };
                self.metadata(element, OF_SUMMARY)
            }
            Kind::Module => {
                let name = self.name_of(element, "a module")?;
                let abi = element.attribute("abi")?.filter(|abi| !abi.is_empty());
                let dotted = abi.map_or_else(|| name.clone(), |abi| format!("{abi}.{name}"));
                self.suite = if self.prefix.is_empty() {
                    dotted
                } else {
                    format!("{}/{dotted}", self.prefix)
                };
                Ok(())
            }
            Kind::TestCase => {
                self.case = self.name_of(element, "a test case")?;
                Ok(())
            }
            Kind::Test => {
                let name = self.name_of(element, "a test")?;
                let result = match element.attribute("result")?.as_deref() {
                    Some("pass") => TestResult::Pass,
                    Some("fail") => TestResult::Fail,
                    Some("ASSUMPTION_FAILURE") => TestResult::Xfail,
                    Some(_) | None => TestResult::Skip,
                };
                self.test = Some((name, result));
                Ok(())
            }
            Kind::Failure => {
                self.message = element
                    .attribute("message")?
                    .or_else(|| self.message.take());
                Ok(())
            }
            Kind::StackTrace => {
                // A test that failed more than once has a trace for each.
                if !self.trace.is_empty() {
                    self.trace.push("\n");
                }
                Ok(())
            }
            Kind::Other => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), FormatError> {
        let Some(Kind::Test) = self.path.pop() else {
            return Ok(());
        };
        let Some((name, result)) = self.test.take() else {
            return Ok(());
        };
        if self.trace.is_empty()
            && let Some(message) = &self.message
        {
            self.trace.push(message);
        }
        self.message = None;
        self.counts.add(result);
        let name = format!("{}.{name}", self.case);
        (self.emit)(Item::Test(Test {
            suite: self.suite.clone(),
            name,
            result,
            log: self.trace.take(),
        }))?;
        Ok(())
    }

    /// The attribute `name`, without which nothing below the element can be told from others.
    fn name_of(&mut self, element: &Element<'_>, what: &str) -> Result<String, FormatError> {
        match element.attribute("name")? {
            Some(name) => Ok(name),
            None => {
                (self.emit)(Item::Problem(format!(
                    "{what} has no name, at byte {}",
                    element.at()
                )))?;
                Ok(String::new())
            }
        }
    }

    fn metadata<const N: usize>(
        &mut self,
        element: &Element<'_>,
        keys: [(&str, &str); N],
    ) -> Result<(), FormatError> {
        for (attribute, key) in keys {
            if let Some(value) = element.attribute(attribute)? {
                (self.emit)(Item::Metadata(
                    key.to_owned(),
                    Value::String(shortened(&value, MAX_VALUE)),
                ))?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Counts, FormatError> {
        let checks = [
            ("pass", self.summary.pass, self.counts.pass),
            ("failed", self.summary.failed, self.counts.fail),
        ];
        for (key, said, read) in checks {
            if let Some(said) = said
                && said != read
            {
                (self.emit)(Item::Problem(format!(
                    "the summary says {key}={said}, but the file has {read}"
                )))?;
            }
        }
        Ok(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use proptest::prelude::*;

    use super::super::generate::{Plan, xml};
    use super::*;

    /// Gives at most `step` bytes at once.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let amount = self.1.min(out.len());
            self.0.read(&mut out[..amount])
        }
    }

    fn run(input: &mut dyn Read, limits: &Limits) -> (Vec<Item>, Result<Counts, FormatError>) {
        let mut items = Vec::new();
        let counts = read(input, "cts", limits, &mut |item| {
            items.push(item);
            Ok(())
        });
        (items, counts)
    }

    fn whole(text: &str) -> (Vec<Item>, Result<Counts, FormatError>) {
        run(&mut text.as_bytes(), &Limits::default())
    }

    fn tests(items: Vec<Item>) -> Vec<Test> {
        let test = |item| {
            if let Item::Test(test) = item {
                Some(test)
            } else {
                None
            }
        };
        items.into_iter().filter_map(test).collect()
    }

    fn problems(items: &[Item]) -> Vec<String> {
        let text = |item: &Item| {
            if let Item::Problem(text) = item {
                Some(text.clone())
            } else {
                None
            }
        };
        items.iter().filter_map(text).collect()
    }

    /// A document with one test whose inside is `inner`.
    fn one(inner: &str) -> String {
        format!(
            "<?xml version='1.0' encoding='UTF-8' standalone='no' ?><Result><Module name='M' abi='a'>\
             <TestCase name='C'><Test result='fail' name='t'>{inner}</Test></TestCase></Module></Result>"
        )
    }

    #[test]
    fn results_names_and_metadata_are_as_the_file_says() {
        let (items, counts) = whole(
            r#"<?xml version='1.0'?><!-- c --><Result suite_name="VTS" host="x"><Build build_id="Q&amp;A"/>
            <Summary pass="1" failed="1" modules_done="1" modules_total="2"/>
            <Module name="M" abi="x86" done="true"><Reason message="r"/><TestCase name="a.B">
            <Test result="pass" name="p[1/&lt;2&gt;]"/><Test result="fail" name="f"><Failure message="why"/></Test>
            <Test result="ASSUMPTION_FAILURE" name="x"/><Test result="IGNORED" name="i"/><Test name="n"/>
            </TestCase></Module></Result>"#,
        );
        assert_eq!(
            counts.unwrap(),
            Counts {
                pass: 1,
                fail: 1,
                xfail: 1,
                skip: 2
            }
        );
        assert!(items.contains(&Item::Metadata("suite_name".into(), "VTS".into())));
        assert!(items.contains(&Item::Metadata("build_id".into(), "Q&A".into())));
        assert!(items.contains(&Item::Metadata("modules_total".into(), "2".into())));
        assert!(problems(&items).is_empty());
        let tests = tests(items);
        assert_eq!(
            (tests[0].suite.as_str(), tests[0].name.as_str()),
            ("cts/x86.M", "a.B.p[1/<2>]")
        );
        assert_eq!(tests[1].log.as_deref(), Some("why"));
        assert_eq!(tests[2].log, None, "the message belongs to its own test");
    }

    #[test]
    fn without_prefix_and_abi_the_suite_is_the_module() {
        let mut suites = Vec::new();
        let text = "<Result><Module name='M'><TestCase name='C'><Test name='t'/></TestCase></Module></Result>";
        read(&mut text.as_bytes(), "", &Limits::default(), &mut |item| {
            suites.extend(tests(vec![item]).into_iter().map(|test| test.suite));
            Ok(())
        })
        .unwrap();
        assert_eq!(suites, ["M"]);
    }

    #[test]
    fn a_stack_trace_is_whole_at_every_read_boundary() {
        let trace = "java.lang.Error: ä€𝄞 &lt;init&gt; &#65;&#x42;&#10;\n\tat a.b.C.&lt;init&gt;(C.java:1)\n\
                     <![CDATA[\tat <raw> & ]] > ]]]]>\n<!-- - not > this -->\tat the.End(End.java:9)";
        let expected = "java.lang.Error: ä€𝄞 <init> AB\n\n\tat a.b.C.<init>(C.java:1)\n\
                        \tat <raw> & ]] > ]]\n\tat the.End(End.java:9)";
        let text = one(&format!(
            "<Failure message='m > \"' ><StackTrace >{trace}</StackTrace></Failure>"
        ));
        for step in (1..64).chain([text.len()]) {
            for start in 0..64.min(text.len()) {
                let (head, tail) = text.as_bytes().split_at(start);
                let (items, counts) = run(&mut head.chain(Slow(tail, step)), &Limits::default());
                counts.unwrap();
                assert_eq!(
                    tests(items)[0].log.as_deref(),
                    Some(expected),
                    "step {step}, start {start}"
                );
            }
        }
    }

    #[test]
    fn two_failures_of_one_test_are_both_kept() {
        let failure = |text| format!("<Failure><StackTrace>{text}</StackTrace></Failure>");
        let (items, _) = whole(&one(&format!("{}{}", failure("first"), failure("second"))));
        assert_eq!(tests(items)[0].log.as_deref(), Some("first\nsecond"));
    }

    #[test]
    fn garbage_in_one_trace_costs_nothing_else() {
        let mut text =
            one("<Failure><StackTrace>a&#0;b&#xD800;c&#27;d?e</StackTrace></Failure>").into_bytes();
        let place = text.iter().rposition(|byte| *byte == b'?').unwrap();
        text[place] = 0xFF;
        let (items, counts) = run(&mut text.as_slice(), &Limits::default());
        counts.unwrap();
        assert_eq!(
            tests(items)[0].log.as_deref(),
            Some("a\u{FFFD}b\u{FFFD}c\u{1b}d\u{FFFD}e")
        );
    }

    #[test]
    fn a_long_trace_is_cut_and_says_so() {
        let text = one(&format!(
            "<Failure><StackTrace>{}</StackTrace></Failure>",
            "&amp;".repeat(5000)
        ));
        let (items, _) = run(
            &mut text.as_bytes(),
            &Limits {
                text: 1000,
                ..Limits::default()
            },
        );
        let log = tests(items)[0].log.clone().unwrap();
        assert!(
            log.len() <= 1000 && log.starts_with("&&&&") && log.ends_with("bytes cut]"),
            "{log}"
        );
    }

    #[test]
    fn a_summary_that_is_wrong_is_a_problem() {
        let (items, _) = whole("<Result><Summary pass='2' failed='0'/></Result>");
        assert_eq!(
            problems(&items),
            ["the summary says pass=2, but the file has 0"]
        );
    }

    #[test]
    fn another_root_is_refused() {
        let error = whole("<testsuites/>").1.unwrap_err();
        assert!(error.to_string().contains("<testsuites>"), "{error}");
    }

    #[test]
    fn what_is_no_xml_is_malformed_not_cut() {
        let error = whole("404 page not found").1.unwrap_err();
        assert!(!error.is_temporary(), "{error}");
        assert!(whole("  ").1.unwrap_err().is_temporary());
    }

    #[test]
    fn deep_xml_is_refused() {
        let error = whole(&format!("<Result>{}", "<a>".repeat(10_000)))
            .1
            .unwrap_err();
        assert!(
            matches!(error, FormatError::Limit { limit: 64, .. }),
            "{error}"
        );
    }

    #[test]
    fn declared_entities_are_refused_and_undeclared_ones_too() {
        let laughs =
            r#"<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><Result>&b;</Result>"#;
        assert!(whole(laughs).1.unwrap_err().to_string().contains("DOCTYPE"));
        for text in ["<Result>&b;</Result>", "<Result suite_name='&b;'/>"] {
            let error = whole(text).1.unwrap_err();
            assert!(
                error.to_string().contains("unknown entity `&b;`"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_piece_over_the_limit_is_refused() {
        let limits = Limits {
            piece: 100_000,
            ..Limits::default()
        };
        for text in [
            format!("<Result a='{}'/>", "x".repeat(1_000_000)),
            one(&format!("<Failure><StackTrace>{}", "x".repeat(1_000_000))),
            format!("<Result><!--{}--></Result>", "x".repeat(1_000_000)),
        ] {
            let error = run(&mut text.as_bytes(), &limits).1.unwrap_err();
            assert!(
                matches!(error, FormatError::Limit { limit: 100_000, .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn many_pieces_together_may_be_longer_than_one() {
        let trace = "<Failure><StackTrace>0123456789</StackTrace></Failure>".repeat(1000);
        let limits = Limits {
            piece: 2000,
            ..Limits::default()
        };
        let (items, counts) = run(&mut one(&trace).as_bytes(), &limits);
        counts.unwrap();
        assert_eq!(tests(items)[0].log.as_ref().unwrap().len(), 11 * 1000 - 1);
    }

    #[test]
    fn a_byte_order_mark_is_skipped_even_cut_in_two() {
        let text = "\u{FEFF}<?xml version='1.0' encoding='utf-8'?><Result/>";
        for step in [1, 2, 3, 100] {
            let (_, counts) = run(&mut Slow(text.as_bytes(), step), &Limits::default());
            assert_eq!(counts.unwrap(), Counts::default());
        }
    }

    #[test]
    fn an_encoding_that_is_not_utf8_is_refused() {
        let error = whole("<?xml version='1.0' encoding='UTF-16'?><Result/>")
            .1
            .unwrap_err();
        assert!(error.to_string().contains("UTF-16"), "{error}");
    }

    #[test]
    fn a_file_cut_anywhere_is_truncated_never_a_result() {
        let text = one(
            "<Failure message='a&gt;'><StackTrace>x &amp; <![CDATA[y]]></StackTrace></Failure>",
        );
        for end in 0..text.len() {
            let error = whole(&text[..end]).1.unwrap_err();
            assert!(
                matches!(error, FormatError::Truncated { .. }),
                "{end}: {error}"
            );
        }
        let error = whole(&text[..text.len() - 30]).1.unwrap_err();
        assert!(
            error.to_string().contains("inside <Result> <Module>"),
            "{error}"
        );
    }

    #[test]
    fn a_stopped_receiver_ends_the_reading_at_once() {
        let mut calls = 0;
        let error = read(&mut one("").as_bytes(), "", &Limits::default(), &mut |_| {
            calls += 1;
            Err(super::super::Stopped)
        });
        assert!(matches!(error, Err(FormatError::Stopped)));
        assert_eq!(calls, 1);
    }

    #[test]
    fn an_error_of_the_stream_is_told_from_an_error_of_the_file() {
        struct Reset;
        impl Read for Reset {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let error = run(&mut b"<Result>".chain(Reset), &Limits::default())
            .1
            .unwrap_err();
        assert!(
            matches!(error, FormatError::Io(inner) if inner.kind() == io::ErrorKind::ConnectionReset)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_generated_file_is_read_as_it_was_written(count in 0u64..3000, seed: u64, step in 1usize..5000) {
            let plan = Plan::new(count, seed);
            let mut text = Vec::new();
            let written = xml(&mut text, &plan).unwrap();
            let (items, counts) = run(&mut Slow(&text, step), &Limits::default());
            prop_assert_eq!(counts.unwrap(), written);
            prop_assert!(problems(&items).is_empty());
            for (index, mut test) in tests(items).into_iter().enumerate() {
                test.suite = test.suite.trim_start_matches("cts/").to_owned();
                prop_assert_eq!(test, plan.test(index as u64));
            }
        }

        #[test]
        fn mutated_files_never_panic_and_read_alike_in_single_bytes(
            seed: u64, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut text = Vec::new();
            xml(&mut text, &Plan::new(20, seed)).unwrap();
            for (index, byte) in edits {
                let index = index.index(text.len());
                text[index] = byte;
            }
            text.truncate(cut.index(text.len() * 4));
            let (items, counts) = run(&mut text.as_slice(), &Limits::default());
            let (slow_items, slow_counts) = run(&mut Slow(&text, 1), &Limits::default());
            prop_assert_eq!(items, slow_items);
            prop_assert_eq!(counts.map_err(|e| e.to_string()), slow_counts.map_err(|e| e.to_string()));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (_, outcome) = run(&mut bytes.as_slice(), &Limits::default());
            prop_assert!(!matches!(outcome, Err(FormatError::Io(_))), "{outcome:?}");
        }
    }
}
