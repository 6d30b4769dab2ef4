//! The checkout, done in the workspace itself.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kled_core::workspace::Source;
use kled_core::{Error, ErrorKind, Result, Secret};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::call::ANSWER_QUEUE;
use super::commands::Commands;
use crate::agent::Credential;
use crate::agent::checkout::{CheckoutOptions, checkout, end_left_behind};
use crate::agent::protocol::messages::checkout_response::Message as Answer;
use crate::agent::protocol::messages::{CheckedOut, CheckoutRequest, CheckoutResponse};
use crate::agent::protocol::status_of;

/// How long what an earlier checkout left running may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The file that says that the checkout is complete, and of what.
const RECORD: &str = "checkout.json";

/// A checkout that is complete.
#[derive(Serialize, Deserialize)]
struct Record {
    source: Source,
    commit: String,
}

type Answers = mpsc::Sender<Result<CheckoutResponse, Status>>;

/// Checks out, or answers at once when the same is there already. Ends when the driver is gone.
pub(super) fn check_out(
    commands: &Arc<Commands>,
    request: CheckoutRequest,
) -> Result<ReceiverStream<Result<CheckoutResponse, Status>>> {
    let source: Source = serde_json::from_str(&request.source)
        .map_err(|cause| Error::new(ErrorKind::InvalidInput, format!("malformed source: {cause}")))?;
    let credential = request.credential.map(|credential| Credential {
        username: credential.username,
        password: Secret::new(credential.password),
    });
    let (answers, receiver) = mpsc::channel(ANSWER_QUEUE);
    let commands = Arc::clone(commands);
    tokio::spawn(async move {
        let last = tokio::select! {
            result = run(&commands, source, credential, answers.clone()) => match result {
                Ok(done) => Ok(CheckoutResponse { message: Some(Answer::Done(done)) }),
                Err(error) => Err(status_of(&error)),
            },
            () = answers.closed() => return,
        };
        // The driver may be gone.
        let _gone = answers.send(last).await;
    });
    Ok(ReceiverStream::new(receiver))
}

/// A workspace that is being filled is not idle, however quiet its remote is.
struct AtWork<'a>(&'a Commands);

impl<'a> AtWork<'a> {
    fn begin(commands: &'a Commands) -> Self {
        // The agent itself is what runs.
        commands.began(std::process::id());
        Self(commands)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.ended(std::process::id());
    }
}

async fn run(
    commands: &Commands,
    source: Source,
    credential: Option<Credential>,
    answers: Answers,
) -> Result<CheckedOut> {
    let configuration = &commands.configuration;
    let (Some(folder), Some(state)) = (configuration.checkout.clone(), configuration.state.clone()) else {
        return Err(Error::new(ErrorKind::Unsupported, "this workspace is checked out from outside"));
    };
    let _one_at_a_time = commands.checkout_turn.lock().await;
    let _at_work = AtWork::begin(commands);
    let path = folder.display().to_string();
    let record = state.join(RECORD);
    let known = tokio::fs::read(&record).await.ok();
    let known = known.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
    if let Some(known) = known.filter(|known| known.source == source) {
        return Ok(CheckedOut { commit: known.commit, path });
    }
    let owner = commands.configuration.id.to_string();
    let failed = |what: &'static str| {
        move |cause: io::Error| Error::new(kind_of(&cause), format!("{what}: {cause}")).because(cause)
    };
    if !end_left_behind(&owner, &folder, END_LIMIT).await {
        return Err(Error::new(ErrorKind::Unavailable, "an earlier checkout has not ended").temporary());
    }
    let (place, remembered) = (folder.clone(), state.clone());
    blocking(move || {
        std::fs::create_dir_all(&remembered)?;
        std::fs::create_dir_all(&place)?;
        empty(&place)
    })
    .await
    .map_err(failed("cannot empty the folder of the checkout"))?;
    let options = CheckoutOptions {
        report: Arc::new(move |line| {
            // Lines of progress that the driver is too slow for are left out.
            let message = Some(Answer::Progress(line.to_owned()));
            let _left_out = answers.try_send(Ok(CheckoutResponse { message }));
        }),
        inherited: None,
        owner: Some(owner),
        credential,
    };
    let commit = checkout(&source, &folder, &options).await?.commit;
    let text = serde_json::to_vec(&Record { source, commit: commit.clone() })
        .map_err(|cause| Error::new(ErrorKind::Internal, "the checkout cannot be recorded").because(cause))?;
    blocking(move || {
        let mut file = tempfile::NamedTempFile::new_in(&state)?;
        io::Write::write_all(&mut file, &text)?;
        file.as_file().sync_all()?;
        file.persist(record)?;
        Ok(())
    })
    .await
    .map_err(failed("cannot record the checkout"))?;
    Ok(CheckedOut { commit, path })
}

fn kind_of(cause: &io::Error) -> ErrorKind {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        _ => ErrorKind::Internal,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|cause| Err(io::Error::other(cause)))
}

/// Removes what is in a folder and keeps the folder, which may be a mount point.
pub(super) fn empty(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
