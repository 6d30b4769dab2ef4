//! A workspace of temporary folders.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kled_core::Result;
use kled_core::provider::ExecRequest;
use kled_core::setup::Phase;
use tempfile::TempDir;

use crate::agent::server::{Agent, Configuration, WORKSPACE_ID};
use crate::agent::tests::configuration;
use crate::agent::{AgentClient, SetupOptions, SetupSummary, Token};

/// A deadline for what has to come at once.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// Waits until there is something.
pub(super) async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, found).await.unwrap()
}

/// The folders `checkout`, `home` and `state`, which outlive its agents.
pub(super) struct Workspace {
    pub(super) folder: TempDir,
    configuration: Configuration,
    log: Arc<Mutex<Vec<String>>>,
}

/// A running agent and its client.
pub(super) struct Running {
    pub(super) client: AgentClient,
}

impl Workspace {
    /// A workspace whose checkout has these files.
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // For other users of the machine, as a workspace is for its own.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let path = |name: &str| {
            let path = folder.path().canonicalize().unwrap().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (checkout, home, state) = (path("checkout"), path("home"), path("state"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let mut configuration = Configuration {
            checkout: Some(checkout.clone()),
            state: Some(state),
            log: Arc::new(move |line| lines.lock().unwrap().push(line.line)),
            ..configuration(&checkout, &Token::random())
        };
        let id = configuration.id.to_string();
        configuration.environment.0.insert(WORKSPACE_ID.into(), id);
        configuration.environment.0.insert("HOME".into(), home.display().to_string());
        let workspace = Self { folder, configuration, log };
        files.iter().for_each(|(file, text)| workspace.write(file, text));
        workspace
    }

    /// From now on its agents make no checkout, as those of processes on this machine.
    pub(super) fn check_out_from_outside(&mut self) {
        self.configuration.checkout = None;
    }

    /// Another agent of the workspace, as after a start.
    pub(super) async fn agent(&self) -> Running {
        let agent = Agent::new(self.configuration.clone());
        let (near, far) = tokio::io::duplex(64 << 10);
        tokio::spawn(async move { agent.serve(far).await });
        Running { client: AgentClient::connect(near, &self.configuration.token).await.unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    pub(super) fn checkout(&self) -> PathBuf {
        self.path("checkout")
    }

    pub(super) fn write(&self, file: &str, text: &str) {
        let path = self.checkout().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(super) fn make_executable(&self, file: &str) {
        std::fs::set_permissions(self.checkout().join(file), PermissionsExt::from_mode(0o755)).unwrap();
    }

    pub(super) fn try_read(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.checkout().join(file)).ok()
    }

    pub(super) fn read(&self, file: &str) -> String {
        self.try_read(file).unwrap()
    }

    pub(super) fn state(&self, file: &str) -> String {
        std::fs::read_to_string(self.path("state").join(file)).unwrap()
    }

    pub(super) fn write_state(&self, file: &str, text: &str) {
        std::fs::write(self.path("state").join(file), text).unwrap();
    }

    pub(super) fn logged(&self, line: &str) -> bool {
        self.log.lock().unwrap().iter().any(|logged| logged == line)
    }
}

impl Running {
    pub(super) async fn set_up(&self, phase: Phase) -> Result<SetupSummary> {
        self.client.set_up(&SetupOptions::new(phase), |_| {}).await
    }

    /// The standard output of a shell.
    pub(super) async fn shell(&self, script: &str) -> String {
        let session = self.client.exec(ExecRequest::new(["sh", "-c", script]).command).await.unwrap();
        String::from_utf8(session.output(1 << 20).await.unwrap().stdout).unwrap()
    }
}
