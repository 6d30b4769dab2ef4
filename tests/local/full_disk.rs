//! A disk that fills up during a create. The scene is played by this program once more, in a mount namespace that has
//! a small file system and ends with it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use kled_core::provider::ProviderExt as _;
use kled_core::workspace::WorkspaceSpec;
use kled_core::{ErrorKind, WorkspaceName};
use kled_providers::local::{LocalProvider, SupervisorProgram};
use kled_tests::suite::Suite;
use kled_tests::workspaces::{git, repository, residue};

/// The folder of the scene; its `data` is the small file system.
const SCENE: &str = "KLED_TESTS_FULL_DISK";

const NAMESPACE: [&str; 3] = ["--user", "--map-root-user", "--mount"];

pub(crate) fn add(suite: Suite) -> Suite {
    let case = "limits/a-full-disk-says-so-and-can-be-deleted";
    let works = Command::new("unshare").args(NAMESPACE).arg("true").output();
    if works.is_ok_and(|output| output.status.success()) {
        suite.case(case, || async { tokio::task::spawn_blocking(play).await? })
    } else {
        suite.skip(case, "this machine makes no mount namespaces")
    }
}

fn play() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let origin = folder.path().join("origin");
    repository(&origin, 0)?;
    // What does not compress fills the disk while git receives it.
    let mut noise = vec![0; 3 << 20];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut noise)?;
    std::fs::write(origin.join("noise"), noise)?;
    git(&origin, &["add", "--all"])?;
    git(&origin, &["commit", "--quiet", "--message=noise"])?;
    std::fs::create_dir(folder.path().join("data"))?;
    let output = Command::new("unshare")
        .args(NAMESPACE)
        .args(["sh", "-c", "mount -t tmpfs -o size=2m none \"$1/data\" && exec \"$0\""])
        .arg(std::env::current_exe()?)
        .arg(folder.path())
        .env(SCENE, folder.path())
        .output()
        .context("start unshare")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Plays the scene if this process was started for it.
pub(crate) fn scene(supervisor: &SupervisorProgram) -> Option<ExitCode> {
    let folder = PathBuf::from(std::env::var_os(SCENE)?);
    let played = tokio::runtime::Runtime::new().map_err(anyhow::Error::from);
    let played = played.and_then(|runtime| runtime.block_on(fill(supervisor.clone(), &folder)));
    Some(match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

async fn fill(supervisor: SupervisorProgram, folder: &Path) -> Result<()> {
    let root = folder.join("data");
    let provider = LocalProvider::builder().root(&root).supervisor(supervisor).build().await?;
    let name = WorkspaceName::new("full")?;
    let spec = WorkspaceSpec::builder(folder.join("origin").display().to_string()).build()?;
    let error = provider.create(&name, &spec).await.err().context("the disk is not full")?;
    ensure!(error.kind() == ErrorKind::StorageFull, "{error:?}");
    ensure!(provider.status(&name).await?.status.state() == "Interrupted");
    provider.delete(&name).await?;
    let left = residue(&root, &name);
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
