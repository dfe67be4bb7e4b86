//! What a bundle's state makes of verbs, and a fleet of reports.

use std::time::Duration;

use super::*;
use crate::id::WorkerId;

const HOUR: Millis = 3_600_000;

fn revision(digit: char) -> Revision {
    Revision::parse(&String::from(digit).repeat(Revision::DIGITS)).unwrap()
}

fn worker(name: &str) -> WorkerId {
    WorkerId::new(name)
}

fn publish(digit: char) -> Verb {
    Verb::Publish {
        revision: revision(digit),
        requires: BTreeSet::new(),
        canary: None,
    }
}

fn canary(digit: char, first: First) -> Verb {
    Verb::Publish {
        revision: revision(digit),
        requires: BTreeSet::new(),
        canary: Some((first, 1000)),
    }
}

fn freeze(until: Millis) -> Verb {
    Verb::Freeze(Freeze {
        reason: "a release".into(),
        until,
        by: "ann".into(),
        ended: false,
    })
}

/// A bundle to which these verbs were done, a second apart, and the moment after them.
fn after(verbs: &[Verb]) -> (State, Millis) {
    let (mut state, mut now) = (State::default(), 0);
    for (version, verb) in (1..).zip(verbs) {
        now += 1000;
        state.apply(verb, version, now).unwrap();
    }
    (state, now + 1000)
}

fn desired(state: &State, name: &str, now: Millis) -> Option<Revision> {
    state.desired(name, now).cloned()
}

#[test]
fn the_revision_is_of_the_names_and_contents_of_all_sources() {
    let manifest = |entries: &[(&str, &str)]| Manifest {
        sources: entries
            .iter()
            .map(|(name, source)| ((*name).into(), (*source).into()))
            .collect(),
        undoes: None,
    };
    let one = manifest(&[("a", "1"), ("b", "2")]);
    assert_eq!(
        one.revision(),
        manifest(&[("b", "2"), ("a", "1")]).revision()
    );
    for other in [
        &[("a", "1"), ("b", "3")][..],
        &[("a", "1")],
        &[("a", "1"), ("c", "2")],
    ] {
        assert_ne!(one.revision(), manifest(other).revision());
    }
    let back = Manifest {
        undoes: Some(revision('a')),
        ..one.clone()
    };
    assert_ne!(
        one.revision(),
        back.revision(),
        "a rollback is a new revision"
    );
}

#[test]
fn what_is_published_is_wanted_everywhere() {
    let (state, now) = after(&[publish('a'), publish('b')]);
    assert_eq!(desired(&state, "w", now), Some(revision('b')));
}

#[test]
fn the_same_again_is_nothing_new() {
    let (mut state, now) = after(&[publish('a')]);
    assert!(!state.apply(&publish('a'), 2, now).unwrap());
}

#[test]
fn a_freeze_keeps_what_was_there_and_lets_go_at_its_end() {
    let (state, now) = after(&[publish('a'), freeze(HOUR), publish('b'), publish('c')]);
    assert_eq!(desired(&state, "w", now), Some(revision('a')));
    assert_eq!(desired(&state, "w", HOUR - 1), Some(revision('a')));
    assert_eq!(desired(&state, "w", HOUR), Some(revision('c')));
}

#[test]
fn a_freeze_of_nothing_keeps_nothing_back_but_what_comes() {
    let (state, now) = after(&[freeze(HOUR), publish('a')]);
    assert_eq!(desired(&state, "w", now), None);
}

#[test]
fn a_freeze_can_be_ended_or_overruled() {
    let (mut state, now) = after(&[publish('a'), freeze(HOUR), publish('b')]);
    let mut thawed = state.clone();
    thawed.apply(&Verb::Thaw, 9, now).unwrap();
    assert_eq!(desired(&thawed, "w", now), Some(revision('b')));
    assert_eq!(thawed.apply(&Verb::Thaw, 9, now), Err(Refusal::NotFrozen));
    state.apply(&Verb::ApplyNow, 9, now).unwrap();
    assert_eq!(desired(&state, "w", now), Some(revision('b')));
    // The next one is held back again, and what was let out stays.
    state.apply(&publish('c'), 10, now).unwrap();
    assert_eq!(desired(&state, "w", now), Some(revision('b')));
}

#[test]
fn that_a_freeze_is_over_is_noted_once() {
    let (mut state, now) = after(&[publish('a'), freeze(HOUR)]);
    assert!(!state.apply(&Verb::Ended, 9, now).unwrap());
    assert!(state.apply(&Verb::Ended, 9, HOUR).unwrap());
    assert!(!state.apply(&Verb::Ended, 9, HOUR + 1).unwrap());
}

#[test]
fn steps_by_hand_come_first() {
    let steps = Verb::Publish {
        revision: revision('b'),
        requires: BTreeSet::from(["proxy".into(), "schema".into()]),
        canary: None,
    };
    let (mut state, now) = after(&[publish('a'), steps]);
    let ack = |step: &str| Verb::Ack { step: step.into() };
    assert!(state.apply(&ack("nothing"), 3, now).is_err());
    state.apply(&ack("proxy"), 3, now).unwrap();
    assert_eq!(desired(&state, "w", now), Some(revision('a')));
    state.apply(&Verb::ApplyNow, 4, now).unwrap();
    assert_eq!(
        desired(&state, "w", now),
        Some(revision('a')),
        "no hurry does a step"
    );
    state.apply(&ack("schema"), 5, now).unwrap();
    assert_eq!(desired(&state, "w", now), Some(revision('b')));
}

#[test]
fn those_that_are_chosen_have_it_first_and_keep_it_in_a_freeze() {
    let chosen = Verb::Choose(BTreeSet::from(["w1".to_owned()]));
    let (mut state, now) = after(&[
        publish('a'),
        canary('b', First::Count(1)),
        chosen,
        freeze(HOUR),
    ]);
    assert_eq!(desired(&state, "w1", now), Some(revision('b')));
    assert_eq!(desired(&state, "w2", now), Some(revision('a')));
    state.apply(&Verb::Promote, 9, now).unwrap();
    assert_eq!(
        desired(&state, "w2", now),
        Some(revision('a')),
        "it is frozen still"
    );
    assert_eq!(desired(&state, "w2", HOUR), Some(revision('b')));
}

#[test]
fn what_was_never_everywhere_is_not_what_the_others_keep() {
    let chosen = Verb::Choose(BTreeSet::from(["w1".to_owned()]));
    let (state, now) = after(&[
        publish('a'),
        canary('b', First::Count(1)),
        chosen,
        canary('c', First::Count(1)),
    ]);
    for name in ["w1", "w2"] {
        assert_eq!(desired(&state, name, now), Some(revision('a')), "{name}");
    }
}

#[test]
fn what_all_were_to_have_is_remembered_in_its_order() {
    let all = [publish('a'), publish('b'), publish('c'), publish('b')];
    let before = |verbs: &[Verb]| after(verbs).0.before();
    assert_eq!(before(&all[..1]), []);
    assert_eq!(before(&all[..3]), [revision('b'), revision('a')]);
    assert_eq!(before(&all), [revision('c'), revision('b'), revision('a')]);
    let more = [
        &all[..],
        &[publish('d'), canary('e', First::Count(1)), publish('f')],
    ]
    .concat();
    let those = ['d', 'b', 'c', 'a'].map(revision);
    assert_eq!(before(&more), those, "each once, and no canary");
    let many = ('0'..='9').chain('a'..='f').cycle().take(40).map(publish);
    assert_eq!(before(&many.collect::<Vec<_>>()).len(), 16);
}

fn follower(name: &str, desired: char, applied: char, version: i64) -> Follower {
    Follower {
        worker: worker(name),
        pool: "p".into(),
        kind: "pinned".into(),
        host: name.into(),
        lost: false,
        at: 10_000,
        report: Report {
            version,
            desired: Some(revision(desired)),
            applied: Some(revision(applied)),
            behind_since: (desired != applied).then_some(9000),
            fresh_for: 5000,
            ..Report::default()
        },
    }
}

fn fleet(state: &State, followers: Vec<Follower>) -> Fleet {
    Fleet {
        state: state.clone(),
        followers,
        now: 10_000,
    }
}

#[test]
fn a_wait_ends_only_when_all_have_said_so_since() {
    let (state, _) = after(&[publish('a'), publish('b'), publish('a')]);
    let verdict = |followers: Vec<Follower>| fleet(&state, followers).verdict(&revision('a'), None);
    assert_eq!(
        verdict(vec![
            follower("w1", 'a', 'a', 3),
            follower("w2", 'a', 'a', 3)
        ]),
        Verdict::Live(2)
    );
    // It had this revision before, too, and has another one now for all that is known.
    let stale = vec![follower("w1", 'a', 'a', 1), follower("w2", 'a', 'a', 3)];
    assert_eq!(verdict(stale), Verdict::Waiting(vec![worker("w1")]));
    let mut silent = follower("w1", 'a', 'a', 3);
    silent.at = 4999;
    assert_eq!(verdict(vec![silent]), Verdict::Waiting(vec![worker("w1")]));
    let mut lost = follower("w1", 'a', 'a', 3);
    lost.lost = true;
    assert_eq!(
        verdict(vec![lost.clone(), follower("w2", 'a', 'a', 3)]),
        Verdict::Waiting(vec![worker("w1")])
    );
    lost.kind = "elastic".into();
    assert_eq!(
        verdict(vec![lost, follower("w2", 'a', 'a', 3)]),
        Verdict::Live(1)
    );
}

#[test]
fn a_wait_says_why_it_is_in_vain() {
    let (mut state, now) = after(&[publish('a'), publish('b')]);
    let workers = || vec![follower("w1", 'b', 'a', 2)];
    let verdict =
        |state: &State, digit, pool| fleet(state, workers()).verdict(&revision(digit), pool);
    assert_eq!(
        verdict(&state, 'a', None),
        Verdict::Superseded(revision('b'))
    );
    assert_eq!(verdict(&state, 'b', Some("other")), Verdict::NoWorker);
    assert_eq!(
        verdict(&state, 'b', None),
        Verdict::Waiting(vec![worker("w1")])
    );
    let mut refusing = follower("w1", 'b', 'a', 2);
    refusing.report.refused = Some(revision('b'));
    refusing.report.error = Some("no".into());
    let told = fleet(&state, vec![refusing]).verdict(&revision('b'), None);
    assert_eq!(told, Verdict::Refused(worker("w1"), "no".into()));
    state.apply(&freeze(HOUR), 3, now).unwrap();
    state.apply(&publish('c'), 4, now).unwrap();
    assert_eq!(
        verdict(&state, 'c', None),
        Verdict::Frozen("a release".into())
    );
}

#[test]
fn who_lags_is_who_is_late_knows_of_nothing_or_says_nothing() {
    let (mut state, _) = after(&[publish('a'), publish('b')]);
    if let Some(newest) = &mut state.newest {
        newest.at = 8000;
    }
    let mut silent = follower("silent", 'b', 'b', 2);
    silent.at = 2000;
    let mut late = follower("late", 'b', 'a', 2);
    late.report.behind_since = Some(9000);
    let ignorant = follower("ignorant", 'a', 'a', 1);
    let mut ended = silent.clone();
    ended.kind = "elastic".into();
    ended.lost = true;
    let fleet = fleet(
        &state,
        vec![follower("well", 'b', 'b', 2), silent, late, ignorant, ended],
    );
    let names = |patience| {
        let late = fleet.laggards(Duration::from_millis(patience));
        late.iter().map(|one| one.host.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(999), ["silent", "late", "ignorant"]);
    assert_eq!(names(1000), ["silent", "ignorant"]);
    assert_eq!(names(2000), ["silent"]);
    assert_eq!(names(8000), [""; 0]);
}

#[test]
fn a_canary_is_chosen_looked_after_and_followed() {
    let (mut state, _) = after(&[publish('a'), canary('b', First::Percent(34))]);
    let mut all = fleet(
        &state,
        ["w1", "w2", "w3", "w4"]
            .map(|name| follower(name, 'a', 'a', 2))
            .into(),
    );
    let Some(Verb::Choose(chosen)) = all.canary_step() else {
        panic!("nobody is chosen");
    };
    assert_eq!(chosen.len(), 2, "34 of a hundred of 4, rounded up");
    state
        .apply(&Verb::Choose(chosen.clone()), 3, 10_000)
        .unwrap();
    all.state = state.clone();
    assert_eq!(all.canary_step(), None, "they have it not yet");
    for one in &mut all.followers {
        if chosen.contains(&one.place()) {
            one.report.applied = Some(revision('b'));
            one.report.applied_at = 9500;
        }
    }
    assert_eq!(all.canary_step(), None, "not for long enough");
    all.now = 10_500;
    assert_eq!(all.canary_step(), Some(Verb::Promote));
    // One of them dies: another takes its place, and its time begins.
    let dead = chosen.first().unwrap().clone();
    for one in all.followers.iter_mut().filter(|one| one.place() == dead) {
        one.lost = true;
    }
    let Some(Verb::Choose(next)) = all.canary_step() else {
        panic!("nobody takes its place");
    };
    assert!(next.len() == 2 && !next.contains(&dead), "{next:?}");
    // In a freeze nobody is chosen and nothing promoted.
    state.apply(&freeze(HOUR), 4, 10_500).unwrap();
    all.state = state;
    assert_eq!(all.canary_step(), None);
}

#[test]
fn what_all_have_on_trial_is_not_live() {
    let chosen = Verb::Choose(BTreeSet::from(["p/w1".to_owned()]));
    let (mut state, _) = after(&[publish('a'), canary('b', First::Count(1)), chosen]);
    let verdict = |state: &State| {
        fleet(state, vec![follower("w1", 'b', 'b', 3)]).verdict(&revision('b'), None)
    };
    assert_eq!(verdict(&state), Verdict::Waiting(Vec::new()));
    state.apply(&Verb::Promote, 4, 10_000).unwrap();
    assert_eq!(verdict(&state), Verdict::Live(1));
}

#[test]
fn those_of_one_pool_on_one_machine_are_canaries_together_and_counted_each() {
    let (state, _) = after(&[publish('a'), canary('b', First::Count(2))]);
    let crowd = ["m1", "m1", "m2", "m2", "m3", "m3"].into_iter().enumerate();
    let crowd = crowd.map(|(number, host)| Follower {
        worker: worker(&format!("{host}.{number}")),
        ..follower(host, 'a', 'a', 2)
    });
    let Some(Verb::Choose(chosen)) = fleet(&state, crowd.collect()).canary_step() else {
        panic!("nobody is chosen");
    };
    assert_eq!(
        chosen.len(),
        1,
        "two workers are on one machine: {chosen:?}"
    );
}

#[test]
fn what_was_live_last_is_in_front_also_if_it_was_live_before() {
    let good = |digit| Verb::Good(revision(digit));
    let (state, _) = after(&[
        publish('a'),
        good('a'),
        publish('b'),
        good('b'),
        publish('a'),
        publish('c'),
    ]);
    assert_eq!(state.good, [revision('a'), revision('b')]);
    assert_eq!(state.settled, Some(revision('a')));
}
