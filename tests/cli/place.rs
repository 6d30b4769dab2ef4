//! A repository, a data directory and the program on both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use kled_tests::workspaces;

/// The variable that makes this test binary the program.
pub(crate) const AS_PROGRAM: &str = "KLED_TESTS_AS_PROGRAM";

/// Owns a folder with everything.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    /// The socket of the engine and the image, where workspaces are containers.
    container: Option<(PathBuf, &'static str)>,
    pub(crate) files: usize,
}

impl Place {
    pub(crate) const NAME: &str = "killed";

    /// A place whose workspaces are processes.
    pub(crate) fn of_processes() -> Result<Self> {
        Self::new(None, 2_000)
    }

    /// A place whose workspaces are containers, with the agent, of the engine at `socket`. Fewer files, since each is also
    /// packed.
    pub(crate) fn of_containers(socket: &Path, image: &'static str, agent: &Path) -> Result<Self> {
        let place = Self::new(Some((socket.to_owned(), image)), 500)?;
        let configuration = place.folder.path().join("home/.config/kled");
        fs::create_dir_all(&configuration)?;
        let settings = format!("[providers.local]\nagent-program = \"{}\"\n", agent.display());
        fs::write(configuration.join("config.toml"), settings)?;
        Ok(place)
    }

    fn new(container: Option<(PathBuf, &'static str)>, files: usize) -> Result<Self> {
        let place = Self { folder: tempfile::tempdir()?, container, files };
        workspaces::repository(&place.repository(), files)?;
        fs::create_dir_all(place.folder.path().join("home"))?;
        Ok(place)
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn create(&self) -> Vec<&'static str> {
        let image = self.container.iter().flat_map(|(_, image)| ["--image", image]);
        ["workspace", "create", Self::NAME, "--repo", "./repository"].into_iter().chain(image).collect()
    }

    /// The program with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        // Linux has a name for the running program that outlives a rebuild of its file.
        let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()));
        command
            .args(arguments)
            .env_clear()
            .env(AS_PROGRAM, "1")
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path().join("home"))
            .env("KLED_DATA_DIRECTORY", self.data())
            .env("KLED_ENGINE", self.container.as_ref().map_or(Path::new("none"), |(socket, _)| socket))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments).output().context("run the program")
    }

    /// The identity of the workspace, where a create got that far.
    pub(crate) fn identity(&self) -> Result<Option<String>> {
        let output = self.run(&["workspace", "status", Self::NAME, "-o", "json"])?;
        if output.status.code() == Some(3) {
            return Ok(None);
        }
        ensure!(output.status.success(), "status: {}", String::from_utf8_lossy(&output.stderr));
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        Ok(status["id"].as_str().map(str::to_owned))
    }
}
