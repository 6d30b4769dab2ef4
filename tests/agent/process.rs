//! The agent's program, running, with what it writes.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kled_providers::agent::{AgentClient, Token};
use kled_tests::wait;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A deadline for what has to come at once.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) const WORKSPACE_ID: &str = "6f2ad1a5-9a63-4f4d-a4f6-7c3f5f1f4d11";

/// A running sub-command. It is killed when this is dropped.
pub(crate) struct Program {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Program {
    pub(crate) fn start(program: &Path, sub_command: &str, variables: &[(&str, &str)]) -> Result<Self> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new(program)
            .arg(sub_command)
            .env_clear()
            .env("PATH", path)
            .env("KLED_WORKSPACE", "web")
            .env("KLED_WORKSPACE_ID", WORKSPACE_ID)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let output = child.stdout.take().context("it has no output")?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                written.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Self { child, log })
    }

    /// What it wrote so far, a line each. Lines that are no lines of a log are an error.
    pub(crate) fn log(&self) -> Result<Vec<String>> {
        let lines = self.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let line = |text: &String| -> Result<String> {
            let line: kled_core::provider::LogLine =
                serde_json::from_str(text).with_context(|| format!("it wrote {text:?}"))?;
            Ok(line.line)
        };
        lines.iter().map(line).collect()
    }

    /// Waits for a line that has `part` in it.
    pub(crate) async fn line(&self, part: &str) -> Result<String> {
        wait::until(SOON, &format!("a line with {part:?}"), async || {
            let log = self.log()?;
            let found = log.iter().find(|line| line.contains(part)).cloned();
            found.with_context(|| format!("the log is {log:#?}"))
        })
        .await
    }

    pub(crate) fn id(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    pub(crate) fn terminate(&self) -> Result<()> {
        let id = Pid::from_raw(self.id()?.cast_signed()).context("it has no number")?;
        Ok(kill_process(id, Signal::TERM)?)
    }

    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(tokio::time::timeout(SOON, self.child.wait()).await.context("it does not end")??)
    }
}

/// An agent in folders of its own.
pub(crate) struct Agent {
    pub(crate) program: Program,
    pub(crate) folder: TempDir,
    pub(crate) token: Token,
    pub(crate) address: String,
}

impl Agent {
    pub(crate) async fn start(program: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let token = Token::random();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for name in ["checkout", "state/credentials", "home"] {
            std::fs::create_dir_all(path(name))?;
        }
        std::fs::write(path("token"), token.expose())?;
        std::fs::write(path("state/credentials/left-behind"), "secret")?;
        let variables = [
            ("KLED_AGENT_LISTEN", "127.0.0.1:0"),
            ("KLED_AGENT_HEALTH_LISTEN", "127.0.0.1:0"),
            ("KLED_AGENT_TOKEN_FILE", &path("token")),
            ("KLED_AGENT_CHECKOUT", &path("checkout")),
            ("KLED_AGENT_STATE", &path("state")),
            ("KLED_AGENT_GRACE_SECONDS", "1"),
            ("HOME", &path("home")),
            ("OF_THE_IMAGE", "kept"),
        ];
        let program = Program::start(program, "serve", &variables)?;
        let line = program.line("serving workspace web on ").await?;
        let address = line.rsplit(' ').next().context("no address")?.to_owned();
        Ok(Self { program, folder, token, address })
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    pub(crate) async fn client(&self) -> Result<AgentClient> {
        let stream = TcpStream::connect(&self.address).await?;
        Ok(AgentClient::connect(stream, &self.token).await?)
    }

    /// Runs a line of shell and gives what it wrote.
    pub(crate) async fn shell(&self, script: &str) -> Result<String> {
        let request = kled_core::provider::ExecRequest::new(["sh", "-c", script]);
        let output = self.client().await?.exec(request.command).await?.output(1 << 20).await?;
        ensure!(output.status.is_success(), "{script:?} ended with {:?}", output.status);
        String::from_utf8(output.stdout).map_err(Into::into)
    }
}

/// Processes that have ended and that their parent did not take note of.
pub(crate) fn zombies_of(parent: u32) -> Result<Vec<String>> {
    let mut zombies = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(')') else { bail!("malformed {stat:?}") };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        if fields.first() == Some(&"Z") && fields.get(1) == Some(&&*parent.to_string()) {
            zombies.push(stat);
        }
    }
    Ok(zombies)
}
