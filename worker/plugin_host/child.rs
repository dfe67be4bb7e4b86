//! One child process: its socket, its words, its log, its end.
//!
//! Never outlives its worker, as far as that is in our hands: it loses its socket, and a Python child asks the kernel
//! to be killed with us. Killing means its whole process group.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child as Process, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::protocol::{self, FromChild, ToChild, Unheard};

/// Messages between a child and who listens: a fast child waits for a slow store.
const IN_FLIGHT: usize = 64;
/// How much of its log is told with its end.
const LAST_WORDS: usize = 20;
/// The longest line of a child's log that is kept, in bytes.
const LONGEST_WORD: usize = 4096;
/// For how long a child that let go of its socket may still be ending.
const FAREWELL: Duration = Duration::from_secs(2);

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// For the log.
    pub(crate) name: String,
    /// The command and its arguments.
    pub(crate) command: Vec<OsString>,
    /// Beside this process's environment, …
    pub(crate) environment: Vec<(String, OsString)>,
    /// … or instead of it.
    pub(crate) alone: bool,
    /// Where it runs; `None`: here.
    pub(crate) folder: Option<PathBuf>,
    /// Whether its standard output is the socket too, not the log.
    pub(crate) speaks: bool,
    /// For how long it may say nothing; `None`: for ever.
    pub(crate) silence: Option<Duration>,
    /// How many bytes of its log are passed on; of the rest, only the end is kept. `None`: all.
    pub(crate) log_limit: Option<u64>,
}

impl Program {
    /// Ready to be started with this socket.
    fn command(&self, socket: StdStream) -> io::Result<Command> {
        let Self {
            name: _,
            command,
            environment,
            alone,
            folder,
            speaks,
            silence: _,
            log_limit: _,
        } = self;
        let (file, arguments) = command
            .split_first()
            .ok_or_else(|| io::Error::other("the command is empty"))?;
        let mut start = Command::new(rooted(file)?);
        if *alone {
            start.env_clear();
        }
        // Our configuration may hold passwords, and is no matter of a child.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LONGSHORE__") {
                start.env_remove(name);
            }
        }
        let stdout = if *speaks {
            Stdio::from(OwnedFd::from(socket.try_clone()?))
        } else {
            Stdio::piped()
        };
        start
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .stdout(stdout)
            .stderr(Stdio::piped());
        if let Some(folder) = folder {
            start.current_dir(folder);
        }
        Ok(start)
    }
}

/// A program as it is found from another folder, too: one with a slash is a path from here, others are names to look for.
pub(crate) fn rooted(program: &OsStr) -> io::Result<OsString> {
    if program.as_encoded_bytes().contains(&b'/') {
        std::path::absolute(program).map(Into::into)
    } else {
        Ok(program.to_owned())
    }
}

/// Starts processes from one thread that lives as long as this: the kernel kills a child that asked for it when the
/// *thread* that made it ends, and the runtime's threads come and go.
#[derive(Clone)]
pub(crate) struct Nursery(std::sync::mpsc::Sender<Order>);

type Order = (Command, oneshot::Sender<io::Result<Process>>);

impl Nursery {
    pub(crate) fn open() -> io::Result<Self> {
        let (orders, received) = std::sync::mpsc::channel::<Order>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("children".into())
            .spawn(move || {
                let _inside = runtime.enter();
                for (mut command, answer) in received {
                    // Nobody waits any more: the child ends with its handle.
                    let _unheard = answer.send(command.spawn());
                }
            })?;
        Ok(Self(orders))
    }

    async fn spawn(&self, command: Command) -> io::Result<Process> {
        let (answer, answered) = oneshot::channel();
        let closed = || io::Error::other("the thread that starts processes has ended");
        self.0.send((command, answer)).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

/// A running child.
pub(crate) struct Child {
    pub(crate) name: String,
    pid: Option<Pid>,
    output: OwnedWriteHalf,
    heard: mpsc::Receiver<FromChild>,
    state: Arc<State>,
    logs: Vec<JoinHandle<()>>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

/// What the listeners of a child share.
struct State {
    /// Why we ended it; the first reason counts.
    verdict: Mutex<Option<String>>,
    last_words: Mutex<VecDeque<String>>,
    /// How many bytes of its log may still be passed on, and how many were not.
    room: AtomicU64,
    unlogged: AtomicU64,
}

impl State {
    fn new(log_limit: Option<u64>) -> Self {
        Self {
            verdict: Mutex::default(),
            last_words: Mutex::default(),
            room: AtomicU64::new(log_limit.unwrap_or(u64::MAX)),
            unlogged: AtomicU64::new(0),
        }
    }

    /// Whether a line of `size` bytes may be passed on.
    fn has_room(&self, size: u64) -> bool {
        let taken = self
            .room
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |room| {
                room.checked_sub(size)
            });
        if taken.is_err() {
            // Lines of later that would fit are not picked out of what is left.
            self.room.store(0, Ordering::Relaxed);
            self.unlogged.fetch_add(size, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    fn judge(&self, reason: impl FnOnce() -> String) {
        self.verdict
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(reason);
    }
}

impl Child {
    /// Starts it.
    pub(crate) async fn start(
        program: &Program,
        nursery: &Nursery,
        tasks: &TaskTracker,
    ) -> io::Result<Self> {
        let Program {
            name,
            silence,
            log_limit,
            alone,
            ..
        } = program;
        let alone = *alone;
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let (input, output) = UnixStream::from_std(ours)?.into_split();
        let start = program.command(theirs)?;
        let mut process = nursery.spawn(start).await?;
        let pid = process
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        let state = Arc::new(State::new(*log_limit));
        let mut logs = Vec::new();
        for pipe in [
            process.stdout.take().map(|it| Box::new(it) as Pipe),
            process.stderr.take().map(|it| Box::new(it) as Pipe),
        ]
        .into_iter()
        .flatten()
        {
            logs.push(tasks.spawn(keep_log(name.clone(), pipe, Arc::clone(&state))));
        }
        let (sender, heard) = mpsc::channel(IN_FLIGHT);
        let listening = listen(
            name.clone(),
            input,
            sender,
            *silence,
            Arc::clone(&state),
            pid,
        );
        tasks.spawn(listening);
        let (ended, exit) = watch::channel(None);
        tasks.spawn(async move {
            let status = process.wait().await.unwrap_or_default();
            if alone {
                // Its first process alone may have been killed, for want of memory.
                kill(pid);
            }
            ended.send_replace(Some(status));
        });
        Ok(Self {
            name: name.clone(),
            pid,
            output,
            heard,
            state,
            logs,
            exit,
        })
    }

    /// Says something to it. A child that is gone shows when it is listened to.
    pub(crate) async fn say(&mut self, message: &ToChild) {
        if let Err(error) = self.output.write_all(&protocol::line(message)).await {
            tracing::debug!(child = self.name, %error, "a child could not be told");
        }
    }

    /// What it says next; `None`: never anything again.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn hear(&mut self) -> Option<FromChild> {
        tokio::select! {
            biased;
            heard = self.heard.recv() => return heard,
            _ended = self.exit.wait_for(Option::is_some) => {}
        }
        // Its last words may still be on their way; but a process of its own that outlives it may hold the socket.
        let rest = tokio::time::timeout(FAREWELL, self.heard.recv()).await;
        rest.ok().flatten()
    }

    /// Forgets what it said to nobody.
    pub(crate) fn forget_the_past(&mut self) {
        while self.heard.try_recv().is_ok() {}
        let mut words = self
            .state
            .last_words
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        words.clear();
    }

    /// Whether its process has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.exit.borrow().is_some() || self.heard.is_closed()
    }

    /// Tells when its process has ended.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.exit.clone()
    }

    /// Ends its process group, now.
    pub(crate) fn kill(&self, reason: &str) {
        self.state.judge(|| reason.to_owned());
        if self.exit.borrow().is_none() {
            kill(self.pid);
        }
    }

    /// Whether a child that says nothing any more has ended by itself, and well.
    pub(crate) async fn ended_well(&mut self) -> bool {
        let waiting = tokio::time::timeout(FAREWELL, self.exit.wait_for(Option::is_some));
        let ended = waiting.await.is_ok_and(|exit| {
            exit.is_ok_and(|status| status.is_some_and(|status| status.success()))
        });
        ended && self.verdict().is_none()
    }

    /// Waits for the end of a child that says nothing any more, and tells how it came.
    pub(crate) async fn end(&mut self) -> String {
        let waiting = tokio::time::timeout(FAREWELL, self.exit.wait_for(Option::is_some));
        if waiting.await.is_err() {
            self.kill("it let go of its socket, and was killed");
        }
        let status = self.exit.wait_for(Option::is_some).await.map(|it| *it);
        let verdict = self.verdict();
        match (verdict, status) {
            (Some(verdict), _) => verdict,
            (None, Ok(Some(status))) => describe(status),
            (None, Ok(None) | Err(_)) => "it is gone".into(),
        }
    }

    fn verdict(&self) -> Option<String> {
        self.state
            .verdict
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends its process group, and waits until the last line of its log is kept. How many bytes of it were not passed on.
    pub(crate) async fn end_log(&mut self, reason: &str) -> u64 {
        self.kill(reason);
        for log in &mut self.logs {
            // A process that left the group may hold the pipe.
            let _kept = tokio::time::timeout(FAREWELL, log).await;
        }
        self.logs.clear();
        self.state.unlogged.load(Ordering::Relaxed)
    }

    /// The last line of its log.
    pub(crate) fn last_word(&self) -> Option<String> {
        let words = self
            .state
            .last_words
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        words.back().cloned()
    }

    /// The last lines of its log.
    pub(crate) fn last_words(&self) -> String {
        let words = self
            .state
            .last_words
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        words.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill("nobody needs it any more");
    }
}

type Pipe = Box<dyn AsyncRead + Send + Unpin>;

fn kill(pid: Option<Pid>) {
    if let Some(pid) = pid
        && let Err(error) = kill_process_group(pid, Signal::KILL)
    {
        tracing::debug!(pid = pid.as_raw_nonzero().get(), %error, "a child was gone before it was killed");
    }
}

/// How a process ended, in words.
fn describe(status: ExitStatus) -> String {
    /// What the kernel's killer sends.
    const KILLED: i32 = 9;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("its process ended with exit code {code}"),
        (None, Some(KILLED)) => {
            "its process was killed by signal 9: by hand, or for want of memory".into()
        }
        (None, Some(signal)) => format!("its process was killed by signal {signal}"),
        (None, None) => "its process ended".into(),
    }
}

/// Listens until the end of the socket.
async fn listen(
    name: String,
    input: OwnedReadHalf,
    sender: mpsc::Sender<FromChild>,
    silence: Option<Duration>,
    state: Arc<State>,
    pid: Option<Pid>,
) {
    let mut input = BufReader::new(input);
    loop {
        let heard = match silence {
            None => protocol::read(&mut input).await,
            Some(silence) => {
                match tokio::time::timeout(silence, protocol::read(&mut input)).await {
                    Ok(heard) => heard,
                    Err(_) => {
                        state.judge(|| {
                            format!(
                                "nothing was heard of its process for {}, so that it was killed",
                                humantime::format_duration(silence)
                            )
                        });
                        return kill(pid);
                    }
                }
            }
        };
        match heard {
            Ok(Some(FromChild::Alive {})) => {}
            Ok(Some(FromChild::Log { level, text })) => log(&name, &level, &text),
            Ok(Some(message)) => {
                if sender.send(message).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            // A process that dies with words of ours unread resets the connection: the end all the same.
            Err(Unheard::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => return,
            Err(error) => {
                state.judge(|| format!("it was killed: the worker failed to {error}"));
                return kill(pid);
            }
        }
    }
}

fn log(child: &str, level: &str, text: &str) {
    match level {
        "debug" => tracing::debug!(child, "{text}"),
        "warning" => tracing::warn!(child, "{text}"),
        "error" | "critical" => tracing::error!(child, "{text}"),
        _ => tracing::info!(child, "{text}"),
    }
}

/// Puts what a child writes into our log, and remembers the end of it.
async fn keep_log(name: String, pipe: Pipe, state: Arc<State>) {
    let mut input = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while let Ok(true) = protocol::read_text(&mut input, &mut bytes, LONGEST_WORD).await {
        let text = String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned();
        if text.is_empty() {
            continue;
        }
        if state.has_room(text.len() as u64 + 1) {
            log(&name, "info", &text);
        }
        let mut words = state
            .last_words
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if words.len() == LAST_WORDS {
            words.pop_front();
        }
        words.push_back(text);
    }
}
