//! `longshore exec-guard`: the parent of a command that runs as a task, and the end of its process group.
//!
//! Its standard input is a socket to the worker. It begins the command at the worker's word, tells how it ended, and kills
//! the group that both are in as soon as the worker is gone, so that no command outlives a worker that was killed. No
//! runtime, no configuration, no log of its own: what the command writes goes to the worker.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Signal, kill_current_process_group};
use serde_json::json;
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};

use crate::plugin_host::protocol::{Failed, FromChild, ToChild};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    match guard(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            // Nobody may be reading any more.
            let _told = writeln!(io::stderr(), "longshore failed to guard a command: {error}");
            ExitCode::FAILURE
        }
    }
}

fn guard(command: Vec<OsString>) -> io::Result<ExitCode> {
    // What the group is sent is for the command; a handler, unlike an ignored signal, is not inherited.
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let socket = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut input = BufReader::new(socket.try_clone()?);
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(ExitCode::FAILURE);
    }
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| io::Error::other("there is none"))?;
    let begun = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn();
    let listening = std::thread::Builder::new().spawn(move || listen(input))?;
    let said = match begun {
        Ok(mut child) => {
            let status = child.wait()?;
            FromChild::Done {
                result: json!({ "code": status.code(), "signal": status.signal() }),
            }
        }
        Err(error) => FromChild::Failed(Failed {
            message: format!("{program:?}: {error}"),
            ..Failed::default()
        }),
    };
    let mut said = serde_json::to_vec(&said)?;
    said.push(b'\n');
    (&socket).write_all(&said)?;
    // Until the worker ends the group, or itself.
    let _ended = listening.join();
    Ok(ExitCode::SUCCESS)
}

/// Obeys the worker until it is gone, then ends the group, this process with it.
fn listen(mut input: BufReader<File>) {
    let mut line = String::new();
    while input.read_line(&mut line).is_ok_and(|size| size > 0) {
        if let Ok(ToChild::Drain { .. }) = serde_json::from_str(&line) {
            send(Signal::TERM);
        }
        line.clear();
    }
    send(Signal::KILL);
}

fn send(signal: Signal) {
    if let Err(error) = kill_current_process_group(signal) {
        let _told = writeln!(io::stderr(), "longshore failed to send {signal:?}: {error}");
    }
}
