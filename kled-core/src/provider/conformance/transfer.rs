//! Bytes on their way in and out besides commands: copies and ports; and what the agent says.

use std::num::NonZeroU16;
use std::sync::Arc;

use tokio::io::AsyncReadExt;

use super::trial::{Failure, Outcome, Trial, ensure, equal};
use super::{Case, case};
use crate::provider::{
    ConnectRequest, DownloadRequest, ExecRequest, Provider, ProviderExt, StatusOptions, UploadRequest,
};
use crate::{Error, ErrorKind, Result, WorkspaceName};

pub(super) const CASES: &[Case] = &[
    case!(
        "files-are-copied-both-ways",
        1,
        copied_both_ways,
        [Copy, Exec],
        "what is uploaded is what commands see and what is downloaded, mode included"
    ),
    case!(
        "a-copy-of-nothing-is-not-found",
        5,
        copy_of_nothing,
        [Copy],
        "a path that does not exist cannot be downloaded, nor anything of a workspace that does not exist"
    ),
    case!(
        "an-upload-that-is-cut-off-leaves-nothing",
        3,
        upload_cut_off,
        [Copy],
        "an archive that ends too early is an error and leaves no part of it"
    ),
    case!(
        "a-port-without-a-listener-is-unavailable",
        5,
        no_listener,
        [Connect],
        "a connection to a port on which nothing listens is refused as such"
    ),
    case!(
        "a-stopped-workspace-cannot-be-reached",
        9,
        stopped,
        [Copy, Connect, Agent],
        "copies, connections and the agent answer that the workspace is not running"
    ),
    case!(
        "agent-status-is-told",
        1,
        agent_status,
        [Agent, Exec],
        "the agent tells its version and counts the commands that run"
    ),
];

/// The size of a header, to which contents are filled up.
const BLOCK: usize = 512;

/// What is copied: longer than a block, and no multiple of it.
fn content() -> Vec<u8> {
    (0..3 * BLOCK + 7).map(|index| (index % 251) as u8).collect()
}

/// A tar archive with one file.
fn archive(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0; BLOCK];
    let mut field = |offset: usize, text: &str| {
        for (byte, value) in header.iter_mut().skip(offset).zip(text.bytes()) {
            *byte = value;
        }
    };
    field(0, name);
    field(100, &format!("{mode:07o}"));
    field(108, "0000000");
    field(116, "0000000");
    field(124, &format!("{:011o}", content.len()));
    field(136, "00000000000");
    // While the sum is taken its own field is blank.
    field(148, "        ");
    field(156, "0");
    field(257, "ustar");
    field(263, "00");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    let sum = format!("{sum:06o}\0 ");
    header.splice(148..156, sum.bytes());
    header.extend_from_slice(content);
    header.resize(header.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    header
}

/// Name, mode and content of the first file of an archive.
fn first_file(archive: &[u8]) -> Option<(String, u32, Vec<u8>)> {
    let text = |from: usize, to: usize| {
        let bytes = archive.get(from..to)?.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(bytes).trim().to_owned())
    };
    let number = |from, to| usize::from_str_radix(&text(from, to)?, 8).ok();
    let content = archive.get(BLOCK..BLOCK + number(124, 136)?)?.to_vec();
    Some((text(0, 100)?, u32::try_from(number(100, 108)?).ok()? & 0o777, content))
}

async fn upload(
    provider: &Arc<dyn Provider>,
    name: &WorkspaceName,
    folder: &str,
    archive: Vec<u8>,
) -> Result<u64> {
    provider.upload(name, UploadRequest::new(folder, std::io::Cursor::new(archive))).await
}

async fn download(provider: &Arc<dyn Provider>, name: &WorkspaceName, path: &str) -> Result<Vec<u8>> {
    let mut reader = provider.download(name, DownloadRequest::new(path)).await?;
    let mut bytes = Vec::new();
    let read = reader.read_to_end(&mut bytes).await;
    read.map_err(|cause| Error::new(ErrorKind::Unavailable, "the archive was cut off").because(cause))?;
    Ok(bytes)
}

async fn copied_both_ways(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let sent = archive("file", 0o751, &content());
    let size = sent.len() as u64;
    let taken = trial.ok("upload", upload(&provider, &name, "conformance/new", sent)).await?;
    equal("the bytes that upload answers", &size, &taken)?;
    let seen = trial.run(&provider, &name, &["cat", "conformance/new/file"]).await?;
    ensure(
        seen.stdout == content(),
        "what a command reads",
        "what was uploaded",
        format_args!("{} bytes", seen.stdout.len()),
    )?;
    let received = trial.ok("download", download(&provider, &name, "conformance/new/file")).await?;
    let (entry, mode, bytes) = first_file(&received)
        .ok_or_else(|| Failure::new("download", "an archive with a file", "something else"))?;
    equal("the name in the archive", &"file".to_owned(), &entry)?;
    equal("the mode in the archive", &0o751, &mode)?;
    ensure(bytes == content(), "download", "what was uploaded", format_args!("{} bytes", bytes.len()))
}

async fn copy_of_nothing(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let missing = download(&provider, &name, "conformance/nothing");
    trial.fails("download of a path that is not there", &[ErrorKind::NotFound], missing).await?;
    let nobody = trial.name()?;
    let missing = download(&provider, &nobody, ".");
    trial.fails("download of no workspace", &[ErrorKind::NotFound], missing).await?;
    let missing = upload(&provider, &nobody, ".", archive("file", 0o644, b""));
    trial.fails("upload to no workspace", &[ErrorKind::NotFound], missing).await.map(drop)
}

async fn upload_cut_off(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let mut cut = archive("file", 0o644, &content());
    cut.truncate(2 * BLOCK);
    let kinds = [ErrorKind::InvalidInput, ErrorKind::Unavailable];
    trial.fails("upload of half an archive", &kinds, upload(&provider, &name, "conformance", cut)).await?;
    let left = download(&provider, &name, "conformance/file");
    trial.fails("download of what was cut off", &[ErrorKind::NotFound], left).await.map(drop)
}

/// Port 1 is reserved for a service that nobody has.
const UNUSED: NonZeroU16 = NonZeroU16::MIN;

async fn no_listener(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let connect = async { provider.connect(&name, ConnectRequest::new(UNUSED)).await.map(drop) };
    trial.fails("connect to port 1", &[ErrorKind::Unavailable], connect).await?;
    let nobody = trial.name()?;
    let connect = async { provider.connect(&nobody, ConnectRequest::new(UNUSED)).await.map(drop) };
    trial.fails("connect to no workspace", &[ErrorKind::NotFound], connect).await.map(drop)
}

async fn stopped(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    trial.ok("stop", provider.stop(&name)).await?;
    let kinds = [ErrorKind::InvalidState];
    trial.fails("upload", &kinds, upload(&provider, &name, ".", archive("file", 0o644, b""))).await?;
    trial.fails("download", &kinds, download(&provider, &name, ".")).await?;
    let connect = async { provider.connect(&name, ConnectRequest::new(UNUSED)).await.map(drop) };
    trial.fails("connect", &kinds, connect).await?;
    trial
        .fails("agent_status", &kinds, provider.agent_status(&name, StatusOptions::default()))
        .await
        .map(drop)
}

async fn agent_status(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let ask = || provider.agent_status(&name, StatusOptions::default());
    let before = trial.ok("agent_status", ask()).await?;
    ensure(!before.version.is_empty(), "the version of the agent", "one", "nothing")?;
    ensure(
        before.last_activity >= before.started,
        "the last activity",
        "not before the start",
        before.last_activity,
    )?;
    // It runs for as long as its input is open.
    let session = trial.ok("exec cat", provider.exec(&name, ExecRequest::new(["cat"]).piped_stdin())).await?;
    let during = trial.ok("agent_status", ask()).await?;
    equal("running commands", &(before.commands + 1), &during.commands)?;
    equal("idle while a command runs", &None, &during.idle)?;
    drop(session);
    let ended = || async { Ok(trial.ok("agent_status", ask()).await?.commands == before.commands) };
    trial.becomes_true("running commands", "none after the end", ended).await
}
