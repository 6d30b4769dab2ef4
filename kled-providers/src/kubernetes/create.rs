//! Creating a workspace, step by step.
//!
//! The StatefulSet is made first: that takes the name, for this spec, and everything else belongs to it. Whoever works
//! on it says so in an annotation and renews that; a create that is killed stops renewing, and the next one goes on from
//! what is there. Every step may be done twice.

use std::time::Duration;

use jiff::Timestamp;
use kled_core::setup::Phase;
use kled_core::workspace::{Decision, Isolation, Operation, Workspace, WorkspaceSpec};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use tokio::task::JoinHandle;

use super::Context;
use super::client::{Claimed, Cluster, Only};
use super::credential::git_credential;
use super::events::Reporter;
use super::marks::{Change, LEASE, Marks, UnderWay};
use super::objects::Blueprint;
use super::reach::Reached;
use super::watch::overtaken;
use crate::agent::{AgentClient, Token};

/// How often whoever is at it says so.
const RENEWAL: Duration = Duration::from_secs(LEASE.as_secs() / 3);

/// Before a name that was taken an instant ago is looked at again.
const PAUSE: Duration = Duration::from_millis(50);

/// Failures of a create after which another spec may have the name: what was asked for does not exist.
const GIVES_NAME_AWAY: [ErrorKind; 3] =
    [ErrorKind::RepositoryNotFound, ErrorKind::RevisionNotFound, ErrorKind::Unauthenticated];

/// The right to work on a workspace, kept until it is dropped.
pub(super) struct Turn {
    cluster: Cluster,
    name: WorkspaceName,
    uid: String,
    under_way: UnderWay,
    renewing: JoinHandle<()>,
    is_given_back: bool,
}

impl Turn {
    pub(super) fn new(cluster: &Cluster, claimed: &Claimed, under_way: UnderWay) -> Self {
        let (name, uid) = (claimed.marks.name.clone(), claimed.uid().to_owned());
        let renewing = {
            let (cluster, name, uid, under_way) =
                (cluster.clone(), name.clone(), uid.clone(), under_way.clone());
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(RENEWAL).await;
                    let renewed = UnderWay { renewed: Timestamp::now(), ..under_way.clone() };
                    let change = Change::default().under_way(Some(&renewed));
                    // One that is gone needs no renewal, and an API server that is away may be back for the next.
                    let _kept = cluster.change(&name, Only { uid: &uid, version: None }, &change, None).await;
                }
            })
        };
        Self { cluster: cluster.clone(), name, uid, under_way, renewing, is_given_back: false }
    }

    /// Ends it together with a change that says how it ended. `None` when the workspace is gone.
    async fn end(mut self, change: Change) -> Result<Option<Claimed>> {
        self.renewing.abort();
        let only = Only { uid: &self.uid, version: None };
        let ended = self.cluster.change(&self.name, only, &change.under_way(None), None).await;
        self.is_given_back = ended.is_ok();
        ended
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.renewing.abort();
        if self.is_given_back {
            return;
        }
        // Best effort: what is not said is known when nothing was renewed for long enough. The step stays for status.
        let ended = UnderWay { renewed: Timestamp::UNIX_EPOCH, ..self.under_way.clone() };
        let (cluster, name, uid) = (self.cluster.clone(), self.name.clone(), self.uid.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let change = Change::default().under_way(Some(&ended));
                let _said = cluster.change(&name, Only { uid: &uid, version: None }, &change, None).await;
            });
        }
    }
}

impl Context {
    pub(super) async fn create(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
        reporter: &Reporter,
    ) -> Result<Workspace> {
        check(spec)?;
        let under_way = UnderWay::new(Operation::Create, "claim");
        let (claimed, turn) = match self.take(name, spec, under_way).await? {
            Taken::Done(workspace) => return Ok(*workspace),
            Taken::Turn(claimed, turn) => (*claimed, *turn),
        };
        reporter.attach(&claimed);
        if claimed.marks.commit.is_some() {
            // Made, and on its way to running.
            let token = self.cluster.token(name).await?;
            self.until_reachable(name, claimed.uid(), &token).await?;
            turn.end(Change::default()).await?;
            return self.status(name).await;
        }
        let uid = claimed.uid().to_owned();
        let built = self.unless_deleted(name, &uid, self.build(name, &claimed, reporter)).await;
        match built {
            Ok((client, commit)) => {
                self.unless_deleted(name, &uid, self.faults.at(Operation::Create, "ready")).await?;
                let claimed = turn.end(Change::default().commit(&commit)).await?.ok_or_else(overtaken)?;
                reporter.say("Started", "the workspace is running");
                if claimed.is_deleting() {
                    return Err(overtaken());
                }
                // Whoever makes a workspace is about to use it.
                self.agents.keep(name, Reached { marks: claimed.marks, client });
                self.status(name).await
            }
            Err(error) => {
                let is_gone = match self.cluster.claimed(name).await {
                    Ok(now) => now.is_none_or(|now| now.uid() != uid || now.is_deleting()),
                    Err(_) => false,
                };
                if is_gone {
                    return Err(overtaken().because(error));
                }
                if GIVES_NAME_AWAY.contains(&error.kind()) {
                    // Nothing of the user's is in it yet.
                    let _left = self.remove(&claimed).await;
                    return Err(error);
                }
                let failure = error.message().to_owned();
                // What failed is the error; that it could not be written down is not worth another.
                let _noted = turn.end(Change::default().failure(Some(failure))).await;
                Err(error)
            }
        }
    }

    /// Takes the name and the right to work on it, or finds that nothing is left to do.
    async fn take(&self, name: &WorkspaceName, spec: &WorkspaceSpec, under_way: UnderWay) -> Result<Taken> {
        self.faults.at(Operation::Create, "look").await?;
        loop {
            let Some(claimed) = self.cluster.claimed(name).await? else {
                self.faults.at(Operation::Create, "claim").await?;
                let marks = Marks::new(name, spec, under_way.clone());
                let set = Blueprint { marks: &marks, settings: &self.settings }.stateful_set()?;
                match self.cluster.claim(name, &set).await? {
                    Some(claimed) if claimed.marks.id == marks.id => {
                        return Ok(self.turn(claimed, under_way));
                    }
                    _ if self.cluster.is_foreign(name).await? => return Err(foreign(name)),
                    // Another one was faster, or the one that was in the way is gone.
                    _ => {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                }
            };
            if claimed.is_deleting() {
                self.until_gone(&claimed).await?;
                continue;
            }
            if let Some(conflict) = spec.conflict_with(name, &claimed.marks.spec) {
                return Err(conflict);
            }
            let observation = self.observed_of(&claimed).await?;
            let status = observation.status(Timestamp::now());
            match status.decide(Operation::Create) {
                Decision::Satisfied => return Ok(Taken::Done(Box::new(self.workspace(&observation)))),
                Decision::Wait => self.until_settled(&claimed).await?,
                Decision::Refuse => return Err(status.refusal(Operation::Create, name)),
                Decision::Act => {
                    let version = claimed.set.metadata.resource_version.as_deref();
                    let change = Change::default()
                        .under_way(Some(&UnderWay { renewed: Timestamp::now(), ..under_way.clone() }));
                    let only = Only { uid: claimed.uid(), version };
                    if let Some(claimed) = self.cluster.change(name, only, &change, None).await? {
                        if observation.obstacle().is_some_and(|obstacle| obstacle.is_final) {
                            // What stood in the way may be gone: a new pod finds out at once.
                            self.cluster.end_pod(name, 0).await?;
                            self.until_no_pod(name, observation.pod_uid()).await?;
                        }
                        return Ok(self.turn(claimed, under_way));
                    }
                }
            }
        }
    }

    fn turn(&self, claimed: Claimed, under_way: UnderWay) -> Taken {
        let turn = Turn::new(&self.cluster, &claimed, under_way);
        Taken::Turn(Box::new(claimed), Box::new(turn))
    }

    /// Brings a claimed workspace to where its files are there. Answers its agent and the commit.
    async fn build(
        &self,
        name: &WorkspaceName,
        claimed: &Claimed,
        reporter: &Reporter,
    ) -> Result<(AgentClient, String)> {
        let (marks, uid) = (&claimed.marks, claimed.uid());
        self.faults.at(Operation::Create, "companions").await?;
        let credential = self.credential(marks);
        let credential = tokio::spawn(credential);
        let token = self.companions(marks, uid).await?;
        self.faults.at(Operation::Create, "pod").await?;
        reporter.say("Scheduling", "waiting for the pod");
        let only = Only { uid, version: None };
        self.cluster.change(name, only, &Change::default(), Some(1)).await?.ok_or_else(overtaken)?;
        self.faults.at(Operation::Create, "agent").await?;
        let client = self.until_reachable(name, uid, &token).await?;
        self.faults.at(Operation::Create, "checkout").await?;
        let credential = credential.await.unwrap_or_default();
        let commit = self.check_out(&client, marks, credential, reporter).await?;
        self.faults.at(Operation::Create, "set-up").await?;
        self.set_up(&client, &marks.spec, Phase::Create, reporter).await?;
        Ok((client, commit))
    }

    /// Carries out what the project asks for when its workspace is made or started.
    pub(super) async fn set_up(
        &self,
        client: &AgentClient,
        spec: &WorkspaceSpec,
        phase: Phase,
        reporter: &Reporter,
    ) -> Result<()> {
        let tell = |severity, reason: &str, message| reporter.tell(severity, reason, message);
        self.personal.set_up(client, spec, self.secrets.as_ref(), phase, tell).await
    }

    /// Makes what belongs to the StatefulSet. Answers the agent's token.
    async fn companions(&self, marks: &Marks, uid: &str) -> Result<Token> {
        // A create that was cut short has given one to the agent already.
        let token = self.cluster.known_token(&marks.name).await?.unwrap_or_else(Token::random);
        let blueprint = Blueprint { marks, settings: &self.settings };
        let companions = blueprint.companions(uid, &token);
        futures::future::try_join_all(companions.iter().map(|companion| self.cluster.apply(companion)))
            .await?;
        if let Some(overrides) = &self.settings.template_overrides {
            self.cluster.merge_template(&marks.name, overrides).await?;
        }
        Ok(token)
    }

    /// The login that this machine has for the repository, looked for while the pod starts.
    fn credential(
        &self,
        marks: &Marks,
    ) -> impl Future<Output = Option<crate::agent::Credential>> + Send + use<> {
        let repository = self.forward_credentials.then(|| marks.spec.source.repository.clone());
        async move { git_credential(&repository?).await }
    }

    async fn check_out(
        &self,
        client: &AgentClient,
        marks: &Marks,
        credential: Option<crate::agent::Credential>,
        reporter: &Reporter,
    ) -> Result<String> {
        let source = &marks.spec.source;
        reporter.say("Cloning", format!("checking out {}", source.repository));
        let done = client.checkout(source, credential.as_ref(), |line| reporter.say("Cloning", line)).await?;
        Ok(done.commit)
    }
}

/// What came of asking for the name.
enum Taken {
    /// There is nothing to do.
    Done(Box<Workspace>),
    /// It is this call's turn.
    Turn(Box<Claimed>, Box<Turn>),
}

fn foreign(name: &WorkspaceName) -> Error {
    Error::new(ErrorKind::Conflict, "a StatefulSet that is not of a workspace has the name")
        .with("workspace", name)
        .hint("choose another name, or remove it")
}

/// Refuses what this backend cannot do, before anything is made.
fn check(spec: &WorkspaceSpec) -> Result<()> {
    if matches!(spec.isolation, Isolation::Process | Isolation::None) {
        return Err(Error::new(ErrorKind::Unsupported, "containers are the only isolation of this provider"));
    }
    if matches!(spec.source.repository, kled_core::workspace::Repository::Local(_)) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "a folder of this machine cannot be seen from the cluster",
        )
        .hint("name a repository by URL"));
    }
    Ok(())
}
