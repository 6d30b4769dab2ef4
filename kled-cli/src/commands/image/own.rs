//! Which images are ours, and the programs that they are made of.

use std::path::{Path, PathBuf};

use kled_core::{Error, ErrorKind, Result};
use kled_providers::image::{AGENT_REFERENCE, Image, agent_image};

/// An image around one static program.
pub(super) struct OwnImage {
    /// The program's file name.
    pub(super) program: &'static str,
    /// The option that names the program's file.
    pub(super) option: &'static str,
    /// Puts the image together.
    make: fn(&Path) -> Result<Image>,
}

/// The image of the agent that runs beside every workspace.
pub(super) const AGENT: OwnImage = OwnImage {
    program: "kled-agent",
    option: "--agent",
    make: |program| agent_image(program, AGENT_REFERENCE),
};

impl OwnImage {
    /// The image around the program in `file`, else around the one beside the running program. Blocks.
    pub(super) fn image(&self, file: Option<PathBuf>) -> Result<Image> {
        let file = file.map_or_else(|| self.beside_this_program(), Ok)?;
        (self.make)(&file).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::new(ErrorKind::NotFound, "the program of an image does not exist")
                .with("file", file.display())
                .hint(self.advice()),
            _ => error,
        })
    }

    fn beside_this_program(&self) -> Result<PathBuf> {
        let failed = |cause| {
            Error::new(ErrorKind::Internal, "the folder of the running program is not known")
                .because(cause)
                .hint(self.advice())
        };
        Ok(std::env::current_exe().map_err(failed)?.with_file_name(self.program))
    }

    fn advice(&self) -> String {
        format!("put {} beside this program, or name the file with {}", self.program, self.option)
    }
}
