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
    Suite::new("kill")
        // Needs no server, but takes two minutes: not for the quick loop.
        .skip_all_if(programs::missing(&["git"], Privilege::User))
        .deadline(DEADLINE)
        .case("a create killed at any moment is finished or removed", || async {
            tokio::task::spawn_blocking(every_moment).await?
        })
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

fn every_moment() -> Result<()> {
    let place = Place::new()?;
    let (duration, lines) = undisturbed(&place)?;
    let spread = (0..SPREAD).map(|number| Moment::After(duration * number / SPREAD));
    let moments: Vec<_> = spread.chain((1..=lines).map(Moment::AtLine)).collect();
    let mut met = 0;
    for (index, moment) in moments.iter().enumerate() {
        let was_running = killed(&place, *moment)?;
        met += usize::from(was_running);
        let checked = if index % 2 == 0 { finished_by_create(&place) } else { removed_by_delete(&place) };
        checked.with_context(|| format!("killed at moment {index} of {}: {moment:?}", moments.len()))?;
    }
    println!("{} moments, {met} of them before the end of a create of {duration:?}", moments.len());
    ensure!(met >= MET, "only {met} of {} kills met a create that was running", moments.len());
    Ok(())
}

/// How long a create takes (the median of three), and how many lines of progress it prints.
fn undisturbed(place: &Place) -> Result<(Duration, usize)> {
    let mut durations = Vec::new();
    let mut lines = 0;
    for _ in 0..3 {
        let begin = Instant::now();
        let created = place.run(&place.create())?;
        durations.push(begin.elapsed());
        lines = created.stderr.iter().filter(|byte| **byte == b'\n').count();
        ensure!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        removed_by_delete(place)?;
    }
    durations.sort();
    Ok((durations[1], lines))
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

fn finished_by_create(place: &Place) -> Result<()> {
    let created = place.run(&place.create())?;
    ensure!(created.status.success(), "create again: {}", String::from_utf8_lossy(&created.stderr));
    let listed = place.run(&["workspace", "exec", Place::NAME, "--", "git", "status", "--porcelain"])?;
    ensure!(listed.status.success(), "exec: {}", String::from_utf8_lossy(&listed.stderr));
    ensure!(listed.stdout.is_empty(), "files are missing: {}", String::from_utf8_lossy(&listed.stdout));
    let counted = place.run(&["workspace", "exec", Place::NAME, "--", "sh", "-c", "git ls-files | wc -l"])?;
    let count: usize = String::from_utf8(counted.stdout)?.trim().parse().context("count the files")?;
    ensure!(count == Place::FILES, "{count} files instead of {}", Place::FILES);
    removed_by_delete(place)
}

fn removed_by_delete(place: &Place) -> Result<()> {
    let identity = place.identity()?;
    let deleted = place.run(&["workspace", "delete", Place::NAME])?;
    ensure!(deleted.status.success(), "delete: {}", String::from_utf8_lossy(&deleted.stderr));
    traces::nothing_left(&place.data(), Place::NAME, identity.as_deref())
}
