//! Running commands in a container.
//!
//! In a container with an agent, the agent runs them and the engine only carries the bytes: see `bridge`. The rest is
//! for containers without one.
//!
//! A command is started by a small script of the image's `sh`, which says on its output that the command is there,
//! and as which process, before it becomes the command. That tells a missing command from one that fails, gives a
//! terminal its size before the command sees it, and names the session that has to be ended.

pub(super) mod bridge;
mod control;
mod script;
mod streams;

use bollard::errors::Error as ApiError;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters::ResizeExecOptionsBuilder;
use kled_core::provider::{Command, ExecSession, ExitStatus, StandardInput, TerminalSize};
use kled_core::workspace::Operation;
use kled_core::{Error, ErrorKind, Result, Secret, WorkspaceId, WorkspaceName};
use tokio::io::AsyncWriteExt;

use super::Context;
use super::body::{MEMORY_PATH, working_folder};
use super::engine::{Engine, Failed, status};
use super::marks::{Marks, object_name};
use super::reach::Way;
use control::EndOnDrop;
use script::{Greeting, HAND_OVER, TOKEN_VARIABLE};
use streams::{Attached, exit_status};

/// The longest text that is read in place of a greeting.
const GREETING_MAX: usize = 8 << 10;

/// One running command: what is needed to end it.
#[derive(Clone, Debug)]
struct Running {
    engine: Engine,
    container: String,
    /// Its number at the engine.
    exec: String,
    /// In the environment of the command and of all that it starts.
    token: String,
    /// Its process in the container, which leads its session.
    process: u32,
}

impl Context {
    pub(super) async fn exec(&self, name: &WorkspaceName, command: Command) -> Result<ExecSession> {
        match self.way(Operation::Exec, name).await? {
            Way::Agent(reached) => self.exec_by_agent(name, *reached, command).await,
            Way::Shell(marks) => self.exec_by_shell(name, &marks, &command).await,
        }
    }

    async fn exec_by_shell(
        &self,
        name: &WorkspaceName,
        marks: &Marks,
        command: &Command,
    ) -> Result<ExecSession> {
        let environment = environment(command)?;
        let mut secrets = Vec::new();
        for (variable, reference) in &marks.spec.secrets {
            let secret =
                self.secrets.secret(reference).await.map_err(|error| error.with("secret", reference))?;
            secrets.push((variable.as_str(), secret));
        }
        self.faults.at(Operation::Exec, "start").await?;
        let token = WorkspaceId::random().to_string();
        let container = object_name(name);
        let file = if secrets.is_empty() { None } else { Some(format!("{MEMORY_PATH}/{token}")) };
        if let Some(file) = &file {
            hand_over(&self.engine, &container, file, &secrets).await?;
        }
        let arguments = script::run(command, &working_folder(&marks.spec), file.as_deref());
        let begun = Begin { engine: &self.engine, container, token, environment, arguments, command };
        begun.begin().await
    }
}

/// An error of the engine about a container that ran a moment ago.
fn not_running(error: ApiError) -> Error {
    match status(&error) {
        Some(404 | 409) => Error::new(ErrorKind::InvalidState, "the workspace is not running").because(error),
        _ => Failed::plain(error),
    }
}

/// The variables of a request, as the engine takes them.
fn environment(command: &Command) -> Result<Vec<String>> {
    let is_name = |name: &str| {
        !name.starts_with(|first: char| first.is_ascii_digit())
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let variables = &command.environment.0;
    if let Some((name, _)) = variables.iter().find(|(name, value)| !is_name(name) || value.contains('\0')) {
        return Err(
            Error::new(ErrorKind::InvalidInput, "malformed environment variable").with("variable", name)
        );
    }
    if command.arguments.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "there is no command to run"));
    }
    if command.arguments.iter().any(|argument| argument.contains('\0')) {
        return Err(Error::new(ErrorKind::InvalidInput, "an argument has a NUL character"));
    }
    let mut list: Vec<_> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if command.terminal.is_some() && !variables.contains_key("TERM") {
        list.push("TERM=xterm".into());
    }
    Ok(list)
}

/// Puts secrets into the container's memory, for the command's script to take out. They pass through a stream: an
/// engine may store the environment and the arguments of a command on disk.
async fn hand_over(engine: &Engine, container: &str, file: &str, secrets: &[(&str, Secret)]) -> Result<()> {
    let content = Secret::new(script::exports(secrets));
    let options = CreateExecOptions {
        cmd: Some(vec!["sh", "-c", HAND_OVER, "kled", file]),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let exec = engine.docker.create_exec(container, options).await.map_err(Failed::plain)?.id;
    let mut attached = Attached::start(engine, &exec, false).await?;
    let write = async {
        attached.input.write_all(content.expose().as_bytes()).await?;
        attached.input.shutdown().await
    };
    write.await.map_err(|cause| {
        Error::new(ErrorKind::Unavailable, "the secrets could not be handed over").because(cause)
    })?;
    attached.drain().await;
    match exit_status(engine, &exec).await? {
        ExitStatus::Exited(0) => Ok(()),
        end => Err(Error::new(ErrorKind::Unavailable, "the secrets could not be handed over")
            .with("code", end.code())),
    }
}

/// A command that is about to begin.
struct Begin<'a> {
    engine: &'a Engine,
    container: String,
    token: String,
    environment: Vec<String>,
    arguments: Vec<String>,
    command: &'a Command,
}

impl Begin<'_> {
    async fn begin(self) -> Result<ExecSession> {
        let terminal = self.command.terminal;
        let piped = self.command.stdin == StandardInput::Piped && !self.command.detached;
        let mut environment = self.environment;
        environment.push(format!("{TOKEN_VARIABLE}={}", self.token));
        let options = CreateExecOptions {
            cmd: Some(self.arguments),
            env: Some(environment),
            attach_stdin: Some(piped || terminal.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(terminal.is_some()),
            ..CreateExecOptions::default()
        };
        let created = self.engine.docker.create_exec(&self.container, options).await;
        let exec = created.map_err(not_running)?;
        // Not known before the greeting; until then the token finds it.
        let mut running = Running {
            engine: self.engine.clone(),
            container: self.container,
            exec: exec.id,
            token: self.token,
            process: 0,
        };
        // From here on a call that is given up leaves something to end.
        let mut end = EndOnDrop::new(running.clone());
        let mut attached = Attached::start(self.engine, &running.exec, terminal.is_some()).await?;
        running.process = greet(&mut attached, &running, terminal).await.inspect_err(|_| end.disarm())?;
        end.set(running.clone());
        if self.command.detached {
            end.disarm();
            return Ok(streams::detached_session(running));
        }
        Ok(streams::session(attached, piped, terminal.is_some(), running, end))
    }
}

/// Waits until the command is there.
async fn greet(attached: &mut Attached, running: &Running, terminal: Option<TerminalSize>) -> Result<u32> {
    let greeting = attached.line(GREETING_MAX).await?;
    let process = match Greeting::read(&greeting) {
        Some(Greeting::Begun(process)) => process,
        Some(Greeting::Refused(error)) => return Err(error),
        None => {
            let said = attached.rest(greeting, GREETING_MAX).await;
            return Err(Error::new(ErrorKind::Unavailable, "the command could not be started")
                .hint("the image needs a POSIX sh")
                .because(said));
        }
    };
    if let Some(size) = terminal {
        resize(running, size).await?;
        let go = async {
            attached.input.write_all(b"\n").await?;
            attached.input.flush().await
        };
        go.await.map_err(|cause| {
            Error::new(ErrorKind::Unavailable, "the terminal could not be opened").because(cause)
        })?;
        // The terminal's echo comes before it.
        while attached.line(GREETING_MAX).await?.trim_end() != script::GOES_ON {}
    }
    Ok(process)
}

async fn resize(running: &Running, size: TerminalSize) -> Result<()> {
    let options = ResizeExecOptionsBuilder::new().h(size.rows.into()).w(size.columns.into()).build();
    running.engine.docker.resize_exec(&running.exec, options).await.map_err(Failed::plain)
}

/// Runs a script of ours to its end and gives its exit code.
async fn run_script(engine: &Engine, container: &str, script: &str, arguments: &[&str]) -> Result<i32> {
    let command = ["sh", "-c", script, "kled"].into_iter().chain(arguments.iter().copied());
    let options = CreateExecOptions {
        cmd: Some(command.collect()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let exec = engine.docker.create_exec(container, options).await.map_err(Failed::plain)?.id;
    Attached::start(engine, &exec, false).await?.drain().await;
    Ok(exit_status(engine, &exec).await?.code())
}

/// Starts a created command with its streams attached.
async fn attach(engine: &Engine, exec: &str, terminal: bool) -> Result<StartExecResults> {
    /// One frame of the engine's stream; larger ones come in parts.
    const CAPACITY: usize = 64 << 10;
    let options = StartExecOptions { detach: false, tty: terminal, output_capacity: Some(CAPACITY) };
    engine.docker.start_exec(exec, Some(options)).await.map_err(Failed::plain)
}
