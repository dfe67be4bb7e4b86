//! A fleet of seven real processes at work while sources are published all the time, and what goes wrong: bad configurations,
//! half sets, publishers and workers that are killed wherever they are, stalls, freezes.
//!
//! Judged by what each attempt has told, and by the rows of the tasks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::crew::{QUEUES, host};
use super::fleet::Random;
use super::*;

mod judge;

use judge::Promise;

/// Checks have all the time that they need: one that is cut short is a refusal, which changes what a restart begins with.
pub(crate) const FLEET: &str = "[bundle]\nname = \"production\"\nfolder = \"kept\"\nlook_every = \"100ms\"\ncheck_limit = \"30s\"\nlate_after = \"5s\"\n\
    [worker]\nlease = \"3s\"\ngrace = \"8s\"\nmargin = \"1s\"\ncheckpoint_every = \"100ms\"\ncrash_limit = 100\n\
    [pools.fetch]\nkind = \"elastic\"\nqueues = [\"ci_fetch\"]\nslots = 2\n\
    [pools.postprocess]\nkind = \"pinned\"\nqueues = [\"ci_fetch_postprocess\"]\nslots = 2\n";

on_both_with!(crate::bundle::processes::FLEET;
    thirty_publications_reach_seven_processes_whole_or_not_at_all,
);

const SEED: u64 = 20_261_124;
const PUBLICATIONS: u32 = 24;
const FLEET_OF: [(&str, &str); 7] = [
    ("e1", "fetch"),
    ("e2", "fetch"),
    ("e3", "fetch"),
    ("p1", "postprocess"),
    ("p2", "postprocess"),
    ("p3", "postprocess"),
    ("p4", "postprocess"),
];

/// A machine, and the life of the worker there.
struct Hull {
    host: &'static str,
    pool: &'static str,
    child: Child,
    /// It ends by itself, somewhere in taking over.
    is_doomed: bool,
    is_still: bool,
}

/// What was published, as the store has it.
#[derive(Debug)]
struct Published {
    revision: String,
    number: u32,
    is_bad: bool,
}

struct Storm {
    scene: Arc<Scene>,
    random: Random,
    hulls: Vec<Hull>,
    published: Vec<Published>,
    waits: Vec<JoinHandle<Option<Promise>>>,
    fed: Arc<AtomicUsize>,
    deaths: usize,
}

impl Hull {
    fn new(scene: &Scene, host: &'static str, pool: &'static str, point: Option<&str>) -> Self {
        let variables = point.map(|point| ("LONGSHORE_CRASH_AT", point));
        let variables: Vec<_> = variables.into_iter().collect();
        Self {
            host,
            pool,
            child: scene.on(pool, host, &variables),
            is_doomed: point.is_some(),
            is_still: false,
        }
    }

    async fn has_ended(&mut self) -> bool {
        let ended = tokio::time::timeout(Duration::ZERO, self.child.wait());
        ended.await.is_ok()
    }

    fn goes_on(&mut self) {
        if self.is_still {
            self.child.signal("CONT");
            self.is_still = false;
        }
    }
}

impl Storm {
    /// Ends the life on a machine, and begins another one.
    async fn again(&mut self, at: usize, point: Option<&str>) {
        let hull = &mut self.hulls[at];
        if !hull.has_ended().await {
            hull.child.signal("KILL");
            hull.child.wait().await;
        }
        self.deaths += 1;
        *hull = Hull::new(&self.scene, hull.host, hull.pool, point);
    }

    /// What ended by itself begins anew, as a supervisor sees to it.
    async fn revive(&mut self) {
        for at in 0..self.hulls.len() {
            if self.hulls[at].has_ended().await {
                assert!(
                    self.hulls[at].is_doomed,
                    "a worker ended that nobody killed"
                );
                self.again(at, None).await;
            }
        }
    }

    /// Kills a worker, or has it stand still, or has it die in one of its next steps of taking over.
    async fn disturb(&mut self) {
        let at = self.random.below(self.hulls.len() as u64) as usize;
        match self.random.below(6) {
            0 => self.again(at, None).await,
            1 | 2 => {
                let point = POINTS[self.random.below(STEPS as u64) as usize];
                let point = format!("{point}#{}", 1 + self.random.below(3));
                self.again(at, Some(&point)).await;
            }
            3 if !self.hulls[at].is_doomed && !self.hulls[at].is_still => {
                self.scene.bench.freeze(&self.hulls[at].child).await;
                self.hulls[at].is_still = true;
            }
            _ => self.hulls.iter_mut().for_each(Hull::goes_on),
        }
    }

    /// Freezes, thaws and lets out by chance.
    async fn hold_back(&mut self) {
        let verb: &[&str] = match self.random.below(10) {
            0 => &["freeze", "--reason", "a test", "--until", "1s"],
            1 => &["thaw"],
            2 => &["apply-now"],
            _ => return,
        };
        // There may be nothing to thaw.
        let _done = self.scene.config_verb(verb).await;
    }

    /// Something is published, or is not to be. Waits for it in the background.
    async fn publish(&mut self, number: u32) {
        let scene = Arc::clone(&self.scene);
        scene.tells(number);
        let mut is_bad = false;
        match self.random.below(10) {
            0 | 1 => {
                is_bad = true;
                scene.tells_nonsense(number);
                ok(scene.publish_with(&["--unchecked"]).await);
            }
            2 => {
                scene.tells_nonsense(number);
                failed(&scene.publish_with(&[]).await);
            }
            3 => {
                std::fs::remove_dir_all(scene.source("switches")).unwrap();
                failed(&scene.publish_with(&[]).await);
            }
            4 | 5 => {
                let point = POINTS[STEPS + self.random.below(2) as usize];
                let killed = scene.publish_and_die(point).await;
                assert!(!killed.status.success());
            }
            // There may be nothing to go back to.
            6 => drop(scene.config_verb(&["rollback"]).await),
            _ => drop(scene.publish().await),
        }
        self.note(number, is_bad).await;
    }

    /// Looks at what is the newest now, and promises of it what a waiting person is told.
    async fn note(&mut self, number: u32, is_bad: bool) {
        let store = &self.scene.bench.store;
        let (_, state) = store.bundle_state("production").await.unwrap();
        let newest = state.newest.unwrap().revision;
        if self
            .published
            .last()
            .is_some_and(|last| last.revision == newest.as_str())
        {
            return;
        }
        let manifest = store
            .bundle_manifest("production", &newest)
            .await
            .unwrap()
            .unwrap();
        let number = match &manifest.undoes {
            None => number,
            Some(_) => judge::same(&self.scene, &self.published, &manifest).await,
        };
        let revision = newest.as_str().to_owned();
        let (scene, fed, index) = (
            Arc::clone(&self.scene),
            Arc::clone(&self.fed),
            self.published.len(),
        );
        self.published.push(Published {
            revision: revision.clone(),
            number,
            is_bad,
        });
        // A pinned worker that was killed is missed until its heir has taken its place: others are waited for alone, too.
        let pool = (index % 3 > 0).then_some("fetch");
        self.waits.push(tokio::task::spawn(async move {
            let mut arguments = vec!["wait", &revision, "--timeout", "6s"];
            arguments.extend(pool.iter().flat_map(|pool| ["--pool", pool]));
            let code = scene.config_verb(&arguments).await.status.code();
            // Nobody is there yet when the first is published.
            assert!(code < Some(6) || index == 0, "{code:?}");
            // Whatever is enqueued from now on begins after somebody was told so.
            let after = fed.load(Ordering::SeqCst);
            (code == Some(0)).then_some(Promise { index, after, pool })
        }));
    }

    /// Waits until what was published last is live on all, without another push.
    async fn is_live_on_all(&self) -> Promise {
        let last = &self.published.last().unwrap().revision;
        wait_until("all have the last", 2 * LIMIT, async || {
            let (code, told) = self.scene.wait(last, "20s").await;
            code == 0 && told.contains("7 workers")
        })
        .await;
        Promise {
            index: self.published.len() - 1,
            after: self.fed.load(Ordering::SeqCst),
            pool: None,
        }
    }

    /// Somebody publishes what is right and waits for it, while whoever stood still or died is there again.
    async fn patience(&mut self, number: u32) {
        self.hulls.iter_mut().for_each(Hull::goes_on);
        self.publish_good(number).await;
        while self
            .waits
            .last()
            .is_some_and(|waiting| !waiting.is_finished())
        {
            self.revive().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Nobody is killed any more, and who was lives again.
    async fn calm(&mut self) {
        self.hulls.iter_mut().for_each(Hull::goes_on);
        self.revive().await;
        for at in 0..self.hulls.len() {
            if self.hulls[at].is_doomed {
                self.again(at, None).await;
            }
        }
        let _done = self.scene.config_verb(&["thaw"]).await;
    }

    /// Some stand still: they are late, and nobody else. An elastic one is soon taken for dead, and owes nothing then.
    async fn some_lag(&mut self) -> Promise {
        let still = ["e2", "p1", "p3"];
        for hull in self
            .hulls
            .iter_mut()
            .filter(|hull| still.contains(&hull.host))
        {
            self.scene.bench.freeze(&hull.child).await;
            hull.is_still = true;
        }
        self.publish_good(PUBLICATIONS + 2).await;
        wait_until("they are late, and the others have it", LIMIT, async || {
            let (late, live) = lateness(&self.scene).await;
            let is_still = |host: &String| still.contains(&host.as_str());
            assert!(late.iter().all(is_still), "{late:?} are late");
            late.into_iter().collect::<Vec<_>>() == ["p1", "p3"] && live == 4
        })
        .await;
        self.hulls.iter_mut().for_each(Hull::goes_on);
        let promise = self.is_live_on_all().await;
        // On a busy machine one may be taken for dead for a moment.
        wait_until("nobody is late, and all are live", LIMIT, async || {
            lateness(&self.scene).await == (BTreeSet::new(), 7)
        })
        .await;
        promise
    }

    /// All of it; answers what holds at its end.
    async fn rage(&mut self) -> [Promise; 2] {
        for number in 2..=PUBLICATIONS {
            self.revive().await;
            self.disturb().await;
            self.hold_back().await;
            self.publish(number).await;
            if self.random.below(4) == 0 {
                self.patience(number + 100).await;
            }
        }
        self.calm().await;
        self.publish_good(PUBLICATIONS + 1).await;
        let promises = [self.is_live_on_all().await, self.some_lag().await];
        wait_until("there is more to do", LIMIT, async || {
            self.fed.load(Ordering::SeqCst) > promises[1].after + 24
        })
        .await;
        promises
    }

    async fn publish_good(&mut self, number: u32) {
        self.scene.tells(number);
        self.scene.publish().await;
        self.note(number, false).await;
    }
}

/// Who is late, and how many are live.
async fn lateness(scene: &Scene) -> (BTreeSet<String>, usize) {
    let status = scene.status().await;
    let workers = status["workers"].as_array().unwrap();
    let late = workers.iter().filter(|one| one["late"] == true);
    let late = late.map(|one| host(one["worker"].as_str().unwrap()).to_owned());
    let live = workers.iter().filter(|one| one["standing"] == "live");
    (late.collect(), live.count())
}

/// Tasks for both pools, whose ids are their numbers, for as long as nobody says stop; never many more than are worked off.
async fn feed(scene: &Scene, fed: &AtomicUsize, stop: &AtomicBool) {
    let open = "select count(*) from tasks where state in ('queued', 'waiting', 'running')";
    while !stop.load(Ordering::Relaxed) {
        if scene.bench.number(open).await < 8 {
            let first = fed.fetch_add(6, Ordering::SeqCst);
            let task =
                |number: usize| Task::new("tell", QUEUES[number % 2]).with_id(number.to_string());
            scene
                .enqueue(&(first..first + 6).map(task).collect::<Vec<_>>())
                .await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn thirty_publications_reach_seven_processes_whole_or_not_at_all(scene: Arc<Scene>) {
    eprintln!("seed {SEED}");
    let fed = Arc::<AtomicUsize>::default();
    let mut storm = Storm {
        random: Random::new(SEED),
        hulls: Vec::new(),
        published: Vec::new(),
        waits: Vec::new(),
        fed: Arc::clone(&fed),
        deaths: 0,
        scene: Arc::clone(&scene),
    };
    storm.publish_good(1).await;
    storm.hulls = FLEET_OF
        .map(|(host, pool)| Hull::new(&scene, host, pool, None))
        .into();
    let _live = storm.is_live_on_all().await;
    let stop = AtomicBool::new(false);
    let (promises, ()) = tokio::join!(
        async {
            let promises = storm.rage().await;
            stop.store(true, Ordering::Relaxed);
            promises
        },
        feed(&scene, &fed, &stop)
    );
    scene.settles().await;
    judge::all(storm, promises.into()).await;
}
