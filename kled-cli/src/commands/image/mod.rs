//! `kled image`

mod own;
mod save;

use clap::Subcommand;

use crate::output::Failure;
use crate::{Context, Exit};

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Write Kled's own images as one archive, without a container engine
    Save(save::SaveArguments),
}

impl ImageCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Save(arguments) => arguments.run(context).await,
        }
    }
}
