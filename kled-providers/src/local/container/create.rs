//! Creating a workspace, step by step.
//!
//! Every step can be the last one of a killed process. What it leaves is marked, and the next create goes on from the
//! claim with an attempt of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use kled_core::setup::Phase;
use kled_core::workspace::{Decision, Isolation, Operation, Workspace, WorkspaceSpec};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};

use super::agent;
use super::body::{WORKSPACE_PATH, body};
use super::delete::Doomed;
use super::lifecycle::POLL;
use super::marks::{Marks, identity, object_name};
use super::reach::Reached;
use super::state::Observation;
use super::under_way::Turn;
use super::upload::{Owner, archive, owner, single_file};
use super::{Context, Reporter};
use crate::agent::checkout::{CheckoutOptions, checkout};

/// How often a create looks whether it has been overtaken by a delete while it does something long.
const WATCH: Duration = Duration::from_millis(200);

/// What cleaning up after a failed create may take. What is left then is marked, as after a kill.
const CLEAN_UP: Duration = Duration::from_secs(20);

/// The longest `/etc/passwd` that is read.
const USERS_MAX: usize = 1 << 20;

/// A claim of the name, and whether this call made it.
struct Claim {
    marks: Marks,
    is_mine: bool,
}

impl Context {
    pub(super) async fn create(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
        reporter: &Reporter,
    ) -> Result<Workspace> {
        let image = self.check(spec)?;
        let claim = self.claim(name, spec).await?;
        let result = Box::pin(self.finish(name, &image, &claim.marks, reporter)).await;
        match result {
            Ok(workspace) => Ok(workspace),
            Err(Unfinished::SetUp(error)) => Err(error),
            Err(Unfinished::Other(error)) => {
                self.clean_up(name, &claim).await;
                Err(error)
            }
        }
    }

    /// Removes what a create made that failed, so that a corrected spec can have the name, or that was overtaken by a
    /// delete. What another create is working on or has finished stays.
    async fn clean_up(&self, name: &WorkspaceName, claim: &Claim) {
        let clean = async {
            let is_left = match self.observe_claimed(name, &claim.marks).await {
                Ok(observation) => {
                    let status = observation.status(false, self.boot);
                    claim.is_mine && status.decide(Operation::Create) != Decision::Satisfied
                }
                Err(error) => error.kind() == ErrorKind::Cancelled,
            };
            if is_left {
                let doomed = Doomed::one(&claim.marks.id.to_string());
                self.remove(name, &doomed, &mut Vec::new()).await?;
            }
            Ok::<_, Error>(())
        };
        if !matches!(tokio::time::timeout(CLEAN_UP, clean).await, Ok(Ok(()))) {
            tracing::warn!(workspace = %name, "the rest of a failed create is left for a delete");
        }
    }

    /// Refuses what this backend cannot do, and gives the image.
    fn check(&self, spec: &WorkspaceSpec) -> Result<String> {
        let unsupported = |what: &str| Err(Error::new(ErrorKind::Unsupported, what));
        if matches!(spec.isolation, Isolation::Process | Isolation::None) {
            return unsupported("containers are the only isolation of this provider");
        }
        let has_agent = self.agent_program.is_some();
        if !has_agent && (spec.idle_timeout.is_some() || spec.time_to_live.is_some()) {
            let error = "idle timeouts and times to live are kept by the workspace agent, and there is none";
            return unsupported(error).map_err(|error| error.hint("give the provider the agent's program"));
        }
        let names = spec.environment.keys().chain(spec.secrets.keys()).filter(|_| !has_agent);
        if let Some(name) = names.map(|name| name.as_str()).find(|name| name.contains(['-', '.'])) {
            let error = Error::new(ErrorKind::Unsupported, "a shell cannot hand on a variable of this name");
            return Err(error.with("variable", name));
        }
        spec.image.clone().or_else(|| self.default_image.clone()).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "the spec names no image")
                .hint("name the container image to run")
        })
    }

    /// Takes the name, or joins whoever has taken it for the same spec.
    async fn claim(&self, name: &WorkspaceName, spec: &WorkspaceSpec) -> Result<Claim> {
        self.faults.at(Operation::Create, "look").await?;
        let observation = self.look(name).await?;
        let existing = match observation.claim {
            Some(labels) => labels,
            None => {
                if !observation.is_nothing() {
                    // Left of a delete that was cut short, or one is at it now: either way it has to go.
                    self.remove(name, &Doomed::all(&observation), &mut Vec::new()).await?;
                }
                self.faults.at(Operation::Create, "claim").await?;
                let marks = Marks::new(name, spec);
                let labels = self.engine.create_volume(&object_name(name), marks.labels()?).await?;
                if identity(&labels) == Some(&marks.id.to_string()) {
                    return Ok(Claim { marks, is_mine: true });
                }
                labels
            }
        };
        if identity(&existing).is_none() {
            return Err(Error::new(ErrorKind::Conflict, "a volume that is not of a workspace has the name")
                .with("volume", object_name(name))
                .hint("choose another name, or remove the volume"));
        }
        let marks = Marks::read(&existing)?;
        match spec.conflict_with(name, &marks.spec) {
            Some(conflict) => Err(conflict),
            None => Ok(Claim { marks, is_mine: false }),
        }
    }

    /// Brings a claimed workspace to its end, or waits until another create has.
    async fn finish(
        &self,
        name: &WorkspaceName,
        image: &str,
        marks: &Marks,
        reporter: &Reporter,
    ) -> Result<Workspace, Unfinished> {
        loop {
            let observation = self.observe_claimed(name, marks).await?;
            match observation.status(false, self.boot).decide(Operation::Create) {
                Decision::Satisfied => return Ok(self.workspace(name, &observation).await?),
                Decision::Act => {
                    if let Some(turn) = self.under_way.try_take(name).await? {
                        let result = self.build(name, image, marks, &turn, reporter).await;
                        turn.end().await;
                        return match result {
                            Ok(()) => Ok(self.answer(name, marks).await?),
                            Err(Unfinished::Other(error)) => Ok(self.instead_of(error, name, marks).await?),
                            Err(Unfinished::SetUp(error)) => {
                                self.instead_of(error, name, marks).await.map_err(Unfinished::SetUp)
                            }
                        };
                    }
                }
                _ => {}
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What a create answers that failed: the work of another create, which shares no lock with this one and was
    /// faster, or that it was overtaken, or what failed.
    async fn instead_of(&self, error: Error, name: &WorkspaceName, marks: &Marks) -> Result<Workspace> {
        match self.answer(name, marks).await {
            Err(other) if other.kind() != ErrorKind::Cancelled => Err(error),
            result => result,
        }
    }

    /// The finished workspace.
    async fn answer(&self, name: &WorkspaceName, marks: &Marks) -> Result<Workspace> {
        let observation = self.observe_claimed(name, marks).await?;
        match observation.status(false, self.boot) {
            status if status.decide(Operation::Create) == Decision::Satisfied => {
                self.workspace(name, &observation).await
            }
            status => {
                Err(Error::new(ErrorKind::Unavailable, "the container did not start").with("status", status))
            }
        }
    }

    /// What the engine shows, if the name is still claimed by this workspace.
    async fn observe_claimed(&self, name: &WorkspaceName, marks: &Marks) -> Result<Observation> {
        let observation = self.observe(name).await?;
        match observation.claim.as_ref().and_then(|labels| identity(labels)) == Some(&marks.id.to_string()) {
            true => Ok(observation),
            false => Err(overtaken()),
        }
    }

    async fn still_claimed(&self, name: &WorkspaceName, marks: &Marks) -> Result<()> {
        let labels = self.engine.volume(&object_name(name)).await?;
        match labels.as_ref().and_then(|labels| identity(labels)) == Some(&marks.id.to_string()) {
            true => Ok(()),
            false => Err(overtaken()),
        }
    }

    /// Does something long, and gives it up when the name is deleted meanwhile.
    async fn watched<T>(
        &self,
        name: &WorkspaceName,
        marks: &Marks,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let watch = async {
            loop {
                tokio::time::sleep(WATCH).await;
                // Only the engine's own word counts; one that does not answer is the work's to find out.
                if let Err(error) = self.still_claimed(name, marks).await
                    && error.kind() == ErrorKind::Cancelled
                {
                    return error;
                }
            }
        };
        tokio::select! {
            result = work => result,
            error = watch => Err(error),
        }
    }

    /// The moment before a step: faults enter here, and a delete is noticed.
    async fn step(&self, name: &WorkspaceName, marks: &Marks, step: &str) -> Result<()> {
        self.watched(name, marks, self.faults.at(Operation::Create, step)).await?;
        self.still_claimed(name, marks).await
    }

    async fn build(
        &self,
        name: &WorkspaceName,
        image: &str,
        marks: &Marks,
        turn: &Turn,
        reporter: &Reporter,
    ) -> Result<(), Unfinished> {
        // Looked at again, with the turn: it may have been finished meanwhile, all but its start.
        let observation = self.observe_claimed(name, marks).await?;
        if observation.status(false, self.boot).decide(Operation::Create) == Decision::Satisfied {
            return Ok(());
        }
        if observation.finished().is_some() {
            return Ok(self.start_finished(name, marks, reporter).await?);
        }
        if let Some(attempt) = observation.attempt() {
            return self.bring_up(name, attempt, marks, reporter).await;
        }
        self.step(name, marks, "image").await?;
        self.watched(name, marks, self.have_image(image, reporter)).await?;
        self.step(name, marks, "checkout").await?;
        let folder = turn.folder().await.map_err(no_folder)?;
        let work = self.check_out(&folder, marks, turn, reporter);
        let commit = self.watched(name, marks, work).await?;
        let marks = &Marks { commit: Some(commit), ..marks.clone() };
        let object = self.assemble(name, image, marks, &folder, reporter).await?;
        if self.agent_program.is_some() {
            return self.bring_up(name, &object, marks, reporter).await;
        }
        self.complete(name, marks, &object).await?;
        Ok(self.start_finished(name, marks, reporter).await?)
    }

    /// Starts a container that has its final name.
    async fn start_finished(&self, name: &WorkspaceName, marks: &Marks, reporter: &Reporter) -> Result<()> {
        self.step(name, marks, "start").await?;
        reporter.say("Starting", "starting the container");
        self.engine.start_container(&object_name(name)).await.map_err(no_shell)?;
        self.still_claimed(name, marks).await?;
        reporter.say("Started", "the workspace is running");
        Ok(())
    }

    /// Starts a container that has its files and an agent, has the project set up, and gives it its final name: what
    /// has that name is ready. One whose set-up was cut short goes on where it was.
    async fn bring_up(
        &self,
        name: &WorkspaceName,
        object: &str,
        marks: &Marks,
        reporter: &Reporter,
    ) -> Result<(), Unfinished> {
        self.step(name, marks, "start").await?;
        reporter.say("Starting", "starting the container");
        self.engine.start_container(object).await.map_err(no_program)?;
        let client = self.watched(name, marks, self.connect_started(object)).await?;
        self.step(name, marks, "set-up").await?;
        let set_up = self.set_up(&client, &marks.spec, Phase::Create, reporter);
        let set_up = self.watched(name, marks, set_up).await;
        if let Err(error) = set_up {
            if error.kind() != ErrorKind::Cancelled {
                self.note_failure(object, &error).await;
            }
            return Err(Unfinished::SetUp(error));
        }
        self.complete(name, marks, object).await?;
        self.agents.keep(name, Reached { marks: marks.clone(), client });
        reporter.say("Started", "the workspace is running");
        Ok(())
    }

    async fn have_image(&self, image: &str, reporter: &Reporter) -> Result<()> {
        if self.engine.image(image).await?.is_some() {
            return Ok(());
        }
        reporter.say("Pulling", format!("pulling the image {image}"));
        let pulled = self.engine.pull(image, |status| reporter.say("Pulling", status)).await;
        let unavailable = |cause: Option<Error>| {
            let error = Error::new(ErrorKind::ImageUnavailable, "the image cannot be had")
                .with("image", image)
                .hint("check its name and the login of the engine, or load it into the engine");
            match cause {
                Some(cause) => error.because(cause),
                None => error,
            }
        };
        match pulled {
            Err(error) if error.kind() == ErrorKind::StorageFull => Err(error),
            // An engine that does not answer at all will say so again.
            result => match self.engine.image(image).await? {
                Some(_) => Ok(()),
                None => Err(unavailable(result.err())),
            },
        }
    }

    async fn check_out(
        &self,
        folder: &Path,
        marks: &Marks,
        turn: &Turn,
        reporter: &Reporter,
    ) -> Result<String> {
        reporter.say("Cloning", format!("checking out {}", marks.spec.source.repository));
        let lines = reporter.clone();
        let options = CheckoutOptions {
            report: Arc::new(move |line| lines.say("Cloning", line)),
            inherited: Some(turn.file()),
            owner: Some(marks.id.to_string()),
            credential: None,
        };
        Ok(checkout(&marks.spec.source, folder, &options).await?.commit)
    }

    /// Makes the volume and the container of this attempt, and fills them. Answers their name.
    async fn assemble(
        &self,
        name: &WorkspaceName,
        image: &str,
        marks: &Marks,
        folder: &Path,
        reporter: &Reporter,
    ) -> Result<String> {
        let attempt = kled_core::WorkspaceId::random().to_string();
        let object = format!("{}-{}", object_name(name), &attempt[..8]);
        self.step(name, marks, "volume").await?;
        self.engine.create_volume(&object, marks.labels()?).await?;
        self.step(name, marks, "container").await?;
        let body = body(marks, image, &object, self.agent_program.as_ref())?;
        self.engine.create_container(&object, body).await?;
        self.step(name, marks, "upload").await?;
        reporter.say("Uploading", "copying the checkout into the volume");
        let owner = self.owner(image, &object).await?;
        let upload = self.engine.upload(&object, WORKSPACE_PATH, archive(folder.to_owned(), owner));
        self.watched(name, marks, upload).await?;
        if let Some(program) = self.agent_program.clone() {
            let files = tokio::task::spawn_blocking(move || agent::files(&program, owner));
            let files = files.await.map_err(std::io::Error::other).flatten().map_err(no_files)?;
            let upload = self.engine.upload(&object, "/", stream::iter([Ok(files)]));
            self.watched(name, marks, upload).await?;
        }
        Ok(object)
    }

    /// Gives the container its final name, which decides at the engine which attempt is the workspace.
    async fn complete(&self, name: &WorkspaceName, marks: &Marks, object: &str) -> Result<()> {
        self.step(name, marks, "complete").await?;
        if !self.engine.rename_container(object, &object_name(name)).await? {
            self.discard(object).await?;
            return Err(
                Error::new(ErrorKind::Conflict, "another create has finished the workspace").temporary()
            );
        }
        self.discard_others(name, marks, object).await
    }

    /// Whom the files are to belong to: the image's user.
    async fn owner(&self, image: &str, container: &str) -> Result<Owner> {
        let image = self.engine.image(image).await?;
        let setting = image.and_then(|image| image.config?.user).unwrap_or_default();
        if let Some(owner) = owner(&setting, &[]).filter(|_| setting.is_empty()) {
            return Ok(owner);
        }
        let users = self.read_users(container).await?;
        owner(&setting, &users).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "the image's user is not in its /etc/passwd")
                .with("user", &setting)
        })
    }

    async fn read_users(&self, container: &str) -> Result<Vec<u8>> {
        // An image without users has numbers.
        let archive = self.engine.download(container, "/etc/passwd", USERS_MAX).await?;
        let Some(archive) = archive else { return Ok(Vec::new()) };
        single_file(&archive).map_err(|cause| {
            Error::new(ErrorKind::Internal, "the engine's archive is malformed").because(cause)
        })
    }

    async fn discard(&self, object: &str) -> Result<()> {
        self.engine.remove_container(object).await?;
        self.engine.remove_volume(object).await.map(drop)
    }

    /// Removes what earlier attempts have left, now that one is complete.
    async fn discard_others(&self, name: &WorkspaceName, marks: &Marks, kept: &str) -> Result<()> {
        let observation = self.observe_claimed(name, marks).await?;
        let finished = object_name(name);
        let other = |object: &str| object != finished && object != kept;
        for container in observation.containers.iter().filter(|container| other(&container.name)) {
            self.engine.remove_container(&container.name).await?;
        }
        for volume in observation.volumes.iter().filter(|volume| other(&volume.name)) {
            self.engine.remove_volume(&volume.name).await?;
        }
        Ok(())
    }
}

/// Why a create is not finished, and with that what becomes of what it has made.
enum Unfinished {
    /// The set-up of the project failed: what is there stays, for the next create to go on with.
    SetUp(Error),
    /// Anything else.
    Other(Error),
}

impl From<Error> for Unfinished {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

fn overtaken() -> Error {
    Error::new(ErrorKind::Cancelled, "the workspace was deleted while it was created")
}

fn no_folder(cause: std::io::Error) -> Error {
    let full = cause.kind() == std::io::ErrorKind::StorageFull;
    let kind = if full { ErrorKind::StorageFull } else { ErrorKind::Unavailable };
    Error::new(kind, "a folder for the checkout cannot be made").because(cause)
}

fn no_files(cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "the agent's files cannot be packed").because(cause)
}

/// The agent could not be started.
fn no_program(error: Error) -> Error {
    if error.kind() == ErrorKind::Unavailable || error.kind() == ErrorKind::InvalidInput {
        error.hint("the agent's program has to be static and for the engine's architecture")
    } else {
        error
    }
}

/// The main process could not be started: nearly always an image without a shell.
fn no_shell(error: Error) -> Error {
    if error.kind() == ErrorKind::Unavailable || error.kind() == ErrorKind::InvalidInput {
        error.hint("the image needs a POSIX sh and sleep")
    } else {
        error
    }
}
