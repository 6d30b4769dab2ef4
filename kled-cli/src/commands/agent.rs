//! `kled agent`

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use kled_core::WorkspaceName;
use kled_core::provider::{AgentStatus, Provider, StatusOptions};

use crate::arguments::checked;
use crate::output::{Failure, Look, Table, age};
use crate::{Context, Exit};

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Show what goes on in a workspace and what it uses
    #[command(after_help = "\
Unlike `kled workspace status`, this asks inside of the workspace, which has to run. What its backend does not \
measure is left empty.

Examples:
  kled agent status demo
  kled agent status demo -o json")]
    Status(StatusArguments),
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// The workspace's name
    #[arg(value_parser = checked::<WorkspaceName>)]
    name: WorkspaceName,
}

impl AgentCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Status(arguments) => arguments.run(context).await,
        }
    }
}

impl StatusArguments {
    async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let status = context.provider().await?.agent_status(&self.name, StatusOptions::default()).await?;
        context.print(&status, |look| table(&status, look))?;
        Ok(Exit::SUCCESS)
    }
}

fn table(status: &AgentStatus, look: Look) -> String {
    let usage = &status.usage;
    let bytes = |bytes: Option<u64>| bytes.map(|bytes| HumanBytes(bytes).to_string());
    let of = |used: Option<u64>, total: Option<u64>| match (bytes(used), bytes(total)) {
        (Some(used), Some(total)) => format!("{used} / {total}"),
        (Some(used), None) => used,
        (None, Some(total)) => format!("? / {total}"),
        (None, None) => String::new(),
    };
    let mut table = Table::new([
        "VERSION",
        "UPTIME",
        "COMMANDS",
        "CONNECTIONS",
        "IDLE",
        "MEMORY",
        "CPU",
        "PROCESSES",
        "DISK",
    ]);
    table.row([
        status.version.clone(),
        age(status.started, look.now),
        status.commands.to_string(),
        status.connections.to_string(),
        status.idle.map(|idle| format!("{}s", idle.as_secs())).unwrap_or_default(),
        of(usage.memory_bytes, usage.memory_limit_bytes),
        usage.cpu.map(seconds).unwrap_or_default(),
        usage.processes.map(|count| count.to_string()).unwrap_or_default(),
        of(usage.disk_used_bytes, usage.disk_total_bytes),
    ]);
    table.to_text(look.color)
}

/// Processor time, which is small and whose parts matter.
fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use kled_core::provider::Usage;

    #[test]
    fn what_is_not_known_is_empty() {
        let mut status = AgentStatus {
            version: "1.2.3".into(),
            started: Timestamp::UNIX_EPOCH,
            commands: 1,
            connections: 2,
            last_activity: Timestamp::UNIX_EPOCH,
            idle: None,
            usage: Usage::default(),
        };
        let look = Look { color: false, now: Timestamp::from_second(400).unwrap() };
        insta::assert_snapshot!(table(&status, look), @r#"
        VERSION   UPTIME   COMMANDS   CONNECTIONS   IDLE   MEMORY   CPU   PROCESSES   DISK
        1.2.3     6m40s    1          2             -      -        -     -           -
        "#);
        status.idle = Some(Duration::from_millis(61_700));
        status.usage = Usage {
            memory_bytes: Some(50 << 20),
            memory_limit_bytes: Some(2 << 30),
            cpu: Some(Duration::from_millis(1260)),
            processes: Some(4),
            disk_used_bytes: Some(3 << 30),
            disk_total_bytes: Some(10 << 30),
        };
        insta::assert_snapshot!(table(&status, look), @r#"
        VERSION   UPTIME   COMMANDS   CONNECTIONS   IDLE   MEMORY                 CPU    PROCESSES   DISK
        1.2.3     6m40s    1          2             61s    50.00 MiB / 2.00 GiB   1.3s   4           3.00 GiB / 10.00 GiB
        "#);
    }
}
