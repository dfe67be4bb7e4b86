//! Gates in the store: read whole, decided on by [`Gate`], and written under the revision that was read.
//!
//! Whatever ends a task of a gate marks the gate in the commit that passes the end on, and looks at it then; if it dies before, the leader
//! does. Nobody decides on what somebody else has changed meanwhile: the revision refuses that, and all is read again. A gate
//! is never locked while anything is waited for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::by_hand::cancel_ops;
use super::command::Op;
use super::outbox::Ring;
use super::sql::sql;
use super::tasks::{self, enqueue_ops};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::gate::{Alarm, Effects, Entry, Fact, Gate, State, Verb};
use crate::id::{Epoch, TaskId};

/// How often a change is decided on again because somebody else was faster; then it is left to them.
const ROUNDS: usize = 32;

/// A gate as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct GateView {
    /// Its name.
    pub name: String,
    /// The gate.
    #[serde(flatten)]
    pub gate: Gate,
    /// Its entries that have not ended, in order.
    pub entries: Vec<Entry>,
    /// What somebody has to look at.
    pub alarm: Option<Alarm>,
}

/// A gate as it was read.
struct Loaded {
    gate: Gate,
    /// `None`: there is none yet.
    revision: Option<i64>,
    dirty: bool,
    places: HashMap<String, (i64, Entry)>,
}

/// A task that a gate waits for.
#[derive(Deserialize)]
struct TaskRow {
    id: TaskId,
    state: tasks::State,
    epoch: Epoch,
    crashes: i64,
    interruptions: i64,
    result: Option<String>,
    reason: Option<String>,
}

/// The gates of which tasks are a part.
pub(super) fn of(ids: &[String]) -> BTreeSet<&str> {
    ids.iter().filter_map(|id| Gate::of_task(id)).collect()
}

/// Somebody has to look at these gates.
pub(super) fn mark_op(gates: &BTreeSet<&str>) -> Result<Option<Op>, StoreError> {
    if gates.is_empty() {
        return Ok(None);
    }
    let rows = gates.iter().map(|name| json!({ "name": name }));
    Op::new(sql!("gates/mark"), &rows.collect::<Vec<_>>()).map(Some)
}

fn unfit(what: &'static str) -> impl Fn(serde_json::Error) -> StoreError {
    move |error| StoreError::Value {
        command: what,
        reason: error.to_string(),
    }
}

impl Store {
    async fn load(&self, name: &str) -> Result<Loaded, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            revision: i64,
            dirty: i64,
            place: i64,
            text: String,
        }
        let key = [json!({ "name": name })];
        let rows: Vec<Row> = self.read(sql!("gates/read"), &key).await?;
        let mut rows = rows.into_iter();
        let Some(Row {
            revision,
            dirty,
            text,
            ..
        }) = rows.next()
        else {
            return Ok(Loaded {
                // Without a window: whoever enqueues first brings one.
                gate: Gate {
                    name: name.to_owned(),
                    ..Gate::default()
                },
                revision: None,
                dirty: false,
                places: HashMap::new(),
            });
        };
        let mut gate: Gate = serde_json::from_str(&text).map_err(unfit("gates/read"))?;
        name.clone_into(&mut gate.name);
        let mut places = HashMap::new();
        for Row { place, text, .. } in rows {
            let entry: Entry = serde_json::from_str(&text).map_err(unfit("gates/read"))?;
            gate.entries.push(entry.clone());
            places.insert(entry.id().to_owned(), (place, entry));
        }
        Ok(Loaded {
            gate,
            revision: Some(revision),
            dirty: dirty == 1,
            places,
        })
    }

    async fn awaited_rows(&self, awaited: &[TaskId]) -> Result<Vec<TaskRow>, StoreError> {
        if awaited.is_empty() {
            return Ok(Vec::new());
        }
        let rows = awaited.iter().map(|id| json!({ "id": id }));
        self.read(sql!("gates/facts"), &rows.collect::<Vec<_>>())
            .await
    }

    /// How the tasks that a gate waits for stand.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn gate_tasks(
        &self,
        gate: &Gate,
    ) -> Result<BTreeMap<TaskId, tasks::State>, StoreError> {
        let rows = self.awaited_rows(&gate.awaited()).await?;
        Ok(rows.into_iter().map(|row| (row.id, row.state)).collect())
    }

    /// How the tasks that a gate waits for have ended, those that have.
    async fn gate_facts(&self, gate: &Gate) -> Result<HashMap<TaskId, Fact>, StoreError> {
        let awaited = gate.awaited();
        let rows = self.awaited_rows(&awaited).await?;
        let mut facts: HashMap<TaskId, Fact> = awaited
            .into_iter()
            .map(|id| (id, Fact::Unknown("its task is gone".into())))
            .collect();
        for row in rows {
            let why = row.reason.unwrap_or_default();
            let fact = match row.state {
                tasks::State::Done => {
                    let result = row.result.as_deref().unwrap_or("null");
                    Fact::Done(serde_json::from_str(result).map_err(unfit("gates/facts"))?)
                }
                tasks::State::Dead if row.crashes + row.interruptions > 0 => Fact::Unknown(why),
                tasks::State::Dead => Fact::Failed(why),
                tasks::State::Canceled | tasks::State::Expired if row.epoch.get() > 0 => {
                    Fact::Unknown(why)
                }
                tasks::State::Canceled | tasks::State::Expired => Fact::Failed(why),
                tasks::State::Queued
                | tasks::State::Waiting
                | tasks::State::Parked
                | tasks::State::Blocked
                | tasks::State::Running => {
                    facts.remove(&row.id);
                    continue;
                }
            };
            facts.insert(row.id, fact);
        }
        Ok(facts)
    }

    /// How those of these entries that have ended did.
    async fn known(&self, name: &str, verb: &Verb) -> Result<HashMap<String, State>, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            id: String,
            state: State,
        }
        let Verb::Enqueue(_, entries) = verb else {
            return Ok(HashMap::new());
        };
        let ids: BTreeSet<&String> = entries
            .iter()
            .flat_map(|entry| entry.needs.iter().chain([&entry.id]))
            .collect();
        let rows = ids.iter().map(|id| json!({ "name": name, "id": id }));
        let rows: Vec<Row> = self
            .read(sql!("gates/known"), &rows.collect::<Vec<_>>())
            .await?;
        Ok(rows.into_iter().map(|row| (row.id, row.state)).collect())
    }

    /// Does what `verb` asks of the gate `name`, and what follows from it. Returns the entries that it is about, and what is to be
    /// published.
    ///
    /// # Errors
    ///
    /// [`StoreError::Gate`] if the gate refuses it: nothing was changed then; else as any verb.
    pub async fn gate(
        &self,
        name: &str,
        verb: &Verb,
    ) -> Result<(Vec<String>, Vec<Ring>), StoreError> {
        let change = self.gate_change(name, Some(verb)).await?;
        change.ok_or(StoreError::Stale { command: "gate" })
    }

    /// Does what follows from how tasks of the gate `name` have ended. Returns what is to be published.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn gate_step(&self, name: &str) -> Result<Vec<Ring>, StoreError> {
        let change = self.gate_change(name, None).await?;
        Ok(change.map(|(_, rings)| rings).unwrap_or_default())
    }

    /// `None`: others were faster again and again, and do it.
    async fn gate_change(
        &self,
        name: &str,
        verb: Option<&Verb>,
    ) -> Result<Option<(Vec<String>, Vec<Ring>)>, StoreError> {
        for _ in 0..ROUNDS {
            let loaded = self.load(name).await?;
            let is_new = loaded.revision.is_none();
            if is_new && !matches!(verb, Some(Verb::Enqueue(..))) {
                return match verb {
                    Some(_) => Err(StoreError::Gate {
                        reason: format!(
                            "there is no gate {name:?}: nothing was ever enqueued there"
                        ),
                    }),
                    None => Ok(None),
                };
            }
            let before = loaded.gate.clone();
            let mut gate = loaded.gate.clone();
            // Of the tasks that are there: those of this step have no row yet.
            let facts = self.gate_facts(&before).await?;
            let now = self.0.clock.now();
            let mut effects = Effects::default();
            let mut about = Vec::new();
            if let Some(verb) = verb {
                let known = self.known(name, verb).await?;
                about = gate
                    .ask(verb.clone(), &known, now, &mut effects)
                    .map_err(|refused| StoreError::Gate { reason: refused.0 })?;
            }
            let more = gate.step(&facts, now);
            effects.enqueue.extend(more.enqueue);
            effects.cancel.extend(more.cancel);
            if gate == before && !loaded.dirty && !is_new {
                return Ok(Some((about, Vec::new())));
            }
            match self.write_gate(&gate, &loaded, effects).await {
                Ok(rings) => return Ok(Some((about, rings))),
                Err(StoreError::Stale { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn write_gate(
        &self,
        gate: &Gate,
        loaded: &Loaded,
        effects: Effects,
    ) -> Result<Vec<Ring>, StoreError> {
        let text = |what: serde_json::Result<String>| what.map_err(unfit("gates/write"));
        let state = text(serde_json::to_string(gate))?;
        let turn = json!({ "name": gate.name, "revision": loaded.revision, "state": state });
        let mut rows = Vec::new();
        let mut last = 0;
        let live = gate.entries.iter().map(|entry| (entry, false));
        let ended = gate.ended.iter().map(|entry| (entry, true));
        for (entry, is_over) in live.chain(ended) {
            let old = loaded.places.get(entry.id());
            let place = match old {
                Some((place, _)) if *place > last || is_over => *place,
                Some(_) | None => last + 1,
            };
            last = last.max(place);
            if old.is_some_and(|(before, old)| *before == place && old == entry) {
                continue;
            }
            rows.push(json!({
                "gate": gate.name, "id": entry.id(), "place": place, "state": entry.state,
                "ended": i64::from(is_over), "entry": text(serde_json::to_string(entry))?,
            }));
        }
        let mut ops = vec![Op::one(sql!("gates/turn"), &turn)?.guarded()];
        if !rows.is_empty() {
            ops.push(Op::new(sql!("gates/write"), &rows)?);
        }
        ops.extend(enqueue_ops(&effects.enqueue)?);
        let mut cancel: Vec<&str> = effects.cancel.iter().map(TaskId::as_str).collect();
        cancel.sort_unstable();
        if !cancel.is_empty() {
            ops.extend(cancel_ops(&cancel, "its gate does not want it any more")?);
        }
        let (_, rings) = self.announcing("gate", ops).await?;
        Ok(rings)
    }

    /// The gates that somebody has to look at; `every`: all in which something is.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn gates_left(&self, every: bool) -> Result<Vec<String>, StoreError> {
        self.gate_names(sql!("gates/left"), &json!({ "every": i64::from(every) }))
            .await
    }

    /// The names of all gates.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn gates(&self) -> Result<Vec<String>, StoreError> {
        self.gate_names(sql!("gates/all"), &json!({})).await
    }

    async fn gate_names(
        &self,
        statement: super::sql::Sql,
        row: &Value,
    ) -> Result<Vec<String>, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            name: String,
        }
        let rows: Vec<Row> = self.read(statement, std::slice::from_ref(row)).await?;
        Ok(rows.into_iter().map(|row| row.name).collect())
    }

    /// A gate with its entries, if there is one of that name.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn gate_view(&self, name: &str) -> Result<Option<GateView>, StoreError> {
        let loaded = self.load(name).await?;
        let now = self.0.clock.now();
        Ok(loaded.revision.map(|_| GateView {
            name: name.to_owned(),
            alarm: loaded.gate.alarm(now),
            entries: loaded.gate.entries.clone(),
            gate: loaded.gate,
        }))
    }

    /// Entries of a gate that have ended, newest first, up to `most`, each with when.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn gate_ended(
        &self,
        name: &str,
        most: i64,
    ) -> Result<Vec<(Entry, Millis)>, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            entry: String,
            ended_at: Millis,
        }
        let row = [json!({ "name": name, "most": most })];
        let rows: Vec<Row> = self.read(sql!("gates/ended"), &row).await?;
        rows.into_iter()
            .map(|row| {
                let entry = serde_json::from_str(&row.entry).map_err(unfit("gates/ended"))?;
                Ok((entry, row.ended_at))
            })
            .collect()
    }
}
