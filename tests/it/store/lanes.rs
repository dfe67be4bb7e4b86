//! Lanes, and tasks that wait for others.

use longshore::id::{Epoch, WorkerId};
use longshore::lane::{Lane, OnFailure, When};
use longshore::store::{ClaimAnswer, Ring, Settlement, State, StoreError};
use longshore::task::Task;

use crate::harness::{Bench, id, on_both, task};

on_both!(
    a_lane_runs_one_at_a_time_in_the_order_of_enqueueing,
    a_retry_and_a_death_keep_the_place,
    a_failed_task_halts_its_lane_until_somebody_decides,
    a_failed_task_can_be_skipped_by_declaration,
    a_failed_task_can_take_the_rest_along,
    a_lane_with_room_for_two_runs_two,
    a_canceled_task_leaves_its_lane,
    tokens_grow_from_attempt_to_attempt,
    enqueueing_twice_takes_no_second_place,
    a_task_waits_for_all_that_it_names,
    what_can_never_run_is_canceled_with_all_that_waits_for_it,
    what_failed_and_runs_again_calls_back_who_waited,
    a_wait_for_what_has_ended_is_none,
    unknown_tasks_and_circles_are_refused,
    a_lane_waits_behind_one_that_waits,
    an_end_that_nobody_passed_on_is_the_leaders,
    follow_up_tasks_may_stand_in_lanes,
    two_ends_at_once_let_go_what_waits_for_both,
    a_blocked_task_is_never_claimed,
    a_parked_or_expired_holder_is_no_hole,
    a_plain_task_that_runs_again_is_passed_on,
    a_graph_may_name_what_is_there_already,
    a_lane_moves_when_what_halted_it_runs_again,
    who_goes_to_the_end_takes_along_who_waits_for_it,
    a_canceled_task_that_runs_again_at_once_takes_its_turn,
    the_rest_of_a_lane_does_not_come_back_with_what_it_waited_for,
    those_called_back_keep_their_order,
    a_lowered_limit_counts_whoever_runs,
    what_is_not_passed_on_is_not_swept,
    a_lane_that_is_forgotten_begins_anew_with_larger_tokens,
);

/// The tasks that are announced.
fn ids(rings: &[Ring]) -> Vec<String> {
    let ids = super::enqueue::ids(rings).into_iter();
    ids.map(str::to_owned).collect()
}

fn in_lane(name: &str) -> Task {
    task(name).in_lane(Lane::new("l"))
}

fn with_policy(name: &str, on_failure: OnFailure) -> Task {
    task(name).in_lane(Lane {
        on_failure,
        ..Lane::new("l")
    })
}

async fn enqueue(bench: &Bench, tasks: &[Task]) -> Vec<String> {
    ids(&bench.store.enqueue(tasks).await.unwrap().rings)
}

fn ended(state: State) -> Settlement {
    Settlement {
        state: Some(state),
        failed: state == State::Dead,
        ..Settlement::default()
    }
}

/// Runs a task to its end, and answers who may run then.
async fn end(bench: &Bench, worker: &WorkerId, name: &str, state: State) -> Vec<String> {
    let epoch = bench.claimed(worker, &task(name)).await.epoch;
    settle(bench, name, epoch, state).await
}

async fn settle(bench: &Bench, name: &str, epoch: Epoch, state: State) -> Vec<String> {
    let items = [(id(name), epoch, ended(state))];
    let (settled, rings) = bench.store.settle(&items).await.unwrap();
    assert_eq!(settled.len(), 1);
    assert!(!bench.store.pass_on_left().await.unwrap().0);
    ids(&rings)
}

async fn states(bench: &Bench, names: &[&str]) -> Vec<State> {
    let mut found = Vec::new();
    for name in names {
        found.push(bench.view(name).await.state);
    }
    found
}

async fn a_lane_runs_one_at_a_time_in_the_order_of_enqueueing(bench: Bench) {
    let worker = bench.worker().await;
    assert_eq!(enqueue(&bench, &[in_lane("a"), in_lane("b")]).await, ["a"]);
    assert!(enqueue(&bench, &[in_lane("c")]).await.is_empty());
    // Another lane is no matter of this one.
    let other = task("x").in_lane(Lane::new("m"));
    assert_eq!(enqueue(&bench, &[other]).await, ["x"]);
    let waits = bench.store.waits(&["c", "b", "a"]).await.unwrap();
    let now = bench.clock.now();
    let mut texts: Vec<String> = waits.iter().map(|wait| wait.text(now)).collect();
    texts.sort();
    assert_eq!(
        texts,
        [
            "behind a (queued) in lane l for 0s",
            "behind b (blocked) in lane l for 0s"
        ]
    );
    assert_eq!(end(&bench, &worker, "a", State::Done).await, ["b"]);
    assert_eq!(end(&bench, &worker, "b", State::Done).await, ["c"]);
    assert!(end(&bench, &worker, "c", State::Done).await.is_empty());
    // The lane is free again.
    assert_eq!(enqueue(&bench, &[in_lane("d")]).await, ["d"]);
    let lanes = bench.store.lanes(None, 10).await.unwrap();
    let found: Vec<_> = lanes
        .iter()
        .map(|lane| (lane.key.as_str(), lane.holding, lane.waiting))
        .collect();
    assert_eq!(found, [("l", 1, 0), ("m", 1, 0)]);
}

async fn a_retry_and_a_death_keep_the_place(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[in_lane("a"), in_lane("b")]).await;
    // Not yet, then a hand-off, then a death: nobody overtakes.
    let epoch = bench.claimed(&worker, &task("a")).await.epoch;
    assert!(settle(&bench, "a", epoch, State::Waiting).await.is_empty());
    assert_eq!(
        states(&bench, &["a", "b"]).await,
        [State::Waiting, State::Blocked]
    );
    let fence = bench.leader().await;
    assert_eq!(ids(&bench.store.due(&fence).await.unwrap()), ["a"]);
    let epoch = bench.claimed(&worker, &task("a")).await.epoch;
    assert_eq!(settle(&bench, "a", epoch, State::Queued).await, ["a"]);
    bench.claimed(&worker, &task("a")).await;
    let seen = bench.store.workers(false).await.unwrap();
    let seen: Vec<_> = seen
        .into_iter()
        .map(|view| (view.id, view.lease_until))
        .collect();
    bench.store.mark_lost(&fence, &seen).await.unwrap();
    let (rings, dead) = bench.store.rescue(&fence, 10).await.unwrap();
    assert_eq!((ids(&rings), dead.len()), (vec!["a".to_owned()], 0));
    assert_eq!(
        states(&bench, &["a", "b"]).await,
        [State::Queued, State::Blocked]
    );
    let worker = bench.worker().await;
    assert_eq!(end(&bench, &worker, "a", State::Done).await, ["b"]);
}

async fn a_failed_task_halts_its_lane_until_somebody_decides(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(
        &bench,
        &[in_lane("a"), in_lane("b"), in_lane("c"), in_lane("d")],
    )
    .await;
    assert!(end(&bench, &worker, "a", State::Dead).await.is_empty());
    assert!(enqueue(&bench, &[in_lane("e")]).await.is_empty());
    let lane = bench.store.lanes(Some("l"), 1).await.unwrap().remove(0);
    assert_eq!(lane.halted_by.as_deref(), Some("a"));
    bench.clock.advance(std::time::Duration::from_secs(90));
    let wait = bench.store.waits(&["b"]).await.unwrap().remove(0);
    assert_eq!(
        wait.text(bench.clock.now()),
        "lane l is halted: a failed; waits for 1m 30s"
    );
    // It runs again, in its place.
    let rings = bench.store.revive(&["a".to_owned()]).await.unwrap();
    assert_eq!(ids(&rings), ["a"]);
    assert_eq!(end(&bench, &worker, "a", State::Done).await, ["b"]);
    // Or it is skipped; if it runs again after that, at the end.
    assert!(end(&bench, &worker, "b", State::Dead).await.is_empty());
    let (skipped, rings) = bench.store.skip("l").await.unwrap();
    assert_eq!((skipped, ids(&rings)), (vec!["b".into()], vec!["c".into()]));
    assert_eq!(bench.store.skip("l").await.unwrap().0, Vec::<String>::new());
    let rings = bench.store.revive(&["b".to_owned()]).await.unwrap();
    assert!(rings.is_empty());
    for (name, next) in [("c", vec!["d"]), ("d", vec!["e"]), ("e", vec!["b"])] {
        assert_eq!(end(&bench, &worker, name, State::Done).await, next);
    }
    assert!(end(&bench, &worker, "b", State::Done).await.is_empty());
}

async fn a_failed_task_can_be_skipped_by_declaration(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[with_policy("a", OnFailure::Skip), in_lane("b")]).await;
    assert_eq!(end(&bench, &worker, "a", State::Dead).await, ["b"]);
}

async fn a_failed_task_can_take_the_rest_along(bench: Bench) {
    let worker = bench.worker().await;
    let after = task("after-b").after("b", When::Success);
    let anyway = task("anyway").after("b", When::Done);
    let tasks = [
        with_policy("a", OnFailure::CancelRest),
        in_lane("b"),
        in_lane("c"),
        after,
        anyway,
    ];
    enqueue(&bench, &tasks).await;
    assert_eq!(end(&bench, &worker, "a", State::Dead).await, ["anyway"]);
    assert_eq!(
        states(&bench, &["b", "c", "after-b"]).await,
        [State::Canceled; 3]
    );
    assert_eq!(
        bench.view("c").await.reason.as_deref(),
        Some("canceled with the rest of lane l, because a failed")
    );
    // Whoever comes later is not of the rest.
    assert_eq!(enqueue(&bench, &[in_lane("d")]).await, ["d"]);
}

async fn a_lane_with_room_for_two_runs_two(bench: Bench) {
    let worker = bench.worker().await;
    let wide = |name: &str| {
        task(name).in_lane(Lane {
            limit: Some(2),
            ..Lane::new("l")
        })
    };
    let mut names = enqueue(&bench, &[wide("a"), wide("b"), wide("c"), wide("d")]).await;
    names.sort();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(end(&bench, &worker, "b", State::Done).await, ["c"]);
    let (known, rings) = bench.store.set_limit("l", 3).await.unwrap();
    assert_eq!((known, ids(&rings)), (true, vec!["d".to_owned()]));
    assert!(!bench.store.set_limit("nowhere", 3).await.unwrap().0);
    // A failed one halts it for all that have not begun.
    enqueue(&bench, &[in_lane("e"), in_lane("f")]).await;
    assert!(end(&bench, &worker, "a", State::Dead).await.is_empty());
    assert!(end(&bench, &worker, "c", State::Done).await.is_empty());
    assert!(end(&bench, &worker, "d", State::Done).await.is_empty());
    let (_, rings) = bench.store.skip("l").await.unwrap();
    let mut names = ids(&rings);
    names.sort();
    assert_eq!(names, ["e", "f"]);
}

async fn a_canceled_task_leaves_its_lane(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[in_lane("a"), in_lane("b"), in_lane("c")]).await;
    bench.store.cancel("b", "not wanted").await.unwrap();
    let (_, rings) = bench.store.cancel("a", "not wanted").await.unwrap();
    assert_eq!(ids(&rings), ["c"], "whoever cancels announces who is next");
    assert_eq!(
        states(&bench, &["a", "b", "c"]).await,
        [State::Canceled, State::Canceled, State::Queued]
    );
    assert!(end(&bench, &worker, "c", State::Done).await.is_empty());
    assert_eq!(bench.store.lanes(None, 10).await.unwrap().len(), 0);
}

async fn tokens_grow_from_attempt_to_attempt(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[in_lane("a"), in_lane("b"), task("free")]).await;
    let mut tokens = Vec::new();
    for name in ["a", "b"] {
        for state in [State::Queued, State::Queued, State::Done] {
            let claimed = bench.claimed(&worker, &task(name)).await;
            tokens.push(claimed.token);
            settle(&bench, name, claimed.epoch, state).await;
        }
    }
    assert!(tokens.is_sorted_by(|one, other| one < other), "{tokens:?}");
    let free = bench.claimed(&worker, &task("free")).await;
    assert_eq!(free.token, free.epoch.get());
}

async fn enqueueing_twice_takes_no_second_place(bench: Bench) {
    let worker = bench.worker().await;
    let both = [in_lane("a"), in_lane("b").after("a", When::Success)];
    enqueue(&bench, &both).await;
    let again = bench.store.enqueue(&both).await.unwrap();
    assert!(again.new.is_empty() && again.rings.is_empty());
    assert_eq!(end(&bench, &worker, "a", State::Done).await, ["b"]);
    bench.store.enqueue(&both).await.unwrap();
    assert!(end(&bench, &worker, "b", State::Done).await.is_empty());
    assert_eq!(bench.store.lanes(None, 10).await.unwrap().len(), 0);
}

async fn a_task_waits_for_all_that_it_names(bench: Bench) {
    let worker = bench.worker().await;
    let last = task("last")
        .after("a", When::Success)
        .after("b", When::Done)
        .after("c", When::Failed);
    assert_eq!(
        enqueue(&bench, &[last, task("a"), task("b"), task("c")]).await,
        ["a", "b", "c"]
    );
    let waits = bench.store.waits(&["last"]).await.unwrap();
    let now = bench.clock.now();
    let mut texts: Vec<String> = waits.iter().map(|wait| wait.text(now)).collect();
    texts.sort();
    assert_eq!(
        texts,
        [
            "after a (queued) if that succeeds",
            "after b (queued)",
            "after c (queued) if that fails"
        ]
    );
    assert!(end(&bench, &worker, "a", State::Done).await.is_empty());
    assert!(end(&bench, &worker, "b", State::Dead).await.is_empty());
    assert_eq!(end(&bench, &worker, "c", State::Dead).await, ["last"]);
}

async fn what_can_never_run_is_canceled_with_all_that_waits_for_it(bench: Bench) {
    let worker = bench.worker().await;
    let tasks = [
        task("a"),
        task("b").after("a", When::Success),
        task("c").after("b", When::Success),
        task("cleanup").after("c", When::Done),
        task("alarm").after("b", When::Failed),
        in_lane("first").after("c", When::Success),
        in_lane("second"),
    ];
    assert_eq!(enqueue(&bench, &tasks).await, ["a"]);
    let mut names = end(&bench, &worker, "a", State::Dead).await;
    names.sort();
    assert_eq!(names, ["alarm", "cleanup", "second"]);
    assert_eq!(
        states(&bench, &["b", "c", "first"]).await,
        [State::Canceled; 3]
    );
    assert_eq!(
        bench.view("b").await.reason.as_deref(),
        Some("it was to run after a, which is dead")
    );
    // One that waits for a failure that did not come.
    enqueue(&bench, &[task("x"), task("y").after("x", When::Failed)]).await;
    assert!(end(&bench, &worker, "x", State::Done).await.is_empty());
    assert_eq!(bench.view("y").await.state, State::Canceled);
}

async fn what_failed_and_runs_again_calls_back_who_waited(bench: Bench) {
    let worker = bench.worker().await;
    let tasks = [
        task("a"),
        task("x"),
        task("b").after("a", When::Success),
        in_lane("c").after("b", When::Success),
        task("both")
            .after("a", When::Success)
            .after("x", When::Success),
        task("unwanted").after("a", When::Success),
    ];
    enqueue(&bench, &tasks).await;
    bench.store.cancel("unwanted", "by hand").await.unwrap();
    assert!(end(&bench, &worker, "a", State::Dead).await.is_empty());
    assert!(end(&bench, &worker, "x", State::Dead).await.is_empty());
    let names = ["b", "c", "both", "unwanted"];
    assert_eq!(states(&bench, &names).await, [State::Canceled; 4]);
    let rings = bench.store.revive(&["a".to_owned()]).await.unwrap();
    assert_eq!(ids(&rings), ["a"]);
    assert_eq!(
        states(&bench, &names).await,
        [
            State::Blocked,
            State::Blocked,
            State::Canceled,
            State::Canceled
        ]
    );
    assert_eq!(end(&bench, &worker, "a", State::Done).await, ["b"]);
    assert_eq!(end(&bench, &worker, "b", State::Done).await, ["c"]);
    assert!(end(&bench, &worker, "c", State::Done).await.is_empty());
    let rings = bench.store.revive(&["x".to_owned()]).await.unwrap();
    assert_eq!(ids(&rings), ["x"]);
    assert_eq!(end(&bench, &worker, "x", State::Done).await, ["both"]);
    // One that was canceled with what it waited for runs by hand whatever that did.
    enqueue(&bench, &[task("p"), task("q").after("p", When::Success)]).await;
    end(&bench, &worker, "p", State::Dead).await;
    let rings = bench.store.revive(&["q".to_owned()]).await.unwrap();
    assert_eq!(ids(&rings), ["q"]);
}

async fn a_wait_for_what_has_ended_is_none(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[task("good"), task("bad")]).await;
    end(&bench, &worker, "good", State::Done).await;
    end(&bench, &worker, "bad", State::Dead).await;
    let tasks = [
        task("a").after("good", When::Success),
        task("b").after("bad", When::Failed),
        task("c").after("bad", When::Success),
        task("d").after("c", When::Done),
    ];
    let mut names = enqueue(&bench, &tasks).await;
    names.sort();
    assert_eq!(names, ["a", "b", "d"]);
    assert_eq!(bench.view("c").await.state, State::Canceled);
}

async fn unknown_tasks_and_circles_are_refused(bench: Bench) {
    let refused = |tasks: Vec<Task>| {
        let store = bench.store.clone();
        async move {
            match store.enqueue(&tasks).await {
                Err(StoreError::Graph { reason }) => reason,
                other => panic!("{other:?}"),
            }
        }
    };
    let unknown = refused(vec![
        in_lane("x"),
        task("a").after("nobody", When::Done),
        task("b").after("x", When::Done),
    ])
    .await;
    assert!(unknown.contains("not there: nobody"), "{unknown}");
    assert!(bench.find("a").await.is_none() && bench.find("x").await.is_none());
    let circle = refused(vec![
        task("a").after("b", When::Done),
        task("b").after("a", When::Done),
    ])
    .await;
    assert!(
        circle.ends_with("a, which waits for b, which waits for a"),
        "{circle}"
    );
    let none = in_lane("z").in_lane(Lane {
        limit: Some(0),
        ..Lane::new("l")
    });
    assert!(refused(vec![none]).await.contains("at least 1"));
    assert!(
        refused(vec![task("z").in_lane(Lane::new(""))])
            .await
            .contains("1 to 512 bytes")
    );
}

async fn a_lane_waits_behind_one_that_waits(bench: Bench) {
    let worker = bench.worker().await;
    let tasks = [
        task("stage"),
        in_lane("a").after("stage", When::Success),
        in_lane("b"),
    ];
    assert_eq!(enqueue(&bench, &tasks).await, ["stage"]);
    assert_eq!(end(&bench, &worker, "stage", State::Done).await, ["a"]);
    assert_eq!(end(&bench, &worker, "a", State::Done).await, ["b"]);
}

async fn an_end_that_nobody_passed_on_is_the_leaders(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[in_lane("a"), in_lane("b")]).await;
    bench.claimed(&worker, &task("a")).await;
    // As a process leaves it that dies after the commit that ends the task.
    bench
        .execute("update tasks set state = 'done', worker = null, ended_at = 1 where id = 'a'")
        .await;
    let (found, rings) = bench.store.pass_on_left().await.unwrap();
    assert_eq!((found, ids(&rings)), (true, vec!["b".to_owned()]));
    assert!(!bench.store.pass_on_left().await.unwrap().0);
}

async fn follow_up_tasks_may_stand_in_lanes(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[in_lane("a")]).await;
    let epoch = bench.claimed(&worker, &task("a")).await.epoch;
    let follow = [
        in_lane("b"),
        in_lane("c"),
        task("d").after("a", When::Success),
    ];
    let done = ended(State::Done);
    let rings = bench
        .store
        .settle_with(&id("a"), epoch, &done, Vec::new(), &follow)
        .await
        .unwrap();
    let mut names = ids(&rings);
    names.sort();
    assert_eq!(names, ["b", "d"]);
    assert!(!bench.store.pass_on_left().await.unwrap().0);
}

/// Each ender sees the other's task still running when it begins; the one that comes second has to see the first.
async fn two_ends_at_once_let_go_what_waits_for_both(bench: Bench) {
    let worker = bench.worker().await;
    for round in 0..20 {
        let name = |of: &str| format!("{of}{round}");
        let both = task(&name("both"))
            .after(name("a"), When::Success)
            .after(name("b"), When::Success);
        let lane = task(&name("lane"))
            .in_lane(Lane::new("l"))
            .after(name("a"), When::Success)
            .after(name("b"), When::Success);
        enqueue(&bench, &[task(&name("a")), task(&name("b")), both, lane]).await;
        let other = bench.other();
        let mut ends = Vec::new();
        for (store, of) in [(bench.store.clone(), "a"), (other.clone(), "b")] {
            let epoch = bench.claimed(&worker, &task(&name(of))).await.epoch;
            let item = (id(&name(of)), epoch, ended(State::Done));
            ends.push(async move { store.settle(&[item]).await.unwrap().1 });
        }
        let rings: Vec<Ring> = futures::future::join_all(ends)
            .await
            .into_iter()
            .flatten()
            .collect();
        let mut names = ids(&rings);
        names.sort();
        names.dedup();
        assert_eq!(names, [name("both"), name("lane")]);
        assert!(
            end(&bench, &worker, &name("lane"), State::Done)
                .await
                .is_empty()
        );
        other.close().await;
    }
}

async fn a_blocked_task_is_never_claimed(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[in_lane("a"), in_lane("b")]).await;
    assert_eq!(
        bench.claim(&worker, &task("b")).await,
        ClaimAnswer::Not(State::Blocked)
    );
    super::settle::set_aside(&bench, &task("b"), State::Queued).await;
    assert_eq!(bench.view("b").await.state, State::Blocked);
}

async fn a_parked_or_expired_holder_is_no_hole(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[in_lane("a"), in_lane("b"), in_lane("c")]).await;
    super::settle::set_aside(&bench, &task("a"), State::Parked).await;
    assert_eq!(
        states(&bench, &["a", "b"]).await,
        [State::Parked, State::Blocked]
    );
    bench.store.unpark(&["demo.work".into()]).await.unwrap();
    super::settle::set_aside(&bench, &task("a"), State::Expired).await;
    assert_eq!(
        states(&bench, &["a", "b"]).await,
        [State::Expired, State::Queued]
    );
    assert_eq!(end(&bench, &worker, "b", State::Done).await, ["c"]);
}

async fn a_plain_task_that_runs_again_is_passed_on(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[task("a"), task("h")]).await;
    end(&bench, &worker, "a", State::Dead).await;
    let tasks = [
        task("b").after("a", When::Success),
        task("c").after("a", When::Failed).after("h", When::Done),
    ];
    assert!(enqueue(&bench, &tasks).await.is_empty());
    assert_eq!(
        states(&bench, &["b", "c"]).await,
        [State::Canceled, State::Blocked]
    );
    assert_eq!(
        ids(&bench.store.revive(&["a".into()]).await.unwrap()),
        ["a"]
    );
    assert_eq!(end(&bench, &worker, "a", State::Done).await, ["b"]);
    assert_eq!(bench.view("c").await.state, State::Canceled);
}

async fn a_graph_may_name_what_is_there_already(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[task("done"), task("runs")]).await;
    end(&bench, &worker, "done", State::Done).await;
    let tasks = [
        task("done"),
        task("runs"),
        task("a").after("done", When::Success),
        task("b").after("runs", When::Success),
    ];
    assert_eq!(enqueue(&bench, &tasks).await, ["a"]);
    assert_eq!(end(&bench, &worker, "runs", State::Done).await, ["b"]);
}

async fn a_lane_moves_when_what_halted_it_runs_again(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[in_lane("a"), in_lane("b"), in_lane("c")]).await;
    end(&bench, &worker, "a", State::Dead).await;
    assert!(bench.store.set_limit("l", 2).await.unwrap().1.is_empty());
    let mut names = ids(&bench.store.revive(&["a".into()]).await.unwrap());
    names.sort();
    assert_eq!(names, ["a", "b"]);
}

async fn who_goes_to_the_end_takes_along_who_waits_for_it(bench: Bench) {
    let worker = bench.worker().await;
    let tasks = [
        with_policy("b", OnFailure::Skip),
        in_lane("x"),
        in_lane("y").after("b", When::Done),
        in_lane("z"),
    ];
    enqueue(&bench, &tasks).await;
    assert_eq!(end(&bench, &worker, "b", State::Dead).await, ["x"]);
    assert!(bench.store.revive(&["b".into()]).await.unwrap().is_empty());
    for (name, next) in [("x", "z"), ("z", "b"), ("b", "y")] {
        assert_eq!(end(&bench, &worker, name, State::Done).await, [next]);
    }
}

/// Its place is not free yet, and it is not its turn.
async fn a_canceled_task_that_runs_again_at_once_takes_its_turn(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[in_lane("a"), in_lane("b"), in_lane("c")]).await;
    // As a process leaves it that dies after the commit that cancels it.
    bench
        .execute("update tasks set state = 'canceled', ended_at = 1 where id = 'b'")
        .await;
    assert!(bench.store.revive(&["b".into()]).await.unwrap().is_empty());
    assert_eq!(end(&bench, &worker, "a", State::Done).await, ["c"]);
    assert_eq!(end(&bench, &worker, "c", State::Done).await, ["b"]);
}

async fn the_rest_of_a_lane_does_not_come_back_with_what_it_waited_for(bench: Bench) {
    let worker = bench.worker().await;
    let tasks = [
        task("a"),
        with_policy("f", OnFailure::CancelRest),
        in_lane("b").after("a", When::Success),
    ];
    enqueue(&bench, &tasks).await;
    end(&bench, &worker, "f", State::Dead).await;
    end(&bench, &worker, "a", State::Dead).await;
    bench.store.revive(&["a".into()]).await.unwrap();
    assert_eq!(bench.view("b").await.state, State::Canceled);
}

async fn those_called_back_keep_their_order(bench: Bench) {
    let worker = bench.worker().await;
    // By their ids they would stand the other way round, and wait for one another.
    let tasks = [
        with_policy("z", OnFailure::Skip),
        in_lane("y").after("z", When::Success),
        in_lane("x").after("y", When::Success),
    ];
    enqueue(&bench, &tasks).await;
    end(&bench, &worker, "z", State::Dead).await;
    assert_eq!(
        ids(&bench.store.revive(&["z".into()]).await.unwrap()),
        ["z"]
    );
    assert_eq!(end(&bench, &worker, "z", State::Done).await, ["y"]);
    assert_eq!(end(&bench, &worker, "y", State::Done).await, ["x"]);
}

async fn a_lowered_limit_counts_whoever_runs(bench: Bench) {
    let worker = bench.worker().await;
    enqueue(&bench, &[in_lane("a"), in_lane("b")]).await;
    bench.store.set_limit("l", 2).await.unwrap();
    let epoch = bench.claimed(&worker, &task("b")).await.epoch;
    assert!(end(&bench, &worker, "a", State::Dead).await.is_empty());
    bench.store.set_limit("l", 1).await.unwrap();
    assert!(bench.store.revive(&["a".into()]).await.unwrap().is_empty());
    assert_eq!(settle(&bench, "b", epoch, State::Done).await, ["a"]);
}

async fn what_is_not_passed_on_is_not_swept(bench: Bench) {
    let fence = bench.leader().await;
    enqueue(&bench, &[in_lane("a"), in_lane("b")]).await;
    bench
        .execute("update tasks set state = 'canceled', ended_at = 1 where id = 'a'")
        .await;
    let hour = std::time::Duration::from_secs(3600);
    assert_eq!(bench.store.sweep(&fence, hour).await.unwrap(), 0);
    assert_eq!(ids(&bench.store.pass_on_left().await.unwrap().1), ["b"]);
    assert_eq!(bench.store.sweep(&fence, hour).await.unwrap(), 1);
}

async fn a_lane_that_is_forgotten_begins_anew_with_larger_tokens(bench: Bench) {
    let (worker, fence) = (bench.worker().await, bench.leader().await);
    let store = &bench.store;
    enqueue(&bench, &[in_lane("a"), in_lane("b")]).await;
    let in_another = |name: &str, key: &str| task(name).in_lane(Lane::new(key));
    enqueue(&bench, &[in_another("x", "busy"), in_another("y", "wide")]).await;
    store.set_limit("wide", 3).await.unwrap();
    end(&bench, &worker, "y", State::Done).await;
    end(&bench, &worker, "a", State::Done).await;
    let last = bench.claimed(&worker, &task("b")).await;
    settle(&bench, "b", last.epoch, State::Done).await;
    let day = std::time::Duration::from_secs(86_400);
    let lanes = "select count(*) from lanes";
    store.sweep(&fence, day).await.unwrap();
    assert_eq!(bench.number(lanes).await, 3, "not yet");
    bench.clock.advance(day);
    bench.clock.advance(day);
    store.sweep(&fence, day).await.unwrap();
    let kept = "select count(*) from lanes where key in ('busy', 'wide')";
    assert_eq!(bench.number(kept).await, 2, "in use, or not like a new one");
    assert_eq!(bench.number(lanes).await, 2);
    assert_eq!(enqueue(&bench, &[in_lane("c"), in_lane("d")]).await, ["c"]);
    let next = bench.claimed(&worker, &task("c")).await;
    assert!(last.token < next.token, "{} {}", last.token, next.token);
    assert_eq!(settle(&bench, "c", next.epoch, State::Done).await, ["d"]);
}
