//! The environment of commands: what the container has, less what is the agent's, and what every workspace has.

use std::collections::BTreeMap;
use std::path::Path;

use kled_core::provider;
use rustix::fs::Access;

use super::settings::{PREFIX, Settings};
use crate::agent::server::WORKSPACE_ID;

/// The user where `/etc/passwd` has no name for it.
const USER: &str = "kled";

/// Where the agent is; last on the path, so that it hides nothing of the image.
const TOOLS: &str = "/kled/bin";

/// Where programs are looked for when the image does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is known of the container besides its variables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    /// True where files can be made.
    pub(super) is_writable: fn(&Path) -> bool,
    /// The name that `/etc/passwd` has for the user.
    pub(super) user: Option<&'a str>,
    /// True when the folder of the checkout belongs to another user, as a mount does: git then refuses to work in it.
    pub(super) foreign_checkout: bool,
}

/// What commands have in their environment.
pub(super) fn of_commands(
    inherited: impl Iterator<Item = (String, String)>,
    settings: &Settings,
    surroundings: Surroundings<'_>,
) -> provider::Variables {
    let mut variables: BTreeMap<String, String> =
        inherited.filter(|(name, _)| !name.starts_with(PREFIX)).collect();
    let has_home = variables.get("HOME").is_some_and(|home| (surroundings.is_writable)(Path::new(home)));
    if !has_home {
        variables.insert("HOME".into(), settings.home.clone());
    }
    variables.entry("USER".into()).or_insert_with(|| surroundings.user.unwrap_or(USER).into());
    let path = variables.entry("PATH".into()).or_insert_with(|| PATH.into());
    if !path.split(':').any(|folder| folder == TOOLS) {
        *path = format!("{path}:{TOOLS}");
    }
    variables.insert("KLED_WORKSPACE".into(), settings.name.to_string());
    variables.insert(WORKSPACE_ID.into(), settings.id.to_string());
    if surroundings.foreign_checkout {
        trust(&mut variables, &settings.checkout);
    }
    provider::Variables(variables)
}

/// Lets git work in a folder that belongs to another user. Not in a file: those of the home folder are the user's.
fn trust(variables: &mut BTreeMap<String, String>, checkout: &Path) {
    let count: usize =
        variables.get("GIT_CONFIG_COUNT").and_then(|count| count.parse().ok()).unwrap_or_default();
    variables.insert(format!("GIT_CONFIG_KEY_{count}"), "safe.directory".into());
    variables.insert(format!("GIT_CONFIG_VALUE_{count}"), checkout.display().to_string());
    variables.insert("GIT_CONFIG_COUNT".into(), (count + 1).to_string());
}

/// True where this user can make files.
pub(super) fn is_writable(folder: &Path) -> bool {
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// The name of a user in the text of `/etc/passwd`.
pub(super) fn user_name(passwd: &str, user: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(user) && !name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SURROUNDINGS: Surroundings<'_> =
        Surroundings { is_writable: |path| path != Path::new("/"), user: None, foreign_checkout: false };

    fn settings() -> Settings {
        Settings::read(|name| match name {
            "KLED_WORKSPACE" => Some("web".into()),
            "KLED_WORKSPACE_ID" => Some("6f2ad1a5-9a63-4f4d-a4f6-7c3f5f1f4d11".into()),
            _ => None,
        })
        .unwrap()
    }

    fn of(inherited: &[(&str, &str)], surroundings: Surroundings<'_>) -> BTreeMap<String, String> {
        let inherited = inherited.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        of_commands(inherited, &settings(), surroundings).0
    }

    #[test]
    fn an_empty_container_has_what_every_workspace_has() {
        let variables = of(&[], SURROUNDINGS);
        assert_eq!(variables["HOME"], "/home/kled");
        assert_eq!(variables["USER"], "kled");
        assert!(variables["PATH"].ends_with("/bin:/kled/bin"));
        assert_eq!(variables["KLED_WORKSPACE"], "web");
        assert_eq!(variables["KLED_WORKSPACE_ID"], "6f2ad1a5-9a63-4f4d-a4f6-7c3f5f1f4d11");
    }

    #[test]
    fn the_image_is_kept_and_the_agent_left_out() {
        let inherited = [
            ("PATH", "/opt/go/bin:/bin"),
            ("HOME", "/root"),
            ("GOFLAGS", "-mod=vendor"),
            ("KLED_AGENT_TOKEN_FILE", "/kled-token/token"),
            ("KLED_WORKSPACE", "another"),
        ];
        let variables = of(&inherited, Surroundings { user: Some("root"), ..SURROUNDINGS });
        assert_eq!(variables["PATH"], "/opt/go/bin:/bin:/kled/bin");
        assert_eq!(variables["HOME"], "/root");
        assert_eq!(variables["USER"], "root");
        assert_eq!(variables["GOFLAGS"], "-mod=vendor");
        assert_eq!(variables["KLED_WORKSPACE"], "web");
        assert!(!variables.contains_key("KLED_AGENT_TOKEN_FILE"));
        assert!(!variables.contains_key("GIT_CONFIG_COUNT"));
    }

    #[test]
    fn a_home_that_cannot_be_written_to_is_replaced() {
        assert_eq!(of(&[("HOME", "/")], SURROUNDINGS)["HOME"], "/home/kled");
    }

    #[test]
    fn git_works_in_a_mount_and_keeps_its_settings() {
        let inherited = [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "a.b"), ("GIT_CONFIG_VALUE_0", "c")];
        let variables = of(&inherited, Surroundings { foreign_checkout: true, ..SURROUNDINGS });
        assert_eq!(variables["GIT_CONFIG_COUNT"], "2");
        assert_eq!(variables["GIT_CONFIG_KEY_0"], "a.b");
        assert_eq!(variables["GIT_CONFIG_KEY_1"], "safe.directory");
        assert_eq!(variables["GIT_CONFIG_VALUE_1"], "/workspace");
    }

    #[test]
    fn users_are_found_by_their_number() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nmalformed\n:x:7:7::/:\ndev:x:1000:1000::/home/dev:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000), Some("dev"));
        assert_eq!(user_name(passwd, 1001), None);
        assert_eq!(user_name(passwd, 7), None);
    }
}
