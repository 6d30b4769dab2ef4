//! `kled workspace shell`

use clap::Args;
use kled_core::provider::{ExecRequest, Provider};
use kled_core::{Error, ErrorKind};

use super::Named;
use crate::commands::session;
use crate::output::Failure;
use crate::{Context, Exit, terminal};

/// The best shell that there is; `sh` is the one that every workspace with a shell has.
const ANY_SHELL: [&str; 3] =
    ["sh", "-c", "if command -v bash >/dev/null 2>&1; then exec bash; else exec sh; fi"];

#[derive(Debug, Args)]
#[command(after_help = "\
Without a terminal on standard input the shell reads its commands from there.

Examples:
  kled workspace shell demo
  kled workspace shell demo --shell zsh
  kled workspace shell demo < script.sh")]
pub(crate) struct ShellArguments {
    #[command(flatten)]
    workspace: Named,
    /// Which program [default: bash, else sh]
    #[arg(long, value_name = "PROGRAM")]
    shell: Option<String>,
}

impl ShellArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let provider = context.provider().await?;
        let request = match &self.shell {
            Some(program) => ExecRequest::new([program]),
            None => ExecRequest::new(ANY_SHELL),
        };
        let request = if context.surroundings.stdin.is_terminal() {
            if !provider.capabilities().commands.terminal {
                let error = Error::new(ErrorKind::Unsupported, "this provider has no terminals")
                    .with("provider", provider.name())
                    .hint("run commands with exec");
                return Err(error.into());
            }
            session::with_terminal(request, context, terminal::size().unwrap_or_default())
        } else {
            request.piped_stdin()
        };
        session::run(context, provider.as_ref(), &self.workspace.name, request).await
    }
}
