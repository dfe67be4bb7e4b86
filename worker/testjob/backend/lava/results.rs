//! What LAVA's test cases mean: pure, no I/O.
//!
//! Invariants: the same case yields the same items each time; a measurement that is no number never
//! becomes a metric and never loses the test's result; `None` and `"None"` are no measurement.

use serde::Deserialize;
use serde_json::Value;

use crate::testjob::backend::{BROWSER_LINKS, Settings};
use crate::testjob::item::{Item, Metric, Test, TestResult};

/// The longest name of a suite or a test, in characters (SQUAD's limit).
const MAX_NAME: usize = 256;

/// Log lines shown for a test whose end LAVA missed (SQUAD's number).
const LINES_WITHOUT_END: u64 = 2;

/// One test case as both interfaces tell it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "RawCase")]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) result: String,
    pub(super) measurement: Value,
    pub(super) unit: String,
    /// A mapping (XML-RPC), or one as YAML text (REST).
    pub(super) metadata: Value,
    /// First and last line of its log, counted from 1.
    pub(super) lines: Option<(u64, u64)>,
}

/// The names of both interfaces and of LAVA's older releases. Everything but the name may be missing.
#[derive(Debug, Deserialize)]
struct RawCase {
    name: String,
    #[serde(default)]
    result: String,
    #[serde(default)]
    measurement: Value,
    #[serde(default)]
    unit: Option<String>,
    #[serde(default)]
    units: Option<String>,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    log_start_line: Value,
    #[serde(default)]
    log_end_line: Value,
    #[serde(default)]
    start_log_line: Value,
    #[serde(default)]
    end_log_line: Value,
}

impl From<RawCase> for Case {
    fn from(raw: RawCase) -> Self {
        let found = lines(Some(&raw.log_start_line), Some(&raw.log_end_line));
        let lines = found.or_else(|| lines(Some(&raw.start_log_line), Some(&raw.end_log_line)));
        Self {
            name: raw.name,
            result: raw.result,
            measurement: raw.measurement,
            unit: raw.unit.or(raw.units).unwrap_or_else(|| "items".to_owned()),
            metadata: raw.metadata,
            lines,
        }
    }
}

/// First and last line of a test's log, counted from 1; `None` without a first one.
pub(in crate::testjob::backend) fn lines(
    first: Option<&Value>,
    last: Option<&Value>,
) -> Option<(u64, u64)> {
    let first = line(first?)?;
    let last = last
        .and_then(line)
        .unwrap_or(first.saturating_add(LINES_WITHOUT_END));
    Some((first, last.max(first)))
}

/// A line number, as a number or as text; anything else (`null`, `"None"`) is none.
fn line(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        .filter(|line| *line > 0)
}

/// What the project wants of LAVA's results.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rules {
    /// `CI_LAVA_HANDLE_SUITE`: keep the suite `lava`.
    pub(super) lava_suite: bool,
    /// `CI_LAVA_HANDLE_BOOT`: make a boot test of the login action, if `lava` is not kept.
    pub(super) boot: bool,
    /// `CI_LAVA_CLONE_MEASUREMENTS`: a measurement is also a test.
    pub(super) clone_measurements: bool,
    /// `CI_LAVA_WORK_AROUND_INFRA_ERRORS`: results count in spite of an infrastructure error.
    pub(super) accept_infrastructure: bool,
    /// [`BROWSER_LINKS`]: a test's log begins with a link for a browser.
    pub(super) browser_links: bool,
}

impl Rules {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            lava_suite: settings.is_on("CI_LAVA_HANDLE_SUITE"),
            boot: settings.is_on("CI_LAVA_HANDLE_BOOT"),
            clone_measurements: settings.is_on("CI_LAVA_CLONE_MEASUREMENTS"),
            accept_infrastructure: settings.is_on("CI_LAVA_WORK_AROUND_INFRA_ERRORS"),
            browser_links: settings.is_on(BROWSER_LINKS),
        }
    }
}

/// What a test job's definition says about itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Definition {
    pub(super) job_name: Option<String>,
    pub(super) device_type: Option<String>,
    /// Its `metadata`, plus `suite_versions` from every `<suite>__version`.
    pub(super) metadata: Vec<(String, Value)>,
}

impl Definition {
    /// Reads the parts that matter of a definition in YAML.
    ///
    /// # Errors
    ///
    /// Why it is not readable.
    pub(super) fn parse(yaml: &str) -> Result<Self, String> {
        let yaml: serde_norway::Value =
            serde_norway::from_str(yaml).map_err(|error| error.to_string())?;
        let root = to_json(yaml);
        let word = |key: &str| root.get(key).and_then(Value::as_str).map(cut_name);
        let mut metadata: Vec<(String, Value)> = match root.get("metadata") {
            Some(Value::Object(entries)) => entries.clone().into_iter().collect(),
            _ => Vec::new(),
        };
        let versions: serde_json::Map<String, Value> = metadata
            .iter()
            .filter_map(|(key, value)| {
                Some((key.strip_suffix("__version")?.to_owned(), value.clone()))
            })
            .collect();
        if !versions.is_empty() {
            metadata.push(("suite_versions".to_owned(), Value::Object(versions)));
        }
        Ok(Self {
            job_name: word("job_name"),
            device_type: word("device_type"),
            metadata,
        })
    }

    fn testsuite(&self) -> Option<String> {
        let (_, value) = self.metadata.iter().find(|(key, _)| key == "testsuite")?;
        Some(
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned),
        )
    }
}

/// A test and the log lines that belong to it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::testjob::backend) struct Ranged {
    pub(in crate::testjob::backend) test: Test,
    /// First and last line, counted from 1.
    pub(in crate::testjob::backend) lines: (u64, u64),
}

/// What one case yields.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Yield {
    /// An item as it is.
    Ready(Item),
    /// A test that waits for its log.
    WithLog(Ranged),
}

/// The items of one case of `suite`, in order.
pub(super) fn items(suite: &str, case: &Case, rules: Rules, definition: &Definition) -> Vec<Yield> {
    if suite == "lava" && !rules.lava_suite {
        return if rules.boot && case.name.contains("login-action") {
            boot(case, definition)
        } else {
            Vec::new()
        };
    }
    let suite = suite.split_once('_').map_or(suite, |(_, rest)| rest);
    let full = format!("{suite}/{}", case.name);
    measured(&full, &full, case, rules.clone_measurements)
}

/// The boot test that stands for a login action, and how long it took.
fn boot(case: &Case, definition: &Definition) -> Vec<Yield> {
    let suite = format!(
        "boot-{}",
        definition.job_name.as_deref().unwrap_or("unknown")
    );
    let device = definition.device_type.as_deref().unwrap_or("unknown");
    let name = match definition.testsuite() {
        Some(testsuite) => format!("{suite}/{device}-{testsuite}"),
        None => format!("{suite}/{device}"),
    };
    measured(&name, &format!("{suite}/time-{device}"), case, true)
}

/// The test `test` and the metric `metric` of one case; the test only if there is no measurement
/// or `both` are wanted.
fn measured(test: &str, metric: &str, case: &Case, both: bool) -> Vec<Yield> {
    let mut out = Vec::new();
    let mut wants_test = both;
    match measurement(&case.measurement) {
        Ok(None) => wants_test = true,
        Ok(Some(value)) => match split_name(metric) {
            Some((suite, name)) => out.push(Yield::Ready(Item::Metric(Metric {
                suite,
                name,
                value,
                unit: case.unit.clone(),
                measurements: vec![value],
            }))),
            None => out.push(Yield::Ready(Item::Problem(too_long("metric", metric)))),
        },
        Err(text) => {
            wants_test = true;
            out.push(Yield::Ready(Item::Problem(format!(
                "metric {}: {text} is no number",
                cut_name(metric)
            ))));
        }
    }
    if wants_test {
        let found = match split_name(test) {
            Some((suite, name)) => with_lines(
                Test {
                    suite,
                    name,
                    result: result(&case.result),
                    log: None,
                },
                case,
            ),
            None => Yield::Ready(Item::Problem(too_long("test", test))),
        };
        out.insert(0, found);
    }
    out
}

fn with_lines(test: Test, case: &Case) -> Yield {
    match case.lines {
        Some(lines) => Yield::WithLog(Ranged { test, lines }),
        None => Yield::Ready(Item::Test(test)),
    }
}

/// LAVA's word for a result, as SQUAD takes it.
pub(in crate::testjob::backend) fn result(word: &str) -> TestResult {
    match word {
        "pass" => TestResult::Pass,
        "fail" => TestResult::Fail,
        _ => TestResult::Skip,
    }
}

/// The number measured, if any; what stands there in its place, if it is none.
fn measurement(value: &Value) -> Result<Option<f64>, String> {
    let number = match value {
        Value::Null => return Ok(None),
        Value::String(text) => match text.trim() {
            "" | "None" => return Ok(None),
            text => text.parse::<f64>().ok(),
        },
        Value::Number(number) => number.as_f64(),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    match number {
        Some(number) if number.is_finite() => Ok(Some(number)),
        Some(_) | None => Err(cut_name(&value.to_string())),
    }
}

/// Splits `suite/name` at the last `/` that is not inside of a trailing `[…]`; a name without `/`
/// is in the suite `/`. `None` if either is longer than SQUAD can keep.
pub(in crate::testjob::backend) fn split_name(full: &str) -> Option<(String, String)> {
    let head = match full.find('[') {
        Some(bracket) if full.ends_with(']') => &full[..bracket],
        Some(_) | None => full,
    };
    let (suite, name) = match head.rfind('/') {
        Some(0) => ("/", &full[1..]),
        Some(slash) => (&full[..slash], &full[slash + 1..]),
        None => ("/", full),
    };
    let fits = |text: &str| text.chars().count() <= MAX_NAME;
    (fits(suite) && fits(name)).then(|| (suite.to_owned(), name.to_owned()))
}

/// The problem with a name that [`split_name`] refused.
pub(in crate::testjob::backend) fn too_long(what: &str, name: &str) -> String {
    format!(
        "{what} {}…: its name is longer than {MAX_NAME} characters",
        cut_name(name)
    )
}

/// At most as much of a name as can be kept.
pub(in crate::testjob::backend) fn cut_name(name: &str) -> String {
    name.chars().take(MAX_NAME - 1).collect()
}

/// The file that a case refers to, with the test's full name.
pub(super) fn reference(suite: &str, case: &Case) -> Option<(String, String)> {
    let reference = match &case.metadata {
        Value::Object(entries) => entries.get("reference")?.as_str()?.to_owned(),
        // Reading YAML for every test would take long.
        Value::String(yaml) if yaml.contains("reference") => {
            to_json(serde_norway::from_str(yaml).ok()?)
                .get("reference")?
                .as_str()?
                .to_owned()
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            return None;
        }
    };
    let suite = suite.split_once('_').map_or(suite, |(_, rest)| rest);
    Some((format!("{suite}/{}", case.name), reference))
}

/// What the case `lava/job` says if the test job failed: LAVA's error metadata.
pub(super) fn failure(case: &Case) -> Option<Value> {
    (case.name == "job" && case.result == "fail").then(|| match &case.metadata {
        Value::String(yaml) => {
            serde_norway::from_str(yaml).map_or_else(|_| Value::String(yaml.clone()), to_json)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            case.metadata.clone()
        }
    })
}

/// Whether a failure means that the results do not count.
pub(super) fn is_infrastructure(failure: &Value) -> bool {
    let kind = failure.get("error_type").and_then(Value::as_str);
    matches!(kind, Some("Infrastructure" | "Job" | "Lava"))
}

/// YAML as JSON: keys become text, numbers that JSON cannot hold become text, tags are dropped.
pub(in crate::testjob) fn to_json(yaml: serde_norway::Value) -> Value {
    match yaml {
        serde_norway::Value::Null => Value::Null,
        serde_norway::Value::Bool(flag) => Value::Bool(flag),
        serde_norway::Value::Number(number) => serde_json::to_value(&number)
            .ok()
            .filter(|value| !value.is_null())
            .unwrap_or_else(|| Value::String(number.to_string())),
        serde_norway::Value::String(text) => Value::String(text),
        serde_norway::Value::Sequence(items) => {
            Value::Array(items.into_iter().map(to_json).collect())
        }
        serde_norway::Value::Mapping(entries) => Value::Object(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let key = to_json(key);
                    let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                    (key, to_json(value))
                })
                .collect(),
        ),
        serde_norway::Value::Tagged(tagged) => to_json(tagged.value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn case(value: Value) -> Case {
        serde_json::from_value(value).unwrap()
    }

    fn test(suite: &str, name: &str, result: TestResult) -> Yield {
        Yield::Ready(Item::Test(Test {
            suite: suite.into(),
            name: name.into(),
            result,
            log: None,
        }))
    }

    fn metric(suite: &str, name: &str, value: f64, unit: &str) -> Yield {
        Yield::Ready(Item::Metric(Metric {
            suite: suite.into(),
            name: name.into(),
            value,
            unit: unit.into(),
            measurements: vec![value],
        }))
    }

    fn of(suite: &str, value: Value) -> Vec<Yield> {
        items(
            suite,
            &case(value),
            Rules::default(),
            &Definition::default(),
        )
    }

    #[test]
    fn a_case_without_a_measurement_is_a_test() {
        let skip = TestResult::Skip;
        assert_eq!(
            of("0_smoke", json!({"name": "uname", "result": "pass"})),
            [test("smoke", "uname", TestResult::Pass)]
        );
        assert_eq!(
            of(
                "smoke",
                json!({"name": "a/b", "result": "fail", "measurement": "None"})
            ),
            [test("smoke/a", "b", TestResult::Fail)]
        );
        assert_eq!(
            of(
                "1_a_b",
                json!({"name": "x", "result": "unknown", "measurement": null})
            ),
            [test("a_b", "x", skip)]
        );
        assert_eq!(
            of("lava", json!({"name": "validate", "result": "pass"})),
            []
        );
    }

    #[test]
    fn a_case_with_a_measurement_is_a_metric_and_a_test_where_wanted() {
        let boot = json!({"name": "boot", "result": "pass", "measurement": "0.2600000000", "unit": "seconds"});
        assert_eq!(
            of("0_time", boot.clone()),
            [metric("time", "boot", 0.26, "seconds")]
        );
        let rules = Rules {
            clone_measurements: true,
            ..Rules::default()
        };
        assert_eq!(
            items("0_time", &case(boot), rules, &Definition::default()),
            [
                test("time", "boot", TestResult::Pass),
                metric("time", "boot", 0.26, "seconds")
            ]
        );
        assert_eq!(
            of("t", json!({"name": "n", "measurement": 3})),
            [metric("t", "n", 3.0, "items")]
        );
    }

    #[test]
    fn a_measurement_that_is_no_number_is_a_problem_and_keeps_the_result() {
        for wrong in ["nan", "inf", "fast", "1,5"] {
            let found = of(
                "t",
                json!({"name": "n", "result": "fail", "measurement": wrong}),
            );
            assert_eq!(found[0], test("t", "n", TestResult::Fail), "{wrong}");
            assert!(
                matches!(&found[1], Yield::Ready(Item::Problem(text)) if text.contains(wrong)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn log_lines_are_read_by_both_names() {
        let lines = |value| match of("s", value).remove(0) {
            Yield::WithLog(ranged) => Some(ranged.lines),
            Yield::Ready(_) => None,
        };
        assert_eq!(
            lines(json!({"name": "t", "start_log_line": 3, "end_log_line": 9})),
            Some((3, 9))
        );
        assert_eq!(
            lines(json!({"name": "t", "log_start_line": "3", "log_end_line": "None"})),
            Some((3, 5))
        );
        assert_eq!(lines(json!({"name": "t", "log_start_line": null})), None);
        assert_eq!(
            lines(json!({"name": "t", "start_log_line": 9, "end_log_line": 3})),
            Some((9, 9))
        );
    }

    #[test]
    fn a_login_action_is_a_boot_test_where_wanted() {
        let definition =
            Definition::parse("job_name: nightly\ndevice_type: x15\nmetadata: {testsuite: ltp}")
                .unwrap();
        let rules = Rules {
            boot: true,
            ..Rules::default()
        };
        let login = case(
            json!({"name": "auto-login-action", "result": "pass", "measurement": "12.5", "unit": "seconds"}),
        );
        assert_eq!(
            items("lava", &login, rules, &definition),
            [
                test("boot-nightly", "x15-ltp", TestResult::Pass),
                metric("boot-nightly", "time-x15", 12.5, "seconds")
            ]
        );
        assert_eq!(items("lava", &login, Rules::default(), &definition), []);
    }

    #[test]
    fn a_definition_gives_its_name_and_suite_versions() {
        let yaml = "job_name: n\nmetadata:\n  ltp__version: 2024\n  1: .nan\n  tagged: !x y\n";
        let definition = Definition::parse(yaml).unwrap();
        assert_eq!(definition.job_name.as_deref(), Some("n"));
        let metadata: serde_json::Map<String, Value> = definition.metadata.into_iter().collect();
        assert_eq!(metadata["suite_versions"], json!({"ltp": 2024}));
        assert!(metadata["1"].is_string());
        assert_eq!(metadata["tagged"], json!("y"));
        assert!(Definition::parse("a: [").is_err());
        assert_eq!(Definition::parse("plain").unwrap(), Definition::default());
    }

    #[test]
    fn names_split_outside_of_brackets() {
        let split = |full| split_name(full).unwrap();
        assert_eq!(split("a/b/c"), ("a/b".into(), "c".into()));
        assert_eq!(split("a/b[x/y]"), ("a".into(), "b[x/y]".into()));
        assert_eq!(split("alone"), ("/".into(), "alone".into()));
        assert_eq!(split_name(&format!("s/{}", "x".repeat(257))), None);
    }

    #[test]
    fn an_infrastructure_error_is_found_in_either_form() {
        let yaml = json!({"name": "job", "result": "fail", "metadata": "error_type: Infrastructure\nerror_msg: gone\n"});
        let map = json!({"name": "job", "result": "fail", "metadata": {"error_type": "Infrastructure", "error_msg": "gone"}});
        let found = failure(&case(yaml)).unwrap();
        assert_eq!(Some(&found), failure(&case(map)).as_ref());
        assert!(is_infrastructure(&found));
        assert!(!is_infrastructure(&json!({"error_type": "Test"})));
        assert_eq!(
            failure(&case(json!({"name": "job", "result": "pass"}))),
            None
        );
    }
}
