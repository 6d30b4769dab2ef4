//! The process that outlives whoever made the workspace: it starts the sandbox, keeps the log, ends it in time and
//! records how it ended. While it lives it holds the supervisor's lock, so its state can be told without trusting a
//! process number.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kled_core::provider::{LogLine, LogStream, Severity};
use kled_core::workspace::{Condition, Operation, Resources, StopReason};
use kled_core::{Error, ErrorKind, Failure, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::cgroup::{Group, Hierarchy, not_limited};
use super::journal;
use super::layout::{Folder, Lock, file_error, remove_file, write_json};
use super::record::{Run, Stop};
use super::removal;
use super::serve::{CONFIGURATION, Configuration, Report};
use super::socket;
use crate::agent::clock::sleep_until;
use crate::agent::proc;
use crate::local::process_id::{self, ProcessId};

/// A look at the lock by somebody else takes it for a moment; the wait for such looks to pass.
const LOCK_LIMIT: Duration = Duration::from_secs(2);

/// How long the process inside may take to end after it was asked to.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How long commands may take to end when the supervisor itself ends them.
const GRACE_PERIOD: Duration = Duration::from_secs(5);

/// What the supervisor gets on its standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Assignment {
    pub(crate) folder: PathBuf,
    pub(crate) serve: Configuration,
    pub(crate) limits: Resources,
    /// What is known of the run already.
    pub(crate) conditions: Vec<Condition>,
    pub(crate) expires: Option<Timestamp>,
}

/// What it answers on its standard output, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    Ready(Run),
    Failed(Failure),
}

/// Runs the supervisor. Returns the exit code of the process.
pub(crate) fn main() -> u8 {
    // Away from the terminal and the session of whoever started it.
    let _leader_already = rustix::process::setsid();
    match supervise() {
        Ok(()) => 0,
        Err(error) => {
            answer(&Answer::Failed(Failure::from(&error)));
            1
        }
    }
}

fn supervise() -> Result<()> {
    let internal = |cause: std::io::Error| Error::new(ErrorKind::Internal, "cannot supervise").because(cause);
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(internal)?;
    let assignment: Assignment = serde_json::from_str(&text)
        .map_err(|cause| Error::new(ErrorKind::Internal, "malformed assignment").because(cause))?;
    let folder = Folder::at(assignment.folder.clone());
    let lock = take_lock(&folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    runtime.block_on(Supervisor { assignment, folder, lock, id: ProcessId::own() }.run())
}

fn take_lock(folder: &Folder) -> Result<Lock> {
    let path = folder.supervisor_lock();
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        if let Some(lock) = Lock::try_take(&path)? {
            // Whoever deletes the workspace finds this process by what stands in the file that it holds.
            let own = serde_json::to_vec(&ProcessId::own()).unwrap_or_default();
            let mut file = lock.file();
            file.set_len(0)
                .and_then(|()| file.write_all(&own))
                .map_err(|cause| file_error("cannot write", &path, cause))?;
            // The workspace may have been deleted since the path was opened.
            return if lock.is_current() { Ok(lock) } else { Err(deleted()) };
        }
        if Instant::now() >= deadline {
            return Err(Error::new(ErrorKind::Conflict, "another supervisor has the workspace"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn deleted() -> Error {
    Error::new(ErrorKind::Cancelled, "the workspace was deleted meanwhile")
}

fn answer(answer: &Answer) {
    let Ok(mut line) = serde_json::to_vec(answer) else { return };
    line.push(b'\n');
    // Whoever asked may be gone; the workspace runs all the same.
    let mut output = std::io::stdout();
    let _asker_gone = output.write_all(&line).and_then(|()| output.flush());
}

struct Supervisor {
    assignment: Assignment,
    folder: Folder,
    /// Held until the process ends.
    lock: Lock,
    id: ProcessId,
}

impl Supervisor {
    async fn run(self) -> Result<()> {
        let hierarchy = Hierarchy::detect();
        let (group, mut conditions) =
            Group::create(&hierarchy, self.assignment.serve.id, &self.assignment.limits);
        conditions.insert(0, self.assignment.serve.sandbox.condition());
        conditions.extend(
            self.assignment
                .limits
                .disk
                .as_ref()
                .map(|_| not_limited("DiskLimited", "folders of this machine have no quota")),
        );
        conditions.extend(self.assignment.conditions.iter().cloned());
        let result = self.serve(&group, conditions).await;
        group.remove().await;
        match result {
            Ok(Some(reason)) => self.ended(reason).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Runs the process inside until it ends. `None` when it never became ready and that was said.
    async fn serve(&self, group: &Group, conditions: Vec<Condition>) -> Result<Option<StopReason>> {
        write_json(&self.folder.token(), &self.assignment.serve.token)?;
        let listener = socket::listen(&self.folder)?;
        let mut child = self.spawn(listener, group)?;
        let output = child.stdout.take();
        let Some(output) = output else {
            return Err(Error::new(ErrorKind::Internal, "the sandbox has no output"));
        };
        let mut reports = BufReader::new(output).lines();
        loop {
            match next_report(&mut reports).await {
                Some(Report::Ready) => break,
                Some(Report::Failed(failure)) => return Err(failure.into()),
                Some(Report::Log(line)) => self.log(&line),
                Some(Report::Ending { .. }) | None => return Err(self.sandbox_failure(&mut child).await),
            }
        }
        self.become_ready(conditions)?;
        let reason = self.watch(&mut child, &mut reports).await;
        Ok(Some(reason))
    }

    fn spawn(&self, listener: UnixListener, group: &Group) -> Result<Child> {
        let serve = &self.assignment.serve;
        let command = vec![serve.view.program.clone().into(), super::launch::MARK.into(), "serve".into()];
        let arguments = serve.sandbox.wrap(&serve.view, command);
        let configuration = serde_json::to_string(serve).map_err(|cause| {
            Error::new(ErrorKind::Internal, "cannot encode the configuration").because(cause)
        })?;
        let errors = File::options()
            .create(true)
            .append(true)
            .open(self.error_output())
            .map_err(|cause| file_error("cannot open", &self.error_output(), cause))?;
        let (program, arguments) = arguments.split_first().ok_or_else(deleted)?;
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(&serve.environment.0)
            .env(super::serve::WORKSPACE_ID, serve.id.to_string())
            .env(CONFIGURATION, configuration)
            .current_dir(self.folder.checkout())
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|cause| Error::new(ErrorKind::Internal, "cannot start the sandbox").because(cause))?;
        if let Some(process) = child.id()
            && let Err(cause) = group.add(process)
        {
            self.note(format!("the process is in no control group: {cause}"));
        }
        Ok(child)
    }

    fn error_output(&self) -> PathBuf {
        self.folder.logs().join("sandbox.stderr")
    }

    async fn sandbox_failure(&self, child: &mut Child) -> Error {
        // The reason is on standard error; the status alone says little.
        let status = child.wait().await.map(|status| status.to_string()).unwrap_or_default();
        let text = std::fs::read_to_string(self.error_output()).unwrap_or_default();
        let last = text.lines().last().unwrap_or("it wrote no reason").to_owned();
        Error::new(ErrorKind::Internal, format!("the sandbox did not start: {last}")).with("status", status)
    }

    /// Records the run, then forgets how the one before ended, then says so.
    fn become_ready(&self, conditions: Vec<Condition>) -> Result<()> {
        let run = Run { supervisor: self.id, boot: process_id::boot(), since: Timestamp::now(), conditions };
        write_json(&self.folder.run_record(), &run)?;
        remove_file(&self.folder.stop_record())?;
        self.note("started".into());
        answer(&Answer::Ready(run));
        Ok(())
    }

    async fn watch(&self, child: &mut Child, reports: &mut Reports) -> StopReason {
        let terminate = signal(SignalKind::terminate());
        let asked_to_end = async {
            match terminate {
                Ok(mut terminate) => drop(terminate.recv().await),
                Err(_) => std::future::pending().await,
            }
        };
        let expired = async {
            match self.assignment.expires {
                Some(expires) => sleep_until(expires).await,
                None => std::future::pending().await,
            }
        };
        let mut announced = None;
        tokio::select! {
            () = self.follow(reports, &mut announced) => {}
            () = asked_to_end => announced = Some(StopReason::Requested),
            () = expired => {
                self.note("its time to live is over".into());
                announced = Some(StopReason::Requested);
            }
        }
        if announced.is_some() && child.id().is_some() {
            // What does not answer is killed below.
            let _unanswered = socket::shut_down(&self.folder, GRACE_PERIOD).await;
        }
        end(child).await;
        announced
            .unwrap_or_else(|| StopReason::Crashed { message: "what ran its commands was killed".into() })
    }

    /// Keeps the log until the process inside closes its output.
    async fn follow(&self, reports: &mut Reports, announced: &mut Option<StopReason>) {
        while let Some(report) = next_report(reports).await {
            match report {
                Report::Log(line) => self.log(&line),
                Report::Ending { reason } => *announced = Some(reason),
                Report::Ready | Report::Failed(_) => {}
            }
        }
    }

    /// Everything inside has ended: says so where the next look finds it, and deletes what has outlived its time.
    async fn ended(self, reason: StopReason) -> Result<()> {
        // Without process numbers of its own a sandbox may have let something survive.
        let id = self.assignment.serve.id.to_string();
        proc::kill_all(END_LIMIT, || proc::with_variable(super::serve::WORKSPACE_ID, &id)).await;
        if self.assignment.expires.is_some_and(|expires| expires <= Timestamp::now()) {
            return removal::expire(&self.folder, &self.lock);
        }
        let severity = match reason {
            StopReason::Crashed { .. } => Severity::Warning,
            _ => Severity::Normal,
        };
        let stop = Stop { supervisor: self.id, since: Timestamp::now(), reason };
        let message = format!("stopped: {}", stop.reason);
        self.note(message.clone());
        let name = &self.assignment.serve.name;
        let event = journal::event(name, Operation::Stop, severity, "Stopped", message);
        journal::append(&self.folder.events(), &event);
        write_json(&self.folder.stop_record(), &stop)
    }

    fn note(&self, line: String) {
        self.log(&LogLine { time: Timestamp::now(), stream: LogStream::Supervisor, command: None, line });
    }

    fn log(&self, line: &LogLine) {
        journal::append(&self.folder.log(), line);
    }
}

type Reports = tokio::io::Lines<BufReader<tokio::process::ChildStdout>>;

/// The next report; `None` when the process inside has closed its output. What is no report is left out: the process
/// writes nothing else, its commands have outputs of their own.
async fn next_report(reports: &mut Reports) -> Option<Report> {
    while let Ok(Some(line)) = reports.next_line().await {
        if let Ok(report) = serde_json::from_str(&line) {
            return Some(report);
        }
    }
    None
}

/// Waits for the end of the process inside and kills it when that takes too long.
async fn end(child: &mut Child) {
    if tokio::time::timeout(END_LIMIT, child.wait()).await.is_err() {
        let _gone = child.kill().await;
    }
}
