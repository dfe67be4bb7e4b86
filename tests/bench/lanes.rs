//! Lanes: how long one stands still between two of its tasks, and what a store full of them costs.
//!
//! Workers are processes: this program again, which then is the real one with a handler that does nothing but write down when it
//! begins and when it ends.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime};

use longshore::clock::Clock;
use longshore::handler::{Outcome, Registry};
use longshore::id::{Epoch, WorkerId};
use longshore::lane::Lane;
use longshore::store::{ClaimAnswer, ClaimRequest, Ring, Settlement, State, Store, StoreConfig};
use longshore::task::Task;
use sqlx::ConnectOptions as _;
use sqlx::Executor as _;
use sqlx::sqlite::SqliteConnectOptions;

use crate::scene::{Back, Scene};
use crate::servers::Servers;
use crate::{Figure, figure, median, quantile};

/// The task's name, and the file in the workers' folder that it writes to.
const STEP: &str = "bench.step";
/// In one lane, one after the other.
const STEPS: usize = 500;
const RUNS: usize = 5;
/// A store full of lanes.
const LANES: usize = 10_000;
const WAITING: usize = 100;
/// Enqueues and completions of a run, each in a lane of its own.
const OPS: usize = 100;

pub(crate) async fn run(servers: &Servers) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (back, workers) in [(Back::Embedded, 1), (Back::Servers, 1), (Back::Servers, 2)] {
        let mut gaps = Vec::new();
        for _ in 0..RUNS {
            gaps.extend(hand_overs(servers, back, workers).await);
        }
        figures.push(figure(
            format!("lane's hand-over, {}, {workers} worker(s)", back.as_str()),
            format!(
                "median {:.1} ms, p99 {:.1} ms of {}",
                median(&mut gaps),
                quantile(&mut gaps, 0.99),
                gaps.len()
            ),
        ));
    }
    for back in Back::BOTH {
        figures.extend(costs(servers, back).await);
    }
    figures
}

/// What a worker of this section can do beyond the program: its steps.
pub(crate) fn handlers(registry: &mut Registry) {
    registry.add(STEP, |task, _| async move {
        let begun = now();
        let mut file = OpenOptions::new().create(true).append(true).open(STEP)?;
        let number = &task.kwargs["number"];
        // One write is one line, whoever else writes.
        file.write_all(format!("{number} {begun} {}\n", now()).as_bytes())?;
        Ok(Outcome::Done(serde_json::Value::Null))
    });
}

/// Nanoseconds on the clock that all processes share.
fn now() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos())
}

/// Milliseconds from the end of one task's handler to the beginning of the next one's: outcome, pass on, message, claim.
async fn hand_overs(servers: &Servers, back: Back, workers: usize) -> Vec<f64> {
    let scene = Scene::new(servers, back, 4, "[]").await;
    let tasks: Vec<Task> = (0..STEPS)
        .map(|number| {
            let task = scene.task(STEP).with("number", number);
            task.in_lane(Lane::new("lane"))
        })
        .collect();
    scene.enqueue(&tasks).await;
    let mut started = Vec::new();
    for _ in 0..workers {
        started.push(scene.worker_of_ours("fetch"));
    }
    scene.done(tasks.last().unwrap()).await;
    drop(started);
    let text = std::fs::read_to_string(scene.folder.join(STEP)).unwrap();
    let steps: Vec<Vec<i128>> = text
        .lines()
        .map(|line| line.split(' ').map(|word| word.parse().unwrap()).collect())
        .collect();
    assert!(
        steps.iter().map(|step| step[0]).eq(0..STEPS as i128),
        "out of turn"
    );
    scene.end().await;
    let gaps = steps.windows(2).map(|two| two[1][1] - two[0][2]);
    gaps.map(|nanos| nanos as f64 / 1e6).collect()
}

/// What an enqueue and a completion, which passes its lane on, cost in a store full of lanes, and in one without.
async fn costs(servers: &Servers, back: Back) -> Vec<Figure> {
    let folder = std::env::temp_dir().join(format!("bench-lanes-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let full = Side::new(servers, back, &folder, "full").await;
    let few = Side::new(servers, back, &folder, "few").await;
    full.fill().await;
    let (mut enqueues, mut completions) = (Times::default(), Times::default());
    for run in 0..RUNS {
        // In the full store far from one another.
        let lanes: Vec<usize> = (0..OPS).map(|at| (run * OPS + at) * 7919 % LANES).collect();
        few.begin(&lanes).await;
        few.settle_down().await;
        let mut times: [[Vec<f64>; 2]; 2] = Default::default();
        for (at, lane) in lanes.into_iter().enumerate() {
            // Whoever is second finds the machine's caches as the first has left them.
            let mut both = [(&full, 0), (&few, 1)];
            both.rotate_left(at % 2);
            for (side, which) in both {
                times[0][which].push(side.enqueue(lane).await);
                times[1][which].push(side.complete(lane).await);
            }
        }
        let [mut first, mut second] = times;
        enqueues.add(&mut first);
        completions.add(&mut second);
    }
    full.end().await;
    few.end().await;
    std::fs::remove_dir_all(&folder).unwrap();
    let line = |what: &str, times: Times| {
        let what = format!(
            "cost of {what}, {LANES} lanes of {WAITING}, {}",
            back.as_str()
        );
        figure(what, times.said())
    };
    vec![
        line("an enqueue", enqueues),
        line("a completion", completions),
    ]
}

/// Medians of runs, of the full store and of the other.
#[derive(Default)]
struct Times {
    ratios: Vec<f64>,
    full: Vec<f64>,
    few: Vec<f64>,
}

impl Times {
    fn add(&mut self, [full, few]: &mut [Vec<f64>; 2]) {
        let (full, few) = (median(full), median(few));
        self.ratios.push(full / few);
        self.full.push(full);
        self.few.push(few);
    }

    fn said(mut self) -> String {
        format!(
            "{:.2} × (median of {RUNS}, {:.2} to {:.2}; {:.2} and {:.2} ms)",
            median(&mut self.ratios),
            quantile(&mut self.ratios, 0.0),
            quantile(&mut self.ratios, 1.0),
            median(&mut self.full),
            median(&mut self.few)
        )
    }
}

/// One of two stores beside each other.
struct Side {
    store: Store,
    config: StoreConfig,
    back: Back,
    worker: WorkerId,
}

fn entry(lane: usize, name: &str) -> Task {
    Task::new("noop", "bench")
        .with_id(format!("{lane}-{name}"))
        .in_lane(Lane::new(format!("lane-{lane}")))
}

impl Side {
    async fn new(servers: &Servers, back: Back, folder: &std::path::Path, name: &str) -> Self {
        let config = match back {
            Back::Servers => servers.config(&format!("bench_{}", uuid::Uuid::now_v7().simple())),
            Back::Embedded => StoreConfig::sqlite(&folder.join(name).with_extension("db")),
        };
        let store = Store::open(&config, Clock::system()).unwrap();
        store.migrate().await.unwrap();
        let worker = crate::scene::joined(&store).await;
        Self {
            store,
            config,
            back,
            worker,
        }
    }

    /// Runs statements beside the store's own.
    async fn execute(&self, statements: &[String]) {
        for statement in statements {
            let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.clone()));
            match self.back {
                Back::Servers => {
                    let options: sqlx::postgres::PgConnectOptions =
                        self.config.url.parse().unwrap();
                    let options = options.options([("search_path", &self.config.schema)]);
                    let mut connection = options.connect().await.unwrap();
                    connection.execute(sql).await.unwrap();
                }
                Back::Embedded => {
                    let path = self.config.url.trim_start_matches("sqlite:");
                    let options = SqliteConnectOptions::new().filename(path);
                    let patient = options.busy_timeout(Duration::from_secs(60));
                    let mut connection = patient.connect().await.unwrap();
                    connection.execute(sql).await.unwrap();
                }
            }
        }
    }

    /// Lanes as if each had been enqueued: a first task that may run, and those that wait.
    async fn fill(&self) {
        let now = Clock::system().now();
        let task = serde_json::to_string(&entry(0, "ID")).unwrap();
        let statements = [
            format!(
                "with recursive l (lane) as (select 0 union all select lane + 1 from l where lane < {LANES} - 1),
                   p (place) as (select 0 union all select place + 1 from p where place < {WAITING})
                 insert into tasks (id, name, queue, priority, state, epoch, created_at, rung_at, released_at, task, lane, place, on_failure, links)
                 select lane || '-' || place, 'noop', 'bench', 0, case when place = 0 then 'queued' else 'blocked' end, 0, {now}, {now},
                   case when place = 0 then {now} end, replace('{task}', '0-ID', lane || '-' || place), 'lane-' || lane, {now} + place, 'halt', 1
                 from l, p order by place, lane"
            ),
            format!(
                "with recursive l (lane) as (select 0 union all select lane + 1 from l where lane < {LANES} - 1)
                 insert into lanes (key, slots, next_place) select 'lane-' || lane, 1, {now} + {WAITING} + 1 from l"
            ),
        ];
        self.execute(&statements).await;
        self.settle_down().await;
    }

    /// What the servers do by themselves some time after tables were filled.
    async fn settle_down(&self) {
        let statements: &[&str] = match self.back {
            Back::Servers => &[
                "vacuum analyze tasks",
                "vacuum analyze lanes",
                "vacuum analyze task_after",
                "checkpoint",
            ],
            Back::Embedded => &["pragma wal_checkpoint(truncate)"],
        };
        for statement in statements {
            self.execute(&[(*statement).to_owned()]).await;
        }
    }

    /// The lanes of a run with one task that may run, and one that waits.
    async fn begin(&self, lanes: &[usize]) {
        let tasks: Vec<Task> = lanes
            .iter()
            .flat_map(|lane| [entry(*lane, "0"), entry(*lane, "1")])
            .collect();
        let rings = self.store.enqueue(&tasks).await.unwrap().rings;
        self.publish(&rings).await;
    }

    async fn publish(&self, rings: &[Ring]) {
        let seqs: Vec<i64> = rings.iter().map(|ring| ring.seq).collect();
        self.store.outbox_done(&seqs).await.unwrap();
    }

    /// Milliseconds until one more task waits in the lane.
    async fn enqueue(&self, lane: usize) -> f64 {
        let tasks = [entry(lane, "new")];
        let begun = Instant::now();
        let enqueued = self.store.enqueue(&tasks).await.unwrap();
        let time = begun.elapsed().as_secs_f64() * 1000.0;
        assert!(enqueued.new.len() == 1 && enqueued.rings.is_empty());
        time
    }

    /// Milliseconds until the end of the lane's first task is stored, and the next one may run.
    async fn complete(&self, lane: usize) -> f64 {
        let task = entry(lane, "0");
        let requests = [ClaimRequest::once(&task)];
        let answer = self.store.claim(&self.worker, &requests).await.unwrap();
        let Some(ClaimAnswer::Claimed(claimed)) = answer.into_iter().next() else {
            panic!("the first of lane {lane} may run");
        };
        let done = Settlement {
            state: Some(State::Done),
            ..Settlement::default()
        };
        let items: [(_, Epoch, _); 1] = [(task.id, claimed.epoch, done)];
        let begun = Instant::now();
        let (settled, rings) = self.store.settle(&items).await.unwrap();
        let time = begun.elapsed().as_secs_f64() * 1000.0;
        assert_eq!((settled.len(), rings.len()), (1, 1));
        assert_eq!(rings[0].task.id.as_str(), format!("{lane}-1"));
        self.publish(&rings).await;
        time
    }

    async fn end(self) {
        self.store.close().await;
        if matches!(self.back, Back::Servers) {
            let drop = format!("drop schema \"{}\" cascade", self.config.schema);
            self.execute(&[drop]).await;
        }
    }
}
