//! The journal of a channel: who made which generation, and which files belong to it alone; pure.
//!
//! It is one of the files that `Release` lists, so that it changes with the signature and by nothing else. By it a commit is
//! known as done, an attempt as overtaken, and a file as one that nobody needs any more.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::clock::Millis;

/// Its path in a channel.
pub(super) const PATH: &str = "longshore.journal";

/// So many generations are remembered: more than attempts of one task can be apart.
const MOST: usize = 1000;

/// Who writes, and by what right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The task.
    pub task: String,
    /// Its attempt: of one task, a later one has a higher number.
    pub epoch: i64,
    /// The token of the lane that the task holds: over all tasks of a lane, a later holder has a higher one. `None`: no lane.
    pub token: Option<i64>,
}

/// Another has written since who has the right instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "generation {generation} was written by {by}: this attempt came too late, and has changed nothing (a channel's promotions belong into one lane, with one task at a time)"
)]
pub struct Stale {
    /// By whom it was overtaken.
    pub generation: i64,
    /// A higher token, or a later attempt.
    pub by: String,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// From 1 on.
    pub generation: i64,
    /// The lane's token under which it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<i64>,
    /// The task that wrote it.
    pub task: String,
    /// Its attempt.
    pub epoch: i64,
    /// When, in milliseconds since 1970.
    pub at: Millis,
    /// What it added.
    pub packages: Vec<String>,
    /// The files that its `Release` listed, by hash; filled in by the next generation, empty once they may be gone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub files: BTreeSet<String>,
}

/// All that is remembered, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Journal(Vec<Entry>);

impl Journal {
    /// Reads one entry a line.
    ///
    /// # Errors
    ///
    /// For a line that is none.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let lines = text.lines().map(serde_json::from_str);
        Ok(Self(lines.collect::<Result<_, _>>()?))
    }

    /// Every entry.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Whether `fence` may still write. `token` is the published one.
    ///
    /// # Errors
    ///
    /// [`Stale`].
    pub fn check(&self, fence: &Fence, token: Option<i64>) -> Result<(), Stale> {
        let generation = self.0.last().map_or(0, |entry| entry.generation);
        if let (Some(ours), Some(published)) = (fence.token, token)
            && ours <= published
        {
            let by = format!("a holder with the token {published}, and this one has {ours}");
            return Err(Stale { generation, by });
        }
        let later = |entry: &&Entry| entry.task == fence.task && entry.epoch > fence.epoch;
        match self.0.iter().find(later) {
            None => Ok(()),
            Some(Entry {
                generation, epoch, ..
            }) => Err(Stale {
                generation: *generation,
                by: format!("a later attempt of this task (e{epoch})"),
            }),
        }
    }

    /// The generation that this very attempt wrote.
    pub fn written_by(&self, fence: &Fence) -> Option<i64> {
        let ours = |entry: &&Entry| entry.task == fence.task && entry.epoch == fence.epoch;
        self.0.iter().rev().find(ours).map(|entry| entry.generation)
    }

    /// Notes which files the newest generation has, takes those out that nobody needs any more, and returns them. The newest
    /// and `generations` before it keep theirs, and each generation until it is superseded for `keep`.
    pub fn retire(
        &mut self,
        files: BTreeSet<String>,
        generations: u32,
        keep: Millis,
        now: Millis,
    ) -> BTreeSet<String> {
        if let Some(newest) = self.0.last_mut() {
            newest.files.clone_from(&files);
        }
        let superseded = self
            .0
            .iter()
            .skip(1)
            .map(|entry| entry.at)
            .collect::<Vec<_>>();
        let old = superseded
            .len()
            .saturating_sub(usize::try_from(generations).unwrap_or(usize::MAX));
        let mut gone = BTreeSet::new();
        for (entry, at) in self.0.iter_mut().zip(&superseded).take(old) {
            if at.saturating_add(keep) <= now {
                gone.append(&mut entry.files);
            }
        }
        let needed = self.0.iter().flat_map(|entry| &entry.files).chain(&files);
        for file in needed {
            gone.remove(file);
        }
        gone
    }

    /// Adds a generation, and forgets the oldest.
    pub fn add(&mut self, entry: Entry) {
        self.0.push(entry);
        let over = self.0.len().saturating_sub(MOST);
        self.0.drain(..over);
    }
}

/// As it is written.
impl std::fmt::Display for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for entry in &self.0 {
            let line = serde_json::to_string(entry).map_err(|_| std::fmt::Error)?;
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(generation: i64, task: &str, epoch: i64, at: Millis) -> Entry {
        Entry {
            generation,
            token: None,
            task: task.into(),
            epoch,
            at,
            packages: Vec::new(),
            files: BTreeSet::new(),
        }
    }

    fn fence(task: &str, epoch: i64, token: Option<i64>) -> Fence {
        Fence {
            task: task.into(),
            epoch,
            token,
        }
    }

    fn files(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_lower_or_equal_token_may_not_write() {
        let journal = Journal(vec![entry(1, "a", 1, 0)]);
        for (token, published, may) in [
            (Some(3), Some(3), false),
            (Some(2), Some(3), false),
            (Some(4), Some(3), true),
            (Some(1), None, true),
            (None, Some(3), true),
        ] {
            let answer = journal.check(&fence("b", 1, token), published);
            assert_eq!(answer.is_ok(), may, "{token:?} after {published:?}");
        }
    }

    #[test]
    fn an_attempt_whose_successor_has_written_may_not_write() {
        let journal = Journal(vec![entry(1, "a", 2, 0), entry(2, "b", 1, 0)]);
        assert_eq!(
            journal
                .check(&fence("a", 1, None), None)
                .unwrap_err()
                .generation,
            1
        );
        assert!(journal.check(&fence("a", 2, None), None).is_ok());
        assert!(journal.check(&fence("b", 1, None), None).is_ok());
        assert_eq!(journal.written_by(&fence("a", 2, None)), Some(1));
        assert_eq!(journal.written_by(&fence("a", 1, None)), None);
    }

    #[test]
    fn files_go_when_they_are_old_enough_and_no_generation_has_them() {
        let mut journal = Journal::default();
        let mut gone = Vec::new();
        for generation in 1..=5_i64 {
            let own = format!("g{}", generation - 1);
            let now = generation * 10;
            gone.push(journal.retire(files(&["same", &own]), 2, 15, now));
            journal.add(entry(generation, "a", generation, now));
        }
        // 1 is superseded at 20, and goes once two others lie between it and the newest.
        let none = files(&[]);
        let wanted = [
            none.clone(),
            none.clone(),
            none.clone(),
            none,
            files(&["g1"]),
        ];
        assert_eq!(gone, wanted);
        // 2 is superseded at 30.
        let early = journal.clone().retire(files(&["same", "g5"]), 2, 15, 44);
        assert_eq!(early, files(&[]));
        let again = journal.retire(files(&["same", "g5"]), 2, 15, 45);
        assert_eq!(again, files(&["g2"]));
        assert_eq!(Journal::parse(&journal.to_string()).unwrap(), journal);
        assert!(Journal::parse("{}").is_err());
    }
}
