//! The project's set-up.

use kled_core::Result;
use kled_core::provider::Variables;
use kled_core::setup::{Dotfiles, ForwardedPort, GitIdentity, IgnoredField, Phase};

use super::Client;
use crate::agent::protocol::messages::setup_response::Message as Answer;
use crate::agent::protocol::messages::{self, SetupPhase, SetupRequest};
use crate::agent::protocol::{broken_protocol, error_of, lost};

/// What a set-up is given.
#[derive(Clone, Debug)]
pub struct SetupOptions {
    /// What happens to the workspace. A creation has what belongs to a start, too.
    pub phase: Phase,
    /// The user's own files.
    pub dotfiles: Option<Dotfiles>,
    /// Who commits. Without one, whoever was given before stays.
    pub git_identity: Option<GitIdentity>,
    /// For `${localEnv:NAME}`: what the project may know of the user's machine. Kept nowhere.
    pub local_environment: Variables,
    /// Of the commands of this set-up, over what the project asks for: what the workspace's owner gives to each command,
    /// secrets too. Kept nowhere.
    pub environment: Variables,
}

impl SetupOptions {
    /// The options of a phase, with nothing of the user's.
    #[must_use]
    pub fn new(phase: Phase) -> Self {
        Self {
            phase,
            dotfiles: None,
            git_identity: None,
            local_environment: Variables::default(),
            environment: Variables::default(),
        }
    }
}

/// How far a set-up is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetupProgress<'a> {
    /// A line for people.
    Line(&'a str),
    /// What the project wants done before the workspace is used is done; the rest goes on. Not said where there is no
    /// rest.
    Ready,
}

/// What a set-up came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetupSummary {
    /// The file that said what to do, relative to the checkout.
    pub file: Option<String>,
    /// The image that the file asks for.
    pub image: Option<String>,
    /// Ports on which the project serves.
    pub ports: Vec<ForwardedPort>,
    /// The names of the variables that commands have besides the workspace's own, or with another value.
    pub variables: Vec<String>,
    /// What has no effect, and why.
    pub ignored: Vec<IgnoredField>,
}

pub(super) async fn set_up(
    mut client: Client,
    options: &SetupOptions,
    mut progress: impl FnMut(SetupProgress<'_>) + Send,
) -> Result<SetupSummary> {
    let answers = client.setup(request(options)).await.map_err(|status| error_of(&status))?;
    let mut answers = answers.into_inner();
    loop {
        let answer = answers.message().await.map_err(|status| error_of(&status))?;
        match answer.ok_or_else(lost)?.message {
            Some(Answer::Progress(line)) => progress(SetupProgress::Line(&line)),
            Some(Answer::Ready(_)) => progress(SetupProgress::Ready),
            Some(Answer::Done(summary)) => return summary.try_into(),
            None => return Err(broken_protocol()),
        }
    }
}

fn request(options: &SetupOptions) -> SetupRequest {
    let phase = match options.phase {
        Phase::Create => SetupPhase::Create,
        Phase::Start => SetupPhase::Start,
        Phase::Attach => SetupPhase::Attach,
    };
    SetupRequest {
        phase: phase.into(),
        dotfiles: options.dotfiles.as_ref().map(|dotfiles| messages::Dotfiles {
            repository: dotfiles.repository.to_string(),
            revision: dotfiles.revision.clone(),
            install_command: dotfiles.install_command.clone(),
        }),
        git_identity: options.git_identity.as_ref().map(|identity| messages::GitIdentity {
            name: identity.name().to_owned(),
            email: identity.email().to_owned(),
        }),
        local_environment: options.local_environment.0.clone().into_iter().collect(),
        environment: options.environment.0.clone().into_iter().collect(),
    }
}

impl TryFrom<messages::SetupSummary> for SetupSummary {
    type Error = kled_core::Error;

    fn try_from(summary: messages::SetupSummary) -> Result<Self> {
        Ok(Self {
            file: summary.file,
            image: summary.image,
            ports: summary.ports.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            variables: summary.variables,
            ignored: summary.ignored.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
        })
    }
}
