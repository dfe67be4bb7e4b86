//! CTS results of any size, made up: for the demo, the tests and the benchmarks.
//!
//! Everything follows from [`Plan`]: the same plan always gives the same bytes, and [`Plan::test`]
//! says what a reader must find, so that a million tests can be compared one by one without a second
//! parser. Nothing is held in memory but one test.

use std::io::{self, Write};

use liblzma::write::XzEncoder;
use quick_xml::escape::partial_escape;
use tar::{EntryType, Header};

use super::Counts;
use crate::testjob::item::{Test, TestResult};

/// The folder that the tarball's members are in.
const FOLDER: &str = "tradefed-output";

const ABI: &str = "arm64-v8a";

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Tests in all.
    pub tests: u64,
    /// Tests of one `TestCase`; 0 counts as 1. [`Plan::new`] sets 22, as real results have.
    pub per_case: u64,
    /// `TestCase`s of one `Module`; 0 counts as 1. [`Plan::new`] sets 100.
    pub per_module: u64,
    /// One test in so many fails, spread at random; 0: none. [`Plan::new`] sets 1000.
    pub fail_every: u64,
    /// Chooses which tests fail, with which stack trace.
    pub seed: u64,
}

impl Plan {
    /// `tests` tests in the proportions of a real result.
    pub fn new(tests: u64, seed: u64) -> Self {
        Self {
            tests,
            per_case: 22,
            per_module: 100,
            fail_every: 1000,
            seed,
        }
    }

    /// The test at `index` (from 0, in the file's order), exactly as
    /// [`tradefed::read`](super::tradefed::read) with an empty prefix must give it.
    pub fn test(&self, index: u64) -> Test {
        let result = self.result(index);
        Test {
            suite: format!("{ABI}.{}", self.module_name(index)),
            name: format!("{}.{}", self.case_name(index), test_name(index)),
            result,
            log: (result == TestResult::Fail).then(|| self.trace(index)),
        }
    }

    /// How many tests end how. Takes some nanoseconds a test.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        (0..self.tests).for_each(|index| counts.add(self.result(index)));
        counts
    }

    fn result(&self, index: u64) -> TestResult {
        let dice = mixed(self.seed, index);
        if self.fail_every > 0 && dice.is_multiple_of(self.fail_every) {
            return TestResult::Fail;
        }
        // Other bits than the ones above, so that the two choices are independent.
        match (dice >> 32) % 400 {
            0 => TestResult::Xfail,
            1 => TestResult::Skip,
            _ => TestResult::Pass,
        }
    }

    /// The stack trace of the test at `index`, of 8 to 39 lines, with characters that XML escapes.
    fn trace(&self, index: u64) -> String {
        let dice = mixed(!self.seed, index);
        let case = self.case_name(index);
        let mut trace = format!(
            "java.lang.AssertionError: expected:<{}> but was:<\"{}\" & more>",
            dice % 97,
            dice % 89
        );
        for frame in 0..7 + dice % 32 {
            trace.push_str(&format!(
                "\n\tat {case}$Inner{frame}.<init>({case}.java:{})",
                (dice >> 8) % 1000 + frame
            ));
        }
        trace
    }

    fn case(&self, index: u64) -> u64 {
        index / self.per_case.max(1)
    }

    fn module(&self, index: u64) -> u64 {
        self.case(index) / self.per_module.max(1)
    }

    fn module_name(&self, index: u64) -> String {
        format!("CtsMade{:03}TestCases", self.module(index))
    }

    fn case_name(&self, index: u64) -> String {
        format!("android.made.cts.Made{:05}Test", self.case(index))
    }
}

fn test_name(index: u64) -> String {
    format!("testMadeUp{index:07}Works")
}

/// SplitMix64's finaliser (Steele, Lea, Flood, 2014): a number that looks random, from two.
fn mixed(seed: u64, index: u64) -> u64 {
    let mut word = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// Writes a `test_result.xml`: about 70 bytes a test. Returns how many tests ended how.
///
/// # Errors
///
/// Those of `out`.
pub fn xml(out: &mut dyn Write, plan: &Plan) -> io::Result<Counts> {
    let counts = plan.counts();
    let modules = if plan.tests == 0 {
        0
    } else {
        plan.module(plan.tests - 1) + 1
    };
    writeln!(
        out,
        "<?xml version='1.0' encoding='UTF-8' standalone='no' ?>"
    )?;
    writeln!(
        out,
        "<?xml-stylesheet type=\"text/xsl\" href=\"compatibility_result.xsl\"?>"
    )?;
    writeln!(
        out,
        "<Result suite_name=\"CTS\" suite_version=\"14_r1\" suite_plan=\"cts\" report_version=\"5.0\">"
    )?;
    writeln!(
        out,
        "  <Build build_fingerprint=\"made/up/device:14/MADE.{}/1:user\" build_abis=\"{ABI}\" />",
        plan.seed
    )?;
    writeln!(
        out,
        "  <Summary pass=\"{}\" failed=\"{}\" modules_done=\"{modules}\" modules_total=\"{modules}\" />",
        counts.pass, counts.fail
    )?;
    let mut index = 0;
    while index < plan.tests {
        index = module(out, plan, index)?;
    }
    writeln!(out, "</Result>")?;
    Ok(counts)
}

/// Writes the module that begins with the test `first`; returns the index after its last test.
fn module(out: &mut dyn Write, plan: &Plan, first: u64) -> io::Result<u64> {
    let name = plan.module_name(first);
    writeln!(
        out,
        "  <Module name=\"{name}\" abi=\"{ABI}\" runtime=\"1234\" done=\"true\">"
    )?;
    let mut index = first;
    while index < plan.tests && plan.module(index) == plan.module(first) {
        let case = plan.case(index);
        writeln!(out, "    <TestCase name=\"{}\">", plan.case_name(index))?;
        while index < plan.tests && plan.case(index) == case {
            test(out, plan, index)?;
            index += 1;
        }
        writeln!(out, "    </TestCase>")?;
    }
    writeln!(out, "  </Module>")?;
    Ok(index)
}

fn test(out: &mut dyn Write, plan: &Plan, index: u64) -> io::Result<()> {
    let name = test_name(index);
    let result = match plan.result(index) {
        TestResult::Pass => "pass",
        TestResult::Xfail => "ASSUMPTION_FAILURE",
        TestResult::Skip => "IGNORED",
        TestResult::Fail => {
            let trace = plan.trace(index);
            writeln!(out, "      <Test result=\"fail\" name=\"{name}\">")?;
            writeln!(
                out,
                "        <Failure message=\"java.lang.AssertionError\">"
            )?;
            writeln!(
                out,
                "          <StackTrace>{}</StackTrace>",
                partial_escape(trace.as_str())
            )?;
            writeln!(out, "        </Failure>")?;
            return writeln!(out, "      </Test>");
        }
    };
    writeln!(out, "      <Test result=\"{result}\" name=\"{name}\" />")
}

/// Writes a `.tar.xz` as tradefed's runner uploads it: `test_result.xml` and the files beside it, in
/// one folder. Returns how many tests ended how, and `out`.
///
/// # Errors
///
/// Those of `out`.
pub fn tarball<W: Write>(out: W, plan: &Plan) -> io::Result<(Counts, W)> {
    // Preset 1: a tenth of the default's time for a quarter more bytes.
    let mut out = io::BufWriter::with_capacity(64 * 1024, XzEncoder::new(out, 1));
    let mut size = Counted::default();
    let counts = xml(&mut size, plan)?;
    let stdout = format!("made up: {} tests, seed {}\n", plan.tests, plan.seed);
    member(&mut out, "test_result.xml", size.0, |out| {
        xml(out, plan).map(|_| ())
    })?;
    for (name, data) in [
        (
            "compatibility_result.xsl",
            "<xsl:stylesheet version=\"1.0\" xmlns:xsl=\"http://www.w3.org/1999/XSL/Transform\"/>\n",
        ),
        (
            "compatibility_result.css",
            "body { font-family: sans-serif }\n",
        ),
        ("logo.png", "\u{7f}made-up logo\n"),
        ("tradefed-stdout.txt", stdout.as_str()),
        (
            "tradefed-logcat.txt",
            "01-01 00:00:00.000  1  1 I MadeUp: no device was harmed\n",
        ),
    ] {
        member(&mut out, name, data.len() as u64, |out| {
            out.write_all(data.as_bytes())
        })?;
    }
    out.write_all(&[0; 1024])?;
    let out = out
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .finish()?;
    Ok((counts, out))
}

/// Writes one member of a tar archive whose data are exactly `size` bytes.
fn member(
    out: &mut dyn Write,
    name: &str,
    size: u64,
    data: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_path(format!("{FOLDER}/{name}"))?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    data(out)?;
    let padding = [0; 512];
    out.write_all(
        padding
            .get(..(size.next_multiple_of(512) - size) as usize)
            .unwrap_or_default(),
    )
}

/// Counts what is written to it.
#[derive(Default)]
struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(plan: &Plan) -> Vec<u8> {
        tarball(Vec::new(), plan).unwrap().1
    }

    #[test]
    fn the_same_plan_gives_the_same_bytes_and_another_seed_others() {
        assert_eq!(bytes(&Plan::new(5000, 1)), bytes(&Plan::new(5000, 1)));
        assert_ne!(bytes(&Plan::new(5000, 1)), bytes(&Plan::new(5000, 2)));
    }

    #[test]
    fn a_plan_has_some_of_every_outcome_and_no_more_tests_than_asked_for() {
        let counts = Plan::new(20_000, 7).counts();
        assert_eq!(counts.total(), 20_000);
        assert!((5..60).contains(&counts.fail), "{counts:?}");
        assert!(
            (20..100).contains(&counts.xfail) && (20..100).contains(&counts.skip),
            "{counts:?}"
        );
    }

    #[test]
    fn a_test_takes_about_seventy_bytes() {
        let mut size = Counted::default();
        xml(&mut size, &Plan::new(100_000, 3)).unwrap();
        assert!((60..90).contains(&(size.0 / 100_000)), "{}", size.0);
    }

    #[test]
    fn an_empty_plan_is_a_whole_file() {
        let mut text = Vec::new();
        let plan = Plan {
            tests: 0,
            per_case: 0,
            per_module: 0,
            fail_every: 0,
            seed: 0,
        };
        assert_eq!(xml(&mut text, &plan).unwrap(), Counts::default());
        assert!(String::from_utf8(text).unwrap().ends_with("</Result>\n"));
    }
}
