//! `[celery]`: what is done for Celery's clients beside running their tasks.

use serde::Serialize;

use super::pool::Routes;
use super::section::Section;

/// Celery's own default queue.
const QUEUE: &str = "celery";

/// How tasks of Celery's are treated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Celery {
    /// Where results go that Celery's clients wait for. Default `none`.
    pub results: Results,
    /// How `celery_taskmeta` keeps them. Default `json`.
    pub database_format: DatabaseFormat,
    /// Whether `celery_taskmeta` has the columns of Celery's `result_extended`, and they are to be filled. Default [`Switch::Off`].
    pub result_extended: Switch,
    /// Whether an attempt says that it has begun in the tables of results: Celery's `task_track_started`. Default [`Switch::Off`].
    pub track_started: Switch,
    /// Where a task of Celery's goes whose name no handler here knows: a queue of Python workers. Default: none, it is parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_queue: Option<String>,
    /// What Celery's own tools see of a worker. Default [`Tools::Off`].
    pub tools: Tools,
    /// Which queue a task of a workflow goes to that names none, as Celery's `task_routes`. Default: all to `celery`.
    pub routes: Routes,
}

/// Where results go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Results {
    /// Nowhere.
    None,
    /// To the queue that the message names: Celery's `rpc://`.
    Rpc,
    /// Into `celery_taskmeta`: Celery's `database` backend.
    Database,
    /// Into the tables of django_celery_results: `django-db`.
    Django,
}

impl Results {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Rpc => "rpc",
            Self::Database => "database",
            Self::Django => "django",
        }
    }

    /// The tables that they need.
    pub fn tables(self) -> &'static [&'static str] {
        match self {
            Self::None | Self::Rpc => &[],
            Self::Database => &["public.celery_taskmeta"],
            Self::Django => &[
                "public.django_celery_results_taskresult",
                "public.django_celery_results_chordcounter",
            ],
        }
    }
}

/// Whether a worker answers Celery's remote control and sends its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tools {
    /// Neither.
    Off,
    /// It answers, and says by events that it lives; what becomes of tasks only once a tool asks for that.
    On,
    /// The same, with the events of tasks from the start.
    Events,
}

impl Tools {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Events => "events",
        }
    }
}

/// How `celery_taskmeta` keeps a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseFormat {
    /// As Celery 5.7 and later do.
    Json,
    /// As Celery does before; 5.7 reads it too, with a warning for each.
    Pickle,
}

/// What is done or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Not.
    Off,
    /// Done.
    On,
}

impl Switch {
    fn read(section: &mut Section<'_>, key: &'static str) -> Self {
        let switch = section.choice(key, &[("off", Self::Off), ("on", Self::On)]);
        switch.unwrap_or(Self::Off)
    }
}

impl Celery {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let results = [
            Results::None,
            Results::Rpc,
            Results::Database,
            Results::Django,
        ]
        .map(|results| (results.as_str(), results));
        let tools = [Tools::Off, Tools::On, Tools::Events].map(|tools| (tools.as_str(), tools));
        Self {
            results: section.choice("results", &results).unwrap_or(Results::None),
            database_format: section
                .choice(
                    "database_format",
                    &[
                        ("json", DatabaseFormat::Json),
                        ("pickle", DatabaseFormat::Pickle),
                    ],
                )
                .unwrap_or(DatabaseFormat::Json),
            result_extended: Switch::read(section, "result_extended"),
            track_started: Switch::read(section, "track_started"),
            unknown_queue: section.text("unknown_queue"),
            tools: section.choice("tools", &tools).unwrap_or(Tools::Off),
            routes: section.table("routes", |section| Routes::with_default(section, QUEUE)),
        }
    }
}
