//! What the pure parts cost: the agent protocol, parsing, and a whole lifecycle on the in-memory provider.

use bytes::{Bytes, BytesMut};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use kled_core::WorkspaceName;
use kled_core::agent::{AgentMessage, FrameCodec};
use kled_core::provider::{MemoryProvider, ProviderExt as _};
use kled_core::workspace::{Repository, Source, WorkspaceSpec, default_name};
use tokio_util::codec::{Decoder as _, Encoder as _};

fn main() {
    divan::main();
}

#[divan::bench(args = [64, 4 << 10, 64 << 10])]
fn frame_round_trip(bencher: Bencher<'_, '_>, size: usize) {
    let payload = Bytes::from(vec![7; size]);
    let mut codec = FrameCodec::<AgentMessage>::new();
    let mut wire = BytesMut::new();
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let sent = codec.encode(AgentMessage::Stdout(payload.clone()), &mut wire);
        black_box((sent.is_ok(), codec.decode(&mut wire).is_ok()))
    });
}

#[divan::bench(args = ["https://github.com/org/app.git", "git@github.com:org/app.git", "../app"])]
fn repository_and_default_name(text: &str) -> Option<WorkspaceName> {
    let repository: Repository = black_box(text).parse().ok()?;
    Some(default_name(&Source::new(repository)))
}

#[divan::bench]
fn memory_lifecycle(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(runtime), Ok(name)) = (runtime, WorkspaceName::new("bench")) else { return };
    let Ok(spec) = WorkspaceSpec::builder("https://example.com/app").build() else { return };
    let provider = MemoryProvider::new();
    bencher.bench_local(|| {
        runtime.block_on(async {
            provider.create(&name, &spec).await?;
            provider.stop(&name).await?;
            provider.start(&name).await?;
            provider.delete(&name).await
        })
    });
}
