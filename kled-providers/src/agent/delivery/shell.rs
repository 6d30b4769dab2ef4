//! The agent through a shell's standard input, where the engine takes no files.

use std::io;

use futures::future::join;
use kled_core::provider::{ExitStatus, Output};
use kled_core::{Error, ErrorKind, Result};
use tokio::io::AsyncWriteExt;

use super::failure::excerpt;
use super::remote::{Answer, Remote, ask};
use super::{AgentProgram, DAMAGED, QUESTION_LIMIT, damaged};

/// More than the complaints of four programs.
const OUTPUT_MAX: usize = 16 << 10;

/// Writes standard input to `$1`, of which `$2` bytes must arrive. A stream that is cut looks like one that ended, so
/// they are counted where there is a program for it; the digest is checked in any case.
const SCRIPT: &str = r#"
LC_ALL=C
export LC_ALL
umask 022
cat > "$1" || { status=$?; rm -f "$1"; exit $status; }
if size=$(wc -c < "$1" 2> /dev/null) && [ "$size" -ne "$2" ]; then
  rm -f "$1"
  exit 75
fi
chmod 755 "$1"
"#;

/// Tries to write `$1`, and leaves nothing.
const COMPLAIN: &str = r#"
LC_ALL=C
export LC_ALL
cat /dev/null > "$1"
status=$?
rm -f "$1"
exit $status
"#;

/// How often a shell whose words were lost is asked for them.
const COMPLAINTS_MAX: usize = 3;

/// Writes the agent to `temporary`, so that it can be run.
pub(super) async fn send(remote: &dyn Remote, agent: &AgentProgram, temporary: &str) -> Result<()> {
    let size = agent.content.len().to_string();
    let mut session = match remote.run(&["sh", "-c", SCRIPT, "sh", temporary, &size]).await {
        Err(error) if error.kind() == ErrorKind::CommandNotFound => return Err(no_way().because(error)),
        session => session?,
    };
    let stdin = session.stdin.take();
    let content = agent.content.clone();
    let write = async move {
        match stdin {
            Some(mut stdin) => {
                stdin.write_all(&content).await?;
                stdin.shutdown().await
            }
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    };
    let (written, output) = join(write, session.output(OUTPUT_MAX)).await;
    let output = output?;
    if !output.status.is_success() {
        let reason = complaint(remote, temporary, &output).await?;
        return Err(refusal(reason.as_ref().unwrap_or(&output)));
    }
    // A shell that ended well has read all: the rest of the bytes went nowhere.
    written.map_err(|cause| damaged().because(cause))
}

/// What the shell complains of, where its words were lost: some engines lose those of a program that ends quickly.
async fn complaint(remote: &dyn Remote, temporary: &str, output: &Output) -> Result<Option<Output>> {
    if !excerpt(output).is_empty() || output.status != ExitStatus::Exited(1) {
        return Ok(None);
    }
    for _ in 0..COMPLAINTS_MAX {
        let asked = ask(remote, &["sh", "-c", COMPLAIN, "sh", temporary], QUESTION_LIMIT).await?;
        if let Answer::Ended(output) = asked
            && !excerpt(&output).is_empty()
        {
            return Ok(Some(output));
        }
    }
    Ok(None)
}

fn no_way() -> Error {
    Error::new(ErrorKind::Unsupported, "the engine takes no files and the container has no shell with cat")
        .hint("use an image with a shell, or a backend that runs the agent beside the workspace")
}

/// Why the shell did not write it, from the words of the C library, which are the same everywhere without a language.
fn refusal(output: &Output) -> Error {
    let said = excerpt(output);
    let says = |text: &str| said.to_ascii_lowercase().contains(text);
    match output.status {
        ExitStatus::Exited(code) if code == i32::from(DAMAGED) => return damaged(),
        // How some engines, and shells, say that there is no such program.
        ExitStatus::Exited(127) => return no_way().with("output", said),
        _ => {}
    }
    let (kind, message) = if says("read-only file system") {
        (ErrorKind::PermissionDenied, "the file system is read-only")
    } else if says("no space left") || says("quota exceeded") {
        (ErrorKind::StorageFull, "no space is left")
    } else if says("no such file") || says("nonexistent") || says("not a directory") {
        (ErrorKind::NotFound, "there is no such folder")
    } else if says("permission denied") || says("not permitted") {
        (ErrorKind::PermissionDenied, "the user may not write there")
    } else {
        (ErrorKind::Unsupported, "the shell of the container cannot write it")
    };
    Error::new(kind, message).with("exit code", output.status.code()).with("output", said)
}
