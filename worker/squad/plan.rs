//! Who runs which plugin of a project: ourselves, or SQUAD's remaining workers. Pure.

use crate::config::{self, Config, Hook};
use crate::store::SquadJob;
use crate::task::Task;
use crate::testjob::plugin::{KERNEL_LOG, TRADEFED};

use super::{MAIL, POSTPROCESS, POSTPROCESS_TESTRUN, SUBMIT, UPDATE_STATUS};

/// SQUAD's name of the plugin that is `kernel-log` here.
const LOG_PARSER: &str = "linux_log_parser";

/// What SQUAD 1.98's own plugins hook into, of those that have no twin here.
const THEIRS: [(&str, Hook); 6] = [
    ("linux_log_parser_build", Hook::Testrun),
    ("ltp", Hook::Testrun),
    ("mmtests", Hook::Testjob),
    ("example", Hook::None),
    ("gerrit", Hook::None),
    ("github", Hook::None),
];

/// Who runs what after a fetch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Run here, by our names.
    pub(super) native: Vec<String>,
    /// Python is to run the plugins of the test run.
    pub(super) testrun: bool,
    /// Python is to run the plugins of the test job, and end it.
    pub(super) testjob: bool,
    /// A successor may be submitted in the test job's place: whether its administrators get mail of that.
    pub(super) successor: Option<bool>,
}

impl Plan {
    /// The plan for what SQUAD has enabled for a project, and for programs that the configuration gives it (`[projects]`).
    pub(super) fn of(config: &Config, project: &str, enabled: &str) -> Self {
        let names = enabled
            .split([',', ' ', '\n', '\t'])
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect::<Vec<_>>();
        let mut plan = Self::default();
        let given = config.project(project).plugins;
        let given = given.iter().map(String::as_str);
        for name in given.chain(names.iter().copied()) {
            if config.plugins.contains_key(name) && !plan.native.iter().any(|own| own == name) {
                plan.native.push(name.to_owned());
            }
        }
        for name in &names {
            if config.plugins.contains_key(*name) {
                continue;
            }
            match native(name) {
                Some(KERNEL_LOG) | None => {}
                Some(own) => plan.native.push(own.to_owned()),
            }
            if native(name).is_none() {
                match hook(&config.squad, name) {
                    Some(Hook::Testrun) => plan.testrun = true,
                    Some(Hook::Testjob) => plan.testjob = true,
                    Some(Hook::None) => {}
                    None => (plan.testrun, plan.testjob) = (true, true),
                }
            }
        }
        // SQUAD's task runs all plugins of a test run or none: its findings must not be there twice.
        if names.contains(&LOG_PARSER) && !plan.testrun {
            plan.native.push(KERNEL_LOG.to_owned());
        }
        plan
    }

    /// What SQUAD's workers are told once everything that is run here is shown. `@testrun` becomes its number,
    /// `@successor` that of the test job that is submitted in its place.
    pub(super) fn messages(
        &self,
        config: &config::Squad,
        pk: i64,
        generation: i64,
        status: &str,
    ) -> Vec<Task> {
        let mut messages = Vec::new();
        let mut say = |name: &str, queue: &str, args: Vec<serde_json::Value>| {
            let mut task = Task::new(name, queue)
                .with_id(format!("longshore:{pk}.{generation}/{name}"))
                .for_celery();
            task.args = args;
            messages.push(task);
        };
        if self.testrun {
            say(
                POSTPROCESS_TESTRUN,
                &config.testrun_queue,
                vec!["@testrun".into()],
            );
        }
        let end = if self.testjob {
            POSTPROCESS
        } else {
            UPDATE_STATUS
        };
        say(end, &config.python_queue, vec![pk.into(), status.into()]);
        if let Some(mail) = self.successor {
            say(SUBMIT, &config.quick_queue, vec!["@successor".into()]);
            if mail {
                say(
                    MAIL,
                    &config.quick_queue,
                    vec![pk.into(), "@successor".into()],
                );
            }
        }
        messages
    }
}

/// The plugins that are enabled for a test job's project.
pub(super) fn enabled(job: &SquadJob) -> &str {
    job.plugins.as_deref().unwrap_or_default()
}

/// Our name of a plugin of SQUAD's, if it has a twin here.
pub(super) fn native(name: &str) -> Option<&'static str> {
    match name {
        "tradefed" => Some(TRADEFED),
        LOG_PARSER => Some(KERNEL_LOG),
        _ => None,
    }
}

/// Whether it is known what a plugin hooks into.
pub(super) fn is_known(config: &Config, name: &str) -> bool {
    config.plugins.contains_key(name)
        || native(name).is_some()
        || hook(&config.squad, name).is_some()
}

fn hook(config: &config::Squad, name: &str) -> Option<Hook> {
    let own = config.plugins.get(name).copied();
    own.or_else(|| {
        THEIRS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, hook)| *hook)
    })
}
