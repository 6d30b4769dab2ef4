//! What the pure parts cost: parsing, and a whole lifecycle on the in-memory provider.

use divan::{Bencher, black_box};
use kled_core::WorkspaceName;
use kled_core::provider::{MemoryProvider, ProviderExt as _};
use kled_core::workspace::{Repository, Source, WorkspaceSpec, default_name};

fn main() {
    divan::main();
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
