//! Deleting a workspace, from any state.

use std::collections::BTreeSet;
use std::time::Duration;

use kled_core::provider::Deletion;
use kled_core::workspace::Operation;
use kled_core::{Result, WorkspaceName};

use super::engine::Objects;
use super::lifecycle::POLL;
use super::marks::{identity, object_name, of_workspace};
use super::state::Observation;
use super::{Context, Reporter};
use crate::agent::checkout::end_left_behind;

/// How long a create that was overtaken may take to notice and to clear its folder away. It looks several times in a
/// second; beyond this time it hangs, and clears its folder when it ends.
const CREATE_NOTICES: Duration = Duration::from_secs(5);

/// Which of a name's objects are to be removed: a create that begins meanwhile must keep its own.
pub(super) struct Doomed(BTreeSet<String>);

impl Doomed {
    /// All that are there now.
    pub(super) fn all(observation: &Observation) -> Self {
        let listed = observation.containers.iter().chain(&observation.volumes).map(|listed| &listed.labels);
        let labels = observation.claim.iter().chain(listed);
        Self(labels.filter_map(|labels| identity(labels)).map(Into::into).collect())
    }

    /// Those of one identity.
    pub(super) fn one(id: &str) -> Self {
        Self(BTreeSet::from([id.to_owned()]))
    }
}

impl Context {
    pub(super) async fn delete(&self, name: &WorkspaceName, reporter: &Reporter) -> Result<Deletion> {
        self.agents.forget(name);
        self.faults.at(Operation::Delete, "look").await?;
        let observation = self.observe(name).await?;
        let doomed = Doomed::all(&observation);
        let mut deletion = Deletion { existed: !observation.is_nothing(), removed: Vec::new() };
        if deletion.existed {
            reporter.say("Deleting", "removing the container and its volumes");
            self.faults.at(Operation::Delete, "remove").await?;
            self.remove(name, &doomed, &mut deletion.removed).await?;
        }
        self.faults.at(Operation::Delete, "folder").await?;
        for id in &doomed.0 {
            // What is not killed in this time holds the turn, which is waited for below.
            let _all_ended = end_left_behind(id, self.under_way.folder(), CREATE_NOTICES).await;
        }
        if !self.under_way.is_clean(name)
            && let Some(turn) = self.under_way.take_within(name, CREATE_NOTICES).await?
        {
            turn.end().await;
        }
        if deletion.existed {
            // What a create had asked the engine for before it noticed.
            self.remove(name, &doomed, &mut deletion.removed).await?;
            reporter.say("Deleted", "the workspace and its data are gone");
        }
        Ok(deletion)
    }

    /// Removes what is doomed until the engine shows none of it. The claim goes first: without it a create beside this
    /// call notices and gives up, and what is left is known to be left of a delete.
    pub(super) async fn remove(
        &self,
        name: &WorkspaceName,
        doomed: &Doomed,
        removed: &mut Vec<String>,
    ) -> Result<()> {
        self.remove_claim(name, doomed, removed).await?;
        loop {
            let mut left = 0;
            for objects in [Objects::Containers, Objects::Volumes] {
                for listed in self.engine.list(objects, &of_workspace(name)).await? {
                    if !identity(&listed.labels).is_some_and(|id| doomed.0.contains(id)) {
                        continue;
                    }
                    left += 1;
                    let kind = match objects {
                        Objects::Containers => {
                            self.engine.remove_container(&listed.name).await?;
                            "container"
                        }
                        // Its container may just be going.
                        Objects::Volumes if !self.engine.remove_volume(&listed.name).await? => continue,
                        Objects::Volumes => "volume",
                    };
                    removed.push(format!("{kind} {}", listed.name));
                }
            }
            if left == 0 {
                removed.sort_unstable();
                removed.dedup();
                return Ok(());
            }
            tokio::time::sleep(POLL / 10).await;
        }
    }

    async fn remove_claim(
        &self,
        name: &WorkspaceName,
        doomed: &Doomed,
        removed: &mut Vec<String>,
    ) -> Result<()> {
        let claim = object_name(name);
        let labels = self.engine.volume(&claim).await?;
        if labels.as_ref().and_then(|labels| identity(labels)).is_some_and(|id| doomed.0.contains(id))
            && self.engine.remove_volume(&claim).await?
        {
            removed.push(format!("volume {claim}"));
        }
        Ok(())
    }
}
