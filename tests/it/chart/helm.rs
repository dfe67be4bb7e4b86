//! The tools that scripts/tools fetched, and what Helm makes of values.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize as _;
use serde_json::Value;

/// A manifest.
pub(super) type Object = Value;

/// A Helm that the chart is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Helm {
    Three,
    Four,
}

impl Helm {
    pub(super) const BOTH: [Self; 2] = [Self::Three, Self::Four];

    fn program(self) -> &'static str {
        match self {
            Self::Three => "helm3",
            Self::Four => "helm4",
        }
    }

    /// Runs a verb of it on the chart, without any cluster.
    pub(super) fn run(self, verb: &[&str], values: &[&Path], more: &[&str]) -> Output {
        let mut command = tool(self.program());
        command.args(verb).arg(chart("")).args(more);
        for values in values {
            command.arg("--values").arg(values);
        }
        command.output().unwrap()
    }

    /// The manifests of release `ci` in the namespace `lab`, or what it says against the values.
    pub(super) fn render(self, values: &[&Path], more: &[&str]) -> Result<Vec<Object>, String> {
        self.render_as("ci", "lab", values, more)
    }

    /// The manifests of a release in a namespace, or what Helm says against the values.
    pub(super) fn render_as(
        self,
        release: &str,
        namespace: &str,
        values: &[&Path],
        more: &[&str],
    ) -> Result<Vec<Object>, String> {
        let verb = [
            "template",
            release,
            "--namespace",
            namespace,
            "--kube-version",
            "1.33.0",
        ];
        let output = self.run(&verb, values, more);
        if output.status.success() {
            Ok(objects(&String::from_utf8(output.stdout).unwrap()))
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }
}

/// The manifests of an example's values.
pub(super) fn example(name: &str) -> Vec<Object> {
    example_with(name, &[])
}

/// The manifests of an example's values and what `more` arguments change.
pub(super) fn example_with(name: &str, more: &[&str]) -> Vec<Object> {
    Helm::Four.render(&[&values(name)], more).unwrap()
}

/// All examples: `all`, `embedded`, ….
pub(super) fn examples() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(chart("ci"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|file| file.strip_suffix("-values.yaml").unwrap().to_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 5, "{names:?}");
    names
}

/// The values of an example.
pub(super) fn values(example: &str) -> PathBuf {
    chart(&format!("ci/{example}-values.yaml"))
}

/// A path in the chart.
pub(super) fn chart(path: &str) -> PathBuf {
    source("charts/longshore").join(path)
}

/// A path in the sources.
pub(super) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program that scripts/tools fetched, with nothing of the caller's cluster.
pub(super) fn tool(name: &str) -> Command {
    let program = source("target/tools").join(name);
    assert!(program.exists(), "{name} is missing: run scripts/tools");
    let mut command = Command::new(program);
    command.env("KUBECONFIG", "/dev/null").stdin(Stdio::null());
    command
}

/// Runs a program of `tests/it/chart` in the Python that has the schemas.
pub(super) fn python(script: &str, arguments: &[PathBuf], input: &str) -> Output {
    let mut child = tool("venv/bin/python")
        .arg(source("tests/it/chart").join(script))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// The documents of a YAML text.
fn objects(text: &str) -> Vec<Object> {
    serde_norway::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|document| !document.is_null())
        .collect()
}

/// What a program said.
pub(super) fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// The kind of an object.
pub(super) fn kind(object: &Object) -> &str {
    object["kind"].as_str().unwrap()
}

/// The name of an object.
pub(super) fn name(object: &Object) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// The objects of a kind.
pub(super) fn all<'o>(objects: &'o [Object], wanted: &str) -> Vec<&'o Object> {
    objects
        .iter()
        .filter(|object| kind(object) == wanted)
        .collect()
}

/// The one object of a kind whose name ends so.
pub(super) fn one<'o>(objects: &'o [Object], wanted: &str, ending: &str) -> &'o Object {
    let found: Vec<&Object> = all(objects, wanted)
        .into_iter()
        .filter(|object| name(object).ends_with(ending))
        .collect();
    let [one] = found[..] else {
        panic!("{} {wanted} end with {ending:?}", found.len())
    };
    one
}

/// Every pod, or template of one, in any object: its metadata and spec.
pub(super) fn pods(objects: &[Object]) -> Vec<&Value> {
    objects
        .iter()
        .filter_map(|object| match kind(object) {
            "Pod" => Some(object),
            "Deployment" | "StatefulSet" | "Job" => Some(&object["spec"]["template"]),
            _ => None,
        })
        .collect()
}

/// The templates of workers' pods.
pub(super) fn workers(objects: &[Object]) -> Vec<&Value> {
    pods(objects)
        .into_iter()
        .filter(|pod| pod["metadata"]["labels"]["app.kubernetes.io/component"] == "worker")
        .collect()
}
