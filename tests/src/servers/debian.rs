//! Programs that come with the distribution.

use std::process::Command;

use anyhow::Result;

use super::progress::Progress;
use super::table::{DEBIAN_PACKAGES, DebianPackage, Linkage};
use crate::{process, programs};

/// How long to wait for another installation to finish, in seconds.
const LOCK_TIMEOUT: &str = "DPkg::Lock::Timeout=600";

/// Installs what is missing; gives one line if something still is afterwards.
pub(super) fn install(progress: &Progress) -> Result<Option<String>> {
    let wanted = missing();
    if wanted.is_empty() {
        progress.say("distribution packages: installed already");
        return Ok(None);
    }
    let names = wanted.join(" ");
    let tool = programs::find_installed("apt-get").filter(|_| rustix::process::geteuid().is_root());
    let Some(tool) = tool else {
        return Ok(Some(format!("distribution packages, which only root can install: {names}")));
    };
    progress.say(&format!("distribution packages: installing {names}"));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(&tool);
        command.args(["--quiet", "--option", LOCK_TIMEOUT]).args(arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        process::run(command)
    };
    let install = [&["install", "--yes", "--no-install-recommends"], &wanted[..]].concat();
    // The machine's list of packages may be old or empty; fetching it costs more than most installations.
    let result = apt(&install).or_else(|_| apt(&["update"]).and_then(|_| apt(&install)));
    Ok(match (result, missing().join(" ")) {
        (_, names) if names.is_empty() => None,
        (Err(error), names) => Some(format!("distribution packages {names}: {error:#}")),
        (Ok(_), names) => Some(format!("distribution packages without the programs we need: {names}")),
    })
}

fn missing() -> Vec<&'static str> {
    let has =
        |package: &DebianPackage| package.programs.iter().all(|name| is_installed(name, package.linkage));
    DEBIAN_PACKAGES.iter().filter(|package| !has(package)).map(|package| package.name).collect()
}

fn is_installed(name: &str, linkage: Linkage) -> bool {
    programs::find_installed(name).is_some_and(|path| linkage == Linkage::Any || programs::is_static(&path))
}
