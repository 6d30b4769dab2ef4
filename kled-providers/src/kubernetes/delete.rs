//! Deleting a workspace.

use std::time::Duration;

use kled_core::provider::Deletion;
use kled_core::workspace::Operation;
use kled_core::{Result, WorkspaceName};

use super::Context;
use super::client::Claimed;
use super::marks::{claim_name, object_name};

/// Between the request to end and the kill, for a workspace that is deleted.
const GRACE_SECONDS: u32 = 5;

/// Between two looks at what is left of a workspace whose StatefulSet is gone.
const LOOK: Duration = Duration::from_millis(250);

impl Context {
    pub(super) async fn delete(&self, name: &WorkspaceName) -> Result<Deletion> {
        self.agents.forget(name);
        self.faults.at(Operation::Delete, "look").await?;
        let mut deletion = Deletion::default();
        if let Some(claimed) = self.cluster.claimed(name).await? {
            deletion.existed = true;
            deletion.removed.push(format!("statefulset {}", object_name(name)));
            deletion.removed.push(format!("persistentvolumeclaim {} with all data", claim_name(name)));
            self.faults.at(Operation::Delete, "delete").await?;
            self.remove(&claimed).await?;
        }
        self.faults.at(Operation::Delete, "sweep").await?;
        // Left by somebody who deleted the StatefulSet alone, or by a create that was overtaken.
        loop {
            let left = self.cluster.sweep(name).await?;
            if left.is_empty() {
                return Ok(deletion);
            }
            deletion.existed = true;
            for object in left {
                if !deletion.removed.contains(&object) {
                    deletion.removed.push(object);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Removes a StatefulSet and all that belongs to it. Returns when it is gone.
    pub(super) async fn remove(&self, claimed: &Claimed) -> Result<()> {
        let name = &claimed.marks.name;
        if self.cluster.delete(claimed).await? {
            // The pod is in the way of the rest.
            self.cluster.end_pod(name, GRACE_SECONDS).await?;
        }
        self.until_gone(claimed).await
    }
}
