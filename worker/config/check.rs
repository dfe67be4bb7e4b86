//! What no section can see alone: rules between keys of several sections.
//!
//! A rule whose values are already wrong is not checked: it would only repeat the complaint.

use super::Config;
use super::celery::{Results, Tools};
use super::pool::{ANY, Pool, PoolKind};
use super::problem::{Wrong, suggestion};
use super::quantity::show_duration;
use super::reading::Reading;
use super::squad::ResultStore;
use super::store::{BrokerAddress, StoreAddress};

/// Notes every broken rule.
pub(super) fn check(config: &Config, reading: &Reading<'_>) {
    grace_exceeds_margin(config, reading);
    an_embedded_broker_has_a_file(config, reading);
    results_have_a_place(config, reading);
    unknown_tasks_do_not_come_back(config, reading);
    celerys_tools_have_rabbitmq(config, reading);
    for (name, pool) in &config.pools {
        match &pool.kind {
            PoolKind::Elastic {
                budget,
                overrun_queue,
            } => {
                let budget_path = ["pools", name, "budget"];
                let room = config.worker.room();
                if *budget > room && reading.is_written(&budget_path) && is_room_sound(reading) {
                    let wrong = Wrong::new(
                        format!(
                            "more than a stopping worker has ({}: grace less margin)",
                            show_duration(room)
                        ),
                        "lower it, or raise worker.grace",
                    );
                    reading.wrong(
                        &budget_path,
                        Some(format!("{:?}", show_duration(*budget))),
                        wrong,
                    );
                }
                if let Some(queue) = overrun_queue {
                    an_overrun_queue_is_pinned(config, reading, name, queue);
                }
            }
            PoolKind::Pinned => {}
        }
    }
    routes_are_served(config, reading);
    gates_are_served(config, reading);
    squad_is_reachable(config, reading);
    sinks_are_there(config, reading);
    commands_end_within_their_tasks(config, reading);
}

/// A command has its own time limit and its grace before the task's limit kills it.
fn commands_end_within_their_tasks(config: &Config, reading: &Reading<'_>) {
    for (name, exec) in &config.exec {
        let Some(limit) = exec.time_limit else {
            continue;
        };
        let most = config.policy(name).time_limit;
        if limit + exec.grace > most {
            let wrong = Wrong::new(
                format!(
                    "with its grace ({}) more than the task may run ({})",
                    show_duration(exec.grace),
                    show_duration(most)
                ),
                format!("lower it, or raise tasks.{name:?}.time_limit"),
            );
            let shown = Some(format!("{:?}", show_duration(limit)));
            reading.wrong(&["exec", name, "time_limit"], shown, wrong);
        }
    }
}

/// A project submits its results to sinks that there are.
fn sinks_are_there(config: &Config, reading: &Reading<'_>) {
    for (name, project) in &config.projects {
        let key = ["projects", name, "sinks"];
        for sink in &project.sinks {
            // One that is there but wrong is complained of where it stands.
            if !config.sinks.contains_key(sink) && !reading.is_written(&["sinks", sink]) {
                let known: Vec<&str> = config.sinks.keys().map(String::as_str).collect();
                let wrong = Wrong::new("there is no such sink", suggestion(sink, &known));
                reading.wrong(&key, Some(format!("{sink:?}")), wrong);
            }
        }
    }
}

fn is_room_sound(reading: &Reading<'_>) -> bool {
    reading.is_sound(&["worker", "grace"]) && reading.is_sound(&["worker", "margin"])
}

/// SQUAD's tables and ours are written in one transaction, and its files stand where it looks for them.
fn squad_is_reachable(config: &Config, reading: &Reading<'_>) {
    if config.testjobs.store != ResultStore::Squad {
        return;
    }
    let shown = Some(r#""squad""#.to_owned());
    let key = ["testjobs", "store"];
    if matches!(config.store.address, StoreAddress::Sqlite(_))
        && reading.is_sound(&["store", "url"])
    {
        let wrong = Wrong::new(
            "the store is an SQLite file, and SQUAD's tables are in PostgreSQL",
            "write SQUAD's own database as url in [store]",
        );
        reading.wrong(&key, shown.clone(), wrong);
    }
    if config.squad.storage.is_none() && reading.is_sound(&["squad", "storage"]) {
        let wrong = Wrong::new(
            "nobody says where SQUAD keeps its files",
            "write its SQUAD_STORAGE_DIR, or s3://bucket/prefix, as storage in [squad]",
        );
        reading.wrong(&key, shown, wrong);
    }
}

fn grace_exceeds_margin(config: &Config, reading: &Reading<'_>) {
    let (grace, margin) = (config.worker.grace, config.worker.margin);
    if grace > margin || !is_room_sound(reading) {
        return;
    }
    let (key, value) = if reading.is_written(&["worker", "margin"]) {
        ("margin", margin)
    } else {
        ("grace", grace)
    };
    let wrong = Wrong::new(
        format!(
            "grace ({}) is not more than margin ({})",
            show_duration(grace),
            show_duration(margin)
        ),
        "raise worker.grace or lower worker.margin",
    );
    reading.wrong(
        &["worker", key],
        Some(format!("{:?}", show_duration(value))),
        wrong,
    );
}

fn an_embedded_broker_has_a_file(config: &Config, reading: &Reading<'_>) {
    let is_sound = reading.is_sound(&["store", "url"]) && reading.is_sound(&["broker", "url"]);
    match (&config.broker.address, &config.store.address) {
        (BrokerAddress::Embedded, StoreAddress::Postgres(_)) if is_sound => {
            let wrong = Wrong::new(
                "the embedded broker is part of an SQLite store, and the store is PostgreSQL",
                r#"write url = "amqp://user@host:5672/vhost" in [broker], or an sqlite: url in [store]"#,
            );
            reading.wrong(&["broker", "url"], Some(r#""embedded""#.to_owned()), wrong);
        }
        (BrokerAddress::Embedded, StoreAddress::Sqlite(_) | StoreAddress::Postgres(_))
        | (BrokerAddress::Amqp(_), StoreAddress::Sqlite(_) | StoreAddress::Postgres(_)) => {}
    }
}

/// Tables are written in the commit that settles a task, so they are in the store's own database.
fn results_have_a_place(config: &Config, reading: &Reading<'_>) {
    let results = config.celery.results;
    let is_sound = reading.is_sound(&["store", "url"]) && reading.is_sound(&["broker", "url"]);
    let (what, mend) = match (results, &config.store.address, &config.broker.address) {
        (Results::Database | Results::Django, StoreAddress::Sqlite(_), _) => (
            "the result tables are written in the commit that settles a task, and the store is an SQLite file",
            "put the store into the PostgreSQL database that has the tables: store.url = \"postgres://user@host/database\"",
        ),
        (Results::Rpc, _, BrokerAddress::Embedded) => (
            "answers go to the queues of Celery's clients, and the broker is embedded",
            r#"write url = "amqp://user@host:5672/vhost" in [broker]"#,
        ),
        _ => return,
    };
    if is_sound {
        let shown = Some(format!("{:?}", results.as_str()));
        reading.wrong(&["celery", "results"], shown, Wrong::new(what, mend));
    }
}

/// A task that is sent on to a queue that we take from would be sent on for ever.
fn unknown_tasks_do_not_come_back(config: &Config, reading: &Reading<'_>) {
    let Some(queue) = &config.celery.unknown_queue else {
        return;
    };
    let ours = |pool: &&Pool| pool.queues.contains(queue);
    if let Some((name, _)) = config.pools.iter().find(|(_, pool)| ours(pool)) {
        let wrong = Wrong::new(
            format!("the pool {name:?} takes from this queue"),
            "name a queue that Python's workers alone take from",
        );
        reading.wrong(
            &["celery", "unknown_queue"],
            Some(format!("{queue:?}")),
            wrong,
        );
    }
}

/// Celery's tools talk through the broker, and know no embedded one.
fn celerys_tools_have_rabbitmq(config: &Config, reading: &Reading<'_>) {
    let tools = config.celery.tools;
    if tools == Tools::Off {
        return;
    }
    match &config.broker.address {
        BrokerAddress::Embedded if reading.is_sound(&["broker", "url"]) => {
            let wrong = Wrong::new(
                "Celery's tools reach a worker through RabbitMQ, and the broker is embedded",
                r#"write url = "amqp://user@host:5672/vhost" in [broker], or remove this"#,
            );
            let shown = Some(format!("{:?}", tools.as_str()));
            reading.wrong(&["celery", "tools"], shown, wrong);
        }
        BrokerAddress::Embedded | BrokerAddress::Amqp(_) => {}
    }
}

/// Otherwise an overrun task could overrun again and again.
fn an_overrun_queue_is_pinned(config: &Config, reading: &Reading<'_>, name: &str, queue: &str) {
    let serves = |pool: &Pool| pool.queues.iter().any(|served| served == queue);
    let elastic = config
        .pools
        .iter()
        .find(|(_, pool)| pool.kind.is_elastic() && serves(pool));
    let is_pinned = config
        .pools
        .values()
        .any(|pool| !pool.kind.is_elastic() && serves(pool));
    // A pool whose queues could not be read may be the one that serves it.
    let is_known = config
        .pools
        .keys()
        .all(|name| reading.is_sound(&["pools", name, "queues"]));
    let wrong = match elastic {
        Some((other, _)) => Wrong::new(
            format!("the elastic pool {other:?} takes from this queue"),
            "name a queue that pinned pools alone take from",
        ),
        None if !is_pinned && is_known => Wrong::new(
            "no pinned pool takes from this queue",
            format!(
                r#"add {queue:?} to the queues of a pool with kind = "pinned", or name another queue"#
            ),
        ),
        None => return,
    };
    reading.wrong(
        &["pools", name, "overrun_queue"],
        Some(format!("{queue:?}")),
        wrong,
    );
}

/// A warning alone: other deployments may serve the queue.
fn routes_are_served(config: &Config, reading: &Reading<'_>) {
    // Who collects no test jobs has routes for their tasks by default, and no such tasks.
    let collects = !config.backends.is_empty() || config.testjobs.store == ResultStore::Squad;
    for (pattern, queue) in config.routes.iter() {
        let is_wanted = collects || !pattern.starts_with("testjob.");
        if !is_wanted || is_served(config, queue) {
            continue;
        }
        let tasks = if pattern == ANY {
            "all other tasks"
        } else {
            "these tasks"
        };
        let wrong = unserved(tasks, queue);
        reading.warn(&["routes", pattern], Some(format!("{queue:?}")), wrong);
    }
}

/// The same of queues that gates name themselves.
fn gates_are_served(config: &Config, reading: &Reading<'_>) {
    for (name, gate) in &config.gates {
        let parts = [
            ("publish", Some(&gate.publish)),
            ("verify", gate.verify.as_ref()),
            ("probe", gate.probe.as_ref()),
            ("revert", gate.revert.as_ref()),
            ("report", gate.report.as_ref()),
        ];
        let parts = parts
            .into_iter()
            .filter_map(|(key, step)| Some((vec![key], step?)));
        let tests = gate.tests.iter();
        let tests = tests.map(|(key, test)| (vec!["tests", key.as_str()], &test.step));
        for (path, step) in parts.chain(tests) {
            if step.queue == config.routes.get(&step.task) || is_served(config, &step.queue) {
                continue;
            }
            let path = [&["gates", name.as_str()], path.as_slice(), &["queue"]].concat();
            let wrong = unserved("these tasks", &step.queue);
            reading.warn(&path, Some(format!("{:?}", step.queue)), wrong);
        }
    }
}

fn is_served(config: &Config, queue: &str) -> bool {
    let mut pools = config.pools.values();
    pools.any(|pool| pool.queues.iter().any(|served| served == queue))
}

fn unserved(tasks: &str, queue: &str) -> Wrong {
    Wrong::new(
        format!("no pool here takes from this queue, so {tasks} wait for another deployment"),
        format!(
            "add {queue:?} to the queues of a pool, or ignore this if another deployment has it"
        ),
    )
}
