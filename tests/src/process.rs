//! A server process that ends with the test process, however that ends.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use crate::ledger;
use crate::slot::Slot;

/// How much of a log an error message repeats.
const LOG_TAIL_LINES: usize = 15;

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
        let log = slot.create_directory("logs")?.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
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
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec the closure only makes system calls; it neither allocates nor locks.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            end_if_orphaned(parent)
        });
    }
    command.spawn()
}

/// The parent may have ended before the signal was asked for; then it would never come.
fn end_if_orphaned(parent: Pid) -> io::Result<()> {
    if getppid() == Some(parent) {
        return Ok(());
    }
    kill_process(rustix::process::getpid(), Signal::KILL)?;
    Ok(())
}

/// Runs a command to its end and gives what it printed.
///
/// # Errors
/// When it cannot be started, or ends with an error; the message quotes what it said.
pub fn run(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} ended with {}: {}", arguments.join(" "), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
