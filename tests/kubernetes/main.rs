//! Workspaces on a real node while things go wrong, and what people see of them.

mod disturbance;
mod faults;
mod objects;
mod obstacles;
mod scene;
mod transport;

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use kled_tests::agent;
use kled_tests::cluster::Cluster;
use kled_tests::suite::Suite;

/// Cases that run side by side; most of the time they wait for the kubelet.
const PARALLEL: usize = 4;

const DEADLINE: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    if let Some(failed) = objects::with_a_login() {
        return failed;
    }
    let mut suite = Suite::new("kubernetes")
        .skip_all_if(Cluster::missing().or_else(agent::missing))
        .deadline(DEADLINE)
        .after(|| async { scene::release().await });
    if let Some(threads) = NonZeroUsize::new(PARALLEL) {
        suite = suite.parallel(threads);
    }
    // Those that nothing may disturb come last: they wait for each other.
    let suite = objects::cases(obstacles::cases(suite));
    disturbance::cases(transport::cases(faults::cases(suite))).run()
}
