//! The lines of the kernel that are still undecided: a block is one only once its end is seen. Never holds more than
//! [`MAX_BLOCK`] of them.

use std::collections::VecDeque;

use super::mark::{self, ENDS, End, Kind, Marks, Opening, Start};
use super::{MAX_BLOCK, MAX_LINE};

/// What the first line waits for.
#[derive(Debug, Clone, Copy)]
enum Awaited {
    /// The line after it.
    Line,
    /// An end in a line after the one of that number.
    End(End, u64),
}

/// What the first line is.
enum Look {
    Nothing,
    Wait(Awaited),
    Found(Found),
}

/// From `begin` in the first line to `end` in the line of that index.
struct Found {
    kind: Kind,
    begin: usize,
    last: usize,
    end: usize,
}

/// Undecided lines.
#[derive(Debug, Default)]
pub(super) struct Window {
    lines: VecDeque<(String, Marks)>,
    /// The number of the first line.
    first: u64,
    /// Where in the first line to go on.
    column: usize,
    bytes: usize,
    /// By [`End`]: the numbers of the lines that have one.
    ends: [VecDeque<u64>; ENDS],
    awaited: Option<Awaited>,
}

impl Window {
    /// Takes the next line. [`Window::next`] is to be called until it gives nothing before another one.
    pub(super) fn push(&mut self, line: &str) {
        let number = self.first + self.lines.len() as u64;
        let marks = mark::of(line);
        for (ends, has) in self.ends.iter_mut().zip(marks.ends) {
            if has {
                ends.push_back(number);
            }
        }
        self.bytes += line.len() + 1;
        self.lines.push_back((line.to_owned(), marks));
    }

    /// The next finding and its text; `None` until there are more lines, or, if the log is `over`, for good.
    pub(super) fn next(&mut self, over: bool) -> Option<(Kind, String)> {
        let decide = over || self.is_full();
        if !decide && !self.has_what_it_waits_for() {
            return None;
        }
        self.awaited = None;
        while !self.lines.is_empty() {
            match self.look(over || self.is_full()) {
                Look::Nothing => self.drop_first(),
                Look::Wait(awaited) => {
                    self.awaited = Some(awaited);
                    return None;
                }
                Look::Found(found) => return Some(self.take(&found)),
            }
        }
        None
    }

    /// Whether the next line may not fit.
    fn is_full(&self) -> bool {
        self.bytes + 1 + MAX_LINE > MAX_BLOCK
    }

    fn has_what_it_waits_for(&self) -> bool {
        match self.awaited {
            None => true,
            Some(Awaited::Line) => self.lines.len() > 1,
            Some(Awaited::End(end, after)) => self
                .ends(end)
                .is_some_and(|ends| ends.back().is_some_and(|number| *number > after)),
        }
    }

    fn ends(&self, end: End) -> Option<&VecDeque<u64>> {
        self.ends.get(end as usize)
    }

    /// Looks at the rest of the first line; `decide`: no line to come can matter.
    fn look(&self, decide: bool) -> Look {
        let Some((line, marks)) = self.lines.front() else {
            return Look::Nothing;
        };
        let alone = marks.alone.filter(|_| self.column == 0);
        let mut column = self.column;
        // An end that is not in the rest of this line is not in what is left of the rest.
        let mut missing = [false; ENDS];
        loop {
            let start = mark::start(line, column);
            if let Some(kind) = alone.filter(|_| start.is_none_or(|start| start.begin > 0)) {
                return Look::Found(Found {
                    kind,
                    begin: 0,
                    last: 0,
                    end: line.len(),
                });
            }
            let Some(start) = start else {
                return Look::Nothing;
            };
            match self.begun(start, decide, &mut missing) {
                // All that begins does so with a character of one byte.
                Look::Nothing => column = start.begin + 1,
                look @ (Look::Wait(_) | Look::Found(_)) => return look,
            }
        }
    }

    /// What begins with `start`, which is in the first line.
    fn begun(&self, start: Start, decide: bool, missing: &mut [bool; ENDS]) -> Look {
        let (kind, index, column) = match start.opening {
            Opening::Cut => (Kind::Exception, 0, start.end),
            Opening::Oops => (Kind::InternalErrorOops, 0, start.end),
            Opening::Panic => (Kind::PanicMultiline, 1, 0),
            Opening::Separator => match self.lines.get(1) {
                Some((next, _)) => match mark::report(next) {
                    Some((kind, column)) => (kind, 1, column),
                    None => return Look::Nothing,
                },
                None if decide => return Look::Nothing,
                None => return Look::Wait(Awaited::Line),
            },
            Opening::PanicAlone => {
                return Look::Found(Found {
                    kind: Kind::Panic,
                    begin: start.begin,
                    last: 0,
                    end: self.lines.front().map_or(0, |(line, _)| line.len()),
                });
            }
        };
        let Some(end) = kind.end() else {
            return Look::Nothing;
        };
        match self.end(end, index, column, missing) {
            Some((last, end)) => Look::Found(Found {
                kind,
                begin: start.begin,
                last,
                end,
            }),
            None if decide => Look::Nothing,
            None => Look::Wait(Awaited::End(end, self.first + index as u64)),
        }
    }

    /// Where the first `end` at or after `column` of the line of `index` is over.
    fn end(
        &self,
        end: End,
        index: usize,
        column: usize,
        missing: &mut [bool; ENDS],
    ) -> Option<(usize, usize)> {
        let slot = end as usize;
        if let Some((line, marks)) = self.lines.get(index)
            && marks.ends.get(slot) == Some(&true)
            && (index > 0 || missing.get(slot) == Some(&false))
        {
            if let Some(end) = mark::end(end, line, column) {
                return Some((index, end));
            }
            if let (0, Some(missing)) = (index, missing.get_mut(slot)) {
                *missing = true;
            }
        }
        let here = self.first + index as u64;
        let number = self.ends(end)?.iter().find(|number| **number > here)?;
        let last = usize::try_from(number - self.first).ok()?;
        let (line, _) = self.lines.get(last)?;
        Some((last, mark::end(end, line, 0)?))
    }

    fn take(&mut self, found: &Found) -> (Kind, String) {
        let mut text = String::new();
        for (index, (line, _)) in self.lines.iter().take(found.last + 1).enumerate() {
            let begin = if index == 0 { found.begin } else { 0 };
            let end = if index == found.last {
                found.end
            } else {
                line.len()
            };
            if index > 0 {
                text.push('\n');
            }
            text.push_str(line.get(begin..end).unwrap_or_default());
        }
        for _ in 0..found.last {
            self.drop_first();
        }
        self.column = found.end;
        (found.kind, text)
    }

    fn drop_first(&mut self) {
        if let Some((line, _)) = self.lines.pop_front() {
            self.bytes -= line.len() + 1;
            self.first += 1;
            self.column = 0;
            for ends in &mut self.ends {
                while ends.front().is_some_and(|number| *number < self.first) {
                    ends.pop_front();
                }
            }
        }
    }

    /// Bytes of lines held, to prove the bound.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.bytes
    }
}
