//! Variables such as `${localEnv:HOME}`.

use sha2::{Digest, Sha256};

use crate::WorkspaceId;
use crate::provider::Variables;

/// What variables stand for. `Debug` shows no value of an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// For `${localEnv:NAME}`: those variables of the user's machine that the caller gives. A project could read a
    /// secret through any other.
    pub local_environment: Variables,
    /// For `${containerEnv:NAME}`: the environment of the workspace.
    pub container_environment: Variables,
    /// For `${localWorkspaceFolder}`: the folder on the user's machine, or the checkout where there is none.
    pub local_workspace_folder: String,
    /// For `${containerWorkspaceFolder}`: where commands run.
    pub container_workspace_folder: String,
    /// For `${devcontainerId}`; see [`devcontainer_id`].
    pub devcontainer_id: String,
}

fn basename(path: &str) -> &str {
    path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default()
}

/// The value of a variable of an environment, else what stands after its name, else nothing.
fn from_environment(environment: &Variables, name_and_default: &str) -> String {
    let (name, default) = name_and_default.split_once(':').unwrap_or((name_and_default, ""));
    environment.0.get(name).map_or(default, String::as_str).to_owned()
}

impl Scope {
    /// `text` with the values of its variables. Others than those of the specification stay as they are: `${HOME}` in
    /// a command is for its shell. What a value contains is not read again.
    ///
    /// ```
    /// use kled_core::setup::Scope;
    ///
    /// let scope = Scope { container_workspace_folder: "/workspace/app".into(), ..Scope::default() };
    /// let text = "cd ${containerWorkspaceFolderBasename} && echo ${HOME} ${localEnv:LANG:C}";
    /// assert_eq!(scope.substitute(text), "cd app && echo ${HOME} C");
    /// ```
    #[must_use]
    pub fn substitute(&self, text: &str) -> String {
        let mut substituted = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let Some(length) = rest[start..].find('}') else {
                break;
            };
            let variable = &rest[start + 2..start + length];
            match self.value(variable) {
                Some(value) => {
                    substituted.push_str(&rest[..start]);
                    substituted.push_str(&value);
                    rest = &rest[start + length + 1..];
                }
                // A known variable may begin within: `${X:-${localEnv:X}}`.
                None => {
                    substituted.push_str(&rest[..start + 2]);
                    rest = &rest[start + 2..];
                }
            }
        }
        substituted.push_str(rest);
        substituted
    }

    fn value(&self, variable: &str) -> Option<String> {
        match variable {
            "localWorkspaceFolder" => Some(self.local_workspace_folder.clone()),
            "localWorkspaceFolderBasename" => Some(basename(&self.local_workspace_folder).into()),
            "containerWorkspaceFolder" => Some(self.container_workspace_folder.clone()),
            "containerWorkspaceFolderBasename" => Some(basename(&self.container_workspace_folder).into()),
            "devcontainerId" => Some(self.devcontainer_id.clone()),
            _ => match variable.split_once(':')? {
                ("localEnv" | "env", name) => Some(from_environment(&self.local_environment, name)),
                ("containerEnv", name) => Some(from_environment(&self.container_environment, name)),
                _ => None,
            },
        }
    }
}

/// The value of `${devcontainerId}`: 52 digits of base 32, which stay the same for the life of a workspace.
///
/// ```
/// use kled_core::{WorkspaceId, setup::devcontainer_id};
///
/// let workspace = WorkspaceId::random();
/// assert_eq!(devcontainer_id(workspace), devcontainer_id(workspace));
/// assert_eq!(devcontainer_id(workspace).len(), 52);
/// ```
#[must_use]
pub fn devcontainer_id(workspace: WorkspaceId) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let digest = Sha256::digest(workspace.to_string());
    let bit = |index: usize| usize::from(digest[index / 8] >> (7 - index % 8) & 1);
    // 256 bits are 51 digits and a leading one of a single bit.
    let digit = |first: usize, bits: usize| (first..first + bits).fold(0, |sum, index| sum * 2 + bit(index));
    std::iter::once(digit(0, 1))
        .chain((1..256).step_by(5).map(|first| digit(first, 5)))
        .map(|digit| char::from(DIGITS[digit]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scope() -> Scope {
        let variables = |pairs: &[(&str, &str)]| {
            Variables(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
        };
        Scope {
            local_environment: variables(&[("A", "local"), ("LOOP", "${localEnv:A}")]),
            container_environment: variables(&[("A", "inside"), ("EMPTY", "")]),
            local_workspace_folder: "/home/me/app/".into(),
            container_workspace_folder: "/workspace/app".into(),
            devcontainer_id: "id".into(),
        }
    }

    #[test]
    fn every_variable_of_the_specification_has_its_value() {
        let cases = [
            ("${localEnv:A}", "local"),
            ("${env:A}", "local"),
            ("${containerEnv:A}", "inside"),
            ("${containerEnv:NONE}", ""),
            ("${containerEnv:NONE:a:b}", "a:b"),
            ("${containerEnv:EMPTY:default}", ""),
            ("${localWorkspaceFolder}", "/home/me/app/"),
            ("${localWorkspaceFolderBasename}", "app"),
            ("${containerWorkspaceFolder}", "/workspace/app"),
            ("${containerWorkspaceFolderBasename}", "app"),
            ("${devcontainerId}", "id"),
            ("${localEnv:LOOP}", "${localEnv:A}"),
            ("${A} $A ${localEnv} ${", "${A} $A ${localEnv} ${"),
            ("${B:-${localEnv:A}}", "${B:-local}"),
            ("x${containerEnv:A}y${devcontainerId}z", "xinsideyidz"),
        ];
        for (text, expected) in cases {
            assert_eq!(scope().substitute(text), expected, "{text}");
        }
    }

    #[test]
    fn an_identity_is_the_digest_in_base_32() {
        let text = devcontainer_id("00000000-0000-4000-8000-000000000000".parse().unwrap());
        let mut bytes = [0_u8; 32];
        for digit in text.chars().map(|digit| u16::try_from(digit.to_digit(32).unwrap()).unwrap()) {
            let mut carry = digit;
            for byte in bytes.iter_mut().rev() {
                let wide = u16::from(*byte) * 32 + carry;
                (*byte, carry) = ((wide & 0xff) as u8, wide >> 8);
            }
            assert_eq!(carry, 0);
        }
        assert_eq!(bytes, <[u8; 32]>::from(Sha256::digest("00000000-0000-4000-8000-000000000000")));
    }

    proptest! {
        #[test]
        fn text_without_a_known_variable_stays(text in "([a-z$:]|\\$\\{|\\}|\\PC){0,40}") {
            prop_assume!(!["localEnv:", "containerEnv:", "env:"].iter().any(|name| text.contains(name)));
            prop_assert_eq!(scope().substitute(&text), text);
        }

        #[test]
        fn variables_stand_for_their_values_wherever_they_are(
            parts in prop::collection::vec(prop_oneof![
                "[a-z {}/]{0,5}".prop_map(|text| (text.clone(), text)),
                Just(("${localEnv:A}".to_owned(), "local".to_owned())),
                Just(("${containerEnv:NONE:x}".to_owned(), "x".to_owned())),
                Just(("${devcontainerId}".to_owned(), "id".to_owned())),
            ], 0..10),
        ) {
            let (text, expected): (String, String) = parts.into_iter().unzip();
            prop_assert_eq!(scope().substitute(&text), expected);
        }
    }
}
