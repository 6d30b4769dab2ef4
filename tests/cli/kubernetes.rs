//! The program `kled` on a real cluster, as a user has it, and `kill -9` of it in the middle of a create.
//!
//! The program is the one that ships: this test binary runs `kled_cli::Runner` when it is started as [`AS_PROGRAM`].

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kled_cli::{Runner, Supervisor};
use kled_core::WorkspaceName;
use kled_tests::cluster::Cluster;
use kled_tests::image::WORKSPACE;
use kled_tests::kubernetes::Pods;
use kled_tests::suite::{Shared, Suite};
use kled_tests::{agent, programs};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::runtime::Handle;

/// The variable that makes this test binary the program.
const AS_PROGRAM: &str = "KLED_TESTS_AS_PROGRAM";

static PODS: Shared<Pods> = Shared::new();

/// Kills of one create, at moments that are spread over its duration.
const KILLS: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(400),
    Duration::from_millis(1200),
    Duration::from_millis(3000),
    Duration::from_millis(5000),
];

fn main() -> ExitCode {
    let supervisor = Supervisor::this_program();
    if std::env::var_os(AS_PROGRAM).is_some() {
        return Runner::new(supervisor).run(std::env::args_os());
    }
    Suite::new("cli_kubernetes")
        .skip_all_if(Cluster::missing().or_else(agent::missing))
        .case("a workspace from create to delete", || on_cluster(whole_life))
        .case("a create that is killed is finished by the next", || on_cluster(killed))
        .after(|| async {
            let pods = PODS.get(Pods::shared).await?;
            PODS.release().await;
            pods.delete().await
        })
        .run()
}

/// The program blocks, so each case has a thread of its own.
async fn on_cluster(case: fn(&Place<'_>) -> Result<()>) -> Result<()> {
    let pods = PODS.get(Pods::shared).await?;
    let (runtime, folder) = (Handle::current(), tempfile::tempdir()?);
    tokio::task::spawn_blocking(move || case(&Place { pods: &pods, folder, runtime })).await?
}

/// A user's machine: a home, a configuration and the program.
struct Place<'a> {
    pods: &'a Pods,
    folder: TempDir,
    runtime: Handle,
}

impl Place<'_> {
    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn prepare(&self) -> Result<()> {
        let configuration = self.home().join(".config/kled");
        std::fs::create_dir_all(&configuration)?;
        let settings = format!(
            "provider = \"kubernetes\"\n[providers.kubernetes]\nkubeconfig = \"{}\"\nnamespace = \"{}\"\nimage = \"{WORKSPACE}\"\nimage-pull-policy = \"Never\"\n",
            self.pods.cluster().kubeconfig().display(),
            self.pods.namespace(),
        );
        std::fs::write(configuration.join("config.toml"), settings)?;
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()));
        command.args(arguments).stdin(Stdio::null());
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        command
            .env_clear()
            .env(AS_PROGRAM, "1")
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .current_dir(self.folder.path());
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments).output().context("run the program")
    }

    /// What it prints when it succeeds.
    fn prints(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kled {}: {} {complaint}", arguments.join(" "), output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let arguments: Vec<_> = arguments.iter().copied().chain(["-o", "json"]).collect();
        Ok(serde_json::from_str(&self.prints(&arguments)?)?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn whole_life(place: &Place<'_>) -> Result<()> {
    place.prepare()?;
    let repository = place.pods.git().url("one");
    let create = ["workspace", "create", "demo", "--repo", &repository, "--memory", "256Mi"];
    place.prints(&create)?;
    // The same again is the same.
    place.prints(&create)?;
    let status = place.json(&["workspace", "status", "demo"])?;
    ensure!(status["status"]["state"] == "running", "{status}");
    ensure!(status["checkout"]["commit"].as_str().is_some_and(|commit| commit.len() == 40), "{status}");
    ensure!(place.prints(&["workspace", "list"])?.contains("demo"));

    let exec = place.run(&["workspace", "exec", "demo", "--", "sh", "-c", "cat README.md; exit 7"])?;
    ensure!(exec.status.code() == Some(7) && !exec.stdout.is_empty(), "{exec:?}");
    copies(place)?;
    port_forward(place)?;
    let agent = place.json(&["agent", "status", "demo"])?;
    ensure!(agent["usage"]["memoryBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{agent}");
    ensure!(place.prints(&["workspace", "events", "demo"])?.contains("Started"));
    ssh(place)?;

    place.prints(&["workspace", "stop", "demo"])?;
    let refused = place.run(&["workspace", "exec", "demo", "--", "true"])?;
    ensure!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
    place.prints(&["workspace", "start", "demo"])?;
    let kept = place.prints(&["workspace", "exec", "demo", "--", "cat", "copied/file"])?;
    ensure!(kept == "content\n", "{kept:?}");
    place.prints(&["workspace", "delete", "demo"])?;
    let left = place.runtime.block_on(place.pods.left(&WorkspaceName::new("demo")?))?;
    ensure!(left.is_empty(), "{left:?}");
    let gone = place.run(&["workspace", "status", "demo"])?;
    ensure!(gone.status.code() == Some(3), "{gone:?}");
    Ok(())
}

fn copies(place: &Place<'_>) -> Result<()> {
    std::fs::create_dir(place.path("copied"))?;
    std::fs::write(place.path("copied/file"), "content\n")?;
    place.prints(&["workspace", "cp", "copied", "demo:."])?;
    place.prints(&["workspace", "cp", "demo:copied/file", "back"])?;
    ensure!(std::fs::read_to_string(place.path("back"))? == "content\n");
    Ok(())
}

fn port_forward(place: &Place<'_>) -> Result<()> {
    let serve = "mkdir -p /tmp/served && echo served > /tmp/served/file && exec httpd -f -p 127.0.0.1:3000 -h /tmp/served";
    place.prints(&["workspace", "exec", "demo", "--detach", "--", "sh", "-c", serve])?;
    let mut forward =
        place.command(&["workspace", "port-forward", "demo", "0:3000"]).stdout(Stdio::piped()).spawn()?;
    let stdout = forward.stdout.take().context("an output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.split_whitespace().find(|word| word.starts_with("127.0.0.1:"));
    let address = address.with_context(|| format!("no address in {line:?}"))?.to_owned();
    let answer = (0..50).find_map(|_| {
        let answer = get(&address);
        // The program in the workspace has just been started.
        answer.map_err(|_| std::thread::sleep(Duration::from_millis(100))).ok()
    });
    end(&mut forward, Signal::INT)?;
    ensure!(answer.as_deref().is_some_and(|answer| answer.ends_with("served\n")), "{answer:?}");
    Ok(())
}

fn get(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /file HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(!answer.is_empty(), "no answer");
    Ok(answer)
}

fn ssh(place: &Place<'_>) -> Result<()> {
    let Some(ssh) = programs::find("ssh") else { bail!("no program ssh") };
    place.prints(&["ssh-config", "demo"])?;
    let configuration = place.home().join(".ssh/config");
    let mut command = Command::new(ssh);
    command.arg("-F").arg(&configuration).args(["demo.kled", "cat README.md >/dev/null && hostname; exit 5"]);
    place.environment(&mut command);
    let output = command.output()?;
    ensure!(output.status.code() == Some(5), "{output:?}");
    ensure!(String::from_utf8_lossy(&output.stdout).trim() == "demo-0", "{output:?}");
    Ok(())
}

fn end(child: &mut std::process::Child, signal: Signal) -> Result<()> {
    let process = Pid::from_raw(i32::try_from(child.id())?).context("a process")?;
    rustix::process::kill_process(process, signal)?;
    child.wait()?;
    Ok(())
}

fn killed(place: &Place<'_>) -> Result<()> {
    place.prepare()?;
    let repository = place.pods.git().url("one");
    for (number, moment) in KILLS.into_iter().enumerate() {
        let name = format!("killed-{number}");
        let create = ["workspace", "create", &name, "--repo", &repository];
        let mut child = place.command(&create).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(moment);
        end(&mut child, Signal::KILL)?;
        let workspace = WorkspaceName::new(&name)?;
        if number % 2 == 0 {
            place.prints(&create)?;
            let said = place.prints(&["workspace", "exec", &name, "--", "cat", "README.md"])?;
            ensure!(!said.is_empty());
            let sets = place.runtime.block_on(place.pods.left(&workspace))?;
            let sets: Vec<_> = sets.iter().filter(|object| object.starts_with("StatefulSet")).collect();
            ensure!(sets.len() == 1, "{sets:?}");
        }
        place.prints(&["workspace", "delete", &name])?;
        let left = place.runtime.block_on(place.pods.left(&workspace))?;
        ensure!(left.is_empty(), "after a kill at {moment:?}: {left:?}");
    }
    Ok(())
}
