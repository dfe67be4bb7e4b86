//! The stand-in server's XML-RPC interface: the methods that a reader of results needs.

use quick_xml::escape::{escape, unescape};

use super::answer::metadata;
use super::job::{LabJob, quoted};
use super::{LabSuite, LabTest, Shared};

/// The answer to a `methodCall`.
pub(super) fn answer(shared: &Shared, question: &str) -> String {
    let method = between(question, "<methodName>", "</methodName>").unwrap_or_default();
    let args = arguments(question);
    let Some(job) = args.first().and_then(|id| shared.job(id)) else {
        return fault(404, "Specified job not found.");
    };
    match (method, args.as_slice()) {
        ("scheduler.job_details", [_]) => value(&details(&job)),
        ("results.get_testjob_suites_list_yaml", [_]) => {
            let lines = job.suites.iter().enumerate().map(|(index, suite)| {
                format!(
                    "- {{id: {}, job: {}, name: {}}}\n",
                    index + 1,
                    quoted(&job.id),
                    quoted(&suite.name)
                )
            });
            value(&text(&lines.collect::<String>()))
        }
        ("results.get_testsuite_results_yaml", [_, name, limit, offset]) => {
            let (Ok(limit), Ok(offset)) = (limit.parse(), offset.parse()) else {
                return fault(400, "limit and offset are numbers");
            };
            match job.suites.iter().find(|suite| suite.name == *name) {
                Some(suite) => {
                    let lines: String = suite
                        .page(offset, limit)
                        .iter()
                        .map(|test| line(suite, test))
                        .collect();
                    value(&text(if lines.is_empty() { "[]\n" } else { &lines }))
                }
                None => fault(404, "Specified test suite not found."),
            }
        }
        _ => fault(404, "no such method here"),
    }
}

/// One test as a YAML entry; a measurement is always text, and `None` is spelled out.
fn line(suite: &LabSuite, test: &LabTest) -> String {
    let metadata = metadata(suite, test).trim_end().replace('\n', ", ");
    let number =
        |line: Option<u64>| line.map_or_else(|| "null".to_owned(), |line| line.to_string());
    format!(
        "- {{name: {}, suite: {}, result: {}, measurement: {}, unit: {}, log_start_line: {}, log_end_line: {}, metadata: {{{metadata}}}}}\n",
        quoted(&test.name),
        quoted(&suite.name),
        quoted(&test.result),
        quoted(test.measurement.as_deref().unwrap_or("None")),
        quoted(&test.unit),
        number(test.lines.map(|lines| lines.0)),
        number(test.lines.map(|lines| lines.1)),
    )
}

fn details(job: &LabJob) -> String {
    let status = if job.state == "Finished" {
        &job.health
    } else {
        &job.state
    };
    let members = [
        ("id", text(&job.id)),
        ("status", text(status)),
        ("description", text(&job.name)),
        ("definition", text(&job.definition())),
        ("multinode_definition", text("")),
        (
            "start_time",
            "<dateTime.iso8601>20260101T00:01:00</dateTime.iso8601>".to_owned(),
        ),
        ("priority", "<int>50</int>".to_owned()),
        ("is_pipeline", "<boolean>1</boolean>".to_owned()),
        ("failure_comment", "<nil/>".to_owned()),
    ];
    let members = members.map(|(name, value)| {
        format!("<member><name>{name}</name><value>{value}</value></member>\n")
    });
    format!("<struct>\n{}</struct>", members.concat())
}

fn text(text: &str) -> String {
    format!("<string>{}</string>", escape(text))
}

fn value(inner: &str) -> String {
    format!(
        "<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value>{inner}</value>\n</param>\n</params>\n</methodResponse>\n"
    )
}

fn fault(code: u16, why: &str) -> String {
    format!(
        "<?xml version='1.0'?>\n<methodResponse>\n<fault>\n<value><struct>\n<member>\n<name>faultCode</name>\n<value><int>{code}</int></value>\n</member>\n<member>\n<name>faultString</name>\n<value><string>{}</string></value>\n</member>\n</struct></value>\n</fault>\n</methodResponse>\n",
        escape(why)
    )
}

/// The arguments' texts, whatever their types.
fn arguments(question: &str) -> Vec<String> {
    let params = question.split("<param>").skip(1);
    let values = params.filter_map(|param| between(param, "<value>", "</value>"));
    values
        .map(|value| {
            let inner = match value
                .strip_prefix('<')
                .and_then(|rest| rest.split_once('>'))
            {
                Some((_, rest)) => rest.split_once("</").map_or(rest, |(text, _)| text),
                None => value,
            };
            unescape(inner).map_or_else(|_| inner.to_owned(), std::borrow::Cow::into_owned)
        })
        .collect()
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split_once(end)?.0)
}
