//! One run of a case: bounded calls, workspaces of its own, and what to say when something is wrong.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Fixture;
use crate::provider::{ExecRequest, ExitStatus, Faults, Output, Provider, ProviderExt};
use crate::workspace::{Workspace, WorkspaceSpec};
use crate::{Error, ErrorKind, Result, WorkspaceId, WorkspaceName};

/// How a case ends.
pub(super) type Outcome<T = ()> = Result<T, Failure>;

/// Between two looks at something that is to become true.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The most that a case takes of a command's output when it does not read the stream itself.
const OUTPUT_MAX: usize = 1 << 20;

/// What was expected and what came instead.
#[derive(Clone, Debug)]
pub struct Failure {
    /// From the outside in: the case, then the moment in it.
    places: Vec<String>,
    what: String,
    expected: String,
    came: String,
}

impl Failure {
    pub(super) fn new(what: impl fmt::Display, expected: impl fmt::Display, came: impl fmt::Display) -> Self {
        let (what, expected, came) = (what.to_string(), expected.to_string(), came.to_string());
        Self { places: Vec::new(), what, expected, came }
    }

    /// Says where it was, outside of what is said already.
    pub(super) fn at(mut self, place: impl fmt::Display) -> Self {
        self.places.insert(0, place.to_string());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in &self.places {
            write!(formatter, "{place}: ")?;
        }
        write!(formatter, "{}: expected {}, came {}", self.what, self.expected, self.came)
    }
}

impl std::error::Error for Failure {}

/// Fails unless `holds`.
pub(super) fn ensure(
    holds: bool,
    what: impl fmt::Display,
    expected: impl fmt::Display,
    came: impl fmt::Display,
) -> Outcome {
    if holds { Ok(()) } else { Err(Failure::new(what, expected, came)) }
}

/// Fails unless both are equal.
pub(super) fn equal<T: PartialEq + fmt::Debug>(what: impl fmt::Display, expected: &T, came: &T) -> Outcome {
    ensure(expected == came, what, format_args!("{expected:?}"), format_args!("{came:?}"))
}

/// Fails unless `workspace` is the one of `id` and is running.
pub(super) fn runs(what: &str, workspace: &Workspace, id: WorkspaceId) -> Outcome {
    equal(what, &id, &workspace.id)?;
    ensure(workspace.status.is_running(), what, "a running workspace", &workspace.status)
}

/// The error and all its causes, in one line.
pub(super) fn explained(error: &Error) -> String {
    let mut text = format!("{} ({})", error, error.kind());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// One run of a case.
pub(super) struct Trial {
    pub(super) fixture: Arc<dyn Fixture>,
    pub(super) patience: Duration,
    names: Mutex<Vec<WorkspaceName>>,
}

impl Trial {
    pub(super) fn new(fixture: Arc<dyn Fixture>) -> Self {
        let patience = fixture.patience();
        Self { fixture, patience, names: Mutex::default() }
    }

    /// A name that nothing else has; what is under it at the end of the case is removed.
    pub(super) fn name(&self) -> Outcome<WorkspaceName> {
        let digits: String =
            WorkspaceId::random().to_string().chars().filter(char::is_ascii_hexdigit).collect();
        self.named(format!("conformance-{}", &digits[..12]))
    }

    /// A name that begins as another one does.
    pub(super) fn name_beginning_with(&self, other: &WorkspaceName) -> Outcome<WorkspaceName> {
        self.named(format!("{other}-2"))
    }

    fn named(&self, name: String) -> Outcome<WorkspaceName> {
        let name =
            WorkspaceName::new(name).map_err(|error| Failure::new("making a name", "success", error))?;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        Ok(name)
    }

    /// A handle without faults.
    pub(super) async fn provider(&self) -> Outcome<Arc<dyn Provider>> {
        self.provider_with(Faults::none()).await
    }

    pub(super) async fn provider_with(&self, faults: Faults) -> Outcome<Arc<dyn Provider>> {
        self.ok("opening the provider", self.fixture.provider(faults)).await
    }

    /// Bounds a call.
    pub(super) async fn ends<T>(&self, what: impl fmt::Display, call: impl Future<Output = T>) -> Outcome<T> {
        let no_end = |_| Failure::new(what, format_args!("an end within {:?}", self.patience), "no end");
        tokio::time::timeout(self.patience, call).await.map_err(no_end)
    }

    /// Bounds a call that has to succeed.
    pub(super) async fn ok<T>(
        &self,
        what: impl fmt::Display,
        call: impl Future<Output = Result<T>>,
    ) -> Outcome<T> {
        self.ends(&what, call).await?.map_err(|error| Failure::new(what, "success", explained(&error)))
    }

    /// Bounds a call that has to fail with one of these kinds.
    pub(super) async fn fails<T: fmt::Debug>(
        &self,
        what: impl fmt::Display,
        kinds: &[ErrorKind],
        call: impl Future<Output = Result<T>>,
    ) -> Outcome<Error> {
        let expected = kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" or ");
        match self.ends(&what, call).await? {
            Err(error) if kinds.contains(&error.kind()) => Ok(error),
            Err(error) => Err(Failure::new(what, expected, explained(&error))),
            Ok(value) => Err(Failure::new(what, expected, format_args!("success: {value:?}"))),
        }
    }

    /// A new name, a handle and a running workspace of the fixture's spec.
    pub(super) async fn running(&self) -> Outcome<(WorkspaceName, Arc<dyn Provider>, Workspace)> {
        self.running_with(&self.fixture.spec()).await
    }

    pub(super) async fn running_with(
        &self,
        spec: &WorkspaceSpec,
    ) -> Outcome<(WorkspaceName, Arc<dyn Provider>, Workspace)> {
        let (name, provider) = (self.name()?, self.provider().await?);
        let workspace = self.ok("create", provider.create(&name, spec)).await?;
        ensure(workspace.status.is_running(), "create", "a running workspace", &workspace.status)?;
        Ok((name, provider, workspace))
    }

    /// Runs a command to its end.
    pub(super) async fn run(
        &self,
        provider: &Arc<dyn Provider>,
        name: &WorkspaceName,
        arguments: &[&str],
    ) -> Outcome<Output> {
        self.output(provider, name, ExecRequest::new(arguments.iter().copied())).await
    }

    pub(super) async fn output(
        &self,
        provider: &Arc<dyn Provider>,
        name: &WorkspaceName,
        request: ExecRequest,
    ) -> Outcome<Output> {
        let what = format!("exec {:?}", request.command.arguments);
        let call = async { provider.exec(name, request).await?.output(OUTPUT_MAX).await };
        self.ok(what, call).await
    }

    /// Runs a command that has to succeed, and gives its standard output as text.
    pub(super) async fn text(
        &self,
        provider: &Arc<dyn Provider>,
        name: &WorkspaceName,
        arguments: &[&str],
    ) -> Outcome<String> {
        let output = self.run(provider, name, arguments).await?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let came = format!("{:?}, standard error {stderr:?}", output.status);
        ensure(
            output.status == ExitStatus::Exited(0),
            format_args!("exec {arguments:?}"),
            "exit code 0",
            came,
        )?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a file in the workspace through `tee`.
    pub(super) async fn write(
        &self,
        provider: &Arc<dyn Provider>,
        name: &WorkspaceName,
        file: &str,
        bytes: &[u8],
    ) -> Outcome {
        let call = async {
            let mut session = provider.exec(name, ExecRequest::new(["tee", file]).piped_stdin()).await?;
            if let Some(mut stdin) = session.stdin.take() {
                write_all(&mut stdin, bytes).await?;
            }
            session.output(OUTPUT_MAX).await
        };
        let output = self.ok(format!("exec tee {file}"), call).await?;
        equal(format_args!("exec tee {file}"), &ExitStatus::Exited(0), &output.status)
    }

    /// Fails if the backend has anything of `name`.
    pub(super) async fn nothing_left(&self, what: impl fmt::Display, name: &WorkspaceName) -> Outcome {
        let residue = self.ok("asking the backend for residue", self.fixture.residue(name)).await?;
        ensure(residue.is_empty(), what, "nothing left in the backend", residue.join(", "))
    }

    /// Looks again and again until `look` says yes.
    pub(super) async fn becomes_true<L>(
        &self,
        what: impl fmt::Display,
        expected: &str,
        mut look: impl FnMut() -> L,
    ) -> Outcome
    where
        L: Future<Output = Outcome<bool>>,
    {
        let deadline = Instant::now() + self.patience;
        while !look().await? {
            if Instant::now() >= deadline {
                return Err(Failure::new(what, expected, format_args!("not within {:?}", self.patience)));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Waits until the backend has nothing of `name`: for what ends without a call that waits for it.
    pub(super) async fn nothing_left_soon(
        &self,
        what: impl fmt::Display + Send,
        name: &WorkspaceName,
    ) -> Outcome {
        let look = || async {
            let residue = self.ok("asking the backend for residue", self.fixture.residue(name)).await?;
            Ok(residue.is_empty())
        };
        self.becomes_true(what, "nothing left in the backend", look).await
    }

    /// Deletes and proves that nothing is left.
    pub(super) async fn delete_leaves_nothing(&self, name: &WorkspaceName) -> Outcome {
        let provider = self.provider().await?;
        self.ok("delete", provider.delete(name)).await?;
        self.nothing_left("delete", name).await?;
        self.fails("status after delete", &[ErrorKind::NotFound], provider.status(name)).await?;
        Ok(())
    }

    /// Creates and proves that the name then has one workspace, and that it is as asked for.
    pub(super) async fn create_makes_one(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
    ) -> Outcome<Workspace> {
        let provider = self.provider().await?;
        let workspace = self.ok("create", provider.create(name, spec)).await?;
        equal("the spec that create answers", spec, &workspace.spec)?;
        runs("create", &workspace, workspace.id)?;
        let listed = self.ok("list", provider.list()).await?;
        let same: Vec<_> =
            listed.iter().filter(|listed| listed.name == *name).map(|listed| listed.id).collect();
        equal("identities in the list under this name", &vec![workspace.id], &same)?;
        if provider.capabilities_of(&self.fixture.spec()).commands.exec {
            let echoed = self.text(&provider, name, &["echo", "ready"]).await?;
            equal("exec after create", &"ready\n".to_owned(), &echoed)?;
        }
        Ok(workspace)
    }

    /// Removes all workspaces of this run.
    pub(super) async fn remove_all(&self) -> Outcome {
        let names = std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner));
        let provider = self.provider().await?;
        let mut outcome = Ok(());
        for name in names {
            let removed = self.ok(format!("removing {name} after the case"), provider.delete(&name)).await;
            outcome = outcome.and(removed.map(drop));
        }
        outcome
    }
}

/// Writes all bytes and shuts the stream down, so that the command sees the end.
pub(super) async fn write_all(
    stream: &mut (impl tokio::io::AsyncWrite + Unpin + ?Sized),
    bytes: &[u8],
) -> Result<()> {
    use tokio::io::AsyncWriteExt;
    let lost = |cause| Error::new(ErrorKind::Unavailable, "standard input was cut off").because(cause);
    stream.write_all(bytes).await.map_err(lost)?;
    stream.shutdown().await.map_err(lost)
}
