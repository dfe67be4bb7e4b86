//! What is wrong with a SQUAD installation, and what would mend it. Judges only: reading and repairing is the store's.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::plan::is_known;
use super::{FETCH, UPDATE_STATUS};
use crate::clock::Millis;
use crate::config::{Config, ForeignKeys};
use crate::store::{Large, SquadColumn, StuckJob};
use crate::task::Task;

/// The migrations of the releases that this was tried with: 1.89 to 1.98 have the same.
const MIGRATIONS: [(&str, &str); 2] = [
    ("ci", "0030_testjob_subtasks_count"),
    ("core", "0169_userpreferences"),
];

/// SQUAD's tables that are written here, with every column that an insert gives or a statement names.
const TABLES: [(&str, &str); 14] = [
    (
        "ci_testjob",
        "id environment definition submitted fetched last_fetch_attempt job_id job_status backend_id target_id failure testrun_id can_resubmit name target_build_id fetch_attempts fetched_at ended_at started_at subtasks_count",
    ),
    (
        "ci_backend",
        "id url username token implementation_type name max_fetch_attempts backend_settings",
    ),
    ("ci_resultsinput", "id test_job_id text"),
    (
        "core_testrun",
        "id created_at build_id environment_id data_processed status_recorded datetime build_url job_id job_status job_url resubmit_url metadata_file completed log_file_storage metrics_file_storage tests_file_storage",
    ),
    (
        "core_test",
        "id result suite_id test_run_id log metadata_id has_known_issues build_id environment_id",
    ),
    (
        "core_metric",
        "id result measurements suite_id test_run_id metadata_id is_outlier unit build_id environment_id",
    ),
    ("core_suite", "id slug name project_id metadata_id"),
    ("core_suitemetadata", "id suite kind name"),
    ("core_suiteversion", "id version first_seen suite_id"),
    (
        "core_status",
        "id tests_pass tests_fail metrics_summary suite_id test_run_id tests_skip suite_version_id has_metrics tests_xfail",
    ),
    (
        "core_attachment",
        "id filename length test_run_id mimetype storage",
    ),
    ("core_environment", "id slug project_id expected_test_runs"),
    ("core_knownissue", "id title test_name active intermittent"),
    ("core_test_known_issues", "id test_id knownissue_id"),
];

/// The names of those tables.
pub fn tables() -> Vec<&'static str> {
    TABLES.iter().map(|(table, _)| *table).collect()
}

/// Whether test jobs of a backend of this kind are collected here.
pub fn knows_backend(kind: &str) -> bool {
    matches!(kind, "lava" | "tuxsuite" | "fake")
}

/// Something that needs somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub about: String,
    /// What is wrong.
    pub what: String,
    /// What mends it.
    pub mend: String,
    /// Whether Longshore cannot work with it.
    pub fatal: bool,
}

fn finding(about: &str, what: String, mend: &str, fatal: bool) -> Finding {
    Finding {
        about: about.to_owned(),
        what,
        mend: mend.to_owned(),
        fatal,
    }
}

/// Compares the schema with the one that is written here.
pub fn schema(columns: &[SquadColumn]) -> Vec<Finding> {
    let mut there: BTreeMap<&str, BTreeMap<&str, bool>> = BTreeMap::new();
    for column in columns {
        let table = there.entry(&column.table_name).or_default();
        table.insert(&column.column_name, column.needed == 1);
    }
    let mut findings = Vec::new();
    for (table, known) in TABLES {
        let known = known.split(' ').collect::<BTreeSet<_>>();
        let Some(found) = there.get(table) else {
            let what =
                format!("SQUAD's table {table} is not in the schema public of this database");
            findings.push(finding(
                "schema",
                what,
                "point store.url at SQUAD's own database, migrated by SQUAD",
                true,
            ));
            continue;
        };
        for column in known.iter().filter(|column| !found.contains_key(*column)) {
            let what = format!("{table} has no column {column}");
            findings.push(finding(
                "schema",
                what,
                "use a SQUAD from 1.89 to 1.98",
                true,
            ));
        }
        // What others insert into is no matter.
        let is_inserted = !matches!(table, "ci_testjob" | "ci_backend" | "ci_resultsinput");
        for (column, _) in found
            .iter()
            .filter(|(column, needed)| is_inserted && **needed && !known.contains(*column))
        {
            let what = format!("{table} needs a column {column} that this Longshore does not know");
            findings.push(finding(
                "schema",
                what,
                "use a newer Longshore, or a SQUAD from 1.89 to 1.98",
                true,
            ));
        }
    }
    findings
}

/// Compares the migrations with those that this was tried with.
pub fn version(migrations: &[(String, String)]) -> Vec<Finding> {
    let found = |app: &str| {
        migrations
            .iter()
            .find(|(found, _)| found == app)
            .map(|(_, name)| name.as_str())
    };
    MIGRATIONS
        .iter()
        .filter_map(|(app, known)| match found(app) {
            Some(name) if name == *known => None,
            Some(name) => {
                let what = format!(
                    "SQUAD's {app} is at migration {name}; SQUAD 1.89 to 1.98 are at {known}"
                );
                Some(finding(
                    "version",
                    what,
                    "nothing, if no finding about the schema is here; tell Longshore's developers",
                    false,
                ))
            }
            None => Some(finding(
                "version",
                format!("no migration of SQUAD's {app} is recorded"),
                "run SQUAD's migrations",
                true,
            )),
        })
        .collect()
}

/// Plugins that nobody would run.
pub fn plugins(config: &Config, project: &str, enabled: &str) -> Vec<Finding> {
    let unknown = enabled
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty() && !is_known(config, name));
    unknown
        .map(|name| {
            let what = format!("{project} has the plugin {name}, and nobody says what it hooks into: both kinds of hooks are left to SQUAD's workers");
            let mend = "name it in [squad.plugins] as \"testrun\", \"testjob\" or \"none\"";
            finding("plugins", what, mend, false)
        })
        .collect()
}

/// What a role needs for `squad.foreign_keys = "held"`.
pub const MAY_HOLD: &str = r#"have a superuser "grant set on parameter session_replication_role" to it (PostgreSQL 15 or later)"#;

/// What is to be said of foreign keys: that they cannot be held as configured, or, as no fault, that it would be worth it.
pub fn foreign_keys(
    config: &Config,
    large: Large,
    may_hold: bool,
) -> (Option<Finding>, Option<String>) {
    /// Fewer tests than this are checked as ever.
    const MANY: i64 = 5000;
    match (config.squad.foreign_keys, may_hold) {
        (ForeignKeys::Held, true) => (None, None),
        (ForeignKeys::Held, false) => {
            let what = r#"squad.foreign_keys = "held" is not permitted to the role of store.url: no worker starts"#;
            let finding = finding("foreign keys", what.to_owned(), MAY_HOLD, true);
            (Some(finding), None)
        }
        (ForeignKeys::Checked, _) if large.tests <= MANY || large.watched => (None, None),
        (ForeignKeys::Checked, _) => {
            let right = if may_hold {
                "the role of store.url may do so".to_owned()
            } else {
                format!("the role of store.url may not: {MAY_HOLD}")
            };
            let hint = format!(
                r#"a test run has {} tests: with squad.foreign_keys = "held" PostgreSQL does not look for what each refers to once more; {right}"#,
                large.tests
            );
            (None, Some(hint))
        }
    }
}

/// Why a test job is stuck, and how it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Nothing was written after the fetch: collected anew.
    NothingWritten,
    /// A test run was written and never linked: collected anew in its place.
    Unlinked,
    /// Post-processing was cut off: collected anew, replacing what is half there.
    CutOff,
    /// All is there, and its end was never told: told now.
    NeverTold,
}

impl Cause {
    /// Why this one is stuck.
    pub fn of(job: &StuckJob) -> Self {
        let whole = job.processed == Some(true) && job.recorded == Some(true);
        match job.testrun {
            None if job.loose > 0 => Self::Unlinked,
            None => Self::NothingWritten,
            Some(_) if whole && job.subtasks == 0 => Self::NeverTold,
            Some(_) => Self::CutOff,
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::NothingWritten => "nothing was written after the fetch",
            Self::Unlinked => "its test run was written and never linked",
            Self::CutOff => "its post-processing was cut off",
            Self::NeverTold => "its end was never told",
        }
    }

    /// What repairs it.
    pub fn repair(self) -> &'static str {
        match self {
            Self::NothingWritten | Self::Unlinked | Self::CutOff => "collect it anew",
            Self::NeverTold => "tell SQUAD its end",
        }
    }
}

/// The message that repairs a stuck test job.
pub fn repair(config: &Config, job: &StuckJob, now: Millis) -> Task {
    match Cause::of(job) {
        Cause::NeverTold => {
            let status = job.status.as_deref().unwrap_or("Complete");
            message(
                UPDATE_STATUS,
                &config.squad.python_queue,
                job.pk,
                now,
                status.into(),
            )
        }
        Cause::NothingWritten | Cause::Unlinked | Cause::CutOff => {
            let clean = job.testrun.is_some();
            message(FETCH, config.route(FETCH), job.pk, now, clean.into())
        }
    }
}

fn message(name: &str, queue: &str, pk: i64, now: Millis, second: serde_json::Value) -> Task {
    let mut task = Task::new(name, queue)
        .with_id(format!("unstick:{pk}.{now}"))
        .for_celery();
    task.args = vec![pk.into(), second];
    task
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<SquadColumn> {
        let columns = TABLES.iter().flat_map(|(table, columns)| {
            columns.split(' ').map(|column| SquadColumn {
                table_name: (*table).to_owned(),
                column_name: column.to_owned(),
                needed: 0,
            })
        });
        columns.collect()
    }

    #[test]
    fn a_schema_that_differs_is_named() {
        assert_eq!(schema(&all()), []);
        let mut less = all();
        less.retain(|column| {
            column.column_name != "has_known_issues" && column.table_name != "core_status"
        });
        let found = schema(&less);
        let texts = found
            .iter()
            .map(|finding| finding.what.as_str())
            .collect::<Vec<_>>();
        assert_eq!(
            texts,
            [
                "core_test has no column has_known_issues",
                "SQUAD's table core_status is not in the schema public of this database"
            ]
        );
        let mut more = all();
        more.push(SquadColumn {
            table_name: "core_test".into(),
            column_name: "weight".into(),
            needed: 1,
        });
        assert_eq!(
            schema(&more)[0].what,
            "core_test needs a column weight that this Longshore does not know"
        );
        assert!(schema(&more)[0].fatal);
    }

    #[test]
    fn foreign_keys_are_a_fault_or_a_hint() {
        let config = |keys: ForeignKeys| {
            let mut config = Config::embedded(std::path::Path::new(""));
            config.squad.foreign_keys = keys;
            config
        };
        let (checked, held) = (config(ForeignKeys::Checked), config(ForeignKeys::Held));
        let large = |tests, watched| Large { tests, watched };
        for may in [true, false] {
            assert_eq!(
                foreign_keys(&checked, large(5000, false), may),
                (None, None)
            );
            assert_eq!(foreign_keys(&checked, large(9000, true), may), (None, None));
            let (fault, hint) = foreign_keys(&checked, large(9000, false), may);
            let hint = hint.unwrap();
            assert!(fault.is_none() && hint.contains("9000 tests"));
            assert_eq!(hint.contains("grant set on parameter"), !may);
            let (fault, hint) = foreign_keys(&held, large(0, false), may);
            assert_eq!((fault.is_some(), hint), (!may, None));
        }
    }

    #[test]
    fn each_window_has_its_cause() {
        let job = |testrun, subtasks, processed: Option<bool>, loose| StuckJob {
            pk: 1,
            project: "g/p".into(),
            build: None,
            job_id: None,
            testrun,
            subtasks,
            status: None,
            processed,
            recorded: processed,
            fetched_at: None,
            loose,
            scratch: 0,
            told_at: None,
        };
        assert_eq!(Cause::of(&job(None, 0, None, 0)), Cause::NothingWritten);
        assert_eq!(Cause::of(&job(None, 0, None, 1)), Cause::Unlinked);
        assert_eq!(Cause::of(&job(Some(1), 1, Some(true), 0)), Cause::CutOff);
        assert_eq!(Cause::of(&job(Some(1), 0, Some(false), 0)), Cause::CutOff);
        assert_eq!(Cause::of(&job(Some(1), 0, Some(true), 0)), Cause::NeverTold);
    }
}
