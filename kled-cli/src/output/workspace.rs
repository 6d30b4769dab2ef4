//! Workspaces for people.

use std::fmt::Write as _;

use anstyle::Style;
use kled_core::workspace::{History, Workspace};

use super::color::state_style;
use super::{Look, Table, age, printable};

/// One line for each workspace.
pub(crate) fn workspace_table(workspaces: &[Workspace], look: Look) -> String {
    let mut table = Table::new(["NAME", "STATE", "PROVIDER", "REPOSITORY", "REVISION", "AGE"]);
    for workspace in workspaces {
        let plain = |text: String| (text, Style::new());
        table.styled_row([
            plain(workspace.name.to_string()),
            (workspace.status.state().to_owned(), state_style(&workspace.status)),
            plain(workspace.provider.to_string()),
            plain(workspace.repository().to_string()),
            plain(workspace.spec.source.revision.to_string()),
            plain(age(workspace.created, look.now)),
        ]);
    }
    table.to_text(look.color)
}

/// Everything about one workspace.
pub(crate) fn workspace_details(workspace: &Workspace, look: Look) -> String {
    let state = look.paint(state_style(&workspace.status), &workspace.status.to_string());
    let mut lines: Vec<(&str, String)> = vec![
        ("Name", workspace.name.to_string()),
        ("State", state),
        ("Provider", workspace.provider.to_string()),
        ("ID", workspace.id.to_string()),
        ("Created", format!("{} ({} ago)", workspace.created, age(workspace.created, look.now))),
    ];
    lines.extend(workspace.expires().map(|time| ("Expires", time.to_string())));
    lines.extend(source_lines(workspace));
    lines.extend(spec_lines(workspace));
    let mut text = String::new();
    for (label, value) in lines {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{:<13} {value}", format!("{label}:"));
    }
    if !workspace.conditions.is_empty() {
        text.push_str("Conditions:\n");
        text.push_str(&conditions(workspace));
    }
    text
}

fn source_lines(workspace: &Workspace) -> Vec<(&'static str, String)> {
    let source = &workspace.spec.source;
    let history = if source.history == History::Full { " (full history)" } else { "" };
    let mut lines = vec![
        ("Repository", printable(&source.repository.to_string())),
        ("Revision", format!("{}{history}", source.revision)),
    ];
    lines.extend(source.path.as_ref().map(|path| ("Sub-path", path.to_string())));
    if let Some(checkout) = &workspace.checkout {
        lines.push(("Commit", checkout.commit.clone()));
        lines.push(("Checkout", printable(&checkout.path)));
    }
    lines
}

fn spec_lines(workspace: &Workspace) -> Vec<(&'static str, String)> {
    let spec = &workspace.spec;
    let limits =
        [("cpu", &spec.resources.cpu), ("memory", &spec.resources.memory), ("disk", &spec.resources.disk)];
    let limits: Vec<_> =
        limits.into_iter().filter_map(|(name, limit)| Some(format!("{name} {}", limit.as_ref()?))).collect();
    let joined = |items: Vec<String>| items.join(", ");
    let labels = joined(spec.labels.iter().map(|(key, value)| format!("{key}={value}")).collect());
    // Values of variables stay out: people put secrets there, and this is what gets pasted into reports.
    let names = spec.environment.keys().chain(spec.secrets.keys());
    let lines = [
        ("Isolation", spec.isolation.to_string()),
        ("Image", spec.image.clone().unwrap_or_default()),
        ("Limits", joined(limits)),
        ("Labels", labels),
        ("Environment", joined(names.map(ToString::to_string).collect())),
        ("Ports", joined(spec.ports.iter().map(|port| port.number.to_string()).collect())),
    ];
    lines.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

fn conditions(workspace: &Workspace) -> String {
    let mut table = Table::new(["  TYPE", "STATUS", "REASON", "MESSAGE"]);
    for condition in &workspace.conditions {
        table.row([
            format!("  {}", condition.condition_type),
            format!("{:?}", condition.status),
            condition.reason.clone(),
            condition.message.clone(),
        ]);
    }
    table.to_text(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use kled_core::workspace::{Checkout, Condition, StopReason, WorkspaceSpec, WorkspaceStatus};
    use kled_core::{ProviderName, WorkspaceName};

    fn look() -> Look {
        Look { color: false, now: Timestamp::from_second(400).unwrap() }
    }

    fn workspace(name: &str, status: WorkspaceStatus) -> Workspace {
        let spec = WorkspaceSpec::builder("https://example.com/org/app.git")
            .branch("main")
            .cpu("500m")
            .memory("1Gi")
            .environment("LEVEL", "not-shown")
            .secret("TOKEN", "env:TOKEN")
            .label("team", "a")
            .port("8080")
            .time_to_live("1h")
            .build()
            .unwrap();
        Workspace {
            name: WorkspaceName::new(name).unwrap(),
            id: "6a3f0c1e-0000-4000-8000-000000000001".parse().unwrap(),
            provider: ProviderName::new("local").unwrap(),
            spec,
            status,
            created: Timestamp::UNIX_EPOCH,
            checkout: Some(Checkout { path: "/data/demo/checkout".into(), commit: "0123abc".into() }),
            conditions: vec![Condition::new(
                "Sandboxed",
                true,
                "Bubblewrap",
                "files and processes are kept apart",
            )],
        }
    }

    #[test]
    fn a_table_has_one_line_for_each_workspace() {
        let since = Timestamp::UNIX_EPOCH;
        let workspaces = [
            workspace("demo", WorkspaceStatus::Running { since }),
            workspace("a-longer-name", WorkspaceStatus::Interrupted { step: "clone".into(), message: None }),
            workspace("old", WorkspaceStatus::Stopped { since, reason: StopReason::Idle }),
        ];
        insta::assert_snapshot!(workspace_table(&workspaces, look()), @r#"
        NAME            STATE         PROVIDER   REPOSITORY                        REVISION   AGE
        demo            Running       local      https://example.com/org/app.git   main       6m40s
        a-longer-name   Interrupted   local      https://example.com/org/app.git   main       6m40s
        old             Stopped       local      https://example.com/org/app.git   main       6m40s
        "#);
        assert!(
            workspace_table(&workspaces, Look { color: true, ..look() })
                .contains("\u{1b}[32mRunning\u{1b}[0m")
        );
    }

    #[test]
    fn details_show_everything_but_values_of_variables() {
        let status = WorkspaceStatus::Interrupted { step: "clone".into(), message: Some("killed".into()) };
        let text = workspace_details(&workspace("demo", status), look());
        insta::assert_snapshot!(text, @r#"
        Name:         demo
        State:        Interrupted (clone: killed)
        Provider:     local
        ID:           6a3f0c1e-0000-4000-8000-000000000001
        Created:      1970-01-01T00:00:00Z (6m40s ago)
        Expires:      1970-01-01T01:00:00Z
        Repository:   https://example.com/org/app.git
        Revision:     main
        Commit:       0123abc
        Checkout:     /data/demo/checkout
        Isolation:    default
        Limits:       cpu 500m, memory 1Gi
        Labels:       team=a
        Environment:  LEVEL, TOKEN
        Ports:        8080
        Conditions:
          TYPE        STATUS   REASON       MESSAGE
          Sandboxed   True     Bubblewrap   files and processes are kept apart
        "#);
        assert!(!text.contains("not-shown"));
    }
}
