//! Landlock: paths that the kernel refuses. For machines without bubblewrap.

use std::path::Path;

use kled_core::{Error, ErrorKind, Result};
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::View;

/// The version that is asked for; an older kernel gives what it has. Version 6 (Linux 6.12) keeps signals inside.
const WANTED: ABI = ABI::V6;

/// What every program needs of devices, writable.
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx", "/dev/pts", "/dev/shm"];

/// Besides the view, readable: random numbers and what programs read of themselves.
const ALWAYS_READABLE: [&str; 3] = ["/dev/random", "/dev/urandom", "/proc"];

/// True when the kernel has Landlock and it is switched on.
pub(super) fn works() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .is_ok()
}

/// Confines the calling thread and everything that descends from it.
pub(super) fn enter(view: &View) -> Result<()> {
    let refused = |cause: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Unsupported, "Landlock refuses the sandbox").because(cause)
    };
    let all = AccessFs::from_all(WANTED);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(|ruleset| ruleset.scope(Scope::from_all(WANTED)))
        .and_then(Ruleset::create)
        .map_err(|cause| refused(cause.into()))?;
    let read = AccessFs::from_read(WANTED);
    let mut ruleset = Some(ruleset);
    for path in view.readable.iter().filter(|path| !leads_to_credentials(path, view)) {
        allow(&mut ruleset, path, read).map_err(refused)?;
    }
    for path in readable_parts(view) {
        allow(&mut ruleset, &path, read).map_err(refused)?;
    }
    for path in ALWAYS_READABLE.iter().map(Path::new).chain([view.program.as_path()]) {
        allow(&mut ruleset, path, read).map_err(refused)?;
    }
    for path in [&view.checkout, &view.home, &view.temporary, &view.state] {
        allow(&mut ruleset, path, all).map_err(refused)?;
    }
    for path in DEVICES.iter().map(Path::new) {
        allow(&mut ruleset, path, all).map_err(refused)?;
    }
    let Some(ruleset) = ruleset else { return Ok(()) };
    drop_capabilities().map_err(|cause| refused(cause.into()))?;
    let status = ruleset.restrict_self().map_err(|cause| refused(cause.into()))?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(Error::new(ErrorKind::Unsupported, "the kernel does not enforce Landlock"));
    }
    Ok(())
}

/// Landlock says nothing of capabilities, and with all of root's the memory of any process can be read. The ones that
/// package tools need stay, as in bubblewrap's sandbox.
fn drop_capabilities() -> rustix::io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    let kept = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::KILL
        | CapabilitySet::SETGID
        | CapabilitySet::SETUID;
    let held = rustix::thread::capabilities(None)?;
    if held.permitted.is_empty() {
        return Ok(());
    }
    // From the bounding set first: a program that root starts gets all that is in there.
    for capability in held.permitted.difference(kept).iter() {
        rustix::thread::remove_capability_from_bounding_set(capability)?;
    }
    let kept = held.permitted & kept;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )
}

fn leads_to_credentials(path: &Path, view: &View) -> bool {
    view.hidden.iter().any(|hidden| hidden.starts_with(path))
}

/// Landlock only adds rights, so a readable folder that holds hidden paths is allowed entry by entry, down to them.
fn readable_parts(view: &View) -> Vec<std::path::PathBuf> {
    let mut open: Vec<_> =
        view.readable.iter().filter(|path| leads_to_credentials(path, view)).cloned().collect();
    let mut parts = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match () {
                () if view.hidden.contains(&path) => {}
                () if leads_to_credentials(&path, view) => open.push(path),
                () => parts.push(path),
            }
        }
    }
    parts
}

/// Adds a rule. A path that is not there needs none.
fn allow(
    ruleset: &mut Option<RulesetCreated>,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Ok(descriptor) = PathFd::new(path) else { return Ok(()) };
    let Some(before) = ruleset.take() else { return Ok(()) };
    // Rights over folders mean nothing for a file, and the kernel refuses them.
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(WANTED) };
    *ruleset = Some(before.add_rule(PathBeneath::new(descriptor, access))?);
    Ok(())
}
