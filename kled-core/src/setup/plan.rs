//! Which steps have to be run.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{CommandSet, Dotfiles, Setup, SetupCommand};

/// A step of the set-up. They are run in the order in which they stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepKind {
    /// The first command after the checkout.
    OnCreate,
    /// The one that brings the project up to date: packages, generated code.
    UpdateContent,
    /// The last one of a creation.
    PostCreate,
    /// The user's own files.
    Dotfiles,
    /// At every start.
    PostStart,
    /// At every attach.
    PostAttach,
}

impl StepKind {
    /// All, in order.
    pub const ALL: [Self; 6] = [
        Self::OnCreate,
        Self::UpdateContent,
        Self::PostCreate,
        Self::Dotfiles,
        Self::PostStart,
        Self::PostAttach,
    ];

    /// The field of a `devcontainer.json`, or `dotfiles`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnCreate => "onCreateCommand",
            Self::UpdateContent => "updateContentCommand",
            Self::PostCreate => "postCreateCommand",
            Self::Dotfiles => "dotfiles",
            Self::PostStart => "postStartCommand",
            Self::PostAttach => "postAttachCommand",
        }
    }

    /// When it is run.
    #[must_use]
    pub const fn phase(self) -> Phase {
        match self {
            Self::OnCreate | Self::UpdateContent | Self::PostCreate | Self::Dotfiles => Phase::Create,
            Self::PostStart => Phase::Start,
            Self::PostAttach => Phase::Attach,
        }
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// What happens to the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It is created, or its creation is finished.
    Create,
    /// It is started, for the first time too.
    Start,
    /// Somebody attaches to it.
    Attach,
}

/// A step that has to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which one.
    pub kind: StepKind,
    /// Of its definition: a step that is written otherwise is another one.
    pub digest: String,
    /// True where the workspace counts as ready only after it.
    pub awaited: bool,
    /// What to do.
    pub action: Action,
}

/// What a [`Step`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Runs commands, in parallel.
    Run(CommandSet),
    /// Brings the user's own files.
    Dotfiles(Dotfiles),
}

/// The steps that are done, by the digest of what was done. A step that failed is not in it.
///
/// It is stored with the workspace, so that a step of its creation is run once however often the creation is taken up
/// again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Done(BTreeMap<StepKind, String>);

impl Done {
    /// True where the step, as it is written now, is done.
    #[must_use]
    pub fn contains(&self, step: &Step) -> bool {
        self.0.get(&step.kind) == Some(&step.digest)
    }

    /// Notes a step that succeeded. A step of an attach is never noted.
    pub fn record(&mut self, step: &Step) {
        if step.kind.phase() != Phase::Attach {
            self.0.insert(step.kind, step.digest.clone());
        }
    }

    /// What is still done after the workspace was stopped and started.
    #[must_use]
    pub fn at_new_start(mut self) -> Self {
        self.0.retain(|kind, _| kind.phase() == Phase::Create);
        self
    }
}

/// The steps of `phase` that are not done, in the order in which they have to be run. The first failure ends them.
///
/// ```
/// use kled_core::setup::{Done, Phase, parse_devcontainer, plan};
///
/// let text = r#"{"onCreateCommand": "make deps", "postStartCommand": "make serve"}"#;
/// let setup = parse_devcontainer(".devcontainer.json", text)?;
/// let mut done = Done::default();
/// for phase in [Phase::Create, Phase::Start] {
///     for step in plan(&setup, phase, &done) {
///         done.record(&step);
///     }
///     assert!(plan(&setup, phase, &done).is_empty());
/// }
/// let done = done.at_new_start();
/// assert!(plan(&setup, Phase::Create, &done).is_empty());
/// assert_eq!(plan(&setup, Phase::Start, &done).len(), 1);
/// # Ok::<_, kled_core::Error>(())
/// ```
#[must_use]
pub fn plan(setup: &Setup, phase: Phase, done: &Done) -> Vec<Step> {
    StepKind::ALL
        .into_iter()
        .filter(|kind| kind.phase() == phase)
        .filter_map(|kind| step(setup, kind))
        .filter(|step| !done.contains(step))
        .collect()
}

fn step(setup: &Setup, kind: StepKind) -> Option<Step> {
    let action = match kind {
        StepKind::Dotfiles => Action::Dotfiles(setup.dotfiles.clone()?),
        _ => Action::Run(setup.commands.get(&kind)?.clone()),
    };
    let awaited = setup.wait_for.is_some_and(|last| kind <= last);
    Some(Step { kind, digest: digest(&action), awaited, action })
}

/// Each part comes with its length, so that no two definitions are the same text.
struct Definition(Sha256);

impl Definition {
    fn add(&mut self, part: &str) {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }
}

/// Where the commands stand in the file is no part of what they are.
fn digest(action: &Action) -> String {
    let mut definition = Definition(Sha256::new());
    match action {
        Action::Run(set) => {
            for (name, command) in &set.commands {
                definition.add(name);
                let (kind, parts) = match command {
                    SetupCommand::Shell(text) => ("shell", std::slice::from_ref(text)),
                    SetupCommand::Arguments(arguments) => ("arguments", arguments.as_slice()),
                };
                definition.add(kind);
                definition.add(&parts.len().to_string());
                parts.iter().for_each(|part| definition.add(part));
            }
        }
        Action::Dotfiles(dotfiles) => {
            definition.add(&dotfiles.repository.to_string());
            for part in [dotfiles.revision.as_ref(), dotfiles.install_command.as_ref()] {
                definition.add(if part.is_some() { "some" } else { "none" });
                definition.add(part.map_or("", String::as_str));
            }
        }
    }
    hex::encode(definition.0.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commands() -> impl Strategy<Value = CommandSet> {
        let command = prop_oneof![
            "[a-z ]{1,6}".prop_map(SetupCommand::Shell),
            prop::collection::vec("[a-z]{0,3}", 1..4).prop_map(SetupCommand::Arguments),
        ];
        (any::<Option<u64>>(), prop::collection::btree_map("[a-z]{0,2}", command, 1..3))
            .prop_map(|(line, commands)| CommandSet { field: "field".into(), line, commands })
    }

    fn setups() -> impl Strategy<Value = Setup> {
        let kinds = prop::sample::select(&StepKind::ALL[..])
            .prop_filter("has no commands", |kind| *kind != StepKind::Dotfiles);
        let dotfiles = ("[a-z]{1,3}", any::<Option<bool>>(), prop::option::of("[a-z]{1,3}"));
        (
            prop::collection::btree_map(kinds, commands(), 0..5),
            prop::option::of(dotfiles),
            prop::option::of(prop::sample::select(&StepKind::ALL[..])),
        )
            .prop_map(|(commands, dotfiles, wait_for)| Setup {
                commands,
                dotfiles: dotfiles.map(|(name, revision, install_command)| Dotfiles {
                    repository: format!("https://h.example/{name}").parse().unwrap(),
                    revision: revision.map(|first| if first { "a".into() } else { "b".into() }),
                    install_command,
                }),
                wait_for,
                ..Setup::default()
            })
    }

    /// Carries plans out until the step number `fails_at`, counted over both phases.
    fn carry_out(setup: &Setup, done: &mut Done, fails_at: usize) -> Vec<StepKind> {
        let mut run = Vec::new();
        for phase in [Phase::Create, Phase::Start] {
            for step in plan(setup, phase, done) {
                if run.len() == fails_at {
                    return run;
                }
                run.push(step.kind);
                done.record(&step);
            }
        }
        run
    }

    proptest! {
        #[test]
        fn nothing_that_is_done_is_planned_and_nothing_else_is_left_out(
            setup in setups(), failures in prop::collection::vec(0_usize..6, 0..4),
        ) {
            let mut done = Done::default();
            let mut run = Vec::new();
            for fails_at in failures {
                run.extend(carry_out(&setup, &mut done, fails_at));
            }
            run.extend(carry_out(&setup, &mut done, usize::MAX));
            let mut expected: Vec<StepKind> = setup.commands.keys().copied().collect();
            expected.extend(setup.dotfiles.is_some().then_some(StepKind::Dotfiles));
            expected.retain(|kind| kind.phase() != Phase::Attach);
            expected.sort_unstable();
            prop_assert_eq!(run, expected);
        }

        #[test]
        fn a_new_start_repeats_the_start_alone(setup in setups()) {
            let mut done = Done::default();
            carry_out(&setup, &mut done, usize::MAX);
            let stored = serde_json::to_string(&done).unwrap();
            let mut done = serde_json::from_str::<Done>(&stored).unwrap().at_new_start();
            let expected: Vec<StepKind> =
                setup.commands.keys().copied().filter(|kind| kind.phase() == Phase::Start).collect();
            prop_assert_eq!(carry_out(&setup, &mut done, usize::MAX), expected);
        }

        #[test]
        fn what_is_written_otherwise_is_run_again_and_nothing_else(one in setups(), other in setups()) {
            let mut done = Done::default();
            carry_out(&one, &mut done, usize::MAX);
            for step in plan(&other, Phase::Create, &done) {
                let same = match step.kind {
                    StepKind::Dotfiles => one.dotfiles == other.dotfiles,
                    kind => one.commands.get(&kind).map(|set| &set.commands)
                        == other.commands.get(&kind).map(|set| &set.commands),
                };
                prop_assert!(!same, "{:?}", step.kind);
            }
        }

        #[test]
        fn what_is_awaited_comes_first(setup in setups()) {
            let steps: Vec<Step> = [Phase::Create, Phase::Start, Phase::Attach]
                .into_iter()
                .flat_map(|phase| plan(&setup, phase, &Done::default()))
                .collect();
            prop_assert!(steps.is_sorted_by_key(|step| step.kind));
            prop_assert!(steps.is_sorted_by_key(|step| !step.awaited));
        }
    }

    #[test]
    fn another_line_is_not_another_definition() {
        let set = |line| CommandSet {
            field: "postCreateCommand".into(),
            line,
            commands: BTreeMap::from([(String::new(), SetupCommand::Shell("make".into()))]),
        };
        assert_eq!(digest(&Action::Run(set(Some(1)))), digest(&Action::Run(set(Some(2)))));
    }

    #[test]
    fn a_shell_and_its_arguments_are_told_apart() {
        let digest = |command: SetupCommand| {
            digest(&Action::Run(CommandSet {
                field: String::new(),
                line: None,
                commands: BTreeMap::from([(String::new(), command)]),
            }))
        };
        let arguments = |parts: &[&str]| {
            digest(SetupCommand::Arguments(parts.iter().map(|part| (*part).into()).collect()))
        };
        assert_ne!(digest(SetupCommand::Shell("a".into())), arguments(&["a"]));
        assert_ne!(arguments(&["a b"]), arguments(&["a", "b"]));
        assert_ne!(arguments(&["a"]), arguments(&["a", ""]));
    }
}
