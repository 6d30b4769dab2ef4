//! Checks a [`Source`] out with the machine's own git, so that the user's configuration, credential helpers and SSH
//! agent work.
//!
//! What was rejected:
//!
//! - **`git clone` of a local path**: it links or copies the object files. Links would let a workspace change the
//!   user's own repository, and both take unreachable objects along. A local repository is read through `file://`.
//! - **A library instead of git**: none serves every credential helper, SSH configuration and filter that users have.
//! - **An own interactive login**: git never asks (`GIT_TERMINAL_PROMPT=0`, no terminal). Helpers that ask in their
//!   own window work.
//!
//! A repository may name submodules at any address, so what may be fetched is limited: `file` is allowed only where
//! the repository itself is local, since a foreign repository could otherwise name the user's private ones.

mod failure;
mod git;
mod login;
mod redact;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kled_core::workspace::{CommitId, History, Repository, Revision, Source};
use kled_core::{Error, ErrorKind, Result};

use super::{Credential, proc};
use failure::{GitMessages, classify, located, storage_full};
use git::{Outcome, Surroundings};
use login::Login;
pub(crate) use redact::redact;

/// The environment variable that names the owner of a checkout.
const OWNER: &str = "KLED_CHECKOUT";

/// Where lines of progress for people go.
pub(crate) type Report = Arc<dyn Fn(&str) + Send + Sync>;

/// What a checkout is given besides its source.
#[derive(Clone)]
pub(crate) struct CheckoutOptions {
    /// Takes git's progress, a line at a time and without credentials. Called on another thread; must not block.
    pub(crate) report: Report,
    /// A locked file whose descriptor git and all that it starts inherit: the lock (`flock`) is held until the last
    /// of them has ended, even if this process is killed. A credential helper that stays in the background
    /// (`git-credential-cache`) keeps it too; unlocking it explicitly ends the lock for all.
    pub(crate) inherited: Option<Arc<File>>,
    /// Whose checkout it is. git and all that it starts carry it, and are found by it if this process is killed
    /// ([`end_left_behind`]): the death of the process ends git itself, not what git started.
    pub(crate) owner: Option<String>,
    /// A login for the repository's own host, besides what git itself finds.
    pub(crate) credential: Option<Credential>,
}

impl Default for CheckoutOptions {
    fn default() -> Self {
        Self { report: Arc::new(|_| {}), inherited: None, owner: None, credential: None }
    }
}

/// What was checked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckedOut {
    /// The full identity of the commit.
    pub(crate) commit: String,
}

/// Checks `source` out into `directory`, which exists and is empty.
///
/// git is started inside the folder; if the folder is removed meanwhile, git fails. Dropping the future kills git and
/// what it started. The death of this process kills git itself, on Linux; what git has started then ends when it next
/// needs git, and until then may write, and even make the folder anew by its path. Who cleans up after a killed process
/// ends these first ([`end_left_behind`]) or waits for `inherited`. The folder's content is undefined after any failure, and
/// is not removed here.
///
/// # Errors
/// - `RepositoryNotFound`: the address is not that of a repository; its host cannot be resolved or refuses the
///   connection (these two may be tried again).
/// - `RevisionNotFound`: no such branch, tag, commit or path; the repository has no commit at all.
/// - `Unauthenticated`: a refused or missing login, an unknown SSH host key.
/// - `StorageFull`, `PermissionDenied` (another user's local repository, an unwritable folder).
/// - `Unavailable`: the connection broke, the server failed.
/// - `Unsupported`: git is not installed.
/// - `Cancelled`: the folder was removed.
pub(crate) async fn checkout(
    source: &Source,
    directory: &Path,
    options: &CheckoutOptions,
) -> Result<CheckedOut> {
    let local = match &source.repository {
        Repository::Local(_) => true,
        Repository::Url(url) => url.scheme() == "file",
        Repository::Scp { .. } => false,
    };
    let surroundings = Surroundings {
        protocols: if local { "http:https:ssh:git:file" } else { "http:https:ssh:git" },
        report: Arc::clone(&options.report),
        inherited: options.inherited.clone(),
        owner: options.owner.clone(),
        login: match (&options.credential, &source.repository) {
            (Some(credential), Repository::Url(url)) => Some(Login::new(url, credential)),
            _ => None,
        },
    };
    let address = address(&source.repository).map_err(|cause| {
        located(Error::new(ErrorKind::RepositoryNotFound, "the path cannot be made absolute"), source)
            .because(cause)
    })?;
    let checkout = Checkout { source, directory, address, surroundings };
    checkout.run().await.map_err(|error| error.during("checkout"))
}

/// Kills what a checkout of `owner` into `folder`, or a folder in it, left running when its caller was killed. What it
/// left running elsewhere, a credential cache of the user, goes on. Says whether nothing is left.
pub(crate) async fn end_left_behind(owner: &str, folder: &Path, limit: Duration) -> bool {
    // The kernel shows the folders of processes without links.
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let left = || {
        let marked = proc::with_variable(OWNER, owner);
        marked.into_iter().filter(|process| proc::is_in(*process, &folder)).collect()
    };
    proc::kill_all(limit, left).await
}

/// What git is told to clone. `%` is the only character of a path that git reads differently in a URL.
fn address(repository: &Repository) -> io::Result<OsString> {
    let Repository::Local(path) = repository else {
        return Ok(repository.to_string().into());
    };
    let path = std::path::absolute(path)?;
    let mut address = b"file://".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' => address.extend_from_slice(b"%25"),
            byte => address.push(*byte),
        }
    }
    Ok(OsString::from_vec(address))
}

/// A list of arguments; options that are not wanted are left out.
fn arguments<const N: usize>(list: [Option<&OsStr>; N]) -> Vec<&OsStr> {
    list.into_iter().flatten().collect()
}

fn word(text: &str) -> Option<&OsStr> {
    Some(OsStr::new(text))
}

struct Checkout<'a> {
    source: &'a Source,
    directory: &'a Path,
    address: OsString,
    surroundings: Surroundings,
}

/// `HEAD` after a clone.
struct Head {
    commit: String,
    /// The branch that it names, if it names one.
    branch: Option<String>,
}

impl Checkout<'_> {
    async fn run(&self) -> Result<CheckedOut> {
        let commit = match &self.source.revision {
            Revision::Default => self.clone_reference(None).await?.commit,
            Revision::Branch(name) => self.branch(name.as_str()).await?,
            Revision::Tag(name) => self.tag(name.as_str()).await?,
            Revision::Commit(commit) => self.commit(commit).await?,
        };
        self.require_path()?;
        self.submodules().await?;
        Ok(CheckedOut { commit })
    }

    async fn branch(&self, name: &str) -> Result<String> {
        let head = self.clone_reference(Some(name)).await?;
        // `--branch` takes a tag where there is no such branch.
        if head.branch.as_deref() == Some(&format!("refs/heads/{name}")) {
            Ok(head.commit)
        } else {
            Err(self.no_revision("the repository has no such branch, only a tag"))
        }
    }

    async fn tag(&self, name: &str) -> Result<String> {
        let head = self.clone_reference(Some(name)).await?;
        if head.branch.is_none() {
            return Ok(head.commit);
        }
        // `--branch` prefers a branch, and there is one of the same name.
        let reference = format!("refs/tags/{name}");
        let refspec = format!("+{reference}:{reference}");
        self.fetch(&refspec).await?;
        self.switch_to(&reference).await
    }

    async fn commit(&self, commit: &CommitId) -> Result<String> {
        if !commit.is_full() || self.source.history == History::Full {
            return self.commit_of_history(commit).await;
        }
        let format =
            if commit.as_str().len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        self.git(&["init", "--quiet", format]).await?;
        self.git(&arguments([word("remote"), word("add"), word("origin"), Some(&self.address)])).await?;
        match self.try_fetch(commit.as_str()).await? {
            outcome if outcome.status.success() => {}
            outcome if wants_history(&outcome.stderr) => self.fetch_all().await?,
            outcome => return Err(self.failed(&outcome)),
        }
        self.narrow().await?;
        self.switch_to(commit.as_str()).await
    }

    /// Clones everything, then looks for the commit.
    async fn commit_of_history(&self, commit: &CommitId) -> Result<String> {
        let arguments = arguments([
            word("clone"),
            word("--progress"),
            word("--no-checkout"),
            word("--"),
            Some(&self.address),
            word("."),
        ]);
        self.git(&arguments).await?;
        let resolved = match self.resolve(commit).await? {
            Some(resolved) => resolved,
            // A commit that no branch and no tag leads to.
            None if commit.is_full() => {
                self.fetch(commit.as_str()).await?;
                commit.as_str().to_owned()
            }
            None => {
                return Err(self
                    .no_revision("the repository has no such commit, or more than one")
                    .hint("write more digits of the commit"));
            }
        };
        self.narrow().await?;
        self.switch_to(&resolved).await
    }

    async fn resolve(&self, commit: &CommitId) -> Result<Option<String>> {
        let expression = format!("{commit}^{{commit}}");
        let outcome = self.try_git(&["rev-parse", "--verify", "--quiet", &expression]).await?;
        let resolved = outcome.stdout.trim();
        // A branch or tag can be named like a commit, and git prefers it.
        let found = outcome.status.success() && resolved.starts_with(commit.as_str());
        Ok(found.then(|| resolved.to_owned()))
    }

    /// `git clone` of the default branch, or of a branch or tag.
    async fn clone_reference(&self, reference: Option<&str>) -> Result<Head> {
        let shallow = self.source.history == History::Shallow;
        let mut outcome = self.try_clone(reference, shallow).await?;
        if shallow && !outcome.status.success() && wants_history(&outcome.stderr) {
            // git clone has removed what it had made in the folder.
            outcome = self.try_clone(reference, false).await?;
        }
        if !outcome.status.success() {
            return Err(self.failed(&outcome));
        }
        if let Some(path) = &self.source.path {
            self.git(&["sparse-checkout", "set", path.as_str()]).await?;
        }
        self.head().await
    }

    async fn try_clone(&self, reference: Option<&str>, shallow: bool) -> Result<Outcome> {
        let sparse = self.source.path.is_some();
        let when = |condition: bool, text: &'static str| if condition { word(text) } else { None };
        let arguments = arguments([
            word("clone"),
            word("--progress"),
            when(shallow, "--depth=1"),
            when(sparse, "--sparse"),
            // Whoever asks for all of the history may need the files of all of it where there is no network.
            when(sparse && shallow, "--filter=blob:none"),
            reference.and(word("--branch")),
            reference.and_then(word),
            word("--"),
            Some(&self.address),
            word("."),
        ]);
        self.try_git(&arguments).await
    }

    /// One command answers both questions; it is most of what a create costs beyond `git clone`.
    async fn head(&self) -> Result<Head> {
        let outcome = self.try_git(&["rev-parse", "HEAD", "--symbolic-full-name", "HEAD"]).await?;
        let mut lines = outcome.stdout.lines();
        match (outcome.status.success(), lines.next(), lines.next()) {
            (true, Some(commit), name) => Ok(Head {
                commit: commit.to_owned(),
                branch: name.filter(|name| *name != "HEAD").map(str::to_owned),
            }),
            _ => Err(self.no_revision("the repository has no commit")),
        }
    }

    async fn try_fetch(&self, refspec: &str) -> Result<Outcome> {
        let shallow = self.source.history == History::Shallow;
        let when = |condition: bool, text: &'static str| if condition { word(text) } else { None };
        let arguments = arguments([
            word("fetch"),
            word("--progress"),
            when(shallow, "--depth=1"),
            when(shallow && self.source.path.is_some(), "--filter=blob:none"),
            word("origin"),
            word(refspec),
        ]);
        self.try_git(&arguments).await
    }

    async fn fetch(&self, refspec: &str) -> Result<()> {
        let outcome = self.try_fetch(refspec).await?;
        if outcome.status.success() { Ok(()) } else { Err(self.failed(&outcome)) }
    }

    /// For servers that give no commit by its identity.
    async fn fetch_all(&self) -> Result<()> {
        self.git(&["fetch", "--progress", "--tags", "origin"]).await
    }

    async fn narrow(&self) -> Result<()> {
        match &self.source.path {
            None => Ok(()),
            Some(path) => self.git(&["sparse-checkout", "set", "--cone", path.as_str()]).await,
        }
    }

    async fn switch_to(&self, revision: &str) -> Result<String> {
        self.git(&["checkout", "--progress", "--detach", revision]).await?;
        Ok(self.head().await?.commit)
    }

    fn require_path(&self) -> Result<()> {
        match &self.source.path {
            Some(path) if !self.directory.join(path.as_str()).is_dir() => {
                Err(self.no_revision("the repository has no such folder").with("path", path))
            }
            _ => Ok(()),
        }
    }

    async fn submodules(&self) -> Result<()> {
        if !self.directory.join(".gitmodules").is_file() {
            return Ok(());
        }
        let shallow = self.source.history == History::Shallow;
        let mut outcome = self.try_submodules(shallow).await?;
        if shallow && !outcome.status.success() && wants_history(&outcome.stderr) {
            outcome = self.try_submodules(false).await?;
        }
        if outcome.status.success() {
            return Ok(());
        }
        Err(self.failed(&outcome).with("part", "submodules"))
    }

    async fn try_submodules(&self, shallow: bool) -> Result<Outcome> {
        let path = self.source.path.as_ref();
        let arguments = arguments([
            word("submodule"),
            word("update"),
            word("--init"),
            word("--recursive"),
            word("--progress"),
            if shallow { word("--depth=1") } else { None },
            word("--"),
            path.and_then(|path| word(path.as_str())),
        ]);
        self.try_git(&arguments).await
    }

    async fn git<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<()> {
        let outcome = self.try_git(arguments).await?;
        if outcome.status.success() { Ok(()) } else { Err(self.failed(&outcome)) }
    }

    async fn try_git<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<Outcome> {
        git::run(self.directory, &self.surroundings, arguments).await.map_err(|cause| self.not_run(cause))
    }

    fn not_run(&self, cause: io::Error) -> Error {
        let error = match cause.kind() {
            _ if !self.directory.is_dir() => self.folder_removed(),
            io::ErrorKind::NotFound => Error::new(ErrorKind::Unsupported, "git is not installed")
                .hint("install git and make sure that it is on PATH"),
            _ => Error::new(ErrorKind::Unavailable, "git cannot be run"),
        };
        error.because(cause)
    }

    fn failed(&self, outcome: &Outcome) -> Error {
        if !self.directory.is_dir() {
            return self.folder_removed();
        }
        let error = classify(&outcome.stderr, self.source);
        // git does not say why it could not write a file of the checkout.
        if error.kind() == ErrorKind::Internal && is_full(self.directory) {
            return located(storage_full(), self.source).because(GitMessages(outcome.stderr.clone()));
        }
        match outcome.signal() {
            Some(signal) if error.kind() == ErrorKind::Internal => error.with("signal", signal),
            _ => error,
        }
    }

    fn folder_removed(&self) -> Error {
        located(Error::new(ErrorKind::Cancelled, "the checkout's folder was removed"), self.source)
    }

    fn no_revision(&self, message: &str) -> Error {
        located(Error::new(ErrorKind::RevisionNotFound, message), self.source)
    }
}

/// Below this a file system counts as full: no file of a checkout was written after the last one failed.
const FULL_BELOW: u64 = 64 << 10;

fn is_full(directory: &Path) -> bool {
    rustix::fs::statvfs(directory).is_ok_and(|system| {
        let no_space = system.f_bavail.saturating_mul(system.f_frsize) < FULL_BELOW;
        // File systems without a table of files say that it has none.
        let no_files = system.f_files > 0 && system.f_favail == 0;
        no_space || no_files
    })
}

/// True when the server can give all of the history but not the one commit.
fn wants_history(stderr: &str) -> bool {
    let texts = [
        "Server does not allow request for unadvertised object",
        "does not support shallow",
        "Server does not support shallow",
        "did not contain",
    ];
    texts.iter().any(|text| stderr.contains(text))
}
