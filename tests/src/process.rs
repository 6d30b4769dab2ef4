//! A server process that ends with the test process, however that ends.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::slot::{LOGS, Slot};
use crate::{ledger, wait};

/// How much of a log an error message repeats.
const LOG_TAIL_LINES: usize = 15;

/// What the kernel takes to remove a process that is killed, also on a busy machine.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// No single command of the harness takes longer, an installation on a slow network included.
const RUN_DEADLINE: Duration = Duration::from_secs(600);

/// A running server whose output goes to a file. Dropping it ends the process and waits for it.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Server {
    /// Starts `command` and writes the process down in the slot's ledger.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(slot: &Slot, name: &str, mut command: Command) -> Result<Self> {
        let log = slot.create_directory(LOGS)?.join(format!("{name}.log"));
        // A server that is started again goes on in its log.
        let output = OpenOptions::new().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = spawn(command).with_context(|| format!("start {name}"))?;
        let server = Self { name: name.to_owned(), child: Mutex::new(child), log };
        ledger::record(slot.directory(), server.id()?)?;
        Ok(server)
    }

    /// The process's id.
    ///
    /// # Errors
    /// When another thread panicked while it held the process.
    pub fn id(&self) -> Result<u32> {
        Ok(self.child.lock().map_err(|_| anyhow!("the state of {} is lost", self.name))?.id())
    }

    /// Kills the server without warning and waits until it is gone.
    ///
    /// In an enclosure the child is `nsenter`, which ends when the server, its only child, does.
    pub(crate) fn kill(self) -> Result<()> {
        let id = self.id()?;
        let Some(inner) = children(id)?.first().copied().and_then(Pid::from_raw) else {
            // Dropping it does.
            return Ok(());
        };
        kill_process(inner, Signal::KILL).with_context(|| format!("kill {}", self.name))?;
        wait::until_blocking(KILL_DEADLINE, &format!("{} to end", self.name), || {
            Ok(self.check_running().is_err())
        })
    }

    /// Everything the server printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The file with everything the server prints.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// An error that quotes the end of the log if the server is no longer running.
    ///
    /// # Errors
    /// When the server has ended.
    pub fn check_running(&self) -> Result<()> {
        let mut child = self.child.lock().map_err(|_| anyhow!("the state of {} is lost", self.name))?;
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); {}", self.name, self.log_tail()),
        }
    }

    /// The end of the log, for an error message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n  ");
        format!("the end of its log:\n  {tail}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            // Nothing a test server holds is worth a graceful end. Either call fails only if it is gone already.
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

/// The processes that a process started.
pub(crate) fn children(parent: u32) -> Result<Vec<i32>> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    children.split_whitespace().map(|child| child.parse().context("read a process id")).collect()
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a process from a thread that lives as long as this process.
///
/// Linux ends a child with the *thread* that started it, not with the process, and a test's thread ends long
/// before a shared fixture does.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (command, answer) in jobs {
                // The receiver is gone only if the asking thread is, and with it whoever would use the child.
                let _unheard = answer.send(spawn_bound(command));
            }
        });
        Mutex::new(sender)
    });
    let (answer, child) = mpsc::channel();
    let sender = spawner.lock().map_err(|_| anyhow!("the thread that starts processes panicked"))?.clone();
    sender.send((command, answer)).map_err(|_| anyhow!("the thread that starts processes ended"))?;
    child.recv().context("hear from the thread that starts processes")?.map_err(Into::into)
}

fn spawn_bound(mut command: Command) -> io::Result<Child> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt as _;
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec the closure only makes system calls; it neither allocates nor locks.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                end_if_orphaned(parent)
            });
        }
    }
    command.spawn()
}

/// The parent may have ended before the signal was asked for; then it would never come.
#[cfg(target_os = "linux")]
fn end_if_orphaned(parent: Pid) -> io::Result<()> {
    if rustix::process::getppid() == Some(parent) {
        return Ok(());
    }
    kill_process(rustix::process::getpid(), Signal::KILL)?;
    Ok(())
}

/// Runs a command to its end and gives what it printed.
///
/// # Errors
/// When it cannot be started, ends with an error (the message quotes what it said) or does not end in ten minutes.
pub fn run(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("start {program}"))?;
    let watchdog = Watchdog::watch(child.id(), RUN_DEADLINE);
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    watchdog.check().with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} ended with {}: {}", arguments.join(" "), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ends a child that takes too long, while its parent waits for it.
pub(crate) struct Watchdog {
    ended: mpsc::Sender<()>,
    watching: thread::JoinHandle<bool>,
    deadline: Duration,
}

impl Watchdog {
    pub(crate) fn watch(id: u32, deadline: Duration) -> Self {
        let (ended, end) = mpsc::channel();
        let watching = thread::spawn(move || {
            let late = end.recv_timeout(deadline) == Err(mpsc::RecvTimeoutError::Timeout);
            if let (true, Some(id)) = (late, i32::try_from(id).ok().and_then(Pid::from_raw)) {
                let _gone = kill_process(id, Signal::KILL);
            }
            late
        });
        Self { ended, watching, deadline }
    }

    /// To be called when the child has ended: an error if it was made to.
    pub(crate) fn check(self) -> Result<()> {
        // Nobody listens once the deadline has passed.
        let _late = self.ended.send(());
        match self.watching.join() {
            Ok(false) => Ok(()),
            _ => bail!("it was still running after {} s", self.deadline.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_quoted() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no luck >&2; exit 3"]);
        let told = run(command).map_err(|error| error.to_string());
        assert!(told.is_err_and(|told| told.contains("exit status: 3: no luck")));
    }

    #[test]
    fn the_watchdog_ends_what_takes_too_long() -> Result<()> {
        let mut child = Command::new("sleep").arg("600").spawn()?;
        let watchdog = Watchdog::watch(child.id(), Duration::from_millis(50));
        assert!(!child.wait()?.success());
        assert!(watchdog.check().is_err());
        Ok(())
    }

    #[test]
    fn the_watchdog_lets_what_is_quick_alone() -> Result<()> {
        let mut child = Command::new("true").spawn()?;
        let watchdog = Watchdog::watch(child.id(), Duration::from_secs(600));
        assert!(child.wait()?.success());
        watchdog.check()
    }
}
