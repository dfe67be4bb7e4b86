//! When sources that change on their own have come to rest.

use std::time::Duration;

use crate::clock::Millis;

/// How long nothing must have moved, and how long that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    /// Nothing moved for so long: it is taken.
    pub min: Duration,
    /// It has moved for so long that it is taken as it is.
    pub max: Duration,
}

/// A change that was seen and not taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    content: String,
    first: Millis,
    last: Millis,
}

impl Quiet {
    /// Whether `content`, which is there at `now`, has rested for `rested`, and differs from what is applied, is to be taken.
    pub fn is_over(
        self,
        seen: &mut Option<Seen>,
        content: &str,
        now: Millis,
        rested: Duration,
    ) -> bool {
        let begun = now - Millis::try_from(rested.as_millis()).unwrap_or(now);
        let change = seen.get_or_insert_with(|| Seen {
            content: content.to_owned(),
            first: begun,
            last: begun,
        });
        if change.content != content {
            content.clone_into(&mut change.content);
            change.last = now;
        }
        let lasted = |since: Millis, wanted: Duration| {
            u128::try_from(now - since).is_ok_and(|passed| passed >= wanted.as_millis())
        };
        lasted(change.last, self.min) || lasted(change.first, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Quiet = Quiet {
        min: Duration::from_millis(10),
        max: Duration::from_millis(35),
    };

    #[test]
    fn what_rests_for_the_shortest_time_is_taken() {
        let mut seen = None;
        assert!(!QUIET.is_over(&mut seen, "a", 100, Duration::ZERO));
        assert!(!QUIET.is_over(&mut seen, "a", 109, Duration::ZERO));
        assert!(QUIET.is_over(&mut seen, "a", 110, Duration::ZERO));
    }

    #[test]
    fn each_move_begins_the_time_anew_but_not_for_ever() {
        let mut seen = None;
        for (at, content) in [(100, "a"), (109, "b"), (118, "c"), (127, "d")] {
            assert!(!QUIET.is_over(&mut seen, content, at, Duration::ZERO));
        }
        assert!(QUIET.is_over(&mut seen, "e", 135, Duration::ZERO));
    }

    #[test]
    fn what_nobody_has_touched_for_long_needs_no_second_look() {
        assert!(QUIET.is_over(&mut None, "a", 100, Duration::from_millis(10)));
    }

    #[test]
    fn without_a_time_everything_is_taken_at_once() {
        let none = Quiet {
            min: Duration::ZERO,
            max: Duration::ZERO,
        };
        assert!(none.is_over(&mut None, "a", 5, Duration::ZERO));
    }
}
