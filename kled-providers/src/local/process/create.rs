//! Creation, step by step. Each step can be cut short; the next create goes on, a delete removes what is there.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kled_core::provider::{Progress, Severity, StepCount};
use kled_core::workspace::{Checkout, Decision, Operation, Workspace, WorkspaceSpec};
use kled_core::{Error, ErrorKind, Failure, Result, WorkspaceId, WorkspaceName};

use super::layout::{
    Folder, Lock, blocking, create_private, file_error, read_json, remove_folder, write_json,
};
use super::record::{Phase, Record, Run};
use super::removal;
use super::sandbox::{Sandbox, View};
use super::serve::Configuration;
use super::set_up::working_directory;
use super::supervisor::Assignment;
use super::{ProcessProvider, journal, observe};
use crate::agent::Token;
use crate::agent::checkout::{CheckedOut, CheckoutOptions, checkout};
use crate::variables::variables_of;

/// The steps, as they are reported and as faults are injected.
const RESERVE: &str = "reserve";
const CHECKOUT: &str = "checkout";
const START: &str = "start";
const SET_UP: &str = "set-up";
const COMMIT: &str = "commit";
const STEPS: [&str; 5] = [RESERVE, CHECKOUT, START, SET_UP, COMMIT];

/// How often somebody who waits looks whether a lock was given back, or a workspace deleted.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

impl ProcessProvider {
    pub(super) async fn create(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
        progress: Progress,
    ) -> Result<Workspace> {
        // What cannot be had is said before anything is made.
        let sandbox = self.sandbox_for(spec).await?;
        if let Some(image) = &spec.image {
            return Err(Error::new(ErrorKind::Unsupported, "a process has no image")
                .with("image", image)
                .hint("ask for isolation container, or leave the image out"));
        }
        loop {
            let (record, made) = self.reserve(name, spec, &progress).await?;
            let folder = self.0.root.folder(name);
            let Some(lock) = self.lock_operation(&folder, record.id).await? else {
                if made {
                    return Err(deleted_meanwhile());
                }
                continue;
            };
            let Some(looked) = self.look(name).await?.filter(|(found, _)| found.id == record.id) else {
                continue;
            };
            if let Some(conflict) = spec.conflict_with(name, &looked.0.spec) {
                return Err(conflict);
            }
            // The lock is this call's own, so nobody else is creating.
            let status = looked.0.status(&super::Observed { operation: false, ..looked.1.clone() });
            if status.decide(Operation::Create) == Decision::Satisfied {
                return Ok(self.workspace(&looked));
            }
            let attempt = Attempt { provider: self, folder, record: looked.0, lock, sandbox, progress };
            return attempt.run().await;
        }
    }

    pub(super) async fn sandbox_for(&self, spec: &WorkspaceSpec) -> Result<Sandbox> {
        let inner = Arc::clone(&self.0);
        let strongest =
            blocking(move || Ok(*inner.strongest.get_or_init(|| Sandbox::detect(inner.preferred)))).await?;
        Sandbox::for_isolation(spec.isolation, strongest)
    }

    /// Takes the name, or finds who has it. Says whether this call took it.
    async fn reserve(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
        progress: &Progress,
    ) -> Result<(Record, bool)> {
        self.0.faults.at(Operation::Create, RESERVE).await?;
        let root = self.0.root.clone();
        let folder = root.folder(name);
        let fresh = Record {
            name: name.clone(),
            id: WorkspaceId::random(),
            created: Timestamp::now(),
            spec: spec.clone(),
            phase: Phase::Creating { step: RESERVE.into(), failure: None },
            checkout: None,
        };
        let (record, made) = blocking(move || {
            root.locked(|| {
                match read_json::<Record>(&folder.record())? {
                    Some(record) if !gives_way(&record, &fresh.spec, &folder)? => return Ok((record, false)),
                    Some(_) => remove_folder(folder.path())?,
                    None => {}
                }
                // A folder without a record was left by a create that was killed here; this one takes it over.
                create_private(folder.path())
                    .map_err(|cause| file_error("cannot create", folder.path(), cause))?;
                folder.create_parts()?;
                write_json(&folder.record(), &fresh)?;
                Ok((fresh, true))
            })
        })
        .await?;
        if let Some(conflict) = spec.conflict_with(name, &record.spec) {
            return Err(conflict);
        }
        if made {
            self.report(progress, name, RESERVE, "Reserved", format!("reserved the name {name}"));
        }
        Ok((record, made))
    }

    /// Waits for the lock on operations of the workspace `id`. `None` when the workspace is gone meanwhile.
    pub(super) async fn lock_operation(&self, folder: &Folder, id: WorkspaceId) -> Result<Option<Lock>> {
        loop {
            let looked = folder.clone();
            let lock = blocking(move || {
                if read_json::<Record>(&looked.record())?.is_none_or(|record| record.id != id) {
                    return Ok(Attempted::Gone);
                }
                let lock = match Lock::try_take(&looked.operation_lock()) {
                    Ok(lock) => lock,
                    // The folder went between the two looks.
                    Err(error) if !looked.path().exists() => {
                        tracing::debug!(%error, "the workspace is gone");
                        return Ok(Attempted::Gone);
                    }
                    Err(error) => return Err(error),
                };
                let Some(lock) = lock else { return Ok(Attempted::Held) };
                let same = read_json::<Record>(&looked.record())?.is_some_and(|record| record.id == id);
                Ok(if same && lock.is_current() { Attempted::Taken(lock) } else { Attempted::Gone })
            })
            .await?;
            match lock {
                Attempted::Taken(lock) => return Ok(Some(lock)),
                Attempted::Gone => return Ok(None),
                Attempted::Held => tokio::time::sleep(LOOK_PERIOD).await,
            }
        }
    }

    pub(super) fn report(
        &self,
        progress: &Progress,
        name: &WorkspaceName,
        step: &str,
        reason: &str,
        message: String,
    ) {
        let number = STEPS.iter().position(|known| *known == step);
        let step =
            number.and_then(|number| u32::try_from(number + 1).ok()).zip(u32::try_from(STEPS.len()).ok());
        let mut event = journal::event(name, Operation::Create, Severity::Normal, reason, message);
        event.step = step.map(|(number, total)| StepCount { number, total });
        journal::append(&self.0.root.folder(name).events(), &event);
        progress.report(event);
    }

    /// Starts the supervisor of a workspace that has its files.
    pub(super) async fn launch(&self, folder: &Folder, record: &Record, sandbox: Sandbox) -> Result<Run> {
        let supervisor = self.0.supervisor.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "no supervisor program is configured")
                .hint("give SupervisorProgram::this_program() to LocalProvider::builder()")
        })?;
        let view = View::of(folder, &self.0.user_home, supervisor.path());
        let environment = super::environment::of_commands(&record.name, record.id, sandbox, &view);
        let conditions = self.left_out(folder, record, sandbox).await?;
        let serve = Configuration {
            name: record.name.clone(),
            id: record.id,
            sandbox,
            view,
            working_directory: working_directory(folder, record),
            environment,
            variables: variables_of(&record.spec),
            sets_up: self.sets_up(sandbox),
            idle_timeout: record.spec.idle_timeout,
            // Two random identities: 244 random bits.
            token: Token::random(),
        };
        let expires = record.spec.expires(record.created);
        let limits = record.spec.resources.clone();
        let folder = folder.path().to_owned();
        let conditions = conditions.into_iter().collect();
        supervisor.launch(&Assignment { folder, serve, limits, conditions, expires }).await
    }
}

enum Attempted {
    Taken(Lock),
    Held,
    Gone,
}

/// True for a create that failed because what it asked for does not exist, when another spec asks for its name: whoever
/// corrects a misspelt branch need not delete what never was. One that was killed, or failed for a passing reason, keeps
/// its name, for its own create to finish.
fn gives_way(record: &Record, spec: &WorkspaceSpec, folder: &Folder) -> Result<bool> {
    let kind = match &record.phase {
        Phase::Creating { failure: Some(failure), .. } => failure.kind,
        _ => return Ok(false),
    };
    let never_was = matches!(
        kind,
        ErrorKind::RepositoryNotFound | ErrorKind::RevisionNotFound | ErrorKind::Unauthenticated
    );
    if !never_was || record.checkout.is_some() || record.spec == *spec {
        return Ok(false);
    }
    // Somebody may be trying again just now.
    Ok(Lock::try_take(&folder.operation_lock())?.is_some())
}

fn deleted_meanwhile() -> Error {
    Error::new(ErrorKind::Cancelled, "the workspace was deleted while it was being created")
}

/// One try to bring a reserved workspace to its end.
struct Attempt<'a> {
    provider: &'a ProcessProvider,
    folder: Folder,
    record: Record,
    lock: Lock,
    sandbox: Sandbox,
    progress: Progress,
}

impl Attempt<'_> {
    async fn run(mut self) -> Result<Workspace> {
        match self.steps().await {
            Ok(workspace) => Ok(workspace),
            Err(_) if !self.lock.is_current() => Err(deleted_meanwhile()),
            Err(error) => {
                self.remember(&error).await;
                Err(error)
            }
        }
    }

    async fn steps(&mut self) -> Result<Workspace> {
        self.step(CHECKOUT).await?;
        let checked_out = self.check_out().await?;
        self.record.checkout =
            Some(Checkout { path: self.folder.checkout().display().to_string(), commit: checked_out.commit });
        self.step(START).await?;
        self.start().await?;
        self.step(SET_UP).await?;
        self.set_up().await?;
        self.step(COMMIT).await?;
        self.record.phase = Phase::Ready;
        self.store().await?;
        self.say(COMMIT, "Ready", "the workspace is ready".into());
        let observed = self.provider.look(&self.record.name).await?.ok_or_else(deleted_meanwhile)?;
        Ok(self.provider.workspace(&observed))
    }

    fn say(&self, step: &str, reason: &str, message: String) {
        self.provider.report(&self.progress, &self.record.name, step, reason, message);
    }

    async fn step(&mut self, step: &str) -> Result<()> {
        self.provider.0.faults.at(Operation::Create, step).await?;
        self.record.phase = Phase::Creating { step: step.into(), failure: None };
        self.store().await
    }

    /// Writes the record, unless the workspace was deleted meanwhile.
    async fn store(&self) -> Result<()> {
        if !self.lock.is_current() {
            return Err(deleted_meanwhile());
        }
        let (root, folder, record) = (self.provider.0.root.clone(), self.folder.clone(), self.record.clone());
        blocking(move || {
            // Under the lock that a delete takes, so the record cannot land in a workspace made anew.
            root.locked(|| match read_json::<Record>(&folder.record())? {
                Some(stored) if stored.id == record.id => write_json(&folder.record(), &record),
                _ => Err(deleted_meanwhile()),
            })
        })
        .await
    }

    /// Keeps the reason of a failure for `status`. That it cannot be kept must not hide the failure itself.
    async fn remember(&mut self, error: &Error) {
        if let Phase::Creating { failure, .. } = &mut self.record.phase {
            *failure = Some(Failure::from(error));
        }
        if let Err(second) = self.store().await {
            tracing::debug!(error = %second, "cannot keep the reason of a failure");
        }
        let name = &self.record.name;
        let event =
            journal::event(name, Operation::Create, Severity::Warning, "CreateFailed", error.to_string());
        // Not reported: whoever waits gets the error itself.
        journal::append(&self.folder.events(), &event);
    }

    /// Clones into a folder beside and renames it when it is whole, so a checkout that is there is whole.
    async fn check_out(&mut self) -> Result<CheckedOut> {
        if let Some(commit) = self.finished_checkout().await? {
            return Ok(CheckedOut { commit });
        }
        let source = self.record.spec.source.clone();
        self.say(
            CHECKOUT,
            "CheckingOut",
            format!("checking out {} at {}", source.repository, source.revision),
        );
        removal::end_checkout(&self.folder, self.record.id).await?;
        let staging = self.folder.path().join(format!("staging-{}", WorkspaceId::random()));
        let (folder, made) = (self.folder.clone(), staging.clone());
        blocking(move || {
            for leftover in folder.stagings()? {
                remove_folder(&leftover)?;
            }
            std::fs::create_dir(&made).map_err(|cause| file_error("cannot create", &made, cause))
        })
        .await?;
        let options = self.checkout_options();
        let checked_out = tokio::select! {
            result = checkout(&source, &staging, &options) => result?,
            () = self.until_deleted() => return Err(deleted_meanwhile()),
        };
        let (folder, commit) = (self.folder.clone(), checked_out.commit.clone());
        blocking(move || {
            write_json(&folder.path().join("commit.json"), &commit)?;
            std::fs::rename(&staging, folder.checkout())
                .map_err(|cause| file_error("cannot rename", &staging, cause))
        })
        .await?;
        Ok(checked_out)
    }

    /// The commit of a checkout that an earlier attempt finished.
    async fn finished_checkout(&self) -> Result<Option<String>> {
        let folder = self.folder.clone();
        blocking(move || {
            if !folder.checkout().exists() {
                return Ok(None);
            }
            read_json(&folder.path().join("commit.json"))
        })
        .await
    }

    fn checkout_options(&self) -> CheckoutOptions {
        // git's own progress is for whoever waits; it is not kept.
        let (progress, name) = (self.progress.clone(), self.record.name.clone());
        let report = move |line: &str| {
            progress.report(journal::event(
                &name,
                Operation::Create,
                Severity::Normal,
                "CheckingOut",
                line.to_owned(),
            ));
        };
        let owner = Some(self.record.id.to_string());
        CheckoutOptions { report: Arc::new(report), owner, ..CheckoutOptions::default() }
    }

    async fn until_deleted(&self) {
        while self.lock.is_current() {
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }

    async fn start(&self) -> Result<()> {
        let folder = self.folder.clone();
        let looked = blocking(move || observe(&folder)).await?;
        if looked.is_some_and(|(_, observed)| observed.running().is_some()) {
            // An earlier attempt was cut short after it.
            return Ok(());
        }
        // One that is there and not ready belongs to an attempt that was cut short.
        removal::end_run(&self.folder, self.record.id, &self.provider.0.hierarchy).await?;
        self.say(START, "Starting", "starting the workspace".into());
        self.provider.launch(&self.folder, &self.record, self.sandbox).await?;
        Ok(())
    }

    async fn set_up(&self) -> Result<()> {
        self.say(SET_UP, "SettingUp", "setting the project up".into());
        let done = self.provider.set_up(&self.record, self.sandbox, Operation::Create, &self.progress).await;
        if done.is_err() && self.lock.is_current() {
            // Nothing runs of a create that has ended. What this leaves the next one ends.
            let _left = removal::end_run(&self.folder, self.record.id, &self.provider.0.hierarchy).await;
        }
        done
    }
}
