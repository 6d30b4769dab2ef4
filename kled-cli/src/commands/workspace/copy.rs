//! `kled workspace cp`

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use kled_providers::copy::{
    self, CopyOptions, OutsideLinks, Transferred, copy_in, copy_out, copy_stream_in, copy_stream_out,
};
use serde::Serialize;

use crate::arguments::{checked, checked_duration};
use crate::output::{Failure, watch_transfer};
use crate::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
One side is NAME:PATH, relative to the checkout or absolute. As with cp, an existing folder as destination takes the \
copy into it, and a source that ends in /. is what is in the folder. Folders above the destination are made in the \
workspace, not here. Modes, times and links are kept, owners are not. Nothing is seen at the destination before all \
of it has arrived. A local path with a colon is written ./a:b.

What comes from a workspace is not trusted: an archive that would write elsewhere is refused.

Examples:
  kled workspace cp report.pdf demo:docs/
  kled workspace cp ./assets demo:
  kled workspace cp demo:target/release/app .
  kled workspace cp demo:src/. ./copy --outside-links keep
  kled workspace cp - demo:input.sql < dump.sql
  kled workspace cp demo:coverage.xml - | less")]
pub(crate) struct CopyArguments {
    /// What is copied: PATH, NAME:PATH, or - for standard input
    #[arg(value_parser = checked::<Side>)]
    source: Side,
    /// Where it goes: NAME:PATH, PATH, or - for standard output
    #[arg(value_parser = checked::<Side>)]
    destination: Side,
    /// What is done with links of the workspace that lead out of the copy: refuse, skip or keep
    #[arg(long, value_name = "HOW", default_value = "refuse", hide_possible_values = true)]
    outside_links: OnOutsideLinks,
    /// The longest that it may take
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = checked_duration)]
    timeout: Duration,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnOutsideLinks {
    Refuse,
    Skip,
    Keep,
}

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    Workspace(WorkspaceName, String),
    Local(PathBuf),
    Stream,
}

impl FromStr for Side {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            _ if text.is_empty() => Err(Error::new(ErrorKind::InvalidInput, "an empty path")),
            _ if text == "-" => Ok(Self::Stream),
            // As with scp: a slash before the colon makes it a path.
            Some((name, path)) if !name.contains('/') => Ok(Self::Workspace(name.parse()?, path.to_owned())),
            _ => Ok(Self::Local(text.into())),
        }
    }
}

/// What was copied.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Copied {
    bytes: u64,
    milliseconds: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped_links: Vec<PathBuf>,
}

impl CopyArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let began = Instant::now();
        let transferred = Transferred::default();
        let options = CopyOptions {
            timeout: self.timeout,
            outside_links: match self.outside_links {
                OnOutsideLinks::Refuse => OutsideLinks::Refuse,
                OnOutsideLinks::Skip => OutsideLinks::Skip,
                OnOutsideLinks::Keep => OutsideLinks::Keep,
            },
            transferred: transferred.clone(),
        };
        let stderr = &context.surroundings.stderr;
        let bytes = || transferred.bytes();
        let copy = self.copy(context, options);
        let unpacked = watch_transfer(stderr, context.global.quiet, self.total(context), bytes, copy).await?;
        for link in &unpacked.skipped_links {
            context.note(&format!("left out: {} leads out of the copy", link.display()));
        }
        let elapsed = began.elapsed();
        let copied = Copied {
            bytes: transferred.bytes(),
            milliseconds: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            skipped_links: unpacked.skipped_links,
        };
        // Standard output is the copy itself.
        if self.destination != Side::Stream {
            context.print(&copied, |_| String::new())?;
        }
        context.note(&format!("copied {} in {:.1} s", HumanBytes(copied.bytes), elapsed.as_secs_f64()));
        Ok(Exit::SUCCESS)
    }

    /// How much there is to copy, where that is known without a look at everything.
    fn total(&self, context: &Context) -> Option<u64> {
        let Side::Local(path) = &self.source else { return None };
        let metadata = context.surroundings.working_directory.join(path).metadata().ok()?;
        metadata.is_file().then_some(metadata.len())
    }

    async fn copy(&self, context: &Context, options: CopyOptions) -> Result<copy::Unpacked, Failure> {
        let surroundings = &context.surroundings;
        let here = |path: &PathBuf| surroundings.working_directory.join(path);
        let nothing_skipped = |()| copy::Unpacked::default();
        match (&self.source, &self.destination) {
            (Side::Local(source), Side::Workspace(name, path)) => {
                let provider = context.provider().await?;
                let copied = copy_in(provider.as_ref(), name, &here(source), path, options).await;
                Ok(copied.map(nothing_skipped)?)
            }
            (Side::Stream, Side::Workspace(name, path)) => {
                let provider = context.provider().await?;
                let input = surroundings.stdin.reader();
                let copied = copy_stream_in(provider.as_ref(), name, input, path, options).await;
                Ok(copied.map(nothing_skipped)?)
            }
            (Side::Workspace(name, path), Side::Local(destination)) => {
                let provider = context.provider().await?;
                Ok(copy_out(provider.as_ref(), name, path, &here(destination), options).await?)
            }
            (Side::Workspace(name, path), Side::Stream) => {
                let provider = context.provider().await?;
                let output = surroundings.stdout.writer();
                let copied = copy_stream_out(provider.as_ref(), name, path, output, options).await;
                copied.map(nothing_skipped).map_err(of_output)
            }
            (Side::Workspace(..), Side::Workspace(..)) => {
                Err(Error::new(ErrorKind::InvalidInput, "both sides are in a workspace")
                    .hint("copy to a local path first")
                    .into())
            }
            _ => Err(Error::new(ErrorKind::InvalidInput, "neither side is in a workspace")
                .hint("write NAME:PATH for the one that is")
                .into()),
        }
    }
}

/// Whoever read standard output may have had enough.
fn of_output(error: Error) -> Failure {
    let source = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    match source.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::BrokenPipe) => Failure::OutputClosed(Exit::SUCCESS),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_of_a_workspace_or_a_path_or_a_stream() {
        let side = |text: &str| text.parse::<Side>().ok();
        let there = |name: &str, path: &str| Some(Side::Workspace(name.parse().unwrap(), path.to_owned()));
        assert_eq!(side("demo:src/a:b"), there("demo", "src/a:b"));
        assert_eq!(side("demo:"), there("demo", ""));
        assert_eq!(side("-"), Some(Side::Stream));
        for path in ["./a:b", "/x/a:b", "a", ".", "../a"] {
            assert_eq!(side(path), Some(Side::Local(path.into())));
        }
        for text in ["", ":path", "UPPER:path"] {
            assert_eq!(side(text), None, "{text:?}");
        }
    }
}
