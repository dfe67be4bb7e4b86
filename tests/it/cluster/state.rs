//! The objects, each change of them under a version, and the history that watches read.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::budget;
use super::kind::Kind;
use super::refusal::Refusal;

/// Where an object stands. Nodes have an empty namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) plural: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// One line of the history.
#[derive(Debug, Clone)]
pub(super) enum Record {
    Change {
        version: u64,
        plural: &'static str,
        old: Option<Value>,
        /// None: it was removed.
        new: Option<Value>,
    },
    /// What a test does to the open watches of `plural` (`*`: of all).
    Watches { plural: String, what: Ending },
}

/// What happens to open watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// None: they get a bookmark and go on.
    Bookmark,
    /// The server ends the stream, as it does by itself at times.
    Closed,
    /// The connection is cut in the middle.
    Cut,
    /// An ERROR event of code 410, then the end.
    Expired,
}

/// All that the server knows.
#[derive(Debug, Clone)]
pub(super) struct State {
    objects: BTreeMap<Key, Value>,
    pub(super) history: Vec<Record>,
    pub(super) version: u64,
    /// What happened up to here is forgotten: a watch from before it expires.
    pub(super) floor: u64,
    /// Whether the disruption controller works. It has no lag.
    pub(super) controller: bool,
}

impl Key {
    pub(super) fn new(kind: &Kind, namespace: &str, name: &str) -> Self {
        Self {
            plural: kind.plural,
            namespace: if kind.namespaced {
                namespace.into()
            } else {
                String::new()
            },
            name: name.into(),
        }
    }

    fn of(kind: &Kind, object: &Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        Self::new(kind, text("namespace"), text("name"))
    }
}

/// How an object is written. The UID that it names is a precondition of a PUT (409), but a patch would change it (422).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    Put,
    Patch,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            history: Vec::new(),
            version: 1000,
            floor: 0,
            controller: true,
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    pub(super) fn find(&self, key: &Key) -> Result<&Value, Refusal> {
        let kind = Kind::of(key.plural);
        self.get(key)
            .ok_or_else(|| Refusal::not_found(kind, &key.name))
    }

    /// All of a kind, by namespace and name.
    pub(super) fn all(&self, plural: &str) -> impl Iterator<Item = (&Key, &Value)> {
        self.objects
            .iter()
            .filter(move |(key, _)| key.plural == plural)
    }

    /// A new object, with what the server adds to it.
    pub(super) fn create(&mut self, kind: &Kind, mut object: Value) -> Result<Value, Refusal> {
        let meta = &mut object["metadata"];
        if meta["name"].as_str().is_none_or(str::is_empty) {
            let Some(prefix) = meta["generateName"].as_str() else {
                return Err(Refusal::invalid("metadata.name: Required value"));
            };
            let tail = uuid::Uuid::now_v7().simple().to_string();
            meta["name"] = format!("{prefix}{}", &tail[tail.len() - 5..]).into();
        }
        meta["uid"] = uuid::Uuid::now_v7().to_string().into();
        meta["creationTimestamp"] = now().into();
        if kind.has_status && kind.plural != "nodes" {
            meta["generation"] = 1.into();
        }
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.kind.into();
        if kind.plural == "pods" {
            default(
                &mut object,
                "/spec",
                "terminationGracePeriodSeconds",
                json!(30),
            );
            default(&mut object, "/status", "phase", json!("Pending"));
        }
        let key = Key::of(kind, &object);
        if self.get(&key).is_some() {
            return Err(Refusal::exists(kind, &key.name));
        }
        Ok(self.put(&key, object))
    }

    /// PUT and the end of every PATCH: `new` becomes the object, or only its status does; what no client may change stays.
    pub(super) fn replace(
        &mut self,
        key: &Key,
        mut new: Value,
        how: Write,
        status: bool,
    ) -> Result<Value, Refusal> {
        let kind = Kind::of(key.plural);
        let old = self.find(key)?.clone();
        let given = |field: &str| {
            new["metadata"][field]
                .as_str()
                .filter(|text| !text.is_empty())
        };
        if given("name").is_some_and(|name| name != key.name) {
            return Err(Refusal::bad_request(
                "the name of the object does not match the name on the URL",
            ));
        }
        if given("resourceVersion")
            .is_some_and(|version| version != old["metadata"]["resourceVersion"])
        {
            let why = "the object has been modified; please apply your changes to the latest version and try again";
            return Err(Refusal::conflict(kind, &key.name, why));
        }
        if given("uid").is_some_and(|uid| uid != old["metadata"]["uid"]) {
            let uid = &new["metadata"]["uid"];
            return Err(match how {
                Write::Put => {
                    let why =
                        "Precondition failed: UID in precondition is not the UID in object meta";
                    Refusal::conflict(kind, &key.name, why)
                }
                Write::Patch => Refusal::immutable(kind, &key.name, "metadata.uid", uid),
            });
        }
        if status {
            let mut whole = old.clone();
            whole["status"] = new["status"].take();
            return Ok(self.put(key, whole));
        }
        for field in [
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
        ] {
            restore(&mut new["metadata"], &old["metadata"], field);
        }
        if kind.has_status {
            restore(&mut new, &old, "status");
        }
        if let (Some(generation), true) = (
            old["metadata"]["generation"].as_i64(),
            old["spec"] != new["spec"],
        ) {
            new["metadata"]["generation"] = (generation + 1).into();
        }
        Ok(self.put(key, new))
    }

    /// Writes an object as it is, under a new version; nothing happens if nothing is different.
    pub(super) fn put(&mut self, key: &Key, mut object: Value) -> Value {
        let old = self.objects.get(key).cloned();
        if let Some(old) = &old {
            restore(&mut object["metadata"], &old["metadata"], "resourceVersion");
            if *old == object {
                return object;
            }
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(key.clone(), object.clone());
        self.history.push(Record::Change {
            version: self.version,
            plural: key.plural,
            old,
            new: Some(object.clone()),
        });
        budget::after(self, key, &object);
        object
    }

    /// The namespaces that were made, and those in which there is anything.
    pub(super) fn spaces(&self) -> Vec<String> {
        let keys = self.objects.keys();
        let mut names: Vec<String> = keys
            .map(|key| match key.plural {
                "namespaces" => key.name.clone(),
                _ => key.namespace.clone(),
            })
            .filter(|name| !name.is_empty())
            .collect();
        names.dedup();
        names
    }

    /// All that is in a namespace is gone. Nothing asks whether a namespace is there.
    pub(super) fn empty(&mut self, namespace: &str) {
        let keys = self.objects.keys();
        let inside: Vec<Key> = keys
            .filter(|key| key.namespace == namespace)
            .cloned()
            .collect();
        for key in inside {
            self.remove(&key);
        }
    }

    /// The object is gone.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Value> {
        let old = self.objects.remove(key)?;
        self.version += 1;
        self.history.push(Record::Change {
            version: self.version,
            plural: key.plural,
            old: Some(old.clone()),
            new: None,
        });
        budget::after(self, key, &old);
        Some(old)
    }
}

/// Sets `condition`, which has a `type` and a `status`, among `conditions`; its time moves when its status does.
pub(super) fn set_condition(conditions: &mut Value, mut condition: Value) {
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Value::Array(list) = conditions else {
        return;
    };
    let at = list.iter().position(|old| old["type"] == condition["type"]);
    let unchanged = at.filter(|at| list[*at]["status"] == condition["status"]);
    condition["lastTransitionTime"] = match unchanged {
        Some(at) => list[at]["lastTransitionTime"].clone(),
        None => now().into(),
    };
    match at {
        Some(at) => list[at] = condition,
        None => list.push(condition),
    }
}

/// Whether a pod or a node says of itself that it is ready.
pub(super) fn is_ready(object: &Value) -> bool {
    condition(object, "Ready").is_some_and(|ready| ready["status"] == "True")
}

/// A condition in an object's status.
pub(super) fn condition<'o>(object: &'o Value, kind: &str) -> Option<&'o Value> {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind)
}

/// Now, as objects say it: whole seconds.
pub(super) fn now() -> String {
    stamp(SystemTime::now())
}

pub(super) fn stamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn restore(new: &mut Value, old: &Value, field: &str) {
    match (old.get(field), new.as_object_mut()) {
        (Some(value), Some(new)) => {
            new.insert(field.into(), value.clone());
        }
        (None, Some(new)) => {
            new.shift_remove(field);
        }
        (_, None) => {}
    }
}

fn default(object: &mut Value, parent: &str, field: &str, value: Value) {
    let parent = &mut object[&parent[1..]];
    if parent[field].is_null() {
        parent[field] = value;
    }
}
