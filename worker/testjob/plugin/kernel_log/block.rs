//! A finding of several lines while it is being read. Never holds more than
//! [`MAX_BLOCK_LINES`] lines or [`MAX_BLOCK_BYTES`] of them.

use super::line::Line;
use super::mark::{Kind, Mark};
use super::name::{self, Finding};
use super::{MAX_BLOCK_BYTES, MAX_BLOCK_LINES, MAX_LINE, Phase};

/// How far into an exception its headline is looked for: `WARN()` prints the caller's text, which
/// may have several lines, before `WARNING: …`.
const HEADLINE_LINES: usize = 10;

/// How sure it is that the headline is the right one; sorts by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Certainty {
    /// Nothing but `cut here` so far.
    None,
    /// The first line that says anything.
    Guess,
    /// The line that the kernel writes as a headline.
    Sure,
}

/// An open block.
#[derive(Debug)]
pub(super) struct Block {
    phase: Phase,
    kind: Kind,
    text: String,
    lines: usize,
    headline: String,
    certainty: Certainty,
    /// The functions of the trace, one a line.
    functions: String,
}

impl Block {
    /// A block that begins with `line`.
    pub(super) fn open(phase: Phase, kind: Kind, line: Line<'_>) -> Self {
        let mut block = Self {
            phase,
            kind,
            text: line.whole.to_owned(),
            lines: 1,
            headline: line.message.to_owned(),
            certainty: if kind == Kind::Exception {
                Certainty::None
            } else {
                Certainty::Sure
            },
            functions: String::new(),
        };
        name::push_functions(line.message, &mut block.functions);
        block
    }

    /// Whether a block of `kind` is but a part of this one: `BUG()` on arm64 prints `cut here`,
    /// `kernel BUG at`, `Internal error: Oops - BUG`, and one end for all.
    pub(super) fn owns(&self, kind: Kind) -> bool {
        self.kind == Kind::Exception && kind == Kind::InternalErrorOops
    }

    /// Whether no other line is sure to fit.
    pub(super) fn is_full(&self) -> bool {
        self.lines >= MAX_BLOCK_LINES || self.text.len() + 1 + MAX_LINE > MAX_BLOCK_BYTES
    }

    /// Takes the next line. Only to be called while the block is not full.
    pub(super) fn push(&mut self, line: Line<'_>, mark: Option<Mark>) {
        self.text.push('\n');
        self.text.push_str(line.whole);
        self.lines += 1;
        name::push_functions(line.message, &mut self.functions);
        if self.lines <= HEADLINE_LINES && self.certainty < Certainty::Sure {
            self.consider(line.message, mark);
        }
    }

    /// Whether the line with `mark` is the last of this block.
    pub(super) fn ends_at(&self, mark: Option<Mark>) -> bool {
        match mark {
            Some(Mark::Ends(end)) => self.kind.end() == Some(end),
            Some(Mark::Opens(_) | Mark::Line(_) | Mark::Reboot) | None => false,
        }
    }

    /// The block as it stands.
    pub(super) fn finding(&self) -> Finding<'_> {
        Finding {
            phase: self.phase,
            kind: if self.lines == 1 {
                self.kind.alone()
            } else {
                self.kind
            },
            headline: &self.headline,
            functions: &self.functions,
            text: &self.text,
        }
    }

    /// Takes `message` for the headline if it makes a better one.
    fn consider(&mut self, message: &str, mark: Option<Mark>) {
        let certainty = match mark {
            Some(Mark::Line(_) | Mark::Opens(_)) => Certainty::Sure,
            Some(Mark::Ends(_) | Mark::Reboot) => Certainty::None,
            None if name::words(message).is_empty() => Certainty::None,
            None => Certainty::Guess,
        };
        if certainty > self.certainty {
            self.certainty = certainty;
            message.clone_into(&mut self.headline);
        }
    }

    /// Bytes held, to prove the bound.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.text.capacity() + self.headline.capacity() + self.functions.capacity()
    }
}
