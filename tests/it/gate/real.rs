//! Gates end to end: the scripts of `examples/gate`, real packages and `apt`, real workers, and a reader who looks all the
//! time. Here the publisher is a command and the only worker has one slot; in [`promote`] it is `apt.promote`.

mod promote;
mod reader;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore::gate::{Entry, NewEntry, Role, Settings, Spec, Standing, State, Step, Test, Verb};
use longshore::store::{GateView, Store};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Child, LIMIT, wait_for, wait_until};
use crate::scene::{Scene, on_both_with};

const GATE: &str = "debs";
const EXAMPLE: &str = include_str!("../../../examples/gate/longshore.toml");
const ONE_WORKER: &str = concat!(
    include_str!("../../../examples/gate/longshore.toml"),
    "\n[pools.one]\nkind = \"pinned\"\nqueues = [\"tests\", \"publish\"]\nslots = 1\n"
);

on_both_with!(super::ONE_WORKER;
    packages_are_published_as_they_were_tested_with_one_slot,
    a_publisher_that_is_killed_anywhere_publishes_once,
    a_publisher_that_sleeps_past_its_lease_changes_nothing,
    what_readers_do_not_see_is_held_until_somebody_says_retry,
    a_publication_that_fails_takes_nobody_along,
);

fn step(task: &str, queue: &str) -> Step {
    Step {
        task: task.into(),
        queue: queue.into(),
        kwargs: serde_json::Map::default(),
    }
}

/// What the example says of an entry; `publish` makes it public.
fn spec(publish: Step) -> Spec {
    let test = |key: &str, after: &[&str]| Test {
        key: key.into(),
        step: step(&format!("deb.{key}"), "tests"),
        voting: true,
        after: after.iter().map(|&after| after.into()).collect(),
        after_any: Vec::new(),
        provides: Vec::new(),
        requires: Vec::new(),
    };
    let build = Test {
        provides: vec!["deb".into()],
        ..test("build", &[])
    };
    let install = Test {
        requires: vec!["deb".into()],
        ..test("install", &["build"])
    };
    Spec {
        tests: vec![build, install],
        publish,
        verify: Some(step("deb.verify", "tests")),
        probe: Some(step("deb.probe", "tests")),
        ..Spec::default()
    }
}

/// Makes a package's sources, and an entry of its name: it needs `depends`, and owns the file `owns`.
fn package(folder: &Path, name: &str, depends: &str, owns: &str) -> NewEntry {
    let file = format!("{name}_1.0_all");
    let tree = folder.join("src").join(&file);
    std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(tree.join("opt")).unwrap();
    let depends = match depends {
        "" => String::new(),
        name => format!("Depends: {name}\n"),
    };
    let control = format!(
        "Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: T <t@example.org>\n{depends}Description: a test\n of a package\n"
    );
    std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
    std::fs::write(tree.join("opt").join(owns), name).unwrap();
    let Value::Object(kwargs) = json!({ "files": [format!("{file}.deb")] }) else {
        unreachable!()
    };
    NewEntry {
        id: name.into(),
        kwargs,
        spec: spec(step("deb.publish", "publish")),
        ..NewEntry::default()
    }
}

/// Puts the example's scripts beside the configuration, and makes their folders.
fn furnish(folder: &Path, source: &str) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gate");
    for file in std::fs::read_dir(example).unwrap() {
        let file = file.unwrap();
        let name = file.file_name();
        if name != "longshore.toml" {
            std::fs::copy(file.path(), folder.join(name)).unwrap();
        }
    }
    std::fs::create_dir_all(folder.join("incoming")).unwrap();
    for list in ["sources.list", "reader.list"] {
        std::fs::write(folder.join(list), format!("{source}\n")).unwrap();
    }
}

async fn ask(store: &Store, verb: Verb) {
    store.gate(GATE, &verb).await.unwrap();
}

async fn enqueue(store: &Store, entries: impl IntoIterator<Item = NewEntry>) {
    let entries = entries.into_iter().collect();
    ask(store, Verb::Enqueue(Settings::default(), entries)).await;
}

async fn view(store: &Store) -> GateView {
    store.gate_view(GATE).await.unwrap().unwrap()
}

/// Waits until no entry is left, and none is held on the way. Returns those that have ended.
async fn drained(store: &Store) -> BTreeMap<String, Entry> {
    wait_until("the gate is empty", 6 * LIMIT, async || {
        let view = view(store).await;
        let held = view
            .entries
            .first()
            .filter(|head| head.state == State::Held);
        assert!(held.is_none(), "{held:#?}");
        view.entries.is_empty()
    })
    .await;
    let ended = store.gate_ended(GATE, 1000).await.unwrap();
    let ended = ended
        .into_iter()
        .map(|(entry, _)| (entry.id().to_owned(), entry));
    ended.collect()
}

/// Waits until the entries are in these states.
async fn reaches(store: &Store, states: &[(&str, State)]) -> GateView {
    wait_for(&format!("the gate is {states:?}"), 3 * LIMIT, async || {
        let view = view(store).await;
        let now: Vec<_> = view.entries.iter().map(|it| (it.id(), it.state)).collect();
        (now == states).then_some(view)
    })
    .await
}

/// What the test that counted found installed beside one another.
fn installed(entry: &Entry) -> Vec<String> {
    match &entry.tests["install"] {
        Standing::Passed(found) => serde_json::from_value(found["installed"].clone()).unwrap(),
        other @ (Standing::Running | Standing::Failed(_)) => {
            panic!("{} was published after {other:?}", entry.id())
        }
    }
}

/// These were published, in this order, each as it was tested: on what was there before (`seed`), those before it, and nothing else.
fn published_as_tested(ended: &BTreeMap<String, Entry>, seed: &[&str], order: &[&str]) {
    let mut there: Vec<String> = seed.iter().map(|&name| name.to_owned()).collect();
    let mut wanted = Vec::new();
    for (&name, number) in order.iter().zip(1..) {
        let entry = &ended[name];
        assert_eq!(
            (entry.state, entry.published),
            (State::Published, Some(number)),
            "{entry:#?}"
        );
        there.push(format!("{name}=1.0"));
        wanted.push(name.to_owned());
        let mut sorted = there.clone();
        sorted.sort();
        assert_eq!(
            installed(entry),
            sorted,
            "{name} was tested on something else"
        );
    }
    let published = |entry: &&Entry| entry.state == State::Published;
    assert_eq!(ended.values().filter(published).count(), order.len());
}

/// How often an entry was published, and looked for by the probe.
fn tries(entry: &Entry) -> (u32, u32) {
    let of = |role| entry.tries.get(&role).copied().unwrap_or_default();
    (of(Role::Publish), of(Role::Probe))
}

/// A deployment with the example's publisher.
struct Place {
    scene: Arc<Scene>,
    stop: CancellationToken,
    reading: tokio::task::JoinHandle<Vec<String>>,
}

/// What publishes here is what the example's publisher uses: each of them can be made to stand still before it begins.
const STOPS: [&str; 4] = ["flock", "cp", "dpkg-scanpackages", "sync"];

impl Place {
    fn new(scene: Arc<Scene>) -> Self {
        let place = |name: &str| scene.bench.folder.join(name);
        std::fs::create_dir_all(place("repository/pool")).unwrap();
        std::fs::write(place("repository/Packages"), "").unwrap();
        let repository = place("repository");
        let source = format!("deb [trusted=yes] file:{} ./", repository.display());
        let folder = repository.parent().unwrap();
        furnish(folder, &source);
        std::fs::create_dir(place("stops")).unwrap();
        for name in STOPS {
            let path = place("stops").join(name);
            let folder = folder.display();
            let script = format!(
                "#!/bin/sh\nPATH=${{PATH#*:}}\n\
                 if [ \"$LONGSHORE_TASK\" = deb.publish ] && mv {folder}/stop-{name} {folder}/stopped 2>/dev/null; then\n\
                 echo $PPID >{folder}/at.new; mv {folder}/at.new {folder}/at\n\
                 until [ -e {folder}/go ]; do sleep 0.05; done; fi\nexec {name} \"$@\"\n"
            );
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
        }
        let stop = CancellationToken::new();
        let reading = tokio::task::spawn(reader::read(folder.to_owned(), stop.clone()));
        Self {
            scene,
            stop,
            reading,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scene.bench.folder.join(name)
    }

    fn store(&self) -> &Store {
        &self.scene.bench.store
    }

    fn package(&self, name: &str, depends: &str, owns: &str) -> NewEntry {
        package(self.path("src").parent().unwrap(), name, depends, owns)
    }

    /// A worker with one slot, for tests and publications.
    fn worker(&self) -> Child {
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", self.path("stops").display());
        let config = self.scene.config.to_str().unwrap();
        let arguments = ["run", "--pool", "one", "--config", config];
        Child::start(&self.scene.bench.folder, &arguments, &[("PATH", &path)])
    }

    /// The next publisher stands still before it runs this program.
    fn stop_before(&self, program: &str) {
        std::fs::write(self.path(&format!("stop-{program}")), "").unwrap();
    }

    /// Waits until it does; the publisher's process.
    async fn stopped(&self) -> String {
        let at = wait_for("the publisher stands still", 2 * LIMIT, async || {
            std::fs::read_to_string(self.path("at")).ok()
        });
        let pid = at.await;
        std::fs::remove_file(self.path("at")).unwrap();
        pid
    }

    /// The packages of the index, in the order in which they came.
    fn index(&self) -> Vec<String> {
        reader::packages(&self.path("repository")).unwrap()
    }

    /// Ends it: what the reader saw is what is there, and these were published in this order, each once.
    async fn ends(self, order: &[&str]) {
        self.stop.cancel();
        assert_eq!(self.reading.await.unwrap(), order);
    }
}

/// Waits until a process is gone.
async fn gone(pid: &str) {
    let stat = format!("/proc/{}/stat", pid.trim());
    wait_until("the publisher is gone", LIMIT, async || {
        // One that nobody has waited for yet does nothing any more.
        std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
    })
    .await;
}

async fn packages_are_published_as_they_were_tested_with_one_slot(scene: Arc<Scene>) {
    let place = Place::new(scene);
    let _worker = place.worker();
    // `clash` alone is well: it cannot be installed beside `app`, which is not published yet when it is tested.
    let entries = [
        place.package("lib", "", "lib"),
        place.package("broken", "nowhere", "broken"),
        place.package("app", "lib (>= 1.0)", "app"),
        place.package("clash", "", "app"),
        place.package("tool", "app", "tool"),
        place.package("last", "lib, tool", "last"),
    ];
    enqueue(place.store(), entries).await;
    let ended = drained(place.store()).await;
    let order = ["lib", "app", "tool", "last"];
    published_as_tested(&ended, &[], &order);
    for (name, why) in [("broken", "nowhere"), ("clash", "trying to overwrite")] {
        let (state, reason) = (ended[name].state, ended[name].reason.clone().unwrap());
        assert_eq!(state, State::Failed);
        assert!(reason.contains(why), "{name}: {reason}");
    }
    assert!(ended["last"].generation > 1, "it was tested on what failed");
    assert_eq!(ended.len(), 6);
    place.ends(&order).await;
}

async fn a_publisher_that_is_killed_anywhere_publishes_once(scene: Arc<Scene>) {
    let place = Place::new(scene);
    let mut order = Vec::new();
    let mut worker = place.worker();
    for program in STOPS {
        place.stop_before(program);
        let (first, second) = (format!("a-{program}"), format!("b-{program}"));
        let entries = [
            place.package(&first, "", &first),
            place.package(&second, &first, &second),
        ];
        enqueue(place.store(), entries).await;
        let publisher = place.stopped().await;
        worker.signal("KILL");
        worker.ended(LIMIT).await;
        gone(&publisher).await;
        worker = place.worker();
        let ended = drained(place.store()).await;
        // What it wrote before it died is found, and not written again.
        let wanted = if program == "sync" { (1, 1) } else { (2, 1) };
        assert_eq!(tries(&ended[&first]), wanted, "killed before {program}");
        assert_eq!(tries(&ended[&second]), (1, 0));
        order.extend([first, second]);
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        published_as_tested(&ended, &[], &order);
        assert_eq!(place.index(), order);
    }
    let order: Vec<&str> = order.iter().map(String::as_str).collect();
    place.ends(&order).await;
}

async fn a_publisher_that_sleeps_past_its_lease_changes_nothing(scene: Arc<Scene>) {
    let place = Place::new(scene);
    let zombie = place.worker();
    place.stop_before("flock");
    let entries = [
        place.package("lib", "", "lib"),
        place.package("app", "lib", "app"),
    ];
    enqueue(place.store(), entries).await;
    let publisher = place.stopped().await;
    place.scene.bench.freeze(&zombie).await;
    let _heir = place.worker();
    let ended = drained(place.store()).await;
    published_as_tested(&ended, &[], &["lib", "app"]);
    assert_eq!(tries(&ended["lib"]), (2, 1));
    let state = || {
        [".token", "Packages"]
            .map(|name| std::fs::read(place.path("repository").join(name)).unwrap())
    };
    let before = state();
    // The sleeper's command goes on before its worker can end it.
    std::fs::write(place.path("go"), "").unwrap();
    gone(&publisher).await;
    zombie.signal("CONT");
    zombie.said("lease is lost", LIMIT).await;
    assert!(state() == before, "an older token was taken");
    place.ends(&["lib", "app"]).await;
}

async fn what_readers_do_not_see_is_held_until_somebody_says_retry(scene: Arc<Scene>) {
    let place = Place::new(scene);
    let mirror = place.path("reader.list");
    let away = place.path("away.list");
    std::fs::rename(&mirror, &away).unwrap();
    let _worker = place.worker();
    let entries = [
        place.package("lib", "", "lib"),
        place.package("app", "lib", "app"),
    ];
    enqueue(place.store(), entries).await;
    // Followers are tested on what is held, and wait.
    let held = reaches(
        place.store(),
        &[("lib", State::Held), ("app", State::Ready)],
    )
    .await;
    let alarm = held.alarm.unwrap();
    assert_eq!(alarm.entry.as_deref(), Some("lib"));
    assert!(alarm.why.contains("could not be verified"), "{alarm:?}");
    assert_eq!(place.index(), ["lib"]);
    std::fs::rename(&away, &mirror).unwrap();
    ask(place.store(), Verb::Retry).await;
    let ended = drained(place.store()).await;
    assert_eq!(tries(&ended["lib"]), (1, 0), "it is looked for only");
    assert_eq!(ended["app"].generation, 1, "its test still counts");
    published_as_tested(&ended, &[], &["lib", "app"]);
    place.ends(&["lib", "app"]).await;
}

async fn a_publication_that_fails_takes_nobody_along(scene: Arc<Scene>) {
    let place = Place::new(scene);
    let _worker = place.worker();
    enqueue(place.store(), []).await;
    ask(place.store(), Verb::Hold("the index is moved".into())).await;
    let entries = [
        place.package("lib", "", "lib"),
        place.package("lost", "", "lost"),
        place.package("app", "lib", "app"),
        place.package("child", "lost", "child"),
    ];
    enqueue(place.store(), entries).await;
    let all = ["lib", "lost", "app", "child"];
    let ready = reaches(place.store(), &all.map(|name| (name, State::Ready))).await;
    assert_eq!(ready.alarm.unwrap().why, "the index is moved");
    assert!(installed(&ready.entries[2]).contains(&"lost=1.0".to_owned()));
    std::fs::remove_file(place.path("incoming/lost_1.0_all.deb")).unwrap();
    ask(place.store(), Verb::Release).await;
    let ended = drained(place.store()).await;
    let reason = ended["lost"].reason.clone().unwrap();
    assert!(reason.starts_with("publishing failed: "), "{reason}");
    assert_eq!(ended["lost"].state, State::Failed);
    // It was tested on what never came: not any more.
    assert_eq!(ended["app"].generation, 2);
    assert_eq!(ended["child"].state, State::Failed);
    published_as_tested(&ended, &[], &["lib", "app"]);
    place.ends(&["lib", "app"]).await;
}
