//! One cluster for all test binaries of a run, started when the first of them asks.
//!
//! The runner listens on a Unix socket and names it in an environment variable; whoever connects is told, once
//! the cluster runs, where it is. A run whose tests need no cluster never starts one.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::{Access, Cluster};
use crate::enclosure::Entrance;
use crate::slot::Slot;

/// Names the runner's socket.
const SOCKET_VARIABLE: &str = "KLED_TEST_CLUSTER";

/// Longer than a cluster takes to start, even beside a build.
const BORROW_DEADLINE: Duration = Duration::from_secs(300);

/// What a borrower is told.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Running { kubeconfig: PathBuf, number: u8, first_process: u32 },
    Failed(String),
}

/// Lends one cluster to other processes for as long as it lives.
#[derive(Debug)]
pub struct Lender {
    lending: JoinHandle<()>,
    socket: PathBuf,
    _slot: Slot,
}

impl Lender {
    /// Listens for borrowers.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start() -> Result<Self> {
        let slot = Slot::take("lender")?;
        let socket = slot.directory().join("cluster.sock");
        let listener =
            UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
        Ok(Self { lending: tokio::spawn(lend(listener)), socket, _slot: slot })
    }

    /// The variable that makes a process's [`Cluster::shared`] ask here.
    #[must_use]
    pub fn environment(&self) -> (&'static str, &Path) {
        (SOCKET_VARIABLE, &self.socket)
    }

    /// Ends the cluster, if anyone asked for it.
    pub async fn stop(self) {
        self.lending.abort();
        // The task owns the cluster; it is gone when the task is. Its only outcome is that it was aborted.
        let _aborted = self.lending.await;
    }
}

async fn lend(listener: UnixListener) {
    let mut cluster: Option<Cluster> = None;
    while let Ok((mut borrower, _)) = listener.accept().await {
        let answer = match &cluster {
            Some(running) => running.answer(),
            None => match Cluster::start().await {
                Ok(started) => cluster.insert(started).answer(),
                Err(error) => Answer::Failed(format!("{error:#}")),
            },
        };
        if let Ok(answer) = serde_json::to_vec(&answer) {
            // A borrower that gave up needs no answer.
            let _gone = borrower.write_all(&answer).await;
        }
    }
}

impl Cluster {
    fn answer(&self) -> Answer {
        let entrance = &self.access.entrance;
        Answer::Running {
            kubeconfig: self.access.kubeconfig.clone(),
            number: entrance.number(),
            first_process: entrance.first_process(),
        }
    }
}

/// The runner's cluster, if a runner started this process.
pub(super) async fn borrow() -> Result<Option<Access>> {
    let Some(socket) = env::var_os(SOCKET_VARIABLE) else { return Ok(None) };
    let asked = tokio::time::timeout(BORROW_DEADLINE, ask(Path::new(&socket))).await;
    match asked.context("the shared cluster did not start in time")?? {
        Answer::Failed(error) => Err(anyhow!("the shared cluster did not start: {error}")),
        Answer::Running { kubeconfig, number, first_process } => {
            let entrance = Entrance::open(number, first_process)?;
            Access::open(kubeconfig, entrance).await.map(Some)
        }
    }
}

async fn ask(socket: &Path) -> Result<Answer> {
    let mut stream =
        UnixStream::connect(socket).await.with_context(|| format!("ask {}", socket.display()))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    serde_json::from_slice(&answer).context("read the answer about the shared cluster")
}
