//! The user's own files.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::workspace::Repository;

/// The scripts that install a repository of dotfiles, in the order in which they are tried.
pub const DOTFILES_SCRIPTS: [&str; 8] = [
    "install.sh",
    "install",
    "bootstrap.sh",
    "bootstrap",
    "script/bootstrap",
    "setup.sh",
    "setup",
    "script/setup",
];

/// What belongs to the repository itself, not to a home folder.
const OF_THE_REPOSITORY: [&str; 5] = [".git", ".gitattributes", ".github", ".gitignore", ".gitmodules"];

/// A repository of the user's own files for the home folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dotfiles {
    /// Where it is.
    pub repository: Repository,
    /// A branch, tag or commit; the repository's default branch where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Installs them, by `/bin/sh -c` in the checkout of the repository, in place of a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install_command: Option<String>,
}

/// How dotfiles are installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DotfilesInstall {
    /// The given command is run by a shell.
    Command(String),
    /// This file of the repository is run.
    Script(&'static str),
    /// These files and folders are linked into the home folder, under the same names.
    Link(Vec<String>),
}

impl Dotfiles {
    /// How they are installed, by the files of their repository: paths relative to it, the top level and what is in
    /// `script/`.
    ///
    /// Without a command the first of [`DOTFILES_SCRIPTS`] is run. Without one of those everything at the top that
    /// begins with a dot is linked; what the home folder has already stays, and is reported.
    ///
    /// ```
    /// use kled_core::setup::{Dotfiles, DotfilesInstall};
    ///
    /// let dotfiles = Dotfiles {
    ///     repository: "https://github.com/me/dotfiles".parse()?,
    ///     revision: None,
    ///     install_command: None,
    /// };
    /// let links = DotfilesInstall::Link(vec![".vimrc".into()]);
    /// assert_eq!(dotfiles.install([".git", ".vimrc", "README.md"]), links);
    /// assert_eq!(dotfiles.install([".vimrc", "setup", "bootstrap"]), DotfilesInstall::Script("bootstrap"));
    /// # Ok::<_, kled_core::Error>(())
    /// ```
    pub fn install<'a>(&self, files: impl IntoIterator<Item = &'a str>) -> DotfilesInstall {
        if let Some(command) = &self.install_command {
            return DotfilesInstall::Command(command.clone());
        }
        let files: BTreeSet<&str> = files.into_iter().collect();
        if let Some(script) = DOTFILES_SCRIPTS.into_iter().find(|script| files.contains(script)) {
            return DotfilesInstall::Script(script);
        }
        let is_dotfile = |file: &&str| {
            file.starts_with('.')
                && !matches!(*file, "." | "..")
                && !file.contains('/')
                && !OF_THE_REPOSITORY.contains(file)
        };
        DotfilesInstall::Link(files.into_iter().filter(is_dotfile).map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dotfiles(install_command: Option<&str>) -> Dotfiles {
        Dotfiles {
            repository: "https://h.example/d".parse().unwrap(),
            revision: None,
            install_command: install_command.map(Into::into),
        }
    }

    #[test]
    fn scripts_are_tried_in_order() {
        for (index, script) in DOTFILES_SCRIPTS.into_iter().enumerate() {
            let later = DOTFILES_SCRIPTS[index..].iter().rev().copied().chain([".vimrc"]);
            assert_eq!(dotfiles(None).install(later), DotfilesInstall::Script(script));
        }
    }

    #[test]
    fn a_command_goes_before_every_script() {
        let install = dotfiles(Some("make all")).install(DOTFILES_SCRIPTS);
        assert_eq!(install, DotfilesInstall::Command("make all".into()));
    }

    #[test]
    fn what_belongs_to_the_repository_is_not_linked() {
        let files =
            [".", "..", ".git", ".github", ".gitignore", ".gitconfig", ".config", ".config/fish", "Makefile"];
        let expected = [".config", ".gitconfig"].map(String::from).to_vec();
        assert_eq!(dotfiles(None).install(files), DotfilesInstall::Link(expected));
    }
}
