//! The suite can fail: each of these providers breaks one promise, and the case that is for it says so.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod broken;
mod fixture;

use broken::{BrokenFixture, Flaw};
use kled_core::provider::conformance::cases;

/// A flaw, the case that has to find it, and a word of what it has to say.
const EXPECTED: &[(Flaw, &str, &str)] = &[
    (Flaw::TakesFailureForAbsence, "failure-is-not-absence", "expected unavailable"),
    (Flaw::ReusesUnderAnotherSpec, "create-other-spec-conflicts", "expected conflict"),
    (Flaw::ReusesUnderAnotherSpec, "concurrent-specs-have-one-winner", "losing spec"),
    (Flaw::LosesDataAtStart, "data-survives-stop-and-start", "after the first cycle"),
    (Flaw::LosesDataAtStart, "start-and-stop-again-succeed", "start"),
    (Flaw::LeavesSomethingAtDelete, "delete-leaves-nothing", "leftover"),
    (Flaw::LeavesSomethingAtDelete, "failed-create-is-deleted", "leftover"),
    (Flaw::SaysNothingOfWhatItRemoved, "delete-leaves-nothing", "an empty list"),
    (Flaw::IgnoresTimeouts, "deadlines-hold", "no end"),
    (Flaw::IgnoresTimeouts, "create-deadline-holds-at-each-step", "at step 1 of 4 (reserve)"),
    (Flaw::StartsAtCreate, "create-leaves-stopped", "Running"),
    (Flaw::CannotDeleteWhatIsGone, "delete-missing-succeeds", "not-found"),
    (Flaw::SplitsArguments, "arguments-are-exact", "echo of what a shell would change"),
    (Flaw::ListsNothing, "list-finds-all-and-filters", "entries of"),
    (Flaw::ListsNothing, "create-runs", "identities in the list"),
    (Flaw::IgnoresLabels, "list-finds-all-and-filters", "list with label"),
    (Flaw::RefusesWhatWasInterrupted, "failed-create-is-finished", "half-made"),
    (Flaw::RefusesWhatWasInterrupted, "killed-create-is-finished", "at step 2 of 4 (checkout)"),
    (Flaw::LeaksWhenKilled, "killed-create-is-deleted", "leftover"),
    (Flaw::DeleteWaitsForCreate, "delete-overtakes-create", "no end"),
    (Flaw::ReportsNothing, "create-reports-its-events", "none"),
    (Flaw::ReportsAtTheEnd, "events-arrive-at-once", "no end"),
    (Flaw::MisjudgesFollowedStreams, "events-can-be-followed", "an event of stop"),
    (Flaw::MisjudgesFollowedStreams, "logs-can-be-followed", "no end"),
    (Flaw::ShowsSecrets, "secrets-stay-hidden", "the secret"),
    (Flaw::CutsOutput, "large-output-is-exact", "the zeros that arrive"),
    (Flaw::CutsOutput, "large-input-is-exact", "cat"),
    (Flaw::LosesExitCodes, "exit-codes-arrive", "false"),
    (Flaw::ForgetsWithItsHandle, "state-wiped-loses-nothing", "not-found"),
    (Flaw::AcceptsWhatItDenies, "unsupported-is-said", "terminal"),
    (Flaw::RunsCommandsWhenStopped, "stopped-runs-no-commands", "expected invalid-state"),
    (Flaw::ForgetsTheEnvironment, "environment-arrives", "CONFORMANCE_REQUEST"),
    (Flaw::LeavesTheSetupOut, "set-up-is-done", "conformance-steps"),
    (Flaw::LeavesTheSetupOut, "set-up-is-told", "created from the project"),
    (Flaw::LeavesTheSetupOut, "failed-set-up-is-finished", "expected setup-failed"),
    (Flaw::LeavesTheSetupOut, "failed-set-up-is-deleted", "expected setup-failed"),
    (Flaw::LeavesTheSetupOut, "killed-set-up-is-finished", "at step 1 of 4 (reserve)"),
    (Flaw::SetsUpAtCreationAlone, "set-up-starts-at-each-start", "after 2 starts"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_flaw_is_found_by_its_case() {
    let cases = cases();
    let trials = EXPECTED.iter().map(async |(flaw, name, word)| {
        let case = cases.iter().find(|case| case.name() == *name).unwrap();
        let Err(failure) = case.run(BrokenFixture::new(*flaw)).await else {
            return Some(format!("{name} did not find {flaw:?}"));
        };
        let text = failure.to_string();
        let as_expected = text.starts_with(name) && text.contains(word) && !text.contains(fixture::SECRET);
        (!as_expected).then(|| format!("{name} found {flaw:?} otherwise: {text}"))
    });
    let wrong: Vec<_> = futures::future::join_all(trials).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
