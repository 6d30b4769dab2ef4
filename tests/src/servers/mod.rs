//! Fetching, building and caching the real servers that tests run.
//!
//! [`install`] makes everything of the [`table`] available and tells what it could not. What is installed already
//! is used: distribution programs of any version, servers on `PATH` or in `KLED_TEST_BIN` if they tell the
//! table's version. The rest is built from the Go modules below `tests/servers/` into a cache outside the
//! checkout, one folder for each server, version and module definition:
//!
//! ```text
//! ${KLED_TEST_CACHE:-${XDG_CACHE_HOME:-~/.cache}}/kled/servers/etcd-3.6.8-0123456789ab/etcd
//! ```

pub mod table;

mod cache;
mod debian;
mod go;
pub(crate) mod progress;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::Result;

use self::progress::Progress;
use self::table::{GO_SERVERS, GoProgram, GoServer};
use crate::{process, programs};

/// Makes every server available, printing progress to standard error; gives one line for each thing that is missing.
///
/// # Errors
/// When the cache cannot be used. A server that cannot be built is not an error: its tests are skipped, and the
/// returned lines say why.
pub fn install() -> Result<Vec<String>> {
    if !cfg!(target_os = "linux") {
        return Ok(vec!["the real servers need Linux".to_owned()]);
    }
    let progress = Progress::start();
    let mut missing: Vec<String> = debian::install(&progress)?.into_iter().collect();
    let mut failures = Vec::new();
    for server in GO_SERVERS {
        if let Err(error) = install_server(server, &progress) {
            failures.push((format!("{} {}", server.name, server.version), format!("{error:#}")));
        }
    }
    missing.extend(by_reason(failures));
    progress.say(if missing.is_empty() { "servers: ready" } else { "servers: some are missing" });
    Ok(missing.iter().map(|line| on_one_line(line)).collect())
}

/// One line for each reason: without a compiler, every server is missing for the same one.
fn by_reason(failures: Vec<(String, String)>) -> Vec<String> {
    let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
    for (name, reason) in failures {
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, names)) => names.push(name),
            None => reasons.push((reason, vec![name])),
        }
    }
    reasons.into_iter().map(|(reason, names)| format!("{}: {reason}", names.join(", "))).collect()
}

/// What a tool says may have many lines; a summary has one for each thing that is missing.
fn on_one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

fn install_server(server: &GoServer, progress: &Progress) -> Result<()> {
    if server.programs.iter().all(|program| installed(server, program).is_some()) {
        progress.say(&format!("{} {}: installed already", server.name, server.version));
        return Ok(());
    }
    let folder = cache::folder(server)?;
    if is_complete(server, &folder) {
        progress.say(&format!("{} {}: in the cache", server.name, server.version));
        return Ok(());
    }
    cache::fill(&folder, progress, |temporary| go::build(server, temporary, progress))
}

fn is_complete(server: &GoServer, folder: &Path) -> bool {
    server.programs.iter().all(|program| folder.join(program.name).is_file())
}

/// The path of one of the table's servers: an installed copy of the right version, else the built one.
pub(crate) fn find(server: &GoServer, program: &GoProgram) -> Option<PathBuf> {
    static FOUND: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut found = FOUND.lock().ok()?;
    let found = found.get_or_insert_default();
    if let Some(path) = found.get(program.name) {
        return Some(path.clone());
    }
    let path = installed(server, program).or_else(|| built(server, program))?;
    found.insert(program.name.to_owned(), path.clone());
    Some(path)
}

fn built(server: &GoServer, program: &GoProgram) -> Option<PathBuf> {
    Some(cache::folder(server).ok()?.join(program.name)).filter(|path| path.is_file())
}

fn installed(server: &GoServer, program: &GoProgram) -> Option<PathBuf> {
    let path = programs::find_installed(program.name)?;
    if program.version_arguments.is_empty() {
        return None;
    }
    let mut command = Command::new(&path);
    command.args(program.version_arguments);
    process::run(command).is_ok_and(|said| tells_version(&said, server.version)).then_some(path)
}

/// Whether the version stands in the text as a word of its own: `1.36.3` is not in `v1.36.30`.
fn tells_version(said: &str, version: &str) -> bool {
    let words = said.split(|character: char| character.is_whitespace() || character == ',');
    words.into_iter().any(|word| word.strip_prefix('v').unwrap_or(word) == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_for_one_reason_is_told_in_one_line() {
        let failure = |name: &str, reason: &str| (name.to_owned(), reason.to_owned());
        let failures = [failure("etcd", "no Go"), failure("pause", "no room"), failure("coredns", "no Go")];
        assert_eq!(by_reason(failures.to_vec()), ["etcd, coredns: no Go", "pause: no room"]);
        assert_eq!(on_one_line("no module\n\n  named pip\n"), "no module; named pip");
    }

    #[test]
    fn a_version_is_a_whole_word() {
        assert!(tells_version("Kubernetes v1.36.3\n", "1.36.3"));
        assert!(tells_version("etcd Version: 3.6.8\nGit SHA: x", "3.6.8"));
        assert!(!tells_version("Kubernetes v1.36.30", "1.36.3"));
        assert!(!tells_version("Kubernetes v1.36.3-beta", "1.36.3"));
    }
}
