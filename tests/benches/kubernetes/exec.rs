//! A command that does nothing, there and back.

use std::time::Instant;

use anyhow::{Result, ensure};
use kled_core::provider::ProviderExt as _;

use super::{Bench, report, timed};

const ROUNDS: usize = 30;

pub(super) async fn compare(bench: &Bench) -> Result<()> {
    let name = bench.workspace("exec").await?;
    let (mut program, mut sdk, mut kubectl) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        kubectl.push(timed(bench.kubectl(&["exec", "exec-0", "-c", "workspace", "--", "true"])).await?);
        program.push(timed(bench.kled(&["workspace", "exec", name.as_str(), "--", "true"])).await?);
        let begin = Instant::now();
        let output = bench.provider.run(&name, ["true"]).await?;
        sdk.push(begin.elapsed());
        ensure!(output.status.is_success(), "the command failed");
    }
    println!("medians of {ROUNDS} rounds");
    report("kled workspace exec / kubectl exec", &program, &kubectl, " (goal: 0.5)");
    report("exec on an open connection / kubectl exec", &sdk, &kubectl, "");
    bench.provider.delete(&name).await?;
    Ok(())
}
