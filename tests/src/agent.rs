//! The workspace agent as production has it: one static program, and the image around it.
//!
//! Whoever asks first builds it through cargo, in the target folder of the run; cargo sees that it is up to date for
//! everyone else. What this machine may lack is the compiler's target for static programs, which [`install`] gets, and
//! the compiler for the little C in it, which comes with the distribution's packages.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use kled_providers::image::{AGENT_REFERENCE, Architecture, agent_image};

use crate::image::Image;
use crate::process::{self, Watchdog};
use crate::programs::{self, Privilege};
use crate::servers::progress::Progress;

/// The program's name.
pub const NAME: &str = "kled-agent";

/// The profile of the root manifest that the program is released with.
const PROFILE: &str = "agent";

/// What compiles the little C in it, which is that of the TLS library.
const COMPILER: &str = "musl-gcc";

/// Two minutes on two idle cores from nothing; this is for slow machines under load.
const BUILD_DEADLINE: Duration = Duration::from_secs(1800);

/// How often a long build says that it is alive.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(15);

/// Why the program cannot be built here, in one line.
///
/// Only what the machine lacks counts: a program that does not compile fails the tests that need it.
#[must_use]
pub fn missing() -> Option<String> {
    programs::missing(&[COMPILER], Privilege::User).or_else(|| match target() {
        Ok(target) => (!has_target(target)).then(|| format!("the compiler has no target {target}")),
        Err(error) => Some(error.to_string()),
    })
}

/// Makes the program available, printing progress to standard error; gives a line if it cannot be had.
pub fn install() -> Option<String> {
    let progress = Progress::start();
    let made = target().and_then(|target| add_target(target, &progress)).and_then(|()| build(&progress));
    match made {
        Ok(_) => None,
        Err(error) => Some(format!("{NAME}: {}", format!("{error:#}").replace('\n', "; "))),
    }
}

/// The path of the program, which is built if it is not up to date. Blocks.
///
/// # Errors
/// When it does not compile.
pub fn program() -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().map_err(|_| anyhow!("an earlier build panicked"))?;
    if let Some(path) = built.as_ref() {
        return Ok(path.clone());
    }
    let path = build(&Progress::start())?;
    *built = Some(path.clone());
    Ok(path)
}

/// The image of the program, under the name that production has for it. Blocks.
///
/// # Errors
/// As [`program`].
pub fn image() -> Result<Image> {
    Ok(agent_image(&program()?, AGENT_REFERENCE)?.into())
}

/// The compiler's target for static programs on this machine.
fn target() -> Result<&'static str> {
    ensure!(cfg!(target_os = "linux"), "the agent runs on Linux");
    match env::consts::ARCH {
        "x86_64" => Ok(Architecture::Amd64.target()),
        "aarch64" => Ok(Architecture::Arm64.target()),
        other => bail!("the agent is not built for {other}"),
    }
}

fn has_target(target: &str) -> bool {
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(["--print", "sysroot"]);
    let sysroot = process::run(command).unwrap_or_default();
    Path::new(sysroot.trim()).join("lib/rustlib").join(target).join("lib").is_dir()
}

fn add_target(target: &str, progress: &Progress) -> Result<()> {
    if has_target(target) {
        return Ok(());
    }
    progress.say(&format!("{NAME}: adding the compiler's target {target}"));
    let mut command = Command::new("rustup");
    command.args(["target", "add", target]);
    process::run(command).with_context(|| format!("the compiler has no target {target}")).map(drop)
}

fn build(progress: &Progress) -> Result<PathBuf> {
    let start = Instant::now();
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    // Cargo describes this package to the tests that it runs; a build script that looks there would run again, and with
    // it all that follows, whenever the build before was one by hand.
    let of_this_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_this_package)) {
        command.env_remove(name);
    }
    command.args(["build", "--quiet", "--package", "kled-cli", "--bin", NAME]);
    command.args(["--no-default-features", "--features", "agent", "--profile", PROFILE]);
    command.args(["--target", target()?, "--message-format", "json-render-diagnostics"]);
    let path = watch(command, progress)?;
    let size = path.metadata()?.len();
    progress.say(&format!("{NAME}: {size} bytes, after {:.1} s", start.elapsed().as_secs_f64()));
    Ok(path)
}

/// Runs the build, which tells each artifact in a line of JSON; what is wrong goes to standard error as it comes.
fn watch(mut command: Command, progress: &Progress) -> Result<PathBuf> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start cargo build")?;
    let output = child.stdout.take().context("cargo build has no output")?;
    let watchdog = Watchdog::watch(child.id(), BUILD_DEADLINE);
    let (mut artifacts, mut last_said, mut executable) = (0_usize, Instant::now(), None);
    for line in BufReader::new(output).lines() {
        let line = line.context("read the output of cargo build")?;
        let message: serde_json::Value = serde_json::from_str(&line).context("read what cargo says")?;
        artifacts += usize::from(message["reason"] == "compiler-artifact");
        if let Some(path) = message["executable"].as_str().filter(|_| message["target"]["name"] == NAME) {
            executable = Some(PathBuf::from(path));
        }
        if last_said.elapsed() >= PROGRESS_INTERVAL {
            progress.say(&format!("{NAME}: {artifacts} artifacts so far, now {}", message["target"]["name"]));
            last_said = Instant::now();
        }
    }
    let status = child.wait().context("wait for cargo build")?;
    watchdog.check().context("run cargo build")?;
    ensure!(status.success(), "cargo build of {NAME} ended with {status}; what it said is above");
    executable.context("cargo build named no executable")
}
