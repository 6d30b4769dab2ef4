//! `kled version`

use clap::Args;
use serde::Serialize;

use crate::output::Failure;
use crate::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kled version\n  kled version -o json")]
pub(crate) struct VersionArguments {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version<'a> {
    program: &'a str,
    version: &'a str,
    operating_system: &'static str,
    architecture: &'static str,
}

impl VersionArguments {
    #[expect(clippy::unused_self, reason = "every command has the same form")]
    pub(crate) fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let version = Version {
            program: &context.program,
            version: context.definition.get_version().unwrap_or_default(),
            operating_system: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
        };
        context.print(&version, |_| format!("{} {}\n", version.program, version.version))?;
        Ok(Exit::SUCCESS)
    }
}
