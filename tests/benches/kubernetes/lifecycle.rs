//! What else is done to workspaces, without another side.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use kled_core::provider::ProviderExt as _;

use super::{Bench, median};

const WORKSPACES: usize = 10;
const ROUNDS: usize = 30;
const CYCLES: usize = 5;

pub(super) async fn measure(bench: &Bench) -> Result<()> {
    let begin = Instant::now();
    let names = (0..WORKSPACES).map(|number| async move { bench.workspace(&format!("many-{number}")).await });
    let names = try_join_all(names).await?;
    println!("create of {WORKSPACES} at once: {:.2?}", begin.elapsed());
    let (mut status, mut list) = (Vec::new(), Vec::new());
    for name in names.iter().cycle().take(ROUNDS) {
        status.push(
            time(async || {
                ensure!(bench.provider.status(name).await?.status.is_running());
                Ok(())
            })
            .await?,
        );
        list.push(
            time(async || {
                ensure!(bench.provider.list().await?.len() == WORKSPACES);
                Ok(())
            })
            .await?,
        );
    }
    println!("status: {:.2?}, list of {WORKSPACES}: {:.2?}", median(&status), median(&list));
    let (mut stop, mut start) = (Vec::new(), Vec::new());
    for name in names.iter().take(CYCLES) {
        stop.push(time(async || bench.provider.stop(name).await.map(drop).map_err(Into::into)).await?);
        start.push(time(async || bench.provider.start(name).await.map(drop).map_err(Into::into)).await?);
    }
    println!("stop: {:.2?}, start: {:.2?}, medians of {CYCLES}", median(&stop), median(&start));
    let begin = Instant::now();
    try_join_all(names.iter().map(|name| bench.provider.delete(name))).await?;
    println!("delete of {WORKSPACES} at once: {:.2?}", begin.elapsed());
    Ok(())
}

async fn time(work: impl AsyncFnOnce() -> Result<()>) -> Result<Duration> {
    let begin = Instant::now();
    work().await?;
    Ok(begin.elapsed())
}
