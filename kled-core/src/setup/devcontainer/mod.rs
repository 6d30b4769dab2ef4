//! Reads a `devcontainer.json`.

mod document;
mod ports;

use std::collections::BTreeMap;

use document::{Document, Field};
use jsonc_parser::ast::Value;

use super::{CommandSet, IgnoredField, IgnoredReason, Setup, SetupCommand, StepKind, malformed};
use crate::{Result, VariableName};

/// The longest file that is read. Those that people write have a few hundred lines.
pub(super) const TEXT_MAX: usize = 256 << 10;

/// Reads a `devcontainer.json`; `file` is its path for errors and for [`Setup::file`].
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) with file, line and field where it is not JSON, or where a field
/// that counts has a value of the wrong kind. Fields that do not count are not looked into.
pub fn parse_devcontainer(file: &str, text: &str) -> Result<Setup> {
    if text.len() > TEXT_MAX {
        return Err(malformed(file, None, "", "it is too long")
            .with("bytes", text.len())
            .with("limit", TEXT_MAX));
    }
    let document = Document::new(file, text);
    let value = document.parse()?;
    let mut reader =
        Reader { setup: Setup { file: Some(file.into()), ..Setup::default() }, container_user: None };
    reader.setup.wait_for = Some(StepKind::UpdateContent);
    let mut ignored = Vec::new();
    let fields = Field::root(&document, &value).fields(&mut ignored, "write {…}")?;
    let labels = fields.get("portsAttributes").map(|field| ports::labels(field, &mut ignored)).transpose()?;
    for (name, field) in &fields {
        ignored.extend(reader.read(name, field)?);
    }
    if let Some(labels) = labels {
        labels.apply(&mut reader.setup.ports);
    }
    ignored.extend(reader.take_container_user());
    ignored.sort_by_key(|field| field.line);
    Ok(Setup { ignored, ..reader.setup })
}

struct Reader {
    setup: Setup,
    container_user: Option<(String, IgnoredField)>,
}

impl Reader {
    /// Takes a field of the top level, or says why not. One that is `null` says nothing.
    fn read(&mut self, name: &str, field: &Field<'_, '_>) -> Result<Option<IgnoredField>> {
        if field.is_null() {
            return Ok(None);
        }
        if let Some(reason) = not_done(name) {
            return Ok(Some(field.ignored(reason)));
        }
        match name {
            // The names are read before.
            "name" | "$schema" | "portsAttributes" => {}
            "image" => self.setup.image = Some(word(field)?),
            "remoteUser" => self.setup.user = Some(word(field)?),
            "containerUser" => {
                self.container_user = Some((word(field)?, field.ignored(IgnoredReason::Overridden)));
            }
            "workspaceFolder" => self.setup.folder = Some(word(field)?),
            "containerEnv" => self.setup.container_environment = container_environment(field)?,
            "remoteEnv" => self.setup.remote_environment = remote_environment(field)?,
            "forwardPorts" => self.setup.ports = ports::forwarded(field)?,
            "waitFor" => self.setup.wait_for = wait_for(field)?,
            _ => match step(name) {
                Some(kind) => {
                    if let Some(commands) = command_set(field)? {
                        self.setup.commands.insert(kind, commands);
                    }
                }
                None => return Ok(Some(field.ignored(IgnoredReason::Unknown))),
            },
        }
        Ok(None)
    }

    /// The user of the container counts where no other is named for the commands.
    fn take_container_user(&mut self) -> Option<IgnoredField> {
        let (user, ignored) = self.container_user.take()?;
        match &self.setup.user {
            Some(remote) if *remote != user => Some(ignored),
            _ => {
                self.setup.user = Some(user);
                None
            }
        }
    }
}

/// Why a field of the specification has no effect, for those that have none.
fn not_done(name: &str) -> Option<IgnoredReason> {
    Some(match name {
        "build" | "dockerFile" | "context" => IgnoredReason::Build,
        "dockerComposeFile" | "service" | "runServices" => IgnoredReason::Compose,
        "features" | "overrideFeatureInstallOrder" => IgnoredReason::Features,
        "mounts"
        | "workspaceMount"
        | "runArgs"
        | "appPort"
        | "privileged"
        | "init"
        | "capAdd"
        | "securityOpt"
        | "overrideCommand"
        | "shutdownAction"
        | "updateRemoteUserUID"
        | "userEnvProbe" => IgnoredReason::Container,
        "initializeCommand" => IgnoredReason::Host,
        "hostRequirements" => IgnoredReason::Resources,
        "secrets" => IgnoredReason::Secrets,
        "customizations" | "extensions" | "settings" | "devPort" | "otherPortsAttributes" => {
            IgnoredReason::Editor
        }
        _ => return None,
    })
}

fn step(name: &str) -> Option<StepKind> {
    StepKind::ALL.into_iter().find(|kind| *kind != StepKind::Dotfiles && kind.as_str() == name)
}

/// A text that is not empty.
fn word(field: &Field<'_, '_>) -> Result<String> {
    let text = field.string("write it in double quotes")?;
    if text.trim().is_empty() {
        return Err(field.malformed("it is empty", "give a value, or take the field out"));
    }
    Ok(text)
}

fn wait_for(field: &Field<'_, '_>) -> Result<Option<StepKind>> {
    let hint = "name one of initializeCommand, onCreateCommand, updateContentCommand, postCreateCommand and \
                postStartCommand";
    match field.string(hint)?.as_str() {
        "initializeCommand" => Ok(None),
        name => match step(name).filter(|kind| *kind != StepKind::PostAttach) {
            Some(kind) => Ok(Some(kind)),
            None => Err(field.malformed("it does not name a command", hint)),
        },
    }
}

const ENVIRONMENT_HINT: &str = "write an object of strings: {\"NAME\": \"value\"}";

/// The variables of an object. Of those that come twice the last one counts, as within the specification.
fn variables<'d, 'a>(field: &Field<'d, 'a>) -> Result<Vec<(VariableName, Field<'d, 'a>)>> {
    let fields = field.fields(&mut Vec::new(), ENVIRONMENT_HINT)?;
    let named = |(name, field): (String, Field<'d, 'a>)| {
        Ok((VariableName::new(name).map_err(|error| field.at(error))?, field))
    };
    fields.into_iter().map(named).collect()
}

fn container_environment(field: &Field<'_, '_>) -> Result<BTreeMap<VariableName, String>> {
    let variables = variables(field)?.into_iter();
    variables.map(|(name, field)| Ok((name, field.string(ENVIRONMENT_HINT)?))).collect()
}

fn remote_environment(field: &Field<'_, '_>) -> Result<BTreeMap<VariableName, Option<String>>> {
    let value = |field: &Field<'_, '_>| {
        if field.is_null() { Ok(None) } else { field.string(ENVIRONMENT_HINT).map(Some) }
    };
    variables(field)?.into_iter().map(|(name, field)| Ok((name, value(&field)?))).collect()
}

const COMMAND_HINT: &str =
    "write a string for a shell, an array of strings for a program, or an object of both";

fn command_set(field: &Field<'_, '_>) -> Result<Option<CommandSet>> {
    let commands = match field.value {
        Value::Object(_) => {
            let fields = field.fields(&mut Vec::new(), COMMAND_HINT)?;
            let named = |(name, field): (String, Field<'_, '_>)| Ok((name, command(&field)?));
            fields.into_iter().map(named).collect::<Result<_>>()?
        }
        _ => BTreeMap::from([(String::new(), command(field)?)]),
    };
    Ok(CommandSet::new(&field.path, Some(field.line), commands))
}

fn command(field: &Field<'_, '_>) -> Result<SetupCommand> {
    match field.value {
        Value::Array(_) => {
            let words = field.elements(COMMAND_HINT)?;
            words
                .iter()
                .map(|word| word.string(COMMAND_HINT))
                .collect::<Result<_>>()
                .map(SetupCommand::Arguments)
        }
        Value::StringLit(_) => field.string(COMMAND_HINT).map(SetupCommand::Shell),
        _ => Err(field.malformed("it is not a command", COMMAND_HINT)),
    }
}

#[cfg(test)]
mod tests;
