//! The workspace agent as the first process of a container.
//!
//! The program is put into the container before its first start, through the engine's upload, so the image needs
//! nothing: no shell, no C library. The token is made by the agent at each start and is in the container's memory only:
//! neither the engine's records nor an image made of the container have it. Whoever may run programs in the container
//! through the engine is told it by the program itself, on whichever machine the driver is.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bytes::Bytes;
use kled_core::{Error, Failure};
use tar::{Builder, EntryType, Header};

use super::body::{MEMORY_PATH, WORKSPACE_PATH, working_folder};
use super::engine::Labels;
use super::marks::Marks;
use super::upload::Owner;
use crate::agent::delivery::AgentProgram;
use crate::agent::server::WORKSPACE_ID;

/// On containers that have an agent: the digest of the program.
pub(super) const AGENT: &str = "kled.io/agent";

/// Where the agent and what it remembers are. Programs end up in `bin`, which commands have on their path.
pub(super) const FOLDER: &str = "/kled";
pub(super) const PROGRAM: &str = "/kled/bin/kled-agent";
const STATE: &str = "/kled/state";
const HOME: &str = "/kled/home";

/// Why a set-up failed: for status, on whichever machine.
pub(super) const FAILURE: &str = "failure.json";

/// Between the request to end and the kill of what is left, where nobody says how long: less than engines give.
const GRACE_SECONDS: u32 = 8;

/// True when a container with these labels has an agent.
pub(super) fn is_in(labels: &Labels) -> bool {
    labels.contains_key(AGENT)
}

/// What the agent has to know.
pub(super) fn environment(marks: &Marks) -> BTreeMap<String, String> {
    let spec = &marks.spec;
    let idle = spec.idle_timeout.map(|idle| idle.as_millis().to_string());
    let variables = [
        ("KLED_WORKSPACE", Some(marks.name.to_string())),
        (WORKSPACE_ID, Some(marks.id.to_string())),
        ("KLED_AGENT_HEALTH_LISTEN", Some("none".into())),
        ("KLED_AGENT_TOKEN_FILE", Some(format!("{MEMORY_PATH}/token"))),
        ("KLED_AGENT_MAKES_TOKEN", Some("true".into())),
        ("KLED_AGENT_CHECKOUT", Some(WORKSPACE_PATH.into())),
        ("KLED_AGENT_WORKING_DIRECTORY", Some(working_folder(spec))),
        ("KLED_AGENT_HOME", Some(HOME.into())),
        ("KLED_AGENT_STATE", Some(STATE.into())),
        ("KLED_AGENT_GRACE_SECONDS", Some(GRACE_SECONDS.to_string())),
        ("KLED_AGENT_IDLE_MILLISECONDS", idle),
        ("KLED_AGENT_EXPIRES", spec.expires(marks.created).map(|expires| expires.to_string())),
    ];
    variables.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The archive, for the container's root folder, that has the program and the agent's own folders, which belong to the
/// user of the image.
pub(super) fn files(program: &AgentProgram, user: Owner) -> io::Result<Bytes> {
    let root = Owner::default();
    let mut archive = Builder::new(Vec::with_capacity(program.content().len() + (64 << 10)));
    for (path, mode, owner) in
        [(FOLDER, 0o755, root), ("/kled/bin", 0o755, root), (STATE, 0o700, user), (HOME, 0o755, user)]
    {
        let mut header = header(EntryType::Directory, mode, owner, 0);
        archive.append_data(&mut header, relative(path).join(""), io::empty())?;
    }
    let content = program.content();
    let mut header = header(EntryType::Regular, 0o755, root, content.len() as u64);
    archive.append_data(&mut header, relative(PROGRAM), content)?;
    archive.into_inner().map(Bytes::from)
}

/// The archive, for the agent's folder, that says why a set-up failed.
pub(super) fn failure(error: &Error) -> io::Result<Bytes> {
    let text = serde_json::to_vec(&Failure::from(error))?;
    let mut archive = Builder::new(Vec::new());
    // It quotes what the project's commands wrote.
    let mut header = header(EntryType::Regular, 0o600, Owner::default(), text.len() as u64);
    archive.append_data(&mut header, FAILURE, &text[..])?;
    archive.into_inner().map(Bytes::from)
}

fn relative(path: &str) -> &Path {
    Path::new(path.trim_start_matches('/'))
}

fn header(kind: EntryType, mode: u32, owner: Owner, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.user);
    header.set_gid(owner.group);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use kled_core::WorkspaceName;
    use kled_core::workspace::WorkspaceSpec;

    use super::*;

    #[test]
    fn the_archive_has_the_program_and_folders_of_the_user() {
        let program = AgentProgram::new(&b"a program"[..]);
        let archive = files(&program, Owner { user: 5, group: 6 }).unwrap();
        let mut archive = tar::Archive::new(&archive[..]);
        let seen: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let path = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
                (path, entry.header().mode().unwrap(), entry.header().uid().unwrap())
            })
            .collect();
        let expected = [
            ("kled", 0o755, 0),
            ("kled/bin", 0o755, 0),
            ("kled/state", 0o700, 5),
            ("kled/home", 0o755, 5),
            ("kled/bin/kled-agent", 0o755, 0),
        ];
        assert_eq!(seen, expected.map(|(path, mode, user)| (path.to_owned(), mode, user)));
    }

    #[test]
    fn the_agent_is_told_when_to_end() {
        let name = WorkspaceName::new("demo").unwrap();
        let builder = || WorkspaceSpec::builder("https://example.com/app");
        let told = environment(&Marks::new(&name, &builder().build().unwrap()));
        assert_eq!(told["KLED_WORKSPACE"], "demo");
        assert!(
            !told.contains_key("KLED_AGENT_EXPIRES") && !told.contains_key("KLED_AGENT_IDLE_MILLISECONDS")
        );
        let spec = builder().idle_timeout("2s").time_to_live("1h").build().unwrap();
        let marks = Marks::new(&name, &spec);
        let told = environment(&marks);
        assert_eq!(told["KLED_AGENT_IDLE_MILLISECONDS"], "2000");
        let expires: jiff::Timestamp = told["KLED_AGENT_EXPIRES"].parse().unwrap();
        assert_eq!(expires.duration_since(marks.created).as_secs(), 3600);
    }
}
