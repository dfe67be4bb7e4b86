//! Which tags of a channel are to be acknowledged by which frame.

use std::collections::BTreeMap;

/// Which deliveries of a channel are not acknowledged yet.
///
/// Tags count the channel's deliveries from 1, but those of several queues may be handed on in another
/// order. A tag that was not handed on yet is never acknowledged together with later ones.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// Up to here, all is acknowledged or given back.
    floor: u64,
    /// Handed on, beyond the floor.
    pub(super) tags: BTreeMap<u64, Tag>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// Somebody works on it.
    Held,
    /// To be acknowledged.
    Done,
    /// Acknowledged or given back by a frame of its own.
    Told,
}

impl Open {
    /// What to send so that `tags` are acknowledged: a tag up to which all may be, and single ones beyond it.
    pub(super) fn done(&mut self, tags: &[u64]) -> (Option<u64>, Vec<u64>) {
        for tag in tags {
            self.tags.insert(*tag, Tag::Done);
        }
        let mut upto = None;
        while let Some(entry) = self.tags.first_entry()
            && *entry.key() == self.floor + 1
            && *entry.get() != Tag::Held
        {
            self.floor += 1;
            if entry.remove() == Tag::Done {
                upto = Some(self.floor);
            }
        }
        let single = tags
            .iter()
            .copied()
            .filter(|tag| {
                let beyond = *tag > self.floor;
                if beyond {
                    self.tags.insert(*tag, Tag::Told);
                }
                beyond
            })
            .collect();
        (upto, single)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed_on(tags: &[u64]) -> Open {
        Open {
            floor: 0,
            tags: tags.iter().map(|tag| (*tag, Tag::Held)).collect(),
        }
    }

    #[test]
    fn a_prefix_is_acknowledged_in_one_frame_and_the_rest_one_by_one() {
        let mut open = handed_on(&[1, 2, 3, 4, 5]);
        assert_eq!(open.done(&[1, 2, 4]), (Some(2), vec![4]));
        assert_eq!(open.done(&[3]), (Some(3), vec![]));
        assert_eq!(open.done(&[5]), (Some(5), vec![]));
        assert!(open.tags.is_empty());
    }

    #[test]
    fn what_was_not_handed_on_yet_is_not_acknowledged_with_what_came_later() {
        let mut open = handed_on(&[1, 3]);
        assert_eq!(open.done(&[1, 3]), (Some(1), vec![3]));
        open.tags.insert(2, Tag::Held);
        assert_eq!(open.done(&[2]), (Some(2), vec![]));
        assert_eq!(open.floor, 3);
    }

    #[test]
    fn what_was_given_back_ends_no_frame() {
        let mut open = handed_on(&[1, 2, 3]);
        open.tags.insert(2, Tag::Told);
        open.tags.insert(3, Tag::Told);
        assert_eq!(open.done(&[1]), (Some(1), vec![]));
        assert_eq!((open.floor, open.tags.len()), (3, 0));
    }
}
