//! Events on the own pod, for `kubectl describe`: few, since each is a write on the API server.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::time::Instant;

use super::Pod;
use super::api::Call;

/// The least time between two events of one reason.
const PAUSE: Duration = Duration::from_secs(30);
/// The longest note that the API server takes, in bytes.
const LONGEST_NOTE: usize = 1024;

/// Something worth an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Note {
    /// SIGTERM came.
    DrainBegun,
    /// What ran goes on elsewhere.
    HandedOff,
    /// Nothing new is taken, though the pod is not being deleted.
    Quiet,
    /// An attempt makes no progress and no longer keeps the pod from being evicted.
    BusyTooLong,
}

impl Note {
    /// The event's reason and action, and whether it is a warning.
    fn words(self) -> (&'static str, &'static str, bool) {
        match self {
            Self::DrainBegun => ("DrainBegun", "Drain", false),
            Self::HandedOff => ("HandedOff", "HandOff", false),
            Self::Quiet => ("Quiet", "Quiet", false),
            Self::BusyTooLong => ("BusyTooLong", "Unlabel", true),
        }
    }
}

/// When each was written last.
#[derive(Debug, Default)]
pub(super) struct Sparingly(Mutex<HashMap<Note, Instant>>);

impl Sparingly {
    fn is_due(&self, note: Note, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last
            .get(&note)
            .is_none_or(|last| now.duration_since(*last) >= PAUSE);
        if is_due {
            last.insert(note, now);
        }
        is_due
    }
}

impl Pod {
    /// Writes an event, unless one of this kind was just written. A failure costs the event alone.
    pub async fn event(&self, note: Note, text: String) {
        if !self.0.events.is_due(note, Instant::now()) {
            return;
        }
        let events = ::kube::Api::namespaced(self.0.api.client(), &self.0.identity.namespace);
        let event = self.written(note, text);
        let parameters = ::kube::api::PostParams::default();
        let answer = self
            .0
            .api
            .call(Call::Event, events.create(&parameters, &event))
            .await;
        if let Err(error) = answer {
            tracing::debug!(%error, "an event could not be written");
        }
    }

    fn written(&self, note: Note, mut text: String) -> Event {
        let (reason, action, is_warning) = note.words();
        text.truncate(text.floor_char_boundary(LONGEST_NOTE));
        let (name, namespace) = (self.name().to_owned(), self.0.identity.namespace.clone());
        Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{name}-")),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(k8s_openapi::jiff::Timestamp::now())),
            type_: Some(if is_warning { "Warning" } else { "Normal" }.into()),
            reason: Some(reason.into()),
            action: Some(action.into()),
            note: Some(text),
            reporting_controller: Some("longshore.dev/worker".into()),
            reporting_instance: Some(name.clone()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(name),
                namespace: Some(namespace),
                uid: Some(self.uid().to_owned()),
                ..ObjectReference::default()
            }),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kind_of_event_is_written_no_more_than_every_half_minute() {
        let (events, now) = (Sparingly::default(), Instant::now());
        assert!(events.is_due(Note::HandedOff, now));
        assert!(!events.is_due(Note::HandedOff, now + PAUSE / 2));
        assert!(events.is_due(Note::Quiet, now));
        assert!(events.is_due(Note::HandedOff, now + PAUSE));
    }
}
