//! One gigabyte of random bytes into a workspace and out of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kled_core::WorkspaceName;
use kled_core::provider::{DownloadRequest, Provider as _, ProviderExt as _, UploadRequest};
use kled_tests::process;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use super::{Bench, median, timed};

const BYTES: u64 = 1_000_000_000;
const ROUNDS: usize = 3;

/// What is read from the disk and written to it at once.
const BUFFER: usize = 1 << 20;

/// A block of a tar archive.
const BLOCK: usize = 512;

pub(super) async fn compare(bench: &Bench) -> Result<()> {
    let name = bench.workspace("copy").await?;
    let source = bench.folder.path().join("random");
    let random = format!("head --bytes={BYTES} /dev/urandom > {}", source.display());
    let mut shell = Command::new("sh");
    shell.args(["-c", &random]);
    timed(shell).await?;
    let sides = Sides { bench, name, digest: digest(&source).await?, source };
    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..ROUNDS {
        for (side, took) in times.iter_mut().zip(sides.round().await?) {
            side.push(took);
        }
    }
    println!("medians of {ROUNDS} rounds, {BYTES} random bytes, digests checked");
    let speed = |times: &[Duration]| BYTES as f64 / 1e6 / median(times).as_secs_f64();
    let [theirs_in, ours_in, theirs_out, ours_out, floor] = times.map(|times| speed(&times));
    println!("in: upload {ours_in:.0} MB/s / kubectl cp {theirs_in:.0} MB/s = {:.2}", ours_in / theirs_in);
    println!(
        "out: download {ours_out:.0} MB/s / kubectl cp {theirs_out:.0} MB/s = {:.2}",
        ours_out / theirs_out
    );
    println!("cp on the machine's disk: {floor:.0} MB/s");
    sides.bench.provider.delete(&sides.name).await?;
    Ok(())
}

struct Sides<'a> {
    bench: &'a Bench,
    name: WorkspaceName,
    source: PathBuf,
    digest: String,
}

impl Sides<'_> {
    /// Each copy once: kubectl's in, ours in, kubectl's out, ours out, and the disk.
    async fn round(&self) -> Result<[Duration; 5]> {
        let (bench, there) = (self.bench, "copy-0:/workspace/by-kubectl");
        let source = self.source.to_str().context("a path is text")?;
        let back = bench.folder.path().join("back");
        let back_text = back.to_str().context("a path is text")?;

        let theirs_in = timed(bench.kubectl(&["cp", source, there, "-c", "workspace"])).await?;
        self.check_there("by-kubectl").await?;
        let begin = Instant::now();
        bench.provider.upload(&self.name, UploadRequest::new("by-us", archive(&self.source).await?)).await?;
        let ours_in = begin.elapsed();
        self.check_there("by-us/random").await?;

        let theirs_out = timed(bench.kubectl(&["cp", there, back_text, "-c", "workspace"])).await?;
        self.check_here(&back).await?;
        let begin = Instant::now();
        self.download("by-us/random", &back).await?;
        let ours_out = begin.elapsed();
        self.check_here(&back).await?;

        let mut copy = Command::new("cp");
        copy.arg(&self.source).arg(&back);
        let floor = timed(copy).await?;
        std::fs::remove_file(&back)?;
        Ok([theirs_in, ours_in, theirs_out, ours_out, floor])
    }

    async fn download(&self, from: &str, to: &Path) -> Result<()> {
        let archive = self.bench.provider.download(&self.name, DownloadRequest::new(from)).await?;
        let mut archive = BufReader::with_capacity(BUFFER, archive);
        let mut header = tar::Header::new_gnu();
        archive.read_exact(header.as_mut_bytes()).await?;
        ensure!(header.size()? == BYTES, "the archive has another file first");
        let mut file = File::create(to).await?;
        tokio::io::copy_buf(&mut (&mut archive).take(BYTES), &mut file).await?;
        file.flush().await?;
        // Only an archive that was read to its end is known to be whole.
        tokio::io::copy_buf(&mut archive, &mut tokio::io::sink()).await?;
        Ok(())
    }

    /// Also makes room.
    async fn check_there(&self, path: &str) -> Result<()> {
        let output = self.bench.provider.run(&self.name, ["sha256sum", path]).await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(said.starts_with(&self.digest), "{path} is another file: {said}");
        Ok(())
    }

    async fn check_here(&self, path: &Path) -> Result<()> {
        ensure!(digest(path).await? == self.digest, "{} is another file", path.display());
        std::fs::remove_file(path)?;
        Ok(())
    }
}

/// The file as a tar archive.
async fn archive(path: &Path) -> Result<impl tokio::io::AsyncRead + Send + 'static> {
    let mut header = tar::Header::new_gnu();
    header.set_path("random")?;
    header.set_size(BYTES);
    header.set_mode(0o644);
    header.set_cksum();
    let padding = BYTES.next_multiple_of(BLOCK as u64) - BYTES;
    let end = vec![0; usize::try_from(padding)? + 2 * BLOCK];
    let file = BufReader::with_capacity(BUFFER, File::open(path).await?);
    Ok(std::io::Cursor::new(header.as_bytes().to_vec()).chain(file).chain(std::io::Cursor::new(end)))
}

async fn digest(path: &Path) -> Result<String> {
    let mut command = std::process::Command::new("sha256sum");
    command.arg(path);
    let said = tokio::task::spawn_blocking(move || process::run(command)).await??;
    Ok(said.split(' ').next().context("sha256sum says nothing")?.to_owned())
}
