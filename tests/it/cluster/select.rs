//! Which objects a list, a watch or a budget is about.

use serde_json::Value;

use super::kind::Kind;
use super::refusal::Refusal;

/// A namespace, labels and fields.
#[derive(Debug, Default)]
pub(super) struct Selector {
    namespace: Option<String>,
    labels: Vec<Term>,
    fields: Vec<(String, bool, String)>,
}

/// What is asked of one label.
#[derive(Debug)]
enum Term {
    In(String, Vec<String>),
    /// Also true of an object that has no such label.
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

impl Selector {
    pub(super) fn new(
        kind: &Kind,
        namespace: Option<&str>,
        labels: &str,
        fields: &str,
    ) -> Result<Self, Refusal> {
        let labels = split(labels)
            .into_iter()
            .map(term)
            .collect::<Result<_, _>>()?;
        let fields = split(fields)
            .into_iter()
            .map(|text| field(kind, text))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            labels,
            fields,
        })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let text = |path: &str| {
            let pointer = format!("/{}", path.replace('.', "/"));
            let value = object.pointer(&pointer).and_then(Value::as_str);
            value.unwrap_or_default()
        };
        let namespace = self.namespace.as_deref();
        namespace.is_none_or(|name| object["metadata"]["namespace"] == name)
            && self.labels.iter().all(|term| term.holds(object))
            && self
                .fields
                .iter()
                .all(|(path, equal, value)| (text(path) == value) == *equal)
    }
}

impl Term {
    fn holds(&self, object: &Value) -> bool {
        let label = |name: &str| object["metadata"]["labels"][name].as_str();
        let among = |values: &[String], value: &str| values.iter().any(|known| known == value);
        match self {
            Self::In(name, values) => label(name).is_some_and(|value| among(values, value)),
            Self::NotIn(name, values) => label(name).is_none_or(|value| !among(values, value)),
            Self::Exists(name) => label(name).is_some(),
            Self::Missing(name) => label(name).is_none(),
        }
    }
}

/// Whether a budget's `spec.selector` selects `pod`: an empty one selects all, none selects none.
pub(super) fn selects(selector: &Value, pod: &Value) -> bool {
    if !selector.is_object() {
        return false;
    }
    let mut terms = Vec::new();
    for (name, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        terms.push(Term::In(name.clone(), vec![text(value)]));
    }
    for expression in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let name = text(&expression["key"]);
        let values = expression["values"].as_array().into_iter().flatten();
        let values = values.map(text).collect();
        terms.push(match expression["operator"].as_str() {
            Some("In") => Term::In(name, values),
            Some("NotIn") => Term::NotIn(name, values),
            Some("Exists") => Term::Exists(name),
            Some("DoesNotExist") => Term::Missing(name),
            other => panic!("a selector's operator is {other:?}"),
        });
    }
    terms.iter().all(|term| term.holds(pod))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// At the commas that stand in no parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0;
    text.split(|c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
    .collect()
}

fn term(text: &str) -> Result<Term, Refusal> {
    let unreadable = || Refusal::bad_request(format!("unable to parse requirement: {text}"));
    if let Some((name, values)) = text.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(unreadable)?;
        let values = values.split(',').map(|value| value.trim().to_owned());
        let (name, operator) = name.trim().rsplit_once(' ').ok_or_else(unreadable)?;
        return match operator {
            "in" => Ok(Term::In(name.trim().into(), values.collect())),
            "notin" => Ok(Term::NotIn(name.trim().into(), values.collect())),
            _ => Err(unreadable()),
        };
    }
    if let Some(name) = text.strip_prefix('!') {
        return Ok(Term::Missing(name.trim().into()));
    }
    Ok(match equation(text) {
        Some((name, true, value)) => Term::In(name, vec![value]),
        Some((name, false, value)) => Term::NotIn(name, vec![value]),
        None if text.contains(' ') => return Err(unreadable()),
        None => Term::Exists(text.into()),
    })
}

/// The fields that a real server can select by, of those that are asked for here.
fn field(kind: &Kind, text: &str) -> Result<(String, bool, String), Refusal> {
    let found = equation(text)
        .ok_or_else(|| Refusal::bad_request(format!("invalid field selector: {text}")))?;
    let known = match kind.plural {
        "pods" => &["spec.nodeName", "status.phase"][..],
        "nodes" => &["spec.unschedulable"][..],
        _ => &[],
    };
    let name = found.0.as_str();
    if name == "metadata.name" || name == "metadata.namespace" || known.contains(&name) {
        return Ok(found);
    }
    Err(Refusal::bad_request(format!(
        "field label not supported: {name}"
    )))
}

fn equation(text: &str) -> Option<(String, bool, String)> {
    let (name, equal, value) = if let Some((name, value)) = text.split_once("!=") {
        (name, false, value)
    } else if let Some((name, value)) = text.split_once("==") {
        (name, true, value)
    } else {
        let (name, value) = text.split_once('=')?;
        (name, true, value)
    };
    Some((name.trim().into(), equal, value.trim().into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(labels: &str, fields: &str) -> bool {
        let pod = json!({
            "metadata": {"name": "p-0", "namespace": "n", "labels": {"a": "1", "b": ""}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"},
        });
        Selector::new(Kind::of("pods"), Some("n"), labels, fields)
            .unwrap()
            .matches(&pod)
    }

    #[test]
    fn every_form_of_a_label_selector_is_read() {
        for (labels, expected) in [
            ("", true),
            ("a=1", true),
            ("a==1,b", true),
            ("a=2", false),
            ("a!=1", false),
            ("c!=1", true),
            ("a in (0,1), b notin (x)", true),
            ("a notin (0, 1)", false),
            ("c notin (1)", true),
            ("c in (1)", false),
            ("!a", false),
            ("!c", true),
            ("c", false),
        ] {
            assert_eq!(matches(labels, ""), expected, "{labels}");
        }
    }

    #[test]
    fn fields_select_by_what_a_server_knows_and_refuse_the_rest() {
        assert!(matches("", "spec.nodeName=n1,status.phase!=Failed"));
        assert!(!matches("", "metadata.name=p-1"));
        let refused = Selector::new(Kind::of("pods"), None, "", "spec.color=red");
        assert_eq!(refused.unwrap_err().code, 400);
    }

    #[test]
    fn a_budget_without_a_selector_selects_nothing_and_with_an_empty_one_everything() {
        let pod = json!({"metadata": {"labels": {"a": "1"}}});
        assert!(!selects(&Value::Null, &pod));
        assert!(selects(&json!({}), &pod));
        assert!(!selects(
            &json!({"matchLabels": {"a": "1", "b": "1"}}),
            &pod
        ));
        let expressions = json!({"matchExpressions": [
            {"key": "a", "operator": "In", "values": ["1"]}, {"key": "b", "operator": "DoesNotExist"},
        ]});
        assert!(selects(&expressions, &pod));
    }
}
