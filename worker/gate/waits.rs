//! What an entry waits for, in words; and entries as producers write them.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Entry, Gate, NewEntry, OnUnverified, Refused, Spec, Standing, State};
use crate::clock::Millis;
use crate::id::TaskId;

/// Most entries that are enqueued at once.
const MOST: usize = 10_000;

impl Gate {
    /// What the entry called `id` waits for, for people. `states` are those of the tasks that the gate waits for, in words.
    pub fn waits(
        &self,
        id: &str,
        states: impl Fn(&TaskId) -> Option<&'static str>,
        now: Millis,
    ) -> Option<String> {
        let at = self.entries.iter().position(|entry| entry.id() == id)?;
        let entry = &self.entries[at];
        let stands = |id: &TaskId| states(id).unwrap_or("unknown");
        Some(match entry.state {
            State::Queued => self.queued(at, now),
            State::Speculating => self.tested(entry, stands),
            State::Failing => format!(
                "{}; it is final once it is the first: {}",
                entry.reason.as_deref().unwrap_or("it fails"),
                self.behind(now)
            ),
            State::Ready if at > 0 => self.behind(now),
            State::Ready => {
                let hold = self.hold.as_ref();
                hold.map_or_else(String::new, |(why, since)| {
                    format!("the gate is on hold for {}: {why}", age(*since, now))
                })
            }
            State::Held => format!(
                "{}. Decide: retry, revert or accept",
                entry.reason.as_deref().unwrap_or("nobody knows why")
            ),
            State::Publishing | State::Probing | State::Verifying | State::Reverting => {
                let role = entry.role()?;
                let task = stands(&self.role_id(entry, role));
                let reason = entry.reason.as_ref();
                let because = reason.map(|why| format!(": {why}")).unwrap_or_default();
                format!("waits for {} ({task}){because}", role.as_str())
            }
            State::Published | State::Failed | State::Canceled => {
                entry.reason.clone().unwrap_or_default()
            }
        })
    }

    fn behind(&self, now: Millis) -> String {
        let Some(head) = self.entries.first() else {
            return String::new();
        };
        let since = age(head.since, now);
        let why = match &head.reason {
            Some(why) if head.state == State::Held => format!(": {why}"),
            Some(_) | None => String::new(),
        };
        format!(
            "behind {} ({} for {since}{why})",
            head.id(),
            head.state.as_str()
        )
    }

    fn queued(&self, at: usize, now: Millis) -> String {
        let ahead = &self.entries[..at];
        let needed = ahead.iter().find(|ahead| {
            let is_needed = self.entries[at].new.needs.contains(&ahead.new.id);
            is_needed && matches!(ahead.state, State::Queued | State::Failing)
        });
        let held = ahead.iter().any(|ahead| ahead.state == State::Held);
        if held && self.settings.on_unverified == OnUnverified::Wait {
            self.behind(now)
        } else if self.window != 0 && !u32::try_from(at).is_ok_and(|at| at < self.window) {
            format!("outside the window of {}", self.window)
        } else if let Some(needed) = needed {
            let (id, state) = (needed.id(), needed.state.as_str());
            format!("needs {id}, which is {state}")
        } else {
            self.entries[at].reason.clone().unwrap_or_default()
        }
    }

    fn tested<'a>(&self, entry: &Entry, stands: impl Fn(&TaskId) -> &'a str) -> String {
        let running: Vec<String> = entry
            .running()
            .map(|key| format!("{key} ({})", stands(&self.test_id(entry, key))))
            .collect();
        if !running.is_empty() {
            let tests = if running.len() == 1 { "test" } else { "tests" };
            return format!("waits for {tests} {}", running.join(", "));
        }
        let unbegun = entry.new.spec.tests.iter();
        let mut unbegun = unbegun.filter(|test| !entry.tests.contains_key(&test.key));
        let Some(test) = unbegun.next() else {
            return String::new();
        };
        let provider = entry.base.iter().find_map(|ahead| {
            let provider = self.entry(&ahead.entry)?;
            let name = test.requires.iter().find(|name| {
                let mut provides = provider.new.spec.tests.iter();
                provides.any(|other| {
                    let is_over = matches!(
                        provider.tests.get(&other.key),
                        Some(Standing::Passed(_) | Standing::Failed(_))
                    );
                    other.provides.contains(name) && !is_over
                })
            })?;
            Some(format!(", which requires {name} of {}", provider.id()))
        });
        let provider = provider.unwrap_or_default();
        format!("waits for test {} (not begun{provider})", test.key)
    }
}

/// A file of entries: what `longshore gate enqueue --file` and `POST /api/gates/NAME/entries` read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    entries: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    change: Option<String>,
    #[serde(default)]
    needs: Vec<String>,
    #[serde(default)]
    kwargs: Map<String, Value>,
}

/// Reads `{"entries": [{"id", "change", "needs", "kwargs"}]}`; `spec` is done with each.
///
/// # Errors
///
/// [`Refused`] says what is wrong with it.
pub fn read(json: &[u8], spec: &Spec) -> Result<Vec<NewEntry>, Refused> {
    let File { entries } =
        serde_json::from_slice(json).map_err(|error| Refused(format!("no entries: {error}")))?;
    if entries.len() > MOST {
        return Err(Refused(format!(
            "{} entries are more than the {MOST} that are enqueued at once",
            entries.len()
        )));
    }
    let entry = |written: Written| NewEntry {
        id: written.id,
        change: written.change,
        kwargs: written.kwargs,
        needs: written.needs,
        spec: spec.clone(),
    };
    Ok(entries.into_iter().map(entry).collect())
}

/// How long ago, roughly.
fn age(since: Millis, now: Millis) -> String {
    let seconds = (now - since).max(0) / 1000;
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::super::{Effects, Fact, Settings, Step, Test, Verb, Window};
    use super::*;

    fn step(task: &str) -> Step {
        Step {
            task: task.into(),
            queue: "q".into(),
            ..Step::default()
        }
    }

    fn spec(tests: Vec<Test>) -> Spec {
        Spec {
            tests,
            publish: step("publish"),
            verify: Some(step("verify")),
            ..Spec::default()
        }
    }

    fn test(key: &str) -> Test {
        serde_json::from_value(json!({
            "key": key, "step": {"task": key, "queue": "q"}, "voting": true,
        }))
        .unwrap()
    }

    struct Bed(Gate, HashMap<TaskId, Fact>);

    impl Bed {
        fn new(settings: Settings, ids: &[&str], tests: &[Test]) -> Self {
            let mut gate = Gate::new("g", settings.clone());
            let entry = |id: &&str| NewEntry {
                id: (*id).to_owned(),
                spec: spec(tests.to_vec()),
                ..NewEntry::default()
            };
            let verb = Verb::Enqueue(settings, ids.iter().map(entry).collect());
            gate.ask(verb, &HashMap::new(), 0, &mut Effects::default())
                .unwrap();
            let mut bed = Self(gate, HashMap::new());
            bed.0.step(&bed.1, 0);
            bed
        }

        fn ends(&mut self, id: &str, fact: Fact) {
            self.1.insert(TaskId::new(format!("gate/g/{id}")), fact);
            self.0.step(&self.1, 0);
        }

        fn waits(&self, id: &str) -> String {
            let running = |id: &TaskId| id.as_str().ends_with("unit").then_some("running");
            self.0.waits(id, running, 300_000).unwrap()
        }
    }

    fn done() -> Fact {
        Fact::Done(Value::Null)
    }

    #[test]
    fn every_entry_says_what_it_waits_for() {
        let settings = Settings {
            window: Window::fixed(3),
            ..Settings::default()
        };
        let mut bed = Bed::new(settings, &["a", "b", "c", "d"], &[test("unit")]);
        assert_eq!(bed.waits("a"), "waits for test unit (running)");
        assert_eq!(bed.waits("d"), "outside the window of 3");
        bed.ends("b/1/unit", done());
        assert_eq!(bed.waits("b"), "behind a (speculating for 5m)");
        bed.ends("c/1/unit", Fact::Failed("it breaks".into()));
        assert_eq!(
            bed.waits("c"),
            "unit failed: it breaks; it is final once it is the first: behind a (speculating for 5m)"
        );
        bed.ends("a/1/unit", done());
        assert_eq!(bed.waits("a"), "waits for publish (unknown)");
        bed.ends("a/publish/1", done());
        bed.ends("a/verify/1", Fact::Failed("not there".into()));
        assert_eq!(
            bed.waits("a"),
            "published, and could not be verified: not there. Decide: retry, revert or accept"
        );
        assert_eq!(
            bed.waits("b"),
            "behind a (held for 5m: published, and could not be verified: not there)"
        );
        assert_eq!(bed.0.waits("x", |_| None, 0), None);
    }

    #[test]
    fn a_test_that_has_not_begun_says_of_whom_it_requires_what() {
        let tests = [
            Test {
                provides: vec!["deb".into()],
                ..test("unit")
            },
            Test {
                requires: vec!["deb".into()],
                ..test("install")
            },
        ];
        let mut bed = Bed::new(Settings::default(), &["a", "b"], &tests);
        bed.ends("b/1/unit", done());
        assert_eq!(
            bed.waits("b"),
            "waits for test install (not begun, which requires deb of a)"
        );
    }

    #[test]
    fn on_hold_the_first_says_why() {
        let mut bed = Bed::new(Settings::default(), &["a"], &[test("unit")]);
        let hold = Verb::Hold("maintenance".into());
        bed.0
            .ask(hold, &HashMap::new(), 0, &mut Effects::default())
            .unwrap();
        bed.ends("a/1/unit", done());
        assert_eq!(bed.waits("a"), "the gate is on hold for 5m: maintenance");
    }

    #[test]
    fn a_file_of_entries_is_read_or_refused_whole() {
        let spec = spec(vec![test("unit")]);
        let entries = read(
            br#"{"entries": [{"id": "a"}, {"id": "b", "change": "x", "needs": ["a"], "kwargs": {"n": 1}}]}"#,
            &spec,
        )
        .unwrap();
        assert_eq!(entries[0].spec, spec);
        assert_eq!(
            (entries[1].change.as_deref(), &entries[1].needs[..]),
            (Some("x"), &["a".to_owned()][..])
        );
        assert_eq!(entries[1].kwargs["n"], json!(1));
        let wrong = |text: &str| read(text.as_bytes(), &spec).unwrap_err().0;
        assert!(wrong("[]").starts_with("no entries: "));
        assert!(wrong(r#"{"entries": [{"id": "a", "need": []}]}"#).contains("need"));
    }
}
