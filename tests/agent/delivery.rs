//! The agent is delivered into containers that run already.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use kled_core::provider::{CommandControl, ExecSession, ExitStatus, Signal, TerminalSize};
use kled_core::{Error, ErrorKind};
use kled_providers::agent::delivery::{AgentProgram, Remote, deliver};
use kled_tests::image::Image;
use kled_tests::podman::PodmanService;
use kled_tests::programs;

const LIMIT: Duration = Duration::from_secs(60);

/// A file system hands programs to the kernel in such pieces.
const PAGE: usize = 4096;

/// A container, reached through the engine's command line.
struct Container<'a> {
    podman: &'a PodmanService,
    name: &'a str,
    uploads: bool,
}

#[derive(Debug)]
struct NoControl;

#[async_trait]
impl CommandControl for NoControl {
    async fn resize(&self, _: TerminalSize) -> kled_core::Result<()> {
        Ok(())
    }

    async fn signal(&self, _: Signal) -> kled_core::Result<()> {
        Ok(())
    }
}

fn broken(cause: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, format!("podman cannot be run: {cause}"))
}

#[async_trait]
impl Remote for Container<'_> {
    async fn run(&self, arguments: &[&str]) -> kled_core::Result<ExecSession> {
        let command = self.podman.command(&[&["exec", "--interactive", self.name], arguments].concat());
        let mut command = tokio::process::Command::from(command.map_err(broken)?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(broken)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(broken("it has no streams"));
        };
        let exit = async move {
            let status = child.wait().await.map_err(broken)?;
            // An exec tells the end of its command by podman's own.
            status.code().map(ExitStatus::Exited).ok_or_else(|| broken(status))
        };
        let (stdin, control) = (Some(Box::pin(stdin) as _), Box::new(NoControl));
        Ok(ExecSession::new(stdin, Box::pin(stdout), Box::pin(stderr), control, Box::pin(exit)))
    }

    async fn put_file(&self, path: &str, content: Bytes, mode: u32) -> kled_core::Result<()> {
        if !self.uploads {
            return Err(Error::new(ErrorKind::Unsupported, "a container with a shell is to use it"));
        }
        let file = tempfile::NamedTempFile::new_in(self.podman.directory()).map_err(broken)?;
        fs::write(&file, content).map_err(broken)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).map_err(broken)?;
        let from = file.path().to_string_lossy();
        let to = format!("{}:{path}", self.name);
        self.podman.podman(&["cp", &from, &to]).await.map_err(broken)?;
        Ok(())
    }
}

async fn program() -> Result<AgentProgram> {
    let program = super::program().await?;
    Ok(AgentProgram::read(&program)?)
}

/// An engine with an image and a container of it that runs under that name.
async fn engine(image: &Image, options: &[&str], command: &[&str]) -> Result<PodmanService> {
    let podman = PodmanService::start().await?;
    let archive = podman.directory().join("image.tar");
    image.write(&archive)?;
    podman.load_image(&archive).await?;
    let run = ["run", "--detach", "--name", "target"].as_slice();
    podman.podman(&[run, options, &["localhost/target:1"], command].concat()).await?;
    Ok(podman)
}

/// Delivers twice and runs what was delivered.
async fn deliver_and_run(container: &Container<'_>, folders: &[&str]) -> Result<()> {
    let agent = program().await?;
    let first = deliver(container, &agent, folders, LIMIT).await?;
    ensure!(first.sent, "it was there before it was sent");
    let again = deliver(container, &agent, folders, LIMIT).await?;
    ensure!(!again.sent && again.path == first.path, "it was sent twice: {again:?}");
    let said = container.podman.podman(&["exec", container.name, &first.path, "--version"]).await?;
    ensure!(said.starts_with("kled-agent "), "it said {said:?}");
    Ok(())
}

pub(super) async fn goes_through_a_shell() -> Result<()> {
    let image = Image::busybox("localhost/target:1")?;
    let podman = engine(&image, &["--user", "1000"], &["sleep", "600"]).await?;
    let container = Container { podman: &podman, name: "target", uploads: false };
    deliver_and_run(&container, &["/bin", "/nowhere", "/tmp"]).await
}

/// All that is in the container is a program that sleeps.
pub(super) async fn needs_no_shell() -> Result<()> {
    let busybox = programs::find("busybox").context("no program busybox")?;
    let image =
        Image::new("localhost/target:1").file("sleep", fs::read(busybox)?, 0o755).directory("tmp", 0o1777);
    let podman = engine(&image, &["--user", "1000"], &["/sleep", "600"]).await?;
    let without = Container { podman: &podman, name: "target", uploads: false };
    let error =
        deliver(&without, &program().await?, &["/tmp"], LIMIT).await.err().context("there is no way")?;
    ensure!(error.kind() == ErrorKind::Unsupported, "{error:?}");
    let container = Container { uploads: true, ..without };
    deliver_and_run(&container, &["/tmp"]).await
}

pub(super) async fn tells_what_forbids_it() -> Result<()> {
    let image = Image::busybox("localhost/target:1")?.directory("data", 0o777);
    let options =
        ["--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp:rw,noexec", "--tmpfs", "/data:rw,exec"];
    let podman = engine(&image, &options, &["sleep", "600"]).await?;
    let container = Container { podman: &podman, name: "target", uploads: false };
    let refused = deliver(&container, &program().await?, &["/bin", "/tmp"], LIMIT).await;
    let error = refused.err().context("it was delivered where nothing can be")?;
    ensure!(error.kind() == ErrorKind::PermissionDenied, "{error:?}");
    let told = error.to_string();
    ensure!(told.contains("/bin: the file system is read-only"), "{told}");
    ensure!(told.contains("/tmp: programs may not be run from there (noexec)"), "{told}");
    let left = podman.podman(&["exec", "target", "ls", "-A", "/tmp"]).await?;
    ensure!(left.is_empty(), "it left {left}");
    deliver_and_run(&container, &["/bin", "/tmp", "/data"]).await
}

/// By another process: what this one has open for writing cannot be run.
fn first_bytes(of: &Path, count: usize, to: &Path) -> Result<()> {
    let mut copy = Command::new("head");
    copy.arg("-c").arg(count.to_string()).arg(of).stdout(fs::File::create(to)?);
    ensure!(copy.status()?.success(), "head failed");
    Ok(())
}

/// What a cut transfer leaves, at every page: none of it tells the right digest or takes the place.
pub(super) async fn refuses_every_half() -> Result<()> {
    let program = super::program().await?;
    let (whole, digest) = (fs::read(&program)?, AgentProgram::read(&program)?.digest().to_owned());
    let folder = tempfile::tempdir()?;
    let (half, place) = (folder.path().join("half"), folder.path().join("place"));
    let mut tried = 0;
    for length in (0..whole.len()).step_by(PAGE).chain([1, 64, whole.len() - 1]) {
        first_bytes(&program, length, &half)?;
        fs::set_permissions(&half, fs::Permissions::from_mode(0o755))?;
        for arguments in [["digest", "", ""].as_slice(), &["take-place", &digest, &place.to_string_lossy()]] {
            let arguments = arguments.iter().filter(|argument| !argument.is_empty());
            let said = match Command::new(&half).args(arguments).output() {
                Ok(output) => output.stdout,
                Err(cause) if cause.kind() == io::ErrorKind::ExecutableFileBusy => return Err(cause.into()),
                // One that does not even start says nothing.
                Err(_) => Vec::new(),
            };
            ensure!(
                !said.starts_with(digest.as_bytes()),
                "{length} bytes of {} tell the digest",
                whole.len()
            );
            ensure!(!place.exists(), "{length} bytes of {} took the place", whole.len());
        }
        tried += 1;
    }
    println!("{tried} halves");
    let copy = Command::new("cp").arg(&program).arg(&half).status()?;
    ensure!(copy.success(), "cp failed");
    let said = Command::new(&half).arg("take-place").arg(&digest).arg(&place).output()?;
    ensure!(said.stdout.trim_ascii() == digest.as_bytes() && place.exists() && !half.exists(), "{said:?}");
    Ok(())
}
