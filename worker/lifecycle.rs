//! One worker's life, and how a stop gets stricter. Pure: the pool acts on it.

/// Where a worker is. One writer: the pool. There is no way back.
///
/// | from | on | to |
/// |---|---|---|
/// | starting | joined | running |
/// | starting, running | stop (finish) | quiet |
/// | quiet | deliveries returned | draining |
/// | draining | nothing left | stopped |
/// | any | stop (hand off) | as it was: what runs is ended by the pool |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Not yet in the store's list.
    Starting,
    /// Takes deliveries.
    Running,
    /// Takes nothing new.
    Quiet,
    /// Ends what it has.
    Draining,
    /// Has nothing.
    Stopped,
}

/// What can happen to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is in the store's list.
    Joined,
    /// It shall end.
    Stop,
    /// What it had not begun is back on its queue.
    Returned,
    /// Every attempt is settled.
    Empty,
}

/// An event that the table has no row for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker that is {life:?} cannot take {event:?}")]
pub struct Illegal {
    /// Where it was.
    pub life: Life,
    /// What came.
    pub event: Event,
}

impl Life {
    /// Where it is after `event`.
    ///
    /// # Errors
    ///
    /// [`Illegal`] if the table has no such row.
    pub fn on(self, event: Event) -> Result<Self, Illegal> {
        match (self, event) {
            (Self::Starting, Event::Joined) => Ok(Self::Running),
            (Self::Starting | Self::Running, Event::Stop) => Ok(Self::Quiet),
            (Self::Quiet, Event::Returned) => Ok(Self::Draining),
            (Self::Draining, Event::Empty) => Ok(Self::Stopped),
            // A stop that is repeated changes how strict it is, not where the worker is.
            (Self::Quiet | Self::Draining | Self::Stopped, Event::Stop) => Ok(self),
            (Self::Starting, Event::Returned | Event::Empty)
            | (Self::Running, Event::Joined | Event::Returned | Event::Empty)
            | (Self::Quiet, Event::Joined | Event::Empty)
            | (Self::Draining, Event::Joined | Event::Returned)
            | (Self::Stopped, Event::Joined | Event::Returned | Event::Empty) => {
                Err(Illegal { life: self, event })
            }
        }
    }

    /// As the store's list of workers says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Quiet => "quiet",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// How strict a stop is. The order is that of escalation: a stop may get stricter, never laxer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strictness {
    /// What runs may end by itself or at its next checkpoint, until the deadline.
    Drain,
    /// What runs is handed off from its last checkpoint at once.
    HandOff,
}

impl Strictness {
    /// After one more request to stop.
    #[must_use]
    pub fn escalated(this: Option<Self>) -> Self {
        match this {
            None => Self::Drain,
            Some(Self::Drain | Self::HandOff) => Self::HandOff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVES: [Life; 5] = [
        Life::Starting,
        Life::Running,
        Life::Quiet,
        Life::Draining,
        Life::Stopped,
    ];
    const EVENTS: [Event; 4] = [Event::Joined, Event::Stop, Event::Returned, Event::Empty];

    fn rank(life: Life) -> usize {
        LIVES.iter().position(|known| *known == life).unwrap()
    }

    #[test]
    fn no_event_leads_back() {
        for life in LIVES {
            for event in EVENTS {
                if let Ok(next) = life.on(event) {
                    assert!(
                        rank(next) >= rank(life),
                        "{life:?} on {event:?} went back to {next:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn only_an_empty_worker_stops() {
        for life in LIVES {
            for event in EVENTS {
                if life != Life::Stopped && life.on(event) == Ok(Life::Stopped) {
                    assert_eq!((life, event), (Life::Draining, Event::Empty));
                }
            }
        }
    }

    #[test]
    fn every_life_takes_a_stop_and_a_stopped_one_nothing_else() {
        for life in LIVES {
            assert!(life.on(Event::Stop).is_ok(), "{life:?}");
        }
        for event in [Event::Joined, Event::Returned, Event::Empty] {
            assert!(Life::Stopped.on(event).is_err(), "{event:?}");
        }
    }

    #[test]
    fn a_stop_only_gets_stricter() {
        let first = Strictness::escalated(None);
        assert_eq!(first, Strictness::Drain);
        assert!(Strictness::escalated(Some(first)) > first);
        assert_eq!(
            Strictness::escalated(Some(Strictness::HandOff)),
            Strictness::HandOff
        );
    }
}
