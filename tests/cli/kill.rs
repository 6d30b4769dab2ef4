//! `kill -9` of the program at many moments of a create: the next create finishes it, or a delete leaves nothing.
//!
//! The program is the one that ships: this test binary runs `kled_cli::Runner` when it is started as [`AS_PROGRAM`].

mod place;
mod traces;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kled_cli::{Runner, Supervisor};
use kled_core::WorkspaceName;
use kled_tests::containers::{Containers, IMAGE};
use kled_tests::programs::{self, Privilege};
use kled_tests::suite::Suite;
use place::{AS_PROGRAM, Place};

/// Moments that are spread over the duration of a create; those at its progress lines come on top.
const SPREAD: u32 = 24;

/// At least so many kills have to meet a create that is still running.
const MET: usize = 20;

/// All moments together; each takes about a second.
const DEADLINE: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let supervisor = Supervisor::this_program();
    if std::env::var_os(AS_PROGRAM).is_some() {
        return Runner::new(supervisor).run(std::env::args_os());
    }
    let suite = Suite::new("kill")
        // Needs no server, but takes two minutes: not for the quick loop.
        .skip_all_if(programs::missing(&["git"], Privilege::User))
        .deadline(DEADLINE)
        .case("a create killed at any moment is finished or removed", || async {
            tokio::task::spawn_blocking(|| {
                Kills { place: Place::of_processes()?, engine: None }.every_moment()
            })
            .await?
        });
    let containers = "a create of a container killed at any moment is finished or removed";
    match Containers::missing() {
        Some(reason) => suite.skip(containers, reason),
        None => suite.case(containers, || async {
            let engine = Containers::start().await?;
            // Built by the engine's start.
            let place =
                Place::of_containers(engine.podman().socket(), IMAGE, &kled_tests::agent::program()?)?;
            tokio::task::spawn_blocking(|| Kills { place, engine: Some(engine) }.every_moment()).await?
        }),
    }
    .run()
}

/// When the program is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after its start.
    After(Duration),
    /// As soon as it has printed so many lines of progress.
    AtLine(usize),
}

/// A place to kill in.
struct Kills {
    place: Place,
    /// The engine, where workspaces are containers.
    engine: Option<Containers>,
}

impl Kills {
    fn every_moment(&self) -> Result<()> {
        let (duration, lines) = self.undisturbed()?;
        let spread = (0..SPREAD).map(|number| Moment::After(duration * number / SPREAD));
        let moments: Vec<_> = spread.chain((1..=lines).map(Moment::AtLine)).collect();
        let mut met = 0;
        for (index, moment) in moments.iter().enumerate() {
            let was_running = killed(&self.place, *moment)?;
            met += usize::from(was_running);
            let checked = if index % 2 == 0 { self.finished_by_create() } else { self.removed_by_delete() };
            checked.with_context(|| format!("killed at moment {index} of {}: {moment:?}", moments.len()))?;
        }
        println!("{} moments, {met} of them before the end of a create of {duration:?}", moments.len());
        ensure!(met >= MET, "only {met} of {} kills met a create that was running", moments.len());
        Ok(())
    }

    /// How long a create takes (the median of three), and how many lines of progress it prints.
    fn undisturbed(&self) -> Result<(Duration, usize)> {
        let mut durations = Vec::new();
        let mut lines = 0;
        for _ in 0..3 {
            let begin = Instant::now();
            let created = self.place.run(&self.place.create())?;
            durations.push(begin.elapsed());
            lines = created.stderr.iter().filter(|byte| **byte == b'\n').count();
            ensure!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
            self.removed_by_delete()?;
        }
        durations.sort();
        Ok((durations[1], lines))
    }

    fn finished_by_create(&self) -> Result<()> {
        let created = self.place.run(&self.place.create())?;
        ensure!(created.status.success(), "create again: {}", String::from_utf8_lossy(&created.stderr));
        if self.engine.is_some() {
            let status = self.place.run(&["agent", "status", Place::NAME])?;
            ensure!(status.status.success(), "agent status: {}", String::from_utf8_lossy(&status.stderr));
        } else {
            // The image of the containers has no git.
            let changed = self.exec(&["git", "status", "--porcelain"])?;
            ensure!(changed.is_empty(), "files are missing: {changed}");
        }
        let count: usize = self.exec(&["sh", "-c", "find source -name '*.txt' | wc -l"])?.trim().parse()?;
        ensure!(count == self.place.files, "{count} files instead of {}", self.place.files);
        self.removed_by_delete()
    }

    fn exec(&self, command: &[&str]) -> Result<String> {
        let arguments = [&["workspace", "exec", Place::NAME, "--"], command].concat();
        let output = self.place.run(&arguments)?;
        ensure!(output.status.success(), "exec: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn removed_by_delete(&self) -> Result<()> {
        let identity = self.place.identity()?;
        let deleted = self.place.run(&["workspace", "delete", Place::NAME])?;
        ensure!(deleted.status.success(), "delete: {}", String::from_utf8_lossy(&deleted.stderr));
        traces::nothing_left(&self.place.data(), Place::NAME, identity.as_deref())?;
        if let Some(engine) = &self.engine {
            let name = WorkspaceName::new(Place::NAME)?;
            let left = tokio::runtime::Handle::current().block_on(engine.left(&name))?;
            ensure!(left.is_empty(), "the engine still has {left:?}");
        }
        Ok(())
    }
}

/// Starts a create and kills it; tells whether it was still running then.
fn killed(place: &Place, moment: Moment) -> Result<bool> {
    let mut child = place.command(&place.create()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut stderr = BufReader::new(child.stderr.take().context("no standard error")?);
    match moment {
        // The pipe holds what is printed meanwhile: progress is far shorter than its 64 KiB.
        Moment::After(duration) => std::thread::sleep(duration),
        Moment::AtLine(count) => {
            for _ in 0..count {
                stderr.read_line(&mut String::new())?;
            }
        }
    }
    let was_running = child.try_wait()?.is_none();
    end(&mut child)?;
    Ok(was_running)
}

/// SIGKILL, which nothing can catch.
fn end(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}
