//! Secrets of the environment and of files.

use std::io::{self, Read};
use std::path::Path;

use async_trait::async_trait;
use kled_core::ports::SecretSource;
use kled_core::{Error, ErrorKind, Result, Secret, SecretReference};

/// The longest secret that is read.
const SECRET_MAX: u64 = 1 << 20;

/// Resolves `env:NAME` and `file:/PATH`. The line end at the end of a file, which editors add, is not part of the
/// secret.
///
/// ```
/// use kled_core::ports::SecretSource;
/// use kled_providers::local::EnvironmentAndFileSecrets;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kled_core::Result<()> {
/// let path = EnvironmentAndFileSecrets.secret(&"env:PATH".parse()?).await?;
/// assert!(!path.expose().is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct EnvironmentAndFileSecrets;

#[async_trait]
impl SecretSource for EnvironmentAndFileSecrets {
    async fn secret(&self, reference: &SecretReference) -> Result<Secret> {
        let secret = match reference.source() {
            "env" => from_environment(reference.location()),
            "file" => {
                let path = reference.location().to_owned();
                let read = tokio::task::spawn_blocking(move || from_file(Path::new(&path)));
                read.await.unwrap_or_else(|cause| {
                    Err(Error::new(ErrorKind::Internal, "the task that read a secret ended").because(cause))
                })
            }
            _ => Err(Error::new(ErrorKind::Unsupported, "no secret source serves this kind of reference")
                .hint("use env:NAME or file:/PATH")),
        };
        secret.map_err(|error| error.during("secret").with("reference", reference))
    }
}

fn from_environment(name: &str) -> Result<Secret> {
    if name.contains('=') {
        return Err(Error::new(ErrorKind::InvalidInput, "a name of the environment has no '='"));
    }
    match std::env::var_os(name) {
        None => Err(Error::new(ErrorKind::NotFound, "the environment has no such variable")),
        // The value is not repeated in the error.
        Some(value) => value.into_string().map(Secret::new).map_err(|_| not_text()),
    }
}

fn from_file(path: &Path) -> Result<Secret> {
    if !path.is_absolute() {
        return Err(Error::new(ErrorKind::InvalidInput, "the path of a secret is absolute"));
    }
    let bytes = read(path).map_err(|cause| {
        let (kind, message) = match cause.kind() {
            io::ErrorKind::NotFound => (ErrorKind::NotFound, "the secret's file does not exist"),
            io::ErrorKind::PermissionDenied => {
                (ErrorKind::PermissionDenied, "the secret's file cannot be opened")
            }
            io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => {
                (ErrorKind::InvalidInput, "the secret's file is not a file")
            }
            _ => (ErrorKind::Unavailable, "the secret's file cannot be read"),
        };
        Error::new(kind, message).because(cause)
    })?;
    if bytes.len() as u64 > SECRET_MAX {
        return Err(Error::new(ErrorKind::InvalidInput, "the secret is longer than allowed")
            .with("limit", SECRET_MAX));
    }
    let text = String::from_utf8(bytes).map_err(|_| not_text())?;
    let secret = text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).unwrap_or(&text);
    Ok(Secret::new(secret))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe would wait for its writer for ever.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(SECRET_MAX + 2).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn not_text() -> Error {
    Error::new(ErrorKind::InvalidInput, "the secret is not UTF-8 text")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn secret(reference: &str) -> Result<Secret> {
        EnvironmentAndFileSecrets.secret(&reference.parse().unwrap()).await
    }

    async fn refused(reference: &str) -> ErrorKind {
        secret(reference).await.unwrap_err().kind()
    }

    #[tokio::test]
    async fn the_environment() {
        let home = std::env::var("PATH").unwrap();
        assert_eq!(secret("env:PATH").await.unwrap().expose(), home);
        assert_eq!(refused("env:KLED_NO_SUCH_VARIABLE").await, ErrorKind::NotFound);
        assert_eq!(refused("env:A=B").await, ErrorKind::InvalidInput);
        assert_eq!(refused("vault:a").await, ErrorKind::Unsupported);
    }

    #[tokio::test]
    async fn files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let reference = format!("file:{}", file.display());
        assert_eq!(refused(&reference).await, ErrorKind::NotFound);
        for (content, expected) in
            [("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), ("a\n\n", "a\n"), ("", "")]
        {
            std::fs::write(&file, content).unwrap();
            assert_eq!(secret(&reference).await.unwrap().expose(), expected);
        }
        std::fs::write(&file, vec![b'a'; (1 << 20) + 1]).unwrap();
        assert_eq!(refused(&reference).await, ErrorKind::InvalidInput);
        std::fs::write(&file, [0xff]).unwrap();
        let error = secret(&reference).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(refused(&format!("file:{}", folder.path().display())).await, ErrorKind::InvalidInput);
        assert_eq!(refused("file:relative").await, ErrorKind::InvalidInput);
        // A file in place of a folder proves nothing of what was meant, but it is no absence.
        assert_ne!(refused(&format!("{reference}/below")).await, ErrorKind::NotFound);
    }
}
