//! Large transfers, and connections that are cut in the middle of one: what ends well is whole.

use std::io::{Cursor, Read as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kled_core::ErrorKind;
use kled_core::WorkspaceName;
use kled_core::provider::{
    ByteReader, DownloadRequest, ExecRequest, Provider as _, ProviderExt as _, UploadRequest,
};
use kled_providers::kubernetes::KubernetesProvider;
use kled_tests::fault_proxy::{Direction, FaultProxy};
use kled_tests::kubeconfig;
use kled_tests::kubernetes::Pods;
use kled_tests::suite::Suite;
use kled_tests::wait;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::io::SyncIoBridge;

use crate::scene;

/// What is sent at most in a trial with a cut.
const CUT_SIZE: u64 = 100_000_000;

const LARGE: u64 = 1_000_000_000;

/// Where cuts are, the same in every run.
const SEED: u64 = 0x6b6c_6564;

/// Cuts of each kind of transfer.
const CUTS: usize = 8;

const BLOCK: usize = 64 << 10;

pub(crate) fn cases(mut suite: Suite) -> Suite {
    suite = scene::alone(suite, "an output that is cut is never a short success", cuts_outputs);
    suite = scene::alone(suite, "a folder that is cut arrives whole or not at all", cuts_folders);
    scene::alone(suite, "a gigabyte goes both ways", carries_a_gigabyte)
}

/// Numbers that look like chance and are none.
#[derive(Clone)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}

/// A workspace that is reached through a proxy.
struct Scene {
    pods: Arc<Pods>,
    proxy: FaultProxy,
    provider: KubernetesProvider,
    name: WorkspaceName,
}

impl Scene {
    async fn new(name: &str) -> Result<Self> {
        let pods = scene::pods().await?;
        let proxy = FaultProxy::start(pods.cluster().kubeconfig()).await?;
        let client = kubeconfig::client(proxy.kubeconfig()).await?;
        let (provider, name) = (pods.builder().client(client).build().await?, scene::name(name)?);
        scene::made(&pods, &provider, &name).await?;
        Ok(Self { pods, proxy, provider, name })
    }

    /// From the next connection on, which the next call has to open.
    fn cut_after(&self, direction: Direction, bytes: u64) {
        self.proxy.cut_streams(direction, bytes);
        self.proxy.cut_open();
    }

    /// The same provider works on once nothing is cut any more. A call that is sent before the loss is noticed is told
    /// of it; the one after that works.
    async fn works_again(&self) -> Result<()> {
        self.proxy.clear();
        let start = Instant::now();
        let said = match self.provider.run(&self.name, ["echo", "here"]).await {
            Err(error) if is_cut(&error) => {
                println!("the next call was told of the loss: {error}");
                self.provider.run(&self.name, ["echo", "here"]).await.context("the call after the next")?
            }
            said => said.context("the next call")?,
        };
        ensure!(said.stdout == b"here\n", "it says {said:?}");
        println!("it works again after {}", scene::seconds(start.elapsed()));
        Ok(())
    }

    async fn end(self) -> Result<()> {
        scene::end(&self.pods, &self.provider, &self.name).await
    }
}

/// The kinds that a cut may become.
fn is_cut(error: &kled_core::Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Cancelled | ErrorKind::Timeout)
}

/// Reads to the end: how much there was, and its digest.
async fn read_through(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u64, String)> {
    let (mut hash, mut count, mut block) = (Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        match reader.read(&mut block).await? {
            0 => return Ok((count, hex::encode(hash.finalize()))),
            read => {
                hash.update(&block[..read]);
                count += read as u64;
            }
        }
    }
}

async fn cuts_outputs() -> Result<()> {
    let scene = Scene::new("cut-output").await?;
    let make = format!("head -c {CUT_SIZE} /dev/urandom > large; sha256sum large | cut -d ' ' -f 1");
    let expected = scene::shell(&scene.provider, &scene.name, &make).await?.trim().to_owned();
    let mut numbers = Numbers(SEED);
    println!("the seed of the cuts is {SEED}");
    let mut errors = 0;
    for at in (0..CUTS).map(|_| numbers.below(CUT_SIZE)).collect::<Vec<_>>() {
        scene.cut_after(Direction::FromServer, at);
        let came = async {
            let request = ExecRequest::new(["cat", "large"]);
            let mut session = scene.provider.exec(&scene.name, request).await?;
            let read = read_through(&mut session.stdout).await;
            Ok::<_, kled_core::Error>((read, session.wait().await))
        };
        match came.await {
            Ok((Ok((count, digest)), Ok(status))) if status.is_success() => {
                ensure!(digest == expected, "cut at {at}: a success of {count} bytes that are others");
                ensure!(count == CUT_SIZE, "cut at {at}: a success of {count} bytes");
            }
            Ok((read, Ok(status))) => {
                ensure!(!status.is_success(), "cut at {at}: a success that cannot be read: {read:?}");
                anyhow::bail!("cut at {at}: cat ended with {status:?}, which it did not");
            }
            Ok((_, Err(error))) | Err(error) => {
                ensure!(is_cut(&error), "cut at {at}: {}: {error}", error.kind());
                errors += 1;
            }
        }
        scene.works_again().await.with_context(|| format!("after a cut at {at}"))?;
    }
    ensure!(errors == CUTS, "{errors} of {CUTS} cuts were told");
    let mut session = scene.provider.exec(&scene.name, ExecRequest::new(["cat", "large"])).await?;
    let whole = read_through(&mut session.stdout).await?;
    ensure!(whole == (CUT_SIZE, expected) && session.wait().await?.is_success(), "uncut, it is {whole:?}");
    scene.end().await
}

/// A folder of files as an archive.
fn archive(folder: &str, files: usize, size: usize) -> Result<Vec<u8>> {
    let (mut archive, mut numbers) = (tar::Builder::new(Vec::new()), Numbers(SEED));
    let mut content = vec![0; size];
    for number in 0..files {
        numbers.fill(&mut content);
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("{folder}/{number:03}"), content.as_slice())?;
    }
    Ok(archive.into_inner()?)
}

/// The digest of all files of an archive, by name.
fn of_files(archive: impl std::io::Read) -> Result<String> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.push((entry.path()?.into_owned(), Sha256::digest(&content)));
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for (path, digest) in files {
        hash.update(path.to_string_lossy().as_bytes());
        hash.update(digest);
    }
    Ok(hex::encode(hash.finalize()))
}

/// Within this time the agent has noticed that its driver is gone: it asks every ten seconds and waits for twenty.
const NOTICED: Duration = Duration::from_secs(90);

async fn cuts_folders() -> Result<()> {
    const FILES: usize = 100;
    let scene = Scene::new("cut-folder").await?;
    let mut numbers = Numbers(SEED);
    println!("the seed of the cuts is {SEED}");
    let mut errors = 0;
    for trial in 0..CUTS {
        let folder = format!("folder-{trial}");
        let archive = archive(&folder, FILES, 100_000)?;
        let (size, expected) = (archive.len() as u64, of_files(archive.as_slice())?);
        let at = numbers.below(size);
        scene.cut_after(Direction::ToServer, at);
        let request = UploadRequest::new(".", Cursor::new(archive.clone()));
        let uploaded = scene.provider.upload(&scene.name, request).await;
        scene.works_again().await.with_context(|| format!("after an upload that was cut at {at}"))?;
        let count = format!("ls {folder} 2>/dev/null | wc -l");
        let there = scene::shell(&scene.provider, &scene.name, &count).await?;
        let there = there.trim().parse::<usize>()?;
        match uploaded {
            Ok(bytes) => ensure!(there == FILES, "cut at {at}: {bytes} bytes are a success of {there} files"),
            Err(error) => {
                ensure!(is_cut(&error), "cut at {at}: {}: {error}", error.kind());
                ensure!(there == 0 || there == FILES, "cut at {at}: {there} files arrived");
                errors += 1;
            }
        }
        let request = UploadRequest::new(".", Cursor::new(archive));
        scene.provider.upload(&scene.name, request).await.context("the same upload")?;
        let at = numbers.below(size);
        scene.cut_after(Direction::FromServer, at);
        match downloaded(&scene, &folder).await {
            Ok(digest) => ensure!(digest == expected, "cut at {at}: a success of other files"),
            Err(error) => {
                println!("cut at {at}: {error:#}");
                errors += 1;
            }
        }
        scene.works_again().await.with_context(|| format!("after a download that was cut at {at}"))?;
        ensure!(downloaded(&scene, &folder).await? == expected, "the folder is another");
    }
    println!("{errors} of {} cuts were told", 2 * CUTS);
    ensure!(errors == 2 * CUTS, "{errors} of {} cuts were told", 2 * CUTS);
    // The agent may learn of the last cut only when it asks whether its driver is still there.
    wait::until(NOTICED, "what was cut to be gone", async || {
        let left = scene::shell(&scene.provider, &scene.name, "ls -A").await?;
        let folders = left.lines().filter(|line| line.starts_with("folder-")).count();
        ensure!(folders == CUTS && left.lines().count() == CUTS + 2, "what was cut left something: {left}");
        Ok(())
    })
    .await?;
    scene.end().await
}

/// Downloads a folder to the end of its archive; the digest of its files.
async fn downloaded(scene: &Scene, folder: &str) -> Result<String> {
    let mut reader = scene.provider.download(&scene.name, DownloadRequest::new(folder)).await?;
    let mut archive = Vec::new();
    reader.read_to_end(&mut archive).await?;
    of_files(archive.as_slice()).context("an archive that ended well is none")
}

/// So many bytes, made while they are read, as the one file of an archive.
fn stream(name: &str, size: u64) -> Result<ByteReader> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let head = header.as_bytes().to_vec();
    tokio::spawn(async move {
        near.write_all(&head).await?;
        let (mut numbers, mut block, mut left) = (Numbers(SEED), vec![0; BLOCK], size);
        while left > 0 {
            numbers.fill(&mut block);
            let now = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
            near.write_all(&block[..now]).await?;
            left -= now as u64;
        }
        // To a whole block, and two empty ones.
        let padding = (512 - size % 512) % 512 + 1024;
        near.write_all(&vec![0; usize::try_from(padding).unwrap_or_default()]).await?;
        near.shutdown().await
    });
    Ok(Box::pin(far))
}

/// The digest of what [`stream`] makes.
fn stream_digest(size: u64) -> String {
    let (mut hash, mut numbers, mut block, mut left) = (Sha256::new(), Numbers(SEED), vec![0; BLOCK], size);
    while left > 0 {
        numbers.fill(&mut block);
        let now = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        hash.update(&block[..now]);
        left -= now as u64;
    }
    hex::encode(hash.finalize())
}

async fn carries_a_gigabyte() -> Result<()> {
    let pods = scene::pods().await?;
    let (provider, name) = (scene::provider(&pods).await?, scene::name("gigabyte")?);
    scene::made(&pods, &provider, &name).await?;
    let expected = tokio::task::spawn_blocking(|| stream_digest(LARGE)).await?;
    let start = Instant::now();
    provider.upload(&name, UploadRequest::new(".", stream("gigabyte", LARGE)?)).await?;
    say("up", start);
    let there = scene::shell(&provider, &name, "sha256sum gigabyte | cut -d ' ' -f 1").await?;
    ensure!(there.trim() == expected, "what arrived is another: {there}");
    let start = Instant::now();
    let reader = provider.download(&name, DownloadRequest::new("gigabyte")).await?;
    let (size, digest) = tokio::task::spawn_blocking(move || hashed(reader)).await??;
    say("down", start);
    ensure!(size == LARGE && digest == expected, "{size} bytes came back, digest {digest}");
    let start = Instant::now();
    let mut session = provider.exec(&name, ExecRequest::new(["cat", "gigabyte"])).await?;
    let (size, digest) = read_through(&mut session.stdout).await?;
    ensure!(session.wait().await?.is_success(), "cat failed");
    say("down as an output", start);
    ensure!(size == LARGE && digest == expected, "{size} bytes came back, digest {digest}");
    provider.run(&name, ["rm", "gigabyte"]).await?;
    scene::end(&pods, &provider, &name).await
}

fn say(way: &str, start: Instant) {
    let took = start.elapsed().as_secs_f64();
    println!("{LARGE} bytes {way} in {took:.1} s: {:.0} MB/s", LARGE as f64 / 1e6 / took);
}

/// The size and digest of the one file of an archive.
fn hashed(reader: ByteReader) -> Result<(u64, String)> {
    let mut archive = tar::Archive::new(SyncIoBridge::new(reader));
    let mut files = archive.entries()?;
    let mut file = files.next().context("the archive is empty")??;
    let (mut hash, mut size, mut block) = (Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok((size, hex::encode(hash.finalize()))),
            read => {
                hash.update(&block[..read]);
                size += read as u64;
            }
        }
    }
}
