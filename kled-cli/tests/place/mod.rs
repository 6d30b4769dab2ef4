//! The program with the local provider, in a folder of its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is how a test fails")]
#![allow(dead_code, unreachable_pub, reason = "each test target uses a part of it")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub const DEADLINE: Duration = Duration::from_secs(60);

/// A repository and a data directory of its own. Deletes its workspaces at the end.
pub struct Place(pub tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(place.path("repository")).unwrap();
        fs::create_dir_all(place.path("home")).unwrap();
        place.git("init --quiet --initial-branch main");
        place.commit("README.md", "hello\n");
        place
    }

    fn git(&self, line: &str) {
        let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"];
        let status = Command::new("git")
            .args(identity)
            .args(line.split(' '))
            .current_dir(self.path("repository"))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .status();
        assert!(status.unwrap().success(), "git {line}");
    }

    /// Adds a file to the repository.
    pub fn commit(&self, file: &str, text: &str) {
        fs::write(self.path("repository").join(file), text).unwrap();
        self.git("add .");
        self.git("commit --quiet --message change");
    }

    pub fn with_workspace() -> Self {
        let place = Self::new();
        succeeded(&place.run("workspace create demo --repo ./repository --quiet"));
        place
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    pub fn variables(&self) -> [(&'static str, PathBuf); 4] {
        [
            ("PATH", std::env::var_os("PATH").unwrap().into()),
            ("HOME", self.path("home")),
            ("KLED_DATA_DIRECTORY", self.path("data")),
            ("TERM", "xterm".into()),
        ]
    }

    pub fn kled(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kled"));
        command.env_clear().envs(self.variables()).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    pub fn run(&self, line: &str) -> Output {
        self.kled().args(line.split_whitespace()).output().unwrap()
    }

    /// `exec demo -- sh -c SCRIPT`, both outputs piped.
    pub fn script(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.kled();
        command.args(["workspace", "exec", "demo"]).args(options).args(["--", "sh", "-c", script]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn state(&self, name: &str) -> Option<String> {
        let output = self.run(&format!("workspace status {name} -o json"));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        json["status"]["state"].as_str().map(str::to_owned)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let listed = self.run("workspace list -o json");
        let workspaces: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        for workspace in workspaces {
            self.run(&format!("workspace delete {}", workspace["name"].as_str().unwrap_or_default()));
        }
    }
}

pub fn succeeded(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Looks again and again until it is true.
pub fn until(what: &str, mut probe: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !probe() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    until("the program to end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

pub fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}
