//! Celery's workflows: what is to be sent when a task of one has ended. Pure: values in, messages out.
//!
//! A message carries what comes after it: `chain` (the steps to come, the next one last), `callbacks` and `errbacks` (what is
//! linked to it) and `chord` (the body of the chord of whose header it is a part), each as *signatures*: maps with `task`,
//! `args`, `kwargs`, `options`, `immutable` and, for a workflow in a workflow, `subtask_type`. Described in
//! <https://docs.celeryq.dev/en/stable/userguide/canvas.html>; what a worker does with them is `celery/app/trace.py`'s and
//! `celery/canvas.py`'s.
//!
//! Ids that a signature does not have are made from the sender's and the place in its workflow: the same task continued
//! twice would send the same ids.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Broken, reply_to, tuple};
use crate::clock::Millis;
use crate::codec::{self, WORKFLOW};
use crate::config::Routes;
use crate::id::TaskId;
use crate::task::{Task, Wire};

mod shape;

use shape::{Kind, Signature, list};

/// Workflows in workflows, at most: far above any real one, far below what exhausts a stack.
const MAX_DEPTH: usize = 32;
/// How soon the first look at a chord's results is, in milliseconds, where Celery polls them.
const UNLOCK_AFTER: Millis = 1000;
/// The task that looks at a chord's results and sends its body; every Celery worker has it too.
pub(super) const UNLOCK: &str = "celery.chord_unlock";

/// What is to be sent and written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) posts: Vec<Task>,
    pub(super) chords: Vec<Chord>,
    /// Chords of which a part has ended, each with the message for when it was the last.
    pub(super) parts: Vec<(String, Task)>,
    /// What was sent, as result tuples.
    pub(super) children: Vec<Value>,
}

/// A chord that begins.
#[derive(Debug)]
pub(super) struct Chord {
    pub(super) group: String,
    /// Its parts, as result tuples.
    pub(super) results: Vec<Value>,
    pub(super) size: usize,
    unlock: Task,
}

impl Chord {
    /// The message that polls for its results, for tables that have no counter.
    pub(super) fn unlock(mut self, now: Millis) -> Task {
        let after = codec::iso8601(now.saturating_add(UNLOCK_AFTER));
        self.unlock.headers.insert("eta".into(), after.into());
        self.unlock
            .kwargs
            .insert("result".into(), Value::Array(self.results));
        self.unlock
    }
}

/// A later step of a chain whose earlier one has failed.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) id: String,
    pub(super) group: Value,
    pub(super) reply_to: Option<String>,
}

/// What goes with every message that is sent for one signature.
#[derive(Clone, Default)]
struct Call {
    /// Put before the signature's own arguments.
    args: Vec<Value>,
    /// The steps to come.
    chain: Option<Vec<Value>>,
    /// Where in the workflow this is.
    path: String,
    depth: usize,
}

impl Call {
    fn at(&self, place: impl std::fmt::Display) -> Self {
        Self {
            path: format!("{}/{place}", self.path),
            depth: self.depth + 1,
            ..self.clone()
        }
    }
}

/// A workflow as one of its tasks has it.
pub(super) struct Canvas<'a> {
    routes: &'a Routes,
    task: &'a Task,
    now: Millis,
    root: String,
    plan: Plan,
}

impl<'a> Canvas<'a> {
    pub(super) fn new(routes: &'a Routes, task: &'a Task, now: Millis) -> Self {
        let root = task.headers.get("root_id").and_then(Value::as_str);
        Self {
            routes,
            task,
            now,
            root: root.unwrap_or(task.id.as_str()).to_owned(),
            plan: Plan::default(),
        }
    }

    /// What is to be done.
    pub(super) fn end(self) -> Plan {
        self.plan
    }

    /// The task has returned `value`: callbacks, then the next step, and its part of a chord.
    pub(super) fn succeeded(&mut self, value: &Value) -> Result<(), Broken> {
        let call = Call {
            args: vec![value.clone()],
            ..Call::default()
        };
        for (at, callback) in self.workflow("callbacks").into_iter().enumerate() {
            self.send(callback, &call.at(format_args!("link{at}")))?;
        }
        let mut chain = self.workflow("chain");
        if let Some(next) = chain.pop() {
            let chain = Some(chain);
            self.send(
                next,
                &Call {
                    chain,
                    ..call.at("next")
                },
            )?;
        }
        self.part_of(self.task)
    }

    /// The task has failed for good: its part of a chord, its errbacks with its id, and the steps that will never run.
    pub(super) fn failed(&mut self) -> Result<Vec<Step>, Broken> {
        let mut steps = Vec::new();
        let mut chain = self.workflow("chain");
        while let Some(step) = chain.pop() {
            let step = Signature::read(step)?;
            if let Some(id) = step.id() {
                steps.push(Step {
                    id: id.to_owned(),
                    group: step.options.get("group_id").cloned().unwrap_or_default(),
                    reply_to: reply_to(&step.options),
                });
            }
            if let Some(body) = step.options.get("chord").filter(|body| !body.is_null())
                && let Some(group) = step.options.get("group_id").and_then(Value::as_str)
            {
                self.part(group, body)?;
            }
            // A chord has ended when its body has.
            if step.kind == Kind::Chord
                && let Some(body) = step.kwargs.get("body")
            {
                chain.push(body.clone());
            }
        }
        self.part_of(self.task)?;
        let call = Call {
            args: vec![self.task.id.as_str().into()],
            ..Call::default()
        };
        for (at, errback) in self.workflow("errbacks").into_iter().enumerate() {
            self.send(errback, &call.at(format_args!("error{at}")))?;
        }
        Ok(steps)
    }

    /// If `task` is a part of a chord, that part has ended.
    pub(super) fn part_of(&mut self, task: &Task) -> Result<(), Broken> {
        let group = task.headers.get("group").and_then(Value::as_str);
        let body = task.headers.get(WORKFLOW).and_then(|it| it.get("chord"));
        match (group, body) {
            (Some(group), Some(body)) if !body.is_null() => self.part(group, body),
            _ => Ok(()),
        }
    }

    /// The steps of the task's own message under `key`.
    fn workflow(&self, key: &str) -> Vec<Value> {
        let workflow = self.task.headers.get(WORKFLOW);
        list(workflow.and_then(|it| it.get(key)).cloned())
    }

    fn part(&mut self, group: &str, body: &Value) -> Result<(), Broken> {
        let mut unlock = self.unlock(group, body)?;
        // Not to the body's queue but to one that is served: the member's own, whoever serves that.
        unlock.queue.clone_from(&self.task.queue);
        self.plan.parts.push((group.to_owned(), unlock));
        Ok(())
    }

    /// The message that looks at a chord's results.
    fn unlock(&self, group: &str, body: &Value) -> Result<Task, Broken> {
        let signature = Signature::read(body.clone())?;
        let mut unlock = Task::new(UNLOCK, self.queue(&signature))
            .with_id(self.derived(&format!("unlock/{group}")))
            .for_celery();
        unlock.args = vec![group.into(), body.clone()];
        unlock
            .kwargs
            .insert("result".into(), Value::Array(Vec::new()));
        unlock.headers.insert("ignore_result".into(), true.into());
        unlock
            .headers
            .insert("root_id".into(), self.root.as_str().into());
        unlock
            .headers
            .insert("parent_id".into(), self.task.id.as_str().into());
        Ok(unlock)
    }

    /// An id for what has none.
    fn derived(&self, path: &str) -> String {
        let name = format!("longshore.celery/{}/{path}", self.task.id);
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
    }

    /// Where a signature's message goes.
    fn queue(&self, signature: &Signature) -> String {
        let option = |key: &str| match signature.options.get(key)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            // A queue that was given as an object.
            Value::Object(queue) => queue.get("name")?.as_str().map(str::to_owned),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => None,
        };
        option("queue")
            .or_else(|| option("routing_key"))
            .unwrap_or_else(|| self.routes.get(signature.routed_as()).to_owned())
    }

    /// Sends whatever `signature` is.
    fn send(&mut self, signature: Value, call: &Call) -> Result<(), Broken> {
        if call.depth > MAX_DEPTH {
            return Err(Broken::Workflow(format!(
                "it nests deeper than {MAX_DEPTH} levels"
            )));
        }
        let signature = Signature::read(signature)?;
        match signature.kind {
            Kind::Task => self.send_task(signature, call),
            Kind::Group => self.send_group(signature, call),
            Kind::Chain => self.send_chain(signature, call),
            Kind::Chord => self.send_chord(signature, call),
        }
    }

    fn send_task(&mut self, signature: Signature, call: &Call) -> Result<(), Broken> {
        let id = signature
            .id()
            .map_or_else(|| self.derived(&call.path), str::to_owned);
        let queue = self.queue(&signature);
        let expires_at = self.time(&signature.options, "expires", None)?;
        let eta = self.time(&signature.options, "eta", Some("countdown"))?;
        let Signature {
            task: name,
            args,
            kwargs,
            options,
            takes_args,
            ..
        } = signature;
        let mut task = Task::new(name, queue).for_celery();
        task.id = TaskId::new(id);
        task.args = match takes_args {
            true => call.args.iter().cloned().chain(args).collect(),
            false => args,
        };
        task.kwargs = kwargs;
        let priority = options.get("priority").and_then(Value::as_u64);
        task.priority = u8::try_from(priority.unwrap_or_default()).unwrap_or(u8::MAX);
        task.expires_at = expires_at;
        task.headers = self.headers(&options);
        task.headers
            .insert("eta".into(), eta.map(codec::iso8601).into());
        let chain = call
            .chain
            .clone()
            .or_else(|| Some(list(options.get("chain").cloned())));
        let workflow = [
            (
                "callbacks",
                Value::Array(list(options.get("link").cloned())),
            ),
            (
                "errbacks",
                Value::Array(list(options.get("link_error").cloned())),
            ),
            ("chain", chain.map_or(Value::Null, Value::Array)),
            ("chord", options.get("chord").cloned().unwrap_or_default()),
        ];
        let workflow = workflow
            .into_iter()
            .filter(|(_, value)| {
                !value.is_null() && value.as_array().is_none_or(|it| !it.is_empty())
            })
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<Map<_, _>>();
        if !workflow.is_empty() {
            task.headers
                .insert(WORKFLOW.into(), Value::Object(workflow));
        }
        self.plan
            .children
            .push(tuple(task.id.as_str(), Some(self.task.id.as_str())));
        self.plan.posts.push(task);
        Ok(())
    }

    /// The headers that a signature's options say.
    fn headers(&self, options: &Map<String, Value>) -> Map<String, Value> {
        let option = |key: &str| options.get(key).cloned().unwrap_or_default();
        let mut headers = Map::new();
        for (header, value) in [
            ("root_id", Value::from(self.root.as_str())),
            ("parent_id", self.task.id.as_str().into()),
            ("group", option("group_id")),
            ("group_index", option("group_index")),
            ("shadow", option("shadow")),
            (
                "timelimit",
                json!([option("time_limit"), option("soft_time_limit")]),
            ),
            (
                "ignore_result",
                (option("ignore_result") == Value::Bool(true)).into(),
            ),
        ] {
            headers.insert(header.to_owned(), value);
        }
        if let Some(queue) = reply_to(options) {
            headers.insert(codec::REPLY_TO.to_owned(), queue.into());
        }
        let stamped = list(options.get("stamped_headers").cloned());
        if !stamped.is_empty() {
            let stamps = stamped.iter().filter_map(Value::as_str);
            let stamps = stamps.map(|key| (key.to_owned(), option(key))).collect();
            headers.insert("stamps".to_owned(), Value::Object(stamps));
            headers.insert("stamped_headers".to_owned(), Value::Array(stamped));
        }
        if let Some(Value::Object(own)) = options.get("headers") {
            headers.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        headers
    }

    /// A time that the options say, as ISO 8601 text or (`key` itself, or `relative`) in seconds from now.
    fn time(
        &self,
        options: &Map<String, Value>,
        key: &str,
        relative: Option<&str>,
    ) -> Result<Option<Millis>, Broken> {
        let given = options.get(key).filter(|value| !value.is_null());
        let given = given.or_else(|| options.get(relative?).filter(|value| !value.is_null()));
        let Some(value) = given else {
            return Ok(None);
        };
        let time = match value {
            Value::Number(seconds) => seconds
                .as_f64()
                .map(|seconds| self.now.saturating_add((seconds * 1000.0) as Millis)),
            Value::String(text) => codec::from_iso8601(text),
            // kombu's JSON for a datetime: `{"__type__": "datetime", "__value__": "…"}`.
            Value::Object(typed) => typed
                .get("__value__")
                .and_then(Value::as_str)
                .and_then(codec::from_iso8601),
            Value::Null | Value::Bool(_) | Value::Array(_) => None,
        };
        let broken =
            || Broken::Workflow(format!("its option {key:?} is {value}, which is no time"));
        time.map(Some).ok_or_else(broken)
    }

    fn send_group(&mut self, signature: Signature, call: &Call) -> Result<(), Broken> {
        let group = signature
            .id()
            .map_or_else(|| self.derived(&call.path), str::to_owned);
        let chord = signature
            .options
            .get("chord")
            .filter(|body| !body.is_null());
        let members = self.members(&signature, &group, chord, call)?;
        let outer = std::mem::take(&mut self.plan.children);
        for (at, member) in members.into_iter().enumerate() {
            self.send(member, &call.at(at))?;
        }
        let members = std::mem::replace(&mut self.plan.children, outer);
        let children = json!([[group, tuple(self.task.id.as_str(), None)], members]);
        self.plan.children.push(children);
        Ok(())
    }

    /// The members of a group, each of which knows that it is one; groups in groups are one group.
    fn members(
        &self,
        signature: &Signature,
        group: &str,
        chord: Option<&Value>,
        call: &Call,
    ) -> Result<Vec<Value>, Broken> {
        let mut members = Vec::new();
        shape::flatten(signature, &mut members, call.depth)?;
        for (at, member) in members.iter_mut().enumerate() {
            let path = format!("{}/{at}", call.path);
            let place = |path: &str, options: &mut Map<String, Value>| {
                options
                    .entry("task_id")
                    .or_insert_with(|| self.derived(path).into());
                options.entry("group_id").or_insert_with(|| group.into());
                // The client may have put the body here before it knew what comes after it.
                if let Some(body) = chord {
                    options.insert("chord".into(), body.clone());
                }
            };
            shape::complete(member, call.depth, &|options| {
                place(&path, options);
                options.entry("group_index").or_insert_with(|| at.into());
            })?;
            // Those of a group that ends a part of a chord are parts of that chord, each for itself.
            if chord.is_some() {
                shape::complete_members(member, call.depth, &path, &place)?;
            }
        }
        Ok(members)
    }

    fn send_chain(&mut self, signature: Signature, call: &Call) -> Result<(), Broken> {
        let mut steps = shape::steps(&signature, call.depth)?;
        steps.reverse();
        let Some(first) = steps.pop() else {
            return Ok(());
        };
        // What comes after the whole chain comes after its last step; the next one stands last.
        let mut chain = call.chain.clone().unwrap_or_default();
        chain.extend(steps);
        let call = Call {
            args: match signature.takes_args {
                true => call.args.clone(),
                false => Vec::new(),
            },
            chain: Some(chain),
            ..call.at("first")
        };
        self.send(first, &call)
    }

    fn send_chord(&mut self, signature: Signature, call: &Call) -> Result<(), Broken> {
        let header = signature.kwargs.get("header").cloned().unwrap_or_default();
        let header = Signature::read(match header {
            Value::Array(tasks) => shape::group_of(tasks),
            header @ (Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_)) => header,
        })?;
        let group = header
            .id()
            .map_or_else(|| self.derived(&call.path), str::to_owned);
        let mut body = signature.kwargs.get("body").cloned().unwrap_or_default();
        let path = format!("{}/body", call.path);
        shape::complete(&mut body, call.depth, &|options| {
            let id = signature
                .id()
                .map_or_else(|| self.derived(&path), str::to_owned);
            options.entry("task_id").or_insert_with(|| id.into());
            for key in ["chord", "group_id", "group_index"] {
                if let Some(value) = signature.options.get(key) {
                    options.entry(key).or_insert_with(|| value.clone());
                }
            }
        })?;
        // What comes after the chord comes after its body.
        if let (Some(chain), Value::Object(fields)) = (&call.chain, &mut body)
            && !chain.is_empty()
            && let Value::Object(options) = fields.entry("options").or_insert_with(|| json!({}))
        {
            options.insert("chain".into(), Value::Array(chain.clone()));
        }
        let members = self.members(&header, &group, None, call)?;
        let sizes = members.iter().map(|part| shape::size(part, call.depth));
        let size = sizes.sum::<Result<usize, Broken>>()?;
        if let Value::Object(fields) = &mut body {
            fields.insert("chord_size".into(), size.into());
        }
        if members.is_empty() {
            let args = vec![Value::Array(Vec::new())];
            return self.send(
                body,
                &Call {
                    args,
                    ..call.at("body")
                },
            );
        }
        let members = self.members(&header, &group, Some(&body), call)?;
        let results = members
            .iter()
            .map(|member| shape::result_of(member, call.depth))
            .collect::<Result<Vec<_>, Broken>>()?;
        self.plan.chords.push(Chord {
            size,
            unlock: self.unlock(&group, &body)?,
            group,
            results,
        });
        let call = Call {
            chain: None,
            ..call.clone()
        };
        for (at, member) in members.into_iter().enumerate() {
            self.send(member, &call.at(at))?;
        }
        Ok(())
    }

    /// Sends the parts of the task's own chunks, and returns their group as a result tuple.
    pub(super) fn chunks(&mut self) -> Result<Value, Broken> {
        let group = Signature::read(shape::chunks(&self.task.kwargs)?)?;
        let call = Call {
            path: "chunks".into(),
            ..Call::default()
        };
        self.send_group(group, &call)?;
        Ok(self.plan.children.last().cloned().unwrap_or_default())
    }

    /// Sends the body of a chord with its members' results.
    pub(super) fn join(&mut self, body: Value, results: Vec<Value>) -> Result<(), Broken> {
        let call = Call {
            args: vec![Value::Array(results)],
            path: "body".into(),
            ..Call::default()
        };
        self.send(body, &call)
    }
}

/// The message of a chord's body that never ran, so that its failure can be told to those who wait for it.
pub(super) fn never_run(body: Value, queue: &str) -> Result<Task, Broken> {
    let Signature {
        task: name,
        args,
        kwargs,
        options,
        ..
    } = Signature::read(body)?;
    let Some(id) = options.get("task_id").and_then(Value::as_str) else {
        return Err(Broken::Workflow("a chord's body has no id".into()));
    };
    let mut task = Task::new(name, queue).with_id(id).for_celery();
    task.args = args;
    task.kwargs = kwargs;
    let workflow = json!({
        "errbacks": list(options.get("link_error").cloned()),
        "chain": list(options.get("chain").cloned()),
        "chord": options.get("chord"),
    });
    task.headers.insert(WORKFLOW.into(), workflow);
    for (header, option) in [
        ("group", "group_id"),
        ("root_id", "root_id"),
        (codec::REPLY_TO, "reply_to"),
    ] {
        if let Some(value) = options.get(option) {
            task.headers.insert(header.into(), value.clone());
        }
    }
    debug_assert_eq!(task.wire, Wire::Celery);
    Ok(task)
}

#[cfg(test)]
mod tests;
