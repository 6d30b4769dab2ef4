//! The delivered program's side: it tells its digest, and takes its place once it knows that it is whole.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use sha2::{Digest as _, Sha256};

use super::DAMAGED;

/// Answers what [`deliver`](super::deliver) asks the delivered program; `None` when the arguments are something else.
///
/// To be called first by the program's `main`, with its arguments. `digest` prints the digest of the running program;
/// `take-place DIGEST PLACE` renames it to `PLACE` if that is its digest, and prints it then.
#[must_use]
pub fn answer(arguments: &[OsString]) -> Option<ExitCode> {
    let [command, rest @ ..] = arguments else { return None };
    let answered = match (command.to_str()?, rest) {
        ("digest", []) => own_digest(),
        ("take-place", [digest, place]) => take_place(digest.to_str()?, Path::new(place)),
        _ => return None,
    };
    Some(match answered.and_then(|digest| writeln!(io::stdout(), "{digest}")) {
        Ok(()) => ExitCode::SUCCESS,
        // Some other bytes are running than those that were sent.
        Err(cause) if cause.kind() == io::ErrorKind::InvalidData => ExitCode::from(DAMAGED),
        Err(cause) => {
            eprintln!("error: {cause}");
            ExitCode::FAILURE
        }
    })
}

fn own_digest() -> io::Result<String> {
    Ok(hex::encode(Sha256::digest(fs::read(env::current_exe()?)?)))
}

fn take_place(digest: &str, place: &Path) -> io::Result<String> {
    let own = own_digest()?;
    if own != digest {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let program = env::current_exe()?;
    // After a crash of the machine, too, what has the name must be whole.
    File::open(&program)?.sync_data()?;
    fs::rename(&program, place)?;
    Ok(own)
}
