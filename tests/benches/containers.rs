//! Commands in containers against the engine's own command line, both sides in one run, taking turns.
//!
//! ```sh
//! KLED_TEST_SERVERS=1 cargo bench --package kled-tests --bench containers
//! ```

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kled_core::WorkspaceName;
use kled_core::provider::{Faults, ProviderExt as _};
use kled_tests::containers::Containers;

const COMMANDS: usize = 30;

#[tokio::main]
async fn main() -> Result<()> {
    if let Some(missing) = Containers::missing() {
        println!("left out: {missing}");
        return Ok(());
    }
    let containers = Containers::start().await?;
    let provider = containers.open(Faults::none()).await?;
    let name = WorkspaceName::new("bench")?;
    let begin = Instant::now();
    provider.create(&name, &containers.builder("one").build()?).await?;
    println!("create: {:.2?}", begin.elapsed());
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..COMMANDS {
        let begin = Instant::now();
        containers.podman().podman(&["exec", "kled-bench", "true"]).await?;
        floor.push(begin.elapsed());
        let begin = Instant::now();
        ensure!(provider.run(&name, ["true"]).await?.status.is_success());
        ours.push(begin.elapsed());
    }
    let (ours, floor) = (median(ours), median(floor));
    println!(
        "exec / podman exec: {ours:.2?} / {floor:.2?} = {:.2}",
        ours.as_secs_f64() / floor.as_secs_f64()
    );
    provider.delete(&name).await?;
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
