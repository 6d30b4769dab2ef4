//! Runs one git command so that nothing of it outlives its caller.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::oneshot;

use super::login::Login;
use super::{Report, redact};
use crate::agent::proc;

/// Variables by which a surrounding git (a hook, an alias) would make this one work on another repository.
/// `GIT_CONFIG_COUNT` and its like stay: they are the user's configuration.
const FOREIGN_VARIABLES: [&str; 12] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CEILING_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_DIR",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

/// Settings of every command: nothing is started that goes on in the background, and no advice is printed.
const SETTINGS: [&str; 10] = [
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "advice.detachedHead=false",
    "-c",
    "init.defaultBranch=main",
];

/// What is kept of a command's complaints: its last lines, each cut to a sensible length.
const LINES_MAX: usize = 40;
const LINE_MAX: usize = 1024;

/// What is taken of a command's answer. The longest that is asked for is two lines.
const ANSWER_MAX: u64 = 64 << 10;

/// How often a counter that git rewrites in place is passed on.
const REWRITTEN_INTERVAL: Duration = Duration::from_millis(200);

/// After git's end: until its last words are read. A connection that an SSH client keeps open in the background can
/// hold the pipe for ever.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How a git command ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    /// The last lines of standard error, without credentials.
    pub(super) stderr: String,
}

/// Everything that one checkout's commands have in common.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) protocols: &'static str,
    pub(super) report: Report,
    pub(super) inherited: Option<Arc<File>>,
    pub(super) owner: Option<String>,
    pub(super) login: Option<Login>,
}

impl Surroundings {
    fn command(&self, directory: &Path, arguments: &[OsString]) -> Command {
        let mut command = Command::new("git");
        command.args(SETTINGS).args(arguments).current_dir(directory);
        for variable in FOREIGN_VARIABLES {
            command.env_remove(variable);
        }
        command
            .envs(self.owner.as_ref().map(|owner| (super::OWNER, owner)))
            // Messages are told apart by their English text.
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", allowed_protocols(self.protocols))
            .envs(self.login.iter().flat_map(Login::variables))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let inherited = self.inherited.clone();
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec only system calls are made, all of them async-signal-safe: no allocation, no
        // lock, no access to memory that another thread may hold.
        unsafe { command.pre_exec(move || prepare(parent, inherited.as_deref())) };
        command
    }
}

/// The protocols that are safe here, and of these only what the user's own restriction leaves.
fn allowed_protocols(safe: &str) -> OsString {
    let Some(own) = std::env::var_os("GIT_ALLOW_PROTOCOL") else { return safe.into() };
    let own = own.to_string_lossy();
    let both: Vec<_> =
        safe.split(':').filter(|protocol| own.split(':').any(|other| other == *protocol)).collect();
    both.join(":").into()
}

/// Runs in the child before git does.
fn prepare(parent: Pid, inherited: Option<&File>) -> io::Result<()> {
    // Its own session: its process group can be killed as a whole, and ssh finds no terminal to ask on.
    rustix::process::setsid()?;
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the signal was set.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parent;
    if let Some(file) = inherited {
        rustix::io::fcntl_setfd(file.as_fd(), FdFlags::empty())?;
    }
    Ok(())
}

/// Runs `git` with these arguments in `directory`. Dropping the future kills it and what it started.
pub(super) async fn run<A: AsRef<OsStr>>(
    directory: &Path,
    surroundings: &Surroundings,
    arguments: &[A],
) -> io::Result<Outcome> {
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_owned()).collect();
    let command = surroundings.command(directory, &arguments);
    let (sender, receiver) = oneshot::channel();
    let group = ProcessGroup::default();
    let _killed_on_drop = KillOnDrop(group.clone());
    let report = Arc::clone(&surroundings.report);
    // A thread of its own, because the parent-death signal is sent when the *thread* that spawned git ends, and an
    // async runtime may end its threads at any time.
    std::thread::Builder::new().name("git".into()).spawn(move || {
        // Nobody listens any more when the caller has given up.
        let _unheard = sender.send(group.run(command, report));
    })?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread that ran git ended")))
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    #[default]
    NotStarted,
    Running(Pid),
    Over,
}

/// The processes of one git command, killed at most once and never after the id may belong to others.
#[derive(Clone, Debug, Default)]
struct ProcessGroup(Arc<Mutex<Stage>>);

struct KillOnDrop(ProcessGroup);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let mut stage = self.0.stage();
        if let Stage::Running(pid) = *stage {
            // It may have ended by itself.
            let _gone = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        *stage = Stage::Over;
    }
}

impl ProcessGroup {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        // The value is valid whoever panicked while it was locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut command: Command, report: Report) -> io::Result<Outcome> {
        let (mut child, _awaited) = {
            let mut stage = self.stage();
            if matches!(*stage, Stage::Over) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            // Under the lock, so that a caller that gives up now finds the process and kills it.
            let (child, awaited) = proc::spawn(&mut command)?;
            *stage = Pid::from_raw(child.id().cast_signed()).map_or(Stage::Over, Stage::Running);
            (child, awaited)
        };
        let errors = read_errors(&mut child, report);
        let stdout = read_answer(&mut child);
        let status = self.wait(&mut child)?;
        Ok(Outcome { status, stdout: stdout?, stderr: errors.lines() })
    }

    fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let stage = *self.stage();
        if let Stage::Running(pid) = stage {
            // Its id stays taken until it is reaped, which happens under the lock.
            while let Err(rustix::io::Errno::INTR) =
                rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            {
            }
        }
        let mut stage = self.stage();
        *stage = Stage::Over;
        child.wait()
    }
}

fn read_answer(child: &mut Child) -> io::Result<String> {
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_MAX).read_to_string(&mut answer)?;
    }
    Ok(answer)
}

/// Standard error, read in a thread of its own so that a full pipe never stops git.
struct Errors {
    lines: Arc<Mutex<Vec<String>>>,
    ended: mpsc::Receiver<()>,
}

impl Errors {
    fn lines(self) -> String {
        // Ends early when the thread is done and its sender gone.
        let _end = self.ended.recv_timeout(LAST_WORDS);
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

fn read_errors(child: &mut Child, report: Report) -> Errors {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (sender, ended) = mpsc::channel();
    if let Some(stderr) = child.stderr.take() {
        let kept = Arc::clone(&lines);
        let read = move || {
            let _ended_on_drop = sender;
            let mut last_report = None;
            each_line(BufReader::new(stderr), |line, rewritten| {
                let line = redact(line);
                let due = last_report.is_none_or(|time: Instant| time.elapsed() >= REWRITTEN_INTERVAL);
                if !rewritten || due {
                    report(&line);
                    last_report = Some(Instant::now());
                }
                if !rewritten {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.len() == LINES_MAX {
                        kept.remove(0);
                    }
                    kept.push(line);
                }
            });
        };
        // Without the thread git's messages are lost, and with its pipe closed git fails: reported by its status.
        let _no_thread = std::thread::Builder::new().name("git messages".into()).spawn(read);
    }
    Errors { lines, ended }
}

/// Calls `take` with each line and whether git will write over it (a counter that ends in a carriage return).
fn each_line(reader: impl BufRead, mut take: impl FnMut(&str, bool)) {
    let mut line = Vec::new();
    let mut finish = |line: &mut Vec<u8>, rewritten: bool| {
        let text = String::from_utf8_lossy(line);
        if !text.trim().is_empty() {
            take(text.trim_end(), rewritten);
        }
        line.clear();
    };
    for byte in reader.bytes() {
        match byte {
            Ok(b'\n') => finish(&mut line, false),
            Ok(b'\r') => finish(&mut line, true),
            Ok(byte) if line.len() < LINE_MAX => line.push(byte),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    finish(&mut line, false);
}

impl Outcome {
    /// The signal that ended git, if one did.
    pub(super) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}
