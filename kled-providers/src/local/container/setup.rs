//! What the project asks for, carried out by the agent.

use futures::stream;
use kled_core::setup::Phase;
use kled_core::workspace::{Workspace, WorkspaceSpec};
use kled_core::{Error, Failure, Result, WorkspaceName};

use super::agent::{self, FAILURE, FOLDER};
use super::marks::{Marks, object_name};
use super::reach::Reached;
use super::upload::single_file;
use super::{Context, Reporter};
use crate::agent::AgentClient;

/// The longest note of a failure that is read, with what an archive has around it.
const NOTE_MAX: usize = 64 << 10;

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
        self.set_up(&client, &workspace.spec, Phase::Start, reporter).await?;
        self.keep_agent(name, workspace, client);
        Ok(())
    }

    /// Carries out what the project asks for when its workspace is made or started.
    pub(super) async fn set_up(
        &self,
        client: &AgentClient,
        spec: &WorkspaceSpec,
        phase: Phase,
        reporter: &Reporter,
    ) -> Result<()> {
        let tell = |severity, reason: &str, message: String| reporter.tell(severity, reason, message);
        self.personal.set_up(client, spec, self.secrets.as_ref(), phase, tell).await
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
