//! Deliveries into folders of this machine, by a real shell.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::FutureExt as _;
use kled_core::provider::{CommandControl, ExecSession, Signal, TerminalSize};
use tempfile::TempDir;
use tokio::io::AsyncWrite;
use tokio::process::{ChildStdin, Command};

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

/// What a program of another language would be; real programs are delivered by the tests of the agent.
const PROGRAM: &str = r#"#!/bin/sh
digest=$(sha256sum "$0") && digest=${digest%% *}
case "$1" in
  digest) echo "$digest" ;;
  take-place) if [ "$digest" = "$2" ]; then mv "$0" "$3" && echo "$digest"; else exit 75; fi ;;
esac
exit
"#;

/// How the stream of a transfer ends before its time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// As if all had been sent.
    Silent(usize),
    /// The connection is lost.
    Lost(usize),
}

/// This machine as a container.
struct Machine {
    folder: TempDir,
    /// What is on `PATH`.
    programs: PathBuf,
    uploads: bool,
    cut: Option<Cut>,
    sent: Arc<AtomicUsize>,
    ran: Mutex<Vec<String>>,
}

impl Machine {
    /// One with a shell and these programs.
    fn new(programs: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("programs");
        fs::create_dir(&path).unwrap();
        for program in programs {
            let known = ["/bin", "/usr/bin"].map(|folder| Path::new(folder).join(program));
            symlink(known.iter().find(|file| file.exists()).unwrap(), path.join(program)).unwrap();
        }
        fs::create_dir(folder.path().join("one")).unwrap();
        fs::create_dir(folder.path().join("two")).unwrap();
        let (sent, ran) = (Arc::default(), Mutex::default());
        Self { folder, programs: path, uploads: false, cut: None, sent, ran }
    }

    /// With all that the shell's way and the program can use.
    fn usual() -> Self {
        Self::new(&["sh", "cat", "chmod", "rm", "wc", "mv", "sha256sum"])
    }

    fn path(&self, folder: &str) -> String {
        self.folder.path().join(folder).to_str().unwrap().to_owned()
    }

    async fn deliver(&self, agent: &AgentProgram, folders: &[&str]) -> Result<Delivered> {
        let folders: Vec<_> = folders.iter().map(|folder| self.path(folder)).collect();
        let folders: Vec<_> = folders.iter().map(String::as_str).collect();
        self.sent.store(0, Ordering::SeqCst);
        deliver(self, agent, &folders, LIMIT).await
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn agent() -> AgentProgram {
    // As long as several pieces of a transfer.
    AgentProgram::new(format!("{PROGRAM}{}", "# nothing\n".repeat(20_000)))
}

/// The standard input of a transfer, which ends where it is cut.
struct Counted {
    stdin: Option<ChildStdin>,
    left: Option<usize>,
    sent: Arc<AtomicUsize>,
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let take = self.left.map_or(bytes.len(), |left| left.min(bytes.len()));
        if take == 0 {
            self.stdin = None;
        }
        // What follows a cut goes nowhere, and nobody hears of it.
        let Some(stdin) = self.stdin.as_mut() else { return Poll::Ready(Ok(bytes.len())) };
        let written = std::task::ready!(Pin::new(stdin).poll_write(context, &bytes[..take]))?;
        self.left = self.left.map(|left| left - written);
        self.sent.fetch_add(written, Ordering::SeqCst);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug)]
struct NoControl;

#[async_trait]
impl CommandControl for NoControl {
    async fn resize(&self, _: TerminalSize) -> Result<()> {
        Ok(())
    }

    async fn signal(&self, _: Signal) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Remote for Machine {
    async fn run(&self, arguments: &[&str]) -> Result<ExecSession> {
        self.ran.lock().unwrap().push(arguments.join(" "));
        let mut program = PathBuf::from(arguments[0]);
        if program.is_relative() {
            program = self.programs.join(program);
        }
        let mut command = Command::new(program);
        command.args(&arguments[1..]).env("PATH", &self.programs).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|cause| {
            let kind = match cause.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::CommandNotFound,
                std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::Internal,
            };
            Error::new(kind, "it was not started").because(cause)
        })?;
        let cut = self.cut.filter(|_| arguments[0] == "sh");
        let left = cut.map(|(Cut::Silent(bytes) | Cut::Lost(bytes))| bytes);
        let stdin = Counted { stdin: child.stdin.take(), left, sent: Arc::clone(&self.sent) };
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let exit = async move {
            let status = child.wait().await.unwrap();
            match cut {
                Some(Cut::Lost(_)) => Err(Error::new(ErrorKind::Unavailable, "the connection is lost")),
                _ => Ok(status.code().map_or(ExitStatus::Signaled(9), ExitStatus::Exited)),
            }
        };
        Ok(ExecSession::new(
            Some(Box::pin(stdin)),
            Box::pin(stdout),
            Box::pin(stderr),
            Box::new(NoControl),
            exit.boxed(),
        ))
    }

    async fn put_file(&self, path: &str, content: Bytes, mode: u32) -> Result<()> {
        if !self.uploads {
            return Err(Error::new(ErrorKind::Unsupported, "no upload"));
        }
        if !Path::new(path).parent().unwrap().is_dir() {
            return Err(Error::new(ErrorKind::NotFound, "no such folder"));
        }
        self.sent.fetch_add(content.len(), Ordering::SeqCst);
        let taken = match self.cut {
            Some(Cut::Silent(bytes) | Cut::Lost(bytes)) => content.slice(..bytes),
            None => content,
        };
        // By another process: a file that this one has open could be inherited by what another test starts just then, and
        // what is open for writing cannot be run.
        let incoming = tempfile::NamedTempFile::new_in(&self.programs).unwrap();
        fs::write(&incoming, taken).unwrap();
        let copied = std::process::Command::new("cp").arg(incoming.path()).arg(path).status().unwrap();
        assert!(copied.success());
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        Ok(())
    }
}

#[tokio::test]
async fn it_is_sent_once() {
    for uploads in [false, true] {
        let machine = Machine { uploads, ..Machine::usual() };
        let agent = agent();
        let first = machine.deliver(&agent, &["one", "two"]).await.unwrap();
        assert_eq!((first.sent, machine.sent()), (true, agent.content.len()));
        assert_eq!(fs::read(&first.path).unwrap(), agent.content);
        assert_eq!(machine.names("one").len(), 1, "{:?}", machine.names("one"));
        let again = machine.deliver(&agent, &["two", "one"]).await.unwrap();
        assert_eq!((again.sent, machine.sent(), again.path), (false, 0, first.path));
    }
}

#[tokio::test]
async fn an_engine_that_takes_files_needs_no_shell() {
    let machine = Machine { uploads: true, ..Machine::new(&["mv", "sha256sum"]) };
    machine.deliver(&agent(), &["one"]).await.unwrap();
    let ran = machine.ran.lock().unwrap();
    assert!(ran.iter().all(|line| line.contains("kled-agent-")), "{ran:?}");
}

#[tokio::test]
async fn without_upload_and_shell_there_is_no_way() {
    let machine = Machine::new(&["cat"]);
    let error = machine.deliver(&agent(), &["one", "two"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("no shell"), "{error}");
}

#[tokio::test]
async fn a_cut_anywhere_leaves_no_half_agent_and_the_next_delivery_succeeds() {
    let agent = agent();
    let whole = agent.content.len();
    let with_counting = ["sh", "cat", "chmod", "rm", "wc", "mv", "sha256sum"];
    let without_counting = ["sh", "cat", "chmod", "rm", "mv", "sha256sum"];
    for bytes in [0, 1, 9, 80, 250, 4096, 65_536, 131_072, whole - 1] {
        for cut in [Cut::Silent(bytes), Cut::Lost(bytes)] {
            for (programs, uploads) in [
                (with_counting.as_slice(), false),
                (without_counting.as_slice(), false),
                (&with_counting, true),
            ] {
                let mut machine = Machine { uploads, cut: Some(cut), ..Machine::new(programs) };
                let error = machine.deliver(&agent, &["one"]).await.unwrap_err();
                let names = machine.names("one");
                let told = format!("{cut:?}, {uploads}, {programs:?}: {error:?}, {names:?}");
                assert!(names.iter().all(|name| name.starts_with(".kled-agent-")), "{told}");
                assert!(names.is_empty() || matches!(cut, Cut::Lost(_)), "{told}");
                // Where nothing counts the bytes, half a program may also say something of its own.
                let is_noticed = matches!(cut, Cut::Lost(_)) || programs.contains(&"wc");
                if is_noticed && !uploads {
                    assert!(error.kind() == ErrorKind::Unavailable && error.is_retryable(), "{told}");
                }
                machine.cut = None;
                let delivered = machine.deliver(&agent, &["one"]).await.unwrap();
                assert_eq!(fs::read(delivered.path).unwrap(), agent.content);
            }
        }
    }
}

#[tokio::test]
async fn what_is_there_and_not_the_agent_is_replaced() {
    for (content, mode) in [(&PROGRAM.as_bytes()[..60], 0o755), (b"".as_slice(), 0o644)] {
        let (machine, agent) = (Machine::usual(), agent());
        let place = agent.place(&machine.path("one"));
        fs::write(&place, content).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        let delivered = machine.deliver(&agent, &["one"]).await.unwrap();
        assert_eq!((delivered.sent, delivered.path.as_str()), (true, place.as_str()));
        assert_eq!(fs::read(place).unwrap(), agent.content);
    }
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_passed_over() {
    for uploads in [false, true] {
        let machine = Machine { uploads, ..Machine::usual() };
        let delivered = machine.deliver(&agent(), &["nowhere", "two"]).await.unwrap();
        assert!(delivered.path.starts_with(&machine.path("two")), "{delivered:?}");
        let error = machine.deliver(&AgentProgram::new("other"), &["nowhere"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

#[tokio::test]
async fn a_full_file_system_is_told() {
    let machine = Machine::usual();
    // Every write to this device fails so, and nothing can be removed by the name of a folder's file.
    let agent = AgentProgram::new("too large");
    symlink("/dev/full", machine.folder.path().join("full")).unwrap();
    let error = shell::send(&machine, &agent, &machine.path("full")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
}

#[tokio::test]
async fn a_program_of_another_architecture_is_told() {
    for uploads in [false, true] {
        let machine = Machine { uploads, ..Machine::usual() };
        let error =
            machine.deliver(&AgentProgram::new(b"\x7fELF\x02\x01\x01\0other".as_slice()), &["one"]).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.hint_text().unwrap().contains("architecture"), "{error:?}");
        assert!(machine.names("one").is_empty(), "{:?}", machine.names("one"));
    }
}

#[tokio::test]
async fn two_deliveries_at_once_do_not_disturb_each_other() {
    let (machine, agent) = (Machine::usual(), agent());
    let (one, other) =
        futures::future::join(machine.deliver(&agent, &["one"]), machine.deliver(&agent, &["one"])).await;
    let path = one.unwrap().path;
    assert_eq!(other.unwrap().path, path);
    assert_eq!(fs::read(path).unwrap(), agent.content);
    assert_eq!(machine.names("one").len(), 1);
}

#[tokio::test]
async fn a_machine_that_does_not_answer_is_given_up() {
    struct Silent;
    #[async_trait]
    impl Remote for Silent {
        async fn run(&self, _: &[&str]) -> Result<ExecSession> {
            std::future::pending().await
        }
    }
    let error = deliver(&Silent, &agent(), &FOLDERS, Duration::from_millis(50)).await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Timeout, Some("deliver_agent")));
}
