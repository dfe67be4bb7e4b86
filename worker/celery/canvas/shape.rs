//! Signatures as Celery writes them down, and what can be said of one without sending it.

use serde_json::{Map, Value, json};

use super::MAX_DEPTH;
use crate::celery::{Broken, is_map, tuple};

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
            Some(_) | None => Kind::Task,
        };
        // `map` and `starmap` have their items in their named arguments.
        let takes_args = !is_map(&task) && fields.get("immutable") != Some(&Value::Bool(true));
        Ok(Self {
            task,
            args: list(fields.remove("args")),
            kwargs: map(fields.remove("kwargs")),
            options: map(fields.remove("options")),
            kind,
            takes_args,
        })
    }

    /// The task by whose name it is routed: of a map, the one that it maps.
    pub(super) fn routed_as(&self) -> &str {
        if !is_map(&self.task) {
            return &self.task;
        }
        let mapped = self.kwargs.get("task").and_then(|it| it.get("task"));
        mapped.and_then(Value::as_str).unwrap_or(&self.task)
    }

    /// The id that it has been given.
    pub(super) fn id(&self) -> Option<&str> {
        self.options.get("task_id").and_then(Value::as_str)
    }
}

/// What `celery.chunks` sends: the group of their parts, each of which maps.
pub(super) fn chunks(kwargs: &Map<String, Value>) -> Result<Value, Broken> {
    let size = kwargs.get("n").and_then(Value::as_u64);
    let size = size.and_then(|size| usize::try_from(size).ok());
    let Some(size) = size.filter(|size| *size > 0) else {
        return Err(Broken::Workflow("its chunks have no size".into()));
    };
    let task = kwargs.get("task").cloned().unwrap_or_default();
    let items = list(kwargs.get("it").cloned());
    let parts = items.chunks(size).map(|part| {
        json!({
            "task": "celery.starmap", "args": [], "kwargs": { "task": task, "it": part }, "options": {},
            "subtask_type": null, "immutable": true,
        })
    });
    Ok(group_of(parts.collect()))
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

/// The part of a signature with whose end it has ended as a whole, if that is a group.
fn last_group(value: &mut Value, depth: usize) -> Result<Option<&mut Value>, Broken> {
    let depth = deep(depth)?;
    let nested = match Signature::read(value.clone())?.kind {
        Kind::Task => return Ok(None),
        Kind::Group => return Ok(Some(value)),
        Kind::Chain => value.pointer_mut("/kwargs/tasks").and_then(|tasks| {
            let tasks = tasks.as_array_mut()?;
            tasks.last_mut()
        }),
        Kind::Chord => value.pointer_mut("/kwargs/body"),
    };
    match nested {
        Some(nested) => last_group(nested, depth),
        None => Ok(None),
    }
}

/// If a signature ends in a group, then so does each member of that group: `with` is told its place, and changes the options of
/// what completes it.
pub(super) fn complete_members(
    value: &mut Value,
    depth: usize,
    path: &str,
    with: &dyn Fn(&str, &mut Map<String, Value>),
) -> Result<(), Broken> {
    let depth = deep(depth)?;
    let Some(group) = last_group(value, depth)? else {
        return Ok(());
    };
    let mut members = Vec::new();
    flatten(&Signature::read(group.clone())?, &mut members, depth)?;
    for (at, member) in members.iter_mut().enumerate() {
        let path = format!("{path}/{at}");
        complete(member, depth, &|options| with(&path, options))?;
        complete_members(member, depth, &path, with)?;
    }
    if let Some(kwargs) = group.get_mut("kwargs").and_then(Value::as_object_mut) {
        kwargs.insert("tasks".into(), Value::Array(members));
    }
    Ok(())
}

/// With how many tasks' ends a signature as a whole has ended.
pub(super) fn size(value: &Value, depth: usize) -> Result<usize, Broken> {
    let depth = deep(depth)?;
    let signature = Signature::read(value.clone())?;
    let nested = match signature.kind {
        Kind::Task => return Ok(1),
        Kind::Group => {
            let sizes = tasks(&signature).into_iter();
            return sizes.map(|task| size(&task, depth)).sum();
        }
        Kind::Chain => tasks(&signature).pop(),
        Kind::Chord => signature.kwargs.get("body").cloned(),
    };
    nested.map_or(Ok(0), |nested| size(&nested, depth))
}

/// The result of a signature as a whole, as Celery's clients write it: a task's, or those of a group.
pub(super) fn result_of(value: &Value, depth: usize) -> Result<Value, Broken> {
    let depth = deep(depth)?;
    let signature = Signature::read(value.clone())?;
    let none = || Broken::Workflow("a part of a chord has no id".into());
    let nested = match signature.kind {
        Kind::Task => return Ok(tuple(signature.id().ok_or_else(none)?, None)),
        Kind::Group => {
            let members = tasks(&signature).into_iter();
            let members = members.map(|task| result_of(&task, depth));
            let members = members.collect::<Result<Vec<_>, _>>()?;
            return Ok(json!([[signature.id(), null], members]));
        }
        Kind::Chain => tasks(&signature).pop(),
        Kind::Chord => signature.kwargs.get("body").cloned(),
    };
    result_of(&nested.ok_or_else(none)?, depth)
}
