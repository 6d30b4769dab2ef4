//! `kled workspace create`

use std::path::Path;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use kled_core::provider::{CreateOptions, Provider};
use kled_core::workspace::{Isolation, Repository, WorkspaceSpec, default_name};
use kled_core::{Result, WorkspaceName};

use super::print_workspace;
use crate::arguments::{checked, checked_duration, key_and_value};
use crate::commands::background;
use crate::output::Failure;
use crate::{Context, Exit};

/// What device plugins call the GPUs that most AI workloads are built for.
const GPU: &str = "nvidia.com/gpu";

#[derive(Debug, Args)]
#[command(after_help = "\
What the repository asks for in its devcontainer.json, else in its .kled.yaml, is carried out, where the provider can.
The same create again gives the same workspace; a create that was cut short is finished by the next one.

Examples:
  kled workspace create demo --repo https://github.com/org/app
  kled workspace create --repo git@github.com:org/app.git --branch feature/login
  kled workspace create demo --repo . --path services/api --cpu 2 --memory 4Gi
  kled workspace create demo --repo . --env LEVEL=info --secret TOKEN=env:GITHUB_TOKEN
  kled workspace create demo --repo . --idle-timeout 30m --no-wait
  kled workspace create demo --repo URL --provider kubernetes --namespace team-a --gpu 1")]
pub(crate) struct CreateArguments {
    /// The workspace's name [default: from the repository, revision and path]
    #[arg(value_parser = checked::<WorkspaceName>)]
    name: Option<WorkspaceName>,
    /// The git repository: a URL, user@host:path or a local path
    #[arg(long, value_name = "REPOSITORY")]
    repo: String,
    /// Check out this branch
    #[arg(long, value_name = "NAME", group = "revision")]
    branch: Option<String>,
    /// Check out this tag
    #[arg(long, value_name = "NAME", group = "revision")]
    tag: Option<String>,
    /// Check out this commit
    #[arg(long, value_name = "HASH", group = "revision")]
    commit: Option<String>,
    /// Check out only this folder of the repository
    #[arg(long, value_name = "SUB-PATH")]
    path: Option<String>,
    /// Fetch the whole history instead of one commit
    #[arg(long)]
    full: bool,
    /// The container image, where the provider runs containers
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
    /// How strongly it is kept apart [default: the strongest that there is]
    #[arg(long, value_name = "HOW", value_parser = isolations())]
    isolation: Option<Isolation>,
    /// Limit processors: 2, 500m
    #[arg(long, value_name = "QUANTITY")]
    cpu: Option<String>,
    /// Limit memory: 512Mi, 4Gi
    #[arg(long, value_name = "QUANTITY")]
    memory: Option<String>,
    /// Limit disk: 20Gi
    #[arg(long, value_name = "QUANTITY")]
    disk: Option<String>,
    /// Ask for so many GPUs (the resource nvidia.com/gpu), where the provider has any
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    gpu: Option<u32>,
    /// Set an environment variable of every command; may be repeated
    #[arg(long = "env", value_name = "KEY=VALUE")]
    environment: Vec<String>,
    /// Set one from a secret, resolved when a command starts: TOKEN=env:NAME, TOKEN=file:PATH; may be repeated
    #[arg(long = "secret", value_name = "KEY=SOURCE:LOCATION")]
    secrets: Vec<String>,
    /// Name a port on which something will listen: 8080, 5353/udp; may be repeated
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<String>,
    /// Add a label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Stop it after so long without a command: 30m
    #[arg(long, value_name = "DURATION")]
    idle_timeout: Option<String>,
    /// Delete it, data included, so long after its creation: 8h
    #[arg(long, value_name = "DURATION")]
    time_to_live: Option<String>,
    /// The longest that the creation may take [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    timeout: Option<Duration>,
    /// Return as soon as the workspace exists and go on in the background
    #[arg(long)]
    no_wait: bool,
}

fn isolations() -> impl TypedValueParser<Value = Isolation> {
    PossibleValuesParser::new(["default", "process", "container", "none"]).try_map(|text| text.parse())
}

impl CreateArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let spec = self.spec(context)?;
        let name = self.name.clone().unwrap_or_else(|| default_name(&spec.source));
        let provider = context.provider().await?;
        if self.no_wait {
            return background::create(context, provider.as_ref(), &name, &spec).await;
        }
        background::leave_session(context);
        let timeout = self.timeout.unwrap_or(context.settings.create_timeout);
        let create = |progress| provider.create_workspace(&name, &spec, CreateOptions { timeout, progress });
        let workspace = context.with_progress(create).await?;
        print_workspace(context, &workspace)
    }

    fn spec(&self, context: &Context) -> Result<WorkspaceSpec> {
        let mut builder = WorkspaceSpec::builder(&self.repo)
            .isolation(self.isolation.unwrap_or(context.settings.isolation));
        if self.full {
            builder = builder.full_history();
        }
        /// Passes on what was given.
        macro_rules! given {
            ($($field:ident),+) => {
                $(if let Some(value) = &self.$field {
                    builder = builder.$field(value);
                })+
            };
        }
        given!(branch, tag, commit, path, image, cpu, memory, disk, idle_timeout, time_to_live);
        if let Some(count) = self.gpu {
            builder = builder.resource(GPU, count.to_string());
        }
        for text in &self.environment {
            let (key, value) = key_and_value("--env", text)?;
            builder = builder.environment(key, value);
        }
        for text in &self.secrets {
            let (key, value) = key_and_value("--secret", text)?;
            builder = builder.secret(key, value);
        }
        for text in &self.labels {
            let (key, value) = key_and_value("--label", text)?;
            builder = builder.label(key, value);
        }
        let mut spec = self.ports.iter().fold(builder, |builder, port| builder.port(port)).build()?;
        spec.source.repository = located(spec.source.repository, &context.surroundings.working_directory);
        Ok(spec)
    }
}

/// A spec is stored and read from elsewhere, so a local path has to be absolute. Links and `..` are resolved where the
/// folder exists, so that one folder has one default name.
fn located(repository: Repository, working_directory: &Path) -> Repository {
    match repository.resolved_against(working_directory) {
        Repository::Local(path) => Repository::Local(path.canonicalize().unwrap_or(path)),
        other => other,
    }
}
