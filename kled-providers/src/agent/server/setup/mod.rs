//! Carries out what the project asks for after its checkout, and what the user brings along.

mod dotfiles;
mod read;
mod record;
mod step;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use kled_core::provider::{LogStream, Variables};
use kled_core::setup::{
    Action, Dotfiles, GitIdentity, IgnoredField, IgnoredReason, Phase, Resolved, Scope, Setup, Step,
    devcontainer_id, plan,
};
use kled_core::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

pub use self::read::{has_setup, read_setup};
use self::record::Record;
use super::Configuration;
use super::account::Account;
use super::call::ANSWER_QUEUE;
use super::commands::Commands;
use crate::agent::protocol::messages::setup_response::Message as Answer;
use crate::agent::protocol::messages::{self, SetupPhase, SetupRequest, SetupResponse, SetupSummary};
use crate::agent::protocol::{broken_protocol, status_of};

/// What a command of the workspace begins with.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    pub(super) environment: Variables,
    pub(super) folder: PathBuf,
    /// The user, where it is not the agent's own.
    pub(super) account: Option<Account>,
}

impl Applied {
    fn runs_as(&self, user: &str) -> bool {
        let own = Account::own_number();
        self.account.is_some()
            || user == own.to_string()
            || (user == "root" && own == 0)
            || Account::find(user).is_some_and(|account| account.number() == own)
    }
}

/// How far the workspace is set up.
#[derive(Debug)]
pub(super) struct Preparation {
    applied: RwLock<Applied>,
    /// Held by whoever sets up. Nothing before the first set-up of this agent.
    record: tokio::sync::Mutex<Option<Record>>,
}

impl Preparation {
    /// As an earlier agent of the workspace left it, but for variables of the user's machine, which nobody keeps.
    pub(super) fn new(configuration: &Configuration) -> Self {
        // A record that cannot be read is an error of the next set-up, not of every command.
        let known = configuration.state.as_deref().and_then(|folder| Record::read(folder).ok().flatten());
        let applied = known.and_then(|record| {
            let (resolved, account) = resolve(configuration, &record.setup, Variables::default()).ok()?;
            Some(applied(configuration, &resolved, account, record.git_identity.as_ref()))
        });
        let applied = applied.unwrap_or_else(|| Applied {
            environment: configuration.environment.clone(),
            folder: configuration.working_directory.clone(),
            account: None,
        });
        Self { applied: RwLock::new(applied), record: tokio::sync::Mutex::new(None) }
    }

    pub(super) fn applied(&self) -> Applied {
        self.applied.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn apply(&self, applied: Applied) {
        *self.applied.write().unwrap_or_else(PoisonError::into_inner) = applied;
    }
}

/// What the project asks for comes to here, and the user that commands run as, where it is another one than the agent's
/// own. That one is found where the agent made the checkout, and so can give it away.
fn resolve(
    configuration: &Configuration,
    setup: &Setup,
    local_environment: Variables,
) -> Result<(Resolved, Option<Account>)> {
    let checkout = configuration.working_directory.display().to_string();
    let mut scope = Scope {
        local_environment,
        container_environment: configuration.environment.clone(),
        local_workspace_folder: checkout.clone(),
        container_workspace_folder: checkout,
        devcontainer_id: devcontainer_id(configuration.id),
    };
    let user = setup.user.as_deref().filter(|_| configuration.checkout.is_some());
    let account = user.and_then(|user| Account::find(&scope.substitute(user)));
    let account =
        account.filter(|account| account.number() != Account::own_number() && account.can_be_entered());
    scope.container_environment.0.extend(account.iter().flat_map(Account::environment));
    Ok((setup.resolve(&scope)?, account))
}

fn applied(
    configuration: &Configuration,
    resolved: &Resolved,
    account: Option<Account>,
    identity: Option<&GitIdentity>,
) -> Applied {
    let mut environment = resolved.environment.clone();
    if let Some(identity) = identity {
        let variables = identity.environment(&environment.0);
        environment.0.extend(variables);
    }
    // The workspace's processes are found by these; no project can take them away.
    let own = configuration.environment.0.iter().filter(|(name, _)| name.starts_with("KLED_"));
    environment.0.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    let folder = Some(PathBuf::from(&resolved.folder)).filter(|folder| folder.is_dir());
    let folder = folder.unwrap_or_else(|| configuration.working_directory.clone());
    Applied { environment, folder, account }
}

/// What lines of the set-up are by in the log.
const LABEL: &str = "set-up";

/// Tells the driver, and the log, how far it is.
pub(super) struct Progress {
    commands: Arc<Commands>,
    answers: mpsc::Sender<Result<SetupResponse, Status>>,
}

impl Progress {
    async fn line(&self, line: String) {
        self.commands.log(LogStream::Supervisor, Some(LABEL.into()), line.clone());
        self.say(Answer::Progress(line)).await;
    }

    async fn say(&self, message: Answer) {
        // The driver may be gone: then the running step ends.
        let _gone = self.answers.send(Ok(SetupResponse { message: Some(message) })).await;
    }

    /// Waits until nobody listens any more.
    async fn abandoned(&self) {
        self.answers.closed().await;
    }
}

/// What is asked for.
struct Request {
    phase: Phase,
    dotfiles: Option<Dotfiles>,
    git_identity: Option<GitIdentity>,
    local_environment: Variables,
    environment: Variables,
}

impl TryFrom<SetupRequest> for Request {
    type Error = Error;

    fn try_from(request: SetupRequest) -> Result<Self> {
        let phase = match request.phase() {
            SetupPhase::Create => Phase::Create,
            SetupPhase::Start => Phase::Start,
            SetupPhase::Attach => Phase::Attach,
            SetupPhase::Unspecified => return Err(broken_protocol()),
        };
        let dotfiles = |asked: messages::Dotfiles| {
            Ok::<_, Error>(Dotfiles {
                repository: asked.repository.parse()?,
                revision: asked.revision,
                install_command: asked.install_command,
            })
        };
        let identity = request.git_identity.map(|identity| GitIdentity::new(identity.name, identity.email));
        Ok(Self {
            phase,
            dotfiles: request.dotfiles.map(dotfiles).transpose()?,
            git_identity: identity.transpose()?,
            local_environment: Variables(request.local_environment.into_iter().collect()),
            environment: Variables(request.environment.into_iter().collect()),
        })
    }
}

/// Sets up. Ends when the driver is gone.
pub(super) fn set_up(
    commands: &Arc<Commands>,
    request: SetupRequest,
) -> Result<ReceiverStream<Result<SetupResponse, Status>>> {
    let request = Request::try_from(request)?;
    let (answers, receiver) = mpsc::channel(ANSWER_QUEUE);
    let commands = Arc::clone(commands);
    tokio::spawn(async move {
        let progress = Progress { commands: Arc::clone(&commands), answers };
        match carry_out(&commands, request, &progress).await {
            Ok(summary) => progress.say(Answer::Done(summary)).await,
            Err(error) => {
                let _gone = progress.answers.send(Err(status_of(&in_one_line(&error)))).await;
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// The context does not travel, so it becomes part of the message.
fn in_one_line(error: &Error) -> Error {
    reworded(error, error.to_string())
}

/// The same error in other words.
fn reworded(error: &Error, message: String) -> Error {
    let reworded = Error::new(error.kind(), message);
    error.hint_text().into_iter().fold(reworded, Error::hint)
}

async fn carry_out(commands: &Arc<Commands>, request: Request, progress: &Progress) -> Result<SetupSummary> {
    let (phase, environment) = (request.phase, request.environment.clone());
    let mut turn = tokio::select! {
        turn = commands.preparation.record.lock() => turn,
        () = progress.abandoned() => return Err(step::abandoned()),
    };
    let state = commands.configuration.state.clone();
    let (configuration, known) = (commands.configuration.clone(), turn.clone());
    let (mut record, resolved, applied) = blocking(move || prepare(&configuration, known, request)).await?;
    commands.preparation.apply(applied.clone());
    let mut run = Run { commands, progress, environment, resolved, applied, ignored: Vec::new() };
    let result = run.all(phase, &mut record, state).await;
    *turn = Some(record);
    result.map(|file| run.summary(file))
}

/// Reads what was done and what is asked for, and makes the checkout the user's.
fn prepare(
    configuration: &Configuration,
    known: Option<Record>,
    request: Request,
) -> Result<(Record, Resolved, Applied)> {
    let mut record = match (known, &configuration.state) {
        (Some(known), _) => known,
        (None, Some(folder)) => Record::read(folder)?.unwrap_or_default(),
        (None, None) => Record::default(),
    };
    record.setup = Setup { dotfiles: request.dotfiles, ..read_setup(&configuration.working_directory)? };
    record.git_identity = request.git_identity.or(record.git_identity);
    let (resolved, account) = resolve(configuration, &record.setup, request.local_environment)?;
    if let (Some(account), Some(folder)) = (&account, &configuration.checkout) {
        account.own(folder).map_err(|cause| {
            Error::new(
                ErrorKind::PermissionDenied,
                format!("the checkout cannot be given to the user: {cause}"),
            )
        })?;
    }
    let applied = applied(configuration, &resolved, account, record.git_identity.as_ref());
    Ok((record, resolved, applied))
}

/// One set-up.
struct Run<'a> {
    commands: &'a Arc<Commands>,
    progress: &'a Progress,
    /// Of the commands of this set-up alone.
    environment: Variables,
    resolved: Resolved,
    applied: Applied,
    /// Besides what is known before the first step.
    ignored: Vec<IgnoredField>,
}

impl Run<'_> {
    /// Runs the steps of a phase that are not done, and notes each that succeeded. Answers which file they are from.
    async fn all(
        &mut self,
        phase: Phase,
        record: &mut Record,
        state: Option<PathBuf>,
    ) -> Result<Option<String>> {
        note(record, state.as_ref()).await?;
        let phases: &[Phase] = match phase {
            Phase::Create => &[Phase::Create, Phase::Start],
            Phase::Start => &[Phase::Start],
            Phase::Attach => &[Phase::Attach],
        };
        let steps: Vec<Step> =
            phases.iter().flat_map(|phase| plan(&record.setup, *phase, &record.done)).collect();
        let mut ready = false;
        for step in steps {
            if !step.awaited && !ready {
                self.progress.say(Answer::Ready(true)).await;
                ready = true;
            }
            self.step(&step, record.setup.file.as_deref()).await?;
            record.done.record(&step);
            note(record, state.as_ref()).await?;
        }
        Ok(record.setup.file.clone())
    }

    async fn step(&mut self, step: &Step, file: Option<&str>) -> Result<()> {
        match &step.action {
            Action::Run(set) => {
                self.progress.line(format!("running {}", set.field)).await;
                let set = set.substituted(&self.resolved.scope);
                let place = step::Place { folder: &self.applied.folder, environment: &self.environment };
                step::run(self.commands, &set, file, place, self.progress).await
            }
            Action::Dotfiles(dotfiles) => {
                self.progress.line(format!("installing dotfiles from {}", dotfiles.repository)).await;
                let (applied, environment) = (&self.applied, &self.environment);
                let kept =
                    dotfiles::install(self.commands, dotfiles, applied, environment, self.progress).await?;
                let kept = kept.into_iter().map(|file| IgnoredField::new(file, None, IgnoredReason::Exists));
                self.ignored.extend(kept);
                Ok(())
            }
        }
    }

    fn summary(self, file: Option<String>) -> SetupSummary {
        let Resolved { image, user, ports, folder, mut ignored, .. } = self.resolved;
        if image.is_some() {
            ignored.push(IgnoredField::new("image", None, IgnoredReason::OtherImage));
        }
        if self.applied.folder != std::path::Path::new(&folder) {
            ignored.push(IgnoredField::new("workspaceFolder", None, IgnoredReason::OutsideCheckout));
        }
        if user.is_some_and(|user| !self.applied.runs_as(&user)) {
            ignored.push(IgnoredField::new("remoteUser", None, IgnoredReason::OtherUser));
        }
        ignored.extend(self.ignored);
        let before = &self.commands.configuration.environment.0;
        let variables = self.applied.environment.0.into_iter();
        let variables =
            variables.filter(|(name, value)| before.get(name) != Some(value)).map(|(name, _)| name);
        SetupSummary {
            file,
            image,
            variables: variables.collect(),
            ports: ports.into_iter().map(Into::into).collect(),
            ignored: ignored.into_iter().map(Into::into).collect(),
        }
    }
}

async fn note(record: &Record, folder: Option<&PathBuf>) -> Result<()> {
    let Some(folder) = folder.cloned() else { return Ok(()) };
    let record = record.clone();
    blocking(move || record.write(&folder)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|cause| {
        Err(Error::new(ErrorKind::Internal, "a part of the set-up ended").because(cause))
    })
}

#[cfg(test)]
mod tests;
