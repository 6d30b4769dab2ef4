//! The conformance suite on the in-memory provider and on every wrapper around it, each case a test of its own.
#![allow(missing_docs, clippy::unwrap_used)]

mod fixture;

use std::sync::Arc;
use std::time::Duration;

use fixture::{MemoryFixture, Wrap};
use kled_core::provider::conformance::{Fixture, cases};
use kled_core::provider::{DeadlineProvider, Faults, TracedProvider};
use libtest_mimic::{Arguments, Failed, Trial};

const WRAPPERS: [(&str, Wrap); 5] = [
    ("memory", |inner| Arc::new(inner)),
    ("deadline", |inner| Arc::new(DeadlineProvider::new(inner, Duration::from_secs(60)))),
    ("traced", |inner| Arc::new(TracedProvider::new(inner))),
    ("arc", |inner| Arc::new(Arc::new(inner))),
    ("box", |inner| Arc::new(Box::new(inner))),
];

fn main() {
    let arguments = Arguments::from_args();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    let runtime = Arc::new(runtime);
    let mut trials = Vec::new();
    for (wrapper, wrap) in WRAPPERS {
        let fixture: Arc<dyn Fixture> = MemoryFixture::new(wrap);
        let provider = runtime.block_on(fixture.provider(Faults::none())).unwrap();
        for case in cases() {
            let name = format!("{wrapper}::{}", case.name());
            let skipped = case.requires(&provider.capabilities_of(&fixture.spec()), fixture.as_ref()).err();
            let (fixture, runtime) = (Arc::clone(&fixture), Arc::clone(&runtime));
            let run = move || runtime.block_on(case.run(fixture)).map_err(Failed::from);
            let kind = skipped.unwrap_or_default();
            trials.push(Trial::test(name, run).with_kind(kind).with_ignored_flag(skipped.is_some()));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}
