//! `kled workspace exec`

use clap::Args;
use kled_core::provider::{ExecRequest, Provider};
use kled_core::{Result, VariableName};

use super::Named;
use crate::arguments::key_and_value;
use crate::commands::session;
use crate::output::Failure;
use crate::{Context, Exit, terminal};

#[derive(Debug, Args)]
#[command(after_help = "\
The command runs without a shell; its exit code becomes that of this program, 128 plus the number for an end by a \
signal. Standard input is passed on when it is not a terminal. Ctrl-C goes to the command; a second one ends it.

Examples:
  kled workspace exec demo -- cargo test
  kled workspace exec demo -w web -e CI=1 -- npm test
  kled workspace exec demo -- sh -c 'ls | wc -l'
  tar -c . | kled workspace exec demo -- tar -x
  kled workspace exec demo -t -- top
  kled workspace exec demo --detach -- npm run serve")]
pub(crate) struct ExecArguments {
    #[command(flatten)]
    workspace: Named,
    /// Run it in this folder, relative to the checkout
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Add an environment variable; may be repeated
    #[arg(short, long = "env", value_name = "KEY=VALUE")]
    environment: Vec<String>,
    /// Pass standard input on even when it is a terminal
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Pass no standard input on
    #[arg(long, conflicts_with_all = ["stdin", "tty"])]
    no_stdin: bool,
    /// Attach a terminal
    #[arg(short, long)]
    tty: bool,
    /// Let it go on without this program; its output goes to the logs
    #[arg(long, conflicts_with_all = ["stdin", "tty"])]
    detach: bool,
    /// The command with its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

impl ExecArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let request = self.request(context)?;
        let provider = context.provider().await?;
        if self.detach {
            return self.detached(context, provider.as_ref(), request).await;
        }
        session::run(context, provider.as_ref(), &self.workspace.name, request).await
    }

    fn request(&self, context: &Context) -> Result<ExecRequest> {
        let mut request = ExecRequest::new(self.command.clone());
        if let Some(directory) = &self.workdir {
            request = request.working_directory(directory);
        }
        if self.tty {
            request = session::with_terminal(request, context, terminal::size().unwrap_or_default());
        } else if self.passes_stdin(context) {
            request = request.piped_stdin();
        }
        for text in &self.environment {
            let (name, value) = key_and_value("--env", text)?;
            request = request.environment(VariableName::new(name)?, value);
        }
        Ok(if self.detach { request.detached() } else { request })
    }

    fn passes_stdin(&self, context: &Context) -> bool {
        let piped = !context.surroundings.stdin.is_terminal();
        !self.no_stdin && !self.detach && (self.stdin || piped)
    }

    async fn detached(
        &self,
        context: &Context,
        provider: &dyn Provider,
        request: ExecRequest,
    ) -> Result<Exit, Failure> {
        let name = &self.workspace.name;
        // The command outlives the session, so dropping that only lets go of it.
        drop(session::start(provider, name, request, &mut session::signals(context)?).await?);
        context.note(&format!("started; see its output with: {} workspace logs {name}", context.program));
        Ok(Exit::SUCCESS)
    }
}
