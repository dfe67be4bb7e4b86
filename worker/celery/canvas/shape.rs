//! Signatures as Celery writes them down, and what can be said of one without sending it.

use serde_json::{Map, Value, json};

use super::MAX_DEPTH;
use crate::celery::Broken;

/// What a signature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Task,
    Group,
    Chain,
    Chord,
}

/// A signature taken apart.
#[derive(Debug, Clone)]
pub(super) struct Signature {
    pub(super) task: String,
    pub(super) args: Vec<Value>,
    pub(super) kwargs: Map<String, Value>,
    pub(super) options: Map<String, Value>,
    pub(super) kind: Kind,
    /// Whether it takes what came before it as its first arguments.
    pub(super) takes_args: bool,
}

impl Signature {
    pub(super) fn read(value: Value) -> Result<Self, Broken> {
        let Value::Object(mut fields) = value else {
            return Err(Broken::Workflow("a signature is no map".into()));
        };
        let Some(Value::String(task)) = fields.remove("task") else {
            return Err(Broken::Workflow("a signature names no task".into()));
        };
        let kind = match fields.get("subtask_type").and_then(Value::as_str) {
            Some("group") => Kind::Group,
            Some("chain") => Kind::Chain,
            Some("chord") => Kind::Chord,
            Some("chunks") => {
                return Err(Broken::Workflow(
                    "chunks inside a workflow are not known here: use a group".into(),
                ));
            }
            Some(_) | None => Kind::Task,
        };
        // `map` and `starmap` have their items in their named arguments.
        let maps = matches!(task.as_str(), "celery.map" | "celery.starmap");
        let takes_args = !maps && fields.get("immutable") != Some(&Value::Bool(true));
        Ok(Self {
            task,
            args: list(fields.remove("args")),
            kwargs: map(fields.remove("kwargs")),
            options: map(fields.remove("options")),
            kind,
            takes_args,
        })
    }

    /// The id that it has been given.
    pub(super) fn id(&self) -> Option<&str> {
        self.options.get("task_id").and_then(Value::as_str)
    }
}

/// What may be a list, one of its items alone, or nothing.
pub(super) fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(one) => vec![one],
    }
}

fn map(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// A group of `tasks`.
pub(super) fn group_of(tasks: Vec<Value>) -> Value {
    json!({ "task": "celery.group", "args": [], "kwargs": { "tasks": tasks }, "options": {}, "subtask_type": "group", "immutable": false })
}

fn deep(depth: usize) -> Result<usize, Broken> {
    if depth >= MAX_DEPTH {
        return Err(Broken::Workflow(format!(
            "it nests deeper than {MAX_DEPTH} levels"
        )));
    }
    Ok(depth + 1)
}

fn tasks(signature: &Signature) -> Vec<Value> {
    // A chain's or group's tasks may themselves be written as a group.
    match signature.kwargs.get("tasks") {
        Some(Value::Object(inner)) => {
            list(inner.get("kwargs").and_then(|it| it.get("tasks")).cloned())
        }
        other => list(other.cloned()),
    }
}

/// The members of a group, those of groups in it too.
pub(super) fn flatten(
    group: &Signature,
    members: &mut Vec<Value>,
    depth: usize,
) -> Result<(), Broken> {
    let depth = deep(depth)?;
    if group.kind != Kind::Group {
        return Err(Broken::Workflow("a chord's header is no group".into()));
    }
    for task in tasks(group) {
        let member = Signature::read(task.clone())?;
        match member.kind {
            Kind::Group => flatten(&member, members, depth)?,
            Kind::Task | Kind::Chain | Kind::Chord => members.push(task),
        }
    }
    Ok(())
}

/// The steps of a chain: chains in it unpacked, a group with a step after it a chord, and what the chain as a whole was given
/// (its id, its place in a group, links) at the step that completes it.
pub(super) fn steps(chain: &Signature, depth: usize) -> Result<Vec<Value>, Broken> {
    let depth = deep(depth)?;
    let mut steps: Vec<Value> = Vec::new();
    for task in tasks(chain) {
        let signature = Signature::read(task.clone())?;
        let unpacked = match signature.kind {
            Kind::Chain => self::steps(&signature, depth)?,
            Kind::Task | Kind::Group | Kind::Chord => vec![task],
        };
        for step in unpacked {
            match steps.last().cloned() {
                Some(last) => {
                    if let Some(joined) = join(last, &step)? {
                        steps.pop();
                        steps.push(joined);
                    } else {
                        steps.push(step);
                    }
                }
                None => steps.push(step),
            }
        }
    }
    let errbacks = list(chain.options.get("link_error").cloned());
    for step in &mut steps {
        append(step, "link_error", &errbacks);
    }
    if let Some(last) = steps.last_mut() {
        complete(last, depth, &|options| {
            for key in ["task_id", "group_id", "group_index", "chord"] {
                if let Some(value) = chain.options.get(key) {
                    options.entry(key).or_insert_with(|| value.clone());
                }
            }
        })?;
        append(last, "link", &list(chain.options.get("link").cloned()));
    }
    Ok(steps)
}

/// A group and the step after it are a chord.
fn join(last: Value, next: &Value) -> Result<Option<Value>, Broken> {
    if Signature::read(last.clone())?.kind != Kind::Group {
        return Ok(None);
    }
    Ok(Some(json!({
        "task": "celery.chord", "args": [], "kwargs": { "kwargs": {}, "header": last, "body": next },
        "options": {}, "subtask_type": "chord", "immutable": false,
    })))
}

fn append(step: &mut Value, key: &str, more: &[Value]) {
    if more.is_empty() {
        return;
    }
    if let Value::Object(fields) = step
        && let Value::Object(options) = fields.entry("options").or_insert_with(|| json!({}))
    {
        let mut all = list(options.remove(key));
        all.extend_from_slice(more);
        options.insert(key.to_owned(), Value::Array(all));
    }
}

/// Lets `with` change the options of the one task (or group) with whose end a signature as a whole has ended.
pub(super) fn complete(
    value: &mut Value,
    depth: usize,
    with: &dyn Fn(&mut Map<String, Value>),
) -> Result<(), Broken> {
    let depth = deep(depth)?;
    let kind = Signature::read(value.clone())?.kind;
    let Value::Object(fields) = value else {
        return Ok(());
    };
    let nested = match kind {
        Kind::Task | Kind::Group => None,
        Kind::Chain => fields
            .get_mut("kwargs")
            .and_then(|kwargs| kwargs.get_mut("tasks"))
            .and_then(Value::as_array_mut)
            .and_then(|tasks| tasks.last_mut()),
        Kind::Chord => fields
            .get_mut("kwargs")
            .and_then(|kwargs| kwargs.get_mut("body")),
    };
    match nested {
        Some(nested) => complete(nested, depth, with),
        None => {
            if let Value::Object(options) = fields.entry("options").or_insert_with(|| json!({})) {
                with(options);
            }
            Ok(())
        }
    }
}

/// The id of the task with whose end a signature as a whole has ended.
pub(super) fn completed_by(value: &Value, depth: usize) -> Result<String, Broken> {
    let mut copy = value.clone();
    let id = std::cell::RefCell::new(None);
    complete(&mut copy, depth, &|options| {
        *id.borrow_mut() = options
            .get("task_id")
            .and_then(Value::as_str)
            .map(str::to_owned);
    })?;
    id.into_inner()
        .ok_or_else(|| Broken::Workflow("a part of a chord has no id".into()))
}
