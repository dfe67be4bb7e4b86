//! Watches: the history as lines of JSON, from a version on.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use super::kind::Kind;
use super::refusal::Refusal;
use super::select::Selector;
use super::server::Server;
use super::state::{Ending, Record, State};

/// An open watch.
struct Watch {
    server: Arc<Server>,
    kind: &'static Kind,
    selector: Selector,
    moves: Receiver<()>,
    /// The next line of the history.
    at: usize,
    /// How long the history was when this watch began: what a test did to watches before then is not about it.
    begun: usize,
    lines: VecDeque<Bytes>,
    bookmarks: bool,
    until: Option<Instant>,
    end: Option<Ending>,
}

/// Begins a watch with what the query says.
pub(super) fn open(
    server: &Arc<Server>,
    kind: &'static Kind,
    selector: Result<Selector, Refusal>,
    query: &BTreeMap<String, String>,
) -> Response {
    let is = |name: &str| {
        query
            .get(name)
            .is_some_and(|value| value == "true" || value == "1")
    };
    let selector = match selector {
        Ok(selector) => selector,
        Err(refusal) => return refusal.into_response(),
    };
    let initial = is("sendInitialEvents");
    let matching = query.get("resourceVersionMatch").map(String::as_str);
    if query.contains_key("sendInitialEvents") != (matching == Some("NotOlderThan")) {
        return Refusal::invalid(
            "sendInitialEvents needs resourceVersionMatch=NotOlderThan, which stands only with it",
        )
        .into_response();
    }
    let version = query.get("resourceVersion").map_or("", String::as_str);
    let seconds = query
        .get("timeoutSeconds")
        .and_then(|text| text.parse().ok());
    let mut watch = Watch {
        server: Arc::clone(server),
        kind,
        selector,
        moves: server.moves(),
        at: 0,
        begun: server.look(|state| state.history.len()),
        lines: VecDeque::new(),
        bookmarks: is("allowWatchBookmarks"),
        until: seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        end: None,
    };
    let Ok(from) = (if version.is_empty() {
        Ok(0)
    } else {
        version.parse::<u64>()
    }) else {
        return Refusal::bad_request(format!("invalid resource version {version:?}"))
            .into_response();
    };
    if initial || from == 0 {
        watch.begin_with_all(initial && is("allowWatchBookmarks"));
    } else {
        let (at, floor) = server.look(|state| (after(state, from), state.floor));
        if from < floor {
            return expired(from, floor);
        }
        watch.at = at;
    }
    answer(Body::from_stream(stream::unfold(watch, Watch::next)))
}

/// A watch from a version that is forgotten: it begins, and says so.
pub(super) fn expired(from: u64, floor: u64) -> Response {
    let refusal = Refusal::expired(from, floor);
    answer(Body::from(line("ERROR", refusal.status())))
}

fn answer(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    text.into()
}

/// The first line of the history after `version`.
fn after(state: &State, version: u64) -> usize {
    let last = state.history.iter().rposition(|record| match record {
        Record::Change {
            version: changed, ..
        } => *changed <= version,
        Record::Watches { .. } => false,
    });
    last.map_or(0, |last| last + 1)
}

impl Watch {
    /// ADDED for each object there is; with `marked`, then the bookmark that says that these were all.
    fn begin_with_all(&mut self, marked: bool) {
        let server = Arc::clone(&self.server);
        server.look(|state| {
            let all = state.all(self.kind.plural).map(|(_, object)| object);
            let all = all.filter(|object| self.selector.matches(object));
            self.lines.extend(all.map(|object| line("ADDED", object)));
            self.at = state.history.len();
            if marked {
                let mark = json!({"k8s.io/initial-events-end": "true"});
                self.lines
                    .push_back(self.bookmark(state.version, Some(mark)));
            }
        });
    }

    async fn next(mut self) -> Option<(Result<Bytes, io::Error>, Self)> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some((Ok(line), self));
            }
            match self.end {
                Some(Ending::Cut) => {
                    self.end = Some(Ending::Closed);
                    return Some((Err(io::ErrorKind::ConnectionReset.into()), self));
                }
                Some(_) => return None,
                None => {}
            }
            // Looked at before the history is, so that what comes meanwhile wakes.
            self.moves.borrow_and_update();
            self.read();
            if self.lines.is_empty() && self.end.is_none() {
                self.wait().await;
            }
        }
    }

    async fn wait(&mut self) {
        let until = self.until;
        let late = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            moved = self.moves.changed() => {
                if moved.is_err() {
                    self.end = Some(Ending::Closed);
                }
            }
            () = late => {
                let version = self.server.look(|state| state.version);
                self.mark(version);
                self.end = Some(Ending::Closed);
            }
        }
    }

    /// What has happened since.
    fn read(&mut self) {
        let server = Arc::clone(&self.server);
        server.look(|state| {
            while let Some(record) = state.history.get(self.at) {
                self.at += 1;
                match record {
                    Record::Change {
                        version,
                        plural,
                        old,
                        new,
                    } if *plural == self.kind.plural => {
                        self.lines
                            .extend(self.event(*version, old.as_ref(), new.as_ref()));
                    }
                    Record::Watches { plural, what }
                        if self.at > self.begun
                            && (plural == "*" || plural == self.kind.plural) =>
                    {
                        match what {
                            Ending::Bookmark => self.mark(state.version),
                            Ending::Expired => {
                                let refusal = Refusal::expired(1, state.version);
                                self.lines.push_back(line("ERROR", refusal.status()));
                            }
                            Ending::Closed | Ending::Cut => {}
                        }
                        if *what != Ending::Bookmark {
                            self.end = Some(*what);
                            return;
                        }
                    }
                    Record::Change { .. } | Record::Watches { .. } => {}
                }
            }
        });
    }

    /// What a change is to those who see only what the selector selects.
    fn event(&self, version: u64, old: Option<&Value>, new: Option<&Value>) -> Option<Bytes> {
        let old = old.filter(|object| self.selector.matches(object));
        let new = new.filter(|object| self.selector.matches(object));
        match (old, new) {
            (None, None) => None,
            (None, Some(new)) => Some(line("ADDED", new)),
            (Some(_), Some(new)) => Some(line("MODIFIED", new)),
            (Some(old), None) => {
                let mut gone = old.clone();
                gone["metadata"]["resourceVersion"] = version.to_string().into();
                Some(line("DELETED", &gone))
            }
        }
    }

    fn mark(&mut self, version: u64) {
        if self.bookmarks {
            let mark = self.bookmark(version, None);
            self.lines.push_back(mark);
        }
    }

    fn bookmark(&self, version: u64, annotations: Option<Value>) -> Bytes {
        let mut object = json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
        });
        if let Some(annotations) = annotations {
            object["metadata"]["annotations"] = annotations;
        }
        line("BOOKMARK", &object)
    }
}
