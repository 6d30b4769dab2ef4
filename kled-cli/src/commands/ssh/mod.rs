//! `kled ssh-config` and `kled ssh-proxy`

mod files;
mod include;

use std::path::PathBuf;

use clap::Args;
use futures::TryStreamExt;
use kled_core::provider::{ListOptions, Provider, ProviderExt};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use serde::Serialize;

use crate::arguments::checked;
use crate::output::Failure;
use crate::{Context, Exit, Surroundings};
use files::Files;

#[derive(Debug, Args)]
#[command(after_help = "\
Makes entries NAME.kled for ssh, and so for scp, sftp, rsync and editors. The entries stand in files of their own; \
~/.ssh/config gets one line at its top that includes them, and is otherwise left as it is. ssh starts this program, \
which reaches the workspace as every command does: nothing has to be installed in the workspace and no port is opened. \
The host key is made once for each workspace and pinned.

Examples:
  kled ssh-config demo && ssh demo.kled
  kled ssh-config
  kled ssh-config demo --remove
  kled ssh-config --remove")]
pub(crate) struct ConfigArguments {
    /// Only this workspace [default: all of the provider]
    #[arg(value_parser = checked::<WorkspaceName>)]
    name: Option<WorkspaceName>,
    /// Take the entry away again, or without a name everything
    #[arg(long)]
    remove: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyArguments {
    /// The workspace's name
    #[arg(value_parser = checked::<WorkspaceName>)]
    name: WorkspaceName,
}

/// An entry that was made or removed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    workspace: WorkspaceName,
    host: String,
}

impl Entry {
    fn of(workspace: WorkspaceName) -> Self {
        Self { host: host(&workspace), workspace }
    }
}

/// The name of a workspace for ssh.
fn host(name: &WorkspaceName) -> String {
    format!("{name}.kled")
}

impl ConfigArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let surroundings = &context.surroundings;
        let files = Files::at(data_directory(context)?);
        let user = home(surroundings)?.join(".ssh");
        let entries = if self.remove {
            let removed = files.remove(self.name.as_ref())?;
            if files.is_empty()? {
                include::remove(&user, &files.include()).await?;
            }
            removed
        } else {
            let mut made = Vec::new();
            for name in self.names(context).await? {
                files.write(&name, &proxy_command(context, &name)?)?;
                made.push(name);
            }
            include::add(&user, &files.include()).await?;
            made
        };
        let entries: Vec<_> = entries.into_iter().map(Entry::of).collect();
        context.print(&entries, |_| entries.iter().map(|entry| format!("{}\n", entry.host)).collect())?;
        Ok(Exit::SUCCESS)
    }

    async fn names(&self, context: &Context) -> Result<Vec<WorkspaceName>> {
        let provider = context.provider().await?;
        match &self.name {
            Some(name) => Ok(vec![provider.status(name).await?.name]),
            None => {
                let listed = provider.list_workspaces(ListOptions::default());
                let mut names: Vec<_> = listed.map_ok(|workspace| workspace.name).try_collect().await?;
                names.sort();
                Ok(names)
            }
        }
    }
}

impl ProxyArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let key = Files::at(data_directory(context)?).host_key(&self.name)?;
        let provider = context.provider().await?;
        // Before a word of SSH: what ssh shows of a failure later on is less.
        provider.status(&self.name).await?;
        let stream = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
        kled_providers::ssh::serve(provider, self.name.clone(), stream, &key).await?;
        Ok(Exit::SUCCESS)
    }
}

/// The line by which ssh starts this program again. It holds what tells this workspace from others of its name.
fn proxy_command(context: &Context, name: &WorkspaceName) -> Result<String> {
    let program = std::env::current_exe().map_err(|cause| {
        Error::new(ErrorKind::Internal, "the path of this program cannot be found").because(cause)
    })?;
    let settings = &context.settings;
    let mut words: Vec<String> = Vec::new();
    if let Some(directory) = &settings.data_directory {
        words.extend(["env".into(), format!("KLED_DATA_DIRECTORY={}", directory.display())]);
    }
    words.push(program.display().to_string());
    words.extend(["ssh-proxy".into(), name.to_string()]);
    words.extend(["--provider".into(), settings.provider.to_string()]);
    let options =
        [("--context", &settings.kubernetes_context), ("--namespace", &settings.kubernetes_namespace)];
    for (flag, value) in options {
        words.extend(value.iter().flat_map(|value| [flag.to_owned(), value.clone()]));
    }
    if let Some(file) = &context.global.config {
        let file = context.surroundings.working_directory.join(file);
        words.extend(["--config".into(), file.display().to_string()]);
    }
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    Ok(words.join(" "))
}

/// For the shell that ssh starts the command with; ssh itself replaces what follows a percent sign.
fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./=:,@".contains(character);
    let word = word.replace('%', "%%");
    if word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn home(surroundings: &Surroundings) -> Result<PathBuf> {
    surroundings.variable("HOME").map(PathBuf::from).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "the home directory is not known").hint("set HOME")
    })
}

/// Where keys and entries are kept.
fn data_directory(context: &Context) -> Result<PathBuf> {
    let surroundings = &context.surroundings;
    if let Some(directory) = &context.settings.data_directory {
        return Ok(directory.clone());
    }
    let user = surroundings.variable("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let user = user.map_or_else(|| home(surroundings).map(|home| home.join(".local/share")), Ok)?;
    Ok(user.join("kled"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_reach_the_program_as_they_are() {
        for word in ["plain/path-1.0", "two words", "it's", "100%", "$HOME", "a;b", "*"] {
            let line = super::quoted(word).replace("%%", "%");
            let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {line}")]).output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), word);
        }
    }
}
