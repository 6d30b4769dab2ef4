//! `kled completions`

use clap::Args;
use clap_complete::Shell;

use crate::output::Failure;
use crate::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kled completions bash > ~/.local/share/bash-completion/completions/kled
  kled completions zsh > \"${fpath[1]}/_kled\"
  kled completions fish > ~/.config/fish/completions/kled.fish")]
pub(crate) struct CompletionsArguments {
    /// For which shell
    shell: Shell,
}

impl CompletionsArguments {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut context.definition.clone(), &context.program, &mut script);
        context.surroundings.stdout.write(&script).map_err(Failure::of_output)?;
        Ok(Exit::SUCCESS)
    }
}
