//! Commands as tasks: `[exec]` of the configuration names them, and a task fills in arguments.
//!
//! A message never names a program, a file, a folder or a variable, and no shell splits what it says: a value is one
//! argument, or a part of one. A command runs below a guard (`longshore exec-guard`, a process of its own), which ends the
//! whole process group as soon as its worker is gone, however that came. An attempt that is cut off has killed the group
//! before it is settled. What a command saves or returns goes into the store under the attempt's epoch, or not at all.
//!
//! A command's effect elsewhere may come and its worker die before the store has it: the next attempt then asks `probe`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::config::{self, Config};
use crate::handler::Registry;
use crate::plugin_host::child::{Nursery, rooted};

mod arguments;
mod attempt;
mod decide;
mod files;

/// The verb of this program that guards a command: it begins at a [`Start`](crate::plugin_host::protocol::ToChild) and
/// says how the command ended.
pub const GUARD: &str = "exec-guard";

/// Why commands cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The name is taken.
    #[error("register exec.{0:?}: a handler of this name is built in; call it another name")]
    Taken(String),
    /// The thread that starts processes, or the way to this program.
    #[error("prepare for child processes: {0}")]
    Start(#[from] std::io::Error),
}

/// One command of the configuration.
struct Handler {
    name: String,
    exec: config::Exec,
    /// When it gets SIGTERM.
    limit: Duration,
    children: Arc<Children>,
}

/// What starts processes.
struct Children {
    nursery: Nursery,
    tasks: TaskTracker,
    /// This program, which guards them.
    guard: OsString,
}

/// Registers a handler for each command of the configuration. The program must be one of
/// [`cli::main_with`](crate::cli::main_with): it is started again as the guard of each command.
///
/// # Errors
///
/// [`ExecError`]: a name is taken, or no process could ever be started.
pub fn register(registry: &mut Registry, config: &Config) -> Result<(), ExecError> {
    if config.exec.is_empty() {
        return Ok(());
    }
    let children = Arc::new(Children {
        nursery: Nursery::open()?,
        tasks: TaskTracker::new(),
        guard: this_program()?.into(),
    });
    for (name, exec) in &config.exec {
        if registry.knows(name) {
            return Err(ExecError::Taken(name.clone()));
        }
        let most = config.policy(name).time_limit;
        let room = most.saturating_sub(exec.grace).max(most / 2);
        let mut exec = exec.clone();
        let others = exec.stage.iter_mut().chain(exec.probe.iter_mut());
        for command in others.chain([&mut exec.command]) {
            // They do not run where we do.
            let program = rooted(command.program.as_ref())?;
            command.program = program.to_string_lossy().into_owned();
        }
        let handler = Arc::new(Handler {
            name: name.clone(),
            limit: exec.time_limit.unwrap_or(room),
            exec,
            children: Arc::clone(&children),
        });
        registry.add(name.clone(), move |task, context| {
            attempt::run(Arc::clone(&handler), task, context)
        });
    }
    Ok(())
}

/// This very program, even if an update has put another in its place.
fn this_program() -> std::io::Result<PathBuf> {
    let ours = Path::new("/proc/self/exe");
    if ours.exists() {
        Ok(ours.to_owned())
    } else {
        std::env::current_exe()
    }
}
