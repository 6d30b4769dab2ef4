//! What commands of a workspace have in their environment.

use kled_core::Result;
use kled_core::ports::SecretSource;
use kled_core::provider::{Command, Variables};
use kled_core::workspace::WorkspaceSpec;

/// What a spec gives to every command: its variables, but for secrets.
pub(crate) fn variables_of(spec: &WorkspaceSpec) -> Variables {
    Variables(spec.environment.iter().map(|(name, value)| (name.to_string(), value.clone())).collect())
}

/// What a spec gives to every command: its variables, and its secrets from their source.
pub(crate) async fn variables_and_secrets(
    spec: &WorkspaceSpec,
    source: &dyn SecretSource,
) -> Result<Variables> {
    let mut variables = variables_of(spec);
    for (variable, reference) in &spec.secrets {
        let secret = source.secret(reference).await.map_err(|error| error.with("variable", variable))?;
        variables.0.insert(variable.to_string(), secret.expose().to_owned());
    }
    Ok(variables)
}

/// Gives a command what the spec gives; what the command asks for itself comes first.
pub(crate) async fn give(
    command: &mut Command,
    spec: &WorkspaceSpec,
    source: &dyn SecretSource,
) -> Result<()> {
    let given = variables_and_secrets(spec, source).await?;
    let asked = std::mem::replace(&mut command.environment, given);
    command.environment.0.extend(asked.0);
    Ok(())
}
