//! What the project asks for, carried out by the agent.

use futures::stream;
use kled_core::provider::Severity;
use kled_core::setup::Phase;
use kled_core::workspace::{Workspace, WorkspaceSpec};
use kled_core::{Error, ErrorKind, Failure, Result, WorkspaceName};

use super::agent::{self, FAILURE, FOLDER};
use super::marks::{Marks, object_name};
use super::reach::Reached;
use super::upload::single_file;
use super::{Context, Reporter};
use crate::agent::{AgentClient, SetupProgress};
use crate::variables::{variables_and_secrets, variables_of};

/// The longest note of a failure that is read, with what an archive has around it.
const NOTE_MAX: usize = 64 << 10;

/// A folder in the container's memory that says that the project is set up: in this run of the container, whoever started
/// it.
const PREPARED: &str = "/run/kled/prepared";

/// An archive with nothing in it: two blocks of zeros.
const NOTHING: [u8; 1024] = [0; 1024];

impl Context {
    /// Has the project of a running container set up, unless that is done: also where a start was cut short before.
    pub(super) async fn prepare_started(
        &self,
        name: &WorkspaceName,
        workspace: &Workspace,
        reporter: &Reporter,
    ) -> Result<()> {
        let known = self.agents.get(name).map(|reached| reached.client);
        let client = match known {
            Some(client) => client,
            None => self.connect_started(&object_name(name)).await?,
        };
        match client.download(PREPARED).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.set_up(&client, &workspace.spec, Phase::Start, reporter).await?;
                self.mark_prepared(&client).await?;
            }
            Err(error) => return Err(error),
        }
        self.keep_agent(name, workspace, client);
        Ok(())
    }

    /// Notes that nothing is left to be done before the next start.
    pub(super) async fn mark_prepared(&self, client: &AgentClient) -> Result<()> {
        client.upload(PREPARED, &NOTHING[..]).await.map(drop)
    }

    /// Carries out what the project asks for when its workspace is made or started.
    pub(super) async fn set_up(
        &self,
        client: &AgentClient,
        spec: &WorkspaceSpec,
        phase: Phase,
        reporter: &Reporter,
    ) -> Result<()> {
        let mut options = self.personal.options(phase);
        options.environment = match variables_and_secrets(spec, &*self.secrets).await {
            Ok(variables) => variables,
            // Only the project's file, which is in the container, says whether anybody needs it.
            Err(error) => {
                reporter.tell(Severity::Warning, "SecretUnavailable", error.to_string());
                variables_of(spec)
            }
        };
        let progress = |progress: SetupProgress<'_>| {
            if let SetupProgress::Line(line) = progress {
                reporter.say("SettingUp", line);
            }
        };
        let summary = client.set_up(&options, progress).await?;
        for field in &summary.ignored {
            reporter.tell(Severity::Warning, "SetupFieldIgnored", field.to_string());
        }
        Ok(())
    }

    /// Notes in the container itself why its set-up failed. What failed is the error; that it could not be noted is not
    /// worth another.
    pub(super) async fn note_failure(&self, container: &str, error: &Error) {
        let Ok(archive) = agent::failure(error) else { return };
        let noted = self.engine.upload(container, FOLDER, stream::iter([Ok(archive)])).await;
        if let Err(error) = noted {
            tracing::debug!(container, %error, "why a set-up failed is not noted");
        }
    }

    /// Why the last set-up of a container failed, if that is known.
    pub(super) async fn noted_failure(&self, container: &str) -> Option<String> {
        let path = format!("{FOLDER}/{FAILURE}");
        let archive = self.engine.download(container, &path, NOTE_MAX).await.ok()??;
        let text = single_file(&archive).ok()?;
        serde_json::from_slice::<Failure>(&text).ok().map(|failure| failure.message)
    }

    /// Whoever starts a workspace is about to use it.
    fn keep_agent(&self, name: &WorkspaceName, workspace: &Workspace, client: AgentClient) {
        let marks = Marks {
            name: workspace.name.clone(),
            id: workspace.id,
            spec: workspace.spec.clone(),
            created: workspace.created,
            commit: None,
        };
        self.agents.keep(name, Reached { marks, client });
    }
}
