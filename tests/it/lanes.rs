//! A lane through real workers, commands and signals: one runs at a time and in order, however a holder's worker ends, and nothing but
//! the end of the holder frees its lane.
//!
//! Commands write down what they see: `journal` who began, `rivals` who found another one at work, `effects` what was let through
//! by its token, `refused` what was not.

use std::sync::Arc;

use longshore::lane::{Lane, OnFailure, When};
use longshore::store::State;
use longshore::task::Task;

use crate::exec::{QUEUE, stop};
use crate::harness::{Child, LIMIT, wait_for, wait_until};
use crate::scene::{Scene, on_both_with};

/// `hold` takes what a holder has for itself, and the system gives it back when the last of its processes has ended. `take` is the
/// first half of an effect: whoever has it refuses smaller tokens from then on. `effect` is the other.
const HEAD: &str = r#"
    me=$LONGSHORE_TASK_ID token=$LONGSHORE_TOKEN epoch=$LONGSHORE_EPOCH
    hold() { exec 9>> holder; flock -n 9 || echo "$me" >> rivals; }
    write() {
        (
            flock 8
            if [ "$token" -lt "$(cat generation)" ]; then echo "$me $token" >> refused; exit 0; fi
            echo "$token" > generation
            [ -z "${1:-}" ] || echo "$me $token" >> "$1"
        ) 8>> generation.lock
    }
    take() { write; }
    effect() { write effects; }
    echo "$me $token" >> journal
"#;

on_both_with!("";
    a_holder_that_is_killed_is_rescued_at_the_head,
    a_holder_that_sleeps_past_its_lease_frees_nothing_and_writes_nothing,
    a_holder_that_is_handed_off_by_a_drain_keeps_its_place,
    a_worker_that_drains_passes_the_lane_on,
    a_holder_that_is_canceled_frees_the_lane_when_it_has_ended,
    a_holder_that_is_canceled_while_its_worker_sleeps_frees_the_lane_when_that_is_given_up,
    whoever_cancels_the_head_announces_the_next,
    the_message_of_one_that_waits_begins_nothing,
    a_failure_halts_skips_or_takes_the_rest_along,
);

mod with_one_slot {
    use super::one_slot_is_enough_for_a_lane_that_waits_and_all_else;
    use crate::scene::on_both_with;

    on_both_with!("[pools.fetch]\nkind = \"elastic\"\nqueues = [\"ci_fetch\"]\nslots = 1\n";
        one_slot_is_enough_for_a_lane_that_waits_and_all_else);
}

fn entry(name: &str) -> Task {
    in_lane(name, "apt:stable", OnFailure::Halt)
}

fn in_lane(name: &str, key: &str, on_failure: OnFailure) -> Task {
    let lane = Lane {
        on_failure,
        ..Lane::new(key)
    };
    Task::new("demo", QUEUE).with_id(name).in_lane(lane)
}

impl Scene {
    /// Lets entries run `script`.
    fn entries(&self, script: &str, rest: &str) {
        self.script(&format!("{HEAD}{script}"), rest);
        std::fs::write(self.bench.folder.join("generation"), "0\n").unwrap();
    }

    /// The lines of a file that commands write: names and tokens.
    fn lines(&self, file: &str) -> Vec<(String, i64)> {
        let text = self.wrote(file).unwrap_or_default();
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole
            .map(|line| {
                let (name, token) = line.trim_end().split_once(' ').unwrap();
                (name.to_owned(), token.parse().unwrap())
            })
            .collect()
    }

    fn names(&self, file: &str) -> Vec<String> {
        self.lines(file).into_iter().map(|(name, _)| name).collect()
    }

    /// Waits until so many attempts have begun, of which the last is one of `name`. Answers its token.
    async fn begins(&self, name: &str, count: usize) -> i64 {
        let lines = wait_for(&format!("{count} attempts have begun"), LIMIT, async || {
            Some(self.lines("journal")).filter(|lines| lines.len() >= count)
        })
        .await;
        assert_eq!(lines.len(), count, "{lines:?}");
        let (last, token) = lines.into_iter().next_back().unwrap();
        assert_eq!(last, name);
        token
    }

    /// Waits until smaller tokens than this one are refused: one begins before it takes.
    async fn taken(&self, token: i64) {
        let text = format!("{token}\n");
        wait_until("the token is taken", LIMIT, async || {
            self.wrote("generation").as_deref() == Some(text.as_str())
        })
        .await;
    }

    /// How many messages nobody has taken.
    async fn messages(&self) -> u64 {
        let id = longshore::pool::member_id("depth");
        let broker = self.broker(&self.bench.store, &id);
        let depth = broker.depth(QUEUE).await.unwrap();
        broker.close().await;
        depth
    }

    async fn all_done(&self, names: &[&str]) {
        for name in names {
            self.task_reaches(name, State::Done).await;
        }
    }

    async fn states(&self, names: &[&str]) -> Vec<State> {
        let mut states = Vec::new();
        for name in names {
            states.push(self.bench.view(name).await.state);
        }
        states
    }

    /// Nobody ever found another one at work, and the effects are those of `names`, in this order and with growing tokens.
    fn went_in_order(&self, names: &[&str]) {
        assert_eq!(self.wrote("rivals"), None, "two held the lane at once");
        let effects = self.lines("effects");
        assert!(
            effects.is_sorted_by(|(_, one), (_, other)| one < other),
            "tokens grow: {effects:?}"
        );
        assert_eq!(self.names("effects"), names);
    }
}

const P: [&str; 4] = ["p1", "p2", "p3", "p4"];

fn all() -> Vec<Task> {
    P.into_iter().map(entry).collect()
}

async fn kill(mut worker: Child) {
    worker.signal("KILL");
    worker.ended(LIMIT).await;
}

async fn a_holder_that_is_killed_is_rescued_at_the_head(scene: Arc<Scene>) {
    scene.entries("hold; [ \"$epoch\" -gt 1 ] || await never; effect", "");
    scene.enqueue(&all()).await;
    let mut worker = scene.worker("fetch");
    for (at, name) in P.into_iter().enumerate() {
        scene.begins(name, 2 * at + 1).await;
        let heir = scene.worker("fetch");
        kill(std::mem::replace(&mut worker, heir)).await;
    }
    scene.all_done(&P).await;
    let journal = scene.names("journal");
    assert_eq!(journal, ["p1", "p1", "p2", "p2", "p3", "p3", "p4", "p4"]);
    scene.went_in_order(&P);
}

async fn a_holder_that_sleeps_past_its_lease_frees_nothing_and_writes_nothing(scene: Arc<Scene>) {
    // The command of a worker that stands still goes on: only its token keeps it away.
    let script = "if [ $me.$epoch = p1.1 ]; then await late; effect; echo > over; exit 0; fi
        take; [ $me != p1 ] || await end; effect";
    scene.entries(script, "");
    let zombie = scene.worker("fetch");
    scene.enqueue(&all()).await;
    let old = scene.begins("p1", 1).await;
    scene.bench.freeze(&zombie).await;
    let heir = scene.worker("fetch");
    let new = scene.begins("p1", 2).await;
    assert!(old < new, "{old} {new}");
    scene.taken(new).await;
    scene.touch("late");
    scene.writes("over").await;
    zombie.signal("CONT");
    zombie.said("lease is lost", LIMIT).await;
    assert_eq!(scene.lines("refused"), [("p1".to_owned(), old)]);
    assert_eq!(
        scene.states(&P[..2]).await,
        [State::Running, State::Blocked],
        "what the zombie did is no end of its task"
    );
    scene.touch("end");
    scene.all_done(&P).await;
    assert_eq!(scene.names("journal"), ["p1", "p1", "p2", "p3", "p4"]);
    scene.went_in_order(&P);
    stop(heir).await;
}

async fn a_holder_that_is_handed_off_by_a_drain_keeps_its_place(scene: Arc<Scene>) {
    let script = "hold; if [ $me.$epoch = p1.1 ]; then save half; await never; fi
        [ $me != p1 ] || [ \"$(saved)\" = half ]; effect";
    scene.entries(script, "on_drain = 'terminate'");
    let first = scene.worker("fetch");
    scene.enqueue(&all()).await;
    scene.begins("p1", 1).await;
    scene.has_saved("half").await;
    // It has nothing to do: whoever waits has no message.
    let second = scene.worker("fetch");
    stop(first).await;
    scene.all_done(&P).await;
    assert_eq!(scene.names("journal"), ["p1", "p1", "p2", "p3", "p4"]);
    assert_eq!(scene.bench.view("p1").await.interruptions, 1);
    scene.went_in_order(&P);
    stop(second).await;
}

async fn a_worker_that_drains_passes_the_lane_on(scene: Arc<Scene>) {
    let script = "hold; [ $me != p1 ] || await end; effect";
    scene.entries(script, "on_drain = 'finish'\ngrace = '1s'");
    let mut first = scene.worker("fetch");
    scene.enqueue(&all()).await;
    scene.begins("p1", 1).await;
    first.signal("TERM");
    first.said("drain begun", LIMIT).await;
    scene.touch("end");
    let status = first.ended(crate::scene::GRACE).await;
    assert_eq!(status.code(), Some(0), "{}", first.log());
    assert_eq!(
        scene.states(&P[..2]).await,
        [State::Done, State::Queued],
        "the next one's turn has come"
    );
    let outbox = "select count(*) from outbox";
    assert_eq!(scene.bench.number(outbox).await, 0, "and it is announced");
    let _second = scene.worker("fetch");
    scene.all_done(&P).await;
    assert_eq!(scene.names("journal"), P);
    scene.went_in_order(&P);
}

async fn a_holder_that_is_canceled_frees_the_lane_when_it_has_ended(scene: Arc<Scene>) {
    // It would go on for ever, and hears no SIGTERM.
    let script = "trap '' TERM; hold; [ $me != p1 ] || await never; effect";
    scene.entries(script, "");
    let _worker = scene.worker("fetch");
    scene.enqueue(&all()).await;
    scene.begins("p1", 1).await;
    scene.verb(&["task", "cancel", "p2", "p1"]).await;
    scene.task_reaches("p1", State::Canceled).await;
    scene.all_done(&P[2..]).await;
    assert_eq!(scene.names("journal"), ["p1", "p3", "p4"]);
    assert_eq!(scene.bench.view("p2").await.state, State::Canceled);
    scene.went_in_order(&["p3", "p4"]);
}

async fn a_holder_that_is_canceled_while_its_worker_sleeps_frees_the_lane_when_that_is_given_up(
    scene: Arc<Scene>,
) {
    let script = "if [ $me = p1 ]; then await late; effect; echo > over; exit 0; fi
        take; [ $me != p2 ] || await end; effect";
    scene.entries(script, "");
    let zombie = scene.worker("fetch");
    scene.enqueue(&all()).await;
    let old = scene.begins("p1", 1).await;
    scene.bench.freeze(&zombie).await;
    scene.verb(&["task", "cancel", "p1"]).await;
    assert_eq!(
        scene.states(&P[..2]).await,
        [State::Running, State::Blocked],
        "nobody knows that it has ended"
    );
    let _heir = scene.worker("fetch");
    let new = scene.begins("p2", 2).await;
    assert!(old < new, "{old} {new}");
    scene.taken(new).await;
    scene.touch("late");
    scene.writes("over").await;
    assert_eq!(scene.lines("refused"), [("p1".to_owned(), old)]);
    zombie.signal("CONT");
    zombie.said("lease is lost", LIMIT).await;
    let states = [State::Canceled, State::Running, State::Blocked];
    assert_eq!(scene.states(&P[..3]).await, states);
    scene.touch("end");
    scene.all_done(&P[1..]).await;
    assert_eq!(scene.names("journal"), P);
    scene.went_in_order(&P[1..]);
}

/// No worker is there, so no leader: whoever ends the head by hand rings for the next one.
async fn whoever_cancels_the_head_announces_the_next(scene: Arc<Scene>) {
    scene.enqueue(&all()).await;
    scene.verb(&["task", "cancel", "p1"]).await;
    let states = [State::Canceled, State::Queued, State::Blocked];
    assert_eq!(scene.states(&P[..3]).await, states);
    let outbox = "select count(*) from outbox";
    assert_eq!(scene.bench.number(outbox).await, 0);
    assert_eq!(scene.messages().await, 2, "one of each that had its turn");
}

async fn the_message_of_one_that_waits_begins_nothing(scene: Arc<Scene>) {
    let script = "[ $me != last ] || exit 0; hold; [ $me != p1 ] || await end; effect";
    scene.entries(script, "");
    let _worker = scene.worker("fetch");
    scene.enqueue(&all()).await;
    scene.begins("p1", 1).await;
    // As a broker that delivers again, or a producer that thinks it knows better.
    let plain = |name: &str| Task::new("demo", QUEUE).with_id(name);
    let again = P.into_iter().rev().chain(P).chain(["last"]).map(plain);
    scene.announce(&again.collect::<Vec<_>>()).await;
    scene.task_reaches("last", State::Done).await;
    assert_eq!(scene.states(&P[1..]).await, [State::Blocked; 3]);
    scene.touch("end");
    scene.all_done(&P).await;
    assert_eq!(scene.names("journal"), ["p1", "last", "p2", "p3", "p4"]);
    scene.went_in_order(&P);
}

/// The head of the lane waits for a task outside, then for its next attempts; both would stand still if whoever waits had the slot.
async fn one_slot_is_enough_for_a_lane_that_waits_and_all_else(scene: Arc<Scene>) {
    let script = "case $me in u*) exit 0;; esac; hold; [ -e go ] || exit 75; effect";
    let patient = "[tasks.demo]\nattempts = 1000\nbackoff_min = '50ms'\nbackoff_max = '100ms'\n";
    scene.entries(script, patient);
    let plain = |name: &str| Task::new("demo", QUEUE).with_id(name);
    let before = ["u1", "u2", "u3"];
    let mut tasks: Vec<Task> = before.into_iter().map(plain).collect();
    tasks.extend(all());
    tasks[3] = tasks[3].clone().after("u3", When::Success);
    scene.enqueue(&tasks).await;
    assert_eq!(scene.messages().await, 3, "who waits has no message");
    let _worker = scene.worker("fetch");
    wait_until("its first attempt has failed", LIMIT, async || {
        scene.bench.view("p1").await.failures > 0
    })
    .await;
    let meanwhile = ["u4", "u5", "u6"];
    scene.enqueue(&meanwhile.map(plain)).await;
    scene.all_done(&meanwhile).await;
    assert_eq!(scene.states(&P[1..]).await, [State::Blocked; 3]);
    scene.touch("go");
    scene.all_done(&P).await;
    let mut entries = scene.names("journal");
    entries.retain(|name| name.starts_with('p'));
    entries.dedup();
    assert_eq!(entries, P);
    scene.went_in_order(&P);
}

async fn a_failure_halts_skips_or_takes_the_rest_along(scene: Arc<Scene>) {
    let script = "exec 9>> holder-${me%-*}; flock -n 9 || echo \"$me\" >> rivals
        case $me in *-bad) [ -e mended ] || exit 1;; *-worse) exit 75;; esac";
    scene.entries(script, "[tasks.demo]\nattempts = 2\n");
    let _workers = (scene.worker("fetch"), scene.worker("fetch"));
    let mut tasks = Vec::new();
    for (key, on_failure, first) in [
        ("halt", OnFailure::Halt, "bad"),
        ("given-up", OnFailure::Halt, "bad"),
        ("skip", OnFailure::Skip, "worse"),
        ("rest", OnFailure::CancelRest, "bad"),
    ] {
        for name in [first, "b", "c"] {
            tasks.push(in_lane(&format!("{key}-{name}"), key, on_failure));
        }
    }
    scene.enqueue(&tasks).await;
    // The second attempt was the last one that it has.
    scene.all_done(&["skip-b", "skip-c"]).await;
    let worse = scene.bench.view("skip-worse").await;
    assert_eq!((worse.state, worse.failures), (State::Dead, 2));
    for name in ["rest-b", "rest-c"] {
        scene.task_reaches(name, State::Canceled).await;
    }
    scene
        .enqueue(&[in_lane("rest-d", "rest", OnFailure::Halt)])
        .await;
    scene.all_done(&["rest-d"]).await;
    scene.task_reaches("halt-bad", State::Dead).await;
    assert_eq!(
        scene.states(&["halt-b", "halt-c"]).await,
        [State::Blocked; 2]
    );
    let list = scene.verb(&["lane", "list"]).await;
    assert!(list.contains("by halt-bad"), "{list}");
    scene.task_reaches("given-up-bad", State::Dead).await;
    scene.verb(&["lane", "skip", "given-up"]).await;
    scene.all_done(&["given-up-b", "given-up-c"]).await;
    // It is run again in its place, or given up.
    scene.verb(&["task", "retry", "halt-bad"]).await;
    wait_until("it has failed again", LIMIT, async || {
        let epoch = scene.bench.view("halt-bad").await.epoch.get();
        epoch == 2 && scene.states(&["halt-bad"]).await == [State::Dead]
    })
    .await;
    assert_eq!(scene.states(&["halt-b"]).await, [State::Blocked]);
    scene.touch("mended");
    scene.verb(&["task", "retry", "halt-bad"]).await;
    scene.all_done(&["halt-bad", "halt-b", "halt-c"]).await;
    assert_eq!(scene.wrote("rivals"), None, "two held a lane at once");
    for (key, order) in [
        ("halt", vec!["bad", "bad", "bad", "b", "c"]),
        ("given-up", vec!["bad", "b", "c"]),
        ("skip", vec!["worse", "worse", "b", "c"]),
        ("rest", vec!["bad", "d"]),
    ] {
        let prefix = format!("{key}-");
        let mut lane = scene.lines("journal");
        lane.retain(|(name, _)| name.starts_with(&prefix));
        assert!(lane.is_sorted_by(|(_, one), (_, other)| one < other));
        let names = lane.iter().map(|(name, _)| name.strip_prefix(&prefix));
        assert_eq!(names.map(Option::unwrap).collect::<Vec<_>>(), order);
    }
}
