//! LAVA's XML-RPC interface: questions by hand, answers through quick-xml, both bounded.
//!
//! Invariants: it never expands an entity beyond XML's five; never reads an answer deeper than
//! [`MAX_DEPTH`] or with more than [`MAX_NODES`] elements; only asks, never changes anything, so
//! that a question may be repeated.
//!
//! Sources: the XML-RPC specification (xmlrpc.com/spec); `system.listMethods` of any LAVA server.

use base64::Engine as _;
use quick_xml::errors::IllFormedError;
use quick_xml::escape::{escape, resolve_xml_entity};
use quick_xml::events::Event;
use quick_xml::reader::Reader;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use url::Url;

use crate::testjob::backend::BackendError;
use crate::testjob::backend::http::{Body, Client, Failure, HttpError, Secret};
use crate::testjob::backend::lava::results::{Case, to_json};
use crate::testjob::backend::lava::{Cursor, Details, JobId, MAX_CASES, MAX_SUITES, Page, Suite};

/// Entries asked for in one page, and the sign that there is another.
const PAGE: u64 = 500;

/// The deepest answer that is read, in elements; LAVA's are about 10 deep.
const MAX_DEPTH: usize = 64;

/// The largest answer that is read, in elements; LAVA's are below 1000.
const MAX_NODES: usize = 100_000;

/// A LAVA server's XML-RPC interface.
#[derive(Debug)]
pub(super) struct XmlRpc {
    client: Client,
    /// Ends with `/RPC2`.
    endpoint: Url,
    user: Option<String>,
    token: Option<Secret>,
}

impl XmlRpc {
    pub(super) fn new(
        client: Client,
        endpoint: Url,
        user: Option<String>,
        token: Option<Secret>,
    ) -> Self {
        Self {
            client,
            endpoint,
            user,
            token,
        }
    }

    pub(super) async fn details(&self, id: &JobId) -> Result<Details, BackendError> {
        let job = self
            .ask("scheduler.job_details", &[Arg::Text(id.as_str())])
            .await?;
        let text = |key: &str| {
            job.get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let status = text("status")
            .or_else(|| text("state"))
            .ok_or_else(|| self.malformed("a job without a status"))?;
        Ok(Details {
            state: status.clone(),
            status: if status == "Finished" {
                text("health").unwrap_or(status)
            } else {
                status
            },
            definition: text("definition"),
            description: text("description"),
            started: text("start_time"),
            ended: text("end_time"),
        })
    }

    pub(super) async fn suites(&self, id: &JobId) -> Result<Vec<Suite>, BackendError> {
        let list: Vec<Value> = self
            .ask_yaml(
                "results.get_testjob_suites_list_yaml",
                &[Arg::Text(id.as_str())],
            )
            .await?;
        if list.len() > MAX_SUITES {
            return Err(BackendError::Final(format!(
                "test job {id} has more than {MAX_SUITES} suites"
            )));
        }
        list.iter()
            .map(|suite| match suite.get("name").and_then(Value::as_str) {
                Some(name) => Ok(Suite {
                    key: name.to_owned(),
                    name: name.to_owned(),
                }),
                None => Err(self.malformed("a suite without a name")),
            })
            .collect()
    }

    /// The page of `suite` at `cursor`.
    pub(super) async fn cases(
        &self,
        id: &JobId,
        suite: &Suite,
        cursor: Cursor,
    ) -> Result<Page, BackendError> {
        let args = [
            Arg::Text(id.as_str()),
            Arg::Text(&suite.key),
            Arg::Number(PAGE),
            Arg::Number(cursor.read),
        ];
        let cases: Vec<Case> = self
            .ask_yaml("results.get_testsuite_results_yaml", &args)
            .await?;
        let read = cursor.read + cases.len() as u64;
        if read > MAX_CASES {
            return Err(BackendError::Final(format!(
                "suite {} has more than {MAX_CASES} tests",
                suite.name
            )));
        }
        let next = (cases.len() as u64 >= PAGE).then_some(Cursor { read, next: None });
        Ok(Page { cases, next })
    }

    /// The log's stream, and `None` where the server has no log.
    pub(super) async fn log(&self, id: &JobId) -> Result<Option<Body>, BackendError> {
        let mut url = self.endpoint.clone();
        let root = url
            .path()
            .trim_end_matches('/')
            .trim_end_matches("RPC2")
            .to_owned();
        url.set_path(&format!("{root}scheduler/job/{id}/log_file/plain"));
        if let (Some(user), Some(token)) = (&self.user, &self.token) {
            url.query_pairs_mut()
                .append_pair("user", user)
                .append_pair("token", token.expose());
        }
        match self.client.stream(&url).await {
            Ok(body) => Ok(Some(body)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Calls `method`.
    async fn ask(&self, method: &str, args: &[Arg<'_>]) -> Result<Value, BackendError> {
        let body = self
            .client
            .ask_xml(&self.endpoint, &question(method, args))
            .await?;
        match answer(&body) {
            Ok(Answer::Value(value)) => Ok(value),
            Ok(Answer::Fault { code, text }) => {
                let text = format!("ask {method}: LAVA answered {code}: {text}");
                // LAVA's faults are HTTP's codes; 5xx is the server's own trouble.
                Err(if code / 100 == 5 {
                    BackendError::Temporary(text)
                } else {
                    BackendError::Final(text)
                })
            }
            Err(failure) => Err(HttpError::at(&self.endpoint, failure).into()),
        }
    }

    /// Calls a method that answers with YAML in a string.
    async fn ask_yaml<T: DeserializeOwned>(
        &self,
        method: &str,
        args: &[Arg<'_>],
    ) -> Result<T, BackendError> {
        let value = self.ask(method, args).await?;
        let yaml = value
            .as_str()
            .ok_or_else(|| self.malformed("an answer that is no text"))?;
        let yaml: serde_norway::Value = serde_norway::from_str(yaml)
            .map_err(|error| self.malformed(&format!("YAML: {error}")))?;
        serde_json::from_value(to_json(yaml)).map_err(|error| self.malformed(&error.to_string()))
    }

    fn malformed(&self, what: &str) -> BackendError {
        HttpError::at(&self.endpoint, Failure::Malformed(what.to_owned())).into()
    }
}

/// An argument of a method.
#[derive(Debug, Clone, Copy)]
enum Arg<'a> {
    Text(&'a str),
    Number(u64),
}

fn question(method: &str, args: &[Arg<'_>]) -> String {
    let params: String = args
        .iter()
        .map(|arg| match arg {
            Arg::Text(text) => format!(
                "<param><value><string>{}</string></value></param>",
                escape(*text)
            ),
            Arg::Number(number) => format!("<param><value><int>{number}</int></value></param>"),
        })
        .collect();
    format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>{}</methodName><params>{params}</params></methodCall>",
        escape(method)
    )
}

#[derive(Debug, PartialEq)]
enum Answer {
    Value(Value),
    Fault { code: i64, text: String },
}

#[derive(Debug, Default)]
struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }
}

/// Reads a `methodResponse`.
fn answer(body: &[u8]) -> Result<Answer, Failure> {
    let malformed = |what: &str| Failure::Malformed(what.to_owned());
    let text = std::str::from_utf8(body).map_err(|_| malformed("it is no UTF-8"))?;
    let root = tree(text)?;
    if root.name != "methodResponse" {
        return Err(Failure::Page(format!(
            "<{}>",
            root.name.chars().take(40).collect::<String>()
        )));
    }
    if let Some(value) = root.child("fault").and_then(|fault| fault.child("value")) {
        let fault = to_value(value)?;
        let code = fault.get("faultCode").and_then(Value::as_i64).unwrap_or(0);
        let text = fault
            .get("faultString")
            .and_then(Value::as_str)
            .unwrap_or("no reason given");
        return Ok(Answer::Fault {
            code,
            text: text.chars().take(500).collect(),
        });
    }
    let value = root
        .child("params")
        .and_then(|params| params.child("param"))
        .and_then(|param| param.child("value"));
    to_value(value.ok_or_else(|| malformed("no value"))?).map(Answer::Value)
}

/// Reads XML into elements, within bounds.
fn tree(text: &str) -> Result<Element, Failure> {
    let mut reader = Reader::from_str(text);
    let mut open = vec![Element::default()];
    let mut nodes = 0_usize;
    loop {
        let event = reader.read_event().map_err(|error| read_failure(&error))?;
        match event {
            Event::Start(start) => {
                nodes += 1;
                if nodes > MAX_NODES || open.len() > MAX_DEPTH {
                    return Err(wrong(&"too many or too deep elements"));
                }
                open.push(Element {
                    name: start.name().as_ref().to_owned(),
                    ..Element::default()
                });
            }
            Event::Empty(start) => {
                nodes += 1;
                if nodes > MAX_NODES {
                    return Err(wrong(&"too many elements"));
                }
                let element = Element {
                    name: start.name().as_ref().to_owned(),
                    ..Element::default()
                };
                top(&mut open)?.children.push(element);
            }
            Event::End(_) => {
                let element = open.pop().ok_or_else(|| wrong(&"too many ends"))?;
                top(&mut open)?.children.push(element);
            }
            Event::Text(piece) => top(&mut open)?.text.push_str(&piece.xml10_content()),
            Event::CData(piece) => top(&mut open)?.text.push_str(&piece.xml10_content()),
            Event::GeneralRef(entity) => {
                let found = match entity.resolve_char_ref().map_err(|error| wrong(&error))? {
                    Some(char) => char.to_string(),
                    None => resolve_xml_entity(&entity)
                        .ok_or_else(|| wrong(&"an unknown entity"))?
                        .to_owned(),
                };
                top(&mut open)?.text.push_str(&found);
            }
            Event::DocType(kind) if kind.trim().eq_ignore_ascii_case("html") => {
                return Err(Failure::Page("HTML".to_owned()));
            }
            Event::DocType(_) => return Err(wrong(&"a document type")),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    match (
        open.len(),
        open.pop().and_then(|mut outer| outer.children.pop()),
    ) {
        (1, Some(root)) => Ok(root),
        (1, None) => Err(Failure::EndsEarly("it is empty".to_owned())),
        (_, _) => Err(Failure::EndsEarly("elements are left open".to_owned())),
    }
}

/// What a mistake in the XML means.
fn read_failure(error: &quick_xml::Error) -> Failure {
    // Each of these says that something is still open where the text ends.
    let is_open = matches!(
        error,
        quick_xml::Error::Syntax(_)
            | quick_xml::Error::IllFormed(
                IllFormedError::UnclosedReference | IllFormedError::MissingEndTag(_)
            )
    );
    if is_open {
        Failure::EndsEarly(error.to_string())
    } else {
        wrong(error)
    }
}

fn wrong(what: &dyn std::fmt::Display) -> Failure {
    Failure::Malformed(what.to_string().chars().take(200).collect())
}

fn top(open: &mut [Element]) -> Result<&mut Element, Failure> {
    open.last_mut()
        .ok_or_else(|| Failure::Malformed("an end too many".to_owned()))
}

/// A `value` element as JSON. Its depth is bounded by [`tree`].
fn to_value(value: &Element) -> Result<Value, Failure> {
    let Some(typed) = value.children.first() else {
        return Ok(Value::String(value.text.clone()));
    };
    let text = typed.text.trim();
    let wrong = || {
        Failure::Malformed(format!(
            "{} {}",
            typed.name,
            text.chars().take(40).collect::<String>()
        ))
    };
    match typed.name.as_str() {
        "string" => Ok(Value::String(typed.text.clone())),
        "dateTime.iso8601" => Ok(Value::String(text.to_owned())),
        "int" | "i4" | "i8" => text.parse::<i64>().map(Value::from).map_err(|_| wrong()),
        "double" => text.parse::<f64>().map(Value::from).map_err(|_| wrong()),
        "boolean" => Ok(Value::Bool(text == "1")),
        "nil" => Ok(Value::Null),
        "base64" => {
            let compact: String = text.split_ascii_whitespace().collect();
            let bytes = base64::prelude::BASE64_STANDARD
                .decode(compact)
                .map_err(|_| wrong())?;
            Ok(Value::String(String::from_utf8_lossy(&bytes).into_owned()))
        }
        "array" => {
            let data = typed.child("data").map_or(&[][..], |data| &data.children);
            data.iter()
                .map(to_value)
                .collect::<Result<_, _>>()
                .map(Value::Array)
        }
        "struct" => {
            let mut map = Map::new();
            for member in &typed.children {
                let (name, value) = member
                    .child("name")
                    .zip(member.child("value"))
                    .ok_or_else(wrong)?;
                map.insert(name.text.clone(), to_value(value)?);
            }
            Ok(Value::Object(map))
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testjob::backend::http::{Verdict, classify};

    fn reply(value: &str) -> String {
        format!(
            "<?xml version='1.0'?>\n<methodResponse><params><param>{value}</param></params></methodResponse>"
        )
    }

    #[test]
    fn an_answer_of_every_type_is_read() {
        let xml = reply(
            "<value><struct>\n<member><name>a &amp; b</name><value><int>-3</int></value></member>\
             <member><name>t</name><value><boolean>1</boolean></value></member>\
             <member><name>l</name><value><array><data><value>&lt;x&#62;</value><value><nil/></value>\
             <value><double>1.5</double></value></data></array></value></member>\
             <member><name>b</name><value><base64>aGVs\nbG8=</base64></value></member>\
             <member><name>e</name><value><string></string></value></member></struct></value>",
        );
        let expected =
            json!({"a & b": -3, "t": true, "l": ["<x>", null, 1.5], "b": "hello", "e": ""});
        assert_eq!(answer(xml.as_bytes()), Ok(Answer::Value(expected)));
    }

    #[test]
    fn a_fault_gives_its_code() {
        let xml = "<methodResponse><fault><value><struct><member><name>faultCode</name><value><int>404</int></value>\
                   </member><member><name>faultString</name><value>gone</value></member></struct></value></fault></methodResponse>";
        assert_eq!(
            answer(xml.as_bytes()),
            Ok(Answer::Fault {
                code: 404,
                text: "gone".into()
            })
        );
    }

    #[test]
    fn an_answer_cut_anywhere_is_temporary() {
        let xml = reply("<value><string>some &amp; text</string></value>");
        for length in 0..xml.len() {
            let failure = answer(&xml.as_bytes()[..length]).unwrap_err();
            assert_eq!(
                classify(&failure),
                Verdict::Temporary,
                "{length}: {failure}"
            );
        }
    }

    #[test]
    fn a_page_is_temporary_and_nonsense_is_final() {
        for page in [
            "<html><body>down</body></html>",
            "<!DOCTYPE html><html><br></html>",
        ] {
            assert_eq!(
                classify(&answer(page.as_bytes()).unwrap_err()),
                Verdict::Temporary,
                "{page}"
            );
        }
        let deep = reply(&"<value><array><data>".repeat(100));
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\">]><methodResponse>&a;</methodResponse>";
        let entity = reply("<value>&nope;</value>");
        for wrong in [
            deep.as_str(),
            bomb,
            &entity,
            &reply("<value><int>x</int></value>"),
            "<a></b>x",
        ] {
            assert_eq!(
                classify(&answer(wrong.as_bytes()).unwrap_err()),
                Verdict::Final,
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_question_is_escaped() {
        let text = question("m", &[Arg::Text("<&>"), Arg::Number(7)]);
        assert!(
            text.contains("<string>&lt;&amp;&gt;</string>") && text.contains("<int>7</int>"),
            "{text}"
        );
    }
}
