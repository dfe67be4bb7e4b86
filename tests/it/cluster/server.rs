//! One request from its path to its answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::door::Cutter;
use super::evict::{self, Options};
use super::kind::{Kind, discovery};
use super::patch;
use super::refusal::Refusal;
use super::select::Selector;
use super::state::{Key, State, Write};
use super::table;
use super::traffic::{Fault, Seen, Stage, Traffic};
use super::watch as watching;

/// The largest body that is read.
const BODY: usize = 4 * 1024 * 1024;
/// How often an eviction of a pod that changes meanwhile is tried.
const EVICTIONS: usize = 20;

/// The state, and who waits for it to move.
#[derive(Debug)]
pub(super) struct Server {
    state: Mutex<State>,
    pub(super) traffic: Traffic,
    moved: watch::Sender<()>,
}

/// A request as far as its path and its headers say.
#[derive(Debug)]
struct Asked {
    seen: Seen,
    target: Option<Target>,
    table: bool,
    /// The body was not JSON.
    unreadable: bool,
}

/// What the path names.
#[derive(Debug)]
struct Target {
    kind: &'static Kind,
    namespace: Option<String>,
    name: String,
    sub: String,
}

impl Server {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State::new()),
            traffic: Traffic::default(),
            moved: watch::Sender::new(()),
        }
    }

    pub(super) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.state.lock().unwrap())
    }

    /// Changes the state and wakes who waits for that.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state.lock().unwrap());
        self.moved.send_replace(());
        result
    }

    /// As `change`, but a dry run leaves nothing.
    fn attempt<R>(&self, dry_run: bool, change: impl FnOnce(&mut State) -> R) -> R {
        if dry_run {
            let mut copy = self.look(Clone::clone);
            change(&mut copy)
        } else {
            self.change(change)
        }
    }

    /// Says each time that an object, the log or the watches may have changed.
    pub(super) fn moves(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }
}

/// Answers one request.
pub(super) async fn answer(
    Shared(server): Shared<Arc<Server>>,
    ConnectInfo(cutter): ConnectInfo<Cutter>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY).await.unwrap_or_default();
    let asked = Asked::read(&parts, &body);
    let at = server.traffic.note(&asked.seen);
    server.moved.send_replace(());
    let before = server.traffic.pass(Stage::Arrived, &asked.seen).await;
    let response = match fault(before, &asked, &cutter).await {
        Some(response) => response,
        None => {
            let response = dispatch(&server, &asked).await;
            let after = server.traffic.pass(Stage::Answered, &asked.seen).await;
            fault(after, &asked, &cutter).await.unwrap_or(response)
        }
    };
    server.traffic.answered(at, response.status().as_u16());
    server.moved.send_replace(());
    response
}

/// What a fault does in place of the answer.
async fn fault(fault: Option<Fault>, asked: &Asked, cutter: &Cutter) -> Option<Response> {
    let seen = &asked.seen;
    let what = format!("{} {} \"{}\"", seen.verb, seen.resource, seen.name);
    let refusal = match fault? {
        Fault::Forbidden => Refusal::forbidden(&what),
        Fault::TooMany(after) => Refusal::too_many("too many requests: a fault", after),
        Fault::Internal => Refusal::internal(format!("{what} failed: a fault")),
        Fault::Gone => Refusal::expired(1, 1),
        Fault::Expired => return Some(watching::expired(1, 1)),
        Fault::Slow(time) => {
            tokio::time::sleep(time).await;
            return None;
        }
        Fault::Hang => std::future::pending().await,
        Fault::Cut => {
            cutter.cut();
            std::future::pending().await
        }
    };
    Some(refusal.into_response())
}

async fn dispatch(server: &Arc<Server>, asked: &Asked) -> Response {
    let Some(target) = &asked.target else {
        return match discovery(&asked.seen.resource) {
            Some(found) if asked.seen.verb == "get" => Json(found).into_response(),
            _ => Refusal::no_such_path().into_response(),
        };
    };
    let done = match asked.seen.verb {
        "watch" => {
            return watching::open(
                server,
                target.kind,
                target.selector(asked),
                &asked.seen.query,
            );
        }
        "create" if target.sub == "eviction" => eviction(server, asked, target).await,
        verb => server.attempt(is_dry(asked), |state| act(state, verb, asked, target)),
    };
    match done {
        Ok(found) if asked.seen.verb == "create" => {
            (StatusCode::CREATED, Json(found)).into_response()
        }
        Ok(found) => Json(found).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

fn act(state: &mut State, verb: &str, asked: &Asked, target: &Target) -> Result<Value, Refusal> {
    let Target { kind, sub, .. } = target;
    let key = target.key();
    let body = &asked.seen.body;
    if asked.unreadable && verb != "delete" {
        return Err(Refusal::media_type(&asked.seen.content_type));
    }
    match (verb, sub.as_str()) {
        ("get", "" | "status") => {
            let object = state.find(&key)?.clone();
            Ok(if asked.table {
                table::one(kind, &object).unwrap_or(object)
            } else {
                object
            })
        }
        ("list", "") => list(state, asked, target),
        ("create", "") => {
            let mut object = body.clone();
            let given = object["metadata"]["namespace"].as_str();
            if kind.namespaced {
                let namespace = target.namespace.as_deref().unwrap_or_default();
                if given.is_some_and(|given| given != namespace) {
                    return Err(Refusal::bad_request(
                        "the namespace of the object does not match the namespace on the request",
                    ));
                }
                object["metadata"]["namespace"] = namespace.into();
            }
            state.create(kind, object)
        }
        ("update", "" | "status") => {
            let version = body["metadata"]["resourceVersion"]
                .as_str()
                .unwrap_or_default();
            if version.is_empty() && ["poddisruptionbudgets", "leases"].contains(&kind.plural) {
                let message =
                    "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
                return Err(Refusal::invalid(message));
            }
            state.replace(&key, body.clone(), Write::Put, sub == "status")
        }
        ("patch", "" | "status") => {
            let mut object = state.find(&key)?.clone();
            // Only a version that the patch itself names is a precondition.
            object["metadata"]["resourceVersion"] = Value::Null;
            match asked.seen.content_type.as_str() {
                "application/merge-patch+json" => patch::merge(&mut object, body),
                "application/strategic-merge-patch+json" => patch::strategic(&mut object, body),
                other => return Err(Refusal::media_type(other)),
            }
            state.replace(&key, object, Write::Patch, sub == "status")
        }
        ("delete", "") => {
            let options = Options::read(body, &asked.seen.query);
            evict::delete(state, &key, &options)
        }
        _ => Err(Refusal::method()),
    }
}

fn list(state: &State, asked: &Asked, target: &Target) -> Result<Value, Refusal> {
    let kind = target.kind;
    let selector = target.selector(asked)?;
    let found = state.all(kind.plural).map(|(_, object)| object);
    let found: Vec<&Value> = found.filter(|object| selector.matches(object)).collect();
    let meta = json!({"resourceVersion": state.version.to_string()});
    if asked.table
        && let Some(table) = table::many(kind, &found, &meta)
    {
        return Ok(table);
    }
    // As in the real server, the items of a list do not say what they are.
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(fields) = object.as_object_mut() {
            fields.shift_remove("kind");
            fields.shift_remove("apiVersion");
        }
        object
    };
    let items: Vec<Value> = found.into_iter().map(bare).collect();
    Ok(json!({
        "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": meta, "items": items,
    }))
}

async fn eviction(server: &Server, asked: &Asked, target: &Target) -> Result<Value, Refusal> {
    let body = &asked.seen.body;
    if asked.unreadable {
        return Err(Refusal::media_type(&asked.seen.content_type));
    }
    if target.kind.plural != "pods" {
        return Err(Refusal::no_such_path());
    }
    if body["metadata"]["name"] != target.name.as_str() {
        return Err(Refusal::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let options = Options::read(&body["deleteOptions"], &asked.seen.query);
    let key = target.key();
    for left in (0..EVICTIONS).rev() {
        let decision = server.attempt(options.dry_run, |state| {
            evict::decide(state, &key, &options)
        })?;
        if server
            .traffic
            .pass(Stage::Decided, &asked.seen)
            .await
            .is_some()
        {
            return Err(Refusal::internal("the eviction failed half-way: a fault"));
        }
        let done = server.attempt(options.dry_run, |state| {
            evict::evict(state, &key, &decision)
        });
        match done {
            Err(refusal) if refusal.code == 409 && decision.again && left > 0 => {}
            done => return done,
        }
    }
    unreachable!("the last one is answered")
}

fn is_dry(asked: &Asked) -> bool {
    asked
        .seen
        .query
        .get("dryRun")
        .is_some_and(|how| how == "All")
        || asked.seen.verb == "delete" && !asked.seen.body["dryRun"][0].is_null()
}

impl Target {
    fn read(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, plural, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] => {
                (Some((*namespace).to_owned()), *plural, rest)
            }
            [plural, rest @ ..] => (None, *plural, rest),
            [] => return None,
        };
        let (name, sub) = match rest {
            [] => ("", ""),
            [name] => (*name, ""),
            [name, sub] => (*name, *sub),
            _ => return None,
        };
        Some(Self {
            kind: Kind::at(group, version, plural)?,
            namespace,
            name: name.into(),
            sub: sub.into(),
        })
    }

    fn key(&self) -> Key {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        Key::new(self.kind, namespace, &self.name)
    }

    fn selector(&self, asked: &Asked) -> Result<Selector, Refusal> {
        let query = |name: &str| asked.seen.query.get(name).map_or("", String::as_str);
        let mut fields = query("fieldSelector").to_owned();
        if !self.name.is_empty() {
            fields = format!("metadata.name={},{fields}", self.name);
        }
        let namespace = self.namespace.as_deref();
        Selector::new(self.kind, namespace, query("labelSelector"), &fields)
    }
}

impl Asked {
    fn read(parts: &Parts, body: &Bytes) -> Self {
        let text = |name: header::HeaderName| {
            let value = parts
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let query = parts.uri.query().unwrap_or_default();
        let query: BTreeMap<String, String> = url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        let target = Target::read(parts.uri.path());
        let watches = query
            .get("watch")
            .is_some_and(|value| value == "true" || value == "1");
        let named = target.as_ref().is_none_or(|target| !target.name.is_empty());
        let verb = match parts.method {
            Method::GET if watches => "watch",
            Method::GET if named => "get",
            Method::GET => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if named => "delete",
            _ => "other",
        };
        let resource = match &target {
            Some(Target { kind, sub, .. }) if !sub.is_empty() => format!("{}/{sub}", kind.plural),
            Some(target) => target.kind.plural.to_owned(),
            None => parts.uri.path().to_owned(),
        };
        let read = serde_json::from_slice(body);
        Self {
            unreadable: read.is_err() && !body.is_empty(),
            table: text(header::ACCEPT).contains("as=Table"),
            seen: Seen {
                verb,
                resource,
                name: target
                    .as_ref()
                    .map(|target| target.name.clone())
                    .unwrap_or_default(),
                query,
                content_type: text(header::CONTENT_TYPE),
                agent: text(header::USER_AGENT),
                body: read.unwrap_or_default(),
                code: None,
            },
            target,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).expect("a status");
        let mut response = (code, Json(self.status())).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
