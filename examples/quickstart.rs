//! Embeds Kled: makes a workspace from a repository, streams a command, stops it, starts it, deletes it.
//!
//! ```sh
//! cargo run -p kled-examples --example quickstart -- https://github.com/org/app
//! ```
//!
//! Without an argument it takes the repository in the current folder.

use futures::StreamExt;
use kled_core::provider::{ExecRequest, OperationUpdate, Provider, ProviderExt};
use kled_core::workspace::{Repository, Source, WorkspaceSpec, default_name};
use kled_providers::local::{LocalProvider, SupervisorProgram};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // First of all: in a process that was started to supervise a workspace this never returns.
    let supervisor = SupervisorProgram::this_program();
    tokio::runtime::Runtime::new()?.block_on(run(supervisor))
}

async fn run(supervisor: SupervisorProgram) -> Result<(), Box<dyn std::error::Error>> {
    let repository = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let repository = repository.parse::<Repository>()?.resolved_against(&std::env::current_dir()?);
    let spec = WorkspaceSpec::builder(repository.to_string()).memory("1Gi").build()?;
    let name = default_name(&Source::new(repository));
    let provider = LocalProvider::builder().supervisor(supervisor).build().await?;

    let mut create = provider.create_with_events(&name, &spec);
    while let Some(update) = create.next().await {
        match update {
            OperationUpdate::Event(event) => eprintln!("{:<12} {}", event.reason, event.message),
            OperationUpdate::Done(workspace) => println!("created {} in {:?}", name, workspace?.checkout),
        }
    }
    drop(create);

    let mut session = provider.exec(&name, ExecRequest::new(["git", "log", "--oneline", "-1"])).await?;
    tokio::io::copy(&mut session.stdout, &mut tokio::io::stdout()).await?;
    println!("git ended with exit code {}", session.wait().await?.code());

    println!("{}", provider.stop(&name).await?.status);
    println!("{}", provider.start(&name).await?.status);
    println!("deleted: {}", provider.delete(&name).await?.removed.join(", "));
    Ok(())
}
